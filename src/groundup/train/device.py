"""How a stage trains on its device (model/device.py chooses it), and how batches get there and numbers back.

A GPU works through a queue: Python only waits for it where a number is asked for. So everything that decides a shape or
a choice (document ids, weights, masks) stays on the CPU, where objectives look at it freely; all else is sent from
pinned memory; sums stay on the device until a step is done.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from groundup.model.device import choose_device, device_of, place, send
from groundup.train.precision import prepare_processor

__all__ = ["choose_device", "device_of", "fetch", "held", "place", "prepare_device", "to_device"]

COMPILE_FROM_STEPS = 300  # on a GPU: a minute of compiling comes back within some hundred steps
COMPILE_FROM_SECONDS = 900
# Of a micro-batch: what decides how many tokens are looked at, and which. The model takes it from there.
STAYS_ON_CPU = frozenset({"document_ids", "weights", "mask"})


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


# ---------------------------------------------------------------- compilation


def wants_compile(wanted: bool | str, device: str, stage: str, steps: int | None, seconds: float | None) -> bool:
    """`torch_compile: auto`: on a GPU, where rows keep their length and the run is long enough to pay for it.

    A CPU's own kernels are faster than what is compiled for it (docs/log.md), so there it has to be asked for.
    """
    if wanted != "auto":
        return bool(wanted)
    is_long = (steps or 0) >= COMPILE_FROM_STEPS or (steps is None and (seconds or 0) >= COMPILE_FROM_SECONDS)
    return device.startswith("cuda") and stage in ("pretrain", "sft") and is_long and why_no_compiler(device) is None


def why_no_compiler(device: str) -> str | None:
    """What torch.compile lacks on this machine, or None."""
    if device.startswith("cuda"):
        return None if importlib.util.find_spec("triton") else "Triton is not installed"
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    return None if found else "there is no C++ compiler (g++ or clang++)"


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
