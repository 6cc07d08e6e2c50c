"""Processes on this machine. Not threads: HTML parsers crash and hang under threads, and a process can be replaced.

Each worker has its own pipe, so it is known which task a dead one had, and the others go on undisturbed. (A shared
pool, concurrent.futures or multiprocessing, breaks as a whole or waits for ever when one of its processes is killed.)
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from groundup.corpus.engines import Run
from groundup.corpus.tasks import Failure, Outcome, Task, outcome_from_json, task_to_json

EARLY = 2  # they load what they need while the build looks for its input
COMMAND = (sys.executable, "-m", "groundup.corpus.engines.worker")
ENVIRONMENT = {
    # One heap that all of a worker's libraries share: what one gives back another takes. A third less memory.
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # A process for each core: threads of numpy's on top would wait for each other (as many squared on a large machine).
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


class _Worker:
    def __init__(self) -> None:
        # a session of its own: Ctrl-C on the terminal reaches the build, which decides
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            env=ENVIRONMENT | os.environ,
        )
        self.index: int | None = None  # of the task it is at

    @property
    def answers(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def give(self, index: int, task: Task) -> None:
        assert self.process.stdin is not None
        self.index = index
        try:
            self.process.stdin.write(json.dumps(task_to_json(task)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died while it was idle: its answer will be the end of file

    def take(self) -> Outcome:
        """Its answer; a Failure where it ended without one."""
        line = self.answers.readline()
        if line.endswith("\n"):
            return outcome_from_json(json.loads(line))
        code = self.process.wait()
        if code >= 0:
            return Failure("died", f"its process left with exit code {code}")
        known = {one.value: one.name for one in signal.Signals}
        return Failure("died", f"its process was killed by {known.get(-code, f'signal {-code}')}")

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # with what it has started itself: git, an unpacker
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except BrokenPipeError:
                pass


@contextmanager
def local(count: int) -> Iterator[Run]:
    """Up to `count` worker processes: the first at once, the others when there is work; ended on the way out."""
    workers = [_Worker() for _ in range(min(count, EARLY))]

    def run(tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        waiting = iter(enumerate(tasks))
        with selectors.DefaultSelector() as selector:

            def give_next(worker: _Worker | None) -> None:
                if (following := next(waiting, None)) is None:
                    return
                if worker is None:
                    worker = _Worker()
                    workers.append(worker)
                worker.give(*following)
                selector.register(worker.answers, selectors.EVENT_READ, worker)

            try:
                idle: list[_Worker | None] = [*workers, *([None] * (count - len(workers)))]
                for worker in idle[: len(tasks)]:
                    give_next(worker)
                while selector.get_map():
                    for key, _ in selector.select():
                        worker = key.data
                        selector.unregister(worker.answers)
                        outcome, index = worker.take(), worker.index
                        worker.index = None
                        if worker.process.poll() is not None or (
                            isinstance(outcome, Failure) and outcome.kind == "memory"
                        ):
                            worker.end()  # also one that ran out of memory: who knows what it still holds
                            workers.remove(worker)
                            worker = None
                        give_next(worker)
                        yield index, outcome
            finally:
                for worker in [one for one in workers if one.index is not None]:  # left in the middle
                    worker.end()
                    workers.remove(worker)

    try:
        yield run
    finally:
        for worker in workers:
            worker.end()
