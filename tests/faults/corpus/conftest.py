"""A small corpus of many shards, and builds of it in processes of their own, which may be killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

import groundup

HERE = Path(__file__).parent
# The hooks, and the very groundup that is tested: another may be installed.
PYTHONPATH = os.pathsep.join([str(HERE / "hooks"), str(Path(groundup.__file__).parents[1])])
WORDS = """the of and to in is was for on that with be as are this have from or had by bridge river garden winter story
letter teacher village market engine history science water mountain summer evening children window kitchen music paper
""".split()  # noqa: SIM905
DOCUMENTS = 240
SHARD_BYTES = 10_000  # about 14 documents


def prose(seed: int, more: str = "") -> str:
    rng = random.Random(seed)
    words = [*WORDS, *more.split()]
    sentences = [" ".join(rng.choice(words) for _ in range(rng.randint(6, 14))).capitalize() for _ in range(13)]
    return ". ".join(sentences) + "."


@dataclass
class Corpus:
    """Source files under `root`, and what builds of them said and left."""

    root: Path
    settings: dict[str, Any] = field(default_factory=dict)
    slow: float = 0.0

    def write(self, texts: list[str], files: int = 4) -> None:
        folder = self.root / "source"
        folder.mkdir(exist_ok=True)
        for number in range(files):
            rows = ({"text": text} for text in texts[number::files])
            (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def start(
        self, name: str, extra: Mapping[str, Any] | None = None, within: Sequence[str] = (), **changes: Any
    ) -> subprocess.Popen[str]:
        """A build in a process of its own; `within`: a command that runs it under limits."""
        sources = {"rows": {"type": "jsonl", "path": str(self.root / "source")}}
        settings = {"sources": sources, "shard_bytes": SHARD_BYTES, "workers": 2} | self.settings | changes
        file = self.root / f"{name}.json"
        file.write_text(json.dumps(settings))
        environment = os.environ | {
            "PYTHONPATH": PYTHONPATH,
            "GROUNDUP_TEST_LOG": str(self.log(name)),
            "GROUNDUP_TEST_SLOW": str(self.slow),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            [*within, sys.executable, str(HERE / "build_once.py"), str(self.folder(name)), str(file)],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | dict(extra or {}),
        )

    def build(
        self, name: str, extra: Mapping[str, Any] | None = None, within: Sequence[str] = (), **changes: Any
    ) -> str:
        """A build to its end: the digest of what it wrote."""
        process = self.start(name, extra, within, **changes)
        out, said = process.communicate(timeout=600)
        (self.root / f"{name}.said").write_text(said)
        assert process.returncode == 0, said
        return out.split()[-1]

    def failing(self, name: str, extra: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """A build that ends with a message for the person: the message."""
        process = self.start(name, extra, **changes)
        _, said = process.communicate(timeout=600)
        assert process.returncode == 3, said
        return said

    def folder(self, name: str) -> Path:
        return self.root / "runs" / name / "corpus"

    def log(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def log_text(self, name: str) -> str:
        return self.log(name).read_text() if self.log(name).exists() else ""

    def said(self, name: str) -> str:
        return (self.root / f"{name}.said").read_text()

    def extracted(self, name: str) -> int:
        """How often a document was extracted, over all builds of that name."""
        return len(self.log_text(name).splitlines())

    def tasks(self, name: str) -> Counter[str]:
        """Finished tasks by step."""
        return Counter(path.parent.parent.name for path in self._sidecars(name))

    def stamps(self, name: str) -> dict[str, int]:
        """When each finished task was written: one that is done again has another time."""
        return {str(path.parent.name): path.stat().st_mtime_ns for path in self._sidecars(name)}

    def _sidecars(self, name: str) -> list[Path]:
        return [path for path in (self.root / "runs" / name / ".shards").rglob("task.json") if ".tmp" not in str(path)]

    def drops(self, name: str) -> list[dict[str, Any]]:
        return [row for path in sorted(self.folder(name).glob("dropped/*")) for row in pq.read_table(path).to_pylist()]

    def documents(self, name: str) -> list[str]:
        parts = ("documents", "held_out")
        files = (path for part in parts for path in sorted(self.folder(name).glob(f"{part}/*")))
        return [row["text"] for path in files for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    made = Corpus(tmp_path)
    near = prose(3).split()
    near[20] = "changed"
    made.write([*(prose(number) for number in range(DOCUMENTS)), prose(5), prose(9), " ".join(near), "too short"])
    return made


@pytest.fixture
def poisoned(tmp_path: Path) -> Callable[[str], Corpus]:
    """The corpus with one document in the middle that does what its word says."""

    def make(word: str, often: int = 1, documents: int = DOCUMENTS) -> Corpus:
        made = Corpus(tmp_path / "poisoned")
        made.root.mkdir()
        texts = [prose(number) for number in range(documents)]
        for number in range(often):
            texts[101 + number] += f" {word}"
        made.write(texts, files=1)
        return made

    return make


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes under a build that do its tasks."""
    try:
        return [
            one
            for one in psutil.Process(process.pid).children(recursive=True)
            if "groundup.corpus.engines.worker" in " ".join(one.cmdline())
        ]
    except psutil.Error:
        return []


def kill_everything(process: subprocess.Popen[str]) -> None:
    """kill -9 of the build and of all it has started, at once."""
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    for one in family:
        if one.is_running():
            one.kill()
    process.communicate()
