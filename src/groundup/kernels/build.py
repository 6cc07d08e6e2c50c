"""Builds the C files of this room, once, with the compiler that the machine has, and loads them.

    kernels = library("blocks")         # kernels/blocks.c as a ctypes.CDLL, or None
    if kernels is None: ...             # why_absent("blocks") says why; torch computes the same, slower

What is built lies in the cache folder under a name made of everything that decides it (source, flags, compiler,
processor), so a changed file, another compiler or another machine on the same disk never meets a stale build. It takes
one to three seconds at first use and a millisecond after that. `GROUNDUP_KERNELS=0` leaves the kernels out.

Threads: the C files use OpenMP pragmas and are linked without an OpenMP library of their own, so that they run on the
threads that torch already has. Where torch brings no GNU OpenMP they are built without, and run on one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from groundup.runs import cache_folder

SOURCES = Path(__file__).parent
COMPILERS = ("cc", "gcc", "clang")
BUILD_SECONDS_AT_MOST = 120
# Reductions may be reordered, so that they vectorise; unlike -ffast-math this leaves infinities, NaN and the
# treatment of denormal numbers by the processor alone.
OPTIMISE = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math")


@dataclass(frozen=True)
class Built:
    """A loaded library, or the reason why there is none."""

    library: ctypes.CDLL | None
    reason: str | None
    flags: tuple[str, ...] = ()


def library(name: str) -> ctypes.CDLL | None:
    """`kernels/NAME.c`, built and loaded; None where that cannot be (`why_absent` has the reason)."""
    return built(name).library


def why_absent(name: str) -> str | None:
    """Why `library(name)` is None, in half a sentence; None where it is there."""
    return built(name).reason


def names() -> list[str]:
    """All kernels that there are sources of."""
    return sorted(path.stem for path in SOURCES.glob("*.c"))


def built(name: str) -> Built:
    source = SOURCES / f"{name}.c"
    if not source.is_file():
        raise ValueError(f"there is no {source}")
    return _build(source, os.environ.get("GROUNDUP_KERNELS", ""), os.environ.get("CC", ""), cache_folder() / "kernels")


@cache
def _build(source: Path, switch: str, wanted_compiler: str, folder: Path) -> Built:
    """Try the fastest flags first; the first library that builds and loads is taken."""
    if switch == "0":
        return Built(None, "GROUNDUP_KERNELS=0 leaves them out")
    compiler = _compiler(wanted_compiler)
    if compiler is None:
        named = f"CC={wanted_compiler} is not there" if wanted_compiler else "no C compiler (cc, gcc or clang) is there"
        return Built(None, named)
    reason = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text, version = _text_of(source), _version_of(compiler)
        for flags in _flag_sets():
            key = hashlib.sha256("\0".join((text, *compiler, version, *flags, processor_flags())).encode()).hexdigest()
            target = folder / f"{source.stem}-{key[:20]}.so"
            reason = _compile(compiler, flags, source, target) or ""
            if reason:
                continue
            try:  # every symbol now: one that is missing must be found here, and not by a crash later
                return Built(ctypes.CDLL(str(target), mode=os.RTLD_NOW), None, flags)
            except OSError as error:
                reason = f"what {compiler[0]} built does not load: {error}"
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"building failed: {error}"
    return Built(None, reason)


def _compiler(wanted: str) -> list[str] | None:
    """The command that compiles C: what `CC` says, else the first that is there."""
    if wanted:
        words = shlex.split(wanted)
        return words if shutil.which(words[0]) else None
    return next(([name] for name in COMPILERS if shutil.which(name)), None)


def _flag_sets() -> list[tuple[str, ...]]:
    """From the fastest to what every compiler knows."""
    native = ["-march=native"] if platform.machine() in ("x86_64", "AMD64") else ["-mcpu=native"]
    if "avx512f" in processor_flags().split():
        native.append("-mprefer-vector-width=512")
    sets = [(*OPTIMISE, *native), OPTIMISE, ("-O3",)]
    if _torch_has_gnu_openmp():
        sets.insert(0, (*OPTIMISE, *native, "-fopenmp"))
    return sets


def _torch_has_gnu_openmp() -> bool:
    """Whether the GNU OpenMP that torch computes with can be called by a library that is loaded now."""
    import torch  # noqa: F401 (brings libgomp, with its symbols open to all)

    with contextlib.suppress(OSError):
        return hasattr(ctypes.CDLL(None), "GOMP_parallel")
    return False


def _version_of(compiler: list[str]) -> str:
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, errors="replace", timeout=20)
    return done.stdout.partition("\n")[0]


def _text_of(source: Path) -> str:
    """The file and all headers beside it."""
    return "\0".join(path.read_text(encoding="utf-8") for path in (source, *sorted(source.parent.glob("*.h"))))


@cache
def processor_flags() -> str:
    """What this processor can do, as Linux lists it; its name elsewhere."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(("flags", "Features"))), "")
    return platform.processor()


def _compile(compiler: list[str], flags: tuple[str, ...], source: Path, target: Path) -> str | None:
    """Make `target` unless it is there; the reason where that fails.

    One process builds, others wait for it; and the file appears whole, by a rename, should two build after all.
    A refusal by the compiler is remembered beside the target, so that it is not asked again at each start.
    """
    refused = target.with_suffix(".refused")
    with _one_at_a_time(target.with_suffix(".lock")):
        if target.is_file():
            return None
        if refused.is_file():
            return refused.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
            made, compiled = Path(scratch) / target.name, Path(scratch) / "kernel.o"
            # Two commands: with -fopenmp the second would link an OpenMP library of its own.
            for command in (
                [*compiler, *flags, "-std=gnu11", "-fPIC", "-c", str(source), "-o", str(compiled)],
                [*compiler, "-shared", str(compiled), "-o", str(made), "-lm"],
            ):
                done = subprocess.run(
                    command, capture_output=True, text=True, errors="replace", timeout=BUILD_SECONDS_AT_MOST
                )
                if done.returncode != 0:
                    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
                    reason = f"{compiler[0]} refuses {source.name}: {(lines or ['it does not say why'])[0][:200]}"
                    if done.returncode == 1 and "No space left" not in done.stderr:
                        refused.write_text(reason, encoding="utf-8")
                    return reason
            made.replace(target)
    return None


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """A lock between processes, where the system and the disk have one."""
    with open(path, "w") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
