"""Where runs lie, which there are, and how far each is. `workflow/run_folder.py` is what writes them."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts import artifact_or_none, read_json
from groundup.errors import UserError

WORK = ".work"  # what a run's stages are building lies in this folder of it
DEAD_AFTER_SECONDS = 60.0


def runs_home() -> Path:
    """Where runs lie: $GROUNDUP_HOME, or ./runs."""
    return Path(os.environ.get("GROUNDUP_HOME") or "runs")


def cache_folder() -> Path:
    """What all runs share (downloads): $GROUNDUP_CACHE, else $XDG_CACHE_HOME/groundup, else ~/.cache/groundup."""
    own = os.environ.get("GROUNDUP_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundup"


def newest_step(work: Path) -> int:
    """The step of the newest checkpoint in a stage's folder; 0 where there is none."""
    steps = [path.name.removeprefix("checkpoint-") for path in work.glob("checkpoints/checkpoint-*")]
    return max((int(step) for step in steps if step.isdigit()), default=0)


@dataclass(frozen=True)
class RunSummary:
    """One line of `groundup runs`."""

    name: str
    folder: str
    state: str  # running | done | failed | stopped | cut off | unknown
    stage: str
    step: int
    done: int
    of: int
    seconds: float
    verdict: str  # released | refused | undecided | ''
    started_at: str


def list_runs(home: Path) -> list[RunSummary]:
    """Every run under `home`, newest first."""
    if not home.is_dir():
        return []
    folders = [path.parent for path in home.glob("*/state.json")]
    found = [summary for folder in folders if (summary := summarise(folder)) is not None]
    return sorted(found, key=lambda run: run.started_at, reverse=True)


def summarise(folder: Path) -> RunSummary | None:
    try:
        state = read_json(folder / "state.json")
        stages = dict(state.get("stages") or {})
    except (UserError, OSError, AttributeError):
        return None
    finished = {stage: artifact for stage in stages if (artifact := artifact_or_none(folder / stage)) is not None}
    stage = str(state.get("stage") or "")
    verdicts = [_verdict(folder / name) for name, artifact in finished.items() if artifact.kind == "gate"]
    return RunSummary(
        name=folder.name,
        folder=str(folder),
        state=_living_state(state),
        stage=stage if state.get("status") != "done" else "",
        step=newest_step(folder / WORK / stage) if stage else 0,
        done=len(finished),
        of=len(stages),
        seconds=round(sum(artifact.seconds for artifact in finished.values()), 1),
        verdict=verdicts[-1] if verdicts else "",
        started_at=str(state.get("started_at") or ""),
    )


def _living_state(state: dict[str, Any]) -> str:
    """What `state.json` says, unless the process that said `running` is gone."""
    status = str(state.get("status") or "unknown")
    if status != "running":
        return status
    is_silent = time.time() - float(state.get("heartbeat") or 0) > DEAD_AFTER_SECONDS
    is_here = state.get("host") == platform.node()
    is_gone = is_here and not Path(f"/proc/{state.get('pid')}").exists() and Path("/proc/self").exists()
    return "cut off" if is_silent or is_gone else "running"


def _verdict(stage_folder: Path) -> str:
    try:
        return str(read_json(stage_folder / "decision.json").get("verdict") or "")
    except (UserError, OSError, AttributeError):
        return ""
