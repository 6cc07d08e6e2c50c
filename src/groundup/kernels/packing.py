"""Weights cast to the compute dtype and laid side by side (q, k, v; gate, up): made once a step, not once a pass.

A cast weight is right as long as the parameter is not changed, which nothing here can see in general (another process
may change it, through shared memory). So they are kept only within `weights_rest`, which says that nobody does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_kept: dict[tuple[torch.dtype, tuple[int, ...]], tuple[tuple[int, ...], tuple[Tensor, ...], Tensor]] = {}
_resting = 0


@contextlib.contextmanager
def weights_rest() -> Iterator[None]:
    """Within this, nobody changes a parameter's values: the micro-batches of one step, an evaluation."""
    global _resting
    _resting += 1
    try:
        yield
    finally:
        _resting -= 1
        if not _resting:
            _kept.clear()


def packed(dtype: torch.dtype, *weights: Tensor) -> Tensor:
    """The rows of `weights` (each `rows, C`) below each other, in `dtype`."""
    if len(weights) == 1 and weights[0].dtype == dtype:
        return weights[0].detach()
    key = dtype, tuple(weight.data_ptr() for weight in weights)
    versions = tuple(weight._version for weight in weights)
    found = _kept.get(key)
    if found is not None and found[0] == versions:
        return found[2]
    rows = [len(weight) for weight in weights]
    together = weights[0].new_empty(sum(rows), *weights[0].shape[1:], dtype=dtype)
    for part, weight in zip(together.split(rows), weights, strict=True):
        part.copy_(weight.detach())
    if _resting:
        _kept[key] = versions, weights, together
    return together
