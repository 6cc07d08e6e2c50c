"""A disk that is full, or that takes no large files: one clear message, and nothing that was saved is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Attempts, said, steps_logged, trace, weights


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
    assert "free some space; what is finished, and every checkpoint, is whole" in said(run)
    assert steps_logged(run) <= 1
    assert not list((run / "base" / "checkpoints").glob("*checkpoint-*"))


def test_a_disk_that_fills_up_loses_nothing(attempts: Attempts, whole: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    assert attempts.run(run, save_total_limit=9) == 1
    assert "the disk is full" in said(run)
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
