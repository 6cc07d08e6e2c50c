"""What one stage's own check says, and what is wrong with the models it names, each with its place in the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from groundup.artifacts import StageContext
from groundup.console import Console
from groundup.errors import Problem, UserError
from groundup.recipe import CheckReport, Stage
from groundup.recipe.file import KeyPath, RecipeFile
from groundup.recipe.references import marked_values
from groundup.runs import WORK
from groundup.stopping import StopRequest
from groundup.train.settings import TrainingSettings
from groundup.workflow.run import input_folders

MODEL_KINDS = {"pretrain", "sft", "dpo", "ppo", "reward"}  # what these stages leave holds a model folder


def check_stage(stage: Stage, run_folder: Path, cache: Path) -> CheckReport:
    """The stage's own check, and the models it names; problems are as told, still without their place in the recipe."""
    report = _own_check(stage, run_folder, cache)
    told = {problem.where for problem in report.problems}
    more = [one for one in _no_models(stage) if one.where not in told]
    if isinstance(stage.settings, TrainingSettings):
        from groundup.train.requirements import unmet_requirements  # imports torch

        more += unmet_requirements(stage.settings)
    return replace(report, problems=report.problems + more)


def _own_check(stage: Stage, run_folder: Path, cache: Path) -> CheckReport:
    check = stage.kind.check_function()
    if check is None:
        return CheckReport()
    context = StageContext(
        name=stage.name,
        folder=run_folder / WORK / stage.name,
        inputs=input_folders(stage, run_folder),
        seed=stage.seed,
        cache=cache,
        console=Console(quiet=True),
        stop=StopRequest(),
        run_folder=run_folder,
    )
    try:
        return check(stage.settings, context)
    except UserError as error:
        return CheckReport({}, error.problems)


# ---------------------------------------------------------------- models


def _no_models(stage: Stage) -> Iterator[Problem]:
    """Folders that are named as models and are none; what a stage of this recipe will make is not looked at."""
    paths = {one.key: one.path for one in stage.references if one.path is not None}
    for place, value, reads in marked_values(stage.settings):
        folder = paths.get(".".join(map(str, place)))
        if folder is not None and set(reads.kinds) & MODEL_KINDS:
            inner = folder / "model"
            for problem in model_problems(inner if (inner / "config.json").is_file() else folder):
                yield replace(problem, where=value) if problem.where == str(folder) else problem


def model_problems(folder: Path) -> list[Problem]:
    """What keeps a folder from being a model to start from: its shape, its weights' files, its tokenizer.

    No weights are loaded.
    """
    from groundup.model.files import load_config, require_same_vocabulary, weight_files
    from groundup.tokens.tokenizer import Tokenizer

    def same_vocabulary() -> None:
        require_same_vocabulary(folder, Tokenizer.from_folder(folder))

    if problems := _problems_of(lambda: load_config(folder)):
        return problems
    return _problems_of(lambda: weight_files(folder)) + _problems_of(same_vocabulary)


def _problems_of(work: Callable[[], object]) -> list[Problem]:
    try:
        work()
    except UserError as error:
        return error.problems
    return []


# ---------------------------------------------------------------- places


def placed(problem: Problem, stage: Stage, file: RecipeFile) -> Problem:
    """The problem with `recipe.yaml:line:col` in front: of the setting that it is about where that shows, else of the
    stage. What names a row of a file has its place already."""
    name, _, row = problem.where.rpartition(":")
    if name and row.isdigit():
        return problem
    key = _setting(problem, stage)
    place = file.where((*stage.place, *key), of_key=not key)
    if problem.where and problem.where not in place:
        place = f"{place}: {problem.where}"
    return replace(problem, where=place)


def _setting(problem: Problem, stage: Stage) -> KeyPath:
    """The setting whose value (or the file behind it) is where the problem lies, or whose name begins what is said."""
    paths: Mapping[str, str] = {one.value: str(one.path) for one in stage.references if one.path is not None}
    for key, value, _ in marked_values(stage.settings):
        named = {value.rstrip("/"), paths.get(value, value)}
        if any(problem.where == one or problem.where.startswith(f"{one}/") for one in named):
            return key
    first = problem.what.split(maxsplit=1)[0].strip(":,`'") if problem.what else ""
    return (first,) if first in type(stage.settings).model_fields else ()


def each_once(found: Iterable[tuple[Stage, Problem, Problem]]) -> list[Problem]:
    """Problems (stage, as told, with its place) of all stages; what several stages are told is told once."""
    first: dict[Problem, Problem] = {}
    stages: dict[Problem, dict[str, None]] = {}
    for stage, told, with_place in found:
        first.setdefault(told, with_place)
        stages.setdefault(told, {})[stage.name] = None
    return [
        replace(one, what=f"{one.what} (the same for {', '.join(others)})") if others else one
        for told, one in first.items()
        for others in [list(stages[told])[1:]]
    ]
