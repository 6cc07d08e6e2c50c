"""Slurm: the shards of a phase are an array job, and each of its jobs calls `groundup data run-shard`.

The build itself may run on the login node: it writes the array's script, waits for it (`sbatch --wait`), and looks at
what the jobs left. A job that left nothing died, whatever of. All nodes see the same work folder.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from groundup.artifacts import read_json, write_atomic
from groundup.corpus.engines import Run
from groundup.corpus.tasks import (
    Failure,
    Outcome,
    Task,
    attempt,
    done_or_none,
    outcome_from_json,
    outcome_to_json,
    task_from_json,
    task_to_json,
)
from groundup.errors import EXIT_FAILED, UserError

MAX_JOBS = 1_000  # in one array: Slurm's default MaxArraySize is 1001; a job does every so manyth shard
FEW = 2  # fewer tasks than this are done here: a job in the queue would wait longer than they take


@contextmanager
def slurm_tasks(options: str | None, workers: int | None) -> Iterator[Run]:
    """`run(tasks)` by array jobs. `options` go to sbatch as they are; at most `workers` jobs run at a time."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "engine `slurm` needs the command sbatch, which is not on this machine's path",
            where="engine",
            fix="start the run on a login node of the cluster, or engine: local",
        )

    def run(tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        if len(tasks) < FEW and not any(task.only or task.without or task.hints.get("documents") for task in tasks):
            yield from ((index, attempt(task)) for index, task in enumerate(tasks))
            return
        root = Path(tasks[0].root)
        folder = root / "slurm" / f"{tasks[0].step}-{os.getpid()}-{tasks[0].fingerprint[:12]}"
        shutil.rmtree(folder, ignore_errors=True)
        write_atomic(folder / "tasks.jsonl", "".join(json.dumps(task_to_json(task)) + "\n" for task in tasks))
        jobs = min(len(tasks), MAX_JOBS)
        script = _script(folder, jobs, workers, options)
        write_atomic(folder / "array.sh", script)
        done = subprocess.run(
            ["sbatch", "--wait", str(folder / "array.sh")], capture_output=True, text=True, check=False
        )
        # sbatch gives back the worst exit code of the jobs; what each of them left says more
        if done.returncode and not any(folder.glob("outcome-*.json")) and not any(map(done_or_none, tasks)):
            said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
            raise UserError(
                f"sbatch did not run the array: {said[:300]}",
                where=str(folder / "array.sh"),
                fix="put what your cluster asks for (partition, account, time) into `address`",
                exit_code=EXIT_FAILED,
            )
        for index, task in enumerate(tasks):
            if (finished := done_or_none(task)) is not None:
                yield index, read_json(finished.task.folder / "task.json")
            elif (left := folder / f"outcome-{index}.json").is_file():
                yield index, outcome_from_json(read_json(left))
            else:
                yield index, Failure("died", "its Slurm job ended without a result")
        shutil.rmtree(folder, ignore_errors=True)

    yield run


def _script(folder: Path, jobs: int, workers: int | None, options: str | None) -> str:
    limit = f"%{workers}" if workers else ""
    command = [sys.executable, "-m", "groundup", "data", "run-shard", str((folder / "tasks.jsonl").absolute())]
    lines = [
        "#!/bin/bash",
        f"#SBATCH --array=0-{jobs - 1}{limit}",
        "#SBATCH --job-name=groundup-corpus",
        "#SBATCH --cpus-per-task=1",
        f"#SBATCH --output={folder.absolute()}/%a.log",
        *(f"#SBATCH {word}" for word in shlex.split(options or "")),
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
            outcome = attempt(task_from_json(json.loads(line)))
            if isinstance(outcome, Failure):
                failed += 1
                content = json.dumps(outcome_to_json(outcome))
                write_atomic(tasks_file.with_name(f"outcome-{index}.json"), content)
                print(f"shard {index}: {outcome.what}", file=sys.stderr)
    return failed
