"""Independent tasks over processes. A task that lost its process is tried again, alone; then it is named."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from groundup.errors import EXIT_FAILED, UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[tuple[int, Result]]:
    """(number of the task, its result) as they are finished. `function` and tasks are picklable. With one worker, or
    one task, everything runs right here. UserError for a task that ends its process twice; what tasks raise is raised.
    """
    if workers <= 1 or len(tasks) <= 1:
        yield from enumerate(map(function, tasks))
        return
    left = set(range(len(tasks)))
    try:
        yield from _together(function, tasks, left, min(workers, len(tasks)))
    except BrokenProcessPool:
        for number in sorted(left):  # one of those in flight did it: which one shows when each is alone
            try:
                yield from _together(function, tasks, {number}, 1)
            except BrokenProcessPool as error:
                raise UserError(
                    f"the process was killed twice at {tasks[number]}",
                    fix="is the memory enough? fewer `workers` need less; run the same command again to go on",
                    exit_code=EXIT_FAILED,
                ) from error


def _together(
    function: Callable[[Task], Result], tasks: Sequence[Task], left: set[int], workers: int
) -> Iterator[tuple[int, Result]]:
    """Finished tasks are taken out of `left`."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        futures = {pool.submit(function, tasks[number]): number for number in sorted(left)}
        for future in as_completed(futures):
            result = future.result()
            left.discard(futures[future])
            yield futures[future], result
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


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
