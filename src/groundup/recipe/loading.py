"""From a recipe file to validated stages in the order in which they can run, or to all that is wrong at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from groundup.errors import Problem, UserError
from groundup.recipe.errors import settings_problems
from groundup.recipe.file import (
    KeyPath,
    RecipeFile,
    apply_overrides,
    did_you_mean,
    nearest,
    one_of,
    read_recipe_file,
)
from groundup.recipe.kinds import KINDS, Kind
from groundup.recipe.references import Reference, marked_in_data, marked_values, references
from groundup.recipe.settings import StageSettings

DEFAULT_SEED = 1337
RECIPE_KEYS = ("name", "seed", "description", "paths_from", "stages")
EXAMPLE = "`stages: {words: {stage: tokenizer, corpus: FOLDER, vocab_size: 4096}}`"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
OTHER_KINDS = {
    "pt": "pretrain", "pretraining": "pretrain", "finetune": "sft", "fine-tune": "sft", "rm": "reward",
    "reward_model": "reward", "eval": "evaluate", "exam": "evaluate", "tokenize": "tokens", "rlhf": "ppo",
    "data": "corpus", "release": "gate", "preferences": "pairs",
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    name: str
    kind: Kind
    settings: StageSettings
    references: tuple[Reference, ...]
    seed: int
    place: KeyPath  # where its mapping lies in the file

    @property
    def needs(self) -> tuple[str, ...]:
        """The stages it reads from, each once."""
        return tuple(dict.fromkeys(one.stage for one in self.references if one.stage is not None))


@dataclass(frozen=True)
class Recipe:
    """A recipe without mistakes. `stages` are in an order in which each finds what it reads."""

    name: str
    seed: int
    description: str
    stages: dict[str, Stage]
    file: RecipeFile

    def with_needs(self, names: Sequence[str]) -> list[Stage]:
        """The named stages and everything they read from, in order; all stages where none is named."""
        wanted: set[str] = set()
        waiting = list(names or self.stages)
        problems = [
            Problem(f"there is no stage '{name}' in this recipe{did_you_mean(name, self.stages)}", str(self.file.path))
            for name in waiting
            if name not in self.stages
        ]
        if problems:
            problems[-1] = Problem(problems[-1].what, problems[-1].where, one_of("stages", self.stages))
            raise UserError(problems)
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                waiting += self.stages[name].needs
        return [stage for name, stage in self.stages.items() if name in wanted]


# ---------------------------------------------------------------- finding the file


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with groundup: beside the package in a wheel, at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def find_recipe(name: str | Path) -> Path:
    """A path as given, with `.yaml` added, or the name of a shipped recipe; else an error that names files near it."""
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError("a folder, not a recipe", where=str(path), fix=_files_near(path / "recipe.yaml"))
    if not path.suffix and path.with_suffix(".yaml").is_file():
        return path.with_suffix(".yaml")
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    raise UserError("no such recipe", where=str(path), fix=_files_near(path))


def _files_near(path: Path) -> str:
    """Recipes that could be meant: beside the path asked for, here, in ./recipes, and the shipped ones."""
    found: dict[str, str] = {}
    for folder in (path.parent, Path(), Path("recipes")):
        if folder.is_dir():
            for one in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
                found.setdefault(one.name, str(one))
    for one in shipped_recipes().values():
        found.setdefault(one.name, one.stem)
    if not found:
        return "`groundup init` writes a commented recipe to start from"
    near = nearest(path.name, found) or nearest(path.stem, found)
    if near:
        return f"did you mean {found[near]}?"
    return one_of("recipes near", found.values(), at_most=8)


# ---------------------------------------------------------------- loading


def load_recipe(name: str | Path, overrides: Sequence[str] = (), *, kinds: Mapping[str, Kind] = KINDS) -> Recipe:
    """Read, override, validate. Every mistake of every stage is in the one `UserError` raised."""
    file = read_recipe_file(find_recipe(name))
    apply_overrides(file, overrides)
    problems = file.problems
    mappings = _stage_mappings(file)
    recipe_name, seed, description = _recipe_level(file)
    kind_of_stage = {
        stage_name: str(data.get("stage")) if isinstance(data, dict) else "" for stage_name, _, data in mappings
    }
    read: dict[str, tuple[Kind, StageSettings, KeyPath]] = {}
    for stage_name, place, data in mappings:
        if (kind := _kind_of(stage_name, place, data, file, kinds)) is None:
            continue
        try:
            read[stage_name] = (kind, kind.settings_class().model_validate(data), place)
        except ValidationError as error:
            model = kind.settings_class()
            problems += settings_problems(error, model, data, place, file)
            list(references(stage_name, marked_in_data(model, data), place, file, kind_of_stage))  # for its problems
    stages = {
        stage_name: Stage(
            stage_name,
            kind,
            settings,
            tuple(references(stage_name, marked_values(settings), place, file, kind_of_stage)),
            settings.seed if settings.seed is not None else seed,
            place,
        )
        for stage_name, (kind, settings, place) in read.items()
    }
    ordered = _in_order(stages, file)
    if problems:
        raise UserError(sorted(problems, key=_by_place))
    return Recipe(recipe_name, seed, description, ordered, file)


def _by_place(problem: Problem) -> tuple[bool, str, list[int]]:
    parts = problem.where.rsplit(":", 2)
    numbers = [int(part) for part in parts[1:] if part.isdigit()]
    return not numbers, parts[0], numbers


def _recipe_level(file: RecipeFile) -> tuple[str, int, str]:
    """The recipe's own keys: name, seed, description."""
    data, problems = file.data, file.problems
    name = data.get("name", file.path.stem)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        problems.append(
            Problem(
                f"name: '{name}' cannot be the name of a folder",
                file.where(("name",)),
                "letters, digits, '-', '_' and '.', starting with a letter or digit",
            )
        )
    seed = data.get("seed", DEFAULT_SEED)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        problems.append(Problem(f"seed: expected a whole number from 0, got {seed!r}", file.where(("seed",))))
        seed = DEFAULT_SEED
    starts = data.get("paths_from", [])
    if not isinstance(starts, list) or not all(isinstance(one, str) for one in starts):
        what = f"paths_from: expected a list of folders, got {starts!r}"
        problems.append(Problem(what, file.where(("paths_from",)), "folders, seen from beside the recipe: [../data]"))
    return str(name), seed, str(data.get("description") or "")


def _stage_mappings(file: RecipeFile) -> list[tuple[str, KeyPath, Any]]:
    """(name, place, settings as written) of each stage; a recipe may be one stage at the top level."""
    data, problems = file.data, file.problems
    if "stage" in data and "stages" not in data:
        settings = {key: value for key, value in data.items() if key not in RECIPE_KEYS}
        return [(str(data["stage"]), (), settings)]
    for key in data:
        if key not in RECIPE_KEYS:
            fix = one_of("keys of a recipe", RECIPE_KEYS)
            if not (hint := did_you_mean(key, RECIPE_KEYS)):
                fix += "; settings belong to a stage, under `stages: {NAME: {stage: ...}}`"
            problems.append(Problem(f"unknown key '{key}'{hint}", file.where((key,), of_key=True), fix))
    stages = data.get("stages")
    if stages is None:
        problems.append(
            Problem("the recipe has no stages", str(file.path), f"add {EXAMPLE}, or `stage: KIND` for a single one")
        )
        return []
    if not isinstance(stages, dict):
        problems.append(
            Problem(
                "stages: expected a mapping",
                file.where(("stages",)),
                "write `stages:` and under it `NAME: {stage: ...}`",
            )
        )
        return []
    if not stages:
        problems.append(Problem("the recipe has no stages", file.where(("stages",)), f"write {EXAMPLE}"))
    for name in stages:
        if not NAME.fullmatch(name):
            problems.append(
                Problem(
                    f"'{name}' cannot be the name of a stage",
                    file.where(("stages", name), of_key=True),
                    "letters, digits, '-' and '_', starting with a letter or digit",
                )
            )
    return [(name, ("stages", name), value) for name, value in stages.items()]


def _kind_of(name: str, place: KeyPath, data: Any, file: RecipeFile, kinds: Mapping[str, Kind]) -> Kind | None:
    if not isinstance(data, dict):
        file.problems.append(
            Problem(f"{name}: expected a mapping with `stage: KIND`", file.where(place), one_of("kinds", kinds))
        )
        return None
    word = data.get("stage")
    if word is None:
        fix = f"add `stage: ...`; {one_of('kinds', kinds)}"
        file.problems.append(Problem(f"'{name}' does not say what it does", file.where(place, of_key=True), fix))
        return None
    if str(word) in kinds:
        return kinds[str(word)]
    ours = OTHER_KINDS.get(str(word).lower())
    hint = f": here it is called '{ours}'" if ours in kinds else did_you_mean(str(word), kinds)
    file.problems.append(
        Problem(f"unknown kind of stage '{word}'{hint}", file.where((*place, "stage")), one_of("kinds", kinds))
    )
    return None


# ---------------------------------------------------------------- order


def _in_order(stages: dict[str, Stage], file: RecipeFile) -> dict[str, Stage]:
    """Stages so that each comes after what it reads, otherwise as written; a circle is a problem."""
    ordered: dict[str, Stage] = {}
    waiting = dict(stages)
    while waiting:
        ready = next((name for name, stage in waiting.items() if all(one not in waiting for one in stage.needs)), None)
        if ready is None:
            circle = _circle(waiting)
            if len(circle) > 2:  # a stage that reads itself was told already
                where = file.where(waiting[circle[0]].place, of_key=True)
                file.problems.append(Problem(f"the stages read each other in a circle: {' -> '.join(circle)}", where))
            return stages
        ordered[ready] = waiting.pop(ready)
    return ordered


def _circle(waiting: Mapping[str, Stage]) -> list[str]:
    seen: list[str] = []
    name = next(iter(waiting))
    while name not in seen:
        seen.append(name)
        name = next(one for one in waiting[name].needs if one in waiting)
    return [*seen[seen.index(name) :], name]
