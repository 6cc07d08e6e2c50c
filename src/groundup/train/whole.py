"""A stage's model before and after its training. Where processes will share it, it is made without numbers, and each
process fills its own part; to look at what it says, the main process alone has a whole copy.
"""

from __future__ import annotations

from pathlib import Path

from groundup.artifacts import StageContext
from groundup.model.decoder import Decoder
from groundup.model.deferred import fill, source_of
from groundup.model.device import place
from groundup.model.files import load_deferred, load_model
from groundup.model.sharded_files import is_sharded
from groundup.train.options import TrainOptions
from groundup.train.start import open_world, will_shard
from groundup.train.world import World

WHOLE_PARAMETERS_AT_MOST = 3_000_000_000  # of a copy that the main process reads to write samples with


def model_to_train(folder: Path, options: TrainOptions, context: StageContext) -> Decoder:
    """The decoder in a folder, on its device; where processes will share it, it is read part by part later on."""
    if will_shard(options, context.team):
        return load_deferred(folder)
    model = load_model(folder)
    place(model, options.device)
    return model


def prepare_early(model: Decoder, options: TrainOptions, context: StageContext) -> World:
    """Lay out a model that is measured before its training (`train` takes it as it is then), and who measures it."""
    if not will_shard(options, context.team):
        return World()
    world = open_world(options, context.team)
    world.prepare(model)
    return world


def whole_model(model: Decoder, context: StageContext, saved: Path | None = None) -> Decoder | None:
    """The model itself where this process has all of it. Else a whole copy in the main process: of the weights it
    starts from, or of those `saved`. None in the other processes, and where the model is too large for a copy.
    """
    source = source_of(model)
    if source is None and not is_sharded(model):
        return model
    if context.team.rank != 0:
        return None
    size = model.config.parameters()
    if size > WHOLE_PARAMETERS_AT_MOST:
        context.console.info(
            f"  {context.name}: no samples of a model of {size:,} parameters that no process holds whole; "
            "`groundup chat` on the saved model shows what it says"
        )
        return None
    if saved is not None:
        return load_model(saved)
    copy = Decoder(model.config)
    copy.__dict__["_source"] = source
    fill(copy, "cpu")
    return copy.eval()
