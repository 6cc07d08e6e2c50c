"""Data parallel on one machine, over shared memory: one process a core instead of one process with many threads.

All processes map the same weights and the same moments. Each adds up its gradients in a buffer of its own, which the
others can read; then each sums its share of the parameters over all buffers (in the order of the ranks, so that the
same run gives the same bits), takes its part of the norm, and updates its share in place. Nothing is sent anywhere.
Where one process's threads meet at every matrix product, these meet four times a step.

Checkpoints are the main process's, made from the shared tensors: another number of processes goes on from them.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from groundup.meeting import map_common, map_one_each
from groundup.team import Helped, Team
from groundup.train.checkpoint import Checkpoints, TrainState
from groundup.train.optim import trained_parameters
from groundup.train.shares import Piece, counts_steps, divide, moments_of, sum_into
from groundup.train.world import World

ALIGN = 64  # bytes: a cache line
Spec = tuple[torch.Size, torch.dtype]
Restored = tuple[TrainState, dict[str, Any]]


class SharedMemoryWorld(World):
    """Every process has its own rows of a step and updates its own share of the parameters. On the CPU."""

    def __init__(self, team: Team) -> None:
        assert team.meeting is not None
        self.rank = self.data_rank = team.rank
        self.size = self.data_size = team.size
        self.meeting = team.meeting
        self._threads_before = torch.get_num_threads()
        if team.threads is not None:
            torch.set_num_threads(team.threads)
        self._hooks: list[Any] = []

    # ------------------------------------------------ what is shared

    def prepare(self, model: nn.Module) -> nn.Module:
        """Every parameter lives in shared memory from here on, with the main process's values."""
        # frozen ones of a kind of their own (quantised) stay each process's
        self._everything = [p for p in model.parameters() if p.requires_grad or type(p.data) is Tensor]
        trained = list(trained_parameters(model).values())
        self._trained, self._index = trained, {parameter: index for index, parameter in enumerate(trained)}
        specs = [(p.shape, p.dtype) for p in self._everything]
        for parameter, shared in zip(self._everything, self._common(specs), strict=True):
            if self.is_main:
                shared.copy_(parameter.detach())
            parameter.data = shared
        # by rank: a gradient for each trained parameter, and which of them this step has touched
        specs = [*((p.shape, p.dtype) for p in trained), (torch.Size([len(trained)]), torch.bool)]
        buffers = [tensors_in(memory, specs) for memory in map_one_each(self.meeting, bytes_of(specs))]
        self._gradients, self._touched = [one[:-1] for one in buffers], [one[-1] for one in buffers]
        self._mine, self._is_touched = self._gradients[self.rank], self._touched[self.rank]
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._collect) for parameter in trained]
        self.barrier()
        return model

    def checkpoints(self, checkpoints: Checkpoints) -> Any:
        """The moments become shared, too; only the main process reads and writes checkpoints."""
        self._optimizers = list(checkpoints.optimizers)
        # torch's optimisers keep the state they find; those of the whole model are never stepped, only saved
        wanted = {
            parameter: moments_of(optimizer)
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        specs = [(parameter.shape, torch.float32) for parameter, names in wanted.items() for _ in names]
        *tensors, self._counters = self._common([*specs, (torch.Size([len(self._trained)]), torch.float32)])
        rest = iter(tensors)
        self._moments = {parameter: {name: next(rest) for name in names} for parameter, names in wanted.items()}
        every = divide(self._optimizers, self._index, self.size)
        shares = every[self.rank]
        self._all_pieces = [(piece, rank) for rank in range(self.size) for share in every[rank] for piece in share]
        self._is_mine = [False] * len(self._trained)  # whether this process updates some of the parameter
        self._of_others: list[list[Piece]] = [[] for _ in self._trained]
        for piece, rank in self._all_pieces:
            if rank == self.rank:
                self._is_mine[piece.index] = True
            else:
                self._of_others[piece.index].append(piece)
        self._views: dict[Piece, nn.Parameter] = {piece: self._view(piece) for share in shares for piece in share}
        self._own = [self._over(o, share) for o, share in zip(self._optimizers, shares, strict=True)]
        self.share_moments()
        return MainCheckpoints(checkpoints, self)

    def share_moments(self) -> None:
        """What the main process's optimisers remember (nothing, or what a checkpoint held), in shared memory."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    remembered = optimizer.state.get(parameter, {})
                    if self.is_main:
                        for name, shared in self._moments[parameter].items():
                            shared.copy_(remembered.get(name, torch.zeros(())))
                        self._counters[self._index[parameter]] = remembered.get("step", 0.0)
                    counter = {"step": self._counters[self._index[parameter]]} if counts_steps(optimizer) else {}
                    optimizer.state[parameter] = {**counter, **self._moments[parameter]}
        self.barrier()
        for optimizer, own in zip(self._optimizers, self._own, strict=True):
            own.state = defaultdict(dict)
            for piece, view in self._views.items():
                if (state := optimizer.state.get(self._trained[piece.index])) is not None:
                    own.state[view] = {
                        name: value.clone() if name == "step" else piece.of(value) for name, value in state.items()
                    }

    def _view(self, piece: Piece) -> nn.Parameter:
        return nn.Parameter(piece.of(self._trained[piece.index].data), requires_grad=False)

    def _over(self, optimizer: torch.optim.Optimizer, share: Sequence[Piece]) -> torch.optim.Optimizer:
        """The same optimiser over this process's pieces."""
        own = copy.copy(optimizer)
        pieces = defaultdict(list)
        for piece in share:
            pieces[piece.index].append(self._views[piece])
        own.param_groups = [
            {**group, "params": [view for p in group["params"] for view in pieces[self._index[p]]]}
            for group in optimizer.param_groups
        ]
        return own

    def _common(self, specs: Sequence[Spec]) -> list[Tensor]:
        return tensors_in(map_common(self.meeting, bytes_of(specs)), specs)

    # ------------------------------------------------ one step

    def _collect(self, parameter: Tensor) -> None:
        """As soon as a gradient is there, and still in the cache: what others need of it goes into the shared buffer.

        What this process will update itself stays where autograd has put it, and adds up there.
        """
        index = self._index[parameter]  # type: ignore[index]
        assert parameter.grad is not None
        if self._is_mine[index]:
            for piece in self._of_others[index]:
                piece.of(self._mine[index]).copy_(piece.of(parameter.grad))
        else:
            if self._is_touched[index]:
                self._mine[index].add_(parameter.grad)
            else:
                self._mine[index].copy_(parameter.grad)
            parameter.grad = None
        self._is_touched[index] = True

    def finish_gradients(self, model: nn.Module) -> None:  # noqa: ARG002 (of the model that was prepared)
        """Those that did not come through autograd's accumulation are collected here."""
        for index, parameter in enumerate(self._trained):
            if parameter.grad is not None and not (self._is_mine[index] and self._is_touched[index]):
                self._collect(parameter)

    def grad_norm(self, model: nn.Module) -> float:  # noqa: ARG002
        """Sum this process's share over all processes, and take its part of the norm. Comes after `sum`: all are done.

        What this process has not touched itself it sums up in its buffer, else in its own gradient.
        """
        touched = torch.stack(self._touched).tolist()
        self._steps = [any(column) for column in zip(*touched, strict=True)]  # parameters that this step updates
        square = 0.0
        for piece, view in self._views.items():
            own = self._trained[piece.index].grad
            target = piece.of(self._mine[piece.index] if own is None else own)
            sources = [
                target.view(-1) if rank == self.rank else piece.of(gradients[piece.index]).view(-1)
                for rank, (gradients, is_touched) in enumerate(zip(self._gradients, touched, strict=True))
                if is_touched[piece.index]
            ]
            view.grad = target if sources else None
            if sources:
                square += sum_into(target.view(-1), sources)
        norm = math.sqrt(sum(self.meeting.exchange(square)))
        if not math.isfinite(norm):
            self._show_gradients()
        return norm

    def _show_gradients(self) -> None:
        """Every parameter's gradient of the step in every process: health.py looks for the first that is to blame."""
        for piece, view in self._views.items():
            if view.grad is not None:
                piece.of(self._mine[piece.index]).copy_(view.grad)
        self.barrier()
        for index, parameter in enumerate(self._trained):
            parameter.grad = self._mine[index].clone() if self._steps[index] else None
            for piece, owner in self._all_pieces:
                if piece.index == index and parameter.grad is not None:
                    piece.of(parameter.grad).copy_(piece.of(self._gradients[owner][index]))
        self.barrier()  # before anybody computes another gradient

    def update(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        gradient_scale: float = 1.0,
    ) -> None:
        """Every process updates its share."""
        gradients = [view.grad for view in self._views.values() if view.grad is not None]
        if gradient_scale != 1.0 and gradients:
            torch._foreach_mul_(gradients, gradient_scale)
        for optimizer, own in zip(optimizers, self._own, strict=True):
            for group, own_group in zip(optimizer.param_groups, own.param_groups, strict=True):
                own_group.update({name: value for name, value in group.items() if name != "params"})
            own.step()
        if self.is_main:
            self._counters += torch.tensor(self._steps)
        self.drop_gradients(model, optimizers)
        self.barrier()
        torch.autograd.graph.increment_version(self._trained)  # the others' writes are none that torch has seen

    def drop_gradients(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:  # noqa: ARG002
        """Nobody waits: all have read this process's gradients when its norm came back."""
        self._is_touched.zero_()
        for parameter in self._trained:
            parameter.grad = None

    # ------------------------------------------------ talking to each other

    def sum(self, *values: float) -> list[float]:
        return [sum(column) for column in zip(*self.meeting.exchange(list(values)), strict=True)]

    def any(self, flag: bool) -> bool:
        return any(self.meeting.exchange(flag))

    def from_main(self, value: Any) -> Any:
        return self.meeting.exchange(value if self.is_main else None)[0]

    def barrier(self) -> None:
        self.meeting.barrier()

    def evaluate(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """By the main process alone, on all cores; the others wait for the numbers."""
        found: dict[str, float] = {}
        if self.is_main:
            with self._all_threads():
                found = work()
        return dict(self.from_main(found))

    @contextmanager
    def _all_threads(self) -> Iterator[None]:
        now = torch.get_num_threads()
        torch.set_num_threads(self._threads_before)
        try:
            yield
        finally:
            torch.set_num_threads(now)

    def close(self) -> None:
        """Nobody waits here: this process may be the one that failed."""
        for hook in self._hooks:
            hook.remove()
        torch.set_num_threads(self._threads_before)

    def end_helping(self) -> None:
        if not self.is_main:
            raise Helped


class MainCheckpoints:
    """The main process's checkpoints, as every process of a shared-memory world sees them."""

    def __init__(self, of: Checkpoints, world: SharedMemoryWorld) -> None:
        self.of, self.world = of, world

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)  # what is done by each process for itself

    def restore(self) -> Restored | None:
        return self._by_main(self.of.restore)

    def rewind(self, before_step: int) -> Restored | None:
        return self._by_main(lambda: self.of.rewind(before_step))

    def save(self, state: TrainState, objective_state: dict[str, Any], *, wait: bool = True) -> None:
        """The others go on meanwhile: until the main process joins the next update, nothing changes."""
        if self.world.is_main:
            self.of.save(state, objective_state, wait=wait)

    def prove(self, state: TrainState) -> None:
        if self.world.is_main:
            self.of.prove(state)

    def _by_main(self, restore: Callable[[], Restored | None]) -> Restored | None:
        found = restore() if self.world.is_main else None
        told = self.world.from_main(None if found is None else [asdict(found[0]), found[1]])
        if told is None:
            return None
        self.world.share_moments()
        return found or (TrainState(**told[0]), told[1])


# ---------------------------------------------------------------- pieces


def bytes_of(specs: Sequence[Spec]) -> int:
    return sum(_padded(shape, dtype) for shape, dtype in specs)


def tensors_in(memory: Any, specs: Sequence[Spec]) -> list[Tensor]:
    """Tensors one behind the other in a block of memory, each at the start of a cache line."""
    tensors, place = [], 0
    for shape, dtype in specs:
        tensors.append(torch.frombuffer(memory, dtype=dtype, count=shape.numel(), offset=place).view(shape))
        place += _padded(shape, dtype)
    return tensors


def _padded(shape: torch.Size, dtype: torch.dtype) -> int:
    return -(-shape.numel() * dtype.itemsize // ALIGN) * ALIGN
