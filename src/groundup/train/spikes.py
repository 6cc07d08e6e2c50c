"""Watching the loss and the gradient of every step: spikes, spikes that last, and a level that slowly rises.

The rules are those of `curves.py`, one step at a time: `observe` takes a memory of JSON values that lies in the
checkpoint, so a run that goes on after a kill judges as one that was never interrupted, and every process of a run
judges alike (they see the same sums).

The thresholds stand clear of what four real GPT-2-scale runs do by themselves (shared/data/training_curves, 55,600
steps): there 97 steps stand 25 % and 6 sigmas above the level, every one of them a single bad batch: never two in a
row, at most 2 in 8 and 3 in 16 steps, and the loss is back at once. So a high step is told, and four in eight are a
spike that lasts, which no healthy run has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from groundup.train.curves import (
    CUSUM_CLIP,
    CUSUM_LIMIT,
    CUSUM_SLACK,
    DIVERGED_SHARE,
    SERIOUS_SHARE,
    WINDOW,
    Finding,
    Floats,
)

HIGH_SIGMAS = 6.0
NORM_TIMES = 10.0  # a gradient norm this many times its median is a spike, too (largest in a real run: 7.5)
LASTING, LASTING_OF = 4, 8  # high steps, of so many, that make a spike a lasting one
EVENT_GAP = 16  # high steps closer than this are one spike
HISTORY = 4 * WINDOW + 1  # losses that are remembered: the noise is judged on 256 differences


@dataclass(frozen=True)
class Sighting:
    """What one step showed. `lasting_since` is the first step of a spike that lasts, where this step confirms one."""

    is_high: bool = False
    lasting_since: int | None = None
    findings: tuple[Finding, ...] = ()


def observe(memory: dict[str, Any], step: int, loss: float | None, grad_norm: float) -> Sighting:
    """Judge step `step` (from 1) by what came before, and remember it.

    `loss` None: the objective's loss says nothing (a policy's). Blind for the first 64 steps, where nothing is known.
    """
    findings: list[Finding] = []
    reasons: list[str] = []
    height = 0.0
    if loss is not None:
        losses = np.array(memory.setdefault("losses", []))
        level, sigma = _level(losses), _noise(losses)
        height = loss - level
        if height > max(HIGH_SIGMAS * sigma, SERIOUS_SHARE * abs(level)):  # never, while either is NaN
            times = height / max(sigma, 1e-12)
            reasons.append(f"a loss of {loss:.3f} is {times:.0f} times the noise above its level of {level:.3f}")
        findings += _rising(memory, step, loss, losses, level, sigma)
        memory["losses"] = [*memory["losses"][-HISTORY + 1 :], loss]
    norms = memory.setdefault("norms", [])
    usual = _level(np.array(norms))
    if grad_norm > NORM_TIMES * usual:
        reasons.append(f"a gradient norm of {grad_norm:.3g} is {grad_norm / max(usual, 1e-12):.0f} times the usual")
    memory["norms"] = [*norms[-WINDOW + 1 :], grad_norm]

    high = [one for one in memory.get("high", []) if one > step - EVENT_GAP]
    if reasons:
        if not high:
            memory["spikes"] = memory.get("spikes", 0) + 1
            findings.append(Finding("spike", "warning", step, height, " and ".join(reasons)))
        high.append(step)
    memory["high"] = high
    recent = [one for one in high if one > step - LASTING_OF]
    is_lasting = len(recent) >= LASTING
    if is_lasting and not memory.get("is_lasting"):
        why = f"{len(recent)} of the last {LASTING_OF} steps are far above the level before, from step {recent[0]} on"
        findings.append(Finding("lasting_spike", "alarm", recent[0], height, why))
    memory["is_lasting"] = is_lasting
    return Sighting(bool(reasons), recent[0] if is_lasting else None, tuple(findings))


def _rising(
    memory: dict[str, Any], step: int, loss: float, losses: Floats, level: float, sigma: float
) -> list[Finding]:
    """The level against that of two windows ago, summed up (CUSUM): a slow divergence shows long before it is large."""
    if (reference := memory.get("risen_from")) is not None:  # noticed: until it comes back
        risen = level - reference
        if risen <= sigma:
            memory.update(risen_from=None, rise=0.0, is_alarmed=False)
            why = f"the level of the loss is back at {level:.3f}"
            return [Finding("divergence_over", "note", step, risen, why)]
        if not memory.get("is_alarmed") and risen >= DIVERGED_SHARE * abs(reference):
            memory["is_alarmed"] = True
            why = f"the level of the loss has risen from {reference:.3f} to {level:.3f} since step {memory['rise_at']}"
            return [Finding("divergence", "alarm", step, risen, why)]
        return []
    older = _level(losses[: -2 * WINDOW][-WINDOW:]) if len(losses) > 2 * WINDOW else math.nan
    residual = (loss - older) / max(sigma, 1e-12)
    before = memory.get("rise", 0.0)
    rise = max(0.0, before + min(max(residual, -CUSUM_CLIP), CUSUM_CLIP) - CUSUM_SLACK) if residual == residual else 0.0
    memory["rise"] = rise
    if rise > 0 and before == 0:
        memory.update(rise_at=step, rise_level=older)
    if rise <= CUSUM_LIMIT:
        return []
    memory["risen_from"] = reference = memory["rise_level"]
    why = f"the level of the loss rises slowly: {reference:.3f} at step {memory['rise_at']}, {level:.3f} now"
    return [Finding("divergence", "warning", step, level - reference, why)]


def _level(values: Floats) -> float:
    """Median of the last `WINDOW` values; NaN where half of them are not there."""
    return _median(values[-WINDOW:]) if len(values) >= WINDOW // 2 else math.nan


def _noise(losses: Floats) -> float:
    """Standard deviation of one loss, from the differences of neighbours, which see no trend."""
    differences = np.abs(np.diff(losses))
    return 1.4826 / math.sqrt(2) * _median(differences) if len(differences) >= WINDOW else math.nan


def _median(values: Floats) -> float:
    """As np.median, which takes four times as long for so few."""
    ordered = np.sort(values)
    half = len(ordered) // 2
    return float(ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2)
