"""Copies of metrics.jsonl for the trackers people look at. metrics.jsonl is the truth; a tracker is only told."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.errors import Problem, UserError

Send = Callable[[int, Mapping[str, float]], Any]  # step and numbers


@dataclass
class Tracker:
    name: str
    send: Send
    close: Callable[[], Any]


class Trackers:
    """Every tracker that a recipe names. One that fails is told of once and left alone: training goes on."""

    def __init__(self, trackers: Sequence[Tracker], warn: Callable[[str], None]) -> None:
        self.trackers, self.warn = list(trackers), warn

    def send(self, row: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        numbers = {name: float(row[name]) for name in row if name != "step" and isinstance(row[name], (int, float))}
        for tracker in list(self.trackers):
            self._try(tracker, lambda tracker=tracker: tracker.send(int(row["step"]), numbers))  # type: ignore[misc]

    def close(self) -> None:
        for tracker in list(self.trackers):
            self._try(tracker, tracker.close)
        self.trackers.clear()

    def _try(self, tracker: Tracker, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:
            self.trackers.remove(tracker)
            self.warn(f"{tracker.name} is not told any more: {type(error).__name__}: {error}")


def open_trackers(
    names: Sequence[str], folder: Path, run: str, stage: str, step: int, warn: Callable[[str], None]
) -> Trackers:
    """What report_to names, from step `step` on. UserError where one is not installed.

    `folder` is where tensorboard's files go. WANDB_* variables are wandb's own. Numbers that a tracker has of later
    steps, from before a kill or a rewind, are dropped where it can drop them (tensorboard).
    """
    if problems := absent_trackers(names):
        raise UserError(problems)
    found = []
    for name in names:
        try:
            module: Any = importlib.import_module(name)
        except ImportError as error:
            fix = "mend its installation, or take it out of report_to; metrics.jsonl is always written"
            raise UserError(f"report_to names {name}, which cannot be imported: {error}", fix=fix) from error
        if name == "tensorboard":
            found.append(_tensorboard(folder / "tensorboard", step))
        else:
            # so that a run that goes on is the same run there
            again = {"id": f"{run}-{stage}"} if name == "wandb" else {}
            session = module.init(project=run, name=stage, resume="allow", **again)
            found.append(Tracker(name, _to(session), session.finish))
    return Trackers(found, warn)


def absent_trackers(names: Sequence[str]) -> list[Problem]:
    """Those of report_to that are not installed."""
    return [
        Problem(
            f"report_to names {name}, which is not installed here",
            fix=f"pip install {name}, or take it out of report_to; metrics.jsonl is always written",
        )
        for name in names
        if not _is_installed(name)
    ]


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    return importlib.util.find_spec(name) is not None


def _tensorboard(folder: Path, step: int) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def send(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return Tracker("tensorboard", send, writer.close)


def _to(session: Any) -> Send:
    return lambda step, numbers: session.log(dict(numbers), step=step)
