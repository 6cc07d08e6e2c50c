"""`groundup run` as a person types it, in processes that may be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundup.tokens.shards import Manifest, SourceTokens, SplitWriter, write_manifest
from groundup.tokens.tokenizer import Tokenizer
from groundup.tokens.train_tokenizer import save_tokenizer, train_bpe
from groundup.train.metrics import read_metrics

RECIPE = """\
name: run
seed: 7
stages:
  base:
    stage: pretrain
    tokens: {tokens}
    model: {{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
      max_position_embeddings: 64}}
    sequence_len: 24
    micro_batch_size: 8
    max_steps: 30
    save_steps: 4
    logging_steps: 1
    bf16: false
    sample_prompts: []
"""
GROUNDUP = [sys.executable, "-m", "groundup"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def write_tokens(folder: Path) -> Path:
    """Shards of a few thousand tokens, with their tokenizer."""
    folder.mkdir(parents=True)
    text = "".join(f"the {n} cats sat on {n * n} mats; " for n in range(800))
    save_tokenizer(train_bpe(iter([text]), 300), folder / "tokenizer")
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    writer, documents = SplitWriter(folder, "train", "uint16", 10**6), 60
    for number in range(documents):
        writer.add([*tokenizer.encode(text[number * 200 : number * 200 + 400]), 0], 0)
    split = writer.finish([SourceTokens("cats", 0, writer.tokens, documents, 400 * documents, 1.0)])
    manifest = Manifest("uint16", tokenizer.vocab_size, 0, tokenizer.fingerprint, {"train": split}, writer.sha256)
    write_manifest(folder, manifest)
    return folder


def write_recipe(folder: Path, tokens: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.yaml"
    path.write_text(RECIPE.format(tokens=tokens))
    return path


class Command:
    """A command in a folder of its own, its output in a file; `stop` at the end of a test leaves nothing running."""

    def __init__(self, words: Sequence[str | Path], folder: Path, **environment: str) -> None:
        self.output = folder / f"output-{time.monotonic_ns()}.txt"
        with open(self.output, "w") as file:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                start_new_session=True,
            )

    def wait(self, seconds: float = 120) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"still running after {seconds} s:\n{self.said()}") from None

    def said(self) -> str:
        return self.output.read_text()

    def descendants(self, words: str) -> list[int]:
        """Processes below this one whose command line has `words` in it."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        below, found = {self.process.pid}, []
        while more := {pid for pid, parent in parents.items() if parent in below} - below:
            below |= more
        for pid in sorted(below):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if words in line:
                found.append(pid)
        return found

    def stop(self) -> None:
        for pid in self.descendants(""):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def wait_for_step(run: Path, step: int, command: Command, seconds: float = 90) -> None:
    """Until the stage in the run's folder has done so many steps."""
    until = time.monotonic() + seconds
    metrics = run / ".work" / "base" / "metrics.jsonl"
    while not any(row["step"] >= step for row in read_metrics(metrics)):
        assert command.process.poll() is None, command.said()
        assert time.monotonic() < until, f"not at step {step} after {seconds} s:\n{command.said()}"
        time.sleep(0.05)


def wait_until_gone(pids: Sequence[int], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < until, f"still there: {pids}"
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def trace(run: Path, *names: str) -> list[Any]:
    return [row[name] for row in read_metrics(run / "base" / "metrics.jsonl") for name in names]


def weights(run: Path) -> bytes:
    return (run / "base" / "model" / "model.safetensors").read_bytes()
