"""A limit on the time that one document may take, and what is lost for technical reasons."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

HARD_FACTOR = 3  # code in C that never comes back to Python is ended, with its process, after so many limits
HANG_SECONDS = 900.0  # of CPU time, all threads together: far beyond what any step needs for a document

T = TypeVar("T")


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
        if may_kill:  # first: where the other one goes off in these very lines, this one must not be left running
            signal.setitimer(signal.ITIMER_PROF, 0)
        if is_main:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def watched(documents: Iterable[T], *, may_kill: bool) -> Iterator[T]:
    """The same documents; a process that is at one of them for HANG_SECONDS of CPU time is ended by the kernel.

    For steps without a limit of their own: what hangs there (a regular expression on a hostile page) would hang for
    ever. The shard is then taken apart until the document is found.
    """
    try:
        for document in documents:
            if may_kill:
                signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
            yield document
    finally:
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
