"""A disk that fills up: one clear message, and with room again the build goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Corpus


@pytest.fixture
def small_disk(corpus: Corpus) -> Iterator[Path]:
    """A file system of one megabyte where builds called `small` work."""
    folder = corpus.root / "runs" / "small"
    folder.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_nothing_finished_is_lost(corpus: Corpus, small_disk: Path) -> None:
    whole = corpus.build("whole")
    said = corpus.failing("small")
    assert "the disk is full" in said
    assert "free some space" in said
    assert not (corpus.folder("small") / "funnel.json").exists()
    finished = corpus.stamps("small")
    assert finished
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert corpus.build("small") == whole
    assert all(corpus.stamps("small")[name] == stamp for name, stamp in finished.items())


def test_a_build_moved_to_another_folder_goes_on(corpus: Corpus) -> None:
    whole = corpus.build("first")
    extracted = corpus.extracted("first")
    shutil.copytree(corpus.root / "runs" / "first" / ".shards", corpus.root / "runs" / "moved" / ".shards")
    assert corpus.build("moved") == whole
    assert corpus.extracted("moved") == 0
    assert extracted > 0
