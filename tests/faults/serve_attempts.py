"""Runs training attempts in processes of their own: torch is imported once, each attempt is a fork that may be killed.

One JSON line in: {"run": folder, "settings": {...}, "die": [function of os, call], ...}. Lines out: `pid N`, then
`exit CODE` (a negative code is the signal that ended it). What the attempt says on stderr goes to the file `said`.
"""

from __future__ import annotations

import itertools
import json
import os
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


def attempt(order: dict[str, Any]) -> int:
    run = Path(order["run"])
    folder = run / "base"
    folder.mkdir(parents=True, exist_ok=True)
    if order.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], order["file_limit"]))
    if order.get("die"):
        die_at(*order["die"])
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


def die_at(name: str, call: int) -> None:
    """SIGKILL this process at the n-th call of `os.<name>`: every place inside a save can be hit on purpose."""
    real, calls = getattr(os, name), itertools.count(1)

    def counted(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(os, name, counted)


def in_child(order: dict[str, Any]) -> None:
    said = os.open(Path(order["said"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
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
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            in_child(order)
        print(f"pid {pid}", flush=True)
        _, status = os.waitpid(pid, 0)
        print(f"exit {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
