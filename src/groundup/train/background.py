"""One function beside the training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class InBackground:
    """One function in a thread of its own, and what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised again by whoever waits
            self.error = error

    def join(self) -> None:
        self._thread.join()
