"""Attempts to train that can be killed at any moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
    """Starts attempts in `run/base` one after the other, and ends them."""

    def __init__(self, server: subprocess.Popen[str], tokens: Path) -> None:
        self.server, self.tokens = server, tokens

    def start(
        self, run: Path, file_limit: int | None = None, said: Path | None = None, die: Any = None, **settings: Any
    ) -> int:
        order = {
            "run": str(run),
            "tokens": str(self.tokens),
            "said": str(said or run.parent / f"{run.name}.txt"),
            "settings": {**SETTINGS, **settings},
            "file_limit": file_limit,
            "die": die,
        }
        assert self.server.stdin is not None
        print(json.dumps(order), file=self.server.stdin, flush=True)
        return int(self._answer("pid"))

    def wait(self) -> int:
        """The exit code of the attempt that was started last; the signal, negative, where one ended it."""
        return int(self._answer("exit"))

    def run(self, run: Path, **settings: Any) -> int:
        self.start(run, **settings)
        return self.wait()

    def kill_when(self, run: Path, moment: Callable[[], bool], number: int, **settings: Any) -> int:
        """Start, wait for the moment (or the end), send the signal, and return the exit code."""
        pid = self.start(run, **settings)
        deadline = time.monotonic() + 60
        while not moment() and time.monotonic() < deadline and not _has_ended(pid):
            time.sleep(0.0002)
        os.kill(pid, number)  # a child that ended is still there until the server reaps it, or the signal is lost
        return self.wait()

    def _answer(self, word: str) -> str:
        assert self.server.stdout is not None
        line = self.server.stdout.readline().split()
        assert line, "the server of attempts ended"
        assert line[0] == word
        return line[1]


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def steps_logged(run: Path) -> int:
    return sum(1 for _ in (run / "base" / "metrics.jsonl").open()) if (run / "base" / "metrics.jsonl").exists() else 0


def weights(run: Path) -> str:
    return fingerprint_file(run / "base" / "model" / "model.safetensors")


def trace(run: Path) -> list[tuple[Any, ...]]:
    """What every step logged, but for the clock."""
    rows = read_metrics(run / "base" / "metrics.jsonl")
    names = ("step", "loss", "lr", "grad_norm", "tokens", "validation_loss")
    return [tuple(row.get(name) for name in names) for row in rows]


def said(run: Path) -> str:
    return (run.parent / f"{run.name}.txt").read_text()


@pytest.fixture(scope="session")
def attempts(tokens: Path) -> Iterator[Attempts]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    script = Path(__file__).with_name("serve_attempts.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield Attempts(server, tokens)
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture(scope="session")
def whole(attempts: Attempts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert attempts.run(run) == 0
    return run
