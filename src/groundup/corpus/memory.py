"""The most memory that a task took, and not what an earlier one in its process did.

Linux alone can begin its count anew (proc(5), clear_refs: 5). Elsewhere, and where it is not allowed, what is known is
the most that the process has held so far.
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_SLACK_BYTES = 16_000_000  # that a process may take while it is asked


def count_anew() -> bool:
    """Whether `peak_bytes` speaks of what happens from now on alone. Only for a process that nobody else measures."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    most, now = _status_bytes("VmHWM"), _status_bytes("VmRSS")
    return 0 < most <= now + _SLACK_BYTES


def peak_bytes() -> int:
    """The most memory that this process has held, since `count_anew` where that can be."""
    # ru_maxrss begins at that of the process that started this one
    found = _status_bytes("VmHWM")
    return found or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status_bytes(name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
