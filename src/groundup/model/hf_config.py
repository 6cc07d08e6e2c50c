"""What a `config.json` says that differs from family to family, and what it may ask for that we do not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundup.errors import Problem

ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}
"""RoPE scalings that rope.py computes, and the settings that each needs."""


def unsupported(config: Mapping[str, Any], where: str) -> list[Problem]:
    """Settings that change what the model computes and that our decoder does not have."""
    problems = []
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        problems.append(Problem(f"hidden_act {activation!r} is not supported", where, "supported: silu (SwiGLU)"))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ROPE_KEYS:
        supported = ", ".join(ROPE_KEYS)
        problems.append(Problem(f"RoPE scaling {rope_type!r} is not supported", where, f"supported: {supported}"))
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) not in (None, 1.0):
        problems.append(Problem("`partial_rotary_factor` other than 1 is not supported", where))
    if config.get("quantization_config"):
        problems.append(Problem("quantised weights cannot be read", where, "use the model's unquantised folder"))
    return problems


def sliding_window_of(config: Mapping[str, Any]) -> int | None:
    """Llama has no window; Qwen and SmolLM3 have one only where `use_sliding_window` says so."""
    if config["model_type"] == "llama" or not config.get("sliding_window"):
        return None
    if config["model_type"] != "mistral" and not config.get("use_sliding_window", False):
        return None
    return int(config["sliding_window"])


def layer_types_of(config: Mapping[str, Any], layers: int) -> tuple[str, ...] | None:
    if sliding_window_of(config) is None or config["model_type"] == "mistral":
        return None
    if config.get("layer_types"):
        return tuple(config["layer_types"])
    if config["model_type"] == "smollm3":  # transformers: the window applies to the layers without RoPE only
        no_rope = no_rope_layers_of(config, layers) or (1,) * layers
        return tuple("full_attention" if uses_rope else "sliding_attention" for uses_rope in no_rope)
    first = int(config.get("max_window_layers", 28))  # transformers' default for Qwen2 and Qwen3
    return tuple("sliding_attention" if layer >= first else "full_attention" for layer in range(layers))


def no_rope_layers_of(config: Mapping[str, Any], layers: int) -> tuple[int, ...] | None:
    if config["model_type"] != "smollm3":
        return None
    if config.get("no_rope_layers"):
        return tuple(int(value) for value in config["no_rope_layers"])
    interval = int(config.get("no_rope_layer_interval") or 4)
    return tuple(int((layer + 1) % interval != 0) for layer in range(layers))
