"""Builds and workers that are killed: at most one shard per worker is done again, and the result is the same bytes."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from groundup.errors import EXIT_INTERRUPTED, EXIT_STOPPED

from .conftest import DOCUMENTS, SHARD_BYTES, Corpus, kill_everything, prose, workers_of

PER_SHARD = SHARD_BYTES // 600  # documents, at most
WORKERS = 2


def test_everything_killed_at_random_moments_goes_on(corpus: Corpus) -> None:
    whole = corpus.build("whole")
    once = corpus.extracted("whole")
    assert once == DOCUMENTS + 4
    corpus.slow = 0.01
    rng = random.Random(11)
    kills = 0
    for _ in range(4):
        process = corpus.start("killed")
        time.sleep(1.0 + 1.5 * rng.random())
        if process.poll() is None:
            kill_everything(process)
            kills += 1
    assert kills >= 2, "it was to be killed while it works"
    finished = corpus.stamps("killed")
    assert corpus.build("killed") == whole
    after = corpus.stamps("killed")
    assert all(after[name] == stamp for name, stamp in finished.items()), "what was finished is not touched again"
    assert once <= corpus.extracted("killed") <= once + kills * WORKERS * PER_SHARD
    assert not list((corpus.root / "runs" / "killed" / ".shards").rglob("*.tmp"))


def test_a_worker_that_hangs_in_c_ends_with_its_build(poisoned: Callable[..., Corpus]) -> None:
    corpus = poisoned("POISON-HANG")
    process = corpus.start("hanging", workers=1, document_seconds=600)
    deadline = time.monotonic() + 60
    while not (workers := workers_of(process)) or "0.jsonl:102" not in corpus.log_text("hanging"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not psutil.wait_procs(workers, timeout=30)[1], "a worker outlives its build"


def test_a_killed_build_leaves_no_worker_behind(corpus: Corpus) -> None:
    corpus.slow = 0.05
    process = corpus.start("orphans")
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while len(workers) < WORKERS and time.monotonic() < deadline:
        workers = workers_of(process)
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)  # only the build: its workers have to notice by themselves
    process.communicate()
    assert len(workers) == WORKERS
    assert not psutil.wait_procs(workers, timeout=60)[1], "a worker outlives its build"


def test_killed_workers_are_replaced_and_their_shards_done_again(corpus: Corpus) -> None:
    whole = corpus.build("whole")
    once = corpus.extracted("whole")
    corpus.slow = 0.01
    process = corpus.start("killed")
    rng = random.Random(3)
    kills = 0
    while kills < 2 and process.poll() is None:
        time.sleep(0.8 + rng.random())
        if workers := workers_of(process):
            rng.choice(workers).kill()
            kills += 1
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert kills == 2
    assert out.split()[-1] == whole
    assert "its process was killed by SIGKILL; it is tried again" in said
    assert once <= corpus.extracted("killed") <= once + kills * PER_SHARD
    assert not any("killed the process" in row["reason"] for row in corpus.drops("killed")), "nobody is blamed for it"


@pytest.mark.parametrize("workers", [WORKERS, 0])
def test_a_build_that_is_told_twice_to_stop_leaves_nothing_running_and_goes_on(corpus: Corpus, workers: int) -> None:
    corpus.slow = 0.01
    process = corpus.start("stopped", workers=workers)
    deadline = time.monotonic() + 120
    while corpus.extracted("stopped") < 30 and time.monotonic() < deadline:
        time.sleep(0.02)
    family = workers_of(process)
    assert len(family) == workers
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (EXIT_INTERRUPTED, EXIT_STOPPED), said
    assert not psutil.wait_procs(family, timeout=30)[1], "a worker outlives its build"
    finished = corpus.stamps("stopped")
    assert finished and not corpus.drops("stopped")
    corpus.slow = 0
    assert corpus.build("stopped") == corpus.build("whole")
    assert all(corpus.stamps("stopped")[name] == stamp for name, stamp in finished.items())


@pytest.mark.slow
def test_another_number_of_workers_goes_on_with_the_same_shards(corpus: Corpus) -> None:
    whole = corpus.build("whole", workers=1)
    corpus.slow = 0.01
    process = corpus.start("killed", workers=2)
    time.sleep(2.5)
    kill_everything(process)
    corpus.slow = 0
    finished = corpus.stamps("killed")
    assert corpus.build("killed", workers=1) == whole
    assert all(corpus.stamps("killed")[name] == stamp for name, stamp in finished.items())


# ---------------------------------------------------------------- what is done again when something changes

BELOW = {  # setting -> steps that are done again, wholly or for the shards that it changed
    "quality": {"filter", "keys", "match", "finish", "select", "write"},
    "near_duplicate_threshold": {"keys", "match", "finish", "select", "write"},
    "pii": {"finish", "select", "write"},
    "held_out": {"select", "write"},
    "mixture": set(),
}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("quality", {"min_words": 130}),
        pytest.param("near_duplicate_threshold", 0.6, marks=pytest.mark.slow),
        ("pii", ["email"]),
        pytest.param("held_out", {"share": 0.3}, marks=pytest.mark.slow),
        pytest.param("mixture", {"rows": 2.0}, marks=pytest.mark.slow),
    ],
)
def test_a_changed_setting_repeats_its_step_and_those_below(corpus: Corpus, setting: str, value: object) -> None:
    corpus.build("built")
    before, extracted = _by_step(corpus), corpus.extracted("built")
    corpus.build("built", **{setting: value})
    after = _by_step(corpus)
    assert corpus.extracted("built") == extracted
    redone = {step for step in after if after[step] != before[step]}
    assert redone <= BELOW[setting]
    if BELOW[setting]:
        first = next(step for step in ("filter", "keys", "match", "finish", "select") if step in BELOW[setting])
        assert not set(after[first]) & set(before[first]), f"every task of {first} is done again"
    assert corpus.build("fresh", **{setting: value}) == corpus.build("built", **{setting: value})


def test_another_file_in_the_source_is_all_that_is_read_and_extracted(corpus: Corpus) -> None:
    corpus.build("built")
    before, extracted = _by_step(corpus), corpus.extracted("built")
    (corpus.root / "source" / "4.jsonl").write_text('{"text": "' + prose(999) + '"}\n')
    corpus.build("built")
    after = _by_step(corpus)
    assert corpus.extracted("built") == extracted + 1
    for step in ("read", "extract", "filter", "keys"):
        assert len(set(after[step]) - set(before[step])) == 1, step
    assert prose(999) in corpus.documents("built")


@pytest.mark.slow
def test_a_setting_put_back_finds_nothing_to_read_again(corpus: Corpus) -> None:
    first = corpus.build("built")
    extracted = corpus.extracted("built")
    corpus.build("built", near_duplicate_threshold=None)
    assert corpus.build("built") == first
    assert corpus.extracted("built") == extracted


def _by_step(corpus: Corpus) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for path in (corpus.root / "runs" / "built" / ".shards").rglob("task.json"):
        found.setdefault(Path(path).parent.parent.name, {})[path.parent.name] = path.stat().st_mtime_ns
    return found
