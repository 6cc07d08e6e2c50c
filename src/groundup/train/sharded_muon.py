"""Muon's update for matrices that are sharded: the same as for whole ones, each made whole in one process.

Orthogonalising needs the whole matrix. The processes that share matrices take turns: each gathers all, makes the update
of its own share of them, and sends it to the others. Momentum stays sharded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from groundup.train.parts import local, own_part

GATHERED_ELEMENTS = 2**26  # at a time, of whole updates


@torch.no_grad()
def sharded_step(
    optimizer: torch.optim.Optimizer,
    orthogonalize: Callable[[Sequence[Tensor]], list[Tensor]],
    buffer_of: Callable[[Tensor], Tensor],
) -> None:
    """One update of every parameter (2-D DTensors) of a Muon optimizer; see muon.py for what the numbers are."""
    for group in optimizer.param_groups:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for some in _in_parts(parameters):
            updates = []
            for parameter in some:
                grad, buffer = local(parameter.grad), local(buffer_of(parameter))
                buffer.lerp_(grad, 1 - group["momentum"])
                updates.append(_like(parameter, grad.lerp(buffer, group["momentum"])))
            for parameter, update in zip(some, _orthogonalized(updates, orthogonalize), strict=True):
                part = local(parameter)
                part.mul_(1 - group["lr"] * group["weight_decay"])
                part.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(parameter.shape)))


def _in_parts(parameters: Sequence[Any]) -> list[list[Any]]:
    parts: list[list[Any]] = [[]]
    for parameter in parameters:
        if parts[-1] and sum(other.numel() for other in parts[-1]) + parameter.numel() > GATHERED_ELEMENTS:
            parts.append([])
        parts[-1].append(parameter)
    return parts


def _like(parameter: Tensor, part: Tensor) -> Tensor:
    """A tensor laid out as the parameter, from this process's part of it."""
    if not isinstance(parameter, DTensor):
        return part
    return DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _orthogonalized(
    updates: Sequence[Tensor], orthogonalize: Callable[[Sequence[Tensor]], list[Tensor]]
) -> list[Tensor]:
    """This process's part of each orthogonalised update (bfloat16)."""
    whole = [update.full_tensor() if isinstance(update, DTensor) else update for update in updates]
    groups = [_sharing(update) for update in updates]
    mine = [number for number, (_, rank, size) in enumerate(groups) if number % size == rank]
    made = dict(zip(mine, orthogonalize([whole[number] for number in mine]), strict=True)) if mine else {}
    parts = []
    for number, (update, (group, _, size)) in enumerate(zip(updates, groups, strict=True)):
        if group is not None:
            result = (
                made[number].contiguous() if number in made else torch.empty_like(whole[number], dtype=torch.bfloat16)
            )
            dist.broadcast(result, group=group, group_src=number % size)
            made[number] = result
        parts.append(made[number][own_part(update)])
    return parts


def _sharing(tensor: Tensor) -> tuple[dist.ProcessGroup | None, int, int]:
    """The processes that share the work on a matrix, this one's place among them, and how many they are."""
    if isinstance(tensor, DTensor):
        mesh = tensor.device_mesh
        for axis, placement in enumerate(tensor.placements):
            if placement != Replicate() and mesh.size(axis) > 1:
                return mesh.get_group(axis), mesh.get_local_rank(axis), mesh.size(axis)
    return None, 0, 1
