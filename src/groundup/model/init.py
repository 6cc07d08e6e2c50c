"""Initial weights, each drawn from hash(seed, its own name).

So the same seed gives the same model whatever the order of modules, the number of processes or the sharding; a model
with one more layer shares all other weights with the smaller one.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from groundup.model.decoder import Decoder


def generator_for(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on the seed and the tensor's name only."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def normal(shape: torch.Size, std: float, seed: int, name: str) -> Tensor:
    """fp32 normal values on the CPU for one whole tensor; callers copy their part of it."""
    return torch.empty(shape).normal_(0.0, std, generator=generator_for(seed, name))


@torch.no_grad()
def init_weights(model: Decoder, seed: int) -> None:
    """Fill every parameter in place: norms 1, biases 0, matrices normal(0, `initializer_range`).

    The two projections that write into the residual stream are divided by sqrt(2 * layers), as in GPT-2, so that its
    variance does not grow with depth.
    """
    config = model.config
    residual_std = config.initializer_range / math.sqrt(2 * config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
        elif name.endswith(".bias"):
            parameter.zero_()
        else:
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = residual_std if residual else config.initializer_range
            parameter.copy_(normal(parameter.shape, std, seed, name))
