"""Training systems that take turns: each in processes of its own, all but one of them stopped (SIGSTOP).

A system trains in its own loop and never hears of the others. The benchmark lets one run for a few steps, stops it
between two of them, and lets the next one run: A B C A B C within one run, on one machine, in one state of its load.
The step that was cut by the stop, and finds its data out of the caches, is not counted.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.005
CLOCK_TICK = 1 / os.sysconf("SC_CLK_TCK")  # what the kernel counts CPU time in


@dataclass
class Steps:
    """What was measured of one system: each step's wall time, each turn's CPU time per step, the peak of its memory."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_memory_bytes: int = 0
    first_loss: float | None = None
    ready_seconds: float = 0.0  # from its start until the end of its first step
    extra: list[Any] = field(default_factory=list)

    def result(self, name: str, tokens: int) -> dict[str, Any]:
        median, cpu_seconds = statistics.median(self.seconds), statistics.median(self.cpu_seconds)
        return {
            "name": name,
            "median": median,
            "spread": [min(self.seconds), max(self.seconds)],
            "unit": "s",
            "cpu_seconds": cpu_seconds,
            "repetitions": len(self.seconds),
            "peak_memory_bytes": self.peak_memory_bytes,
            "tokens_per_second": tokens / median,
            "tokens_per_cpu_second": tokens / max(cpu_seconds, CLOCK_TICK),
            "start_to_first_step_seconds": round(self.ready_seconds, 2),
        }


class Contender:
    """A system in a process group of its own. `ended` steps are seen in what it writes."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        self.name, self.folder, self.measured = name, folder, Steps()
        folder.mkdir(parents=True, exist_ok=True)
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        self._unfinished = b""
        self._log = (folder / "log.txt").open("wb")
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "GROUNDUP_BENCH_EVENTS": str(write), **(environment or {})},
            pass_fds=[write],
            start_new_session=True,
        )
        os.close(write)

    # ------------------------------------------------ what it does

    def ended_steps(self) -> list[dict[str, Any]]:
        """Steps that ended since the last call: `at` (monotonic seconds) or `seconds` (since training began)."""
        try:
            data = self._unfinished + os.read(self._read, 1 << 20)
        except BlockingIOError:
            return []
        *lines, self._unfinished = data.split(b"\n")
        return [json.loads(line) for line in lines]

    def wait_for_steps(self, count: int, limit_seconds: float) -> list[tuple[dict[str, Any], float]]:
        """The next `count` steps, each with the CPU seconds of the whole group by then. Exits where it dies."""
        found: list[tuple[dict[str, Any], float]] = []
        deadline = time.monotonic() + limit_seconds
        while len(found) < count:
            found += [(step, self.cpu_seconds()) for step in self.ended_steps()]
            if self.process.poll() is not None:
                raise ChildProcessError(f"{self.name} ended with code {self.process.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: no step in {limit_seconds:.0f} s\n{self.tail()}")
            time.sleep(POLL_SECONDS)
        return found

    def warm_up(self, steps: int, limit_seconds: float) -> None:
        """From the start to the end of some steps; then it is stopped."""
        first, *_ = self.wait_for_steps(1, limit_seconds)
        self.measured.ready_seconds = self.age_seconds()
        self.measured.first_loss = first[0].get("loss")
        self.wait_for_steps(steps - 1, limit_seconds)
        self.stop()

    def turn(self, steps: int, limit_seconds: float = 600.0) -> None:
        """Run for `steps` whole steps, then stop."""
        self.ended_steps()
        self.go()
        # the first may have ended before the stop and be told only now; the second is the one that was cut
        seen = self.wait_for_steps(steps + 2, limit_seconds)[1:]
        self.stop()
        times = [step["at"] if "at" in step else step["seconds"] for step, _ in seen]
        self.measured.seconds += [later - earlier for earlier, later in pairwise(times)]
        self.measured.cpu_seconds.append((seen[-1][1] - seen[0][1]) / (len(seen) - 1))
        self.measured.peak_memory_bytes = max(self.measured.peak_memory_bytes, self.peak_memory_bytes())
        self.measured.extra += [step for step, _ in seen[1:]]

    def go(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._read)
        self._log.close()

    def age_seconds(self) -> float:
        return time.monotonic() - self._started

    # ------------------------------------------------ what it takes

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds_of(pid) for pid in group_members(self.process.pid))

    def peak_memory_bytes(self) -> int:
        """The sum of its processes' peaks. Memory that they share is counted once, at its owner's."""
        members = group_members(self.process.pid)
        return sum(status_bytes(pid, "VmHWM") for pid in members) - sum(
            status_bytes(pid, "RssShmem") for pid in members[1:]
        )

    def tail(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")[-2000:]


class OurRun(Contender):
    """`python -m groundup run RECIPE`: nothing is added to it; its metrics.jsonl tells when each step ended."""

    def __init__(self, name: str, recipe: str, folder: Path, options: list[str], environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(recipe)
        self._metrics: Any = None
        command = [sys.executable, "-m", "groundup", "run", "recipe.yaml", *options]
        super().__init__(name, command, folder, environment)

    def ended_steps(self) -> list[dict[str, Any]]:
        if self._metrics is None:
            found = sorted(self.folder.glob("runs/**/metrics.jsonl"))
            if not found:
                return []
            self._metrics = found[0].open("rb")
        data = self._unfinished + self._metrics.read()
        *lines, self._unfinished = data.split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        super().close()
        if self._metrics is not None:
            self._metrics.close()


# ---------------------------------------------------------------- /proc


def group_members(group: int) -> list[int]:
    """Processes of a process group, its leader first."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = stat_fields(int(entry.name))
            if fields and int(fields[2]) == group:  # pgrp
                members.append(int(entry.name))
    return sorted(members, key=lambda pid: pid != group)


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty where there is no such process any more."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def cpu_seconds_of(pid: int) -> float:
    """User and system time of a process and of the children it has waited for."""
    fields = stat_fields(pid)
    return sum(map(int, fields[11:15])) * CLOCK_TICK if fields else 0.0


def status_bytes(pid: int, name: str) -> int:
    try:
        lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
