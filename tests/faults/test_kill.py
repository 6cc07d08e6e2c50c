"""Kill it at any moment, start it again: the weights are those of a run that nobody disturbed."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from .conftest import SETTINGS, Attempts, said, steps_logged, trace, weights


def assert_same_run(run: Path, whole: Path) -> None:
    assert weights(run) == weights(whole)
    steps = [row[0] for row in trace(run)]
    assert steps == list(range(1, SETTINGS["max_steps"] + 1))
    assert trace(run) == trace(whole)
    samples = "base/samples.jsonl"
    assert (run / samples).read_text() == (whole / samples).read_text()


def test_two_undisturbed_runs_are_the_same(attempts: Attempts, whole: Path, tmp_path: Path) -> None:
    assert attempts.run(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("seed", [1, 2])
def test_sigkill_at_random_moments_changes_nothing(attempts: Attempts, whole: Path, tmp_path: Path, seed: int) -> None:
    run, chance = tmp_path / "run", random.Random(seed)
    killed = 0
    for _ in range(5):
        after, delay = steps_logged(run) + chance.randint(0, 12), chance.uniform(0, 0.03)

        def moment(after: int = after, delay: float = delay) -> bool:
            if steps_logged(run) < after:
                return False
            time.sleep(delay)
            return True

        killed += attempts.kill_when(run, moment, signal.SIGKILL) == -signal.SIGKILL
    assert killed >= 2
    assert attempts.run(run) == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize(
    ("operation", "calls"),
    [
        ("fsync", [2, 4, 6, 8, 9, 10, 11, 13, 20]),  # after each file, after the marker, after the rename, ...
        ("rename", [1, 2, 3, 5]),  # before the new checkpoint has its name, before an old one loses it
        ("unlink", [2, 4, 7]),  # half way through deleting an old one
    ],
)
def test_sigkill_inside_a_save_changes_nothing(
    attempts: Attempts, whole: Path, tmp_path: Path, operation: str, calls: list[int]
) -> None:
    run, was_half_done = tmp_path / "run", False
    for call in calls:
        assert attempts.run(run, die=[operation, call]) == -signal.SIGKILL
        was_half_done |= any((run / "base" / "checkpoints").glob(".checkpoint-*"))
    assert was_half_done, "no kill fell into a save"
    assert attempts.run(run) == 0
    assert_same_run(run, whole)
    assert not list((run / "base" / "checkpoints").glob(".checkpoint-*"))


def test_sigkill_while_the_model_is_written_changes_nothing(attempts: Attempts, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    attempts.kill_when(run, lambda: (run / "base" / "model").exists(), signal.SIGKILL)
    assert attempts.run(run) == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_asked_to_stop_it_finishes_the_step_saves_and_says_so(
    attempts: Attempts, whole: Path, tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "run"
    assert attempts.kill_when(run, lambda: steps_logged(run) >= 7, number) == code
    step = steps_logged(run)
    assert f"base is saved at step {step}" in said(run)
    assert (run / "base" / "checkpoints" / f"checkpoint-{step}" / "COMPLETE").exists()
    assert attempts.run(run) == 0
    assert f"going on from step {step}" in said(run)
    assert_same_run(run, whole)
