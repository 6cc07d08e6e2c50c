"""Which device a model is on, and how tensors get there."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from groundup.errors import UserError


def choose_device(wanted: str = "auto") -> str:
    """`cpu`, `cuda` (`cuda:N` for process N of torchrun on this machine) or `mps`, from a recipe's `device`.

    auto: an NVIDIA or AMD GPU where torch sees one, else the CPU. UserError where what is wanted is not there.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda":
        _require_cuda()
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        gpus = torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(
                f"process {local_rank} of this machine has no GPU of its own: {gpus} are visible",
                where="device: cuda",
                fix=f"start {gpus} processes here (torchrun --nproc_per_node {gpus}), or look at CUDA_VISIBLE_DEVICES",
            )
        return f"cuda:{local_rank}" if "LOCAL_RANK" in os.environ else "cuda"
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            "torch sees no Apple GPU here",
            where="device: mps",
            fix="set device: auto, or use a Mac with Apple silicon and torch's macOS build",
        )
    return wanted


def _require_cuda() -> None:
    if torch.cuda.is_available():
        return
    build = torch.version.cuda or torch.version.hip
    why = (
        f"this torch ({torch.__version__}) is a build without CUDA"
        if build is None
        else f"this torch is built for {'CUDA' if torch.version.cuda else 'ROCm'} {build}, but no GPU answers"
    )
    fix = (
        "run `./groundup` on a machine with a GPU: it installs the build that fits"
        if build is None
        else "look at `nvidia-smi`, the driver's version and CUDA_VISIBLE_DEVICES"
    )
    raise UserError(f"{why}, so it cannot train on a GPU", where="device: cuda", fix=f"{fix}; or set device: auto")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lies."""
    return next(model.parameters()).device


def place(model: nn.Module, device: str) -> None:
    """Move a model in place; one that is there, or has no values yet (on the meta device), stays as it is."""
    if device_of(model).type not in ("meta", torch.device(device).type):
        model.to(device)


def send(value: Tensor, device: torch.device | str) -> Tensor:
    """To the device without waiting for it: from pinned memory where it comes from the CPU."""
    device = torch.device(device)
    if value.device.type == device.type:
        return value
    if device.type == "cuda" and value.device.type == "cpu":
        return pinned(value).to(device, non_blocking=True)
    return value.to(device)


def pinned(value: Tensor) -> Tensor:
    """A copy in memory that the GPU reads by itself."""
    return value.pin_memory()
