"""Causal attention within documents and windows: only the band that a query sees is computed.

Who sees whom is one number per token, `first`: query t of a row sees the keys first[t] ... t. No mask is ever made.
Queries are taken in blocks, against the keys up to the block's end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.kernels import amx, native

QUERY_BLOCK = 256


@dataclass(frozen=True)
class Rows:
    """What the blocks need to know about a batch's rows."""

    first: Tensor  # B, T, int32: the first key that each query sees
    positions: Tensor  # 1 or B, T, int64
    cos: Tensor  # positions, D, fp32: tables as RotaryTable keeps them
    sin: Tensor


def first_visible(document_ids: Tensor | None, batch: int, tokens: int, window: int | None) -> Tensor | None:
    """`B, T` int32: the first key that each query sees, or None where a document is not in one piece.

    document_ids `B, T` as for the decoder; padding (-1) sees the padding beside it.
    """
    index = torch.arange(tokens)[None]
    first = torch.zeros(batch, tokens, dtype=torch.long)
    if document_ids is not None:
        is_start = torch.zeros_like(document_ids, dtype=torch.bool)
        is_start[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
        first = torch.where(is_start, index, 0).cummax(1).values
        is_start[:, 0] = True
        row, column = torch.nonzero(is_start & (document_ids >= 0), as_tuple=True)
        pieces = torch.stack((row, document_ids[row, column]), 1)
        if len(torch.unique(pieces, dim=0)) < len(pieces):
            return None
    if window is not None:
        first = torch.maximum(first, index - window + 1)
    return first.to(torch.int32).contiguous()


def choose_kernel(dtype: torch.dtype, head_dim: int) -> str:
    """`tiles` (amx.c: nothing of size T x T is ever made) or `products` (of torch, blocks of scores between them)."""
    return "tiles" if amx.available(dtype) and amx.takes_heads_of(head_dim) else "products"


def attention(q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """q `B, Hkv, T, G, D` (scaled), k, v `B, Hkv, T, D` -> (`B T, H D`, what `attention_backward` needs)."""
    if choose_kernel(q.dtype, q.shape[-1]) == "tiles":
        return amx.attention(q, k, v, rows.first)
    return _attention(q, k, v, rows)


def _attention(q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    batch, kv, t, g, d = q.shape
    q3, k3, v3 = q.view(batch * kv, t * g, d), k.view(-1, t, d), v.view(-1, t, d)
    out = torch.empty_like(q3)
    kept = q.new_empty(_kept_size(batch * kv, t, g))
    offset = 0
    for start in range(0, t, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, t)
        p = kept[offset : offset + batch * kv * (end - start) * g * end].view(batch * kv, -1, end)
        offset += p.numel()
        torch.bmm(q3[:, start * g : end * g], k3[:, :end].transpose(1, 2), out=p)
        native.call("softmax", q.dtype, p, rows.first, batch, t, kv, g, start, end - start, end)
        if start == 0 and end == t:
            torch.bmm(p, v3, out=out)
        else:
            out[:, start * g : end * g] = torch.bmm(p, v3[:, :end])
    tokens = q.new_empty(batch * t, kv * g * d)
    native.call("heads_to_tokens", q.dtype, out, tokens, batch, t, kv, g * d)
    return tokens, kept


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, kept: Tensor, rows: Rows
) -> tuple[Tensor, Tensor, Tensor]:
    """grad `B T, H D` -> gradients of q, k, v, in their shapes."""
    if choose_kernel(q.dtype, q.shape[-1]) == "tiles":
        return amx.attention_backward(grad, q, k, v, out, kept, rows.first)
    return _attention_backward(grad, q, k, v, kept, rows)


def _attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor, rows: Rows
) -> tuple[Tensor, Tensor, Tensor]:
    batch, kv, t, g, d = q.shape
    q3, k3, v3 = q.view(batch * kv, t * g, d), k.view(-1, t, d), v.view(-1, t, d)
    grad3 = torch.empty_like(q3)
    native.call("tokens_to_heads", q.dtype, grad, grad3, batch, t, kv, g * d)
    dq, dk, dv = torch.empty_like(q3), torch.zeros_like(k3), torch.zeros_like(v3)
    offset = 0
    for start in range(0, t, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, t)
        part = slice(start * g, end * g)
        p = kept[offset : offset + batch * kv * (end - start) * g * end].view(batch * kv, -1, end)
        offset += p.numel()
        dv[:, :end] += torch.bmm(p.transpose(1, 2), grad3[:, part])
        ds = torch.bmm(grad3[:, part], v3[:, :end].transpose(1, 2))
        native.call("softmax_backward", q.dtype, p, ds, rows.first, batch, t, kv, g, start, end - start, end)
        dq[:, part] = torch.bmm(ds, k3[:, :end])
        dk[:, :end] += torch.bmm(ds.transpose(1, 2), q3[:, part])
    return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape)


def _kept_size(matrices: int, t: int, g: int) -> int:
    ends = [min(start + QUERY_BLOCK, t) for start in range(0, t, QUERY_BLOCK)]
    return sum(matrices * (end - start) * g * end for start, end in zip(range(0, t, QUERY_BLOCK), ends, strict=True))
