"""Documents over processes: in order, a bounded number at a time, and a page that kills its process is found and named.

Pages are handled in processes, not threads: HTML parsers crash and hang under threads, and a process can be replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        # A killed parent (kill -9) cannot say goodbye, and a worker that waits for work would wait for ever.
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


class Workers:
    """A pool that starts when first needed and is killed on the way out. `count` 1: everything runs right here."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def map(
        self,
        function: Callable[[list[Item]], list[Result]],
        batches: Iterable[list[Item]],
        on_crash: Callable[[Item], Result],
    ) -> Iterator[list[Result]]:
        """`function` of each batch, in the order of the batches. Few batches are in flight, so memory stays bounded."""
        waiting: deque[tuple[list[Item], Future[list[Result]]]] = deque()
        source = iter(batches)
        first = next(source, None)
        second = next(source, None)
        if self.count <= 1 or second is None:  # one batch is not worth a process
            for batch in (first, second):
                if batch is not None:
                    yield function(batch)
            yield from map(function, source)
            return
        for batch in _chain(first, second, source):
            waiting.append((batch, self._submit(function, batch)))
            if len(waiting) > 2 * self.count:
                yield from self._next(function, waiting, on_crash)
        while waiting:
            yield from self._next(function, waiting, on_crash)

    def _next(self, function: Any, waiting: deque[Any], on_crash: Any) -> Iterator[list[Any]]:
        batch, future = waiting.popleft()
        try:
            yield future.result()
        except BrokenProcessPool:
            # Some document in flight killed its process. Each of this batch is tried alone; the others go again.
            self._end()
            yield [result for item in batch for result in self._alone(function, item, on_crash)]
            others = [other for other, _ in waiting]
            waiting.clear()
            waiting.extend((other, self._submit(function, other)) for other in others)

    def _alone(self, function: Any, item: Any, on_crash: Any) -> list[Any]:
        try:
            return self._submit(function, [item]).result()  # type: ignore[no-any-return]
        except BrokenProcessPool:
            self._end()
            return [on_crash(item)]

    def _submit(self, function: Any, batch: list[Any]) -> Future[Any]:
        for _ in range(2):
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_start_worker)
            try:
                return self._pool.submit(function, batch)
            except BrokenProcessPool:  # it broke between two batches: the future of the earlier one says so as well
                self._end()
        raise BrokenProcessPool("processes cannot be started on this machine")

    def _end(self) -> None:
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            for process in processes:
                process.join()
            self._pool = None


def _chain(first: list[Item] | None, second: list[Item], rest: Iterator[list[Item]]) -> Iterator[list[Item]]:
    if first is not None:
        yield first
    yield second
    yield from rest
