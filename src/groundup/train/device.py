"""Which device a stage trains on, and how batches get there.

A GPU works through a queue: Python only waits for it where a number is asked for. So everything that decides a shape or
a choice (document ids, weights, masks) stays on the CPU, where objectives look at it freely; all else is sent from
pinned memory; sums stay on the device until a step is done.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from groundup.errors import UserError
from groundup.model.packed import send
from groundup.train.precision import prepare_processor

# Of a micro-batch: what decides how many tokens are looked at, and which. The model takes it from there.
STAYS_ON_CPU = frozenset({"document_ids", "weights", "mask"})


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


def prepare_device(device: str, dtype: str) -> None:
    """Once, before the first step: memory and products as they are fastest here.

    On a GPU, blocks of memory may grow (`expandable_segments`), so that rows of changing length leave no holes; fp32
    products take TF32 where the run computes in bfloat16 anyway, and stay exact where it was told not to.
    """
    if not device.startswith("cuda"):
        prepare_processor()
        return
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"  # read when the first tensor is made there
    torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high" if dtype == "bfloat16" else "highest")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lies."""
    return next(model.parameters()).device


def place(model: nn.Module, device: str) -> None:
    """Move a model in place; one that has no values yet (on the meta device) stays as it is."""
    if device_of(model).type != "meta":
        model.to(device)


def to_device(value: Any, device: torch.device | str) -> Any:
    """Tensors in nested dicts, lists, tuples and dataclasses, on the device; STAYS_ON_CPU and all else as they are."""
    if torch.device(device).type == "cpu":
        return value
    if isinstance(value, Tensor):
        return send(value, device)
    if isinstance(value, dict):
        return {key: _field(key, item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: _field(name, item, device) for name, item in fields.items()})
    return value


def _field(name: str, value: Any, device: torch.device | str) -> Any:
    return value if name in STAYS_ON_CPU else to_device(value, device)


# ---------------------------------------------------------------- numbers that come back


def held(value: Tensor | float) -> Any:
    """A number that can be added up: on a GPU a tensor, which nobody waits for; on a CPU the number itself."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    if value.device.type == "cpu":
        return float(value)
    return value.float() if value.device.type == "mps" else value.double()  # Apple's GPUs have no fp64


def fetch(values: Iterable[Tensor | float]) -> list[float]:
    """All of them as numbers, those on a GPU in one transfer."""
    found = list(values)
    tensors = [value for value in found if isinstance(value, Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(numbers) if isinstance(value, Tensor) else float(value) for value in found]
