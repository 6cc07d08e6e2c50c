"""The charts of one training stage: what is shown for which kind, with the marks of its health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.report.figures import Mark, Series, line_chart
from groundup.report.scales import duration, integer, short_number

LEVEL_OF = {"healthy": "good", "note": "note", "warning": "warning", "alarm": "bad", "unhealthy": "bad"}

Curves = Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Panel:
    """One chart that a kind of stage shows: which series, under which names, on which axis."""

    title: str
    y_title: str
    series: tuple[tuple[tuple[str, ...], str], ...]  # (names it may have in metrics.jsonl, name in the legend)
    log_y: bool = False
    smooth: bool = True
    level_line: tuple[float, str] | None = None


LOSS = (("loss",), "training")
HELD_OUT = (("validation_loss", "validation/loss", "eval_loss"), "held out")
RATE = Panel("Learning rate", "learning rate", ((("lr", "learning_rate"), "learning rate"),), smooth=False)
NORM = Panel("Gradient norm", "gradient norm before clipping", ((("grad_norm",), "gradient norm"),), log_y=True)
PANELS: dict[str, tuple[Panel, ...]] = {
    "pretrain": (Panel("Loss", "loss (nats per token)", (LOSS, HELD_OUT), log_y=True), NORM, RATE),
    "sft": (Panel("Loss", "loss (nats per trained token)", (LOSS, HELD_OUT), log_y=True), NORM),
    "reward": (
        Panel("Loss", "loss (nats per pair)", (LOSS, HELD_OUT), level_line=(0.6931, "ln 2: no preference")),
        Panel(
            "Accuracy on training pairs",
            "share of pairs ranked right",
            ((("accuracy",), "training"), (("validation_accuracy",), "held out")),
            level_line=(0.5, "chance"),
        ),
    ),
    "dpo": (
        Panel("Loss", "loss (nats per pair)", (LOSS, HELD_OUT), level_line=(0.6931, "ln 2: the start")),
        Panel(
            "Implicit reward margin",
            "beta x log-ratio, chosen minus rejected",
            ((("rewards/margins",), "training"), (("validation/rewards/margins",), "held out")),
        ),
        Panel(
            "Pairs ranked right by the implicit reward",
            "share of pairs",
            ((("rewards/accuracies",), "training"), (("validation/rewards/accuracies",), "held out")),
            level_line=(0.5, "chance"),
        ),
    ),
    "ppo": (
        Panel(
            "Reward",
            "mean score of a rollout",
            (
                (("score", "objective/scores"), "score"),
                (("accuracy", "verifier"), "answered right"),
            ),
        ),
        Panel(
            "KL divergence from the reference",
            "nats per answer",
            ((("kl", "objective/kl"), "KL"),),
        ),
        Panel(
            "Entropy of the policy",
            "nats per answer",
            ((("entropy", "objective/entropy"), "entropy"),),
        ),
        Panel("Value loss", "value loss", ((("value_loss",), "value loss"),), log_y=True),
    ),
}


def training_card(stage: Mapping[str, Any], curves: Curves, health: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the page shows for one stage: charts, a line of numbers, the health verdict and its findings."""
    findings = [_finding(row) for row in (health or {}).get("findings") or []]
    drawn = [(panel.title, _chart(panel, curves, findings, stage)) for panel in PANELS.get(stage["kind"], ())]
    verdict = (health or {}).get("verdict")
    return {
        "name": stage["name"],
        "kind": stage["kind"],
        "status": stage["status"],
        "charts": [{"title": title, "svg": chart} for title, chart in drawn if chart],
        "facts": _facts(stage, curves),
        "verdict": verdict,
        "level": LEVEL_OF.get(str(verdict), "note") if verdict else "",
        "findings": findings,
    }


def _chart(panel: Panel, curves: Curves, findings: Sequence[Mapping[str, Any]], stage: Mapping[str, Any]) -> str:
    series = []
    for names, shown in panel.series:
        name = next((name for name in names if curves.get(name)), None)
        if name is not None:
            points = [(point[0], point[1]) for point in curves[name]]
            window = max(2, len(points) // 25) if panel.smooth and len(points) >= 30 else 0
            series.append(Series(shown, points, smooth_over=window, markers=len(points) <= 12))
    if not series:
        return ""
    is_first = panel.series[0] is LOSS or panel.title == "Reward"
    marks = (
        [Mark(row["step"], row["what"], row["level"]) for row in findings if row["step"] is not None]
        if is_first
        else []
    )
    return line_chart(
        series,
        title=f"{stage['name']}: {panel.title}",
        x_title="step",
        y_title=panel.y_title,
        log_y=panel.log_y,
        marks=marks,
        level_line=panel.level_line,
    )


def _finding(row: Any) -> dict[str, Any]:
    """A finding with the keys that the page needs, whatever else it has."""
    if not isinstance(row, Mapping):
        return {"level": "note", "what": str(row), "step": None}
    words = row.get("what") or f"{str(row.get('kind')).replace('_', ' ')}: {row.get('why')}"
    step = row.get("step")
    is_number = isinstance(step, int | float) and not isinstance(step, bool)
    level = LEVEL_OF.get(str(row.get("severity")), "note")
    return {"level": level, "what": str(words), "step": step if is_number else None}


def _facts(stage: Mapping[str, Any], curves: Curves) -> list[tuple[str, str]]:
    """Last values worth a line: steps, loss, speed, memory."""
    facts: list[tuple[str, str]] = []
    loss = curves.get("loss") or []
    if loss:
        facts.append(("steps", integer(max(point[0] for point in loss))))
        if stage["kind"] != "ppo":
            facts.append(("loss", f"{short_number(loss[0][1])} → {short_number(loss[-1][1])}"))
    tokens = curves.get("tokens") or []
    if tokens:
        facts.append(("tokens", short_number(tokens[-1][1])))
    speeds = sorted(point[1] for point in curves.get("tokens_per_second") or [])
    if speeds:
        facts.append(("tokens / s", f"{speeds[len(speeds) // 2]:,.0f} (median)"))
    memory = curves.get("memory") or []
    if memory:
        facts.append(("peak memory", f"{max(point[1] for point in memory) / 1e9:.2f} GB"))
    if stage.get("seconds"):
        facts.append(("time", duration(stage["seconds"])))
    return facts
