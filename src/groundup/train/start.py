"""Which world this process trains in: alone, with others in shared memory, or in a mesh of torch.distributed."""

from __future__ import annotations

import os

from groundup.team import Team
from groundup.train.layout import Layout
from groundup.train.options import TrainOptions
from groundup.train.world import World


def open_world(options: TrainOptions, team: Team = Team()) -> World:
    """The world of this process's team. UserError where the recipe's layout does not fit it."""
    options.layout.resolved(team.size)
    if team.size == 1:
        world = World()
        world.device = options.device
        return world
    if not will_shard(options, team):
        from groundup.train.shared_memory import SharedMemoryWorld

        return SharedMemoryWorld(team)
    from groundup.train.mesh import MeshWorld

    connect(team)
    return MeshWorld(options)


def will_shard(options: TrainOptions, team: Team) -> bool:
    """Whether the processes will hold parts of the model (or copies that they keep equal), each in its own memory."""
    is_shared = team.meeting is not None and options.device == "cpu" and is_plain_data_parallel(options.layout)
    return team.size > 1 and not is_shared


def is_plain_data_parallel(layout: Layout) -> bool:
    """Whether every process holds the whole model, or nothing was said: on one machine, memory is shared anyway."""
    others = layout.tensor_parallel_size * layout.pipeline_parallel_size * layout.context_parallel_size
    return others == 1 and layout.dp_shard_size in (None, 1)


def connect(team: Team) -> None:
    """Join torch's process group, once: through a file where all run on one machine, else as torchrun says."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized() and team.rendezvous is not None:
        store = dist.FileStore(team.rendezvous, team.size)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=team.rank, world_size=team.size)
        os.environ.setdefault("LOCAL_RANK", str(team.rank))
    if team.threads is not None:
        torch.set_num_threads(team.threads)
    dist.barrier()  # one that has failed by now is found here, and not in the middle of making groups
