"""Slurm: the shards of a phase are an array job, and each of its jobs calls `groundup data run-shard`.

The build itself may run on the login node: it submits the array, takes what the jobs leave as they leave it, and asks
the queue who is still there. A job that is gone and left nothing died. All nodes see the same work folder.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from groundup.artifacts import read_json, write_atomic
from groundup.corpus import engines
from groundup.corpus.engines import Run
from groundup.corpus.tasks import (
    Failure,
    Outcome,
    Task,
    attempt,
    outcome_from_json,
    outcome_to_json,
    task_from_json,
    task_to_json,
)
from groundup.errors import EXIT_FAILED, UserError

MAX_JOBS = 1_000  # in one array: Slurm's default MaxArraySize is 1001; a job does every so manyth shard
FEW = 2  # fewer tasks than this are done here: a job in the queue would wait longer than they take
LOOK_SECONDS, MOST_LOOK_SECONDS = 0.2, 5.0  # between two looks
LATE_SECONDS = 10.0  # a file that a node wrote may be seen here so much later (NFS keeps folders for some seconds)
# Why a job that waits will wait for ever, in small letters: nothing but another submission helps.
HOPELESS = """partitiontimelimit partitionnodelimit badconstraints invalidaccount invalidqos accountnotallowed
qosnotallowed reservationdeleted launchfailed joblaunchfailure dependencyneversatisfied""".split()  # noqa: SIM905


@contextmanager
def slurm_tasks(options: str | None, workers: int | None) -> Iterator[Run]:
    """`run(tasks)` by array jobs. `options` go to sbatch as they are; at most `workers` jobs run at a time."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "engine `slurm` needs the command sbatch, which is not on this machine's path",
            where="engine",
            fix="start the run on a login node of the cluster, or engine: local",
        )
    cleaned: set[Path] = set()

    def run(tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        if len(tasks) < FEW and not any(task.only or task.without or task.hints.get("documents") for task in tasks):
            yield from ((index, attempt(task)) for index, task in enumerate(tasks))
            return
        root = Path(tasks[0].root)
        if root not in cleaned:
            _end_arrays_of_killed_builds(root)
            cleaned.add(root)
        folder = root / "slurm" / f"{tasks[0].step}-{os.getpid()}-{tasks[0].fingerprint[:12]}"
        shutil.rmtree(folder, ignore_errors=True)
        write_atomic(folder / "tasks.jsonl", "".join(json.dumps(task_to_json(task)) + "\n" for task in tasks))
        array = _submit(folder, min(len(tasks), MAX_JOBS), workers, options)
        try:
            yield from _outcomes(array, len(tasks))
        finally:
            array.end()

    yield run


@dataclass
class _Array:
    """An array in the queue."""

    folder: Path
    job: str
    jobs: int
    silent_since: float | None = None

    def waiting(self) -> list[str]:
        """Why each job that is still in the queue waits ("None": it runs); [] where none is left.

        A controller that does not answer has lost no job: UserError only where it is gone for long.
        """
        asked = _slurm(["squeue", "--noheader", f"--jobs={self.job}", "--format=%r"])
        if asked.returncode == 0 or "Invalid job id" in asked.stderr:
            self.silent_since = None
            return asked.stdout.splitlines() if asked.returncode == 0 else []
        now = time.monotonic()
        self.silent_since = self.silent_since or now
        if now - self.silent_since > engines.SILENT_SECONDS:
            raise UserError(
                f"Slurm has not answered for {engines.SILENT_SECONDS:,.0f} s: {asked.stderr.strip()[:300]}",
                where=f"job {self.job}",
                fix="when it is back, start the run again: finished shards are kept",
                exit_code=EXIT_FAILED,
            )
        return ["None"]

    def found(self, seen: set[int]) -> list[tuple[int, Outcome]]:
        """What jobs have left since the last look."""
        new = sorted({int(path.stem.removeprefix("outcome-")) for path in self.folder.glob("outcome-*.json")} - seen)
        return [(index, outcome_from_json(read_json(self.folder / f"outcome-{index}.json"))) for index in new]

    def how_it_ended(self, index: int) -> str:
        """As Slurm tells it, for some minutes after the end: OUT_OF_MEMORY, NODE_FAIL, TIMEOUT."""
        told = _slurm(["scontrol", "--oneliner", "show", "job", f"{self.job}_{index % self.jobs}"]).stdout
        return next((word.removeprefix("JobState=") for word in told.split() if word.startswith("JobState=")), "")

    def end(self) -> None:
        """Nothing of it stays in the queue or on disk."""
        if (self.folder / "job").exists():
            _slurm(["scancel", "--quiet", self.job])
        shutil.rmtree(self.folder, ignore_errors=True)


def _outcomes(array: _Array, count: int) -> Iterator[tuple[int, Outcome]]:
    seen: set[int] = set()
    pause, gone_since = LOOK_SECONDS, 0.0
    while len(seen) < count:
        time.sleep(pause)
        pause = min(1.3 * pause, MOST_LOOK_SECONDS)
        waiting = array.waiting()  # asked first: what a job leaves is there before it is gone
        for index, outcome in array.found(seen):
            seen.add(index)
            yield index, outcome
        if waiting:
            gone_since = 0.0
            if hopeless := next((why for why in waiting if _is_hopeless(why)), ""):
                raise UserError(
                    f"Slurm will never start job {array.job}: {hopeless}",
                    where=str(array.folder.parent.parent),
                    fix="put what your cluster asks for (partition, account, time, memory) into `address`",
                    exit_code=EXIT_FAILED,
                )
            continue
        gone_since = gone_since or time.monotonic()
        states = {index: array.how_it_ended(index) for index in sorted(set(range(count)) - seen)[:10]}
        is_late = "COMPLETED" in states.values() or "" in states.values()
        if is_late and time.monotonic() - gone_since < LATE_SECONDS:
            continue
        for index in sorted(set(range(count)) - seen):
            seen.add(index)
            state = f": {states[index]}" if states.get(index) else ""
            yield index, Failure("died", f"its Slurm job ended without a result{state}")
    with suppress(FileNotFoundError):
        (array.folder / "job").unlink()  # there is nothing left to cancel


def _is_hopeless(why: str) -> bool:
    plain = "".join(filter(str.isalpha, why.lower()))
    return any(word in plain for word in HOPELESS)


def _submit(folder: Path, jobs: int, workers: int | None, options: str | None) -> _Array:
    script = folder / "array.sh"
    write_atomic(script, _script(folder, jobs, workers, options))
    done = _slurm(["sbatch", "--parsable", str(script)])
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise UserError(
            f"sbatch refuses the array: {said[:300]}",
            where=str(script),
            fix="put what your cluster asks for (partition, account, time) into `address`",
            exit_code=EXIT_FAILED,
        )
    job = done.stdout.split()[-1].partition(";")[0]  # `ID` or `ID;CLUSTER`
    write_atomic(folder / "job", job)  # whoever finds it after a kill can end it
    return _Array(folder, job, jobs)


def _end_arrays_of_killed_builds(root: Path) -> None:
    """Jobs of a build that was killed would go on, beside those that do the same again."""
    for left in (root / "slurm").glob("*/job"):
        _Array(left.parent, left.read_text().strip(), 1).end()


def _slurm(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _script(folder: Path, jobs: int, workers: int | None, options: str | None) -> str:
    limit = f"%{workers}" if workers else ""
    command = [sys.executable, "-m", "groundup", "data", "run-shard", str((folder / "tasks.jsonl").absolute())]
    lines = [
        "#!/bin/bash",
        f"#SBATCH --array=0-{jobs - 1}{limit}",
        "#SBATCH --job-name=groundup-corpus",
        "#SBATCH --cpus-per-task=1",
        f"#SBATCH --output={shlex.quote(str(folder.absolute()).replace('%', '%%'))}/%a.log",
        *(f"#SBATCH {shlex.quote(word)}" for word in shlex.split(options or "")),
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"exec {shlex.join(command)} $SLURM_ARRAY_TASK_ID --stride {jobs}",
    ]
    return "\n".join(lines) + "\n"


def run_shards(tasks_file: Path, first: int, stride: int) -> int:
    """What one job of the array does: tasks `first`, `first + stride`, ... of the file. Returns how many failed."""
    failed = 0
    with open(tasks_file, encoding="utf-8") as file:
        for index, line in enumerate(file):
            if index % stride != first % stride:
                continue
            outcome = attempt(task_from_json(json.loads(line)), is_worker=True)
            write_atomic(tasks_file.with_name(f"outcome-{index}.json"), json.dumps(outcome_to_json(outcome)))
            if isinstance(outcome, Failure):
                failed += 1
                print(f"shard {index}: {outcome.what}", file=sys.stderr)
    return failed
