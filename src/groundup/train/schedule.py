"""The learning rate as a pure function of the step. There is no scheduler object and nothing to restore."""

from __future__ import annotations

import math


def lr_factor(
    step: int, *, total_steps: int | None, scheduler: str, warmup_steps: int = 0, decay_ratio: float = 0.5
) -> float:
    """Share of the highest learning rate at update `step`, counted from 0.

    The first update already moves (1/warmup), the last one still does: a step with rate 0 would be a step thrown away.
    `total_steps` None: the horizon is not known yet (a time limit before its probe), so nothing decays.
    `wsd`: warm up, stay, decay linearly over the last `decay_ratio` of all steps (Hu et al. 2024, MiniCPM).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if total_steps is None or scheduler == "constant":
        return 1.0
    if scheduler == "wsd":
        decay_steps = min(round(total_steps * decay_ratio), total_steps - warmup_steps)
        left = total_steps - step
        return 1.0 if decay_steps <= 0 or left > decay_steps else max(left, 0) / (decay_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if scheduler == "linear":
        return 1.0 - progress
    if scheduler == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    raise ValueError(f"unknown lr_scheduler {scheduler!r}")
