"""A process that only helps to train. `python -m groundup.workflow.worker RANK PARENT` is started by `processes.py`.

It reads one stage a line from its standard input, runs that stage's function until the training in it is done, and
waits for the next. What it writes goes to a scratch folder, what it says nowhere, what goes wrong to its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundup.artifacts import StageContext
from groundup.console import Console
from groundup.environment import spin_less
from groundup.errors import Stopped
from groundup.meeting import Meeting, PeerLost
from groundup.recipe import KINDS
from groundup.stopping import StopRequest, listening_for_signals
from groundup.team import Helped, Team

PR_SET_PDEATHSIG = 1  # prctl.h


def help_with(message: Mapping[str, Any], team: Team, stop: StopRequest) -> None:
    """Run a stage up to the end of its training. Raises what the stage raises."""
    kind = KINDS[message["kind"]]
    settings = kind.settings_class().model_validate(message["settings"])
    scratch_folder = tempfile.TemporaryDirectory(prefix="groundup-", dir=message.get("scratch"))
    with scratch_folder as scratch, open(os.devnull, "w") as nowhere:
        context = StageContext(
            name=message["name"],
            folder=Path(scratch),
            inputs={value: Path(path) for value, path in message["inputs"].items()},
            seed=message["seed"],
            cache=Path(message["cache"]),
            console=Console(nowhere, quiet=True),
            stop=stop,
            run_folder=Path(message["run_folder"]),
            common_folder=Path(message["folder"]),
            team=team,
        )
        try:
            kind.run_function()(settings, context)
        except Helped:
            return


def main() -> int:
    rank, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process, which lets all finish the step
    spin_less()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    try:
        with listening_for_signals((signal.SIGTERM,)) as stop:
            for line in sys.stdin:
                message = json.loads(line)
                meeting = Meeting.join(message["meeting"], rank, message["size"])
                team = Team(rank, message["size"], message["threads"], meeting, message["rendezvous"])
                help_with(message, team, stop)
                meeting.close()
                give_memory_back()
    except Stopped as stopped:
        return stopped.exit_code
    except PeerLost as lost:  # they know
        print(f"process {rank}: {lost}", file=sys.stderr, flush=True)
        return lost.exit_code
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        return 1
    return 0


def die_with(parent: int) -> None:
    """Have the system end this process when its parent ends, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this helper has ended")


def give_memory_back() -> None:
    """What the stage used: this process may now wait for a long time (glibc; training keeps what it has freed)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


if __name__ == "__main__":
    sys.exit(main())
