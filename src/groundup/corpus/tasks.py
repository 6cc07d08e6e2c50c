"""One unit of work of a corpus build: a pure function from files to files, done once and never half.

A task's outputs lie in a folder that is named by its fingerprint: what the step is called, the code it runs, the
options that decide its result, and the sha256 of every file it reads. The folder appears whole, by one rename, with
`task.json` in it; so a task is done exactly if its folder is there. Whatever changes, code, options or input, gives
another name.
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import importlib.util
import os
import resource
import secrets
import shutil
import socket
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from groundup.artifacts import disk_error, fingerprint_file, fingerprint_of, read_json, sync_folder, write_json
from groundup.corpus.memory import count_anew, peak_bytes
from groundup.corpus.reach import modules_reached
from groundup.errors import EXIT_FAILED, Problem, UserError

SIDECAR = "task.json"
BEGUN = ".begun"  # stands in a folder that a task writes into, until all is written
Input = tuple[str, str]


@dataclass(frozen=True)
class Task:
    """What an engine carries to a worker. All of it is JSON, so that any process on any machine can run it."""

    step: str
    name: str  # for people: `web 00003`
    function: str  # "module:function"; gets (task, folder to write into), returns what is to be kept of it as JSON
    options: Mapping[str, Any]  # what decides the result, besides code and inputs
    inputs: tuple[Input, ...]  # (file, relative to `root`; its sha256)
    fingerprint: str
    root: str  # the build's work folder; may lie elsewhere on another machine
    bytes: int = 0  # about how much it reads, for progress
    hints: Mapping[str, Any] = field(default_factory=dict)  # what does not decide the result: paths, limits
    only: tuple[int, int] | None = None  # a trial on these documents of the shard alone: first, last + 1
    without: tuple[int, ...] = ()  # documents that killed every process that touched them

    @property
    def folder(self) -> Path:
        name = self.fingerprint[:24]
        if self.only is not None:
            name += f".trial-{self.only[0]}-{self.only[1]}"
        return Path(self.root) / self.step / name

    def paths(self) -> list[Path]:
        return [Path(self.root) / name for name, _ in self.inputs]


def make_task(
    step: str,
    name: str,
    function: str,
    root: Path,
    *,
    options: Mapping[str, Any] | None = None,
    inputs: Sequence[Input] = (),
    code: Sequence[str] = (),
    bytes: int = 0,
    hints: Mapping[str, Any] | None = None,
) -> Task:
    """A task with its fingerprint, which covers the code that the function can reach.

    `code`: what else decides: modules that it imports by a computed name, and distributions, as `dist:NAME`.
    """
    options = dict(options or {})
    parts = {
        "step": step,
        "function": function,
        "code": code_version((*modules_reached(function), *code)),
        "options": options,
        "inputs": [digest for _, digest in inputs],
    }
    fingerprint = fingerprint_of(parts)
    return Task(step, name, function, options, tuple(inputs), fingerprint, str(root), bytes, dict(hints or {}))


@cache
def code_version(names: Sequence[str]) -> str:
    """A digest of modules' source text and of distributions' versions; nothing is imported for it.

    The text and not a number that somebody has to raise: a stale result is worse than work done again.
    """
    digest = sha256()
    for name in sorted(set(names)):
        if name.startswith("dist:"):
            try:
                version = importlib.metadata.version(name.removeprefix("dist:"))
            except importlib.metadata.PackageNotFoundError:
                version = "absent"
            digest.update(f"{name}={version}\n".encode())
            continue
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin, f"no module is called {name}"
        digest.update(f"{name}\n".encode() + Path(spec.origin).read_bytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- what a finished task leaves


@dataclass(frozen=True)
class Done:
    """A finished task's sidecar."""

    task: Task
    outputs: dict[str, dict[str, Any]]  # file -> {sha256, bytes}
    stats: dict[str, Any]  # what the function returned
    seconds: float
    cpu_seconds: float
    peak_bytes: int  # the most memory that the process held which ran it ...
    peak_is_own: bool = False  # ... while it ran it; else so far

    def path(self, name: str) -> Path:
        return self.task.folder / name

    def input(self, name: str) -> Input:
        """One of the outputs as the input of a later task."""
        return f"{self.task.step}/{self.task.folder.name}/{name}", self.outputs[name]["sha256"]


def done_or_none(task: Task) -> Done | None:
    """The finished task; None where it is not, or where its files are not what the sidecar says."""
    try:
        record = read_json(task.folder / SIDECAR)
        if record["fingerprint"] != task.fingerprint:
            return None
        for name, output in record["outputs"].items():
            if (task.folder / name).stat().st_size != output["bytes"]:
                return None
    except (OSError, UserError, KeyError, TypeError):
        return None
    return done_from(task, record)


def done_from(task: Task, record: Mapping[str, Any]) -> Done:
    known = {key: record[key] for key in ("outputs", "stats", "seconds", "cpu_seconds", "peak_bytes")}
    return Done(task, **known, peak_is_own=bool(record.get("peak_is_own")))


# ---------------------------------------------------------------- running one, in whatever process


def run_task(task: Task, *, is_worker: bool = False) -> dict[str, Any]:
    """Do a task, or find it done. Returns its sidecar. Raises what the function raises; then nothing is left behind.

    `is_worker`: this process does one task after the other and nothing else, so its memory is the task's.
    """
    if (earlier := done_or_none(task)) is not None:
        return read_json(earlier.task.folder / SIDECAR)  # type: ignore[no-any-return]
    peak_is_own = is_worker and count_anew()
    started, cpu = time.monotonic(), _cpu_seconds()
    # A name that no other attempt has: processes of different containers may share host name and number.
    who = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    scratch = task.folder.with_name(f".{task.folder.name}.{who}.tmp")
    try:
        scratch.mkdir(parents=True)
        (scratch / BEGUN).touch()
        module, _, name = task.function.partition(":")
        stats = getattr(importlib.import_module(module), name)(task, scratch)
        outputs = {
            path.relative_to(scratch).as_posix(): {"sha256": fingerprint_file(path), "bytes": path.stat().st_size}
            for path in sorted(scratch.rglob("*"))
            if path.is_file() and path.name != BEGUN
        }
        record = {
            "step": task.step,
            "name": task.name,
            "fingerprint": task.fingerprint,
            "options": task.options,
            "inputs": task.inputs,
            "without": list(task.without),
            "outputs": outputs,
            "stats": stats,
            "seconds": round(time.monotonic() - started, 4),
            "cpu_seconds": round(_cpu_seconds() - cpu, 4),
            "peak_bytes": peak_bytes(),
            "peak_is_own": peak_is_own,
        }
        write_json(scratch / SIDECAR, record, indent=None)
        _take_mark_off(scratch)
        if not _put_in_place(scratch, task.folder):
            if done_or_none(task) is not None:  # another attempt was quicker
                return read_json(task.folder / SIDECAR)  # type: ignore[no-any-return]
            shutil.rmtree(task.folder)
            _put_in_place(scratch, task.folder)
        sync_folder(task.folder.parent)
    except OSError as error:
        raise disk_error(error, Path(error.filename or task.folder)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return record


def _take_mark_off(scratch: Path) -> None:
    """UserError where the folder is not the one that was begun: what was written before is missing in it."""
    try:
        (scratch / BEGUN).unlink()
    except FileNotFoundError as error:
        raise UserError(
            "what a task had written was taken away while it worked",
            where=str(scratch.parent),
            fix="let one build at a time work in this folder",
            exit_code=EXIT_FAILED,
        ) from error


def _put_in_place(scratch: Path, folder: Path) -> bool:
    """Whether the finished folder got its name; else there is one already."""
    try:
        scratch.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def _cpu_seconds() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def remove_scratch(root: Path) -> None:
    """What killed workers left half done.

    One that is still at work (a job on another machine, a process that is slow to die) must not finish what is partly
    gone: its folder is renamed first, at one stroke, and what it goes on to write has no mark (`BEGUN`).
    """
    for pattern in ("*/.*.tmp", "*/*.trial-*"):
        for path in root.glob(pattern):
            with suppress(OSError):
                path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}.gone"))
    for path in root.glob("*/.*.gone"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------- as JSON, for workers that are other processes


def task_to_json(task: Task) -> dict[str, Any]:
    return asdict(task)


def task_from_json(record: Mapping[str, Any]) -> Task:
    only = record["only"]
    inputs = tuple((name, digest) for name, digest in record["inputs"])
    fields = {**record, "inputs": inputs, "only": tuple(only) if only else None, "without": tuple(record["without"])}
    return Task(**fields)


@dataclass(frozen=True)
class Failure:
    """A task that did not end well.

    `died`: its process is gone, killed or crashed. `memory`: it asked for more than there was. Both may be a document's
    fault, or nobody's, and the task is tried again. `error`: the function raised; trying again would raise again.
    """

    kind: str
    what: str
    problems: tuple[Problem, ...] = ()
    exit_code: int = 1
    trace: str = ""


Outcome = dict[str, Any] | Failure  # a sidecar, or why there is none


def attempt(task: Task, *, is_worker: bool = False) -> Outcome:
    """`run_task`, with whatever it raises as a Failure that can travel between processes."""
    try:
        return run_task(task, is_worker=is_worker)
    except MemoryError:
        return Failure("memory", "it asked for more memory than there is")
    except UserError as error:
        return Failure("error", str(error), tuple(error.problems), error.exit_code)
    except Exception as error:
        return Failure("error", f"{type(error).__name__}: {error}", trace=traceback.format_exc())


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    return {"failure": asdict(outcome)} if isinstance(outcome, Failure) else {"record": outcome}


def outcome_from_json(message: Mapping[str, Any]) -> Outcome:
    if (failure := message.get("failure")) is None:
        return dict(message["record"])
    problems = tuple(Problem(**problem) for problem in failure["problems"])
    return Failure(**{**failure, "problems": problems})


def raise_failure(task: Task, failure: Failure) -> None:
    """The person's mistake as it was raised; anything else with its task and its traceback."""
    if failure.problems:
        raise UserError(failure.problems, exit_code=failure.exit_code)
    raise RuntimeError(f"{task.step} of {task.name} failed: {failure.what}\n{failure.trace}")


def in_this_process(tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
    """The plainest engine: one task after the other, right here. A crash takes everything down: for debuggers."""
    for index, task in enumerate(tasks):
        yield index, attempt(task)
