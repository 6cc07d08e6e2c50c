"""A small tokenizer, small models and a small corpus, all real files in the layout of a run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from groundup.artifacts import StageContext, StageResult, finish_artifact
from groundup.chat.template import prompt_ids
from groundup.console import Console
from groundup.model.config import model_config
from groundup.model.decoder import Decoder
from groundup.model.files import copy_tokenizer_files, save_model
from groundup.model.init import init_weights
from groundup.model.loss import cross_entropy_sum
from groundup.stopping import StopRequest
from groundup.tasks import Task, make_tasks
from groundup.tokens.tokenizer import Tokenizer
from groundup.tokens.train_tokenizer import save_tokenizer, train_bpe

PROSE = [
    "The quick brown fox jumps over the lazy dog while the rain falls on the old stone bridge.",
    "Many people walk along the river in the evening, when the light is low and the air is cool.",
    "What is 12 + 30? The answer is 42. Which is larger, 104 or 871? It is 871.",
    "Füchse und Dachse überqueren die Brücke — früh am Morgen, wenn es noch dämmert.",
]
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_bpe(iter(PROSE * 4), 400), folder)
    return Tokenizer.from_folder(folder)


def new_decoder(tokenizer: Tokenizer, seed: int, positions: int = 128) -> Decoder:
    eos = tuple(tokenizer.stop_ids)
    config = model_config(
        {**SHAPE, "max_position_embeddings": positions}, vocab_size=tokenizer.vocab_size, eos_token_id=eos
    )
    model = Decoder(config)
    init_weights(model, seed)
    return model.eval()


def save(model: Decoder, tokenizer: Tokenizer, folder: Path) -> Path:
    copy_tokenizer_files(tokenizer.folder, folder)
    save_model(model, folder)
    return folder


@pytest.fixture(scope="session")
def untrained(tokenizer: Tokenizer) -> Decoder:
    return new_decoder(tokenizer, seed=1)


@pytest.fixture(scope="session")
def questions() -> list[Task]:
    return make_tasks(["larger", "largest_digit"], "held_out", 10, 1337)


@pytest.fixture(scope="session")
def crammer(tokenizer: Tokenizer, questions: list[Task]) -> Decoder:
    """A model that has learned the first six of the ten questions by heart."""
    model = new_decoder(tokenizer, seed=2).train()
    rows = []
    for task in questions[:6]:
        prompt = prompt_ids(tokenizer, [{"role": "user", "content": task.prompt}])
        rows.append((prompt, [*tokenizer.encode(task.answer), tokenizer.stop_ids[0]]))
    longest = max(len(p) + len(a) for p, a in rows)
    ids = torch.tensor([p + a + [0] * (longest - len(p) - len(a)) for p, a in rows])
    weights = torch.tensor([[0] * (len(p) - 1) + [1] * len(a) + [0] * (longest - len(p) - len(a)) for p, a in rows])
    documents = torch.tensor([[0] * (len(p) + len(a)) + [-1] * (longest - len(p) - len(a)) for p, a in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        loss_sum, weight = cross_entropy_sum(
            model(ids[:, :-1], document_ids=documents[:, :-1]), model, ids[:, 1:], weights
        )
        (loss_sum / weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., StageContext]:
    """A stage's context in a run folder of its own; `inputs` maps names to folders."""

    def make(name: str = "exam", **inputs: Path) -> StageContext:
        folder = tmp_path / "run" / name
        folder.mkdir(parents=True, exist_ok=True)
        console = Console(io.StringIO())
        return StageContext(name, folder, inputs, 1337, tmp_path / "cache", console, StopRequest(), tmp_path / "run")

    return make


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two sources: twelve short documents, and one that is longer than any context."""
    folder = tmp_path / "corpus" / "held_out"
    folder.mkdir(parents=True)
    sources = {"web": [f"{text} Number {i}." for i in range(3) for text in PROSE], "books": [" ".join(PROSE * 20)]}
    for name, texts in sources.items():
        pq.write_table(pa.table({"id": [str(i) for i in range(len(texts))], "text": texts}), folder / f"{name}.parquet")
    return folder.parent


@pytest.fixture
def trained(tmp_path: Path, tokenizer: Tokenizer, untrained: Decoder, crammer: Decoder) -> dict[str, Path]:
    """Artifacts `base` and `chat`, the second made from the first, with their metrics."""
    folders = {}
    for name, model, settings in (
        ("base", untrained, {"stage": "pretrain"}),
        ("chat", crammer, {"base_model": "base"}),
    ):
        folder = tmp_path / "run" / name
        save(model, tokenizer, folder / "model")
        rows: list[dict[str, Any]] = [{"step": i + 1, "loss": 2 + 6 * 0.9**i} for i in range(60)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        finish_artifact(
            folder,
            kind="sft",
            name=name,
            settings=settings,
            inputs={},
            fingerprint="f",
            result=StageResult(),
            seconds=1,
        )
        folders[name] = folder
    return folders
