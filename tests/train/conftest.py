"""A tiny chat model folder with real parts, and a context to run a stage in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from groundup.artifacts import StageContext
from groundup.chat.template import CHATML
from groundup.console import Console
from groundup.stopping import StopRequest

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
TEXT = ["what is two plus two? it is four.", "system user assistant\n", "say yes, say no, say hello to the lazy fox"]


@pytest.fixture(scope="session")
def chat_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random decoder of two layers with a byte-level BPE tokenizer and a ChatML template."""
    from groundup.model.config import ModelConfig
    from groundup.model.decoder import Decoder
    from groundup.model.files import save_model
    from groundup.model.init import init_weights

    folder = tmp_path_factory.mktemp("chat") / "model"
    folder.mkdir()
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT * 4, trainer)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": SPECIAL[0], "pad_token": SPECIAL[3]}))
    (folder / "chat_template.jinja").write_text(CHATML)
    config = ModelConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=0,
        pad_token_id=3,
    )
    model = Decoder(config)
    init_weights(model, seed=0)
    save_model(model, folder)
    return folder


@pytest.fixture
def stage_context(tmp_path: Path) -> Callable[..., StageContext]:
    """Makes the context of a stage called `name`, working in a folder of its own."""

    def make(name: str = "stage", seed: int = 1, **inputs: Path) -> StageContext:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        console = Console(io.StringIO())
        return StageContext(name, folder, inputs, seed, tmp_path / "cache", console, StopRequest(), tmp_path)

    return make
