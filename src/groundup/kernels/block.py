"""One decoder block, forward and backward, as matrix products of torch with the passes of blocks.c between them.

    y = block(x, weights, shape, rows, torch.bfloat16)          # fp32 `B, T, C` -> fp32 `B, T, C`

What autograd does in some sixty passes over memory takes a dozen here, and what the backward pass needs and can cheaply
have again (norms, SwiGLU) is not kept. The residual stream and its gradient are fp32, products run in `dtype`, and
everything between two products is computed in fp32 and rounded once. The readable form of all this is
`model/decoder.py`'s Block; tests/kernels checks every gradient against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from groundup.kernels import native
from groundup.kernels.attention import Rows, attention, attention_backward
from groundup.kernels.packing import packed
from groundup.kernels.products import product, weight_gradient


class Weights(NamedTuple):
    """A block's parameters; a bias or q/k norm that the model does not have is None."""

    input_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    post_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    o_bias: Tensor | None = None
    gate_bias: Tensor | None = None
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


@dataclass(frozen=True)
class Shape:
    """What a block is beside its weights."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    uses_rope: bool


def block(x: Tensor, weights: Weights, shape: Shape, rows: Rows, dtype: torch.dtype) -> Tensor:
    """The block's output `B, T, C` in fp32, of x `B, T, C`. Products run in `dtype` (bfloat16 or fp32)."""
    result: Tensor = _Block.apply(x.float(), shape, rows, dtype, *weights)
    return result


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Shape, rows: Rows, dtype: torch.dtype, *weights: Tensor | None) -> Tensor:
        w = Weights(*weights)  # type: ignore[arg-type]
        x0 = x.detach().reshape(-1, x.shape[-1]).contiguous()
        qkv_bias, gate_up_bias = _joined(w.q_bias, w.k_bias, w.v_bias), _joined(w.gate_bias, w.up_bias)

        h, rstd_0 = native.norm(x0, _wide(w.input_norm), shape.eps, dtype)
        qkv = product(h, packed(dtype, w.q, w.k, w.v))
        q, k, v = split_heads(qkv, qkv_bias, w, shape, rows)
        del h
        out, kept = attention(q, k, v, rows)
        x1, h, rstd_1 = native.add_norm(
            x0, product(out, packed(dtype, w.o)), _optional(w.o_bias), _wide(w.post_norm), shape.eps
        )
        gate_up = product(h, packed(dtype, w.gate, w.up))
        down = product(native.swiglu(gate_up, gate_up_bias), packed(dtype, w.down))
        y = native.add(x1, down, _optional(w.down_bias))

        raw = qkv if w.q_norm is not None else None
        ctx.save_for_backward(x0, rstd_0, x1, rstd_1, q, k, v, out, kept, gate_up, raw, *weights)
        ctx.shape, ctx.rows, ctx.dtype = shape, rows, dtype
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x0, rstd_0, x1, rstd_1, q, k, v, out, kept, gate_up, raw, *weights = ctx.saved_tensors
        shape, rows, dtype, w = ctx.shape, ctx.rows, ctx.dtype, Weights(*weights)
        needs = Weights(*ctx.needs_input_grad[4:])
        gate_up_bias = _joined(w.gate_bias, w.up_bias)
        grads: dict[str, Tensor | None] = {}

        dy = grad.reshape(x0.shape).contiguous()
        d_down = native.rounded(dy, dtype)
        d_gate_up, hidden = native.swiglu_backward(gate_up, gate_up_bias, product(d_down, packed(dtype, w.down).t()))
        grads["down"] = weight_gradient(d_down, hidden) if needs.down else None
        grads["down_bias"] = dy.sum(0) if needs.down_bias else None
        del hidden
        dh = product(d_gate_up, packed(dtype, w.gate, w.up).t())
        d_x1, d_o, h, grads["post_norm"] = native.norm_backward(dh, dy, x1, rstd_1, _wide(w.post_norm))
        if needs.gate or needs.up:
            grads["gate"], grads["up"] = weight_gradient(d_gate_up, h).split([len(w.gate), len(w.up)])
        if needs.gate_bias or needs.up_bias:
            grads["gate_bias"], grads["up_bias"] = _column_sums(d_gate_up).split([len(w.gate), len(w.up)])
        del d_gate_up, h, dh, dy

        grads["o"] = weight_gradient(d_o, out) if needs.o else None
        grads["o_bias"] = d_x1.sum(0) if needs.o_bias else None
        dq, dk, dv = attention_backward(product(d_o, packed(dtype, w.o).t()), q, k, v, out, kept, rows)
        dqkv, grads["q_norm"], grads["k_norm"] = join_heads(dq, dk, dv, raw, w, shape, rows)
        del dq, dk, dv
        dh = product(dqkv, packed(dtype, w.q, w.k, w.v).t())
        dx, _, h, grads["input_norm"] = native.norm_backward(dh, d_x1, x0, rstd_0, _wide(w.input_norm))
        sizes = [len(w.q), len(w.k), len(w.v)]
        if needs.q or needs.k or needs.v:
            grads["q"], grads["k"], grads["v"] = weight_gradient(dqkv, h).split(sizes)
        if needs.q_bias or needs.k_bias or needs.v_bias:
            grads["q_bias"], grads["k_bias"], grads["v_bias"] = _column_sums(dqkv).split(sizes)

        named = ((grads.get(name), weight) for name, weight in zip(Weights._fields, weights, strict=True))
        asked = [
            None if g is None or not need else g.to(weight.dtype)
            for (g, weight), need in zip(named, needs, strict=True)
        ]
        return dx.view(grad.shape), None, None, None, *asked


def split_heads(
    qkv: Tensor, bias: Tensor | None, w: Weights, shape: Shape, rows: Rows
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv `N, (H + 2 Hkv) D` -> q `B, Hkv, T, G, D` (normed, rotated, scaled by 1/sqrt(D)), k, v `B, Hkv, T, D`."""
    (batch, t), kv, d = rows.first.shape, shape.kv_heads, shape.head_dim
    g = shape.heads // kv
    q, k, v = qkv.new_empty(batch, kv, t, g, d), qkv.new_empty(batch, kv, t, d), qkv.new_empty(batch, kv, t, d)
    native.call(
        "split_heads", qkv.dtype, qkv, bias, *_rotation(shape, rows), _optional(w.q_norm), _optional(w.k_norm),
        shape.eps, d**-0.5, q, k, v, batch, t, kv, g, d,
    )  # fmt: skip
    return q, k, v


def join_heads(
    dq: Tensor, dk: Tensor, dv: Tensor, qkv: Tensor | None, w: Weights, shape: Shape, rows: Rows
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradient of `split_heads`: (dqkv, dw of q_norm, dw of k_norm)."""
    batch, kv, t, g, d = dq.shape
    dqkv = dq.new_empty(batch * t, (g + 2) * kv * d)
    parts = None if w.q_norm is None else torch.empty(native.ROW_BLOCKS, 2 * d)
    bias = None if qkv is None else _joined(w.q_bias, w.k_bias, w.v_bias)
    native.call(
        "join_heads", dq.dtype, dq, dk, dv, qkv, bias, *_rotation(shape, rows), _optional(w.q_norm),
        _optional(w.k_norm), shape.eps, d**-0.5, dqkv, parts, batch, t, kv, g, d,
    )  # fmt: skip
    if parts is None:
        return dqkv, None, None
    return dqkv, *parts.sum(0).split(d)


def _rotation(shape: Shape, rows: Rows) -> tuple[Tensor | None, Tensor | None, Tensor, int]:
    cos, sin = (rows.cos, rows.sin) if shape.uses_rope else (None, None)
    return cos, sin, rows.positions, int(len(rows.positions) > 1)


def _wide(weight: Tensor) -> Tensor:
    return weight.detach().float().contiguous()


def _optional(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else _wide(weight)


def _joined(*biases: Tensor | None) -> Tensor | None:
    found = [bias.detach().float() for bias in biases if bias is not None]
    return torch.cat(found) if found else None


def _column_sums(x: Tensor) -> Tensor:
    return x.sum(0, dtype=torch.float32)
