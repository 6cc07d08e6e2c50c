"""A small corpus artifact: two sources, held-out text, and a mixture."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundup.artifacts import StageContext, write_json
from groundup.console import Console
from groundup.stopping import StopRequest
from groundup.tokens import tokenize, train_tokenizer
from groundup.tokens.settings import TokenizerSettings, TokensSettings

WORDS = tuple("the cat sat on a mat and 1024 dogs ran over 37 hills while it rained".split())  # noqa: SIM905


def text_of(source: str, number: int) -> str:
    """Different documents of different lengths, the same ones each time."""
    length = 20 + (number * 7) % 31
    return (
        " ".join(WORDS[(number * 5 + i * i + len(source)) % len(WORDS)] for i in range(length))
        + f" ({source} {number})\n"
    )


def stage_context(run: Path, name: str) -> StageContext:
    folder = run / name
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {stage: run / stage for stage in ("corpus", "tokenizer", "tokens")}
    return StageContext(name, folder, inputs, 7, run / "cache", Console(quiet=True), StopRequest(), run)


def write_corpus(folder: Path, documents: dict[str, int], held_out: int = 5, **mixture: dict[str, float]) -> None:
    for split, first in (("documents", held_out), ("held_out", 0)):
        (folder / split).mkdir(parents=True)
        for source, count in documents.items():
            texts = [text_of(source, n) for n in (range(first, count) if first else range(held_out))]
            suffix = "-00000" if split == "documents" else ""
            pq.write_table(
                pa.table({"id": [str(i) for i in range(len(texts))], "text": texts}),
                folder / split / f"{source}{suffix}.parquet",
            )
    write_json(folder / "mixture.json", mixture or {"sources": {"web": {"repeats": 1.0}, "books": {"repeats": 3.0}}})


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with finished corpus, tokenizer and tokens stages."""
    folder = tmp_path_factory.mktemp("run")
    write_corpus(folder / "corpus", {"web": 300, "books": 100})
    train_tokenizer.run(TokenizerSettings(corpus="corpus", vocab_size=400), stage_context(folder, "tokenizer"))
    tokenize.run(
        TokensSettings(corpus="corpus", tokenizer="tokenizer", shard_tokens=4000), stage_context(folder, "tokens")
    )
    return folder
