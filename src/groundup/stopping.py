"""Ctrl-C and SIGTERM: finish what is in hand, save, and say so.

A stage that can be cut at any moment (the corpus, a tokenizer) is interrupted at once: its partial work is either kept
shard by shard or done again. A stage that trains asks for `deferred` stopping: the signal only sets a flag, the loop
finishes its step, saves a checkpoint and raises `Stopped`. A second Ctrl-C ends it at once; a second SIGTERM, which
schedulers send to be sure, does not: it must not cut off the save that the first one asked for.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from groundup.errors import EXIT_INTERRUPTED, EXIT_STOPPED, Stopped


class StopRequest:
    """Whether the run was asked to stop, and with which exit code it should end."""

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.is_deferred = False

    @property
    def is_set(self) -> bool:
        return self.exit_code is not None

    def request(self, exit_code: int) -> None:
        self.exit_code = exit_code

    def join(self) -> None:
        """Stop as well: another process of this training was asked to."""
        if not self.is_set:
            self.request(EXIT_STOPPED)

    def raise_if_set(self, what_is_saved: str) -> None:
        """To be called where everything worth keeping is on disk."""
        if self.exit_code is not None:
            raise Stopped(what_is_saved, self.exit_code)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets the flag; the loop looks at `is_set` after each step."""
        self.is_deferred = True
        try:
            yield
        finally:
            self.is_deferred = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED
        is_second = self.is_set
        self.request(exit_code)
        if not self.is_deferred or (is_second and number == signal.SIGINT):
            raise Stopped("finished stages and checkpoints are kept", exit_code)


@contextmanager
def listening_for_signals(
    numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[StopRequest]:
    """Install the handlers for one run and put the old ones back."""
    stop = StopRequest()
    before = {number: signal.signal(number, stop._on_signal) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
