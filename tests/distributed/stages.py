"""Whole training stages, in one process or as the processes of a team run them."""

from __future__ import annotations

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from groundup.artifacts import StageContext
from groundup.chat.template import CHATML
from groundup.console import Console
from groundup.model.config import ModelConfig
from groundup.model.files import save_model
from groundup.model.init import new_decoder
from groundup.recipe import KINDS
from groundup.stopping import StopRequest
from groundup.team import Team
from groundup.tokens.shards import Manifest, SourceTokens, SplitWriter, write_manifest
from groundup.tokens.tokenizer import Tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
TEXT = ["what is two plus two? it is four.", "system user assistant\n", "say yes, say no, say hello to the lazy fox"]
ANSWERS = {"what is two plus two?": "it is four.", "say hello": "hello", "yes or no?": "yes", "say no": "no, no"}


def write_tokenizer(folder: Path) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=321, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXT * 4, trainer)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": SPECIAL[0], "pad_token": SPECIAL[3]}))
    (folder / "chat_template.jinja").write_text(CHATML)
    return Tokenizer.from_folder(folder)


SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


def write_inputs(folder: Path) -> None:
    """A chat model, conversations, preference pairs and token shards."""
    tokenizer = write_tokenizer(folder / "base")
    config = ModelConfig(vocab_size=tokenizer.vocab_size, eos_token_id=0, pad_token_id=3, **SHAPE)  # type: ignore[arg-type]
    save_model(new_decoder(config, 0), folder / "base")
    turns = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": told}] for asked, told in ANSWERS.items()
    ]
    chats = [{"messages": turn} for turn in turns] * 6
    pairs = [
        {"prompt": [asked], "chosen": [told], "rejected": [{"role": "assistant", "content": "the fox"}]}
        for asked, told in turns
    ] * 6
    for name, rows in (("chats", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write_tokenizer(folder / "tokens" / "tokenizer")
    random = np.random.default_rng(0)
    splits, hashes = {}, {}
    for split, size in (("train", 6000), ("held_out", 600)):
        writer, documents = SplitWriter(folder / "tokens", split, "uint16", 10**6), 0
        while writer.tokens < size:
            walk = np.cumsum(random.choice([1, 1, 2, 7], int(random.integers(5, 60))))
            writer.add([*(4 + walk % (tokenizer.vocab_size - 4)).tolist(), 0], 0)
            documents += 1
        splits[split] = writer.finish([SourceTokens("walks", 0, writer.tokens, documents, writer.tokens, 1.0)])
        hashes |= writer.sha256
    write_manifest(
        folder / "tokens", Manifest("uint16", tokenizer.vocab_size, 0, tokenizer.fingerprint, splits, hashes)
    )


def settings_of(kind: str, inputs: Path) -> dict[str, Any]:
    common = {"sequence_len": 48, "max_steps": 4, "bf16": False, "learning_rate": 1e-3, "logging_steps": 1}
    common |= {"micro_batch_size": 2, "gradient_accumulation_steps": 3, "sample_tokens": 4}
    if kind == "pretrain":
        return {**common, "tokens": str(inputs / "tokens"), "model": SHAPE, "eval_steps": 2, "eval_rows": 3}
    data = [{"path": str(inputs / ("chats.jsonl" if kind == "sft" else "pairs.jsonl"))}]
    return {**common, "base_model": str(inputs / "base"), "datasets": data, "held_out": data}


def run_stage(kind: str, inputs: str, folder: str, changes: dict[str, Any]) -> dict[str, Any] | None:
    """What the stage says at its end, in the main process."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    stage = KINDS[kind]
    settings = stage.settings_class().model_validate(settings_of(kind, Path(inputs)) | changes)
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(folder) if rank == 0 else Path(scratch)
        own.mkdir(parents=True, exist_ok=True)
        context = StageContext(
            kind,
            own,
            {},
            7,
            Path(scratch) / "cache",
            Console(io.StringIO()),
            StopRequest(),
            Path(folder),
            common_folder=Path(folder),
            team=Team(rank, size, 1),
        )
        if size > 1:
            from groundup.train.mesh import join_processes

            join_processes("cpu")
        result = stage.run_function()(settings, context)
    return {**result.metrics, **result.counts} if rank == 0 else None
