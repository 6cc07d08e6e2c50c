"""What a run will take, and what stands in its way, before anything starts.

Each stage kind may have a `check(settings, context) -> CheckReport`. It sees the same context as `run`, but what it
would read may not have been built yet; it says what it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from groundup.artifacts import read_json
from groundup.console import byte_text
from groundup.environment import free_disk_bytes, memory_bytes
from groundup.errors import Problem, UserError
from groundup.recipe import Recipe, Stage
from groundup.runs import WORK
from groundup.workflow.freshness import fresh_artifact, input_fingerprints, stage_fingerprint
from groundup.workflow.stage_check import check_stage, each_once, placed

Planner = Callable[[Recipe, Mapping[str, Mapping[str, Any]], Path], dict[str, Any]]


@dataclass(frozen=True)
class StageCheck:
    """What is known about one stage before it runs: `facts` from its own check, `plan` from the estimate."""

    stage: str
    kind: str
    is_done: bool
    facts: dict[str, Any]
    plan: dict[str, Any]
    problems: list[Problem]

    def planned(self, what: str) -> float | None:
        """`seconds`, `seconds_low`, `seconds_high`, `memory_bytes`, `disk_bytes` or `passing_disk_bytes`; None where it
        is not known."""
        value = self.plan.get(what, self.facts.get(what))
        return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True)
class Preflight:
    """The checks of all stages, and of the machine against their sum. Stages that are done take nothing more."""

    stages: list[StageCheck]
    plan: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def total(self, what: str) -> float:
        """The sum over the stages that are still to do; of memory the largest, of disk what is needed at once."""
        if what == "disk_bytes":
            from groundup.plan.estimate import disk_peak

            to_do = [row for row in self.stages if not row.is_done]
            return disk_peak((row.planned(what) or 0.0, row.planned("passing_disk_bytes") or 0.0) for row in to_do)
        values = [row.planned(what) or 0.0 for row in self.stages if not row.is_done]
        return max(values, default=0.0) if what == "memory_bytes" else sum(values)

    def as_json(self) -> dict[str, Any]:
        to_do = ("seconds", "seconds_low", "seconds_high", "disk_bytes", "memory_bytes")
        return {
            "ok": not self.problems,
            "problems": [asdict(problem) for problem in self.problems],
            "warnings": self.warnings,
            "to_do": {what: self.total(what) for what in to_do},
            "stages": [asdict(row) for row in self.stages],
            "machine": self.plan.get("machine"),
        }


def estimate(recipe: Recipe, facts: Mapping[str, Mapping[str, Any]], cache: Path) -> dict[str, Any]:
    """The plan of the whole recipe, with this machine's measured speed."""
    from groundup.plan.recipe_plan import plan_run

    return plan_run(recipe, facts, cache=cache)


def preflight(
    recipe: Recipe, run_folder: Path, cache: Path, only: Sequence[str] = (), planner: Planner = estimate
) -> Preflight:
    """Check every stage (or `only` those named and what they need) and the machine. Runs no stage."""
    stages = recipe.with_needs(only)
    done = done_stages(stages, run_folder)
    reports = {stage.name: check_stage(stage, run_folder, cache) for stage in stages if stage.name not in done}
    facts = {name: report.facts for name, report in reports.items()}
    plan = planner(recipe, facts, cache)
    planned = dict(plan.get("stages") or {})
    before = _earlier_plan(run_folder)
    for name in done & set(before):  # what was foretold of a stage that is done stays as it was foretold
        planned[name] = before[name]
    plan = {**plan, "stages": planned}
    told = [
        (stage, problem, placed(problem, stage, recipe.file))
        for stage in stages
        if stage.name in reports
        for problem in reports[stage.name].problems
    ]
    rows = [
        StageCheck(
            stage.name,
            stage.kind.name,
            stage.name in done,
            _with_parameters(stage, facts.get(stage.name) or {}, planned.get(stage.name) or {}),
            dict(planned.get(stage.name) or {}),
            [problem for of, _, problem in told if of is stage],
        )
        for stage in stages
    ]
    found = Preflight(rows, plan, each_once(told))
    _check_machine(found, run_folder)
    return found


def _with_parameters(stage: Stage, facts: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """The facts, and the size of a model that is trained from scratch, where only the plan knows its vocabulary."""
    parameters = int(plan.get("parameters") or 0)
    is_missing = stage.kind.name == "pretrain" and parameters and "parameters" not in facts
    return {"parameters": parameters, **facts} if is_missing and facts else dict(facts)


def _earlier_plan(run_folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(run_folder / "plan.json").get("stages") or {})
    except (OSError, UserError, AttributeError):
        return {}


def _check_machine(found: Preflight, run_folder: Path) -> None:
    free, disk = free_disk_bytes(run_folder), found.total("disk_bytes")
    held = _bytes_under(run_folder / WORK) if disk > free else 0
    if disk > free + held:  # what an unfinished stage has written already is not written a second time
        fix = "free some space, or choose another disk with --runs FOLDER"
        text = f"not enough disk: the run writes about {byte_text(disk)}, {byte_text(free)} are free"
        found.problems.append(Problem(text, str(run_folder), fix))
    memory = memory_bytes()
    for row in found.stages:
        if not row.is_done and (row.planned("memory_bytes") or 0.0) > memory:
            found.warnings.append(
                f"{row.stage} needs about {byte_text(row.planned('memory_bytes'))} of memory, this machine has "
                f"{byte_text(memory)}; a smaller micro_batch_size or sequence_len needs less"
            )


def _bytes_under(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # a run that is under way removes checkpoints
            found += path.stat().st_size if path.is_file() else 0
    return found


def done_stages(stages: Sequence[Stage], run_folder: Path) -> set[str]:
    """The stages that a run would skip, as far as that can be known before the others have run."""
    outputs: dict[str, str] = {}
    for stage in stages:
        if all(need in outputs for need in stage.needs):
            fingerprint = stage_fingerprint(stage, input_fingerprints(stage, outputs))
            if (artifact := fresh_artifact(run_folder / stage.name, fingerprint)) is not None:
                outputs[stage.name] = artifact.output_fingerprint
    return set(outputs)
