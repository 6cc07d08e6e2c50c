"""Tiny random models of every family, ours and transformers' reading the same folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.model.config import ModelConfig, model_config
from groundup.model.decoder import Decoder
from groundup.model.files import save_model
from groundup.model.init import init_weights

SMALL: dict[str, Any] = {
    "vocab_size": 131,  # prime: nothing can rely on it being even
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "smollm2_tied": {"tie_word_embeddings": True, "rope_theta": 100_000.0},
    "llama3_rope": {"rope_scaling": {"rope_type": "llama3", "factor": 4.0, **LLAMA3}},
    "linear_rope": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "yarn_rope": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "mistral_window": {"model_type": "mistral", "sliding_window": 7},
    "qwen2": {"model_type": "qwen2", "attention_bias": True},
    "qwen2_window": {
        "model_type": "qwen2",
        "attention_bias": True,
        "sliding_window": 5,
        "layer_types": ("full_attention", "sliding_attention", "sliding_attention"),
    },
    "qwen3": {"model_type": "qwen3", "qk_norm": True, "head_dim": 16, "num_key_value_heads": 4},
    "smollm3_no_rope": {"model_type": "smollm3", "no_rope_layers": (1, 1, 0)},
}


def random_model(config: ModelConfig, seed: int = 0) -> Decoder:
    """A model whose norms and biases are random too: at 1 and 0 a forgotten one would go unseen."""
    model = Decoder(config)
    init_weights(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@dataclass(frozen=True)
class Twins:
    """Our model, and transformers' reading of the folder we wrote."""

    config: ModelConfig
    ours: Decoder
    theirs: Any
    folder: Path


@pytest.fixture(scope="session", params=FAMILIES)
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    transformers = pytest.importorskip("transformers")
    config = model_config({**SMALL, **FAMILIES[request.param]})
    ours, folder = random_model(config), tmp_path_factory.mktemp(request.param)
    save_model(ours, folder)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return Twins(config, ours, theirs.eval(), folder)


@pytest.fixture
def llama() -> Decoder:
    return random_model(model_config({**SMALL, "tie_word_embeddings": False}))


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(SMALL["vocab_size"], (3, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def random_family() -> Callable[[str], Decoder]:
    """Makes the tiny random model of a family."""
    return lambda name: random_model(model_config({**SMALL, **FAMILIES[name]}))
