"""Kill it at any moment, start it again: the weights are those of a run that nobody disturbed."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from .conftest import SETTINGS, Attempts, Whole, said, steps_logged, trace, weights


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
def test_being_killed_at_random_moments_changes_nothing(
    attempts: Attempts, undisturbed: Whole, tmp_path: Path, seed: int
) -> None:
    run, chance, killed = tmp_path / "run", random.Random(seed), 0
    for _ in range(6):
        code = attempts.run(run, cpu_seconds=chance.uniform(0.05, 0.3) * undisturbed.cpu_seconds)
        assert code in (0, -signal.SIGPROF)
        killed += code != 0
    assert killed, "an attempt needs more than a third of the work of a whole run"
    assert attempts.run(run) == 0
    assert_same_run(run, undisturbed.run)


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
        assert attempts.run(run, signal_at=(f"os.{operation}", call, signal.SIGKILL)) == -signal.SIGKILL
        was_half_done |= any((run / "base" / "checkpoints").glob(".checkpoint-*"))
    assert was_half_done, "no kill fell into a save"
    assert attempts.run(run) == 0
    assert_same_run(run, whole)
    assert not list((run / "base" / "checkpoints").glob(".checkpoint-*"))


def test_sigkill_while_the_model_is_written_changes_nothing(attempts: Attempts, whole: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "run" / "base" / "model"
    for function, call in (
        ("groundup.train.pretrain.save_model", 1),  # the tokenizer is there, the weights are not
        ("groundup.model.files.write_safetensors", 1),
        ("groundup.model.files.sync_folder", 1),  # a file has its name, the folder is not yet on disk
    ):
        assert attempts.run(run, signal_at=(function, call, signal.SIGKILL)) == -signal.SIGKILL
        assert (model / "tokenizer.json").exists()
    assert attempts.run(run) == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize(
    ("function", "call"), [("torch.Tensor.backward", 14), ("groundup.train.engine.Checkpoints.save", 3)]
)
def test_asked_to_stop_it_finishes_the_step_saves_and_says_so(
    attempts: Attempts, whole: Path, tmp_path: Path, function: str, call: int, number: int, code: int
) -> None:
    """In the backward pass of step 7; in the save after step 6, where the step to finish is the next."""
    run = tmp_path / "run"
    assert attempts.run(run, signal_at=(function, call, number)) == code
    assert steps_logged(run) == 7
    assert "base is saved at step 7" in said(run)
    assert (run / "base" / "checkpoints" / "checkpoint-7" / "COMPLETE").exists()
    assert attempts.run(run) == 0
    assert "going on from step 7" in said(run)
    assert_same_run(run, whole)
