"""Runs training attempts in processes of their own: torch is imported once, each attempt is a fork that may be killed.

One JSON line in: {"id": number, "run": folder, "tokens": folder, "said": file, "settings": {...}} and how it is to be
disturbed: "signal_at": [function, call, signal], "command_at": [function, call, shell command], "cpu_seconds": seconds,
"file_limit": bytes, "slow_saves": seconds that each fsync of a save in the background takes; "processes": how many
train together, "disturbed_rank": which of them is meant. One JSON line out, when the attempt has ended: {"id": number,
"exit": code, "cpu_seconds": seconds}; a negative code is the signal that ended it. Disturbances count calls and
processor time, never the clock, so that a busy machine changes nothing.
"""

from __future__ import annotations

import itertools
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from groundup.artifacts import StageContext
from groundup.console import Console
from groundup.errors import Stopped, UserError
from groundup.meeting import Meeting
from groundup.stopping import listening_for_signals
from groundup.team import Helped, Team
from groundup.train import (
    checkpoint_storage,  # noqa: F401 (imported once for all attempts)
    pretrain,
)
from groundup.train.settings import PretrainSettings

HANGING_SECONDS = 500
"""An attempt takes one or two; one that takes this long ends by SIGALRM, so that no test waits for ever."""


def attempt(order: dict[str, Any]) -> int:
    run, processes = Path(order["run"]), order["processes"]
    folder, rank, main, meeting = run / "base", 0, os.getpid(), None
    folder.mkdir(parents=True, exist_ok=True)
    if processes > 1:
        meeting = opened = Meeting.open(processes)  # kept: letting go of one map of it gives up the locks on all
        for number in range(1, processes):
            if os.fork() == 0:
                rank, meeting = number, Meeting.join(opened.path, number, processes)
                break
    team = Team(rank, processes, 1, meeting)
    signal.alarm(HANGING_SECONDS)
    if rank == order["disturbed_rank"]:
        disturb(order)
    with listening_for_signals() as stop, tempfile.TemporaryDirectory() as scratch:
        own, inputs, cache = (folder if rank == 0 else Path(scratch)), {"tokens": Path(order["tokens"])}, run / "cache"
        console = Console(sys.stderr, quiet=rank > 0)
        context = StageContext("base", own, inputs, 7, cache, console, stop, run, folder, team)
        try:
            pretrain.run(PretrainSettings(tokens="tokens", **order["settings"]), context)
        except (Stopped, UserError) as ended:
            print(ended, file=sys.stderr)
            return ended.exit_code
        except Helped:
            while os.getppid() == main:  # as real helpers do: one that ends first looks like one that was killed
                time.sleep(0.01)
    return 0


def disturb(order: dict[str, Any]) -> None:
    if order.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], order["file_limit"]))
    if order.get("slow_saves"):
        slow_saves(order["slow_saves"])
    if order.get("signal_at"):
        function, call, number = order["signal_at"]
        at_call(function, call, lambda: os.kill(os.getpid(), number))
    if order.get("command_at"):
        function, call, command = order["command_at"]
        at_call(function, call, lambda: subprocess.run(command, shell=True, check=True))
    if order.get("cpu_seconds"):  # SIGPROF, which nobody here handles, ends the process as abruptly as SIGKILL does
        signal.setitimer(signal.ITIMER_PROF, order["cpu_seconds"])


def at_call(function: str, call: int, do: Callable[[], object]) -> None:
    """Do something at the n-th call of `module.function` or `module.Class.method`, before that does what it does."""
    owner_name, _, name = function.rpartition(".")
    owner = pkgutil.resolve_name(owner_name)
    real, calls = getattr(owner, name), itertools.count(1)

    def counted(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            do()
        return real(*arguments, **named)

    setattr(owner, name, counted)


def slow_saves(seconds: float) -> None:
    """A disk that takes its time, for saves in the background only."""
    real = os.fsync

    def slow(descriptor: int) -> None:
        if threading.current_thread().name == "checkpoint":
            time.sleep(seconds)
        real(descriptor)

    os.fsync = slow


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
