"""The folder of a run, `runs/NAME`: who works in it, how far it is, and how a finished stage gets into place.

    runs/NAME/STAGE/        finished artifacts
    runs/NAME/.work/STAGE/  what a stage is building; `.work/STAGE.json`: for which fingerprint, seconds so far
    runs/NAME/state.json    running, done, failed or stopped; the stage, the process, a heartbeat
    runs/NAME/run.log       everything that was said, with tracebacks

Nothing in it holds an absolute path: the folder can be moved, renamed and copied.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts import MARKER, sync_folder, write_json
from groundup.errors import UserError
from groundup.runs import WORK

OLD = ".old"  # suffix of an older artifact while the new one takes its place
HEARTBEAT_SECONDS = 5.0


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# ---------------------------------------------------------------- one run at a time


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """Hold the folder for this process: a record lock ends with the process, also by kill -9; no child keeps it."""
    run_folder.mkdir(parents=True, exist_ok=True)
    path = run_folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            raise UserError(
                f"another run works in this folder ({holder})",
                where=str(run_folder),
                fix="wait for it, stop it with Ctrl-C, or give this run another name: `name=OTHER`",
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- a stage's unfinished work


@dataclass
class Work:
    """What a stage is building: its folder, for which fingerprint, and the seconds spent, over all resumes."""

    folder: Path
    fingerprint: str
    seconds_before: float = 0.0
    resumes: int = 0
    processes: int | None = None  # that it was begun with

    @property
    def record(self) -> Path:
        return self.folder.with_name(self.folder.name + ".json")

    def save(self, seconds: float) -> None:
        kept = {"fingerprint": self.fingerprint, "seconds": round(seconds, 3), "resumes": self.resumes}
        write_json(self.record, {**kept, "processes": self.processes})

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.record.unlink(missing_ok=True)


def unfinished_work(run_folder: Path, stage: str) -> Work | None:
    """The work that a stop or a kill left behind, or None."""
    folder = run_folder / WORK / stage
    record = folder.with_name(stage + ".json")
    try:
        saved = json.loads(record.read_text())
        work = Work(folder, str(saved["fingerprint"]), float(saved["seconds"]), int(saved["resumes"]))
        work.processes = saved.get("processes")
        return work
    except (OSError, ValueError, KeyError):
        return None


def open_work(run_folder: Path, stage: str, fingerprint: str) -> Work:
    """Go on in the unfinished work of the same fingerprint; anything else in its place is thrown away."""
    found = unfinished_work(run_folder, stage)
    if found is not None and found.fingerprint == fingerprint and found.folder.is_dir():
        found.resumes += 1
        return found
    work = Work(run_folder / WORK / stage, fingerprint)
    work.discard()
    # the record comes first: a folder that no record names is never taken up
    work.folder.parent.mkdir(parents=True, exist_ok=True)
    work.save(0.0)
    work.folder.mkdir()
    return work


def publish(work: Work, final: Path) -> None:
    """Put a finished stage into place. An older artifact stays until the new one is whole and in place."""
    old = work.folder.with_name(work.folder.name + OLD)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    work.folder.rename(final)
    sync_folder(final.parent)
    work.record.unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)


def mend(run_folder: Path) -> None:
    """Finish what a kill cut off between the two renames of `publish`."""
    for old in (run_folder / WORK).glob(f"*{OLD}"):
        stage = old.name.removesuffix(OLD)
        final, new = run_folder / stage, run_folder / WORK / stage
        if not final.exists():
            (new if (new / MARKER).is_file() else old).rename(final)
        shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------- how far the run is


class RunState:
    """`state.json`, kept up to date by a thread of its own, so that a reader can tell a live run from a dead one."""

    def __init__(self, run_folder: Path, name: str, stages: list[str]) -> None:
        self.path = run_folder / "state.json"
        self.data: dict[str, Any] = {
            "status": "running",
            "name": name,
            "stage": None,
            "pid": os.getpid(),
            "host": platform.node(),
            "started_at": now(),
            "heartbeat": time.time(),
            "stages": {stage: {"status": "waiting"} for stage in stages},
        }
        self.work: Work | None = None
        self.stage_started = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> RunState:
        self.save()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def stage(self, name: str, **values: Any) -> None:
        """Note something about one stage: `status="running"`, `error=...`, `seconds=...`."""
        with self._lock:
            self.data["stages"].setdefault(name, {}).update(values)
            self.data["stage"] = name
        self.save()

    def end(self, status: str, *, exit_code: int, error: str = "") -> None:
        with self._lock:
            self.data.update(status=status, exit_code=exit_code, error=error, ended_at=now())
        self.save()

    def start_clock(self, work: Work) -> None:
        self.work, self.stage_started = work, time.monotonic()

    def stop_clock(self) -> float:
        """Seconds of the stage in hand, over all resumes; kept beside its work."""
        assert self.work is not None
        seconds = self._stage_seconds()
        with self._lock:
            work, self.work = self.work, None
            work.save(seconds)
        return seconds

    def save(self) -> None:
        with self._lock:
            self.data["heartbeat"] = time.time()
            write_json(self.path, self.data)

    def _stage_seconds(self) -> float:
        return self.work.seconds_before + time.monotonic() - self.stage_started if self.work else 0.0

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                self.save()
                with self._lock:
                    if self.work is not None:
                        self.work.save(self._stage_seconds())
            except (OSError, UserError):
                continue  # a full disk is the stage's to tell; the next beat tries again
