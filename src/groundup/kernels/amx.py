"""The functions of amx.c as Python calls: products on an Intel processor's matrix units, in bfloat16."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from groundup.kernels.build import library

LARGEST_HEAD = 128
_P, _N = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS: dict[str, list[Any]] = {
    "weight_gradient": [_P] * 3 + [_N] * 3,
    "attention": [_P] * 6 + [_N] * 5,
    "attention_backward": [_P] * 10 + [_N] * 5,
}


@cache
def _library() -> ctypes.CDLL | None:
    """None where there is no compiler, or no such processor."""
    loaded = library("amx")
    if loaded is None or not loaded.amx_ready():
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, None
    return loaded


def available(dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 and _library() is not None


def takes_heads_of(head_dim: int) -> bool:
    return head_dim % 32 == 0 and head_dim <= LARGEST_HEAD


def _call(name: str, *arguments: Tensor | int) -> None:
    getattr(_library(), name)(*[a.data_ptr() if isinstance(a, Tensor) else a for a in arguments])


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad `N, M`, x `N, K` (contiguous) -> grad^T x `M, K`, summed and given in fp32."""
    out = grad.new_empty(grad.shape[1], x.shape[1], dtype=torch.float32)
    _call("weight_gradient", grad, x, out, *grad.shape, x.shape[1])
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """q `B, Hkv, T, G, D` (scaled), k, v `B, Hkv, T, D` -> (`B T, H D`, log of the sums of exponentials, fp32)."""
    batch, kv, t, g, d = q.shape
    out, log_sums = q.new_empty(batch * t, kv * g * d), q.new_empty(batch, kv, t, g, dtype=torch.float32)
    _call("attention", q, k, v, first, out, log_sums, *q.shape)
    return out, log_sums


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sums: Tensor, first: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """grad `B T, H D` -> gradients of q, k, v."""
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    _call("attention_backward", grad, q, k, v, out, log_sums, first, dq, dk, dv, *q.shape)
    return dq, dk, dv
