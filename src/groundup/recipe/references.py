"""Which settings of a stage name something that it reads (a stage, a file, a folder), and settings as plain data."""

from __future__ import annotations

import glob
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel

from groundup.errors import Problem, UserError
from groundup.recipe.file import (
    KeyPath,
    RecipeFile,
    any_of,
    did_you_mean,
    nearest,
    one_of,
    read_recipe_file,
    value_at,
)
from groundup.recipe.settings import MayChange, Presentation, Reads

S = TypeVar("S", bound=BaseModel)

LEFT_TO_THE_STAGE = re.compile(r"package:|[A-Za-z][A-Za-z0-9+.-]*://")  # packages, and addresses of any kind


@dataclass(frozen=True)
class Reference:
    """A setting that names what a stage reads: another stage (`stage`), or something on this machine (`path`)."""

    key: str  # `base_model`, `models.0`
    value: str
    stage: str | None = None
    path: Path | None = None


def references(
    name: str,
    marked: Iterable[tuple[KeyPath, str, Reads]],
    place: KeyPath,
    file: RecipeFile,
    kind_of_stage: Mapping[str, str],
) -> Iterator[Reference]:
    """What the stage `name` reads. What is not there, or of the wrong kind, becomes a problem of the file.

    `marked` is what `marked_values` finds in the settings, or `marked_in_data` where they are not valid.
    """
    for key_path, value, reads in marked:
        key = ".".join(map(str, key_path))
        where = file.where((*place, *key_path))
        right = [other for other, kind in kind_of_stage.items() if kind in reads.kinds and other != name]
        if reads.kinds and value in kind_of_stage:
            if kind_of_stage[value] not in reads.kinds or value == name:
                what = "itself" if value == name else f"'{value}', a {kind_of_stage[value]} stage"
                needed = any_of(reads.kinds)
                fix = one_of(f"{needed} stages", right) if right else f"this recipe has no {needed} stage: add one"
                file.problems.append(
                    Problem(f"{key}: stage '{name}' cannot read {what}; it reads {needed}", where, fix)
                )
            yield Reference(key, value, stage=value)
        elif LEFT_TO_THE_STAGE.match(value):
            yield Reference(key, value)
        else:
            path = local_path(value, *file.folders)
            if path is None:
                file.problems.append(_not_found(key, value, where, reads, right, kind_of_stage))
            yield Reference(key, value, path=path)


def local_path(value: str, *folders: Path) -> Path | None:
    """The file or folder that a value stands for, as seen from the first of `folders` that has it. None: from none."""
    base = folder_of(value, folders)
    return None if base is None else base / os.path.expanduser(value)  # noqa: PTH111 - stays relative, as written


def folder_of(value: str, folders: Iterable[Path]) -> Path | None:
    """The first of `folders` from which a value names a file, a folder or a glob that finds something."""
    for base in folders:
        path = base / os.path.expanduser(value)  # noqa: PTH111
        if path.exists() or any(glob.iglob(str(path), recursive=True)):  # noqa: PTH207 - pathlib has no absolute globs
            return base
    return None


def _not_found(
    key: str, value: str, where: str, reads: Reads, right: Sequence[str], kind_of_stage: Mapping[str, str]
) -> Problem:
    if reads.kinds and "/" not in value:
        here = [one.name for one in Path().iterdir() if not one.name.startswith(".")]
        hint = did_you_mean(value, [*kind_of_stage, *here])
        fix = one_of(f"{any_of(reads.kinds)} stages", right) if right else "name a stage, or a path that exists"
        return Problem(f"{key}: there is no stage and no file '{value}'{hint}", where, fix)
    return Problem(f"{key}: no such file or folder: {value}", where, _paths_near(Path(value).expanduser()))


def _paths_near(path: Path) -> str:
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))
    missing = path.relative_to(folder).parts[0] if folder != path else path.name
    if near := nearest(missing, names):
        return f"did you mean {folder / near}?"
    return (
        f"{folder}/ has: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else f"{folder}/ is empty"
    )


def marked_values(settings: BaseModel) -> Iterator[tuple[KeyPath, str, Reads]]:
    """Every text in the settings whose type is marked with `Reads`, however deep, with its place."""
    for name, info in type(settings).model_fields.items():
        annotation = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        for path, value, reads in _marked(annotation, getattr(settings, name)):
            yield (name, *path), value, reads


def with_found_paths(settings: S, found: Mapping[str, Path]) -> S:
    """The settings with each path as it was found: a recipe's paths may start beside the recipe (see `local_path`)."""
    data = settings.model_dump()
    is_other = False
    for keys, value, _ in marked_values(settings):
        if value in found and str(found[value]) != value:
            *outer, last = keys
            value_at(data, tuple(outer))[last] = str(found[value])
            is_other = True
    return type(settings).model_validate(data) if is_other else settings


def with_paths_of_run(settings: S, recipe: Path) -> S:
    """The settings of a finished stage, each path found from where the run's `recipe.yaml` says that paths start.

    So a run's inputs are found from any folder. What is not there any more stays as written; so does everything where
    the run's recipe is not to be had.
    """
    try:
        folders = read_recipe_file(recipe).folders
    except (OSError, UserError):
        return settings
    values = {value for _, value, _ in marked_values(settings) if not LEFT_TO_THE_STAGE.match(value)}
    found = {value: path for value in values if (path := local_path(value, *folders)) is not None}
    return with_found_paths(settings, found)


def marked_in_data(model: type[BaseModel], data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, Reads]]:
    """As `marked_values`, from settings as written that are not valid: what can be understood of them."""
    for name, info in model.model_fields.items():
        if name in data:
            annotation = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
            for path, value, reads in _marked_in_data(annotation, data[name]):
                yield (name, *path), value, reads


def _marked_in_data(annotation: Any, value: Any) -> Iterator[tuple[KeyPath, str, Reads]]:
    if isinstance(value, dict) and (models := _models_in(annotation)):
        yield from marked_in_data(max(models, key=lambda model: _likeness(model, value)), value)
    elif isinstance(value, str):
        if (reads := _reads_of(annotation)) is not None:
            yield (), value, reads
    elif isinstance(value, list | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        inner = _inner_annotation(annotation, dict if isinstance(value, dict) else (list, tuple, Sequence))
        for key, item in items:
            for path, text, reads in _marked_in_data(inner, item):
                yield (key, *path), text, reads


def _likeness(model: type[BaseModel], data: Mapping[str, Any]) -> tuple[int, int]:
    """How well a mapping fits a variant: by its tag (`type: warc`) first, then by the keys they share."""
    fields = model.model_fields
    tags = [name for name in data if name in fields and data[name] in get_args(fields[name].annotation)]
    return len(tags), len(set(fields) & set(data))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) is Annotated:
        return _models_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for one in get_args(annotation) for model in _models_in(one)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _marked(annotation: Any, value: Any) -> Iterator[tuple[KeyPath, str, Reads]]:
    if isinstance(value, BaseModel):
        yield from marked_values(value)
    elif isinstance(value, str):
        if (reads := _reads_of(annotation)) is not None:
            yield (), value, reads
    elif isinstance(value, list | tuple | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        inner = _inner_annotation(annotation, dict if isinstance(value, dict) else (list, tuple, Sequence))
        for key, item in items:
            for path, text, reads in _marked(inner, item):
                yield (key, *path), text, reads


def _reads_of(annotation: Any) -> Reads | None:
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return next((mark for mark in marks if isinstance(mark, Reads)), None) or _reads_of(inner)
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for one in get_args(annotation) if (found := _reads_of(one)) is not None), None)
    return None


def _inner_annotation(annotation: Any, containers: Any) -> Any:
    """The item type of the list (or the value type of the mapping) inside an annotation, unions included."""
    if get_origin(annotation) is Annotated:
        return _inner_annotation(get_args(annotation)[0], containers)
    if get_origin(annotation) in (Union, types.UnionType):
        found = (_inner_annotation(one, containers) for one in get_args(annotation))
        return next((one for one in found if one is not None), None)
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, containers):
        arguments = [one for one in get_args(annotation) if one is not Ellipsis]
        return arguments[-1] if arguments else None
    return None


# ---------------------------------------------------------------- settings as data


def settings_data(
    settings: BaseModel, *, with_presentation: bool = True, with_changeable: bool = True
) -> dict[str, Any]:
    """Plain JSON data of all settings, defaults included; without presentation it is what fingerprints are made of.

    Without what `MayChange`, it is what decides whether unfinished work goes on.
    """
    data: dict[str, Any] = settings.model_dump(mode="json")
    unwanted = (*(() if with_presentation else (Presentation,)), *(() if with_changeable else (MayChange,)))
    if unwanted:
        _drop_marked(settings, data, unwanted)
    return data


def _drop_marked(value: Any, data: Any, marks: tuple[type, ...]) -> None:
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            if any(isinstance(mark, marks) or mark in marks for mark in info.metadata):
                data.pop(name, None)
            elif name in data:
                _drop_marked(getattr(value, name), data[name], marks)
    elif isinstance(value, dict):
        for key, item in value.items():
            _drop_marked(item, data.get(str(key)), marks)
    elif isinstance(value, list | tuple) and isinstance(data, list):
        for item, inner in zip(value, data, strict=True):
            _drop_marked(item, inner, marks)
