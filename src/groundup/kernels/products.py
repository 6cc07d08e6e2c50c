"""Matrix products of activations and weights; the one place where it is chosen what computes them."""

from __future__ import annotations

import torch
from torch import Tensor

from groundup.kernels import amx


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x `N, K` times the transpose of weight `M, K` -> `N, M`."""
    return torch.mm(x, weight.t())


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad `N, M`, x `N, K` -> the sum over N of their outer products, `M, K`, in fp32 (fp64 stays)."""
    if grad.device.type == "cpu" and amx.available(grad.dtype):
        return amx.weight_gradient(grad.contiguous(), x.contiguous())
    result = torch.mm(grad.t(), x)
    return result if result.dtype == torch.float64 else result.float()
