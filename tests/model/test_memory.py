from __future__ import annotations

import subprocess
import sys

from groundup.model.memory import keep_freed_memory


def test_it_answers_and_allocation_goes_on():
    """In a process of its own: the setting cannot be taken back."""
    code = "from groundup.model.memory import *; print(keep_freed_memory()); bytearray(1 << 26)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("True", "False")


def test_elsewhere_than_on_linux_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
