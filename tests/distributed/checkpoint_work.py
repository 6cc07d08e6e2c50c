"""What the processes of the checkpoint tests do: train in some layout, save, restore in another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from groundup.console import Console
from groundup.model.decoder import Decoder
from groundup.model.init import init_weights
from groundup.train.checkpoint import Checkpoints, TrainState
from groundup.train.checkpoint_tensors import saved_weights
from groundup.train.layout import Layout
from groundup.train.optim import build_optimizers, moments
from groundup.train.step import train_step
from groundup.train.world import World

from .work import Case, Walks, options, tiny

Hashes = dict[str, str]
STEPS = 6


def case(optimizer: str) -> Case:
    return Case(optimizer=optimizer, steps=STEPS)


def open_world(layout: Layout | None, optimizer: str) -> World:
    if layout is None:
        return World()
    from groundup.train.mesh import MeshWorld

    return MeshWorld(options(case(optimizer), layout))


def opened(layout: Layout | None, optimizer: str, folder: Path, seed: int) -> tuple[World, Any, Any, Checkpoints]:
    world = open_world(layout, optimizer)
    model = Decoder(tiny())
    init_weights(model, seed)
    model = world.prepare(model)
    optimizers = build_optimizers(model, optimizer=optimizer, weight_decay=0.01)
    console = Console(quiet=True)
    group = world.checkpoint_group
    return world, model, optimizers, Checkpoints(folder, model, optimizers, {}, console, keep=9, group=group)


def save_in(layout: Layout | None, optimizer: str, folder: Path) -> Hashes:
    """Train in this layout; the checkpoint of step 3 is written in the background of steps 4 to 6, then one of 6."""
    world, model, optimizers, checkpoints = opened(layout, optimizer, folder, seed=0)
    state, chosen, objective = TrainState(total_steps=STEPS), options(case(optimizer), layout), Walks(case(optimizer))
    at_three: Hashes = {}
    for _ in range(STEPS):
        train_step(model, objective, optimizers, chosen, state, world)
        if state.step == 3:
            at_three = hashes(model, optimizers)
            checkpoints.save(state, {"generator": torch.arange(5), "kl": 0.5}, wait=False)
    checkpoints.wait()
    checkpoints.save(state, {})
    checkpoints.prove(state)
    return at_three


def restore_in(layout: Layout | None, optimizer: str, folder: Path) -> tuple[Hashes, list[tuple[float, float]]]:
    """Restore step 3 into a model of other weights; what is in it then, and loss and norm of the steps that follow."""
    world, model, optimizers, checkpoints = opened(layout, optimizer, folder, seed=1)
    found = checkpoints.rewind(3)
    assert found is not None
    state, objective_state = found
    assert state.step == 3
    assert torch.equal(objective_state["generator"], torch.arange(5)) and objective_state["kl"] == 0.5
    restored = hashes(model, optimizers)
    trace = []
    for _ in range(2):
        row = train_step(model, Walks(case(optimizer)), optimizers, options(case(optimizer), layout), state, world)
        trace.append((row["loss"], row["grad_norm"]))
    return restored, trace


def damage_in(layout: Layout, optimizer: str, folder: Path, file: str) -> tuple[int, str]:
    """Restore after a bit of `file` in the newest checkpoint was flipped: the step that is used."""
    if dist.get_rank() == 0:
        data = bytearray((folder / "checkpoint-6" / file).read_bytes())
        data[-1] ^= 1
        (folder / "checkpoint-6" / file).write_bytes(data)
    dist.barrier()
    *_, checkpoints = opened(layout, optimizer, folder, seed=1)
    found = checkpoints.restore()
    dist.barrier()
    assert found is not None
    return found[0].step, str(sorted(path.name for path in folder.iterdir()))


def fail_in(layout: Layout, optimizer: str, folder: Path) -> str:
    """A save in the background that only rank 1's disk refuses: what each rank is told."""
    import errno

    from groundup.train import checkpoint_storage

    world, model, optimizers, checkpoints = opened(layout, optimizer, folder, seed=0)
    state = TrainState(total_steps=STEPS)
    train_step(model, Walks(case(optimizer)), optimizers, options(case(optimizer), layout), state, world)
    real = checkpoint_storage.write_safetensors

    def refuse(path: Path, *what: Any) -> str:
        if world.rank == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, *what)

    checkpoint_storage.write_safetensors = refuse
    try:
        checkpoints.save(state, {}, wait=False)
        train_step(model, Walks(case(optimizer)), optimizers, options(case(optimizer), layout), state, world)
        checkpoints.wait()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        checkpoint_storage.write_safetensors = real
    return "saved"


def held_bytes(layout: Layout, optimizer: str, folder: Path) -> list[int]:
    """Bytes of the checkpoint's tensors, by rank that wrote them."""
    save_in(layout, optimizer, folder)
    files = [folder / "checkpoint-6" / f"{kind}-{dist.get_rank():05d}.safetensors" for kind in ("model", "optimizer")]
    return [file.stat().st_size for file in files]


def hashes(model: Any, optimizers: Any) -> Hashes:
    """The sha256 of every whole tensor that this process has a part of."""
    found = saved_weights(model) | moments(optimizers, model)
    return {name: hashlib.sha256(whole(tensor).numpy().tobytes()).hexdigest() for name, tensor in found.items()}


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
