"""Named shapes. The vocabulary is the tokenizer's wherever there is one."""

from __future__ import annotations

from typing import Any

_WIDE: dict[str, Any] = {"max_position_embeddings": 8192}
_SMOLLM2: dict[str, Any] = {**_WIDE, "vocab_size": 49152, "rope_theta": 100_000.0}
_LLAMA3: dict[str, Any] = {**_WIDE, "vocab_size": 128256, "rope_theta": 500_000.0, "num_key_value_heads": 8}

PRESETS: dict[str, dict[str, Any]] = {
    # name: fields that differ from ModelConfig's defaults
    "1m": {  # for minutes on a CPU: small enough for many steps, with what was found to pay (docs/log.md)
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "qk_norm": True,
        "tie_word_embeddings": False,
    },
    "tiny": {},  # 5M
    "10m": {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
    },
    "30m": {
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "124m": {
        "vocab_size": 50304,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    },
    "135m": {  # SmolLM2-135M
        **_SMOLLM2,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "360m": {  # SmolLM2-360M
        **_SMOLLM2,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
    },
    "1b": {  # Llama 3.2 1B without its RoPE scaling
        **_LLAMA3,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
    },
    "8b": {  # Llama 3 8B
        **_LLAMA3,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}
