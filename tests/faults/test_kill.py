"""Kill it at any moment, start it again: the weights are those of a run that nobody disturbed."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from .conftest import SEED, Attempts, Whole, assert_same_run, checkpoint_names, said, steps_logged, trace

KILLS = 20
INSIDE_SAVES = {  # what a save does, and how often in an attempt at most
    "os.fsync": 40,
    "os.rename": 8,
    "os.unlink": 20,
    "groundup.train.checkpoint_storage.write_safetensors": 10,
}


def test_two_undisturbed_runs_are_the_same(attempts: Attempts, whole: Path, tmp_path: Path) -> None:
    assert attempts.run(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", whole)


def random_kill(chance: random.Random, whole: Whole) -> dict[str, Any]:
    """Anywhere, or at one of the system calls that a save is made of."""
    if chance.random() < 0.5:
        return {"cpu_seconds": chance.uniform(0.05, 0.4) * whole.cpu_seconds}
    function, most = chance.choice(list(INSIDE_SAVES.items()))
    return {"signal_at": (function, chance.randint(1, most), signal.SIGKILL)}


def test_twenty_random_kills_change_nothing(attempts: Attempts, undisturbed: Whole, tmp_path: Path) -> None:
    """One run after the other, each killed and started again until it is done, until there were twenty kills."""
    print(f"FAULTS_SEED={SEED}")
    chance, kills, in_saves, number = random.Random(SEED), 0, 0, 0
    while kills < KILLS:
        run, number, unlucky = tmp_path / str(number), number + 1, 0
        while True:
            is_left_alone = kills >= KILLS or unlucky > 12
            how = {} if is_left_alone else random_kill(chance, undisturbed)
            code = attempts.run(run, slow_saves=0.003, **how)
            assert code in (0, -signal.SIGKILL, -signal.SIGPROF), said(run)
            if code == 0:
                break
            kills, unlucky = kills + 1, unlucky + 1
            in_saves += any((run / "base" / "checkpoints").glob(".checkpoint-*"))
        assert_same_run(run, undisturbed.run)
        assert not list((run / "base" / "checkpoints").glob(".checkpoint-*"))
    print(f"{kills} kills in {number} runs, {in_saves} of them inside a save")
    assert in_saves


@pytest.mark.parametrize(
    ("operation", "calls"),
    [
        ("fsync", [4, 6, 8, 9, 10, 11, 13, 22]),  # after each file, after the marker, after the rename, ...
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


def test_sigkill_in_training_while_a_checkpoint_is_being_written(
    attempts: Attempts, whole: Path, tmp_path: Path
) -> None:
    """In the backward pass of step 5, with the checkpoint of step 3 half on its way to a slow disk."""
    run = tmp_path / "run"
    code = attempts.run(run, signal_at=("torch.Tensor.backward", 9, signal.SIGKILL), slow_saves=0.5)
    assert code == -signal.SIGKILL
    assert checkpoint_names(run) == {"checkpoint-1", ".checkpoint-3.tmp"}
    assert steps_logged(run) == 4
    assert attempts.run(run) == 0
    assert "going on from step 1" in said(run)
    assert_same_run(run, whole)


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
    ("function", "call", "slow_saves"),
    [
        ("torch.Tensor.backward", 14, None),  # of step 7
        ("torch.Tensor.backward", 14, 0.02),  # while the checkpoint of step 6 is on its way to the disk
        ("groundup.train.engine.Checkpoints.save", 3, None),  # after step 6: the step to finish is the next
    ],
)
def test_asked_to_stop_it_finishes_the_step_saves_and_says_so(
    attempts: Attempts,
    whole: Path,
    tmp_path: Path,
    function: str,
    call: int,
    slow_saves: float | None,
    number: int,
    code: int,
) -> None:
    run = tmp_path / "run"
    assert attempts.run(run, signal_at=(function, call, number), slow_saves=slow_saves) == code
    assert steps_logged(run) == 7
    assert "base is saved at step 7" in said(run)
    assert checkpoint_names(run) == {"checkpoint-6", "checkpoint-7"}
    assert (run / "base" / "checkpoints" / "checkpoint-7" / "COMPLETE").exists()
    assert attempts.run(run) == 0
    assert "going on from step 7" in said(run)
    assert_same_run(run, whole)


def test_a_newest_checkpoint_that_rots_is_named_and_the_one_before_used(
    attempts: Attempts, whole: Path, tmp_path: Path
) -> None:
    """Any byte of any file, cut off anywhere, or gone."""
    print(f"FAULTS_SEED={SEED}")
    chance, stopped = random.Random(SEED), tmp_path / "stopped"
    assert attempts.run(stopped, signal_at=("torch.Tensor.backward", 29, signal.SIGTERM)) == 75
    names = sorted(path.name for path in (stopped / "base" / "checkpoints" / "checkpoint-12").iterdir())
    assert checkpoint_names(stopped) == {"checkpoint-12", "checkpoint-15"}
    for name, how in zip(chance.sample(names, 3), ("flip", "cut", "remove"), strict=True):
        run = Path(shutil.copytree(stopped, tmp_path / how))
        file = run / "base" / "checkpoints" / "checkpoint-15" / name
        data = bytearray(file.read_bytes())
        place = chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        if how == "flip":
            file.write_bytes(data)
        elif how == "cut":
            file.write_bytes(data[:place])
        else:
            file.unlink()
        assert attempts.run(run) == 0
        assert "checkpoint-15 is damaged (" in said(run), (name, how, place)
        assert name in said(run) or name == "COMPLETE", "what the marker says of another file is wrong"
        assert "checkpoint-12 is used" in said(run)
        assert_same_run(run, whole)


# ---------------------------------------------------------------- two processes, in shared memory


def test_kills_of_two_processes_that_train_together(attempts: Attempts, tmp_path: Path) -> None:
    """One of them, the other, and the main one inside a save: the run ends, and goes on where it was saved."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert attempts.run(whole, processes=2) == 0
    kills = [
        (1, "torch.Tensor.backward", 8),
        (0, "torch.Tensor.backward", 12),
        (0, "os.fsync", 15),
        (0, "os.rename", 2),
    ]
    for rank, function, call in kills:
        code = attempts.run(
            run, processes=2, disturbed_rank=rank, signal_at=(function, call, signal.SIGKILL), slow_saves=0.01
        )
        assert code == (1 if rank else -signal.SIGKILL)
    assert "process 1 of the 2 that train together has ended" in said(run)
    assert attempts.run(run, processes=2) == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(
    attempts: Attempts, whole: Path, tmp_path: Path, before: int, after: int
) -> None:
    """The same rows in the same order; the numbers differ by the order of additions."""
    run = tmp_path / "run"
    kill = ("torch.Tensor.backward", 12 if before == 2 else 24, signal.SIGKILL)
    assert attempts.run(run, processes=before, signal_at=kill) == -signal.SIGKILL
    assert attempts.run(run, processes=after) == 0
    assert "going on from step" in said(run)
    for one, other in zip(trace(run), trace(whole), strict=True):
        step, loss, rate, norm, tokens, _ = one
        assert (step, rate, tokens) == (other[0], other[2], other[4])
        assert (loss, norm) == (pytest.approx(other[1], rel=1e-3), pytest.approx(other[3], rel=1e-2))  # in bfloat16
