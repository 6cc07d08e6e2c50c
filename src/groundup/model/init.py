"""Initial weights, each drawn from hash(seed, its own name).

So the same seed gives the same model whatever the order of modules, the number of processes or the sharding; a model
with one more layer shares all other weights with the smaller one.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.deferred import defer


def generator_for(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on the seed and the tensor's name only."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def normal(shape: torch.Size, std: float, seed: int, name: str) -> Tensor:
    """fp32 normal values on the CPU for one whole tensor; callers copy their part of it."""
    return torch.empty(shape).normal_(0.0, std, generator=generator_for(seed, name))


@torch.no_grad()
def init_weights(model: Decoder, seed: int) -> None:
    """Fill every parameter in place with `initial_weight`."""
    for name, parameter in model.named_parameters():
        parameter.copy_(initial_weight(model.config, name, parameter.shape, seed))


def initial_weight(config: ModelConfig, name: str, shape: torch.Size, seed: int) -> Tensor:
    """The whole first tensor of a parameter, fp32: norms 1, biases 0, matrices normal(0, `initializer_range`).

    The two projections that write into the residual stream are divided by sqrt(2 * layers), as in GPT-2, so that its
    variance does not grow with depth.
    """
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith(".bias"):
        return torch.zeros(shape)
    is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
    std = config.initializer_range / (math.sqrt(2 * config.num_hidden_layers) if is_residual else 1)
    return normal(shape, std, seed, name)


def new_decoder(config: ModelConfig, seed: int, *, deferred: bool = False) -> Decoder:
    """A decoder with initial weights; `deferred`: made when it is filled, see deferred.py."""
    if deferred:
        model = defer(
            lambda: Decoder(config), lambda name, part: initial_weight(config, name, shapes[name], seed)[part]
        )
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        return model
    model = Decoder(config)
    init_weights(model, seed)
    return model
