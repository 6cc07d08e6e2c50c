"""What the processes of test_health.py do."""

from __future__ import annotations

from typing import Any

from groundup.errors import UserError
from groundup.model.decoder import Decoder
from groundup.model.init import init_weights
from groundup.train.checkpoint import TrainState
from groundup.train.layout import Layout
from groundup.train.mesh import MeshWorld
from groundup.train.optim import build_optimizers
from groundup.train.step import train_step

from .work import Case, Walks, options, tiny, trace


def broken_in(layout: Layout, rank: int, layer: int) -> str:
    """Train until process `rank` alone has a block that gives infinities; what every process says then."""
    case = Case()
    chosen = options(case, layout)
    world = MeshWorld(chosen)
    model = Decoder(tiny())
    init_weights(model, 0)
    model = world.prepare(model)  # type: ignore[assignment]
    if world.rank == rank:
        for name, module in model.named_modules():
            if name == f"model.layers.{layer}":
                module.register_forward_hook(lambda _module, _inputs, out: out * float("inf"))
    try:
        trace(world, model, Walks(case), chosen, 1)
    except UserError as error:
        return str(error)
    return "no error"


def skipped_in(layout: Layout) -> list[tuple[float, float]]:
    """Losses and norms of six steps, of which the third is not wanted."""
    case = Case()
    chosen = options(case, layout)
    world = MeshWorld(chosen)
    model = Decoder(tiny())
    init_weights(model, 0)
    return skip_the_third(world, world.prepare(model), chosen, case)


def skip_the_third(world: Any, model: Any, chosen: Any, case: Case) -> list[tuple[float, float]]:
    optimizers = build_optimizers(model, optimizer=chosen.optimizer, weight_decay=chosen.weight_decay)
    state = TrainState(total_steps=chosen.max_steps)
    found = []
    for _ in range(6):
        row = train_step(
            model, Walks(case), optimizers, chosen, state, world, is_wanted=lambda state, *_: state.step != 2
        )
        found.append((row["loss"], row["grad_norm"]))
    return found
