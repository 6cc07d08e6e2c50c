"""One command, several processes on this machine: started by the run itself, or by torchrun."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from groundup.cli import verbs
from groundup.console import Console
from groundup.errors import UserError
from groundup.recipe import load_recipe
from groundup.workflow.processes import Processes, processes_for, share_micro_batches
from groundup.workflow.run import run_recipe
from groundup.workflow.run_folder import unfinished_work

from .commands import (
    GROUNDUP,
    TORCHRUN,
    Command,
    trace,
    wait_for_step,
    wait_until_gone,
    weights,
    write_recipe,
    write_tokens,
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("shards") / "tokens")


@pytest.fixture
def recipe(tmp_path: Path, tokens: Path) -> Path:
    return write_recipe(tmp_path, tokens)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tokens: Path) -> Path:
    """The run of two processes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    command = Command([*GROUNDUP, "run", write_recipe(folder, tokens), "--processes", "2"], folder)
    assert command.wait() == 0, command.said()
    assert "base: 2 processes" in command.said()
    return folder / "runs" / "run"


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    """What a test has started; none of it outlives the test."""
    started: list[Command] = []
    yield started
    for command in started:
        command.stop()


# ---------------------------------------------------------------- how many


@pytest.mark.parametrize(
    ("size", "accumulation", "processes", "expected"),
    [
        (8, 1, 2, (4, 2)),  # one micro-batch becomes two
        (8, 2, 2, (8, 2)),  # there is one for each already
        (8, 3, 2, (6, 4)),  # 3 would leave one with 16 rows of 24, 4 of 6 rows are even
        (16, 1, 3, (8, 2)),
        (1, 1, 4, (1, 1)),
    ],
)
def test_the_rows_of_a_step_are_cut_so_that_all_have_their_share(
    size: int, accumulation: int, processes: int, expected: tuple[int, int]
) -> None:
    got = share_micro_batches(size, accumulation, processes)
    assert got[0] * got[1] == size * accumulation
    busiest = [-(-number // processes) * rows for rows, number in (got, expected)]
    assert busiest[0] <= busiest[1]
    assert got[0] <= size


def test_auto_uses_processes_where_they_pay(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.workflow.processes.cores", lambda: 4)
    monkeypatch.setattr("groundup.workflow.processes.available_memory_bytes", lambda: 11e9)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def number(flops: float | None, *settings: str, memory: float = 1e9, parameters: float = 1e6) -> int:
        words = ["base.sequence_len=64", "base.micro_batch_size=64", *settings]
        plan = {"flops": flops, "memory_bytes": memory, "parameters": parameters}
        return processes_for(load_recipe(str(recipe), words).stages["base"], None, plan)

    assert number(1e14) == 4
    assert number(5e12) == 2
    assert number(3e12) == number(None) == 1, "over before the others have started"
    assert number(None, "base.time_limit=3m") == 4
    assert number(1e14, parameters=135e6) == 1, "4,096 tokens are too few for so many gradients"
    assert number(1e14, "base.gradient_accumulation_steps=4", parameters=135e6) == 4
    assert number(None, "base.time_limit=10s") == 1
    assert number(1e14, "base.micro_batch_size=32") == 2, "too few tokens for four"
    assert number(1e14, memory=7e9) == 2, "8.8 GB for 7, and 1.75 for each more"
    assert number(1, "base.dp_shard_size=2", "base.tensor_parallel_size=2") == 4, "what the recipe's layout needs"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert number(1e14) == 1, "the person wants one core to be used"


def test_unfinished_work_keeps_its_number_of_processes_unless_the_layout_is_a_new_one(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groundup.workflow.processes.cores", lambda: 4)

    def number(before: int, *settings: str) -> int:
        stage = load_recipe(str(recipe), list(settings)).stages["base"]
        return Processes(None).size_for(stage, tmp_path, before)

    assert number(3) == 3, "the plan alone says 1"
    assert number(1, "base.context_parallel_size=2") == 2
    assert number(4, "base.context_parallel_size=2") == 4, "two copies of the model, of two processes each"
    assert number(4, "base.dp_shard_size=2") == 2
    assert number(4, "base.dp_shard_size=1") == 1


def test_a_layout_that_the_processes_do_not_fit_is_refused_before_anything_starts(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        verbs.run(str(recipe), ["base.tensor_parallel_size=2"], home=tmp_path, processes="3")
    assert "base: tensor_parallel_size 2 is a layout of a multiple of 2 processes, not of 3" in str(refused.value)
    assert "start 2 with torchrun" in str(refused.value)
    assert not (tmp_path / "run" / ".work").exists()


def test_in_how_many_processes_a_stage_was_begun_is_known_after_kill(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL leaves no moment to write it down, so it is written before the stage runs."""
    seen = []

    def look(run: Any, stage: Any, work: Any, *_: Any) -> Any:
        left = unfinished_work(run.folder, stage.name)
        assert left is not None
        seen.append((work.processes, left.processes))
        raise KeyboardInterrupt

    monkeypatch.setattr("groundup.workflow.run._run_one", look)
    monkeypatch.setattr(Processes, "size_for", lambda *_, before: before or 3)
    run_recipe(load_recipe(str(recipe), []), home=tmp_path, console=Console(quiet=True))
    assert seen == [(3, 3)]


def test_what_is_no_number_of_processes_is_said(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--processes takes a number or auto, not 'many'"):
        verbs.run(str(recipe), [], home=tmp_path, processes="many")


# ---------------------------------------------------------------- started by the run


def test_two_processes_train_what_one_does_and_the_same_bits_each_time(
    whole: Path, recipe: Path, tmp_path: Path, commands: list[Command]
) -> None:
    for name, processes in (("one", 1), ("again", 2)):
        words = [*GROUNDUP, "run", recipe, f"name={name}", "--processes", str(processes)]
        commands.append(Command(words, tmp_path))
    assert [command.wait() for command in commands] == [0, 0]
    assert weights(tmp_path / "runs/again") == weights(whole)
    assert trace(tmp_path / "runs/again", "step", "loss") == trace(whole, "step", "loss")
    alone, together = trace(tmp_path / "runs/one", "loss"), trace(whole, "loss")
    assert alone[:10] == pytest.approx(together[:10], rel=1e-5)
    assert alone == pytest.approx(together, rel=5e-5), "sums in another order: their rounding grows with the steps"
    assert not list((tmp_path / "runs/again/base").glob("checkpoints"))


@pytest.mark.slow
@pytest.mark.parametrize("who", ["helper", "main"])
def test_asked_to_stop_all_finish_the_step_and_save(
    who: str, whole: Path, recipe: Path, tmp_path: Path, commands: list[Command]
) -> None:
    words = [*GROUNDUP, "run", recipe, "--processes", "2"]
    run = tmp_path / "runs/run"
    commands.append(first := Command(words, tmp_path))
    wait_for_step(run, 5, first)
    helpers = first.descendants("groundup.workflow.worker")
    assert len(helpers) == 1
    os.kill(helpers[0] if who == "helper" else first.process.pid, signal.SIGTERM)
    assert first.wait() == 75, first.said()
    assert "base is saved at step" in first.said()
    wait_until_gone(helpers)
    commands.append(second := Command(words, tmp_path))
    assert second.wait() == 0, second.said()
    assert weights(run) == weights(whole)
    assert trace(run, "step", "loss") == trace(whole, "step", "loss")


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_the_same_command_goes_on(
    whole: Path, recipe: Path, tmp_path: Path, commands: list[Command]
) -> None:
    words = [*GROUNDUP, "run", recipe, "--processes", "2"]
    run = tmp_path / "runs/run"
    commands.append(first := Command(words, tmp_path))
    wait_for_step(run, 6, first)
    helpers = first.descendants("groundup.workflow.worker")
    os.kill(helpers[0], signal.SIGKILL)
    assert first.wait(30) == 1
    assert "process 1" in first.said()
    assert "SIGKILL" in first.said() or "was it killed?" in first.said()

    commands.append(second := Command(words, tmp_path))
    wait_for_step(run, 12, second)
    helpers = second.descendants("groundup.workflow.worker")
    os.kill(second.process.pid, signal.SIGKILL)
    second.wait()
    wait_until_gone(helpers)

    commands.append(third := Command(words, tmp_path))
    assert third.wait() == 0, third.said()
    assert weights(run) == weights(whole)
    assert trace(run, "step", "loss") == trace(whole, "step", "loss")


# ---------------------------------------------------------------- started by torchrun


def torchrun(recipe: Path, *words: str) -> list[str | Path]:
    return [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "-m", "groundup", "run", recipe, *words]


@pytest.mark.slow
def test_the_same_command_under_torchrun(whole: Path, recipe: Path, tmp_path: Path, commands: list[Command]) -> None:
    """Whoever is asked to stop, all of them do; torchrun counts that as a failure, and starting it again goes on."""
    run = tmp_path / "runs/run"
    commands.append(first := Command(torchrun(recipe), tmp_path))
    wait_for_step(run, 5, first)
    ranks = first.descendants("groundup run")[-2:]
    os.kill(ranks[1], signal.SIGTERM)
    assert first.wait() != 0
    assert "base is saved at step" in first.said()
    wait_until_gone(ranks)
    commands.append(second := Command(torchrun(recipe), tmp_path))
    assert second.wait() == 0, second.said()
    assert weights(run) == weights(whole)
    assert second.said().count("base done in") == 1, "only one of them speaks"


@pytest.mark.slow
def test_what_is_wrong_ends_all_that_torchrun_started(recipe: Path, tmp_path: Path, commands: list[Command]) -> None:
    commands.append(missing := Command(torchrun(recipe, "base.tokens=nowhere/tokens"), tmp_path))
    assert missing.wait(60) != 0
    assert "nowhere/tokens" in missing.said()

    recipe.write_text(
        recipe.read_text()
        + "  aligned: {stage: ppo, base_model: base, verifier: true, datasets: [{tasks: [successor], rows: 20}]}\n"
    )
    commands.append(ppo := Command(torchrun(recipe), tmp_path))
    assert ppo.wait(60) != 0
    assert "aligned: ppo trains in one process, and torchrun started 2" in ppo.said()
    assert not (tmp_path / "runs/run/base").exists(), "refused before anything is trained"
