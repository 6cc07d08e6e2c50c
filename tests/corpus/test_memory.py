"""A task's peak of memory is its own, also in a process that did a larger one before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.corpus import memory
from groundup.corpus.engines.local import COMMAND
from groundup.corpus.tasks import attempt, done_from, make_task, task_to_json

from .conftest import Built

CAN = """
from groundup.corpus.memory import count_anew, peak_bytes
large = b"x" * 300_000_000
before = peak_bytes()
del large
print(count_anew(), before, peak_bytes())
"""


def can_count_anew() -> bool:
    said = subprocess.run([sys.executable, "-c", CAN], capture_output=True, text=True, check=True).stdout
    return said.startswith("True")


needs_reset = pytest.mark.skipif(not can_count_anew(), reason="the kernel does not count a process's peak anew here")


@needs_reset
def test_the_count_begins_anew() -> None:
    said = subprocess.run([sys.executable, "-c", CAN], capture_output=True, text=True, check=True).stdout.split()
    before, after = map(int, said[1:])
    assert before > 300_000_000
    assert after < before - 250_000_000


@needs_reset
def test_a_small_task_after_a_large_one_is_small(tmp_path: Path) -> None:
    """Both in one worker, as the local engine runs them."""
    (tmp_path / "eater.py").write_text(
        "def eat(task, out):\n    data = b'x' * task.options['bytes']\n    return {'held': len(data)}\n"
    )
    sizes = [1_000, 400_000_000, 1_000]
    lines = []
    for number, size in enumerate(sizes):
        task = make_task(
            "eat", f"{number}", "groundup.corpus.memory:peak_bytes", tmp_path, options={"bytes": size, "n": number}
        )
        lines.append(json.dumps(task_to_json(task) | {"function": "eater:eat"}))
    worker = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    records = []
    with worker:
        for line in lines:
            worker.stdin.write(line + "\n")
            worker.stdin.flush()
            records.append(json.loads(worker.stdout.readline())["record"])
        worker.stdin.close()
    assert all(record["peak_is_own"] for record in records)
    first, large, last = (record["peak_bytes"] for record in records)
    assert large > first + 350_000_000
    assert last < first + 50_000_000


def test_where_the_kernel_does_not_count_anew_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_RESET", tmp_path / "no" / "clear_refs")
    assert not memory.count_anew()
    monkeypatch.setattr(memory, "_RESET", tmp_path / "a-file-that-resets-nothing")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    assert not memory.count_anew(), "no status at all"
    assert memory.peak_bytes() > 1_000_000, "ru_maxrss then"
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t  900000 kB\nVmRSS:\t  100000 kB\n")
    assert memory.peak_bytes() == 900_000 * 1024
    assert not memory.count_anew(), "it was taken, and nothing came of it"


def test_a_process_that_does_other_things_too_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reset = tmp_path / "clear_refs"
    monkeypatch.setattr(memory, "_RESET", reset)
    task = make_task("index", "x", "groundup.corpus.phases.select:select", tmp_path, options={"sources": []})
    attempt(task)
    assert not reset.exists()
    attempt(task, is_worker=True)
    assert reset.exists()


def test_what_is_told_says_whose_peak_it_is(build: Callable[..., Built], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"Row {n} says that {n * 7919} is a number."}) + "\n" for n in range(50))
    )
    settings = {"sources": {"rows": {"type": "jsonl", "path": str(path)}}, "quality": None, "held_out": None}
    assert build("here", workers=0, **settings).json("timing.json")["peak_is_own"] is False
    assert build("there", workers=1, **settings).json("timing.json")["peak_is_own"] is can_count_anew()


def test_records_of_earlier_builds_are_of_the_process() -> None:
    task = make_task("index", "x", "groundup.corpus.phases.select:select", Path("/nowhere"))
    record = {"outputs": {}, "stats": {}, "seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 5}
    assert not done_from(task, record).peak_is_own
    assert done_from(task, record | {"peak_is_own": True}).peak_is_own
