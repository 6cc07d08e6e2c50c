"""A checkpoint belongs to a training, not to a layout: saved in one, it is the same bits in any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from groundup.train.layout import Layout

from . import checkpoint_work as work
from .processes import Processes

LAYOUTS = {
    "FSDP": Layout(dp_shard_size=2),
    "HSDP": Layout(dp_replicate_size=2, dp_shard_size=1),
    "tensor": Layout(tensor_parallel_size=2),
    "pipeline": Layout(pipeline_parallel_size=2),
}


def merged(by_rank: list[dict[str, Any]]) -> dict[str, Any]:
    """All names; what several ranks hold, they hold alike."""
    found: dict[str, Any] = {}
    for one in by_rank:
        for name, value in one.items():
            assert found.setdefault(name, value) == value, name
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_saved_by_two_processes_and_restored_by_one_and_the_reverse(
    two: Processes, tmp_path: Path, layout: str, optimizer: str
) -> None:
    together = merged(two(work.save_in, LAYOUTS[layout], optimizer, tmp_path / "two"))
    alone, trace = work.restore_in(None, optimizer, tmp_path / "two")
    assert alone == together
    by_rank = two(work.restore_in, LAYOUTS[layout], optimizer, tmp_path / "two")
    assert merged([one for one, _ in by_rank]) == together
    for _, found in by_rank:  # and training goes on as it does alone, up to the order of additions
        assert found[0] == pytest.approx(trace[0], rel=1e-5)
        assert found[1] == pytest.approx(trace[1], rel=1e-3 if optimizer == "muon" else 2e-5)

    alone = work.save_in(None, optimizer, tmp_path / "one")
    together = merged([one for one, _ in two(work.restore_in, LAYOUTS[layout], optimizer, tmp_path / "one")])
    assert together == alone


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [Layout(dp_shard_size=2, tensor_parallel_size=2), Layout(dp_shard_size=2, pipeline_parallel_size=2)],
    ids=["FSDP and tensor", "FSDP and pipeline"],
)
def test_saved_by_four_in_two_ways_of_sharding_and_restored_by_two_and_one(
    four: Processes, two: Processes, tmp_path: Path, layout: Layout
) -> None:
    together = merged(four(work.save_in, layout, "adamw", tmp_path))
    assert merged([one for one, _ in two(work.restore_in, LAYOUTS["FSDP"], "adamw", tmp_path)]) == together
    assert work.restore_in(None, "adamw", tmp_path)[0] == together
    assert merged([one for one, _ in four(work.restore_in, layout, "adamw", tmp_path)]) == together


def test_no_process_writes_more_than_its_share(two: Processes, tmp_path: Path) -> None:
    one, other = two(work.held_bytes, LAYOUTS["FSDP"], "adamw", tmp_path)
    for mine, yours in zip(one, other, strict=True):
        assert mine == pytest.approx(yours, rel=0.25)


def test_torchs_own_reader_of_safetensors_reads_the_shards(two: Processes, tmp_path: Path) -> None:
    import torch
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    two(work.save_in, LAYOUTS["FSDP"], "adamw", tmp_path)
    _, model, optimizers, checkpoints = work.opened(None, "adamw", tmp_path, seed=1)
    assert checkpoints.restore() is not None
    ours = work.saved_weights(model) | work.moments(optimizers, model)
    theirs = {name: torch.full_like(value, -1) for name, value in ours.items()}
    load(theirs, storage_reader=HuggingFaceStorageReader(str(tmp_path / "checkpoint-6")), no_dist=True)
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())


@pytest.mark.parametrize("file", ["model-00001.safetensors", "optimizer-00000.safetensors", "tensors.json"])
def test_damage_in_any_ranks_file_is_found_and_all_use_the_one_before(
    two: Processes, tmp_path: Path, file: str
) -> None:
    two(work.save_in, LAYOUTS["FSDP"], "adamw", tmp_path)
    for step, left in two(work.damage_in, LAYOUTS["FSDP"], "adamw", tmp_path, file):
        assert step == 3
        assert left == "['checkpoint-3']"


def test_what_one_ranks_disk_refuses_is_told_by_all(two: Processes, tmp_path: Path) -> None:
    for told in two(work.fail_in, LAYOUTS["FSDP"], "adamw", tmp_path):
        assert told.startswith("UserError") and "the disk is full" in told and "nothing was saved before it" in told
    assert not list(tmp_path.glob("*checkpoint*"))
