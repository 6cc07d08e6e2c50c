"""Which parameter is updated how: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from groundup.train.adamw import AdamW
from groundup.train.muon import FULL_MOMENTUM, Muon, momentum_at

# Roles are read off the names, which are Hugging Face's for every model here.
LOOKUP_OR_HEAD = re.compile(r"(^|\.)(embed_tokens|lm_head|score)(\.|$)")


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that take part, by name; a tied one appears once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def role_of(name: str, parameter: Tensor) -> str:
    """`matrix` (a hidden layer's weight), `head` (a matrix that makes logits or a score), `embedding`, or `vector`."""
    if parameter.ndim < 2:
        return "vector"
    if LOOKUP_OR_HEAD.search(name):
        return "embedding" if "embed_tokens" in name else "head"
    return "matrix"


def build_optimizers(
    model: nn.Module,
    *,
    optimizer: str,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    learning_rate_scales: Mapping[str, float] | None = None,
) -> list[torch.optim.Optimizer]:
    """Optimisers over the trained parameters; `set_learning_rate` must be called before each step.

    Muon's updates are orthogonal, so their size is set by `match_rms_adamw` (Liu et al. 2025, Moonlight: a factor of
    0.2 * sqrt(max(rows, columns))): one learning rate serves both optimisers. At 256 x 1024 the factor is 6.4, so a
    rate of 3e-3 is Jordan's 0.02.
    `learning_rate_scales`: name prefix -> factor on the learning rate (a critic that learns faster than its policy).
    Decay: matrices and the head only, never norms, biases or embeddings.
    """
    groups: dict[tuple[str, bool, float], list[nn.Parameter]] = {}
    for name, parameter in trained_parameters(model).items():
        role = role_of(name, parameter)
        kind = "muon" if optimizer == "muon" and role == "matrix" and parameter.ndim == 2 else "adamw"
        scale = next((s for prefix, s in (learning_rate_scales or {}).items() if name.startswith(prefix)), 1.0)
        groups.setdefault((kind, role in ("matrix", "head"), scale), []).append(parameter)

    def as_groups(kind: str) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
            for (group_kind, decays, scale), parameters in groups.items()
            if group_kind == kind
        ]

    optimizers: list[torch.optim.Optimizer] = []
    if adamw := as_groups("adamw"):
        optimizers.append(AdamW(adamw, lr=0.0, betas=betas, eps=eps, fused=True))
    if muon := as_groups("muon"):
        optimizers.append(Muon(muon, lr=0.0, momentum=FULL_MOMENTUM))
    return optimizers


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], learning_rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_scale"]


def set_momentum(optimizers: Sequence[torch.optim.Optimizer], step: int, warmup_steps: int) -> None:
    """Muon's momentum for update `step`, counted from 0; AdamW's betas stay."""
    for optimizer in optimizers:
        if isinstance(optimizer, Muon):
            for group in optimizer.param_groups:
                group["momentum"] = momentum_at(step, warmup_steps)


def moments(optimizers: list[torch.optim.Optimizer], model: nn.Module) -> dict[str, Tensor]:
    """The optimisers' state as `moment/parameter name` -> tensor."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in trained_parameters(model).items()}
    return {
        f"{moment}/{names[parameter]}": torch.as_tensor(value)
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for moment, value in state.items()
    }
