"""Did training go well? A verdict on a loss curve, with the evidence for it.

A loss is judged by `train/curves.py`, which training itself looks at as it goes: spikes, divergence, plateaus,
over-fitting. A PPO run is judged by the trend of its reward and KL: `reward_fell`, `kl_negative`, `kl_exploded`.

A `note` leaves the verdict `healthy`, a `warning` makes it `warning`, an `alarm` `unhealthy`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from groundup.train.curves import (
    FEWEST_POINTS,
    Finding,
    Floats,
    divergence,
    level_of,
    non_finite,
    overfit,
    plateau,
    spikes,
    too_short,
    window_of,
)

Verdict = Literal["healthy", "warning", "unhealthy"]

FEWEST_REWARDS = 10  # below this nothing is said about the trend of a reward


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
            "last": level_of(losses[-window_of(len(losses)) :]),
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


def _verdict(findings: list[Finding], facts: dict[str, Any]) -> Health:
    worst = {finding.severity for finding in findings}
    verdict: Verdict = "unhealthy" if "alarm" in worst else "warning" if "warning" in worst else "healthy"
    return Health(verdict, sorted(findings, key=lambda finding: finding.step), facts)
