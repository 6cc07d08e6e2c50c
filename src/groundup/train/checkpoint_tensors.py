"""Which tensors a checkpoint holds, by which names, and copies of them that a save in the background writes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from groundup.train.optim import trained_parameters

WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")  # compiling and recomputing put these into names


def saved_weights(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and persistent buffers; frozen weights come from the model folder they were read from."""
    parameters = trained_parameters(model)
    named = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: value for name, value in model.state_dict().items() if name not in named}
    found = {**parameters, **{name: value for name, value in buffers.items() if isinstance(value, Tensor)}}
    return {plain_name(name): tensor.detach() for name, tensor in found.items()}


def plain_name(name: str) -> str:
    """A parameter's name without what compiling and recomputing put into it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def held_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: its shard, or all of it."""
    held = getattr(tensor, "to_local", None)
    return tensor.detach() if held is None else held().detach()


class Copies:
    """Copies of what this rank holds, in memory that is used again by the next save (pinned where it is of a GPU's)."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def missing_bytes(self, tensors: Mapping[str, Tensor]) -> int:
        """Memory that copies of these would take beyond what is there from before."""
        return sum(held.nbytes for name, tensor in tensors.items() if not self._fits(name, held := held_part(tensor)))

    def take(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Callable[[], None]]:
        """The copies, and a function that waits until they have left the GPU. Training queued later waits for them."""
        for name in self._kept.keys() - tensors.keys():
            del self._kept[name]
        is_on_gpu = False
        for name, tensor in tensors.items():
            held = held_part(tensor)
            if not self._fits(name, held):
                self._kept[name] = torch.empty(held.shape, dtype=held.dtype, pin_memory=held.is_cuda)
            self._kept[name].copy_(held, non_blocking=True)
            is_on_gpu |= held.is_cuda
        if not is_on_gpu:
            return self._kept, lambda: None
        event = torch.cuda.Event()
        event.record()
        return self._kept, event.synchronize

    def _fits(self, name: str, held: Tensor) -> bool:
        kept = self._kept.get(name)
        return kept is not None and (kept.shape, kept.dtype) == (held.shape, held.dtype)

    def drop(self) -> None:
        self._kept.clear()


def split_tensors(state: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """A nested dict of JSON values and tensors as JSON (tensors replaced by a key) and the tensors by key."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value
            return {"__tensor__": path}
        if isinstance(value, dict):
            return {str(key): walk(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(item, f"{path}.{index}") for index, item in enumerate(value)]
        return value

    return walk(state, ""), tensors


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__tensor__"}:
            return tensors[value["__tensor__"]]
        return {key: join_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [join_tensors(item, tensors) for item in value]
    return value
