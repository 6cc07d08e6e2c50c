"""Seconds of training over all attempts, how they were spent, and the speed."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from groundup.train.checkpoint import TrainState

RECENT_STEPS = 100
FEWEST_STEPS = 10  # between two moments, for what a step takes
KEEP_SECONDS = 5.0  # between two writings of timing.json


class Clock:
    """Two times. `seconds()` is that of the run as it is: what was lost in a kill does not count. `paid_seconds()` is
    that of all attempts, lost work and all, kept in `path` (timing.json) as they go.

    `path` None: nothing is kept, as in processes that only help.
    """

    def __init__(self, state: TrainState, path: Path | None = None) -> None:
        self._before = state.seconds
        self._started = self._marked_at = time.monotonic()
        self._marked_tokens = state.tokens
        self._path = path
        kept = _read(path)
        self._first_start = float(kept.get("first_start", time.time()))
        self._paid_before = float(kept.get("seconds", 0.0))
        self.attempts = int(kept.get("attempts", 0)) + 1
        self._kept_at = -KEEP_SECONDS
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)  # seconds of the last steps
        self._ends: deque[float] = deque(maxlen=RECENT_STEPS)  # when they ended, saves and evaluations between them
        self._waited = self._worked = 0.0  # since the last line: for data, in steps
        # of the last checkpoint that was waited for: a limit keeps as much aside
        self.save_seconds = float(kept.get("save_seconds", 0.0))

    # ------------------------------------------------------------ how long

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def paid_seconds(self) -> float:
        return self._paid_before + time.monotonic() - self._started

    def seconds_per_step(self) -> float | None:
        """Of the last steps, with what came between them; None where there are too few of them."""
        return (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1) if len(self._ends) > FEWEST_STEPS else None

    def next_step_seconds(self) -> float:
        """What one more step may take: as the last, or as the mean of the last, whichever is more."""
        return max(self._steps[-1] if self._steps else 0.0, self.seconds_per_step() or 0.0)

    def step_done(self, state: TrainState, seconds: float, data_wait: float) -> None:
        """After each step: `seconds` it took, of which it waited `data_wait` for the data."""
        state.seconds = self.seconds()
        state.guards["useful_seconds"] = state.guards.get("useful_seconds", 0.0) + seconds
        self._steps.append(seconds)
        self._ends.append(state.seconds)
        self._waited += data_wait
        self._worked += seconds

    def save_done(self, seconds: float) -> None:
        """After a checkpoint that was waited for, which says nothing about the steps to come."""
        self.save_seconds = seconds
        self._ends.clear()

    def went_back(self, state: TrainState) -> None:
        """Steps and tokens are counted from an earlier one on; the time goes on."""
        self._ends.clear()
        self._marked_tokens = state.tokens

    # ------------------------------------------------------------ for the log

    def speed(self, state: TrainState) -> dict[str, float]:
        """Since the last line: tokens per second, share of waiting for data; of the last steps: the usual and the slow;
        and goodput, the share of all time since the first start that went into steps that count."""
        now = time.monotonic()
        speed = (state.tokens - self._marked_tokens) / max(now - self._marked_at, 1e-9)
        self._marked_at, self._marked_tokens = now, state.tokens
        row = {"tokens_per_second": speed, "seconds": state.seconds}
        if self._steps:
            middle, slow = np.percentile(self._steps, [50, 95]).tolist()
            row |= {"step_seconds_p50": middle, "step_seconds_p95": slow}
            row |= {"data_wait_share": self._waited / max(self._worked, 1e-9), "goodput": self.goodput(state)}
        self._waited = self._worked = 0.0
        if now - self._kept_at >= KEEP_SECONDS:
            self.keep()
        return row

    def goodput(self, state: TrainState) -> float:
        """Seconds of steps that count / wall seconds since the first start (1 where the clock was set back)."""
        return min(1.0, float(state.guards.get("useful_seconds", 0.0)) / max(time.time() - self._first_start, 1e-9))

    def keep(self) -> None:
        """Write down how long it has been. Without fsync: a power cut may cost some seconds of account."""
        self._kept_at = time.monotonic()
        if self._path is None:
            return
        record = {"first_start": self._first_start, "attempts": self.attempts}
        record |= {"seconds": self.paid_seconds(), "save_seconds": self.save_seconds}
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        with contextlib.suppress(OSError):  # a full disk is told where something is lost: by metrics and checkpoints
            temporary.write_text(json.dumps(record))
            os.replace(temporary, self._path)


def _read(path: Path | None) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text())) if path is not None else {}
    except (OSError, ValueError):
        return {}
