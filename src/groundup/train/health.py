"""What a run looks at before it changes a weight: that loss and gradient are numbers, and where they ceased to be."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from groundup.errors import EXIT_FAILED, UserError
from groundup.train.optim import trained_parameters
from groundup.train.world import World


def stop_non_finite(
    model: nn.Module,
    world: World,
    run_again: Callable[[], tuple[float, float]],
    *,
    step: int,
    batch: int,
    loss: float,
    grad_norm: float,
    lr: float,
) -> NoReturn:
    """End the run before the update, naming the first module in which a number was not finite.

    `run_again` computes the step's loss and gradient norm once more, exactly as before: first as it is, to see whether
    it comes again, then with every module watched (which takes the readable path, where a fused one was taken). All
    processes come here together, since loss and norm are those of all of them.
    """
    backwards = list(trained_parameters(model))[::-1]
    parameter = first_of_all(world, backwards, last_non_finite(model))
    weight = first_of_all(world, backwards, last_non_finite(model, gradients=False))
    comes_again = not are_finite(*run_again())
    where = Watched()
    is_compiled = "torch._dynamo" in sys.modules
    with torch.compiler.set_stance("force_eager") if is_compiled else nullcontext(), where.watching(model):
        watched_loss, watched_norm = run_again()
    module = first_of_all(world, [name for name, _ in model.named_modules()], where.module)
    gradient = first_of_all(world, backwards, where.gradient)
    if weight is not None:
        culprit, why = weight, f"the weights of {weight} are not finite themselves"
    elif module is not None:
        culprit, why = module, f"the first module whose output is not finite is {module or 'the model itself'}"
    elif not comes_again:
        culprit, why = "", "computed again it is finite: that points to the hardware (memory, GPU)"
    elif are_finite(watched_loss, watched_norm):
        culprit, largest = _largest_weight(model)
        why = f"computed module by module it is finite: numbers are too large (the largest weight is {largest:.3g})"
    elif not are_finite(watched_loss):
        culprit, why = "", "the output of every module is finite: it is the loss function"
    elif gradient is not None or parameter is not None:
        culprit = gradient or parameter or ""
        why = f"the first gradient that is not finite, in backward order, is that of {culprit}"
    else:
        culprit, why = "", "every gradient is finite, only their norm is not"
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is not finite (norm {grad_norm})"
    raise UserError(
        f"step {step}: {what}; {why}. Stopped before the update, the weights are still those of step {step - 1}",
        where=culprit,
        fix=f"lower learning_rate (now {lr:.3g}) or max_grad_norm, warm up for longer, or look at this step's data "
        f"(`groundup tokens show RUN --step {step}`) and leave it out with skip_steps: [{batch}]",
        exit_code=EXIT_FAILED,
    )


def are_finite(*values: Tensor | float) -> bool:
    return all(math.isfinite(float(value)) for value in values)


class Watched:
    """The first module, in forward order, whose output is not finite; in backward order, the first such gradient.

    A gradient stands for its parameter: under sharding the hooks of parameters do not run, and nothing is found.
    """

    def __init__(self) -> None:
        self.module: str | None = None
        self.gradient: str | None = None

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        handles: list[Any] = [
            module.register_forward_hook(self._forward_hook(name)) for name, module in model.named_modules()
        ]
        handles += [
            parameter.register_hook(self._gradient_hook(name)) for name, parameter in trained_parameters(model).items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _forward_hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self.module is None and not all(_all_finite(tensor) for tensor in _tensors(output)):
                self.module = name

        return look

    def _gradient_hook(self, name: str) -> Callable[[Tensor], None]:
        def look(gradient: Tensor) -> None:
            if self.gradient is None and not _all_finite(gradient):
                self.gradient = name

        return look


def first_of_all(world: World, names: list[str], mine: str | None) -> str | None:
    """The first in the order of `names` that any process has found. Every process has to ask."""
    flags = world.sum(*(float(name == mine) for name in names))
    return next((name for name, flag in zip(names, flags, strict=True) if flag), None)


def last_non_finite(model: nn.Module, *, gradients: bool = True) -> str | None:
    """The last trained parameter, in the model's own order, whose gradient (or value) is not finite.

    The backward pass goes the other way round, so it is the first of them to have got a wrong gradient.
    """
    for name, parameter in reversed(trained_parameters(model).items()):
        tensor = parameter.grad if gradients else parameter
        if tensor is not None and not _all_finite(tensor):
            return name
    return None


def _largest_weight(model: nn.Module) -> tuple[str, float]:
    """Of this process's part."""
    own = {name: _own(parameter.detach()) for name, parameter in trained_parameters(model).items()}
    sizes = {name: float(tensor.abs().max()) for name, tensor in own.items() if tensor.numel()}
    name = max(sizes, key=lambda name: sizes[name])
    return name, sizes[name]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _own(tensor: Tensor) -> Tensor:
    """Of a sharded tensor, this process's part."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]


def _all_finite(tensor: Tensor) -> bool:
    tensor = _own(tensor)
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def peak_memory_bytes() -> int:
    """Most memory this process has held (the GPU's where one is used)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
