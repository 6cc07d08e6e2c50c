"""RMSNorm and the rotary rotation with their backward passes written by hand.

Autograd would run each as five to ten passes over fp32 activations; these take two or three in the compute dtype, which
on a CPU is a fifth of a small model's training step. Same formulas, checked against autograd in the tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from groundup.kernels import native

NATIVE_NUMBERS_AT_LEAST = 1 << 16


def use_handwritten() -> bool:
    """Whether the backward passes written by hand are used: not where torch.compile fuses the plain formulas itself."""
    return not torch.compiler.is_compiling()


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension (arXiv:1910.07467).

    The mean is taken in fp32 whatever x is; the result, rounded before the weight as in Llama, comes in `dtype`.
    """
    if not use_handwritten():
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(dtype) * weight.to(dtype)
    function = _NativeRMSNorm if _use_native_norm(x, dtype) else _RMSNorm
    result: Tensor = function.apply(x, weight, eps, dtype)
    return result


def _use_native_norm(x: Tensor, dtype: torch.dtype) -> bool:
    """Large activations in fp32 on a CPU; for a few tokens the call costs more than it saves."""
    is_large = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() >= NATIVE_NUMBERS_AT_LEAST
    return is_large and native.available(dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.rsqrt(norm.square_().div_(x.shape[-1]).add_(eps))
        normal = (x * scale).to(dtype)
        ctx.save_for_backward(normal, scale, weight)
        ctx.x_dtype = x.dtype
        return normal * weight.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        normal, scale, weight = ctx.saved_tensors
        w = weight.to(grad.dtype)
        product = grad * normal
        grad_weight = product.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad_x = None
        if ctx.needs_input_grad[0]:  # (w grad - normal * mean(w grad normal)) / rms
            mean = torch.mv(product.flatten(0, -2), w).div_(w.numel()).view(scale.shape)
            grad_x = (torch.addcmul(grad * w, normal, mean, value=-1) * scale).to(ctx.x_dtype)
        return grad_x, grad_weight, None, None


class _NativeRMSNorm(torch.autograd.Function):
    """The same by the kernels of kernels/blocks.c, in one pass each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        flat = x.detach().reshape(-1, x.shape[-1]).contiguous()
        y, rstd = native.norm(flat, weight.detach().float(), eps, dtype)
        ctx.save_for_backward(flat, rstd, weight)
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, rstd, weight = ctx.saved_tensors
        dx, dw = native.norm_backward_alone(grad.reshape(x.shape).contiguous(), x, rstd, weight.detach().float())
        return dx.view(grad.shape), dw.to(weight.dtype), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads `B, H, T, D` by `cos` and `sin` `B or 1, 1, T, D`, as `RotaryTable.at` gives them."""
    if not use_handwritten():
        return x * cos + _swapped(x) * sin
    result: Tensor = _Rotate.apply(x, cos, sin)
    return result


class _Rotate(torch.autograd.Function):
    """x cos + swapped(x) sin, where the halves are swapped and `sin` is negative in its first half.

    The rotation by the opposite angle is its own transpose, so backward is the same with -sin.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.mul(x, cos).addcmul_(_swapped(x), sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return torch.mul(grad, cos).addcmul_(_swapped(grad), sin, value=-1), None, None


def _swapped(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((b, a), dim=-1)
