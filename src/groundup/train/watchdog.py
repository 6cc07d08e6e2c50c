"""A step that does not end: told with the stacks of all threads, and under a launcher ended, so that it starts again.

A thread of its own looks at the time since the last step. It works while the main thread hangs in C code that lets
other threads run (a collective, a file system). For C code that does not, each look arms faulthandler's timer, which
needs no Python at all: when the looks stop coming, it writes the stacks and, where a launcher waits, ends the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from statistics import median
from types import FrameType, TracebackType
from typing import TextIO

from groundup.console import duration
from groundup.errors import EXIT_FAILED

USUAL_TIMES = 20  # a step may take so many times the usual one, where that is more than the limit,
LONGEST_TIMES = 3  # or so many times the longest of the last ones: a rollout, an evaluation, a checkpoint between them
FIRST_TIMES = 3  # the first step compiles and allocates
HARD_TIMES = 3  # limits until a launcher gets the process back
LOOKS = 20  # per limit
# functions of the engine -> what they are called when one of them does not return; the innermost counts
PHASES = {
    "micro_batches": "preparing the data",
    "forward_backward": "forward and backward",
    "grad_norm": "the gradient norm",
    "update": "the update",
    "save": "saving a checkpoint",
    "rewind": "going back to a checkpoint",
    "evaluate": "the evaluation",
}
PATIENCE = {"the evaluation": 6, "saving a checkpoint": 2}  # times more until the end: they have no usual length yet


class Watchdog:
    """Use as `with Watchdog(...) as watch:` around the loop; `watch.step_done()` after each step.

    `limit_seconds` None: nothing is watched. `is_launched`: somebody starts the process again when it ends.
    """

    def __init__(
        self,
        limit_seconds: float | None,
        warn: Callable[[str], None],
        log: TextIO | None,
        *,
        is_launched: bool,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.limit_seconds, self.warn, self.log, self.is_launched = limit_seconds, warn, log, is_launched
        self.end = end
        self._times: deque[float] = deque(maxlen=64)
        self._last = time.perf_counter()
        self._is_first = True
        self._main = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self.limit_seconds is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.limit_seconds is not None:
            faulthandler.cancel_dump_traceback_later()

    def step_done(self) -> None:
        now = time.perf_counter()
        if not self._is_first:
            self._times.append(now - self._last)
        self._last, self._is_first = now, False

    def allowed_seconds(self) -> float:
        """How long the step in hand may take before it is told."""
        assert self.limit_seconds is not None
        if self._is_first:
            return FIRST_TIMES * self.limit_seconds
        times = list(self._times)
        usual = max(USUAL_TIMES * median(times), LONGEST_TIMES * max(times)) if times else 0.0
        return max(self.limit_seconds, usual)

    # ------------------------------------------------------------ the thread

    def _watch(self) -> None:
        assert self.limit_seconds is not None
        told = 0.0  # the moment at which the step began that was told already
        while not self._ended.wait(self.limit_seconds / LOOKS):
            began, allowed = self._last, self.allowed_seconds()
            self._arm(HARD_TIMES * allowed)
            waited = time.perf_counter() - began
            if waited > allowed and told != began:
                told = began
                self._tell(waited)
            patience = HARD_TIMES * allowed * PATIENCE.get(self._phase(), 1)
            if waited > patience and self.is_launched:
                self.warn(f"no step for {duration(waited)}: ended, so that the launcher starts it again")
                self.end(EXIT_FAILED)
                return

    def _tell(self, waited: float) -> None:
        phase = self._phase()
        where = "; the stacks of all threads are in run.log" if self.log is not None else ""
        self.warn(f"a step has taken {duration(waited)} so far, in {phase}{where}")
        with contextlib.suppress(OSError, ValueError):  # a full disk, a log that is closed: the run goes on
            faulthandler.dump_traceback(self.log or sys.stderr, all_threads=True)

    def _phase(self) -> str:
        return phase_of(sys._current_frames().get(self._main))

    def _arm(self, seconds: float) -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            faulthandler.dump_traceback_later(seconds, exit=self.is_launched, file=self.log or sys.stderr)


def phase_of(frame: FrameType | None) -> str:
    """What a thread is busy with, from the functions of the engine that it is inside of."""
    while frame is not None:
        if frame.f_code.co_name in PHASES and "groundup" in frame.f_code.co_filename:
            return PHASES[frame.f_code.co_name]
        frame = frame.f_back
    return "the loop itself"


def is_launched() -> bool:
    """Whether torchrun started this process and starts it again when it ends."""
    return "TORCHELASTIC_RUN_ID" in os.environ
