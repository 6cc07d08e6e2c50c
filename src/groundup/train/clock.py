"""Seconds of training over all attempts, the speed, and how a time limit becomes a number of steps."""

from __future__ import annotations

import time

from groundup.train.checkpoint import TrainState
from groundup.train.options import TrainOptions

PROBE_STEPS = 10  # at least so many steps are timed before a time limit becomes a number of steps
PROBE_SHARE = 0.08  # and at least this share of the limit, so that the slow first step weighs little


class Clock:
    """Seconds of training over all attempts, and the speed since the last logged line."""

    def __init__(self, state: TrainState) -> None:
        self._before = state.seconds
        self._started = self._marked_at = time.monotonic()
        self._marked_tokens = state.tokens

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def speed(self, state: TrainState) -> dict[str, float]:
        now = time.monotonic()
        speed = (state.tokens - self._marked_tokens) / max(now - self._marked_at, 1e-9)
        self._marked_at, self._marked_tokens = now, state.tokens
        return {"tokens_per_second": speed, "seconds": state.seconds}


def horizon_from_time(state: TrainState, options: TrainOptions) -> int | None:
    """The steps that fit into the time limit, from the measured speed; None while too few steps were timed.

    It is fixed once, and stays, also after a kill.
    """
    limit = options.time_limit_seconds
    assert limit is not None
    at_most = options.max_steps or 2**62
    is_probed = state.step > PROBE_STEPS and state.seconds >= PROBE_SHARE * limit
    if is_probed or state.seconds >= limit / 2 or state.step >= at_most:
        # the first step allocates, and its checkpoint is proven: neither says how fast the others are
        timed_steps, timed_seconds = state.step - 1, state.seconds - state.first_step_seconds
        steps_per_second = timed_steps / timed_seconds if timed_steps else 1 / state.seconds
        left = max(0.0, limit - state.seconds)
        return min(state.step + int(left * steps_per_second), at_most)
    return None
