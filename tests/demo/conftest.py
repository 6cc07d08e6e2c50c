"""The real demo recipe on a small budget, run once for all tests of this folder, each attempt a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# The whole life of a model in about two minutes of one core. On this budget nothing is learned well and the gate will
# refuse: what is tested is that every stage runs on real input, is judged, resumes, and says so.
SMALL = (
    "corpus.sources.books.max_bytes=500000", "corpus.sources.code.max_bytes=500000",
    "corpus.sources.docs.max_bytes=500000",
    "base.max_steps=40", "base.micro_batch_size=6", "base.save_steps=4", "base.logging_steps=1",
    "chat.max_steps=60", "chat.micro_batch_size=4", "pairs.prompts=150", "judge.max_steps=6", "preferred.max_steps=6",
    "aligned.total_episodes=512", "aligned.logging_steps=1",
    "exam.verifiable.rows=60", "exam.humaneval.limit=2", "exam.bits_per_byte.max_bytes=12000",
)  # fmt: skip
STAGES = (
    "corpus", "tokenizer", "tokens", "base", "chat", "pairs", "judge", "preferred", "aligned", "exam", "release",
)  # fmt: skip
REFUSED, INTERRUPTED = 3, 130
PATIENCE = 600  # seconds until a process that should have ended counts as hanging


@dataclass(frozen=True)
class Ended:
    """A `groundup` process that ended."""

    exit_code: int
    out: str
    said: str  # narration, on stderr
    seconds: float


class Home:
    """A folder of runs, and the verbs on it."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.run = folder / "demo"
        # one thread, so that sums are made in one order and two runs can be compared bit by bit
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.environment = {**os.environ, **one_thread} if environment is None else {**environment, **one_thread}

    def groundup(self, *words: str) -> Ended:
        started = time.monotonic()
        done = subprocess.run(
            self._command(words), env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """In a session of its own, so that a signal reaches the whole group of processes and nobody else."""
        return subprocess.Popen(
            self._command(words), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "groundup", *words, "--runs", str(self.folder)]

    def json(self, name: str) -> Any:
        return json.loads((self.run / name).read_text(encoding="utf-8"))

    def state(self) -> dict[str, Any]:
        path = self.run / "state.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def steps_logged(self, stage: str) -> int:
        path = self.run / ".work" / stage / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def artifacts(self) -> dict[str, str]:
        """Stage -> the hash of its artifact.json, which says when the stage was finished."""
        return {path.parent.name: hash_of(path) for path in sorted(self.run.glob("*/artifact.json"))}


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_until(moment: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until the moment has come or the process has ended by itself."""
    deadline = time.monotonic() + PATIENCE
    while not moment() and process.poll() is None:
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.01)


@dataclass(frozen=True)
class Demo:
    """The run that nobody disturbed. Not to be written to: `copy` it."""

    home: Home
    ended: Ended

    @property
    def run(self) -> Path:
        return self.home.run

    def report(self) -> dict[str, Any]:
        told = self.home.groundup("report", "demo", "--json")
        assert told.exit_code == 0, told.said
        return dict(json.loads(told.out))

    def copy(self, folder: Path, *, without: tuple[str, ...] = ()) -> Home:
        """The same run at another place, but for checkpoints; `without` these stages' artifacts."""
        shutil.copytree(self.run, folder / "demo", ignore=shutil.ignore_patterns("checkpoints", *without))
        return Home(folder)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    home = Home(tmp_path_factory.mktemp("demo"))
    ended = home.groundup("demo", *SMALL)
    yield Demo(home, ended)
    shutil.rmtree(home.folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def leave_no_gigabytes(tmp_path: Path) -> Iterator[None]:
    """pytest keeps the folders of three sessions; a run with its models and checkpoints is not to be kept."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)
