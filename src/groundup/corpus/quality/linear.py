"""Logistic regression on hashed features, in numpy: what the toxicity model and the name tagger are made of.

A row is an array of feature ids below `2**bits` (hashing trick, Weinberger et al. 2009); it counts as their sum divided
by the root of their number, so that long and short texts compare. Minimised by L-BFGS (Liu and Nocedal 1989) from zero:
no random numbers, so the same rows give the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BITS = 18
SIZE = 1 << BITS


def fit(
    rows: Sequence[Ids],
    labels: npt.ArrayLike,
    *,
    origins: npt.ArrayLike | None = None,
    ridge: float = 0.3,
    steps: int = 40,
) -> npt.NDArray[np.float32]:
    """Weights of `SIZE` features and, last, the intercept.

    `origins` (0 or 1 per row): rows of origin 1 have, besides the shared weights, weights and an intercept of their
    own, which are thrown away at the end. So made-up or foreign rows teach what holds everywhere, and keep what is only
    their own to themselves (Daume 2007, "Frustratingly easy domain adaptation"). Rows of origin 0 are the real ones.
    """
    truth = np.asarray(labels, np.float64)
    origin = np.zeros(len(truth), np.int64) if origins is None else np.asarray(origins, np.int64)
    rows = [np.concatenate((ids, ids + SIZE)) if one else ids for ids, one in zip(rows, origin, strict=True)]
    ids, sizes, scale = _flat(rows)
    is_used = np.zeros(2 * SIZE, bool)
    is_used[ids] = True
    used = np.flatnonzero(is_used)
    width = len(used)
    place_of = np.zeros(2 * SIZE, np.int64)
    place_of[used] = np.arange(width)
    place = place_of[ids]

    def loss(weights: Floats) -> tuple[float, Floats]:
        z = scale * _sums(weights[place], sizes) + weights[width + origin]
        # log(1 + exp(z)) - y z, without overflow
        total = float(np.sum(np.logaddexp(0, z) - truth * z)) + 0.5 * ridge * _dot(weights[:width], weights[:width])
        rest = 1 / (1 + np.exp(-z)) - truth
        slope = np.empty_like(weights)
        slope[:width] = np.bincount(place, np.repeat(scale * rest, sizes), width) + ridge * weights[:width]
        slope[width:] = np.bincount(origin, rest, 2)
        return total, slope

    best = minimise(loss, np.zeros(width + 2), steps)
    weights = np.zeros(SIZE + 1, np.float32)
    shared = used < SIZE
    weights[used[shared]] = best[:width][shared]
    weights[SIZE] = best[width]
    return weights


def log_odds(weights: npt.NDArray[np.float32], rows: Sequence[Ids]) -> Floats:
    """Log odds of each row; `weights` as `fit` gives them."""
    if not rows:
        return np.zeros(0)
    ids, sizes, scale = _flat(rows)
    return np.asarray(scale * _sums(weights[ids], sizes), np.float64) + float(weights[SIZE])


def _flat(rows: Sequence[Ids]) -> tuple[Ids, Ids, Floats]:
    """The features of all rows behind each other, how many each row has, and what each of them counts in its row."""
    sizes = np.array([len(ids) for ids in rows])
    return np.concatenate(rows), sizes, 1 / np.sqrt(np.maximum(sizes, 1))


def _sums(values: npt.NDArray[Any], sizes: Ids) -> Floats:
    """The sum of each run of `sizes` values; 0 of an empty one."""
    sums = np.zeros(len(sizes))
    filled = sizes > 0  # `reduceat` gives an empty run the value behind it
    starts = np.cumsum(sizes) - sizes
    if filled.any():
        sums[filled] = np.add.reduceat(values, starts[filled], dtype=np.float64)
    return sums


def minimise(loss: Callable[[Floats], tuple[float, Floats]], start: Floats, steps: int, memory: int = 8) -> Floats:
    """The minimum of a smooth convex function by L-BFGS; `loss` gives value and gradient."""
    point = start
    value, slope = loss(point)
    past: list[tuple[Floats, Floats, float]] = []
    for _ in range(steps):
        direction = slope.copy()
        shares = []
        for moved, turned, scale in reversed(past):
            share = scale * _dot(moved, direction)
            direction -= share * turned
            shares.append(share)
        if past:
            moved, turned, scale = past[-1]
            direction *= 1 / (scale * _dot(turned, turned))
        for (moved, turned, scale), share in zip(past, reversed(shares), strict=True):
            direction += (share - scale * _dot(turned, direction)) * moved
        fall = -_dot(slope, direction)
        if fall > -1e-10:
            break
        step = 1.0 if past else 1 / max(1.0, _dot(slope, slope) ** 0.5)
        while True:
            new_point = point - step * direction
            new_value, new_slope = loss(new_point)
            if new_value <= value + 1e-4 * step * fall or step < 1e-10:
                break
            step /= 2
        moved, turned = new_point - point, new_slope - slope
        if (curvature := _dot(moved, turned)) > 1e-12:
            past = [*past[1 - memory :], (moved, turned, 1 / curvature)]
        is_done = value - new_value < 1e-7 * max(1.0, abs(value))
        point, value, slope = new_point, new_value, new_slope
        if is_done:
            break
    return point


def _dot(one: Floats, other: Floats) -> float:
    """Not BLAS: its threads add up in another order on another machine, and fight for the cores of a busy one."""
    return float((one * other).sum())
