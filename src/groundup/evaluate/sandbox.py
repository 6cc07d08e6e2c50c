"""Runs programs that a model wrote, behind walls: no network, no other processes, no files but a private folder.

Every program gets a fresh interpreter. Two levels of walls, the first that works on this machine:

`bubblewrap`  own namespaces (user, pid, net, mount, ipc) by `bwrap`, and inside them all of the second level
`landlock`    Landlock closes the file system, seccomp denies sockets, new processes, signals and some ninety other
              system calls, capabilities are dropped, rlimits bound CPU time, memory and files. Works as root and as
              an ordinary user, in containers too; needs Linux 5.13

Where neither works, programs are refused unless the caller allows `none` (limits only).

A program has passed only when it came to its end: the stub then writes a random token that was not on its command
line, in its environment or in its files. Exit status 0 and printed words prove nothing. What this does not hold: a
program that searches the interpreter's own frames for the token could claim to have passed. It still cannot get out.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

from groundup.errors import EXIT_REFUSED, UserError

Level = Literal["bubblewrap", "landlock", "none"]
Kind = Literal["passed", "failed", "exited", "timeout", "memory", "output", "disk", "killed", "sandbox_error"]
WALL_SECONDS_PER_CPU_SECOND = 5
STUB = Path(__file__).with_name("sandbox_stub.py")


@dataclass(frozen=True)
class Limits:
    """What one program may use. CPU time decides, so that a busy machine does not change scores."""

    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20  # stdout and stderr together
    file_bytes: int = 16 << 20  # one file
    disk_bytes: int = 64 << 20  # all files together


@dataclass(frozen=True)
class ProgramResult:
    """How a program ended. `exited`: it left before its end, whatever its exit status was."""

    kind: Kind
    detail: str
    output: str
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    level: Level

    @property
    def passed(self) -> bool:
        return self.kind == "passed"


# ---------------------------------------------------------------- which walls this machine can raise


def require_level(*, allow_none: bool = False) -> Level:
    """The best level that works here, found by trying. UserError (exit code 3) where none does, unless allowed."""
    level, reasons = _best_level(shutil.which("bwrap"))
    if level == "none" and not allow_none:
        raise UserError(
            f"model-written code cannot be locked down on this machine ({'; '.join(reasons)})",
            fix="install bubblewrap, or run on Linux 5.13 or later; "
            "`allow_no_sandbox: true` runs the code with your own rights",
            exit_code=EXIT_REFUSED,
        )
    return level


@cache
def _best_level(bwrap: str | None) -> tuple[Level, tuple[str, ...]]:
    reasons = []
    levels: tuple[Level, ...] = ("bubblewrap", "landlock")
    for level in levels:
        if level == "bubblewrap" and bwrap is None:
            reasons.append("bubblewrap is not installed")
            continue
        if failure := probe(level, bwrap=bwrap):
            reasons.append(f"{level}: {failure}")
        else:
            return level, tuple(reasons)
    return "none", tuple(reasons)


def probe(level: Level, *, bwrap: str | None = None) -> str:
    """Why this level does not work here, or "". A harmless program has to pass, and harmless attacks have to fail."""
    secret = secrets.token_hex(16)
    with tempfile.NamedTemporaryFile("w+", prefix="groundup-probe-") as outside:
        outside.write(secret)
        outside.flush()
        result = run_program(_PROBE.format(path=outside.name), Limits(cpu_seconds=10), level, bwrap=bwrap)
        if not result.passed:
            return f"{result.kind}: {result.detail}"
        if secret in result.output:
            return "a file outside could be read"
        return "" if Path(outside.name).read_text() == secret else "a file outside could be written"


_PROBE = """
import math, os, socket
assert math.sqrt(49) == 7
with open("mine", "w") as file:
    file.write("x" * 1000)
assert os.path.getsize("mine") == 1000
def held(attack):
    try:
        print(attack())
    except OSError:
        return True
    return False
held(lambda: open({path!r}).read())
held(lambda: open({path!r}, "w").write("overwritten"))
assert held(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)), "a socket could be opened"
assert held(os.fork), "a process could be started"
"""


# ---------------------------------------------------------------- running one program


def run_program(
    program: str, limits: Limits = Limits(), level: Level | None = None, *, bwrap: str | None = None
) -> ProgramResult:
    """Run Python source to its end in a fresh interpreter behind walls, and say how it ended. Never raises for what
    the program does; `sandbox_error` means that it was not started at all."""
    level = level or require_level()
    with tempfile.TemporaryDirectory(prefix="groundup-sandbox-") as name, tempfile.TemporaryFile() as task:
        folder = Path(name).resolve()
        nonce = secrets.token_hex(16)
        result_read, result_write = os.pipe()
        os.set_inheritable(result_write, True)
        inside = Path("/tmp") if level == "bubblewrap" else folder
        task.write(json.dumps(_task(program, limits, level, nonce, result_write, inside)).encode())
        task.seek(0)
        try:
            process = subprocess.Popen(
                _command(level, bwrap, limits),
                stdin=task,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(result_write,),
                cwd=folder,
                env={},
                start_new_session=True,
            )
        except OSError as error:
            os.close(result_read)
            return ProgramResult("sandbox_error", f"{error}", "", 0.0, 0.0, 0, level)
        finally:
            os.close(result_write)
        with os.fdopen(result_read, "rb", buffering=0) as result:
            return _judge(_watch(process, result, folder, limits), nonce, limits, level)


def _task(program: str, limits: Limits, level: Level, nonce: str, result_fd: int, inside: Path) -> dict[str, Any]:
    return {
        "program": program,
        "limits": asdict(limits),
        "nonce": nonce,
        "result_fd": result_fd,
        "walls": level != "none",
        "landlock_required": level == "landlock",
        "read": _readable_places(),
        "write": [str(inside), "/dev/null"],
    }


def _readable_places() -> list[str]:
    """What an interpreter needs to start and to import its standard library; no home folder, no /etc, no /proc."""
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sysconfig.get_config_var("LIBDIR")}
    places = {str(Path(place).resolve()) for place in libraries if place}
    return sorted({*places, "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom"})


def _command(level: Level, bwrap: str | None, limits: Limits) -> list[str]:
    interpreter = str(Path(getattr(sys, "_base_executable", "") or sys.executable).resolve())
    python = [interpreter, "-I", "-S", "-B", "-X", "utf8", "-c", STUB.read_text(encoding="utf-8")]
    if level != "bubblewrap":
        return python
    command = [bwrap or shutil.which("bwrap") or "bwrap", "--unshare-user", "--unshare-all", "--die-with-parent"]
    command += ["--new-session", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534"]
    for place in (*_readable_places(), interpreter):
        if place.startswith("/dev/"):
            continue
        # a place that is a link (/lib -> usr/lib) is bound as what it points to
        command += ["--ro-bind-try", place, place]
    command += ["--dev", "/dev", "--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return [*command, "--remount-ro", "/", "--", *python]


@dataclass
class _Watched:
    """What was seen of one process from its start to its end."""

    output: bytes = b""
    messages: bytes = b""
    stopped_for: Kind | None = None  # the watcher ended it
    status: int = 0  # as of subprocess: negative for a signal
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_bytes: int = 0

    def take(self, chunk: bytes, *, is_result: bool, limit: int) -> None:
        if is_result:
            self.messages = (self.messages + chunk)[-65536:]
        elif len(self.output) <= limit:
            self.output += chunk


def _watch(process: subprocess.Popen[bytes], result: IO[bytes], folder: Path, limits: Limits) -> _Watched:
    """Read what the process says until it is gone; end it where it sleeps, floods its output or fills the disk."""
    seen = _Watched()
    started = time.monotonic()
    deadline = started + WALL_SECONDS_PER_CPU_SECOND * limits.cpu_seconds
    assert process.stdout is not None and process.stderr is not None
    with selectors.DefaultSelector() as selector, process.stdout, process.stderr:
        for stream in (process.stdout, process.stderr, result):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ)
        while True:
            if selector.get_map():
                for key, _ in selector.select(timeout=0.05):
                    chunk = os.read(key.fd, 1 << 16)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    else:
                        seen.take(chunk, is_result=key.fileobj is result, limit=limits.output_bytes)
            else:
                time.sleep(0.002)  # it closed its streams, or is about to be gone
            gone, status, usage = os.wait4(process.pid, os.WNOHANG)
            if gone:
                break
            if seen.stopped_for is None:
                seen.stopped_for = _reason_to_stop(seen, folder, limits, time.monotonic() > deadline)
                if seen.stopped_for is not None:
                    os.killpg(process.pid, signal.SIGKILL)
        for key in list(selector.get_map().values()):  # what was written just before the end
            _drain(key.fd, seen, is_result=key.fileobj is result, limit=limits.output_bytes)
    if seen.stopped_for is None and len(seen.output) > limits.output_bytes:
        seen.stopped_for = "output"
    process.returncode = seen.status = os.waitstatus_to_exitcode(status)
    _kill_group(process.pid)
    seen.cpu_seconds = usage.ru_utime + usage.ru_stime
    seen.wall_seconds = time.monotonic() - started
    seen.peak_bytes = usage.ru_maxrss * 1024
    return seen


def _reason_to_stop(seen: _Watched, folder: Path, limits: Limits, is_late: bool) -> Kind | None:
    if len(seen.output) > limits.output_bytes:
        return "output"
    if is_late:
        return "timeout"
    if _bytes_on_disk(folder) > limits.disk_bytes:
        return "disk"
    return None


def _bytes_on_disk(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_blocks * 512  # noqa: PTH118 - twenty times a second
            except OSError:
                continue  # just deleted by the program
    return total


def _drain(descriptor: int, seen: _Watched, *, is_result: bool, limit: int) -> None:
    try:
        while len(seen.output) <= limit and (chunk := os.read(descriptor, 1 << 16)):
            seen.take(chunk, is_result=is_result, limit=limit)
    except BlockingIOError:
        return


def _kill_group(group: int) -> None:
    """Only the level `none` lets a program start others; whoever stayed in its group goes with it."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


# ---------------------------------------------------------------- the verdict


def _judge(seen: _Watched, nonce: str, limits: Limits, level: Level) -> ProgramResult:
    messages = [_parse(line) for line in seen.messages.split(b"\n")]
    kind, detail = _verdict(seen, messages, nonce, limits, level)
    for message in messages:
        if message.get("nonce") == nonce:  # the program's own use; bwrap hides it from the parent
            seen.cpu_seconds = max(seen.cpu_seconds, message["cpu_seconds"])
            seen.peak_bytes = max(seen.peak_bytes, message["peak_bytes"])
    output = seen.output[: limits.output_bytes].decode("utf-8", errors="replace")
    return ProgramResult(
        kind, detail, output, round(seen.cpu_seconds, 4), round(seen.wall_seconds, 4), seen.peak_bytes, level
    )


def _verdict(
    seen: _Watched, messages: list[dict[str, Any]], nonce: str, limits: Limits, level: Level
) -> tuple[Kind, str]:
    if seen.stopped_for == "timeout":
        return "timeout", f"{seen.wall_seconds:.1f} s of wall-clock time and {seen.cpu_seconds:.1f} s of CPU time"
    if seen.stopped_for is not None:
        return seen.stopped_for, f"more than {getattr(limits, seen.stopped_for + '_bytes'):,} bytes"
    for message in messages:
        if "wall_error" in message:
            return "sandbox_error", str(message["wall_error"])
    for message in messages:
        if message.get("nonce") == nonce:
            return message["kind"], str(message["detail"])
    if not any(message.get("started") for message in messages) and b'"started"' not in seen.messages:
        tail = seen.output.decode("utf-8", errors="replace").strip()[-300:]
        return "sandbox_error", f"the sandbox did not start (exit status {seen.status}): {tail}"
    # bwrap tells of a signal inside as 128 + its number
    is_inner_signal = level == "bubblewrap" and seen.status > 128
    number = -seen.status if seen.status < 0 else seen.status - 128 if is_inner_signal else 0
    used = max(seen.cpu_seconds, seen.wall_seconds if is_inner_signal else 0.0)  # bwrap hides CPU time from the parent
    if number in (signal.SIGXCPU, signal.SIGKILL) and used >= limits.cpu_seconds - 0.1:
        return "timeout", f"more than {limits.cpu_seconds} s of CPU time"
    if number:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return "killed", name
    return "exited", f"it left with exit status {seen.status} before its end"


def _parse(line: bytes) -> dict[str, Any]:
    """A message of the stub; whatever else the program wrote to that descriptor counts for nothing."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
