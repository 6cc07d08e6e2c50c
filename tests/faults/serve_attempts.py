"""Runs training attempts in processes of their own: torch is imported once, each attempt is a fork that may be killed.

One JSON line in: {"id": number, "run": folder, "tokens": folder, "said": file, "settings": {...}} and how it is to be
disturbed: "signal_at": [function, call, signal], "cpu_seconds": seconds, "file_limit": bytes. One JSON line out, when
the attempt has ended: {"id": number, "exit": code, "cpu_seconds": seconds}; a negative code is the signal that ended
it. Disturbances count calls and processor time, never the clock, so that a busy machine changes nothing.
"""

from __future__ import annotations

import itertools
import json
import os
import pkgutil
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from groundup.artifacts import StageContext
from groundup.console import Console
from groundup.errors import Stopped, UserError
from groundup.stopping import listening_for_signals
from groundup.train import pretrain
from groundup.train.settings import PretrainSettings

HANGING_SECONDS = 500
"""An attempt takes one or two; one that takes this long ends by SIGALRM, so that no test waits for ever."""


def attempt(order: dict[str, Any]) -> int:
    run = Path(order["run"])
    folder = run / "base"
    folder.mkdir(parents=True, exist_ok=True)
    signal.alarm(HANGING_SECONDS)
    if order.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], order["file_limit"]))
    if order.get("signal_at"):
        signal_at(*order["signal_at"])
    if order.get("cpu_seconds"):  # SIGPROF, which nobody here handles, ends the process as abruptly as SIGKILL does
        signal.setitimer(signal.ITIMER_PROF, order["cpu_seconds"])
    with listening_for_signals() as stop:
        context = StageContext(
            "base", folder, {"tokens": Path(order["tokens"])}, 7, run / "cache", Console(sys.stderr), stop, run
        )
        try:
            pretrain.run(PretrainSettings(tokens="tokens", **order["settings"]), context)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return stopped.exit_code
        except UserError as error:
            print(error, file=sys.stderr)
            return error.exit_code
    return 0


def signal_at(function: str, call: int, number: int) -> None:
    """Send this process a signal at the n-th call of `module.function` or `module.Class.method`, before it does it."""
    owner_name, _, name = function.rpartition(".")
    owner = pkgutil.resolve_name(owner_name)
    real, calls = getattr(owner, name), itertools.count(1)

    def counted(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return real(*arguments, **named)

    setattr(owner, name, counted)


def in_child(order: dict[str, Any]) -> None:
    """The attempt, with the server's pipes out of its reach."""
    said = os.open(Path(order["said"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 99
    try:
        code = attempt(order)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    torch.set_num_threads(1)
    torch.optim.AdamW(torch.nn.Linear(1, 1).parameters(), fused=True)  # imports half of torch: once for all attempts
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            in_child(order)
        _, status, used = os.wait4(pid, 0)
        answer = {"id": order["id"], "exit": os.waitstatus_to_exitcode(status)}
        print(json.dumps({**answer, "cpu_seconds": used.ru_utime + used.ru_stime}), flush=True)


if __name__ == "__main__":
    main()
