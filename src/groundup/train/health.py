"""What a run looks at before it changes a weight."""

from __future__ import annotations

import resource
import sys

import torch
from torch import Tensor, nn

from groundup.errors import EXIT_FAILED, UserError
from groundup.train.optim import trained_parameters


def check_finite(model: nn.Module, *, step: int, loss: float, grad_norm: float, lr: float) -> None:
    """Stop before the update when the loss or the gradient is not finite. The weights stay those of `step - 1`."""
    if _is_finite(loss) and _is_finite(grad_norm):
        return
    culprit = first_non_finite(model)
    where = f"; first in {culprit}" if culprit else ""
    what = f"the loss is {loss}" if not _is_finite(loss) else f"the gradient is not finite (norm {grad_norm}{where})"
    raise UserError(
        f"step {step}: {what}; stopped before the update, the weights are still those of step {step - 1}",
        where=culprit or "",
        fix=f"lower learning_rate (now {lr:.3g}) or max_grad_norm, warm up for longer, or look at this step's data",
        exit_code=EXIT_FAILED,
    )


def first_non_finite(model: nn.Module) -> str | None:
    """Name of the first trained parameter whose value or gradient is not finite, in the model's own order."""
    for name, parameter in trained_parameters(model).items():
        if not _all_finite(parameter) or (parameter.grad is not None and not _all_finite(parameter.grad)):
            return name
    return None


def _all_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def peak_memory_bytes() -> int:
    """Most memory this process has held (the GPU's where one is used)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
