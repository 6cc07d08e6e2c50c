"""Shapes: counted right, read from and written to config.json, refused clearly where they cannot be."""

from __future__ import annotations

import subprocess
import sys

import pytest

from groundup.errors import UserError
from groundup.model.config import PRESETS, ModelConfig, model_config


def message(error: pytest.ExceptionInfo[UserError]) -> str:
    return str(error.value)


def test_config_imports_no_torch():
    code = "import sys, groundup.model.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("135m", 134_515_008), ("360m", 361_821_120), ("1b", 1_235_814_400), ("8b", 8_030_261_248)],
)
def test_presets_have_the_published_sizes(preset, parameters):
    assert model_config(preset).parameters() == parameters


def test_tiny_has_five_million():
    assert 4.5e6 < model_config("tiny").parameters() < 5.5e6


def test_flops_per_token_are_those_counted_by_others():
    """guides/performance.md B: 80.2 MFLOP for the 10m shape at T=512, 860 for 135M."""
    assert model_config("10m").flops_per_token(512) / 1e6 == pytest.approx(80.2, rel=0.003)
    assert model_config("135m").flops_per_token(512) / 1e6 == pytest.approx(860, rel=0.005)


def test_a_window_shortens_attention():
    full = model_config({"preset": "tiny", "model_type": "mistral"}).flops_per_token(1024)
    short = model_config({"preset": "tiny", "sliding_window": 64})
    assert short.model_type == "mistral"
    assert short.flops_per_token(1024) < full
    assert short.flops_per_token(64) == model_config("tiny").flops_per_token(64)


@pytest.mark.parametrize("preset", PRESETS)
def test_config_json_round_trips(preset):
    config = model_config(preset, eos_token_id=(3, 4), bos_token_id=1)
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_transformers_four_spelling_is_read():
    """Llama 3.2 1B's own config.json, shortened: rope_theta at the top, rope_scaling beside it."""
    config = ModelConfig.from_hf(
        {
            "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
            "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "rope_theta": 500000.0, "tie_word_embeddings": True, "eos_token_id": [128001, 128008, 128009],
            "rope_scaling": {
                "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
        }
    )  # fmt: skip
    assert config.rope_theta == 500_000.0
    assert config.rope_scaling is not None and config.rope_scaling["rope_type"] == "llama3"
    assert config.eos_token_ids == (128001, 128008, 128009)


def test_qwen_windows_apply_only_where_the_file_says_so():
    qwen = {
        "model_type": "qwen2", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 2, "sliding_window": 6, "max_window_layers": 2,
    }  # fmt: skip
    off = ModelConfig.from_hf({**qwen, "use_sliding_window": False})
    on = ModelConfig.from_hf({**qwen, "use_sliding_window": True})
    assert [off.layer_window(i) for i in range(4)] == [None] * 4
    assert [on.layer_window(i) for i in range(4)] == [None, None, 6, 6]


def test_an_unknown_architecture_is_refused_by_name():
    with pytest.raises(UserError) as error:
        ModelConfig.from_hf({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, where="m/config.json")
    assert message(error) == (
        "m/config.json: architecture GPT2LMHeadModel (model_type 'gpt2') is not supported\n"
        "  -> groundup runs Llama (also SmolLM, SmolLM2, TinyLlama), Mistral, Qwen2/Qwen2.5, Qwen3 (dense) and SmolLM3"
    )


def test_everything_unsupported_is_told_at_once():
    with pytest.raises(UserError) as error:
        ModelConfig.from_hf(
            {
                "model_type": "llama", "hidden_act": "gelu", "hidden_size": 8,
                "rope_scaling": {"type": "dynamic", "factor": 2.0}, "quantization_config": {"bits": 4},
            },
            where="config.json",
        )  # fmt: skip
    text = message(error)
    for part in ("`vocab_size` is missing", "hidden_act 'gelu'", "'dynamic'", "quantised weights"):
        assert part in text
    assert len(error.value.problems) == 7


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, ["(4)", "(3)", "num_key_value_heads: 2"]),
        ({"hidden_size": 12, "num_attention_heads": 4}, ["even for RoPE, not 3"]),
        ({"hidden_size": 0}, ["`hidden_size` must be at least 1"]),
        ({"hidden_sise": 64}, ["`hidden_sise`", "did you mean `hidden_size`?"]),
        ({"model_type": "llama", "sliding_window": 8}, ["`sliding_window: 8`", "mistral"]),
        ({"model_type": "llama", "qk_norm": True}, ["`qk_norm: true`", "qwen3"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2}}, ["`low_freq_factor`", "`high_freq_factor`"]),
        ({"preset": "huge"}, ["'huge'", "tiny"]),
    ],
)
def test_impossible_shapes_name_the_numbers_and_a_way_out(fields, words):
    with pytest.raises(UserError) as error:
        model_config(fields)
    assert all(word in message(error) for word in words), message(error)


def test_fields_choose_the_family_that_can_store_them():
    assert model_config({"qk_norm": True}).model_type == "qwen3"
    assert model_config({"sliding_window": 16}).model_type == "mistral"
    assert model_config("tiny", vocab_size=999).vocab_size == 999
