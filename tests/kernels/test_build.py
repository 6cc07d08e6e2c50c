"""Building the C files: once, safely, and never required."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.kernels import build

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in build.COMPILERS), reason="no C compiler on this machine"
)
ADD = "long add(long a, long b) { return a + b; }\n"
THREADS = """
#ifdef _OPENMP
#include <omp.h>
#endif
int threads(int wanted) {
  int count = 0;
  #pragma omp parallel num_threads(wanted) reduction(+ : count)
  count += 1;
  return count;
}
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources and a cache of the test's own."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "sum.c").write_text(ADD)
    monkeypatch.setattr(build, "SOURCES", folder)
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GROUNDUP_KERNELS", raising=False)
    monkeypatch.delenv("CC", raising=False)
    build._build.cache_clear()
    return folder


def libraries(sources: Path) -> list[Path]:
    return sorted((sources.parent / "cache" / "kernels").glob("*.so"))


@needs_compiler
def test_a_source_is_built_once_and_called(sources: Path) -> None:
    library = build.library("sum")
    assert library is not None and build.why_absent("sum") is None
    library.add.argtypes, library.add.restype = [ctypes.c_long, ctypes.c_long], ctypes.c_long
    assert library.add(40, 2) == 42
    (made,) = libraries(sources)
    before = made.stat().st_mtime_ns
    build._build.cache_clear()
    assert build.library("sum") is not None
    assert [path.stat().st_mtime_ns for path in libraries(sources)] == [before]


@needs_compiler
def test_a_changed_source_or_header_is_another_library(sources: Path) -> None:
    assert build.library("sum") is not None
    (sources / "sum.c").write_text(ADD.replace("a + b", "a - b"))
    build._build.cache_clear()
    library = build.library("sum")
    assert library is not None and library.add(3, 2) == 1
    (sources / "common.h").write_text("#define ONE 1\n")
    build._build.cache_clear()
    assert build.library("sum") is not None
    assert len(libraries(sources)) == 3


def test_the_switch_leaves_the_kernels_out(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDUP_KERNELS", "0")
    assert build.library("sum") is None
    assert "GROUNDUP_KERNELS=0" in (build.why_absent("sum") or "")
    assert not libraries(sources)


def test_without_a_compiler_there_is_a_reason(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert build.library("sum") is None
    assert "no C compiler" in (build.why_absent("sum") or "")
    monkeypatch.setenv("CC", "no-such-cc")
    assert "CC=no-such-cc" in (build.why_absent("sum") or "")
    assert not libraries(sources)


@needs_compiler
def test_a_compiler_that_refuses_is_asked_once(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources / "sum.c").write_text("long add(long a { return a; }\n")
    assert build.library("sum") is None
    assert "sum.c" in (build.why_absent("sum") or "")
    build._build.cache_clear()
    asked: list[object] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: asked.append(a[0]) or run(*a, **k))
    assert build.library("sum") is None
    assert all("--version" in command for command in asked)  # type: ignore[operator]


@needs_compiler
def test_a_symbol_that_nobody_has_is_found_at_once(sources: Path) -> None:
    (sources / "sum.c").write_text("long nobody(long); long add(long a, long b) { return nobody(a) + b; }\n")
    assert build.library("sum") is None
    assert "does not load" in (build.why_absent("sum") or "")


@needs_compiler
def test_an_unwritable_cache_is_a_reason(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources.parent / "file").write_text("")
    monkeypatch.setenv("GROUNDUP_CACHE", str(sources.parent / "file"))
    assert build.library("sum") is None
    assert "building failed" in (build.why_absent("sum") or "")


@needs_compiler
def test_processes_that_build_at_once_all_get_it(sources: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from groundup.kernels import build;"
        f"build.SOURCES = Path({str(sources)!r}); sys.exit(build.library('sum').add(40, 2) != 42)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program], env=os.environ.copy()) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert len(libraries(sources)) == 1
    assert not list((sources.parent / "cache" / "kernels").glob(".build-*"))


@needs_compiler
def test_there_is_one_pool_of_threads(sources: Path) -> None:
    """No OpenMP library beside torch's is loaded."""
    (sources / "threads.c").write_text(THREADS)
    library = build.library("threads")
    assert library is not None
    has_openmp = "-fopenmp" in build.built("threads").flags
    assert library.threads(2) == (2 if has_openmp else 1)
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line}
    assert len(loaded) <= 1


def test_an_unknown_name_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="no-such"):
        build.library("no-such-kernel")
