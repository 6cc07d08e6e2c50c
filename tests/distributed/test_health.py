"""In a mesh, a number that is none stops every process, and a step that is left out is left out everywhere."""

from __future__ import annotations

import pytest

from groundup.model.decoder import Decoder
from groundup.model.init import init_weights
from groundup.train.layout import Layout
from groundup.train.world import World

from .health_work import broken_in, skip_the_third, skipped_in
from .processes import Processes
from .work import Case, options, tiny

LAYOUTS = {
    "sharded": Layout(dp_shard_size=2),
    "copies": Layout(dp_replicate_size=2, dp_shard_size=1),
    "tensor": Layout(tensor_parallel_size=2),
    "pipeline": Layout(pipeline_parallel_size=2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_processes_stop_together_and_name_the_module(two: Processes, name: str) -> None:
    rank, layer = (1, 3)  # with a pipeline, the second process holds the last layers
    said = two(broken_in, LAYOUTS[name], rank, layer)
    assert all("step 1: the loss is" in text and "weights are still those of step 0" in text for text in said)
    named = [f"the first module whose output is not finite is model.layers.{layer}" in text for text in said]
    assert all(named) if name in ("sharded", "copies") else named[rank]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_step_that_is_not_wanted_is_left_out_in_every_process(two: Processes, name: str) -> None:
    case = Case()
    model = Decoder(tiny())
    init_weights(model, 0)
    alone = skip_the_third(World(), model, options(case), case)
    for found in two(skipped_in, LAYOUTS[name]):
        for ours, theirs in zip(found, alone, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
