"""A world of torch.distributed: FSDP2 and HSDP, tensor parallel, pipeline parallel, and what goes together of these.

Gradients are summed, never averaged: the loss is divided by the global weight before its backward pass. Whatever the
layout, the same rows make the same update; only the order of additions differs.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate

from groundup.model.deferred import fill
from groundup.model.sharded_files import mark_sharded
from groundup.train.layout import Layout
from groundup.train.objective import Objective
from groundup.train.optim import trained_parameters
from groundup.train.options import TrainOptions
from groundup.train.parallel import parallelize
from groundup.train.parts import local, own_part
from groundup.train.pipeline import Pipeline
from groundup.train.world import StepSums, World

AXES = {  # outermost first: neighbours in a row of ranks, which sit on one machine, share matrices
    "pipeline": "pipeline_parallel_size",
    "replicate": "dp_replicate_size",
    "shard": "dp_shard_size",
    "tensor": "tensor_parallel_size",
}


def join_processes(device_type: str) -> None:
    """Join the group that torchrun's environment describes, once for this process; leave it at exit.

    On GPUs both NCCL (tensors) and gloo (numbers and small objects) are there.
    """
    if dist.is_initialized():
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo")
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        with contextlib.suppress(Exception):  # after a failure the others may be gone
            dist.destroy_process_group()


class MeshWorld(World):
    """One of `WORLD_SIZE` processes, at its place in the mesh pipeline x replicate x shard x tensor."""

    def __init__(self, options: TrainOptions) -> None:
        kind = options.device.partition(":")[0]
        if kind == "cuda":
            self.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
            torch.cuda.set_device(self.device)
        join_processes(kind)
        self.options = options
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.layout: Layout = options.layout.resolved(self.size)
        sizes = {axis: int(getattr(self.layout, field)) for axis, field in AXES.items()}
        contexts = self.layout.context_parallel_size
        sizes["shard"] *= contexts  # the processes of a row share the weights, too
        copies = sizes["replicate"] > 1  # FSDP2 knows copies as the outer axis of two only
        sizes = {axis: size for axis, size in sizes.items() if size > 1 or (axis == "shard" and copies)}
        self.mesh: DeviceMesh = init_device_mesh(kind, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        self.contexts, shards = contexts, sizes.get("shard", 1) // contexts
        self.data_size = sizes.get("replicate", 1) * shards
        self.data_rank = self._place("replicate") * shards + self._place("shard") // contexts
        self.loss_share = 1 / contexts
        self._data_groups = [self.mesh.get_group(axis) for axis in ("replicate", "shard") if axis in sizes]
        self.checkpoint_group = dist.new_group(backend="gloo")  # planning a save goes on in the background
        self.pipeline: Pipeline | None = None
        self._sharded: list[FSDPModule] = []

    def _place(self, axis: str) -> int:
        return self.mesh.get_local_rank(axis) if axis in (self.mesh.mesh_dim_names or ()) else 0

    def prepare(self, model: nn.Module) -> nn.Module:
        """Cut the model up, in place; twice is once. A deferred one is filled part by part (model/deferred.py)."""
        earlier: MeshWorld | None = model.__dict__.get("_world")
        if earlier is not None:  # a stage needed it before the training
            earlier.let_go()
            self.pipeline, self._sharded = earlier.pipeline, earlier._sharded
            return model
        model.__dict__["_world"] = self
        row = None
        if self.contexts > 1:
            shape = (self.size // self.contexts, self.contexts)
            row = init_device_mesh(self.mesh.device_type, shape, mesh_dim_names=("row", "context"))["context"]
        self.pipeline = parallelize(model, self.mesh, self.layout, self.options, row)
        fill(model, self.device, own_part, local)
        model.to(self.device)
        mark_sharded(model, self._stage_ranks())
        roots: list[nn.Module] = [model, *(self.pipeline.stages if self.pipeline is not None else ())]
        self._sharded = [module for root in roots for module in root.modules() if isinstance(module, FSDPModule)]
        return model

    def _stage_ranks(self) -> list[int]:
        """The processes that hold the same layers as this one."""
        ranks = self.mesh.mesh
        if "pipeline" in (self.mesh.mesh_dim_names or ()):  # the outermost axis
            ranks = ranks[self._place("pipeline")]
        return [int(rank) for rank in ranks.flatten().sort().values]

    # ------------------------------------------------ the update

    def forward_backward(
        self, model: nn.Module, objective: Objective, micro_batches: Sequence[Any], weight: float, dtype: str
    ) -> StepSums:
        if self.pipeline is None:
            return super().forward_backward(model, objective, micro_batches, weight, dtype)
        sums = self.pipeline.forward_backward(objective, self.share(micro_batches), weight, dtype)
        return self.total(sums)

    def before_backward(self, model: nn.Module, *, is_last: bool) -> None:  # noqa: ARG002
        for module in self._sharded:
            module.set_requires_gradient_sync(is_last, recurse=False)

    def grad_norm(self, model: nn.Module) -> float:
        """Each process adds up what it holds; a part that several hold counts once."""
        trained = {name: one for name, one in trained_parameters(model).items() if one.grad is not None}
        norms = torch._foreach_norm([local(one.grad) for one in trained.values()])  # type: ignore[arg-type]
        holders = [self._holders(name, one) for name, one in trained.items()]
        total = (torch.stack(norms).double().square() / torch.tensor(holders, device=norms[0].device)).sum()
        if "replicate" in (self.mesh.mesh_dim_names or ()):
            total = total / self.mesh["replicate"].size()
        dist.all_reduce(total)
        return float(total.sqrt())

    def _holders(self, name: str, parameter: Tensor) -> int:
        """How many processes of one copy of the model hold the very same numbers."""
        holders = self.pipeline.holders(name) if self.pipeline is not None else 1
        axes = self.mesh.mesh_dim_names or ()
        held = {"pipeline", "replicate"}
        if isinstance(parameter, DTensor):
            names = parameter.device_mesh.mesh_dim_names or ()
            held |= {axis for axis, place in zip(names, parameter.placements, strict=True) if place != Replicate()}
        for axis in axes:
            holders *= 1 if axis in held else self.mesh[axis].size()
        return holders

    def update(
        self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], gradient_scale: float = 1.0
    ) -> None:
        if gradient_scale != 1.0:
            for parameter in trained_parameters(model).values():
                if parameter.grad is not None:
                    local(parameter.grad).mul_(gradient_scale)
        super().update(model, optimizers)

    # ------------------------------------------------ talking to each other

    def sum(self, *values: float) -> list[float]:
        numbers = torch.tensor(values, dtype=torch.float64, device=self.device)
        for group in self._data_groups:
            dist.all_reduce(numbers, group=group)
        return [float(value) / self.contexts for value in numbers]

    def any(self, flag: bool) -> bool:
        number = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return bool(number)

    def from_main(self, value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def evaluate(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """All processes take part, each with all rows; weights that were gathered for it are let go."""
        found = work()
        self.let_go()
        return found

    def let_go(self) -> None:
        """After forward passes without a backward pass: drop gathered weights, which an update would leave behind."""
        for module in self._sharded:
            module.reshard()

    def barrier(self) -> None:
        dist.barrier()

    def close(self) -> None:
        """Nothing to leave: the group stays for what the stage does next (its export) and for the next stage."""
