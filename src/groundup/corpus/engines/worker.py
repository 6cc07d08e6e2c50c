"""A worker process of the local engine: a task per line of JSON on stdin, its outcome per line on stdout."""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from importlib import import_module

from groundup.corpus.tasks import attempt, outcome_to_json, task_from_json

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    _offer_to_the_memory_killer()
    _die_with_the_build()
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # the build is gone or has no more work: leave at once, also from the middle of a task

    threading.Thread(target=listen, daemon=True).start()
    import_module("groundup.corpus.phases.documents")  # the first task waits for it no longer than the build does
    while True:
        outcome = attempt(task_from_json(json.loads(lines.get())), is_worker=True)
        print(json.dumps(outcome_to_json(outcome)), file=answers, flush=True)


def _offer_to_the_memory_killer() -> None:
    """When memory runs out, Linux shall end a worker, which is replaced, and not the build."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("600")
    except OSError:
        pass  # not Linux, or not allowed


def _die_with_the_build() -> None:
    """Linux shall end it with the build, also from within code in C that never lets `listen` have its turn."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
