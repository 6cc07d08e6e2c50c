"""What every benchmark shares: systems that take turns, what the machine is, the table and the JSON.

Each system works in a process of its own, which waits while another one's is timed: the turns are interleaved
(A B A B), no system's settings reach another, and the peak memory is that system's alone.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from groundup.environment import environment, installed_version, spin_less

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Samples:
    """What one system's turns took: wall and CPU seconds for one unit of work each, and the peak of its memory."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_memory_bytes: int = 0

    def result(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "median": statistics.median(self.seconds),
            "spread": [min(self.seconds), max(self.seconds)],
            "unit": "s",
            "cpu_seconds": statistics.median(self.cpu_seconds),
            "repetitions": len(self.seconds),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


# ---------------------------------------------------------------- systems in processes of their own


class System:
    """`make(*arguments)` runs in a new process and gives an object; `ask` calls its methods there, one at a time."""

    def __init__(self, name: str, make: Callable[..., Any], *arguments: Any) -> None:
        self.name = name
        spin_less()  # for all systems alike: a process that waits must not steal the time of the one that is timed
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        return self._asked(method, arguments)[0]

    def _asked(self, method: str, arguments: Sequence[Any]) -> tuple[Any, float, float, int]:
        self._pipe.send((method, arguments))
        try:
            answer: tuple[Any, float, float, int] = self._pipe.recv()
        except EOFError:
            self._process.join()
            sys.exit(f"{self.name}: its process ended with code {self._process.exitcode} in `{method}`; see above")
        return answer

    def time(self, samples: Samples, method: str, *arguments: Any, units: int = 1) -> None:
        """One turn of `units` units of work, timed in the system's own process."""
        _, seconds, cpu_seconds, peak = self._asked(method, arguments)
        samples.seconds.append(seconds / units)
        samples.cpu_seconds.append(cpu_seconds / units)
        samples.peak_memory_bytes = peak

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Any, make: Callable[..., Any], arguments: Sequence[Any]) -> None:
    work = make(*arguments)
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:  # closed: the benchmark is done
            return
        started, cpu_started = time.perf_counter(), time.process_time()
        answer = getattr(work, method)(*given)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        pipe.send((answer, seconds, cpu_seconds, _peak_memory_bytes()))


def _peak_memory_bytes() -> int:
    """The most this process has held. Not ru_maxrss, which begins at the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def time_command(samples: Samples, command: list[str], folder: Path) -> int:
    """Run a command to its end, in `folder`; returns its exit code."""
    with open(os.devnull, "wb") as nowhere:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
    samples.seconds.append(time.perf_counter() - started)
    samples.cpu_seconds.append(usage.ru_utime + usage.ru_stime)
    samples.peak_memory_bytes = max(samples.peak_memory_bytes, usage.ru_maxrss * 1024)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode


# ---------------------------------------------------------------- what is told


def machine(measured: Sequence[str]) -> dict[str, Any]:
    """Processor, cores, memory, GPU, load, commit, date, and the versions of what was measured."""
    found = environment()
    found["packages"] = {name: version for name in measured if (version := installed_version(name))}
    gpus = _output("nvidia-smi", "-L").splitlines()
    is_changed = _output("git", "status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks")
    return found | {
        "gpu": gpus or None,
        "threads": os.environ.get("OMP_NUM_THREADS") or found["cores"],
        "load_before": round(os.getloadavg()[0], 2),  # of others: a loaded machine's ratios are worth little
        "niceness": os.nice(0),
        "commit": _output("git", "rev-parse", "HEAD") + ("+changes" if is_changed else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def target(name: str, ours: dict[str, Any], peers: Sequence[dict[str, Any]], at_least: float | None) -> dict[str, Any]:
    """Ours against the fastest peer; `ratio` says how many times faster ours is. No `at_least`: nobody asks for it."""
    peer = min(peers, key=lambda result: result["median"])
    ratio = peer["median"] / ours["median"]
    return {
        "name": name,
        "ours": ours["median"],
        "peer": peer["median"],
        "peer_name": peer["name"],
        "ratio": ratio,
        "target": at_least,
        "holds": None if at_least is None else ratio >= at_least,
    }


def table(report: dict[str, Any]) -> str:
    """The same for people."""
    facts = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    width = max([len(result["name"]) for result in report["results"]], default=10)
    lines = [
        f"{facts['processor']}, {facts['cores']} cores, load {facts['load_before']}",
        f"Python {facts['python']}, {versions}",
        f"commit {facts['commit']}, {facts['date']}",
        "",
    ]
    for name, work in report["work"].items():
        verdict = "the same work" if work["same"] else "NOT THE SAME WORK, so no time is given"
        checks = "; ".join(f"{key} {value}" for key, value in work["checked"].items())
        lines += [f"{name}: {work['what']}", f"  {verdict}: {checks}"]
    lines += ["", f"{'':{width}}  {'median':>9}  {'fastest':>9}  {'slowest':>9}  {'CPU':>9}  {'peak':>8}"]
    for result in report["results"]:
        times = (result["median"], *result["spread"], result["cpu_seconds"])
        shown = "  ".join(f"{value * 1000:6,.0f} ms" for value in times)
        lines.append(f"{result['name']:{width}}  {shown}  {result['peak_memory_bytes'] / 1e6:5,.0f} MB")
    lines.append("")
    for row in report["targets"]:
        verdict = (
            "no target" if row["target"] is None else f"target {row['target']}: {'holds' if row['holds'] else 'missed'}"
        )
        lines.append(f"{row['name']}: {row['ratio']:.2f} times as fast as {row['peer_name']} ({verdict})")
    lines += [f"absent: {name}" for name in report["absent"]]
    return "\n".join(lines)
