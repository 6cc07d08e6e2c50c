"""ctypes binding of decode.c: a whole decoder from token ids to logits in one native call.

This file knows memory layouts and nothing of the model's classes; model/native_decode.py fills it in.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.kernels.build import library, why_absent

KINDS = {"float32": 0, "bfloat16": 1, "int8": 2}
PANEL = 16  # outputs that lie together
INPUTS_ALIGN = 64


class Matrix(ctypes.Structure):
    """A packed weight matrix; see decode_products.h."""

    _fields_ = (
        ("outputs", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        ("qkv", Matrix),
        ("out", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("attention_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        ("q_norm", ctypes.c_void_p),
        ("k_norm", ctypes.c_void_p),
        ("window", ctypes.c_int32),
        ("uses_rope", ctypes.c_int32),
    )


class DecoderShape(ctypes.Structure):
    """`decoder` of decode.c."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "layers", "hidden", "heads", "kv_heads", "head_dim")),
        ("intermediate", ctypes.c_int32),
        ("vocab", ctypes.c_int32),
        ("eps", ctypes.c_float),
        ("uses_tiles", ctypes.c_int32),
        ("layer", ctypes.POINTER(Layer)),
        ("embedding", ctypes.c_void_p),
        ("norm", ctypes.c_void_p),
        ("head", Matrix),
    )


class Call(ctypes.Structure):
    """`call` of decode.c."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("tokens", "wanted", "threads", "slots", "capacity", "positions")),
        *((name, ctypes.c_void_p) for name in ("ids", "slot", "position", "wanted_tokens", "cos", "sin")),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "logits", "workspace")),
    )


@cache
def decode_library() -> ctypes.CDLL | None:
    """decode.c, built and loaded; None where that cannot be (`why_no_decode`)."""
    found = library("decode")
    if found is not None:
        found.decode_forward.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        found.decode_workspace.argtypes = [ctypes.c_void_p, *[ctypes.c_int] * 4]
        found.decode_workspace.restype = ctypes.c_size_t
    return found


def why_no_decode() -> str | None:
    return why_absent("decode")


@cache
def uses_tiles() -> bool:
    """Whether this process multiplies with AMX tiles."""
    found = decode_library()
    return found is not None and bool(found.decode_allow_tiles())


def is_fast(kind: str) -> bool:
    """Whether decode.c is there, built with the instructions that make it faster than torch for weights of a kind."""
    found = decode_library()
    if found is None:
        return False
    avx512, avx512_bf16, avx512_vnni, _ = (bool(found.decode_instructions() & bit) for bit in (1, 2, 4, 8))
    return {
        "float32": avx512,
        "bfloat16": avx512 and (avx512_bf16 or uses_tiles()),
        "int8": avx512 and (avx512_vnni or uses_tiles()),
    }[kind]


def pack(weight: Tensor, kind: str, bias: Tensor | None = None) -> tuple[Matrix, list[Tensor]]:
    """`weight` (outputs x inputs) in panels of 16 outputs, and the tensors that must live as long as the `Matrix`."""
    outputs, inputs = weight.shape
    pad = (0, -inputs % INPUTS_ALIGN, 0, -outputs % PANEL)
    kept: dict[str, Tensor] = {}
    if kind == "int8":
        rounded, scale = quantise_rows(weight)
        rounded = F.pad(rounded, pad)
        kept["sums"] = rounded.sum(1, dtype=torch.int32)
        kept["scale"] = F.pad(scale, (0, pad[3]))
        words = rounded.view(torch.int32)
    else:
        words = F.pad(weight.to(getattr(torch, kind)), pad).contiguous().view(torch.int32)
    # 4 bytes of each of 16 outputs side by side: one 64-byte line
    kept["data"] = words.view(-1, PANEL, words.shape[1]).transpose(1, 2).contiguous()
    if bias is not None:
        kept["bias"] = F.pad(bias.float(), (0, pad[3])).contiguous()
    addresses = {name: tensor.data_ptr() for name, tensor in kept.items()}
    return Matrix(outputs, inputs, **addresses), list(kept.values())


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with one scale per output row: (int8 `N, K`, fp32 `N`) with weight ~ int8 * scale."""
    scale = weight.abs().amax(1).float() / 127
    divisor = torch.where(scale > 0, scale, 1)[:, None]
    return torch.round(weight / divisor).clamp_(-127, 127).to(torch.int8).contiguous(), scale
