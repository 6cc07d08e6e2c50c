"""Copies of metrics.jsonl for the trackers people look at. metrics.jsonl is the truth; a tracker is only told."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.errors import UserError

Send = Callable[[int, Mapping[str, float]], None]  # step and numbers
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


def open_trackers(
    names: Sequence[str], folder: Path, run: str, name: str
) -> tuple[list[Send], list[Callable[[], Any]]]:
    """What to send each line to, and what to call at the end. UserError where one is not installed.

    `folder` is where a tracker may write, `run` the recipe's name, `name` the stage's. WANDB_* variables are wandb's.
    """
    sends: list[Send] = []
    closes: list[Callable[[], Any]] = []
    for tracker in names:
        try:
            importlib.import_module(PACKAGES[tracker])
        except ImportError as error:
            raise UserError(
                f"report_to names {tracker}, which is not installed here",
                fix=f"pip install {PACKAGES[tracker]}, or take it out of report_to; metrics.jsonl is always written",
            ) from error
        if tracker == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            writer: Any = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]
            sends.append(_to_tensorboard(writer))
            closes.append(writer.close)
        else:
            module = importlib.import_module(tracker)
            session = module.init(project=run, name=name, **_again(tracker, run, name))
            sends.append(_to_session(session))
            closes.append(session.finish)
    return sends, closes


def _again(tracker: str, run: str, name: str) -> dict[str, Any]:
    """So that a run that goes on is the same run there."""
    return {"id": f"{run}-{name}", "resume": "allow"} if tracker == "wandb" else {"resume": "allow"}


def _to_tensorboard(writer: Any) -> Send:
    def send(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return send


def _to_session(session: Any) -> Send:
    def send(step: int, numbers: Mapping[str, float]) -> None:
        session.log(dict(numbers), step=step)

    return send
