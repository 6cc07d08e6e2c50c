"""What a loss curve looks like, judged against its own recent noise. Numpy only; used while training and afterwards.

Medians and median absolute deviations, which a spike does not move, so the same rules fit a pre-training run of 20,000
points and a fine-tuning run of 60:

`non_finite`   a loss that is no number
`spike`        a loss far above the trailing median (one event, however many steps it lasts)
`divergence`   the level rises and stays up: CUSUM of clipped residuals against an older level (Page 1954)
`plateau`      no progress over the last part of the run
`not_learned`  the level at the end is that of the beginning
`overfit`      held-out loss rises from its minimum while training loss falls on
`too_short`    so few points that nothing of this can be judged: nobody knows whether it went well
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Severity = Literal["note", "warning", "alarm"]

WINDOW = 64  # points of the trailing median; shorter for short curves
SPIKE_SIGMAS = 4.5
SPIKE_SHARE = 0.08  # of the level: what is smaller than this is no spike, however quiet the curve
SERIOUS_SHARE = 0.25  # a spike this high, relative to the level, is worth a warning even where it passes
CUSUM_SLACK, CUSUM_CLIP, CUSUM_LIMIT = 1.0, 4.0, 60.0  # in sigmas
DIVERGED_SHARE = 0.10  # of the level: unrecovered rises above this are an alarm
FEWEST_POINTS = 16  # below this nothing is said about noise


@dataclass(frozen=True)
class Finding:
    """One thing that was seen: where (`step`), how large (`value`, in the curve's unit) and why it counts."""

    kind: str
    severity: Severity
    step: int
    value: float
    why: str


def too_short(steps: Floats, fewest: int) -> Finding:
    """What is said of a curve of fewer than `fewest` points."""
    points = "1 point" if len(steps) == 1 else f"{len(steps)} points"
    why = f"{points}, where {fewest} are needed to judge a curve; train longer, or log more often (logging_steps)"
    return Finding("too_short", "warning", int(steps[-1]) if len(steps) else 0, float(len(steps)), why)


def non_finite(steps: Floats, values: Floats) -> list[Finding]:
    bad = steps[~np.isfinite(values)]
    if not len(bad):
        return []
    why = f"{len(bad)} of {len(values)} values are not finite numbers, the first at step {int(bad[0])}"
    return [Finding("non_finite", "alarm", int(bad[0]), math.nan, why)]


def spikes(steps: Floats, losses: Floats) -> list[Finding]:
    """Events at which the loss stands far above the trailing median, in noise units and relative to the level."""
    level, sigma = trailing_level(losses)
    excess = losses - level
    threshold = np.maximum(SPIKE_SIGMAS * sigma, SPIKE_SHARE * np.abs(level))
    is_high = np.nan_to_num(excess, nan=-1.0) > np.nan_to_num(threshold, nan=np.inf)
    findings = []
    for first, last in _events(is_high, gap=max(1, window_of(len(losses)) // 16)):
        peak = first + int(np.argmax(excess[first : last + 1]))
        height, share = float(excess[peak]), float(excess[peak] / max(abs(level[peak]), 1e-12))
        times = height / max(sigma[peak], 1e-12)
        why = f"{height:.2f} above the trailing median of {level[peak]:.2f}, {times:.0f} times the noise"
        severity: Severity = "warning" if share >= SERIOUS_SHARE else "note"
        findings.append(Finding("spike", severity, int(steps[peak]), height, why))
    return findings


def divergence(steps: Floats, losses: Floats) -> list[Finding]:
    """Rises of the level. Told where they begin; an alarm where the curve never comes back, else a warning."""
    window = window_of(len(losses))
    median, sigma = trailing_level(losses)
    lag = 2 * window
    older = np.full(len(losses), np.nan)  # the level before the last 2 windows: a slow rise has not reached it yet
    older[lag:] = median[:-lag]
    residual = np.clip((losses - older) / np.maximum(sigma, 1e-12), -CUSUM_CLIP, CUSUM_CLIP)
    limit = CUSUM_LIMIT * window / WINDOW
    findings: list[Finding] = []
    total, began, i = 0.0, 0, lag
    while i < len(losses):
        value = residual[i]
        total = max(0.0, total + value - CUSUM_SLACK) if math.isfinite(value) else 0.0
        if total == 0.0:
            began = i
        if total <= limit:
            i += 1
            continue
        reference = float(older[began + 1] if began + 1 < len(older) else older[i])
        back = _first_at_or_below(median, reference + sigma[i], i)
        end = back if back is not None else len(losses)
        risen = float(np.nanmax(median[i : end + 1]) - reference)
        findings.append(_rise(steps, began, i, back, reference, risen, float(median[-1] - reference)))
        if back is None:
            break
        total, i = 0.0, back + 1
    return [finding for finding in findings if finding.value > 0]


def _rise(
    steps: Floats, began: int, noticed: int, back: int | None, reference: float, risen: float, still: float
) -> Finding:
    where = f"the level rose from {reference:.2f} at step {int(steps[began])}, noticed at step {int(steps[noticed])}"
    if back is not None:
        return Finding("divergence", "note" if risen < 0.02 * abs(reference) else "warning", int(steps[began]), risen,
                       f"{where}, by {risen:.2f}; it came back at step {int(steps[back])}")  # fmt: skip
    share = still / max(abs(reference), 1e-12)
    severity: Severity = "alarm" if share >= DIVERGED_SHARE else "warning" if share >= 0.02 else "note"
    return Finding(
        "divergence", severity, int(steps[began]), still, f"{where}; it ends {still:.2f} above and does not come back"
    )


def plateau(steps: Floats, losses: Floats) -> list[Finding]:
    """No progress: over the last 40 % of the run (a note), or since the beginning (a warning)."""
    blocks = np.array_split(losses, min(20, len(losses) // 4))
    starts = np.cumsum([0, *(len(block) for block in blocks[:-1])])
    levels = np.array([np.median(block) for block in blocks])
    _, sigma = trailing_level(losses)
    noise = 1.25 * float(np.nanmedian(sigma)) / math.sqrt(len(blocks[0]))
    if levels[1:].min() > levels[0] - max(0.02 * abs(levels[0]), 2 * noise):
        why = f"the level was {levels[0]:.3f} at the beginning and never fell below {levels[1:].min():.3f}"
        return [Finding("not_learned", "warning", int(steps[0]), float(levels[0] - levels[1:].min()), why)]
    for number, level in enumerate(levels[:-1]):
        gained = float(level - levels[number + 1 :].min())
        if gained <= max(0.005 * abs(level), 2 * noise):
            share = 1 - number / len(levels)
            if share < 0.4:
                return []
            why = f"over the last {share:.0%} of the run the level fell by no more than {max(gained, 0):.3f}"
            return [Finding("plateau", "note", int(steps[starts[number]]), gained, why)]
    return []


def overfit(steps: Floats, losses: Floats, validation_steps: Floats, validation: Floats) -> list[Finding]:
    """Held-out loss that ends above its minimum while the training loss fell on."""
    is_number = np.isfinite(validation)
    validation_steps, validation = validation_steps[is_number], validation[is_number]
    if len(validation) < 3:
        return []
    best = int(np.argmin(validation))
    rise = float(validation[-1] - validation[best])
    if best == len(validation) - 1 or rise <= 0.02 * abs(validation[best]):
        return []
    size = max(3, window_of(len(losses)) // 2)
    at_best = np.searchsorted(steps, validation_steps[best])
    then, now = level_of(losses[max(0, at_best - size) : at_best + size]), level_of(losses[-size:])
    if now >= then:
        return []  # both rise: that is a divergence, not over-fitting
    serious = rise > 0.1 * abs(validation[best])
    why = (
        f"held-out loss was lowest at step {int(validation_steps[best])} ({validation[best]:.3f}) and ends at "
        f"{validation[-1]:.3f}, while training loss fell from {then:.3f} to {now:.3f}"
    )
    return [Finding("overfit", "warning" if serious else "note", int(validation_steps[best]), rise, why)]


# ---------------------------------------------------------------- robust levels


def trailing_level(losses: Floats) -> tuple[Floats, Floats]:
    """Median of the points before each point, and the noise of one point, from the differences of neighbours before it.

    Differences do not see the trend, so a steep start does not look noisy. Both look backwards only: a verdict during a
    run is the same as afterwards. NaN where too little came before.
    """
    window = window_of(len(losses))
    differences = np.abs(np.diff(losses, prepend=np.nan))
    sigma = 1.4826 / math.sqrt(2) * _rolling_median(differences, 4 * window, fewest=window)
    return _rolling_median(losses, window), sigma


def _rolling_median(values: Floats, window: int, fewest: int | None = None) -> Floats:
    """Median of the `window` values before each index (at least `fewest`, NaNs left out), NaN where there are fewer."""
    fewest = fewest or max(4, window // 2)
    result = np.full(len(values), np.nan)
    start = int(np.argmax(np.isfinite(values))) if np.isfinite(values).any() else len(values)
    for i in range(start + fewest, min(start + window, len(values))):
        result[i] = np.median(values[start:i])
    if len(values) > start + window:
        windows = np.lib.stride_tricks.sliding_window_view(values[start:-1], window)
        for part in range(0, len(windows), 4096):  # bounded memory
            result[start + window + part : start + window + part + 4096] = np.median(
                windows[part : part + 4096], axis=1
            )
    return result


def window_of(points: int) -> int:
    return int(min(WINDOW, max(8, points // 8)))


def level_of(values: Floats) -> float:
    return float(np.median(values))


def _events(flags: NDArray[np.bool_], gap: int) -> list[tuple[int, int]]:
    """First and last index of each run of flagged points; runs closer than `gap` are one event."""
    events: list[tuple[int, int]] = []
    for i in np.flatnonzero(flags):
        if events and i - events[-1][1] <= gap:
            events[-1] = (events[-1][0], int(i))
        else:
            events.append((int(i), int(i)))
    return events


def _first_at_or_below(values: Floats, bound: float, start: int) -> int | None:
    below = np.flatnonzero(values[start:] <= bound)
    return start + int(below[0]) if len(below) else None
