"""The shape of a decoder, in Hugging Face's field names. Imports no torch: `plan` and `check` read it in milliseconds.

One frozen dataclass stands for the five families we run (Llama incl. SmolLM2, Mistral, Qwen2, Qwen3, SmolLM3). What
sets a family apart (biases, q/k norm, sliding window, layers without RoPE) is a field, so the decoder never asks for
the family's name. `from_hf` reads a `config.json` as transformers 4 or 5 writes it, `to_hf` writes one that
transformers 5 and 4 both read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groundup.errors import Problem, UserError
from groundup.model.hf_config import (
    ROPE_KEYS,
    layer_types_of,
    no_rope_layers_of,
    sliding_window_of,
    unsupported,
)
from groundup.model.presets import PRESETS

ARCHITECTURES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "smollm3": "SmolLM3",
}
"""model_type -> the prefix of transformers' class names. SmolLM and SmolLM2 are `llama` in their config.json."""

SUPPORTED = "Llama (also SmolLM, SmolLM2, TinyLlama), Mistral, Qwen2/Qwen2.5, Qwen3 (dense) and SmolLM3"


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the decoder's computation, and the ids that its files carry along."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 0
    """Width of one head; 0 stands for hidden_size / num_attention_heads and is filled in."""
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    rope_scaling: Mapping[str, Any] | None = None
    """None, or a mapping with `rope_type` (linear, llama3, yarn) and its factors, as transformers names them."""
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    """Biases on q, k, v; on o as well, except for qwen2, which has none there."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over each head of q and k before RoPE (Qwen3)."""
    sliding_window: int | None = None
    """A token sees this many tokens, itself included; None: all before it."""
    layer_types: tuple[str, ...] | None = None
    """Per layer `full_attention` or `sliding_attention`; None: sliding everywhere where there is a window."""
    no_rope_layers: tuple[int, ...] | None = None
    """Per layer 1 (RoPE) or 0 (none), SmolLM3's spelling; None: RoPE everywhere."""
    model_type: str = "llama"
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.head_dim == 0 and self.num_attention_heads > 0:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        problems = list(_problems(self))
        if problems:
            raise UserError(problems)

    # ------------------------------------------------------------ what each layer does

    def layer_window(self, layer: int) -> int | None:
        """The sliding window of one layer, or None where it sees everything before it."""
        if self.sliding_window is None:
            return None
        if self.layer_types is not None and self.layer_types[layer] != "sliding_attention":
            return None
        return self.sliding_window

    def layer_uses_rope(self, layer: int) -> bool:
        return self.no_rope_layers is None or bool(self.no_rope_layers[layer])

    @property
    def output_bias(self) -> bool:
        """Whether the attention's output projection has a bias (Qwen2 has biases on q, k and v only)."""
        return self.attention_bias and self.model_type != "qwen2"

    @property
    def architecture(self) -> str:
        return f"{ARCHITECTURES[self.model_type]}ForCausalLM"

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else self.eos_token_id

    # ------------------------------------------------------------ counting

    def matmul_parameters(self) -> int:
        """Weights that multiply activations: every linear layer and the head (also when tied), no embedding look-up."""
        query, key = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (2 * query + 2 * key)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * (attention + mlp) + self.vocab_size * self.hidden_size

    def parameters(self) -> int:
        """Number of trained weights; a tied embedding counts once."""
        hidden, layers = self.hidden_size, self.num_hidden_layers
        query, key = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        total = self.matmul_parameters() + hidden * (2 * layers + 1)
        if not self.tie_word_embeddings:
            total += self.vocab_size * hidden
        if self.attention_bias:
            total += layers * (query + 2 * key)
        if self.output_bias:
            total += layers * hidden
        if self.mlp_bias:
            total += layers * (2 * self.intermediate_size + hidden)
        if self.qk_norm:
            total += layers * 2 * self.head_dim
        return total

    def flops_per_token(self, sequence_len: int) -> int:
        """Training FLOPs (forward and backward) per token: 6 x matmul weights + causal attention.

        Attention counts the causal half: 6 * heads * head_dim * mean span, twice (scores and values) over
        `sequence_len / 2` keys; a sliding window shortens the span. Same count as nanoGPT's and torchtitan's, halved
        for causality.
        """
        attention = 0
        for layer in range(self.num_hidden_layers):
            window = self.layer_window(layer) or sequence_len
            span = sequence_len / 2 if window >= sequence_len else window - window * window / (2 * sequence_len)
            attention += round(12 * self.num_attention_heads * self.head_dim * span)
        return 6 * self.matmul_parameters() + attention

    # ------------------------------------------------------------ config.json

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Read a `config.json`. Anything that would change the computation and is not supported is refused by name."""
        model_type = config.get("model_type")
        if model_type not in ARCHITECTURES:
            name = ", ".join(config.get("architectures") or []) or "unknown"
            raise UserError(
                f"architecture {name} (model_type {model_type!r}) is not supported",
                where=where,
                fix=f"groundup runs {SUPPORTED}",
            )
        required = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        problems = [Problem(f"`{key}` is missing", where) for key in required if key not in config]
        problems += unsupported(config, where)
        if problems:
            raise UserError(problems)

        rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        theta = rope.pop("rope_theta", None) or config.get("rope_theta") or 10_000.0
        if "type" in rope:  # transformers before 4.45
            rope["rope_type"] = rope.pop("type")
        layers = int(config["num_hidden_layers"])
        eos = config.get("eos_token_id")
        heads = int(config["num_attention_heads"])
        try:
            return cls(
                vocab_size=int(config["vocab_size"]),
                hidden_size=int(config["hidden_size"]),
                intermediate_size=int(config["intermediate_size"]),
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or (128 if model_type == "qwen3" else 0)),
                max_position_embeddings=int(config.get("max_position_embeddings", 2048)),
                rope_theta=float(theta),
                rope_scaling=rope if rope.get("rope_type", "default") != "default" else None,
                rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
                tie_word_embeddings=bool(config.get("tie_word_embeddings", model_type == "smollm3")),
                attention_bias=model_type == "qwen2" or bool(config.get("attention_bias", False)),
                mlp_bias=bool(config.get("mlp_bias", False)),
                qk_norm=model_type == "qwen3",
                sliding_window=sliding_window_of(config),
                layer_types=layer_types_of(config, layers),
                no_rope_layers=no_rope_layers_of(config, layers),
                model_type=str(model_type),
                initializer_range=float(config.get("initializer_range", 0.02)),
                bos_token_id=config.get("bos_token_id"),
                eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
                pad_token_id=config.get("pad_token_id"),
            )
        except UserError as error:
            raise UserError([dataclasses.replace(problem, where=where) for problem in error.problems]) from error

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of this model, complete for transformers 5 and, in its older keys, transformers 4."""
        rope = dict(self.rope_scaling) if self.rope_scaling else {"rope_type": "default"}
        config: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "initializer_range": self.initializer_range,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "rope_theta": self.rope_theta,
            "rope_scaling": dict(self.rope_scaling) if self.rope_scaling else None,
            "rope_parameters": {"rope_theta": self.rope_theta, **rope},
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "use_cache": True,
        }
        if self.model_type in ("llama", "qwen3", "smollm3"):
            config["attention_bias"] = self.attention_bias
        if self.model_type in ("llama", "smollm3"):
            config["mlp_bias"] = self.mlp_bias
        if self.model_type != "llama":
            config["sliding_window"] = self.sliding_window
        if self.model_type in ("qwen2", "qwen3", "smollm3"):
            windows = [self.layer_window(layer) for layer in range(self.num_hidden_layers)]
            config["use_sliding_window"] = self.sliding_window is not None
            config["layer_types"] = ["full_attention" if w is None else "sliding_attention" for w in windows]
            if self.model_type != "smollm3":
                config["max_window_layers"] = next((i for i, w in enumerate(windows) if w), self.num_hidden_layers)
        if self.model_type == "smollm3":
            config["no_rope_layers"] = [int(self.layer_uses_rope(i)) for i in range(self.num_hidden_layers)]
        return config


# ---------------------------------------------------------------- shapes that cannot be


def _problems(config: ModelConfig) -> list[Problem]:
    """Shapes that cannot be, all at once."""
    problems = []
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    ):
        if getattr(config, name) < 1:
            problems.append(Problem(f"`{name}` must be at least 1, not {getattr(config, name)}"))
    if problems:
        return problems
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    if heads % kv:
        problems.append(
            Problem(
                f"`num_attention_heads` ({heads}) must be a multiple of `num_key_value_heads` ({kv})",
                fix=f"use num_key_value_heads: {max(d for d in range(1, kv + 1) if heads % d == 0)}",
            )
        )
    if config.head_dim < 2 or config.head_dim % 2:
        problems.append(
            Problem(
                f"the width of a head must be even for RoPE, not {config.head_dim}",
                fix=f"choose hidden_size ({config.hidden_size}) / num_attention_heads ({heads}) even, or set head_dim",
            )
        )
    if config.model_type not in ARCHITECTURES:
        problems.append(
            Problem(f"`model_type` {config.model_type!r} is not supported", fix=f"one of {', '.join(ARCHITECTURES)}")
        )
    if config.qk_norm != (config.model_type == "qwen3"):
        problems.append(
            Problem(
                f"`qk_norm: {str(config.qk_norm).lower()}` does not go with `model_type: {config.model_type}`",
                fix="q/k norm is what sets qwen3 apart: use `model_type: qwen3` with `qk_norm: true`",
            )
        )
    if config.sliding_window is not None and (config.sliding_window < 1 or config.model_type == "llama"):
        problems.append(
            Problem(
                f"`sliding_window: {config.sliding_window}` does not go with `model_type: {config.model_type}`",
                fix="use a window of at least 1 token with mistral, qwen2, qwen3 or smollm3",
            )
        )
    for name in ("layer_types", "no_rope_layers"):
        value = getattr(config, name)
        if value is not None and len(value) != config.num_hidden_layers:
            problems.append(Problem(f"`{name}` names {len(value)} layers; the model has {config.num_hidden_layers}"))
    rope_type = (config.rope_scaling or {}).get("rope_type", "default")
    if rope_type not in ROPE_KEYS:
        problems.append(Problem(f"RoPE scaling {rope_type!r} is not supported", fix=f"one of {', '.join(ROPE_KEYS)}"))
    missing = [key for key in ROPE_KEYS.get(rope_type, ()) if key not in (config.rope_scaling or {})]
    if missing:
        problems.append(Problem(f"RoPE scaling {rope_type!r} needs {', '.join(f'`{key}`' for key in missing)}"))
    return problems


# ---------------------------------------------------------------- from a recipe

FIELDS = tuple(field.name for field in dataclasses.fields(ModelConfig))


def model_config(model: str | Mapping[str, Any], **overrides: Any) -> ModelConfig:
    """A config from what a recipe says: a preset's name, or fields (with `preset:` to start from one).

    `overrides` (the tokenizer's `vocab_size` and ids) win. `qk_norm: true` alone makes a qwen3, and a `sliding_window`
    alone a mistral, since those are the families whose files can say so. Unknown names are refused with the nearest.
    """
    from difflib import get_close_matches

    fields: dict[str, Any] = {"preset": model} if isinstance(model, str) else dict(model)
    name = fields.pop("preset", "tiny" if isinstance(model, str) else None)
    if name is not None and name not in PRESETS:
        raise UserError(f"there is no model preset {name!r}", fix=f"one of {', '.join(PRESETS)}")
    problems = []
    for key in fields:
        if key not in FIELDS:
            near = get_close_matches(key, FIELDS, 1)
            fix = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(FIELDS)}"
            problems.append(Problem(f"a model has no setting `{key}`", fix=fix))
    if problems:
        raise UserError(problems)
    fields = {**(PRESETS[name] if name else {}), **fields}
    if "num_attention_heads" in fields and "num_key_value_heads" not in fields:
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    if "model_type" not in fields:
        fields["model_type"] = (
            "qwen3" if fields.get("qk_norm") else "mistral" if fields.get("sliding_window") else "llama"
        )
    for key in ("layer_types", "no_rope_layers"):
        if isinstance(fields.get(key), list):
            fields[key] = tuple(fields[key])
    return ModelConfig(**{**fields, **overrides})
