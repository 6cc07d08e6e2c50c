"""Checkpoints: `checkpoints/checkpoint-<step>/`, safetensors and JSON only, whole or not there at all.

    model.safetensors       trained parameters and persistent buffers
    optimizer.safetensors   moments, as `moment/parameter name`
    objective.json          what the objective added (generators, controllers); its tensors in objective.safetensors
    state.json              step, tokens, seconds, horizon, configuration
    COMPLETE                written last: the sha256 of each file

Saving writes into a hidden folder, fsyncs, and renames. Restoring takes the newest folder that verifies.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from groundup.artifacts import disk_error, fingerprint_file, read_json, sync_folder
from groundup.console import Console
from groundup.errors import EXIT_FAILED, UserError
from groundup.model.tensor_files import write_safetensors
from groundup.train.optim import load_moments, moments, trained_parameters

MARKER = "COMPLETE"


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


class Checkpoints:
    """The checkpoints of one training stage: the newest good one back, new ones saved, back to an earlier one."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        configuration: dict[str, Any],
        console: Console,
        *,
        keep: int,
    ) -> None:
        self.folder, self.model, self.optimizers = folder, model, optimizers
        self.configuration, self.console, self.keep = configuration, console, keep

    def restore(self) -> tuple[TrainState, dict[str, Any]] | None:
        """Load the newest good checkpoint into model and optimisers; its state and the objective's. None: none there.

        A damaged one is named and removed, and the one before it is used. UserError where it belongs to other settings.
        """
        return restore_newest(self.folder, self.model, self.optimizers, self.configuration, self.console)

    def rewind(self, before_step: int) -> tuple[TrainState, dict[str, Any]] | None:
        """Back to the newest good checkpoint of at most `before_step`, inside a run; later ones are removed.

        Nothing is changed, and None comes back, where there is none so old. The guards that come back are those of
        the checkpoint: who rewinds for a reason puts that reason into them and saves at once, so that a kill cannot
        make the run forget it.
        """
        found = restore_newest(
            self.folder, self.model, self.optimizers, self.configuration, self.console, at_most=before_step
        )
        if found is not None:
            for later in _checkpoints(self.folder):
                if step_of(later) > found[0].step:
                    _remove(later)
        return found

    def save(self, state: TrainState, objective_state: dict[str, Any]) -> Path:
        """Write `checkpoint-<step>`. UserError where the disk refuses."""
        return save_checkpoint(self.folder, state, self.model, self.optimizers, objective_state, keep=self.keep)


# ---------------------------------------------------------------- saving


def save_checkpoint(
    folder: Path,
    state: TrainState,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    objective_state: dict[str, Any],
    *,
    keep: int,
) -> Path:
    """Write `folder/checkpoint-<step>`, delete all but the newest `keep`. UserError where the disk refuses."""
    final = folder / f"checkpoint-{state.step}"
    temporary = folder / f".checkpoint-{state.step}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        scalars, tensors = _split_tensors(objective_state)
        hashes = {
            "model.safetensors": write_safetensors(temporary / "model.safetensors", _saved_weights(model)),
            "optimizer.safetensors": write_safetensors(temporary / "optimizer.safetensors", moments(optimizers, model)),
            "objective.json": _write_synced(temporary / "objective.json", _json_bytes(scalars)),
            "state.json": _write_synced(temporary / "state.json", _json_bytes(asdict(state))),
        }
        if tensors:
            hashes["objective.safetensors"] = write_safetensors(temporary / "objective.safetensors", tensors)
        _write_synced(temporary / MARKER, _json_bytes({"sha256": hashes}))
        sync_folder(temporary)
        _remove(final)
        temporary.rename(final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno == errno.EFBIG:
            raise UserError(
                f"checkpoint-{state.step} is larger than a file may be here",
                where=str(folder),
                fix="raise the limit (ulimit -f), or choose another folder; the last checkpoint is kept",
                exit_code=EXIT_FAILED,
            ) from error
        raise disk_error(error, final) from error
    for old in _checkpoints(folder)[keep:]:
        _remove(old)
    return final


def _saved_weights(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and persistent buffers; frozen weights come from the model folder they were read from."""
    parameters = trained_parameters(model)
    named = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: value for name, value in model.state_dict().items() if name not in named}
    return {**parameters, **{name: value for name, value in buffers.items() if isinstance(value, Tensor)}}


def _write_synced(path: Path, data: bytes) -> str:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _split_tensors(state: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
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


def _join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__tensor__"}:
            return tensors[value["__tensor__"]]
        return {key: _join_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_join_tensors(item, tensors) for item in value]
    return value


# ---------------------------------------------------------------- restoring


def restore_newest(
    folder: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    configuration: dict[str, Any],
    console: Console,
    *,
    at_most: int | None = None,
) -> tuple[TrainState, dict[str, Any]] | None:
    """Load the newest checkpoint that verifies into model and optimisers; returns its state and the objective's.

    Only those of at most step `at_most` count, where it is given.

    Leftovers of a cut-off save are removed. A damaged checkpoint is named and removed, and the one before it is used.
    Raises UserError where the checkpoint was made with other settings.
    """
    for leftover in folder.glob(".checkpoint-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for checkpoint in _checkpoints(folder):
        if at_most is not None and step_of(checkpoint) > at_most:
            continue
        damage = damage_of(checkpoint)
        if damage is None:
            return _load(checkpoint, model, optimizers, configuration)
        console.warn(f"{checkpoint.name} is damaged ({damage}); the one before it is used")
        _remove(checkpoint)
    return None


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None when each has the sha256 it was written with."""
    marker = checkpoint / MARKER
    if not marker.is_file():
        return f"no {MARKER}"
    try:
        hashes: dict[str, str] = json.loads(marker.read_bytes())["sha256"]
    except (ValueError, KeyError, TypeError):
        return f"{MARKER} cannot be read"
    for name, expected in hashes.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if fingerprint_file(checkpoint / name) != expected:
            return f"{name} is not what was written"
    return None


def _load(
    checkpoint: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], configuration: dict[str, Any]
) -> tuple[TrainState, dict[str, Any]]:
    state = TrainState(**read_json(checkpoint / "state.json"))
    _check_configuration(checkpoint, state.configuration, configuration)
    weights = load_file(checkpoint / "model.safetensors")
    targets = _saved_weights(model)
    shapes = [{(name, tuple(tensor.shape)) for name, tensor in which.items()} for which in (weights, targets)]
    if shapes[0] != shapes[1]:
        different = sorted({name for name, _ in shapes[0] ^ shapes[1]})
        raise UserError(
            f"the checkpoint's parameters are not the model's: {', '.join(different[:3])} ...",
            where=str(checkpoint),
            fix="delete the checkpoints folder to start again",
        )
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(weights[name])
    load_moments(optimizers, model, load_file(checkpoint / "optimizer.safetensors"))
    tensors_file = checkpoint / "objective.safetensors"
    tensors = load_file(tensors_file) if tensors_file.exists() else {}
    return state, _join_tensors(read_json(checkpoint / "objective.json"), tensors)


def _check_configuration(checkpoint: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    now = json.loads(json.dumps(now))
    different = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
    if different:
        changes = ", ".join(f"{key} {saved.get(key)!r} -> {now.get(key)!r}" for key in different)
        raise UserError(
            f"this checkpoint was made with other settings: {changes}",
            where=str(checkpoint),
            fix=f"put the settings back to go on, or delete {checkpoint.parent} to start again",
        )


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _remove(checkpoint: Path) -> None:
    """Take the name away first: a kill half way leaves a leftover, never a damaged checkpoint."""
    if checkpoint.exists():
        gone = checkpoint.with_name(f".{checkpoint.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        checkpoint.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
