"""Attempts to train that can be killed at any moment."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts import fingerprint_file
from groundup.tokens.shards import Manifest, SourceTokens, SplitWriter, write_manifest
from groundup.tokens.tokenizer import Tokenizer
from groundup.tokens.train_tokenizer import save_tokenizer, train_bpe
from groundup.train.metrics import read_metrics

SETTINGS: dict[str, Any] = {
    "model": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    },
    "sequence_len": 24,
    "micro_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": 40,
    "save_steps": 3,
    "logging_steps": 1,
    "sample_prompts": ["the"],
    "sample_tokens": 4,
}


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a few thousand tokens, with their tokenizer."""
    folder = tmp_path_factory.mktemp("tokens")
    text = "".join(f"the {n} cats sat on {n * n} mats; " for n in range(400))
    save_tokenizer(train_bpe(iter([text]), 300), folder / "tokenizer")
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    splits, hashes = {}, {}
    for split, documents in (("train", 40), ("held_out", 4)):
        writer = SplitWriter(folder, split, "uint16", 10**6)
        for number in range(documents):
            writer.add([*tokenizer.encode(text[number * 200 : number * 200 + 400]), 0], 0)
        splits[split] = writer.finish([SourceTokens("cats", 0, writer.tokens, documents, 400 * documents, 1.0)])
        hashes |= writer.sha256
    write_manifest(folder, Manifest("uint16", tokenizer.vocab_size, 0, tokenizer.fingerprint, splits, hashes))
    return folder


class Attempts:
    """Runs attempts one after the other, each in a process that may die of it; starts a server where there is none."""

    def __init__(self, tokens: Path) -> None:
        self.tokens = tokens
        self.cpu_seconds = 0.0  # of the last attempt
        self._server: subprocess.Popen[str] | None = None
        self._ids = itertools.count(1)

    def run(
        self,
        run: Path,
        *,
        tokens: Path | None = None,
        said: Path | None = None,
        signal_at: tuple[str, int, int] | None = None,
        command_at: tuple[str, int, str] | None = None,
        cpu_seconds: float | None = None,
        file_limit: int | None = None,
        slow_saves: float | None = None,
        processes: int = 1,
        disturbed_rank: int = 0,
        **settings: Any,
    ) -> int:
        """Train in `run/base` until the end, or until what disturbs it (serve_attempts.py) has ended it.

        Returns the exit code; the signal, negative, where one ended it.
        """
        order = {
            "id": next(self._ids),
            "run": str(run),
            "tokens": str(tokens or self.tokens),
            "said": str(said or run.parent / f"{run.name}.txt"),
            "settings": {**SETTINGS, **settings},
            "signal_at": signal_at,
            "command_at": command_at,
            "cpu_seconds": cpu_seconds,
            "file_limit": file_limit,
            "slow_saves": slow_saves,
            "processes": processes,
            "disturbed_rank": disturbed_rank,
        }
        server = self._running_server()
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(order), file=server.stdin, flush=True)
        for line in server.stdout:
            answer = json.loads(line)
            if answer["id"] == order["id"]:  # any other belongs to a test that was broken off while it waited
                self.cpu_seconds = answer["cpu_seconds"]
                return int(answer["exit"])
        raise AssertionError(f"the server of attempts ended with {server.wait()}")

    def _running_server(self) -> subprocess.Popen[str]:
        if self._server is None or self._server.poll() is not None:
            self.close()
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            command = [sys.executable, str(Path(__file__).with_name("serve_attempts.py"))]
            self._server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
        return self._server

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.communicate()


SEED = int(os.environ.get("FAULTS_SEED") or random.randrange(10**6))
"""Of all that is random here: other kills in every session, and the same ones again with FAULTS_SEED=<number>."""


def pytest_report_header() -> str:
    return f"faults: FAULTS_SEED={SEED}"


def steps_logged(run: Path) -> int:
    return sum(1 for _ in (run / "base" / "metrics.jsonl").open()) if (run / "base" / "metrics.jsonl").exists() else 0


def weights(run: Path) -> str:
    return fingerprint_file(run / "base" / "model" / "model.safetensors")


def trace(run: Path) -> list[tuple[Any, ...]]:
    """What every step logged, but for the clock."""
    rows = read_metrics(run / "base" / "metrics.jsonl")
    names = ("step", "loss", "lr", "grad_norm", "tokens", "validation_loss")
    return [tuple(row.get(name) for name in names) for row in rows]


def checkpoint_names(run: Path) -> set[str]:
    return {path.name for path in (run / "base" / "checkpoints").iterdir()}


def assert_same_run(run: Path, whole: Path) -> None:
    """Weights, log and samples are those of the run that nobody disturbed."""
    assert weights(run) == weights(whole)
    steps = [row[0] for row in trace(run)]
    assert steps == list(range(1, SETTINGS["max_steps"] + 1))
    assert trace(run) == trace(whole)
    samples = "base/samples.jsonl"
    assert (run / samples).read_text() == (whole / samples).read_text()


def said(run: Path) -> str:
    return (run.parent / f"{run.name}.txt").read_text()


@pytest.fixture(scope="session")
def attempts(tokens: Path) -> Iterator[Attempts]:
    """One server for each pytest process; runs lie in folders of their tests."""
    attempts = Attempts(tokens)
    yield attempts
    attempts.close()


@dataclass(frozen=True)
class Whole:
    """A run that nobody disturbed, and the processor time that it took."""

    run: Path
    cpu_seconds: float


@pytest.fixture(scope="session")
def undisturbed(attempts: Attempts, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert attempts.run(run) == 0
    return Whole(run, attempts.cpu_seconds)


@pytest.fixture(scope="session")
def whole(undisturbed: Whole) -> Path:
    return undisturbed.run
