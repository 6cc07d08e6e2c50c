"""A limit on the time that one document may take, and what is lost for technical reasons."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HARD_FACTOR = 3  # code in C that never comes back to Python is ended, with its process, after so many limits


class TooSlow(BaseException):
    """A document took longer than it may."""


@contextmanager
def time_limit(seconds: float, *, may_kill: bool) -> Iterator[None]:
    """Raises TooSlow in the block after so many seconds of CPU time, which a busy machine does not shorten.

    Where Python does not get to raise it (a regular expression, a parser in C), the kernel ends the process, if
    `may_kill`; the shard is then taken apart until the document is found. In threads there is only that second limit.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        if signal.getsignal(signal.SIGVTALRM) is not _raise:
            signal.signal(signal.SIGVTALRM, _raise)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    if may_kill:
        signal.setitimer(signal.ITIMER_PROF, HARD_FACTOR * seconds + 1)
    try:
        yield
    finally:
        if is_main:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if may_kill:
            signal.setitimer(signal.ITIMER_PROF, 0)


def _raise(*_: object) -> None:
    raise TooSlow


class Technical:
    """Documents lost for reasons that are ours or the installation's, by reason, each with an example."""

    def __init__(self) -> None:
        self.lost: dict[str, dict[str, Any]] = {}

    def add(self, reason: str, example: str) -> None:
        entry = self.lost.setdefault(reason, {"documents": 0, "example": example})
        entry["documents"] += 1
