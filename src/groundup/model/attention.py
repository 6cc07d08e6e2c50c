"""Causal attention within documents: who may see whom, and the two ways to compute it.

`visibility` makes one additive mask per forward; all layers share it. `attend` picks between two forms of the same
function. On a CPU torch's scaled_dot_product_attention runs at a twentieth of the matrix units' rate up to about 2k
keys (guides/performance.md 0.3), so there plain batched products with a softmax in the compute dtype win; everywhere
else, and for long sequences where `T x T` scores would not fit, SDPA is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MATMUL_KEYS_AT_MOST = 2048


def choose_attention(device_type: str, keys: int) -> str:
    """`matmul` or `sdpa`: the one place where this is decided."""
    return "matmul" if device_type == "cpu" and keys <= MATMUL_KEYS_AT_MOST else "sdpa"


def visibility(
    query_documents: Tensor | None,
    key_documents: Tensor | None,
    *,
    queries: int,
    keys: int,
    window: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor | None:
    """The additive mask `B or 1, 1, T, S`: 0 where query t may see key s, -inf elsewhere; None where all may be seen.

    The queries are the last `T` of the `S` tokens. t sees s when s is not later, has the same document id and, with a
    window, lies less than `window` back. Padding (id -1) sees only padding: it disturbs nobody and no row is all -inf.
    """
    if queries == 1 and key_documents is None and (window is None or keys <= window):
        return None
    key_index = torch.arange(keys, device=device)
    query_index = key_index[keys - queries :, None]
    visible = key_index <= query_index
    if window is not None:
        visible = visible & (query_index - key_index < window)
    visible = visible[None, None]
    if query_documents is not None and key_documents is not None:
        visible = visible & (query_documents[:, None, :, None] == key_documents[:, None, None, :])
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, form: str | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + mask) v.

    q `B, H, T, D`; k, v `B, Hkv, S, D` (H a multiple of Hkv, query head h reads kv head h // (H / Hkv)); mask as from
    `visibility`. Returns `B, H, T, D`. `form` forces one of the two ways (tests compare them).
    """
    form = form or choose_attention(q.device.type, k.shape[2])
    if form == "matmul":
        result: Tensor = _MatmulAttention.apply(q, k, v, mask)
        return result
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


class _MatmulAttention(torch.autograd.Function):
    """Two batched products around a softmax, the query heads of one kv head stacked as rows: k and v are not repeated.

    The product adds to the mask instead of being masked afterwards, and only the probabilities are kept for backward.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        batch, heads, queries, dim = q.shape
        keys = k.shape[2]
        q3 = torch.mul(q, dim**-0.5, out=q.new_empty(q.shape)).view(batch * k.shape[1], -1, dim)
        k3, v3 = k.reshape(-1, keys, dim), v.reshape(-1, keys, dim)
        if mask is None:
            scores = torch.bmm(q3, k3.transpose(1, 2))
        else:
            scores = q.new_empty(batch, heads, queries, keys).copy_(mask).view(len(q3), -1, keys)
            scores.baddbmm_(q3, k3.transpose(1, 2))
        probabilities = torch.softmax(scores, -1, out=scores)
        ctx.save_for_backward(q3, k3, v3, probabilities)
        ctx.shapes = q.shape, k.shape
        return torch.bmm(probabilities, v3).view(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q3, k3, v3, probabilities = ctx.saved_tensors
        q_shape, k_shape = ctx.shapes
        grad3 = grad.reshape(q3.shape)
        grad_v = torch.bmm(probabilities.transpose(1, 2), grad3)
        grad_p = torch.bmm(grad3, v3.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_p, probabilities, -1, grad_p.dtype)
        grad_q = torch.bmm(grad_scores, k3).mul_(q3.shape[-1] ** -0.5).view(q_shape)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q3).view(k_shape)
        return grad_q, grad_k, grad_v.view(k_shape), None
