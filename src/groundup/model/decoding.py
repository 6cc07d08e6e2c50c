"""Which engine generates: native C where this machine can, packed torch elsewhere. Both look the same from outside.

    engine = prepare(model, "bfloat16")              # packs the weights as they are now
    cache = engine.new_cache(slots=4, capacity=512)
    logits = engine.read(cache, 0, [prompt_a, prompt_b])   # into slots 0 and 1; logits after each, 2, V
    logits = engine.step(cache, tokens)                    # one more token in slots 0 and 1

A cache has slots, each with a sequence of its own length; `lengths[slot]` may be lowered to forget its end.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from groundup.errors import UserError
from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder

KINDS = ("float32", "bfloat16", "int8")


class Cache(Protocol):
    slots: int
    capacity: int
    lengths: np.ndarray[Any, Any]  # int32, one per slot

    def copy(self, source: int, target: int, tokens: int) -> None: ...


class Engine(Protocol):
    config: ModelConfig
    kind: str
    device: torch.device

    def new_cache(self, slots: int, capacity: int) -> Any: ...

    def read(self, cache: Any, slot: int, pieces: list[list[int]]) -> Tensor: ...

    def step(self, cache: Any, tokens: np.ndarray[Any, Any]) -> Tensor: ...


def prepare(model: Decoder | Engine, dtype: torch.dtype | str | None = None) -> Engine:
    """Pack a model's weights for generation; an engine is given back as it is.

    `dtype`: float32, bfloat16 or int8 (weights only, symmetric per output row), by name or as torch has it; None: that
    of the weights. An engine is of the weights as they are now: after training, prepare another one.
    """
    if not isinstance(model, Decoder):
        return model
    kind = kind_of(model, dtype)
    with torch.no_grad():
        if model.head_weight.device.type == "cpu" and is_native(kind):
            from groundup.model.native_decode import NativeDecoder

            return NativeDecoder(model, kind)
        from groundup.model.torch_decode import TorchDecoder

        return TorchDecoder(model, kind)


def kind_of(model: Decoder, dtype: torch.dtype | str | None) -> str:
    name = str(model.head_weight.dtype if dtype is None else dtype).removeprefix("torch.")
    if name not in KINDS:
        raise UserError(f"models do not generate in {name}", fix=f"one of {', '.join(KINDS)}")
    return name


def is_native(kind: str) -> bool:
    """Whether kernels/decode.c is there and this processor has the instructions that make it worth while."""
    from groundup.kernels.decode import is_fast

    return is_fast(kind)


def cache_bytes(config: ModelConfig, kind: str, tokens: int) -> int:
    """What keys and values of one sequence of so many tokens take."""
    width = -(-config.head_dim // 16) * 16
    return 2 * config.num_hidden_layers * config.num_key_value_heads * width * tokens * (4 if kind == "float32" else 2)
