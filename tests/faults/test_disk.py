"""Disks that are full, read-only or gone: one clear message, and nothing that was saved is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Attempts, assert_same_run, checkpoint_names, said, steps_logged, trace, weights


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # whoever may still look into it


def test_a_full_disk_shows_at_the_first_step(attempts: Attempts, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(900_000))
    run = small_disk / "run"
    assert attempts.run(run) == 1
    assert "the disk is full" in said(run)
    assert "free some space; what is finished, and every checkpoint, is whole; nothing was saved before it" in said(run)
    assert steps_logged(run) <= 1
    assert not list((run / "base" / "checkpoints").glob("*checkpoint-*"))


def test_a_disk_that_fills_up_loses_nothing(attempts: Attempts, whole: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    assert attempts.run(run, save_total_limit=9) == 1
    assert "the disk is full" in said(run)
    assert "is kept, and the same command goes on from it" in said(run)
    last = max(int(path.name.rpartition("-")[2]) for path in (run / "base" / "checkpoints").iterdir())
    assert last >= 3
    moved = Path(shutil.copytree(run, whole.parent / "moved"))  # to a disk with room
    assert attempts.run(moved) == 0
    assert f"going on from step {last}" in said(moved)
    assert weights(moved) == weights(whole)
    assert trace(moved) == trace(whole)


def test_a_limit_on_file_sizes_is_named(attempts: Attempts, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert attempts.run(run, file_limit=60_000) == 1
    assert "checkpoint-1 is larger than a file may be here" in said(run)
    assert attempts.run(run) == 0
    assert weights(run) == weights(whole)


BETWEEN_SAVES = ("groundup.train.checkpoint.Checkpoints._is_memory_short", 3)
"""At step 9, when its save has waited for the one of step 6 and has not begun."""


# ---------------------------------------------------------------- read-only


@pytest.fixture
def mounts() -> Iterator[Callable[[Path], str]]:
    """The command that makes a folder read-only, whoever asks; undone when the test ends."""
    if os.geteuid() != 0:
        pytest.skip("mounting a folder read-only needs root")
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("folders cannot be mounted here")
    mounted: list[Path] = []

    def read_only(folder: Path) -> str:
        mounted.append(folder)
        return f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"

    yield read_only
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def test_a_folder_that_becomes_read_only(
    attempts: Attempts, whole: Path, tmp_path: Path, mounts: Callable[[Path], str]
) -> None:
    """The save of step 9 finds out, in the background, and a later step ends the run."""
    run = tmp_path / "run"
    checkpoints = run / "base" / "checkpoints"
    assert attempts.run(run, command_at=(*BETWEEN_SAVES, mounts(checkpoints))) == 1
    assert "no permission to write checkpoint-9" in said(run)
    assert "checkpoint-6 is kept, and the same command goes on from it" in said(run)
    assert 9 <= steps_logged(run) <= 12
    assert checkpoint_names(run) == {"checkpoint-3", "checkpoint-6"}
    assert attempts.run(run) == 1, "it still is"
    assert said(run).count("no permission to write checkpoint-9") == 2
    subprocess.run(["umount", str(checkpoints)], check=True)
    assert attempts.run(run) == 0
    assert_same_run(run, whole)


def test_a_disk_that_is_read_only_from_the_start(attempts: Attempts, small_disk: Path) -> None:
    run = small_disk / "run"
    (run / "base").mkdir(parents=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    told = small_disk.parent / "run.txt"
    assert attempts.run(run, said=told) == 1
    assert "no permission to write" in told.read_text()
    assert "make the folder writable" in told.read_text()


# ---------------------------------------------------------------- gone


def test_checkpoints_that_vanish_are_told_and_written_anew(attempts: Attempts, whole: Path, tmp_path: Path) -> None:
    """Everything that was in them is in memory still."""
    run = tmp_path / "run"
    checkpoints = run / "base" / "checkpoints"
    assert attempts.run(run, command_at=(*BETWEEN_SAVES, f"rm -r {checkpoints}")) == 0
    assert "the folder of the checkpoints was removed; it is made anew with checkpoint-9" in said(run)
    assert_same_run(run, whole)


def test_checkpoints_that_vanish_while_one_is_written(attempts: Attempts, whole: Path, tmp_path: Path) -> None:
    """In the backward pass of step 5, with the checkpoint of step 3 half on its way to a slow disk."""
    run = tmp_path / "run"
    move = f"mv {run}/base/checkpoints {run}/base/elsewhere"
    assert attempts.run(run, command_at=("torch.Tensor.backward", 9, move), slow_saves=0.06) == 0
    assert "the folder of the checkpoints was removed; it is made anew with checkpoint-3" in said(run)
    assert_same_run(run, whole)


def test_a_runs_folder_that_vanishes_ends_the_run(attempts: Attempts, whole: Path, tmp_path: Path) -> None:
    run, gone = tmp_path / "run", tmp_path / "gone"
    assert attempts.run(run, command_at=(*BETWEEN_SAVES, f"mv {run} {gone}")) == 1
    assert "the folder of this run is gone: could not write checkpoint-9" in said(run)
    assert not run.exists(), "nothing is written where a disk was"
    gone.rename(run)
    assert attempts.run(run) == 0
    assert "going on from step 6" in said(run)
    assert_same_run(run, whole)


def test_data_that_vanishes_while_it_is_used(attempts: Attempts, whole: Path, tmp_path: Path, tokens: Path) -> None:
    """Files that are open stay readable, so training ends; where data is cut off it stops, and goes on with it back."""
    data, run = Path(shutil.copytree(tokens, tmp_path / "data")), tmp_path / "run"
    cut = f"truncate -s 100 {data}/train-00000.bin"
    assert attempts.run(run, tokens=data, command_at=("torch.Tensor.backward", 15, cut)) == 1
    assert "the shard train-00000.bin ends at byte 100" in said(run)
    assert "bring the data back, then run the same command to go on" in said(run)
    assert attempts.run(run, tokens=data) == 2
    assert "the shard train-00000.bin has 100 bytes instead of" in said(run)
    shutil.rmtree(data)
    assert attempts.run(run, tokens=data) == 2
    assert "no token shards here" in said(run)
    shutil.copytree(tokens, data)
    assert attempts.run(run, tokens=data) == 0
    assert re.search("going on from step [69]", said(run)), "the batch of the next step may have been read already"
    assert_same_run(run, whole)


def test_data_that_is_moved_away_while_it_is_used(
    attempts: Attempts, whole: Path, tmp_path: Path, tokens: Path
) -> None:
    data, run = Path(shutil.copytree(tokens, tmp_path / "data")), tmp_path / "run"
    move = f"mv {data} {tmp_path}/elsewhere"
    assert attempts.run(run, tokens=data, command_at=("torch.Tensor.backward", 15, move)) == 0
    assert_same_run(run, whole)
