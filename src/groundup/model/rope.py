"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) with the scalings that Hugging Face files name.

Llama's layout: the two halves of a head are rotated against each other (`rotate_half`), not neighbouring pairs, so
weights in HF files need no permutation. Scalings: linear (position interpolation, arXiv:2306.15595), llama3 (Llama 3.1
model card), yarn (arXiv:2309.00071).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from groundup.model.config import ModelConfig


def inverse_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """The angle per position of each of the head_dim/2 rotations (fp32), and the factor on cos and sin (yarn only)."""
    scaling = dict(config.rope_scaling or {})
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    match scaling.get("rope_type", "default"):
        case "linear":
            return frequencies / scaling["factor"], 1.0
        case "llama3":
            return _llama3(frequencies, scaling), 1.0
        case "yarn":
            return _yarn(frequencies, scaling, config)
    return frequencies, 1.0


def _llama3(frequencies: Tensor, scaling: dict[str, Any]) -> Tensor:
    """Long wavelengths are slowed down by `factor`, short ones kept, and those between blended."""
    factor, old_length = float(scaling["factor"]), float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    wavelength = 2 * math.pi / frequencies
    kept = ((old_length / wavelength - low) / (high - low)).clamp(0, 1)  # 0: slowed down, 1: kept
    return (1 - kept) * frequencies / factor + kept * frequencies


def _yarn(frequencies: Tensor, scaling: dict[str, Any], config: ModelConfig) -> tuple[Tensor, float]:
    """NTK-by-parts: interpolate the dimensions that turn fewer than `beta_slow` times within the old length."""
    dim, factor = config.head_dim, scaling["factor"]
    old_length = scaling.get("original_max_position_embeddings") or config.max_position_embeddings

    def dimension_with(turns: float) -> float:
        return dim * math.log(old_length / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low = dimension_with(scaling.get("beta_fast") or 32)
    high = dimension_with(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low if high != low else 0.001)
    kept = 1 - ramp.clamp(0, 1)

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    attention_factor = scaling.get("attention_factor")
    if attention_factor is None:
        all_dim, one = scaling.get("mscale_all_dim"), scaling.get("mscale")
        attention_factor = magnitude(one) / magnitude(all_dim) if one and all_dim else magnitude(1.0)
    return frequencies / factor * (1 - kept) + frequencies * kept, float(attention_factor)


class RotaryTable:
    """cos and sin for all positions seen so far, computed once in fp32 and kept per dtype and device.

    Not a module: it has no state worth saving, and must not be cast when the model is.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.frequencies, self.factor = inverse_frequencies(config)
        self.tables: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def at(self, position_ids: Tensor, positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin, each `B, 1, T, D`, of `position_ids` `B, T`, all below `positions`; see functions.rotate."""
        cos, sin = self.tables_of(positions, dtype, position_ids.device)
        return cos[position_ids][:, None], sin[position_ids][:, None]

    def tables_of(self, positions: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin `P, D` of the positions from 0 on, P at least `positions`."""
        key = (dtype, device)
        if key not in self.tables or len(self.tables[key][0]) < positions:
            rows = 1 << max(positions - 1, 255).bit_length()  # grow by doubling: a decode loop builds few tables
            angles = torch.arange(rows, dtype=torch.float32, device="cpu")[:, None] * self.frequencies
            cos, sin = angles.cos() * self.factor, angles.sin() * self.factor
            self.tables[key] = (
                torch.cat((cos, cos), dim=-1).to(device, dtype),
                torch.cat((-sin, sin), dim=-1).to(device, dtype),
            )
        return self.tables[key]
