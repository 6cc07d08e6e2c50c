"""How the run as a whole goes, judged while it goes on: a plateau, nothing learned, over-fitting. Nothing is ended.

The rules are those of `curves.py`, over the lines of metrics.jsonl, which is cut back to the checkpoint that a run goes
on from: so there is nothing else to remember but what has been said already.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from groundup.artifacts import StageContext
from groundup.train.curves import WINDOW, Finding, overfit, plateau

GROWN = 1.25  # a curve is looked at again when it has grown by a quarter: in all, the work of some few looks
# while it trains a run is called flat only where that is beyond doubt (none of four real runs is, at any time)
FEWEST_FOR_PLATEAU, FLAT_SHARE = 256, 0.0025


class Verdicts:
    """`look(row)` after each line of metrics.jsonl; `rows` are the lines that are there already."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._loss: list[tuple[int, float]] = []
        self._held_out: list[tuple[int, float]] = []
        self._next = WINDOW
        for row in rows:
            self._take(row)
        while self._next <= len(self._loss):
            self._next = int(self._next * GROWN)

    def look(self, row: Mapping[str, Any], told: dict[str, str], *, after: int) -> list[Finding]:
        """What is new; `told` (kind -> severity) keeps what has been said. Plateaus count from step `after` on."""
        self._take(row)
        findings: list[Finding] = []
        if "validation_loss" in row and self._loss:
            findings += overfit(*np.array(self._loss).T, *np.array(self._held_out).T)
        if len(self._loss) >= self._next:
            self._next = int(len(self._loss) * GROWN)
            steps, losses = np.array([pair for pair in self._loss if pair[0] > after] or [(0, 0.0)]).T
            if len(losses) >= WINDOW:
                flat = FLAT_SHARE * abs(float(np.median(losses))) if len(losses) >= FEWEST_FOR_PLATEAU else -math.inf
                findings += [one for one in plateau(steps, losses) if one.kind != "plateau" or one.value <= flat]
        new = [finding for finding in findings if told.get(finding.kind) != finding.severity]
        told.update({finding.kind: finding.severity for finding in new})
        return new

    def _take(self, row: Mapping[str, Any]) -> None:
        for name, curve in (("loss", self._loss), ("validation_loss", self._held_out)):
            if isinstance(value := row.get(name), (int, float)):
                curve.append((int(row["step"]), float(value)))


def tell(context: StageContext, finding: Finding) -> None:
    """Say it on the console, and keep it in the run's events.jsonl."""
    what = f"{finding.kind.replace('_', ' ')}: {finding.why}"
    say = context.console.info if finding.severity == "note" else context.console.warn
    say(f"{context.name}: step {finding.step:,}: {what}")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    event = {"time": now, "stage": context.name, "what": what, "step": finding.step, "kind": finding.kind}
    with (
        contextlib.suppress(OSError),  # a full disk is told by what would be lost
        open(context.run_folder / "events.jsonl", "a", encoding="utf-8") as file,
    ):
        file.write(json.dumps({**event, "severity": finding.severity}) + "\n")
