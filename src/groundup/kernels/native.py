"""The functions of blocks.c as Python calls on tensors. block.py and the tests are their only users.

All tensors are contiguous and on the CPU; activations are bfloat16 or fp32 throughout a call, everything else is fp32.
Shapes are those that blocks.h gives; tests/kernels/test_block.py holds them against autograd through the decoder.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from groundup.kernels.build import library

ROW_BLOCKS = 32  # as in blocks.c
_SUFFIX = {torch.bfloat16: "_bf16", torch.float32: "_float"}
_P, _N, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS: dict[str, list[Any]] = {
    "norm": [_P, _P, _P, _P, _F, _P, _P, _P, _N, _N],
    "norm_backward": [_P] * 9 + [_N, _N],
    "round": [_P, _P, _N],
    "swiglu": [_P, _P, _P, _N, _N],
    "swiglu_backward": [_P] * 5 + [_N, _N],
    "split_heads": [_P] * 5 + [_N, _P, _P, _F, _F, _P, _P, _P] + [_N] * 5,
    "join_heads": [_P] * 8 + [_N, _P, _P, _F, _F, _P, _P] + [_N] * 5,
    "softmax": [_P, _P] + [_N] * 7,
    "softmax_backward": [_P, _P, _P] + [_N] * 7,
    "heads_to_tokens": [_P, _P] + [_N] * 4,
    "tokens_to_heads": [_P, _P] + [_N] * 4,
    "target_logprobs": [_P, _P, _F, _P, _N, _N],
}


@cache
def _function(name: str, dtype: torch.dtype) -> Any:
    loaded = library("blocks")
    assert loaded is not None, "callers ask `available` first"
    function = getattr(loaded, name + _SUFFIX[dtype])
    function.argtypes, function.restype = _ARGUMENTS[name], None
    return function


def available(dtype: torch.dtype) -> bool:
    """Whether these functions can be called with activations of `dtype`."""
    return dtype in _SUFFIX and library("blocks") is not None


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Call `name` for `dtype`. Tensors go by address (None: NULL); the caller keeps them alive, as a call does."""
    _function(name, dtype)(*[a.data_ptr() if isinstance(a, Tensor) else a for a in arguments])


# ---------------------------------------------------------------- norm


def norm(x: Tensor, w: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x `N, C` (fp32) -> (w x / rms in `dtype`, 1 / rms `N`)."""
    n, c = x.shape
    y, rstd = x.new_empty(n, c, dtype=dtype), x.new_empty(n)
    call("norm", dtype, x, None, None, w, eps, None, y, rstd, n, c)
    return y, rstd


def add_norm(x: Tensor, added: Tensor, bias: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(sum = x + added + bias in fp32, w sum / rms in added's dtype, 1 / rms)."""
    n, c = x.shape
    total, y, rstd = torch.empty_like(x), torch.empty_like(added), x.new_empty(n)
    call("norm", added.dtype, x, added, bias, w, eps, total, y, rstd, n, c)
    return total, y, rstd


def add(x: Tensor, added: Tensor, bias: Tensor | None) -> Tensor:
    """x + added + bias in fp32."""
    total = torch.empty_like(x)
    call("norm", added.dtype, x, added, bias, None, 0.0, total, None, None, *x.shape)
    return total


def norm_backward(
    dy: Tensor, residual: Tensor, x: Tensor, rstd: Tensor, w: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx = residual + the norm's own, dx in dy's dtype, the norm's output again, dw)."""
    dx, rounded, y = torch.empty_like(x), torch.empty_like(dy), torch.empty_like(dy)
    parts = x.new_empty(ROW_BLOCKS, x.shape[1])
    call("norm_backward", dy.dtype, dy, residual, x, rstd, w, dx, rounded, y, parts, *x.shape)
    return dx, rounded, y, parts.sum(0)


def norm_backward_alone(dy: Tensor, x: Tensor, rstd: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """(dx, dw), where nothing reaches x past the norm."""
    dx, parts = torch.empty_like(x), x.new_empty(ROW_BLOCKS, x.shape[1])
    call("norm_backward", dy.dtype, dy, None, x, rstd, w, dx, None, None, parts, *x.shape)
    return dx, parts.sum(0)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (fp32) in `dtype`."""
    y = torch.empty_like(x, dtype=dtype)
    call("round", dtype, x, y, x.numel())
    return y


# ---------------------------------------------------------------- SwiGLU


def swiglu(gate_up: Tensor, bias: Tensor | None) -> Tensor:
    """gate_up `N, 2F` -> silu(gate) * up `N, F`."""
    n, f = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(n, f)
    call("swiglu", gate_up.dtype, gate_up, bias, out, n, f)
    return out


def swiglu_backward(gate_up: Tensor, bias: Tensor | None, d: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of gate_up, silu(gate) * up again). `d`, the gradient of the latter, is not read after that."""
    n, f = d.shape
    d_gate_up, out = torch.empty_like(gate_up), torch.empty_like(d)
    call("swiglu_backward", d.dtype, gate_up, bias, d, d_gate_up, out, n, f)
    return d_gate_up, out


# ---------------------------------------------------------------- cross entropy


def target_logprobs(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """log p(target) `N` (fp32) under softmax(logits / temperature); `logits` `N, V` become onehot(target) - p."""
    logprobs = torch.empty(len(logits), dtype=torch.float32)
    call("target_logprobs", logits.dtype, logits, targets, 1.0 / temperature, logprobs, *logits.shape)
    return logprobs
