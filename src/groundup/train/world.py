"""Who takes part in training. `World` is one process alone, and what every larger world looks like to the engine.

All processes run the same stage function. The loop asks its world for its share of a step, for sums over all of them
and for the update; nothing else in the engine knows how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from groundup.kernels.packing import weights_rest
from groundup.train.device import fetch, held, place, to_device
from groundup.train.objective import LossParts, Objective
from groundup.train.optim import trained_parameters
from groundup.train.precision import autocast


@dataclass
class StepSums:
    """What the forward passes of one update added up to, over all processes."""

    loss: float = 0.0  # on a GPU, this and the metrics' sums are tensors there until `World.total`
    tokens: float = 0.0
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> (sum, weight)

    def add(self, parts: LossParts, factor: float) -> None:
        """Add a micro-batch, `factor` 1 or 0; with 0 its metrics still have their names here, as everywhere."""
        if factor:
            self.loss += held(parts.loss_sum)
            self.tokens += int(parts.weight if parts.tokens is None else parts.tokens)
        for name, (value, weight) in parts.metrics.items():
            before = self.metrics.get(name, (0.0, 0.0))
            self.metrics[name] = (before[0] + held(value), before[1] + weight) if factor else before


class World:
    """One process. `data_rank` of `data_size` is this process's share of a step's rows."""

    rank: int = 0
    size: int = 1
    data_rank: int = 0
    data_size: int = 1
    device: str = "cpu"
    loss_share: float = 1.0  # where several processes compute the same loss, what of its gradient this one makes
    # where processes hold parts of the model: a gloo group of all of them that only checkpoints use
    checkpoint_group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model as this world trains it (shared, sharded), before optimisers are built over its parameters."""
        place(model, self.device)
        return model

    def checkpoints(self, checkpoints: Any) -> Any:
        """The stage's `Checkpoints`, as this process may use them: restore, rewind, save."""
        return checkpoints

    # ------------------------------------------------ the update

    def forward_backward(
        self, model: nn.Module, objective: Objective, micro_batches: Sequence[Any], weight: float, dtype: str
    ) -> StepSums:
        """Gradients of the step's loss, summed over all processes and divided by the global `weight`.

        `micro_batches` are those of the whole step; this process does its share.
        """
        sums = StepSums()
        share = self.share(micro_batches)
        with weights_rest():  # no update before the last of them: weights are cast once for all
            for number, (batch, is_counted) in enumerate(share, start=1):
                with autocast(dtype, self.device):
                    parts = objective.loss(model, to_device(batch, self.device))
                self.before_backward(model, is_last=number == len(share))
                (parts.loss_sum * (float(is_counted) * self.loss_share / weight)).backward()  # type: ignore[no-untyped-call]
                sums.add(parts, float(is_counted))
        self.finish_gradients(model)
        return self.total(sums)

    def share(self, micro_batches: Sequence[Any]) -> list[tuple[Any, bool]]:
        """This process's micro-batches, and whether each counts.

        Every process gets equally many, since sharded layers are gathered by all of them together: where they do not
        divide evenly, some processes repeat one that counts nothing.
        """
        mine = [(batch, True) for batch in micro_batches[self.data_rank :: self.data_size]]
        rounds = -(-len(micro_batches) // self.data_size)
        return mine + [(micro_batches[0], False)] * (rounds - len(mine))

    def before_backward(self, model: nn.Module, *, is_last: bool) -> None:
        """Before each backward pass of a step; gradients are exchanged in the last one only."""

    def finish_gradients(self, model: nn.Module) -> None:
        """After the last backward pass of a step: gradients become those of the whole step."""

    def total(self, sums: StepSums) -> StepSums:
        """The sums of all processes, metrics by name."""
        names = list(sums.metrics)  # the same in every process: they come from the same objective
        flat = self.sum(*fetch([sums.loss, sums.tokens, *(number for name in names for number in sums.metrics[name])]))
        pairs = zip(flat[2::2], flat[3::2], strict=True)
        return StepSums(flat[0], flat[1], dict(zip(names, pairs, strict=True)))

    def grad_norm(self, model: nn.Module) -> float:
        """The norm of the whole model's gradient."""
        grads = [p.grad for p in trained_parameters(model).values() if p.grad is not None]
        return float(nn.utils.get_total_norm(grads))

    def update(
        self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], gradient_scale: float = 1.0
    ) -> None:
        """Scale the gradients (clipping), let every optimiser step, and drop the gradients."""
        if gradient_scale != 1.0:
            for parameter in trained_parameters(model).values():
                if parameter.grad is not None:
                    parameter.grad.mul_(gradient_scale)
        for optimizer in optimizers:
            optimizer.step()
        self.drop_gradients(model, optimizers)

    def drop_gradients(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:  # noqa: ARG002
        """After an update, or in its place: the next step's gradients start from nothing."""
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)

    # ------------------------------------------------ talking to each other

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the processes that have different rows."""
        return list(values)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def from_main(self, value: Any) -> Any:
        """The main process's value, in every process (JSON-able)."""
        return value

    def evaluate(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The numbers that `work` measures of the model as it is now, the same in every process."""
        return work()

    def barrier(self) -> None:
        """Wait for all."""

    def close(self) -> None:
        """Leave the group, after the last step or a failure."""

    def end_helping(self) -> None:
        """After the last step: a process that is not needed for the rest of the stage ends it here (`Helped`)."""
