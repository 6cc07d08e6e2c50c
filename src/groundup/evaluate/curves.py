"""Did training go well? A verdict on a loss curve, with the evidence for it.

Everything is judged against the curve's own recent noise (medians and median absolute deviations, which a spike does
not move), so the same rules fit a pre-training run of 20,000 points and a PPO run of 60. What is looked for:

`non_finite`   a loss that is no number
`spike`        a loss far above the trailing median (one event, however many steps it lasts)
`divergence`   the level rises and stays up: CUSUM of clipped residuals against an older level (Page 1954)
`plateau`      no progress over the last part of the run
`not_learned`  the level at the end is that of the beginning
`overfit`      held-out loss rises from its minimum while training loss falls on
`too_short`    so few points that nothing of this can be judged: nobody knows whether it went well
`reward_fell`, `kl_negative`, `kl_exploded`   for PPO, beside the trend of reward and KL

A `note` leaves the verdict `healthy`, a `warning` makes it `warning`, an `alarm` `unhealthy`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Severity = Literal["note", "warning", "alarm"]
Verdict = Literal["healthy", "warning", "unhealthy"]

WINDOW = 64  # points of the trailing median; shorter for short curves
SPIKE_SIGMAS = 4.5
SPIKE_SHARE = 0.08  # of the level: what is smaller than this is no spike, however quiet the curve
SERIOUS_SHARE = 0.25  # a spike this high, relative to the level, is worth a warning even where it passes
CUSUM_SLACK, CUSUM_CLIP, CUSUM_LIMIT = 1.0, 4.0, 60.0  # in sigmas
DIVERGED_SHARE = 0.10  # of the level: unrecovered rises above this are an alarm
FEWEST_POINTS = 16  # below this nothing is said about noise
FEWEST_REWARDS = 10  # the same for the trend of a reward


@dataclass(frozen=True)
class Finding:
    """One thing that was seen: where (`step`), how large (`value`, in the curve's unit) and why it counts."""

    kind: str
    severity: Severity
    step: int
    value: float
    why: str


@dataclass(frozen=True)
class Health:
    """The verdict on one training run, its findings by step, and the numbers a reader would ask for."""

    verdict: Verdict
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        record = asdict(self)
        for finding in record["findings"]:
            finding["what"] = f"{finding['kind'].replace('_', ' ')}: {finding['why']}"
            finding["value"] = finding["value"] if math.isfinite(finding["value"]) else None  # JSON has no NaN
        return record


def judge_run(rows: Sequence[Mapping[str, Any]]) -> Health:
    """Verdict on the rows of a `metrics.jsonl` ({step, loss, perhaps eval_loss, reward, kl})."""
    steps, losses = column(rows, "loss", "train_loss")
    validation = column(rows, "eval_loss", "validation_loss", "val_loss", "held_out_loss")
    reward_steps, rewards = column(rows, "objective/scores", "scores", "score", "reward", "reward_mean")
    if len(rewards):  # a policy's loss is not something that ought to fall
        return judge_rewards(reward_steps, rewards, *column(rows, "objective/kl", "kl", "kl_mean"), losses=losses)
    return judge_curve(steps, losses, *validation)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a metrics.jsonl; half a line at its end (a kill) does not count."""
    import json

    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def column(rows: Sequence[Mapping[str, Any]], *names: str) -> tuple[Floats, Floats]:
    """Steps and values of the first of these names that any row has; JSON's null stands for what is no number."""
    for name in names:
        found = [(row["step"], row[name]) for row in rows if name in row]
        if found:
            values = [math.nan if value is None else float(value) for _, value in found]
            return np.array([step for step, _ in found], dtype=np.float64), np.array(values)
    return np.empty(0), np.empty(0)


# ---------------------------------------------------------------- a loss that ought to fall


def judge_curve(
    steps: Floats, losses: Floats, validation_steps: Floats | None = None, validation: Floats | None = None
) -> Health:
    """Verdict on a training loss, by step; both arrays have the same length. Held-out losses may be sparser."""
    findings = non_finite(steps, losses)
    is_number = np.isfinite(losses)
    steps, losses = steps[is_number], losses[is_number]
    facts: dict[str, Any] = {"points": len(losses)}
    if len(losses):
        facts |= {
            "first": float(losses[0]),
            "last": _level(losses[-_window(len(losses)) :]),
            "lowest": float(losses.min()),
        }
    if len(losses) >= FEWEST_POINTS:
        findings += spikes(steps, losses) + divergence(steps, losses) + plateau(steps, losses)
    else:
        findings.append(too_short(steps, FEWEST_POINTS))
    if validation_steps is not None and validation is not None and len(validation):
        findings += non_finite(validation_steps, validation) + overfit(steps, losses, validation_steps, validation)
        facts |= {"held_out_last": float(validation[-1]), "held_out_lowest": float(np.nanmin(validation))}
    return _verdict(findings, facts)


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
    for first, last in _events(is_high, gap=max(1, _window(len(losses)) // 16)):
        peak = first + int(np.argmax(excess[first : last + 1]))
        height, share = float(excess[peak]), float(excess[peak] / max(abs(level[peak]), 1e-12))
        times = height / max(sigma[peak], 1e-12)
        why = f"{height:.2f} above the trailing median of {level[peak]:.2f}, {times:.0f} times the noise"
        severity: Severity = "warning" if share >= SERIOUS_SHARE else "note"
        findings.append(Finding("spike", severity, int(steps[peak]), height, why))
    return findings


def divergence(steps: Floats, losses: Floats) -> list[Finding]:
    """Rises of the level. Told where they begin; an alarm where the curve never comes back, else a warning."""
    window = _window(len(losses))
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
    size = max(3, _window(len(losses)) // 2)
    at_best = np.searchsorted(steps, validation_steps[best])
    then, now = _level(losses[max(0, at_best - size) : at_best + size]), _level(losses[-size:])
    if now >= then:
        return []  # both rise: that is a divergence, not over-fitting
    serious = rise > 0.1 * abs(validation[best])
    why = (
        f"held-out loss was lowest at step {int(validation_steps[best])} ({validation[best]:.3f}) and ends at "
        f"{validation[-1]:.3f}, while training loss fell from {then:.3f} to {now:.3f}"
    )
    return [Finding("overfit", "warning" if serious else "note", int(validation_steps[best]), rise, why)]


# ---------------------------------------------------------------- a reward that ought to rise


def judge_rewards(
    steps: Floats, rewards: Floats, kl_steps: Floats, kl: Floats, *, losses: Floats | None = None
) -> Health:
    """Verdict on a PPO run from its reward and its KL to the reference policy (nats, as the run logs it)."""
    findings = non_finite(steps, rewards) + non_finite(kl_steps, kl)
    if losses is not None and not np.isfinite(losses).all():
        findings.append(Finding("non_finite", "alarm", int(steps[0]), math.nan, "some losses are not finite numbers"))
    numbers = np.isfinite(rewards)
    steps, rewards, kl = steps[numbers], rewards[numbers], kl[np.isfinite(kl)]
    facts: dict[str, Any] = {"points": len(rewards)}
    if len(rewards) < FEWEST_REWARDS:
        findings.append(too_short(steps, FEWEST_REWARDS))
    else:
        before, after, z = _trend(rewards)
        facts |= {"reward_first": before, "reward_last": after, "reward_z": z}
        facts["reward_trend"] = "rose" if z > 3 else "fell" if z < -3 else "flat"
        words = f"mean reward {before:.3f} in the first fifth, {after:.3f} in the last ({z:+.1f} standard errors)"
        if z < -3:
            findings.append(Finding("reward_fell", "warning", int(steps[-1]), after - before, words))
        elif z <= 3:
            findings.append(Finding("plateau", "note", int(steps[-1]), after - before, words))
    if len(kl) >= FEWEST_REWARDS:
        fifth = len(kl) // 5
        middle, last = float(np.median(kl[2 * fifth : 3 * fifth])), float(np.mean(kl[-fifth:]))
        facts |= {"kl_middle": middle, "kl_last": last, "kl_largest": float(kl.max())}
        if last < -0.05:
            why = f"mean KL of {last:.3f} at the end: below zero, so sampling and training disagree about probabilities"
            findings.append(Finding("kl_negative", "warning", int(kl_steps[-1]), last, why))
        if last > 5 * max(middle, 0.2):
            why = f"KL grew from {middle:.2f} in the middle of the run to {last:.2f} at its end"
            findings.append(Finding("kl_exploded", "warning", int(kl_steps[-1]), last, why))
    return _verdict(findings, facts)


def _trend(values: Floats) -> tuple[float, float, float]:
    """Means of the first and the last fifth, and their difference in standard errors."""
    fifth = max(2, len(values) // 5)
    first, last = values[:fifth], values[-fifth:]
    error = math.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last))
    difference = float(last.mean() - first.mean())
    z = difference / error if error > 0 else math.copysign(math.inf, difference) if difference else 0.0
    return float(first.mean()), float(last.mean()), z


# ---------------------------------------------------------------- robust levels


def trailing_level(losses: Floats) -> tuple[Floats, Floats]:
    """Median of the points before each point, and the noise of one point, from the differences of neighbours before it.

    Differences do not see the trend, so a steep start does not look noisy. Both look backwards only: a verdict during a
    run is the same as afterwards. NaN where too little came before.
    """
    window = _window(len(losses))
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


def _window(points: int) -> int:
    return int(min(WINDOW, max(8, points // 8)))


def _level(values: Floats) -> float:
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


def _verdict(findings: list[Finding], facts: dict[str, Any]) -> Health:
    worst = {finding.severity for finding in findings}
    verdict: Verdict = "unhealthy" if "alarm" in worst else "warning" if "warning" in worst else "healthy"
    return Health(verdict, sorted(findings, key=lambda finding: finding.step), facts)
