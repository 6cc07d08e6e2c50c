"""Checkpoints: what a run goes on from, exactly. Written in the background, whole or not there at all.

    checkpoints/checkpoint-<step>/
        model-00000.safetensors ...   tensors, in the files of checkpoint_storage.py; a set for each rank
        tensors.json                  where each tensor's pieces lie
        objective.json                what the objective added (generators, controllers), but for its tensors
        state.json                    step, tokens, seconds, horizon, configuration, what the guards remember
        COMPLETE                      written last: the sha256 of each file

The format is the same for one process and for a thousand: torch.distributed.checkpoint plans which rank writes and
reads which piece, so a run may go on with another number of processes, or laid out differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.artifacts import read_json
from groundup.console import Console
from groundup.environment import available_memory_bytes
from groundup.errors import EXIT_FAILED, UserError
from groundup.train import checkpoint_files as files
from groundup.train.background import InBackground
from groundup.train.checkpoint_tensors import Copies, join_tensors, plain_name, saved_weights, split_tensors
from groundup.train.optim import moments, trained_parameters

MEMORY_MARGIN = 1.25  # copies for a save in the background are only made where so many times their size is free


@dataclass
class TrainState:
    """Everything besides weights and moments; all else is a function of `step`."""

    step: int = 0  # updates done
    tokens: int = 0
    seconds: float = 0.0  # of training, all attempts together, up to `step`
    first_step_seconds: float = 0.0  # of `seconds`, what the first step and its checkpoint took
    total_steps: int | None = None  # the horizon; None until a time limit has been turned into one
    configuration: dict[str, Any] = field(default_factory=dict)  # what must not change between attempts
    guards: dict[str, Any] = field(default_factory=dict)  # what the watchers remember (health.py): JSON values


Value = TypeVar("Value")
Restored = tuple[TrainState, dict[str, Any]]  # and the objective's state


class Checkpoints:
    """The checkpoints of one training stage: the newest good one back, new ones saved, back to an earlier one.

    `configuration` is what must not have changed since a checkpoint was made; the newest `keep` stay, and those of
    every `milestone_steps`-th step for good. Where processes hold parts of the model, all of them make this object with
    one gloo `group` that nothing else uses (planning goes on in the background), and call its methods in the same
    order.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        configuration: dict[str, Any],
        console: Console,
        *,
        keep: int,
        milestone_steps: int | None = None,
        regular_steps: int | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.folder, self.model, self.optimizers = folder, model, optimizers
        self.configuration, self.console = configuration, console
        self.keep, self.milestone_steps, self.regular_steps = keep, milestone_steps, regular_steps
        self._group = group
        self.rank, self.size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        self._copies = Copies()
        self._writing: InBackground | None = None
        self._was_told_about_memory = False
        self._was_there = False  # whether the folder has held a good checkpoint

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def _from_all(self, value: Value) -> list[Value]:
        """The value of each process that holds a part, by rank."""
        values = [value] * self.size
        if self._group is not None:
            dist.all_gather_object(values, value, self._group)
        return values

    # ------------------------------------------------ going on

    def restore(self) -> Restored | None:
        """Load the newest good checkpoint into model and optimisers. None where there is nothing to go on from.

        A damaged one is named and removed once an older one has been loaded. UserError where all are damaged, or where
        the checkpoint belongs to other settings or another model.
        """
        self.wait()
        if self.is_main:
            files.sweep(self.folder)
        return self._load_newest(self._steps())

    def rewind(self, before_step: int) -> Restored | None:
        """Back to the newest good checkpoint of at most `before_step`, inside a run; later ones are removed.

        Nothing is changed, and None comes back, where there is none so old. The guards that come back are those of
        the checkpoint: who rewinds for a reason puts that reason into them and saves at once, so that a kill cannot
        make the run forget it.
        """
        self.wait()
        every = self._steps()
        found = self._load_newest([step for step in every if step <= before_step])
        if found is not None and self.is_main:
            for step in every:
                if step > found[0].step:
                    files.remove(self._path(step))
        return found

    def _steps(self) -> list[int]:
        """Newest first; what the main process sees."""
        return self._from_all([files.step_of(path) for path in files.checkpoints_in(self.folder)])[0]

    def _load_newest(self, steps: list[int]) -> Restored | None:
        damaged: dict[int, str] = {}
        for step in steps:
            damage = self._damage_of(self._path(step))
            if damage is None:
                restored = self._load(self._path(step))
                self._was_there = True
                if self.is_main:
                    for worse, why in damaged.items():
                        self.console.warn(f"checkpoint-{worse} is damaged ({why}); checkpoint-{step} is used")
                        files.remove(self._path(worse))
                return restored
            damaged[step] = damage
        if max(damaged, default=0) > 1:
            raise UserError(
                "no checkpoint is whole: " + "; ".join(f"checkpoint-{step}: {why}" for step, why in damaged.items()),
                where=str(self.folder),
                fix="put back a copy of one of them, or delete the folder to train from the start",
                exit_code=EXIT_FAILED,
            )
        for step, why in damaged.items():  # the proof of the first step: nothing is lost without it
            if self.is_main:
                self.console.warn(f"checkpoint-{step} is damaged ({why}); training starts anew")
                files.remove(self._path(step))
        return None

    def _damage_of(self, checkpoint: Path) -> str | None:
        """Each process reads its share of the files; all come to the same answer."""
        found = self._from_all(files.damage_of(checkpoint, self.rank, self.size))
        return next((damage for damage in found if damage is not None), None)

    def _load(self, checkpoint: Path) -> Restored:
        from groundup.train.checkpoint_storage import read_tensors, saved_tensors

        state = TrainState(**read_json(checkpoint / "state.json"))
        files.check_configuration(checkpoint, state.configuration, self.configuration)
        saved = saved_tensors(checkpoint)
        weights = saved_weights(self.model)
        self._check_shapes(checkpoint, weights, {name: one.shape for name, one in saved.items() if "/" not in name})
        parameters = {plain_name(name): parameter for name, parameter in trained_parameters(self.model).items()}
        old_moments = _plain_moments(self.optimizers, self.model)
        targets: dict[str, Tensor] = dict(weights)
        for key, one in saved.items():
            group, _, name = key.partition("/")
            if group == "objective":
                targets[key] = torch.empty(one.shape, dtype=one.dtype)
            elif name in parameters:  # a moment of one of this rank's parameters
                old = old_moments.get(key)
                fits = old is not None and (tuple(old.shape), old.dtype) == (one.shape, one.dtype)
                parameter = parameters[name].detach()
                if old is not None and fits:
                    targets[key] = old
                elif tuple(parameter.shape) == one.shape:
                    targets[key] = torch.empty_like(parameter, dtype=one.dtype)  # sharded as the parameter is
                else:  # a step counter stays where torch keeps it (on the parameter's device for fused AdamW)
                    targets[key] = torch.empty(one.shape, dtype=one.dtype, device=parameter.device)
        with torch.no_grad():
            read_tensors(checkpoint, targets, self._group)
        self._put_moments(parameters, targets)
        tensors = {key.partition("/")[2]: value for key, value in targets.items() if key.startswith("objective/")}
        return state, join_tensors(read_json(checkpoint / "objective.json"), tensors)

    def _put_moments(self, parameters: Mapping[str, nn.Parameter], loaded: Mapping[str, Tensor]) -> None:
        owner = {p: o for o in self.optimizers for group in o.param_groups for p in group["params"]}
        for parameter in parameters.values():
            owner[parameter].state.pop(parameter, None)
        for key, value in loaded.items():
            moment, _, name = key.partition("/")
            if name and moment != "objective":
                owner[parameters[name]].state[parameters[name]][moment] = value

    def _check_shapes(
        self, checkpoint: Path, weights: Mapping[str, Tensor], saved: Mapping[str, tuple[int, ...]]
    ) -> None:
        mine = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        # where layers lie in different processes, none of them has all names
        shapes = {name: shape for one in self._from_all(mine) for name, shape in one.items()}
        if shapes != dict(saved):
            different = sorted({name for name, _ in set(shapes.items()) ^ set(saved.items())})
            raise UserError(
                f"the checkpoint's parameters are not the model's: {', '.join(different[:3])} ...",
                where=str(checkpoint),
                fix="delete the checkpoints folder to start again",
            )

    # ------------------------------------------------ saving

    def save(self, state: TrainState, objective_state: dict[str, Any], *, wait: bool = True) -> None:
        """Write `checkpoint-<step>`: now, or in the background while training goes on (`wait=False`).

        A save in the background has its own copy of the numbers of this step. The one before it is waited for, and
        what went wrong with it is raised here or by `wait`. UserError where the disk refuses.
        """
        self.wait()
        scalars, objective_tensors = split_tensors(objective_state)
        tensors = saved_weights(self.model)
        tensors |= _plain_moments(self.optimizers, self.model)
        tensors |= {f"objective/{path}": value for path, value in objective_tensors.items()}
        documents = {"state.json": files.json_bytes(asdict(state)), "objective.json": files.json_bytes(scalars)}
        step, is_milestone = state.step, self._is_milestone(state.step)
        if wait or self._is_memory_short(tensors):
            self._write(step, tensors, None, documents, is_milestone)
            return
        copies, when_copied = self._copies.take(tensors)

        def write() -> None:
            when_copied()
            self._write(step, tensors, copies, documents, is_milestone)

        self._writing = InBackground(write)

    def _is_milestone(self, step: int) -> bool:
        return self.milestone_steps is not None and step % self.milestone_steps == 0

    @property
    def has_failed(self) -> bool:
        """Whether a save in the background went wrong, which `wait` will raise."""
        return self._writing is not None and self._writing.error is not None

    def wait(self) -> None:
        """Until nothing is being written; raises what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.join()
            if writing.error is not None:
                raise writing.error

    def close(self) -> None:
        """At the end, however it came: let a save under way finish. What went wrong with it is told, not raised."""
        try:
            self.wait()
        except UserError as error:
            self.console.warn(str(error))
        self._copies.drop()

    def prove(self, state: TrainState) -> None:
        """After the first save: it reads back from the disk, bit by bit, so a broken disk shows now, not in a week."""
        from groundup.train.checkpoint_storage import first_difference

        checkpoint = self._path(state.step)
        if self.is_main:
            files.forget_cached(checkpoint)
        damage = self._damage_of(checkpoint)
        if damage is None:
            tensors = saved_weights(self.model) | _plain_moments(self.optimizers, self.model)
            different = first_difference(checkpoint, tensors, self._group)
            different = next((one for one in self._from_all(different) if one), None)
            damage = f"{different} comes back as something else" if different else None
        if damage is not None:
            raise UserError(
                f"the first checkpoint does not read back as written: {damage}",
                where=str(checkpoint),
                fix="check the disk, or choose another folder",
                exit_code=EXIT_FAILED,
            )

    def _path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    def _is_memory_short(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether there is no room, in any process, for the copies that a save in the background needs."""
        needed = self._copies.missing_bytes(tensors)
        is_short = any(self._from_all(needed * MEMORY_MARGIN > available_memory_bytes()))
        if is_short and self.is_main and not self._was_told_about_memory:
            self._was_told_about_memory = True
            self.console.info(
                f"  no {needed / 1e9:.1f} GB free for a copy: training waits while a checkpoint is written"
            )
        return is_short

    def _write(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        copies: Mapping[str, Tensor] | None,
        documents: Mapping[str, bytes],
        is_milestone: bool,
    ) -> None:
        from groundup.train.checkpoint_storage import write_tensors

        temporary = files.temporary_folder(self.folder, step)

        def complete(sha256: dict[str, str]) -> None:
            hashes = {name: files.write_synced(temporary / name, data) for name, data in documents.items()}
            files.finish(temporary, self._path(step), sha256 | hashes, is_milestone=is_milestone)
            files.prune(self.folder, self.keep, self.regular_steps)
            self._was_there = True

        def write() -> None:
            if self.is_main and self._was_there and self.folder.parent.is_dir() and not self.folder.exists():
                self.console.warn(f"the folder of the checkpoints was removed; it is made anew with checkpoint-{step}")
            write_tensors(temporary, tensors, copies, self._group, complete)

        try:
            try:
                write()
            except FileNotFoundError:  # removed while it was written to: what was in it is in memory still
                if self._group is not None or not self.folder.parent.is_dir():
                    raise
                write()
        except OSError as error:
            if self.is_main:
                files.discard(temporary)
            raise files.refused(error, self.folder, step) from error


def _plain_moments(optimizers: list[torch.optim.Optimizer], model: nn.Module) -> dict[str, Tensor]:
    return {plain_name(key): value for key, value in moments(optimizers, model).items()}
