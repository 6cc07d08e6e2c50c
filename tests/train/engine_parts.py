"""Small real parts for tests of the engine: shards, a decoder, a context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundup.artifacts import StageContext
from groundup.console import Console
from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.init import init_weights
from groundup.stopping import StopRequest
from groundup.tokens.batches import TokenBatches
from groundup.tokens.shards import Manifest, SourceTokens, SplitWriter, write_manifest
from groundup.train.engine import TrainOptions, TrainResult, train
from groundup.train.pretrain import NextToken

VOCAB, T, ROWS = 48, 16, 8


def write_shards(folder: Path, tokens: int = 4000) -> Path:
    """Documents of random walks over the ids: something that can be learned."""
    random = np.random.default_rng(0)
    splits, hashes = {}, {}
    for split, size in (("train", tokens), ("held_out", tokens // 10)):
        writer, documents = SplitWriter(folder, split, "uint16", 10**6), 0
        while writer.tokens < size:
            steps = random.choice([1, 1, 1, 2, 7], int(random.integers(5, 60)))
            writer.add([*(1 + np.cumsum(steps) % (VOCAB - 1)).tolist(), 0], 0)
            documents += 1
        splits[split] = writer.finish([SourceTokens("walks", 0, writer.tokens, documents, writer.tokens, 1.0)])
        hashes |= writer.sha256
    write_manifest(folder, Manifest("uint16", VOCAB, 0, "none", splits, hashes))
    return folder


def tiny_decoder(seed: int = 0, **fields: Any) -> Decoder:
    shape: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    }
    model = Decoder(ModelConfig(**{**shape, **fields}))
    init_weights(model, seed)
    return model


def context_in(folder: Path, *, stop: StopRequest | None = None, console: Console | None = None) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    return StageContext(
        "base", folder, {}, 7, folder / "cache", console or Console(quiet=True), stop or StopRequest(), folder
    )


def next_token(shards: Path, micro_batch_size: int = ROWS) -> NextToken:
    return NextToken(TokenBatches(shards, T, ROWS, seed=3), micro_batch_size)


def options(**changes: Any) -> TrainOptions:
    steps = {"max_steps": 12, "warmup_steps": 2, "save_steps": 4, "logging_steps": 1}
    return TrainOptions(**{"learning_rate": 3e-3, **steps, **changes})


def train_tiny(folder: Path, shards: Path, objective: Any = None, **changes: Any) -> tuple[Decoder, TrainResult]:
    model = tiny_decoder()
    result = train(model, objective or next_token(shards), options(**changes), context_in(folder))
    return model, result


def equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


class StopAt:
    """An objective that raises the stop flag during a step, as a signal would."""

    is_function_of_step = False  # or a thread would ask for a batch, and raise the flag, one step ahead

    def __init__(self, inner: Any, stop: StopRequest, step: int) -> None:
        self.inner, self.stop, self.at = inner, stop, step

    def micro_batches(self, step: int, model: Any) -> list[Any]:
        if step + 1 == self.at:
            self.stop.request(75)
        return self.inner.micro_batches(step, model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
