"""Models that have shapes but no numbers yet, and know where each tensor comes from.

A model that will be sharded is made so: every process then makes or reads one whole tensor at a time and keeps its part
of it, so that a large model never exists whole anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Part = tuple[slice, ...]  # a block of a tensor
Source = Callable[[str, Part], Tensor]  # a parameter's name, and which part of it -> that part, on the CPU
Model = TypeVar("Model", bound=nn.Module)


def defer(make: Callable[[], Model], source: Source) -> Model:
    """What `make` makes, on the meta device; `source` is asked for its parameters when it is filled."""
    with torch.device("meta"):
        model = make()
    model.__dict__["_source"] = source
    return model


def source_of(model: nn.Module) -> Source | None:
    """Where the parameters of a deferred model come from; None for one that has its numbers."""
    source: Source | None = model.__dict__.get("_source")
    return source


def whole_of(tensor: Tensor) -> Part:
    return tuple(slice(0, size) for size in tensor.shape)


def same(tensor: Tensor) -> Tensor:
    return tensor


def fill(
    model: nn.Module,
    device: str | torch.device,
    own_part: Callable[[Tensor], Part] = whole_of,
    local: Callable[[Tensor], Tensor] = same,
) -> None:
    """Give a deferred model its numbers on `device`, tensor by tensor; nothing happens to one that has them.

    Of sharded parameters, `own_part` says which part of the whole this process holds, and `local` is the memory for it.
    """
    source = source_of(model)
    if source is None:
        return
    model.to_empty(device=device)
    del model.__dict__["_source"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            local(parameter).copy_(source(name, own_part(parameter)))
