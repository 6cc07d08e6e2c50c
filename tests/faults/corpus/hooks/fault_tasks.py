"""Tasks that misbehave, for engines and runner to deal with."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from groundup.artifacts import write_json
from groundup.corpus.tasks import Task, remove_scratch, run_task
from groundup.errors import Stopped


def two_files(task: Task, out: Path) -> dict[str, Any]:
    """Between its files somebody else cleans up, or is quicker, or the person has enough: as the hints say."""
    write_json(out / "first.json", 1)
    if task.hints.get("cleaned"):
        remove_scratch(Path(task.root))
    if task.hints.get("quicker"):
        run_task(replace(task, hints={}))
    if task.hints.get("stopped"):
        raise Stopped("enough")
    write_json(out / "second.json", 2)
    return {}


def with_a_child(task: Task, _: Path) -> dict[str, Any]:
    """Starts a process that outlives its parent, and waits for it."""
    child = subprocess.Popen(["sleep", "600"])
    Path(task.hints["told"]).write_text(str(child.pid))
    child.wait()
    return {}


def after_the_child(task: Task, _: Path) -> dict[str, Any]:
    while not (told := Path(task.hints["told"])).exists() or not told.read_text():
        time.sleep(0.02)
    return {}
