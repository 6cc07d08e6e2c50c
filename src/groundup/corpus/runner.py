"""A phase of a build: its tasks through an engine, what is finished skipped, what fails tried again or taken apart.

The same for every engine. A task whose process died is tried again; dies it again, its documents are halved until those
that kill are found. The shard then goes without them, and each is a drop with its reason.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groundup.artifacts import read_json
from groundup.console import Console, byte_text
from groundup.corpus.engines import Run
from groundup.corpus.tasks import SIDECAR, Done, Failure, Outcome, Task, done_from, done_or_none, raise_failure
from groundup.errors import EXIT_FAILED, UserError

ATTEMPTS = 3  # of a task whose process dies; after that it is the task's fault
FEWEST_TECHNICAL = 10  # losses that say something: one page of forty is 2.5 % and no reason to stop


@dataclass
class Runner:
    """What all phases of one build share. `run` is an open engine."""

    run: Run
    root: Path  # the work folder; tasks lie in root/step/fingerprint
    console: Console
    max_technical_share: float = 0.02
    finished: list[Done] = field(default_factory=list)  # of all phases
    redone: Counter[str] = field(default_factory=Counter)  # how often a process died, by step

    def phase(self, what: str, tasks: Sequence[Task]) -> list[Done]:
        """All tasks done, in their order. UserError where one cannot be, or too much of one shard got lost."""
        results: list[Done | None] = [done_or_none(task) for task in tasks]
        for done in results:
            if done is not None:
                self._look_at(done)  # `max_technical_share` may be another one today
        left = [place for place, done in enumerate(results) if done is None]
        skipped = len(tasks) - len(left)
        if skipped and left:
            self.console.info(f"  {what}: {skipped:,} of {len(tasks):,} shards were done before")
        if left:
            with self._progress(what, [tasks[place] for place in left]) as note:
                for place, done in self._all(tasks, left):
                    self._look_at(done)
                    results[place] = done
                    note(done)
        finished = [done for done in results if done is not None]
        assert len(finished) == len(tasks), f"{what}: a task got lost"
        self.finished += finished
        return finished

    def _all(self, tasks: Sequence[Task], left: Sequence[int]) -> Iterator[tuple[int, Done]]:
        """Every task in `left` until it is done; those that died go again after the others."""
        deaths: Counter[int] = Counter()
        queue = list(left)
        while queue:
            again = []
            for number, outcome in self._outcomes([tasks[place] for place in queue]):
                place = queue[number]
                task = tasks[place]
                if not isinstance(outcome, Failure):
                    yield place, done_from(task, outcome)
                elif outcome.kind == "error":
                    raise_failure(task, outcome)
                else:
                    deaths[place] += 1
                    self.redone[task.step] += 1
                    self.console.warn(f"{task.step} of {task.name}: {outcome.what}; it is tried again")
                    again.append(place)
            # Tried again alone first: beside others it may have died of their hunger for memory.
            for place in [place for place in again if deaths[place] >= ATTEMPTS - 1]:
                again.remove(place)
                yield place, self._last_attempt(tasks[place])
            queue = again

    def _last_attempt(self, task: Task) -> Done:
        """Alone, as beside others it may have died of their hunger for memory; then without what kills it."""
        outcome = self._one(task)
        documents = task.hints.get("documents")
        if isinstance(outcome, Failure) and outcome.kind != "error" and documents:
            if killers := self._killers(task, int(documents)):
                names = ", ".join(str(number) for number in killers)
                self.console.warn(f"{task.step} of {task.name}: left out what kills its process (document {names})")
                task = replace(task, without=tuple(killers))
            outcome = self._one(task)
        if not isinstance(outcome, Failure):
            return done_from(task, outcome)
        if outcome.kind == "error":
            raise_failure(task, outcome)
        raise UserError(
            f"{task.step} of {task.name} ended {ATTEMPTS} times without a result: {outcome.what}",
            where=str(task.root),
            fix="look for a lack of memory (fewer `workers`, smaller `shard_bytes`); finished work is kept",
            exit_code=EXIT_FAILED,
        )

    def _one(self, task: Task) -> Outcome:
        return next(outcome for _, outcome in self._outcomes([task]))

    def _outcomes(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        """What the engine says; but a task whose result lies finished did not fail, only the telling of it did."""
        for number, outcome in self.run(tasks):
            if isinstance(outcome, Failure) and (done := done_or_none(tasks[number])) is not None:
                outcome = read_json(done.task.folder / SIDECAR)
            yield number, outcome

    def _killers(self, task: Task, documents: int) -> list[int]:
        """The places of the documents that kill their process also when they are alone, twice."""
        killers: list[int] = []
        ranges = [(0, documents)]
        while ranges:
            halves: list[tuple[int, int]] = []
            for first, last in ranges:
                middle = (first + last) // 2
                halves += [(first, middle), (middle, last)] if last - first > 1 else [(first, last)]
            trials = [replace(task, only=half) for half in halves]
            ended = [(halves[number], outcome) for number, outcome in self._outcomes(trials)]
            ranges = []
            suspects: list[tuple[int, int]] = []
            for half, outcome in sorted(ended, key=lambda one: one[0]):
                if isinstance(outcome, Failure):
                    if outcome.kind == "error":
                        raise_failure(task, outcome)
                    (ranges if half[1] - half[0] > 1 else suspects).append(half)
            # A lone document is asked twice: its first process may have been ended by somebody else.
            again = [replace(task, only=suspect) for suspect in suspects]
            for number, outcome in self._outcomes(again):
                if isinstance(outcome, Failure):
                    if outcome.kind == "error":  # a full disk is no document's fault
                        raise_failure(task, outcome)
                    killers.append(suspects[number][0])
            for trial in trials:
                shutil.rmtree(trial.folder, ignore_errors=True)
        return sorted(killers)

    def _look_at(self, done: Done) -> None:
        """A mistake that is ours or the installation's must not pass for bad data: UserError above the share."""
        into = int(done.stats.get("documents", 0))
        for reason, lost in (done.stats.get("technical") or {}).items():
            count, example = int(lost["documents"]), str(lost.get("example", ""))
            if count >= FEWEST_TECHNICAL and count > self.max_technical_share * into:
                shutil.rmtree(done.task.folder, ignore_errors=True)  # it shall not count as done when this is mended
                raise UserError(
                    f"{count:,} of {into:,} documents ({100 * count / into:.1f} %) of {done.task.name} were lost at "
                    f"{done.task.step} for one technical reason: {reason}; for example {example}",
                    where=done.task.name,
                    fix="mend the cause (a broken installation?), or raise `max_technical_share` if it is the data",
                    exit_code=EXIT_FAILED,
                )

    # ------------------------------------------------------------ progress and timing

    @contextmanager
    def _progress(self, what: str, tasks: Sequence[Task]) -> Iterator[Callable[[Done], None]]:
        total = sum(max(task.bytes, 1) for task in tasks)
        read = documents = 0
        started = time.monotonic()
        with self.console.progress(what, total, "bytes") as update:
            update(0)

            def note(done: Done) -> None:
                nonlocal read, documents
                read += max(done.task.bytes, 1)
                documents += int(done.stats.get("documents", 0))
                seconds = max(time.monotonic() - started, 1e-3)
                rate = f"{documents / seconds:,.0f} documents/s, {read / 1e6 / seconds:,.1f} MB/s"
                update(read, rate if documents else f"{byte_text(read / seconds)}/s")

            yield note


def without_unused(root: Path, finished: Sequence[Done]) -> None:
    """Remove the tasks of other settings and inputs, which this build did not ask for."""
    used = {done.task.folder for done in finished}
    read = {path for done in finished for path in done.task.paths()}
    for path in root.glob("*/*"):
        if path.is_dir() and path not in used:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and path not in read:  # plans
            path.unlink(missing_ok=True)


def timing_records(done: Sequence[Done]) -> list[Mapping[str, Any]]:
    """What estimate.py makes timing.json of."""
    return [
        {
            "step": one.task.step,
            "source": one.task.hints.get("source", ""),
            "documents": one.stats.get("documents", 0),
            "bytes_in": one.stats.get("bytes_in", one.task.bytes),
            "bytes_out": one.stats.get("bytes_out", 0),
            "disk_bytes": sum(output["bytes"] for output in one.outputs.values()),
            "seconds": one.seconds,
            "cpu_seconds": one.cpu_seconds,
            "peak_bytes": one.peak_bytes,
            "peak_is_own": one.peak_is_own,
        }
        for one in done
    ]
