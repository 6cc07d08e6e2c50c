"""Processes on one machine meet in a block of shared memory: they wait for each other and exchange small values.

One writer for every byte, so that nothing has to be atomic: each process counts its own arrivals, and a barrier is
passed when all have counted as far. Waiting looks for a moment, then sleeps, longer the longer it waits: on a loaded
machine a spinning process takes the very core that the one it waits for needs.

Each process holds a record lock on one byte of the block for as long as it lives; the lock of one that was killed is
free, which the others see while they wait. The block is a file without a name (memfd), so that nothing is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import struct
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from groundup.errors import EXIT_FAILED, UserError

SLOT = 4096  # bytes of one exchanged piece
ROOM = 4 * SLOT  # of one process: its arrivals and state, what went wrong, two pieces by turns
ARRIVED, STATE, WHY, PIECES = 0, 64, 128, 2 * SLOT  # offsets in it
LONGEST_REASON = SLOT
ABSENT, JOINED, FAILED = 0, 1, 2
SPINS = 50  # looks before the first sleep
LONGEST_SLEEP = 0.001
LOOK_SECONDS = 0.05  # between two looks whether the others still live


class PeerLost(UserError):  # noqa: N818 - what happened, as with Stopped
    """Another process of the team failed or was killed; this one cannot go on."""


def shared_file(size: int) -> tuple[int, str]:
    """`size` zero bytes that other processes of this user can map: a descriptor, and the path that opens the same.

    Anonymous where the system can (Linux): gone with the last process that has it open, and not limited by the size of
    /dev/shm. Else a file in the temporary folder, to be removed with `forget` once all have opened it. UserError where
    there is no room.
    """
    if hasattr(os, "memfd_create") and _others_can_open():
        descriptor, path = _nameless()
        os.ftruncate(descriptor, size)
        return descriptor, path
    descriptor, path = tempfile.mkstemp(prefix="groundup-")
    try:
        os.posix_fallocate(descriptor, 0, size) if hasattr(os, "posix_fallocate") else os.ftruncate(descriptor, size)
    except OSError as error:
        os.close(descriptor)
        forget(path)
        raise UserError(
            f"no room for {size / 1e6:,.0f} MB that several processes share: {error.strerror}",
            where=str(Path(path).parent),
            fix="set TMPDIR to a folder with more room, or train in one process with --processes 1",
            exit_code=EXIT_FAILED,
        ) from error
    return descriptor, path


def _nameless() -> tuple[int, str]:
    descriptor = os.memfd_create("groundup", os.MFD_CLOEXEC)
    return descriptor, f"/proc/{os.getpid()}/fd/{descriptor}"


@cache
def _others_can_open() -> bool:
    """Whether another process can open a file without a name: some containers and sandboxes do not let it."""
    descriptor, path = _nameless()
    try:
        return subprocess.run(["/bin/sh", "-c", 'exec 3<>"$0"', path], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False
    finally:
        os.close(descriptor)


def forget(path: str) -> None:
    """Remove the name of a shared file that has one; who has it open keeps it."""
    if not path.startswith("/proc/"):
        Path(path).unlink(missing_ok=True)


def map_shared(descriptor: int, size: int) -> mmap.mmap:
    return mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


class Meeting:
    """This process's side of the meeting of `size` processes. All must call `exchange` and `barrier` in one order."""

    def __init__(self, descriptor: int, path: str, rank: int, size: int) -> None:
        self.path, self.rank, self.size = path, rank, size
        self._descriptor = descriptor
        self._memory = map_shared(descriptor, ROOM * size)
        self._count = 0
        self._fence = threading.Lock()
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, rank)
        self._put(rank, STATE, JOINED)

    @classmethod
    def open(cls, size: int) -> Meeting:
        """The main process opens the meeting; the others join by its `path`."""
        descriptor, path = shared_file(ROOM * size)
        return cls(descriptor, path, 0, size)

    @classmethod
    def join(cls, path: str, rank: int, size: int) -> Meeting:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            what = f"the main process's shared memory cannot be opened ({error.strerror}); it may have ended"
            raise PeerLost(what, exit_code=EXIT_FAILED) from error
        return cls(descriptor, path, rank, size)

    # ------------------------------------------------ talking

    def barrier(self) -> None:
        """Wait until all are here. What any wrote to shared memory before, all see afterwards."""
        self._count += 1
        with self._fence:  # orders the writes before it, on processors that would not
            self._put(self.rank, ARRIVED, self._count)
        looks, began = 0, time.monotonic()
        looked = began
        for other in range(self.size):
            while self._get(other, ARRIVED) < self._count:
                looks += 1
                if looks < SPINS:
                    os.sched_yield() if hasattr(os, "sched_yield") else time.sleep(0)
                    continue
                now = time.monotonic()
                if now - looked > LOOK_SECONDS:
                    looked = now
                    self._look_after_the_others()
                time.sleep(min(LONGEST_SLEEP, 20e-6 + (now - began) / 16))
        with self._fence:
            pass
        if self._count == 1 and self.rank == 0:
            forget(self.path)  # all have it open

    def exchange(self, value: Any) -> list[Any]:
        """What every process gave, by rank. Values are JSON; floats arrive as they were."""
        data = json.dumps(value).encode()
        got: list[bytes] = [b""] * self.size
        lengths: list[int] = []
        start = 0
        while not lengths or start < max(lengths):
            mine = self.rank * ROOM + PIECES + self._count % 2 * SLOT
            piece = data[start : start + SLOT - 8]
            self._memory[mine : mine + 8 + len(piece)] = struct.pack("<q", len(data)) + piece
            turn = self._count % 2
            self.barrier()  # the next piece goes to the other slot, so a slow reader still finds this one
            lengths = []
            for rank in range(self.size):
                place = rank * ROOM + PIECES + turn * SLOT
                lengths.append(struct.unpack_from("<q", self._memory, place)[0])
                got[rank] += self._memory[place + 8 : place + 8 + max(0, min(SLOT - 8, lengths[rank] - start))]
            start += SLOT - 8
        return [json.loads(one) for one in got]

    # ------------------------------------------------ failing

    def fail(self, rank: int, why: str) -> None:
        """Let the others know that process `rank` cannot go on, before they wait for it in vain."""
        data = why.encode()[: LONGEST_REASON - 1]
        place = rank * ROOM + WHY
        self._memory[place : place + len(data) + 1] = data + b"\0"
        with self._fence:
            self._put(rank, STATE, FAILED)

    def _look_after_the_others(self) -> None:
        for other in range(self.size):
            state = self._get(other, STATE)
            if other == self.rank and state != FAILED:
                continue
            if state == FAILED:
                place = other * ROOM + WHY
                why = self._memory[place : place + LONGEST_REASON].split(b"\0", 1)[0].decode(errors="replace")
                raise PeerLost(f"process {other} of {self.size} failed: {why}", exit_code=EXIT_FAILED)
            if state == JOINED and self._get(other, ARRIVED) < self._count and self._is_free(other):
                raise PeerLost(
                    f"process {other} of the {self.size} that train together has ended; was it killed?",
                    fix="run the same command to go on from the last checkpoint; if memory was short, with fewer "
                    "processes (--processes 1)",
                    exit_code=EXIT_FAILED,
                )

    def _is_free(self, rank: int) -> bool:
        """Whether nobody holds the process's lock any more."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)
        except OSError:
            return False
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, rank)
        return True

    def close(self) -> None:
        with contextlib.suppress(BufferError):
            self._memory.close()
        os.close(self._descriptor)
        if self.rank == 0:
            forget(self.path)

    def _get(self, rank: int, offset: int) -> int:
        return int.from_bytes(self._memory[rank * ROOM + offset : rank * ROOM + offset + 8], "little")

    def _put(self, rank: int, offset: int, value: int) -> None:
        struct.pack_into("@q", self._memory, rank * ROOM + offset, value)  # aligned: one store


# ---------------------------------------------------------------- larger blocks


def map_common(meeting: Meeting, size: int) -> mmap.mmap:
    """One block of zeros that the main process makes and all map."""
    descriptor, path = shared_file(max(size, 1)) if meeting.rank == 0 else (-1, "")
    paths = meeting.exchange(path)
    return _map_all(meeting, descriptor, path, [paths[0]], size)[0]


def map_one_each(meeting: Meeting, size: int) -> list[mmap.mmap]:
    """A block of zeros of every process, all mapped here, by rank."""
    descriptor, path = shared_file(max(size, 1))
    return _map_all(meeting, descriptor, path, meeting.exchange(path), size)


def _map_all(meeting: Meeting, descriptor: int, path: str, paths: list[str], size: int) -> list[mmap.mmap]:
    blocks = []
    for one in paths:
        opened = os.open(one, os.O_RDWR | os.O_CLOEXEC)
        blocks.append(map_shared(opened, max(size, 1)))
        os.close(opened)
    meeting.barrier()  # all have it: from here on it goes when the last of them ends
    if path:
        os.close(descriptor)
        forget(path)
    return blocks
