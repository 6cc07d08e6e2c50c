"""Causal attention within documents: who may see whom, and the ways to compute it.

Who sees whom is worked out once per forward and window, for all layers (`mask_for`), in the shape that the way of
computing needs; `attend` does the computing. `choose_attention` says which way serves which device and rows.

On a CPU torch's scaled_dot_product_attention runs at a twentieth of the matrix units' rate up to about 2k keys
(guides/performance.md 0.3), so there plain batched products with a softmax in the compute dtype win. On a GPU a mask
of `B, 1, T, T` is never made for whole rows: plain causal rows take SDPA's own causal form (flash, cuDNN), packed
documents and windows the kernels of packed.py, which skip what nobody sees.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from groundup.model.functions import use_handwritten
from groundup.model.packed import Blocks, Spans, attend_blocks, attend_spans, blocks_of, has_varlen, spans_of

MATMUL_KEYS_AT_MOST = 2048

# An additive mask `B or 1, 1, T, S`; None: all is seen; "causal": what is not later; Spans, Blocks: see packed.py.
Mask = Tensor | Spans | Blocks | Literal["causal"] | None


def choose_attention(
    device_type: str,
    keys: int,
    *,
    queries: int | None = None,
    packed: bool = False,
    window: int | None = None,
    dtype: torch.dtype = torch.float32,
    head_dim: int = 64,
) -> str:
    """The one place where this is decided: `matmul`, `sdpa` (both with a dense mask), `causal`, `varlen` or `flex`.

    `queries` None or fewer than `keys`: new tokens that continue a cache, whose dense mask is small. `packed`: rows
    hold several documents, or padding.
    """
    if device_type == "cpu" and keys <= MATMUL_KEYS_AT_MOST:
        return "matmul"
    if queries != keys:
        return "sdpa"
    if not packed and (window is None or window >= keys):
        return "causal"
    if device_type != "cuda":
        return "sdpa"
    # flash attention has neither fp32 nor odd head sizes; flex is compiled for what is left
    is_for_flash = dtype in (torch.bfloat16, torch.float16) and head_dim <= 256 and head_dim % 8 == 0
    return "varlen" if is_for_flash and has_varlen() else "flex"


def mask_for(
    query_documents: Tensor | None,
    key_documents: Tensor | None,
    *,
    rows: int,
    queries: int,
    keys: int,
    window: int | None,
    dtype: torch.dtype,
    device: torch.device,
    head_dim: int,
) -> Mask:
    """Who sees whom in `rows` rows, for `attend` on this device; the rest as for `visibility`, the ids on any device.

    Ids that are on the CPU while the model is on a GPU are better: then nothing here waits for the GPU.
    """
    if queries == 1 and key_documents is None and (window is None or keys <= window):
        return None
    packed = query_documents is not None and key_documents is not None
    form = choose_attention(
        device.type, keys, queries=queries, packed=packed, window=window, dtype=dtype, head_dim=head_dim
    )
    if form == "causal":
        return "causal"
    if form in ("varlen", "flex"):
        documents = torch.zeros(rows, keys, dtype=torch.long) if key_documents is None else key_documents
        return spans_of(documents, window, device) if form == "varlen" else blocks_of(documents, window, device)
    return visibility(
        None if query_documents is None else query_documents.to(device),
        None if key_documents is None else key_documents.to(device),
        queries=queries,
        keys=keys,
        window=window,
        dtype=dtype,
        device=device,
    )


def visibility(
    query_documents: Tensor | None,
    key_documents: Tensor | None,
    *,
    queries: int,
    keys: int,
    window: int | None,
    dtype: torch.dtype,
    device: torch.device,
    first_query: int | None = None,
) -> Tensor | None:
    """The additive mask `B or 1, 1, T, S`: 0 where query t may see key s, -inf elsewhere; None where all may be seen.

    The queries are the `T` tokens from `first_query` on (None: the last `T`) of the `S` tokens. t sees s when s is not
    later, has the same document id and, with a window, lies less than `window` back. Padding (id -1) sees only padding:
    it disturbs nobody and no row is all -inf.
    """
    first = keys - queries if first_query is None else first_query
    if queries == 1 and first == keys - 1 and key_documents is None and (window is None or keys <= window):
        return None
    key_index = torch.arange(keys, device=device)
    query_index = key_index[first : first + queries, None]
    visible = key_index <= query_index
    if window is not None:
        visible = visible & (query_index - key_index < window)
    visible = visible[None, None]
    if query_documents is not None and key_documents is not None:
        visible = visible & (query_documents[:, None, :, None] == key_documents[:, None, None, :])
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, form: str | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + mask) v.

    q `B, H, T, D`; k, v `B, Hkv, S, D` (H a multiple of Hkv, query head h reads kv head h // (H / Hkv)); mask as from
    `mask_for`. Returns `B, H, T, D`. `form` forces one of the two ways that take a dense mask (tests compare them).
    """
    if isinstance(mask, Spans):
        return attend_spans(q, k, v, mask)
    if isinstance(mask, Blocks):
        return attend_blocks(q, k, v, mask)
    if isinstance(mask, str):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    form = form or choose_attention(q.device.type, k.shape[2])
    if form == "matmul":
        if not use_handwritten():
            return _matmul(q, k, v, mask)
        result: Tensor = _MatmulAttention.apply(q, k, v, mask)
        return result
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def _matmul(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """What `_MatmulAttention` computes, for torch.compile to fuse."""
    B, H, T, D = q.shape
    stacked = (q * D**-0.5).reshape(B, k.shape[1], -1, D)
    scores = (stacked @ k.transpose(2, 3)).view(B, H, T, -1)
    probabilities = torch.softmax(scores if mask is None else scores + mask, -1)
    return (probabilities.view(B, k.shape[1], -1, k.shape[2]) @ v).view(B, H, T, D)


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
