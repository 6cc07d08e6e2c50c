"""A batch function for worker processes, in a module of its own so that they start quickly."""

from __future__ import annotations

import os
import signal


def upper_or_die(batch: list[str]) -> list[str]:
    for one in batch:
        if one == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
    return [one.upper() for one in batch]
