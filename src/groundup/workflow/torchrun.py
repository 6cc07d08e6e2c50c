"""The processes that torchrun (or Slurm, or anything that sets RANK and WORLD_SIZE) started, one command each.

Process 0 runs the recipe; the others wait in `help_main` for the stages that train together. They talk through a
store that process 0 opens: it ends with that process, so that nobody waits for one that is gone, and after a restart
nobody reads what was said before.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from groundup.console import Console
from groundup.errors import EXIT_FAILED, Stopped, UserError
from groundup.meeting import Meeting, PeerLost
from groundup.stopping import StopRequest, listening_for_signals
from groundup.team import Team
from groundup.workflow.worker import help_with

CONNECT_SECONDS = 600.0  # for all processes to be there, after torchrun has started them
POLL_SECONDS = 0.2
GOODBYE_SECONDS = 5.0


class Group:
    """This process among those of WORLD_SIZE, connected to all of them."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self._number = 0  # of the next message

    @staticmethod
    def is_there() -> bool:
        return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1

    @staticmethod
    def is_helper() -> bool:
        return Group.is_there() and int(os.environ["RANK"]) > 0

    @classmethod
    def from_environment(cls, console: Console) -> Group:
        """Connect to all others. UserError where they are not there in ten minutes."""
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        console.info(f"connecting {size} processes")
        import torch
        import torch.distributed as dist

        try:
            store = _own_store(rank, size)
            group_store = dist.PrefixStore("group", store)  # type: ignore[attr-defined]
            backend = "gloo"
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
                backend = "cpu:gloo,cuda:nccl"
            dist.init_process_group(backend, store=group_store, rank=rank, world_size=size)
        except (dist.DistError, RuntimeError) as error:
            raise UserError(
                f"process {rank} of {size} could not connect to the others: {str(error).splitlines()[0]}",
                fix="the same command has to be started on every host, and MASTER_ADDR has to be reached from each",
                exit_code=EXIT_FAILED,
            ) from error
        return cls(store, rank, size)

    @property
    def is_on_one_machine(self) -> bool:
        return os.environ.get("LOCAL_WORLD_SIZE") == str(self.size)

    # ------------------------------------------------ the main process

    @contextmanager
    def called(self, message: Mapping[str, Any]) -> Iterator[Team]:
        """Let the others run a stage, too."""
        meeting = Meeting.open(self.size) if self.is_on_one_machine else None
        try:
            self._say({**message, "meeting": meeting.path if meeting else None})
            with telling_lost_peers(self.size):
                yield Team(0, self.size, None, meeting)
        finally:
            if meeting is not None:
                meeting.close()

    def _say(self, message: Mapping[str, Any]) -> None:
        self.store.set(f"message/{self._number}", json.dumps(message))
        self._number += 1

    def end(self, exit_code: int) -> None:
        """Let the others end, and wait a moment for it: the store ends with this process."""
        with suppress(Exception):  # the others may be gone
            self._say({"end": exit_code})
            goodbyes = [f"goodbye/{rank}" for rank in range(1, self.size)]
            until = time.monotonic() + GOODBYE_SECONDS
            while time.monotonic() < until and not self.store.check(goodbyes):
                time.sleep(POLL_SECONDS / 4)
        leave_process_group()

    # ------------------------------------------------ the others

    def next_message(self) -> dict[str, Any]:
        """What the main process says next, however long that takes."""
        key = f"message/{self._number}"
        while not self.store.check([key]):
            time.sleep(POLL_SECONDS)
        self._number += 1
        return dict(json.loads(self.store.get(key)))


def help_main() -> int:
    """What `groundup run` does in all processes but the main one. Returns the exit code, which is the main one's."""
    rank = int(os.environ["RANK"])
    try:
        with listening_for_signals() as stop:
            group = Group.from_environment(Console(quiet=True))
            try:
                while "end" not in (message := _from_main(group)):
                    _help(group, message, stop)
                return int(message["end"])
            finally:
                with suppress(Exception):  # the main process, and its store, may be gone
                    group.store.set(f"goodbye/{rank}", "1")
                leave_process_group()
    except UserError as error:
        print(f"process {rank}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Stopped as stopped:
        return stopped.exit_code


def _help(group: Group, message: Mapping[str, Any], stop: StopRequest) -> None:
    meeting = Meeting.join(message["meeting"], group.rank, group.size) if message["meeting"] else None
    try:
        with telling_lost_peers(group.size):
            help_with(message, Team(group.rank, group.size, None, meeting), stop)
    except Exception as error:
        if meeting is not None and not isinstance(error, Stopped | PeerLost):
            meeting.fail(group.rank, f"{type(error).__name__}: {error}")
        raise
    if meeting is not None:
        meeting.close()


def _from_main(group: Group) -> dict[str, Any]:
    import torch.distributed as dist

    try:
        return group.next_message()
    except (dist.DistError, RuntimeError) as error:
        raise PeerLost("the main process has ended", exit_code=EXIT_FAILED) from error


@contextmanager
def telling_lost_peers(size: int) -> Iterator[None]:
    """A broken connection to another process as what it is."""
    import torch.distributed as dist

    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, dist.DistError) and not any(word in text for word in ("gloo", "Connection", "NCCL")):
            raise
        raise PeerLost(
            f"the connection to another of the {size} processes broke: {text.splitlines()[0]}",
            fix="run the same command on every host to go on from the last checkpoint; torchrun does so by itself "
            "with --max-restarts",
            exit_code=EXIT_FAILED,
        ) from error


def _own_store(rank: int, size: int) -> Any:
    """A store that the main process opens. Where torchrun keeps one, only the address is told there.

    torchrun's own outlives a restart of the processes, and what was said in it before would be heard again.
    """
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = timedelta(seconds=CONNECT_SECONDS)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return dist.TCPStore(host, port, size, is_master=rank == 0, timeout=timeout, wait_for_workers=False)  # type: ignore[attr-defined]
    agents = dist.TCPStore(host, port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    if rank == 0:
        name = uuid.uuid4().hex
        store = dist.TCPStore(host, 0, is_master=True, timeout=timeout, wait_for_workers=False)  # type: ignore[attr-defined]
        store.set("name", name)
        agents.set("groundup/main", f"{store.port} {name}")
        return store
    until = time.monotonic() + CONNECT_SECONDS
    while time.monotonic() < until:
        port_text, _, name = agents.get("groundup/main").decode().partition(" ")
        with suppress(dist.DistError, RuntimeError):
            store = dist.TCPStore(host, int(port_text), is_master=False, timeout=timedelta(seconds=2))  # type: ignore[attr-defined]
            if store.check(["name"]) and store.get("name").decode() == name:
                store.set_timeout(timeout)
                return store
        time.sleep(POLL_SECONDS)  # that was the store of a process that has ended
    raise UserError("the main process is not there", exit_code=EXIT_FAILED)


def leave_process_group() -> None:
    """Leave torch's process group, where this process is in one."""
    if "torch.distributed" not in sys.modules:
        return
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        with suppress(Exception):  # the others may be gone
            dist.destroy_process_group()
