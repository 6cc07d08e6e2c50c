"""A recipe as text for people: resolved with the origin of each value, one key explained, and its JSON schema."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema
from pydantic_core import PydanticUndefined

from groundup.recipe.errors import OTHER_SPELLINGS, help_of
from groundup.recipe.file import KeyPath, nearest
from groundup.recipe.kinds import KINDS, Kind
from groundup.recipe.loading import Recipe, Stage
from groundup.recipe.references import folder_of, settings_data

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
NOT_PLAIN = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "~"}

# ---------------------------------------------------------------- as resolved


def resolved_yaml(recipe: Recipe, folder: Path | None = None) -> str:
    """Every setting of every stage with its origin as a comment; the text is itself a recipe for the same run.

    `folder`: where the text is to lie. It then says where the recipe's relative paths start, as seen from there.
    """
    file = recipe.file
    lines = [f"# {recipe.name} as it runs: every setting, and where its value comes from"]
    for key, value in (("name", recipe.name), ("seed", recipe.seed), ("description", recipe.description)):
        if value != "":
            lines.append(f"{key}: {_flow(value)}  # {file.origin((key,))}")
    if folder is not None and (starts := _path_starts(recipe, folder)):
        lines.append(f"paths_from: {_flow(starts)}  # where relative paths start")
    for stage in recipe.stages.values():
        indent = ""
        if stage.place:
            if "stages:" not in lines:
                lines.append("stages:")
            lines.append(f"  {stage.name}:")
            indent = "    "
        data = settings_data(stage.settings)
        if not stage.place:
            data.pop("seed")  # the recipe's own seed stands above
        lines += _block(data, stage.place, indent, recipe)
    return "\n".join(lines) + "\n"


def _path_starts(recipe: Recipe, folder: Path) -> list[str]:
    """The folders from which the recipe's relative paths were found, as seen from `folder`."""
    values = [one.value for stage in recipe.stages.values() for one in stage.references if one.path is not None]
    relative = (value for value in values if not Path(value).expanduser().is_absolute())
    found = (folder_of(value, recipe.file.folders) for value in relative)
    here = folder.resolve()
    return list(dict.fromkeys(os.path.relpath(base.resolve(), here) for base in found if base is not None))


def _block(data: Mapping[str, Any], place: KeyPath, indent: str, recipe: Recipe) -> Iterator[str]:
    for key, value in data.items():
        at = (*place, key)
        name = _flow(str(key))
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _block(value, at, indent + "  ", recipe)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield f"{indent}{name}:"
            for index, item in enumerate(value):
                yield f"{indent}  - {_flow(item)}  # {recipe.file.origin((*at, index))}"
        else:
            yield f"{indent}{name}: {_flow(value)}  # {recipe.file.origin(at)}"


def _flow(value: Any) -> str:
    """A value on one line, readable as YAML 1.2."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(str(key))}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in NOT_PLAIN:
        return value
    return json.dumps(value, ensure_ascii=False)


def origins(recipe: Recipe) -> dict[str, str]:
    """`stages.base.max_steps` -> `default`, `recipe.yaml:7` or `command line`, for every setting of every stage."""
    return {
        f"stages.{stage.name}.{key}": recipe.file.origin((*stage.place, key))
        for stage in recipe.stages.values()
        for key in type(stage.settings).model_fields
    }


def settings_that_differ(stage: Stage) -> dict[str, Any]:
    """The settings that are not at their default."""
    return differing(stage.kind, settings_data(stage.settings))


def differing(kind: Kind, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the kind's defaults in settings as an artifact keeps them."""
    fields = kind.settings_class().model_fields
    return {
        key: value
        for key, value in settings.items()
        if key != "stage" and (key not in fields or value != _json_default(fields[key]))
    }


def _json_default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return default.model_dump(mode="json")
    return None if default is PydanticUndefined else default


# ---------------------------------------------------------------- explained


@dataclass(frozen=True)
class Explained:
    """One key of one kind of stage."""

    kind: str
    key: str  # dotted from the stage's top
    type: str
    default: str  # as YAML; '' where the key must be given
    help: str
    of_type: str = ""  # where a group comes in several types: the `type` that this key belongs to


def all_keys(kinds: Mapping[str, Kind] = KINDS) -> list[Explained]:
    return [row for name, kind in kinds.items() for row in _keys_of(name, kind.settings_class(), "", set())]


def _keys_of(kind: str, model: type[BaseModel], prefix: str, told: set[type]) -> Iterator[Explained]:
    told.add(model)
    of_type = _type_words(model.model_fields["type"].annotation) if "type" in model.model_fields else ""
    for name, field in model.model_fields.items():
        default = "" if field.is_required() else _flow(_plain_default(field))
        text = help_of(model, name)
        yield Explained(kind, prefix + name, _type_words(field.annotation), default, text, of_type)
        for inner, step in _nested(field.annotation, ""):
            if inner not in told:  # a group that two keys share is told with the first of them
                yield from _keys_of(kind, inner, f"{prefix}{name}{step}.", told)


def _plain_default(field: FieldInfo) -> Any:
    value = _json_default(field)
    return list(value) if isinstance(value, tuple | set | frozenset) else value


def _nested(annotation: Any, step: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Groups of settings inside a type, with how they are reached: `` directly, `[]` in lists, `.NAME` in mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, step
        return
    origin = get_origin(annotation)
    if origin in (list, tuple):
        step += "[]"
    elif origin is dict:
        step += ".NAME"
    for inner in get_args(annotation) if origin is not Literal else ():
        yield from _nested(inner, step)


TYPE_NAMES: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}


def _type_words(annotation: Any) -> str:
    """A type as a person would say it: `whole number or null`, `list of text`."""
    words = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "anything",
    }
    if annotation in words:
        return words[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(_flow(value) for value in inner)
    if origin in (list, tuple, set, frozenset):
        return f"list of {_type_words(inner[0])}" if inner else "list"
    if origin is dict:
        return f"mapping of {_type_words(inner[1])}" if inner else "mapping"
    if hasattr(annotation, "__metadata__"):
        return _type_words(inner[0])
    if inner:  # a union
        return " or ".join(dict.fromkeys(map(_type_words, inner)))
    return str(getattr(annotation, "__name__", annotation))


def explain(key: str, kinds: Mapping[str, Kind] = KINDS) -> tuple[list[Explained], str]:
    """The rows for `learning_rate`, `sft.learning_rate`, `sft` or `model.hidden_size`; where none, what was meant."""
    rows = all_keys(kinds)
    if key in kinds:
        return [row for row in rows if row.kind == key], ""
    found = [row for row in rows if key in (row.key, f"{row.kind}.{row.key}") or row.key.endswith(f".{key}")]
    if found:
        return found, ""
    kind, _, rest = key.partition(".")
    last = rest if kind in kinds and rest else key
    ours = OTHER_SPELLINGS.get(last.lower())
    known = {row.key for row in rows} | set(kinds)
    return [], ours if ours in known else nearest(last, known) or ""


def json_schema(kinds: Mapping[str, Kind] = KINDS) -> dict[str, Any]:
    """The JSON schema of a recipe, for editors, forms and other programs."""
    models = {name: kind.settings_class() for name, kind in kinds.items()}
    references, shared = models_json_schema([(model, "validation") for model in models.values()])
    stage = {
        "oneOf": [references[(model, "validation")] for model in models.values()],
        "discriminator": {
            "propertyName": "stage",
            "mapping": {name: references[(model, "validation")]["$ref"] for name, model in models.items()},
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "groundup recipe",
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Name of the run's folder. Without it, the file's name."},
            "seed": {"type": "integer", "minimum": 0, "default": 1337},
            "description": {"type": "string"},
            "paths_from": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Folders from which relative paths start, seen from beside the recipe; looked in first.",
            },
            "stages": {"type": "object", "additionalProperties": stage},
        },
        "required": ["stages"],
        "additionalProperties": False,
        **shared,
    }
