"""One task, whatever is done to it from outside: finished whole or not at all, and nothing of it stays behind."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from groundup.console import Console
from groundup.corpus import guard
from groundup.corpus.document import Document
from groundup.corpus.engines.local import local
from groundup.corpus.guard import Technical, TooSlow, time_limit
from groundup.corpus.phases import extract
from groundup.corpus.runner import Runner, without_unused
from groundup.corpus.tasks import Done, Failure, Outcome, Task, attempt, done_or_none, make_task, run_task
from groundup.errors import Stopped, UserError

from .conftest import HERE, PYTHONPATH

HOOKS = str(HERE / "hooks")


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.syspath_prepend(HOOKS)
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)  # of worker processes
    return make_task("step", "a shard", "fault_tasks:two_files", tmp_path / "work", code=["fault_tasks"])


def left_in(task: Task) -> list[str]:
    return sorted(path.name for path in (Path(task.root) / "step").iterdir())


def test_what_is_cleaned_away_under_a_task_is_never_finished_in_part(task: Task) -> None:
    with pytest.raises(UserError, match="taken away while it worked"):
        run_task(replace(task, hints={"cleaned": True}))
    assert left_in(task) == []
    assert set(run_task(task)["outputs"]) == {"first.json", "second.json"}


def test_of_two_attempts_at_the_same_time_the_quicker_one_counts(task: Task) -> None:
    record = run_task(replace(task, hints={"quicker": True}))
    done = done_or_none(task)
    assert done is not None and record["seconds"] == done.seconds
    assert left_in(task) == [task.folder.name]


def test_a_folder_with_a_file_cut_short_is_done_again(task: Task) -> None:
    run_task(task)
    (task.folder / "second.json").write_text("")
    assert done_or_none(task) is None
    run_task(task)
    assert json.loads((task.folder / "second.json").read_text()) == 2
    assert left_in(task) == [task.folder.name]


def test_a_stop_is_no_failure_of_the_task_or_of_a_document(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> str:
        raise Stopped("enough")

    with pytest.raises(Stopped):
        attempt(replace(task, hints={"stopped": True}))
    assert left_in(task) == []
    monkeypatch.setattr(extract, "raw_to_text", stopped)
    options = {"document_seconds": 9, "extract": "fast", "languages": [], "boilerplate": False, "signals": False}
    page = extract._Page(Document("id", "url", "", "text", "prose"), raw_bytes=4)
    with pytest.raises(Stopped):
        extract._try(extract._text, page, replace(task, options=options), Technical())


def test_plans_that_no_task_reads_go_with_the_tasks_that_did(task: Task) -> None:
    root = Path(task.root)
    (root / "plan").mkdir(parents=True)
    for name in ("shards-old.json", "shards-new.json"):
        (root / "plan" / name).write_text("{}")
    ours = replace(task, inputs=(("plan/shards-new.json", "digest"),))
    run_task(ours)
    done = done_or_none(ours)
    assert done is not None
    without_unused(root, [done])
    assert [path.name for path in (root / "plan").iterdir()] == ["shards-new.json"]
    assert ours.folder.is_dir()


# ---------------------------------------------------------------- limits


def test_a_limit_that_is_reached_in_its_last_moment_leaves_no_timer_running(monkeypatch: pytest.MonkeyPatch) -> None:
    real = signal.setitimer

    def late(which: int, seconds: float, interval: float = 0.0) -> tuple[float, float]:
        before = real(which, seconds, interval)
        if which == signal.ITIMER_VIRTUAL and not seconds:
            raise TooSlow  # the signal was under way
        return before

    monkeypatch.setattr(signal, "setitimer", late)
    with pytest.raises(TooSlow), time_limit(50, may_kill=True):
        pass
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0


def test_each_document_is_watched_by_itself_and_nobody_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HANG_SECONDS", 70.0)
    left = []
    for _ in guard.watched(range(3), may_kill=True):
        left.append(signal.getitimer(signal.ITIMER_PROF)[0])
        signal.setitimer(signal.ITIMER_PROF, 5.0)
    assert all(seconds > 60 for seconds in left)
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
    assert all(signal.getitimer(signal.ITIMER_PROF)[0] == 0 for _ in guard.watched(range(3), may_kill=False))


# ---------------------------------------------------------------- engine and runner


def test_what_a_worker_has_started_ends_with_it(task: Task, tmp_path: Path) -> None:
    hints = {"told": str(tmp_path / "pid")}
    tasks = [replace(task, function=f"fault_tasks:{name}", hints=hints) for name in ("with_a_child", "after_the_child")]
    tasks[1] = replace(tasks[1], fingerprint="b" * 64)
    with local(2) as run:
        answers = run(tasks)
        assert next(answers)[0] == 1
        child = psutil.Process(int((tmp_path / "pid").read_text()))
        answers.close()  # type: ignore[attr-defined]
        assert not psutil.wait_procs([child], timeout=30)[1]
    assert os.getpid() in psutil.pids()


def test_a_disk_that_fills_up_while_a_poison_is_looked_for_blames_no_document(task: Task) -> None:
    asked: list[Task] = []

    def run(tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        for number, one in enumerate(tasks):
            has_it = one.only is None or one.only[0] <= 5 < one.only[1]
            is_second = one in asked
            asked.append(one)
            if not has_it:
                yield number, {}
            elif one.only == (5, 6) and is_second:
                yield number, Failure("error", "the disk is full")
            else:
                yield number, Failure("died", "killed")

    runner = Runner(run, Path(task.root), Console(io.StringIO()))
    with pytest.raises(RuntimeError, match="the disk is full"):
        runner.phase("extracting", [replace(task, hints={"documents": 8})])
    assert not any(one.without for one in asked)


def test_a_task_that_is_finished_did_not_fail_where_only_its_answer_is_lost(task: Task) -> None:
    """Of Dask and Ray an answer may be lost with the worker, or the node, that keeps it."""

    def run(tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        for number, one in enumerate(tasks):
            run_task(one)
            yield number, Failure("died", "killed")

    said = io.StringIO()
    runner = Runner(run, Path(task.root), Console(said))
    (done,) = runner.phase("extracting", [replace(task, hints={"documents": 8})])
    assert set(done.outputs) == {"first.json", "second.json"}
    assert not runner.redone and "tried again" not in said.getvalue()


def test_done_carries_what_later_tasks_ask_for(task: Task) -> None:
    run_task(task)
    done = done_or_none(task)
    assert isinstance(done, Done)
    name, digest = done.input("first.json")
    assert (Path(task.root) / name).read_text() == "1\n" and len(digest) == 64
