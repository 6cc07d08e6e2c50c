"""What a run will take, and what stands in its way, before anything starts.

Each stage kind may have a `check(settings, context) -> CheckReport`. It sees the same context as `run`, but what it
would read may not have been built yet; it says what it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from groundup import run_folder as folders
from groundup.artifacts import StageContext
from groundup.console import Console
from groundup.environment import free_disk_bytes, memory_bytes
from groundup.errors import Problem, UserError
from groundup.freshness import fresh_artifact, input_fingerprints, stage_fingerprint
from groundup.recipe import CheckReport
from groundup.recipe_loading import Recipe, Stage
from groundup.stopping import StopRequest
from groundup.tables import byte_text
from groundup.workflow import input_folders


@dataclass(frozen=True)
class StageCheck:
    """What is known about one stage before it runs. None: not known."""

    stage: str
    kind: str
    is_done: bool
    facts: dict[str, Any]
    seconds: float | None
    memory_bytes: float | None
    disk_bytes: float | None
    problems: list[Problem]

    IN_TABLE: ClassVar[tuple[str, ...]] = ("trained_tokens", "disk_bytes", "memory_bytes", "seconds")


@dataclass(frozen=True)
class Preflight:
    """The checks of all stages, and of the machine against their sum. Stages that are done take nothing more."""

    stages: list[StageCheck]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(row.seconds or 0.0 for row in self._to_do())

    @property
    def disk_bytes(self) -> float:
        return sum(row.disk_bytes or 0.0 for row in self._to_do())

    @property
    def memory_bytes(self) -> float:
        return max((row.memory_bytes or 0.0 for row in self._to_do()), default=0.0)

    def _to_do(self) -> list[StageCheck]:
        return [row for row in self.stages if not row.is_done]

    def plan(self) -> dict[str, Any]:
        """As kept in `plan.json`, to be compared with what really happened."""
        return {
            "stages": {
                row.stage: {
                    **row.facts,
                    "seconds": row.seconds,
                    "memory_bytes": row.memory_bytes,
                    "disk_bytes": row.disk_bytes,
                }
                for row in self.stages
            },
            "seconds": sum(row.seconds or 0.0 for row in self.stages),
            "disk_bytes": sum(row.disk_bytes or 0.0 for row in self.stages),
            "memory_bytes": max((row.memory_bytes or 0.0 for row in self.stages), default=0.0),
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": not self.problems,
            "problems": [asdict(problem) for problem in self.problems],
            "warnings": self.warnings,
            "to_do": {"seconds": self.seconds, "disk_bytes": self.disk_bytes, "memory_bytes": self.memory_bytes},
            "stages": [
                {**asdict(row), "problems": [asdict(problem) for problem in row.problems]} for row in self.stages
            ],
        }


def preflight(recipe: Recipe, run_folder: Path, cache: Path, only: Sequence[str] = ()) -> Preflight:
    """Check every stage (or `only` those named and what they need) and the machine. Runs and writes nothing."""
    stages = recipe.with_needs(only)
    done = done_stages(stages, run_folder)
    rows = [_check_stage(stage, run_folder, cache, is_done=stage.name in done) for stage in stages]
    problems = [problem for row in rows for problem in row.problems]
    found = Preflight(rows, problems)
    free = free_disk_bytes(run_folder)
    if found.disk_bytes > free:
        fix = "free some space, or choose another disk with --runs FOLDER"
        text = f"not enough disk: the run writes about {byte_text(found.disk_bytes)}, {byte_text(free)} are free"
        problems.append(Problem(text, str(run_folder), fix))
    memory = memory_bytes()
    warnings = [
        f"{row.stage} needs about {byte_text(row.memory_bytes)} of memory, this machine has {byte_text(memory)}; "
        "a smaller micro_batch_size or sequence_len needs less"
        for row in rows
        if not row.is_done and (row.memory_bytes or 0.0) > memory
    ]
    return Preflight(rows, problems, warnings)


def done_stages(stages: Sequence[Stage], run_folder: Path) -> set[str]:
    """The stages that a run would skip, as far as that can be known before the others have run."""
    outputs: dict[str, str] = {}
    for stage in stages:
        if all(need in outputs for need in stage.needs):
            fingerprint = stage_fingerprint(stage, input_fingerprints(stage, outputs))
            if (artifact := fresh_artifact(run_folder / stage.name, fingerprint)) is not None:
                outputs[stage.name] = artifact.output_fingerprint
    return set(outputs)


def _check_stage(stage: Stage, run_folder: Path, cache: Path, *, is_done: bool) -> StageCheck:
    context = StageContext(
        name=stage.name,
        folder=run_folder / folders.WORK / stage.name,
        inputs=input_folders(stage, run_folder),
        seed=stage.seed,
        cache=cache,
        console=Console(quiet=True),
        stop=StopRequest(),
        run_folder=run_folder,
    )
    check = stage.kind.check_function()
    try:
        report = check(stage.settings, context) if check is not None and not is_done else CheckReport()
    except UserError as error:
        report = CheckReport({}, error.problems)
    facts = dict(report.facts)
    return StageCheck(
        stage.name,
        stage.kind.name,
        is_done,
        facts,
        facts.get("seconds"),
        facts.get("memory_bytes"),
        facts.get("disk_bytes"),
        [] if is_done else report.problems,
    )
