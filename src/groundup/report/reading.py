"""Reading a run folder that may be whole, half done or cut off in the middle of a line. Nothing here writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.artifacts import MARKER
from groundup.errors import UserError

WORK = ".work"  # runs/NAME/.work/STAGE: a stage that has not finished
MOST_ROWS = 200_000  # of one JSONL file; more would say nothing new


@dataclass(frozen=True)
class StageFiles:
    """One stage of a run as found on disk. `artifact` is None until the stage has finished."""

    name: str
    kind: str
    folder: Path
    settings: dict[str, Any]
    artifact: dict[str, Any] | None = None
    status: str = "waiting"  # done, running, stopped, failed, waiting
    unreadable: list[str] = field(default_factory=list)  # files that could not be read, and why

    def json(self, name: str) -> Any:
        """The content of one JSON file of the stage, or None where it is absent or unreadable."""
        return read_json_or_none(self.folder / name, self.unreadable)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of one JSONL file; a last line that was cut off is left out."""
        return read_rows(self.folder / name, self.unreadable)


def read_json_or_none(path: Path, unreadable: list[str]) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        unreadable.append(f"{path.parent.name}/{path.name}: {error}")
        return None


def read_rows(path: Path, unreadable: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if number > MOST_ROWS:
                unreadable.append(f"{path.parent.name}/{path.name}: only the first {MOST_ROWS:,} rows were read")
                break
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                bad.append(number)
                continue
            if isinstance(row, dict):
                rows.append(row)
    if bad and not (len(bad) == 1 and bad[0] == number):  # a cut-off last line is what a kill leaves: no finding
        unreadable.append(f"{path.parent.name}/{path.name}: {len(bad)} rows are not JSON (first at row {bad[0]})")
    return rows


def read_recipe(run_folder: Path, unreadable: list[str]) -> dict[str, Any]:
    """`recipe.yaml` as resolved; {} where the run has none yet."""
    path = run_folder / "recipe.yaml"
    if not path.is_file():
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        recipe = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError) as error:
        unreadable.append(f"recipe.yaml: {error}")
        return {}
    return plain(recipe) if isinstance(recipe, Mapping) else {}


def plain(value: Any) -> Any:
    """Only dicts, lists, strings and numbers: what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def stages_of(run_folder: Path, recipe: Mapping[str, Any], state: Mapping[str, Any]) -> list[StageFiles]:
    """Every stage, in the order of the recipe; artifacts that no recipe names come after."""
    asked = stage_settings(recipe)
    names = list(asked)
    if run_folder.is_dir():
        names += sorted(
            folder.name
            for folder in run_folder.iterdir()
            if folder.name not in asked and not folder.name.startswith(".") and (folder / MARKER).is_file()
        )
    return [_stage(run_folder, name, asked.get(name), _state_of(state, name)) for name in names]


def stage_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by stage; a recipe may also be a single stage at the top level, named by its kind."""
    stages = recipe.get("stages")
    if isinstance(stages, Mapping):
        return dict(stages)
    if isinstance(recipe.get("stage"), str):
        own = {key: value for key, value in recipe.items() if key not in ("name", "description", "paths_from")}
        return {str(recipe["stage"]): own}
    return {}


def _state_of(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    of_stages = state.get("stages")
    found = of_stages.get(name) if isinstance(of_stages, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _stage(run_folder: Path, name: str, settings: Any, state: Mapping[str, Any]) -> StageFiles:
    unreadable: list[str] = []
    folder = run_folder / name
    artifact = read_json_or_none(folder / MARKER, unreadable)
    if artifact is None and (run_folder / WORK / name).is_dir():
        folder = run_folder / WORK / name
    settings = dict(settings) if isinstance(settings, Mapping) else {}
    if artifact is not None:
        settings = dict(artifact.get("settings") or settings)
    said = str(state.get("status", ""))
    if artifact is not None:
        status = "done"
    elif said in ("failed", "stopped", "running"):
        status = said
    else:
        status = "stopped" if folder.is_dir() else "waiting"
    kind = str((artifact or {}).get("kind") or settings.get("stage") or "?")
    return StageFiles(name, kind, folder, settings, artifact, status, unreadable)


def first_json(stages: Sequence[StageFiles], kind: str, name: str, most_characters: int = 0) -> Any:
    """The file `name` of the first stage of this kind that has it."""
    for stage in stages:
        path = stage.folder / name
        if stage.kind == kind and path.is_file() and not (most_characters and path.stat().st_size > most_characters):
            return stage.json(name)
    return None


def require_run(run_folder: Path) -> None:
    if not run_folder.is_dir():
        raise UserError(
            "there is no such run", where=str(run_folder), fix="`groundup runs` lists the runs of this folder"
        )
