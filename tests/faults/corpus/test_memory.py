"""A document for which there is not enough memory, by the kernel's own means: a cgroup and RLIMIT_AS."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from groundup.corpus.phases.documents import KILLED

from .conftest import DOCUMENTS, Corpus

POISONED = "0.jsonl:102"
MEMORY = 700_000_000  # for the build and two workers, of which each takes some 150 MB
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup in which what needs more than MEMORY is killed by the kernel."""
    is_v1 = (V1 / "memory.limit_in_bytes").exists()
    group = (V1 if is_v1 else V2) / f"groundup-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(MEMORY))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {error}")
    if not is_v1 and (group / "memory.swap.max").exists():
        (group / "memory.swap.max").write_text("0")
    yield group
    deadline = time.monotonic() + 30
    while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    group.rmdir()


def killed_in(group: Path) -> int:
    """How many processes the kernel has killed there."""
    file = group / ("memory.oom_control" if (group / "memory.oom_control").exists() else "memory.events")
    return sum(int(line.split()[1]) for line in file.read_text().splitlines() if line.split()[0] == "oom_kill")


@pytest.mark.slow
def test_the_kernel_ends_a_worker_for_lack_of_memory_and_its_document_is_named(
    poisoned: Callable[..., Corpus], cgroup: Path
) -> None:
    corpus = poisoned("POISON-EATS")
    within = ["sh", "-c", f'echo $$ > {cgroup}/cgroup.procs; exec "$@"', "sh"]
    corpus.build("built", within=within)
    assert [(row["id"], row["reason"]) for row in corpus.drops("built")] == [(POISONED, KILLED)]
    assert len(corpus.documents("built")) == DOCUMENTS - 1
    assert "its process was killed by SIGKILL; it is tried again" in corpus.said("built")
    assert killed_in(cgroup) >= 3, "twice the shard, and the document alone"
    assert corpus.tasks("built")["extract"] > 10, "the other shards were done"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="no prlimit here")
def test_a_limit_on_addresses_is_met_as_memory_error_and_the_document_is_named(
    poisoned: Callable[..., Corpus],
) -> None:
    corpus = poisoned("POISON-EATS")
    corpus.build("built", within=["prlimit", "--as=2200000000"])
    assert [(row["id"], row["reason"]) for row in corpus.drops("built")] == [(POISONED, KILLED)]
    assert "it asked for more memory than there is; it is tried again" in corpus.said("built")
    assert len(corpus.documents("built")) == DOCUMENTS - 1
