"""Attention over rows that hold several documents, or look back a window only, without a mask of every pair of tokens.

A document is a run of equal ids, so what token t sees is an interval of its row: from the start of its document (or the
window's edge) up to itself. Two kernels skip everything outside it: flash attention over sequences of any length
(`Spans`: where they start in the flattened batch), and flex attention, which is compiled, over blocks of 128 x 128
tokens (`Blocks`). Both are worked out from the document ids where these are: on the CPU, while the GPU is busy.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from groundup.model.device import send

BLOCK = 128  # tokens on a side of flex attention's blocks
FLASH_CAPABILITY = (8, 0)  # NVIDIA Ampere


# ---------------------------------------------------------------- sequences of any length


class Spans(NamedTuple):
    """The documents of a batch whose rows are laid end to end: document n is tokens `starts[n]` to `starts[n + 1]`."""

    starts: Tensor  # N + 1, int32, from 0 to B * T
    longest: int  # tokens in the longest document
    window: int | None


def spans_of(document_ids: Tensor, window: int | None, device: torch.device | str) -> Spans:
    """Every run of equal ids of `B, T`. Padding (-1) is a document too: it sees itself and disturbs nobody."""
    B, T = document_ids.shape
    is_start = torch.ones(B, T, dtype=torch.bool, device=document_ids.device)
    is_start[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    starts = F.pad(is_start.flatten().nonzero().squeeze(1), (0, 1), value=B * T)
    return Spans(send(starts.int(), device), int(starts.diff().max()), window)


@cache
def has_varlen() -> bool:
    """Whether this torch and this GPU have flash attention over sequences of any length (torch 2.11, Ampere)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "window_size" in inspect.signature(varlen_attn).parameters and is_ampere()


def is_ampere() -> bool:
    return torch.cuda.get_device_capability() >= FLASH_CAPABILITY


def varlen(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, window: tuple[int, int]) -> Tensor:
    """torch's kernel. q `N, H, D`; k, v `N, Hkv, D`. A token sees itself and `window[0]` tokens before it (-1: all)."""
    from torch.nn.attention.varlen import varlen_attn

    grouped = q.shape[1] != k.shape[1]
    out = varlen_attn(q, k, v, starts, starts, longest, longest, window_size=window, enable_gqa=grouped)
    assert isinstance(out, Tensor)
    return out


def attend_spans(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    """Attention of `B, H, T, D` within the spans, as `attention.attend`."""
    B, H, T, D = q.shape
    # the projections' own layout is B, T, H, D: turned back, the heads are where flash attention wants them, uncopied
    flat = [x.transpose(1, 2).reshape(B * T, -1, D) for x in (q, k, v)]
    back = -1 if spans.window is None else spans.window - 1  # the kernel does not count the token itself
    out = varlen(flat[0], flat[1], flat[2], spans.starts, spans.longest, (back, 0))
    return out.view(B, T, H, D).transpose(1, 2)


# ---------------------------------------------------------------- blocks


def first_visible(document_ids: Tensor, window: int | None) -> Tensor:
    """For each token of `B, T`, the first position of its row that it sees. Never falls along a row."""
    index = torch.arange(document_ids.shape[1], device=document_ids.device)[None]
    starts = torch.zeros_like(document_ids)
    starts[:, 1:] = torch.where(document_ids[:, 1:] != document_ids[:, :-1], index[:, 1:], 0)
    first = starts.cummax(dim=1).values
    return first if window is None else torch.maximum(first, index - window + 1)


class Blocks(NamedTuple):
    """What flex attention needs. Its module is imported where it is used: that takes a second."""

    mask: Any  # torch.nn.attention.flex_attention.BlockMask


def blocks_of(document_ids: Tensor, window: int | None, device: torch.device | str) -> Blocks:
    """Which blocks of keys a block of queries looks at, and which of them it sees whole. Never makes `T, T` values."""
    from torch.nn.attention.flex_attention import BlockMask

    T = document_ids.shape[1]
    first = first_visible(document_ids, window)  # B, T
    blocks = -(-T // BLOCK)
    begin = torch.arange(blocks, device=first.device) * BLOCK
    end = (begin + BLOCK - 1).clamp(max=T - 1)
    lowest, highest = first[:, begin, None], first[:, end, None]  # B, query blocks, 1: `first` never falls
    is_seen = (end >= lowest) & (begin <= end[:, None])
    is_cut_off = (begin[:, None] + BLOCK > T) | (begin + BLOCK > T)  # a block that ends behind the row
    is_whole = is_seen & (begin >= highest) & (end <= begin[:, None]) & ~is_cut_off
    first = send(first, device)

    def sees(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:  # noqa: ARG001 (heads see the same)
        return (s <= t) & (s >= first[b, t])

    def listed(kept: Tensor) -> tuple[Tensor, Tensor]:
        """How many blocks of keys each block of queries has, and their numbers, those first."""
        numbers = (~kept).int().argsort(dim=-1, stable=True)
        return send(kept.sum(-1).int()[:, None], device), send(numbers.int()[:, None], device)

    partly, whole = listed(is_seen & ~is_whole), listed(is_whole)
    return Blocks(BlockMask.from_kv_blocks(*partly, *whole, BLOCK, sees, (T, T)))


@cache
def _compiled_flex() -> Any:
    """Uncompiled, flex attention would make the scores of all pairs."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, blocks: Blocks) -> Tensor:
    """Attention of `B, H, T, D` where the mask allows it, as `attention.attend`."""
    from torch.nn.attention.flex_attention import flex_attention

    is_plain = torch.compiler.is_compiling() or q.device.type == "cpu"
    function = flex_attention if is_plain else _compiled_flex()
    out: Tensor = function(q, k, v, block_mask=blocks.mask, enable_gqa=q.shape[1] != k.shape[1])
    return out
