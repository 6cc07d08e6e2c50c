"""Reading a recipe file: YAML 1.2 with the place of every key and value, and `key=value` from the command line.

YAML 1.2 means that `1e-4` is a number and `no` is a text. Values are plain dicts, lists and scalars; where each came
from is kept beside them, so that every later complaint can name `file:line:col`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from groundup.errors import Problem, UserError

KeyPath = tuple[str | int, ...]
COMMAND_LINE = "command line"


@dataclass
class RecipeFile:
    """A recipe as written: its data, and the place (`line`, `column`, from 1) of every key and every value."""

    path: Path
    data: dict[str, Any]
    keys: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    values: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    overrides: dict[KeyPath, str] = field(default_factory=dict)  # place in the data -> `key=value` as typed
    problems: list[Problem] = field(default_factory=list)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where relative paths may start, in this order: `paths_from`, here, beside the recipe."""
        given = self.data.get("paths_from")
        named = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
        return (*(_from_here(self.path.parent / one) for one in named), Path(), self.path.parent)

    def where(self, path: KeyPath, *, of_key: bool = False) -> str:
        """`file:line:col` of a value (or of its key), or of the nearest thing around it that has a place."""
        for length in range(len(path), -1, -1):
            part = path[:length]
            if part in self.overrides:
                return f"{COMMAND_LINE}: {self.overrides[part]}"
            places = self.keys if of_key and part in self.keys else self.values
            if part in places:
                line, column = places[part]
                return f"{self.path}:{line}:{column}"
            of_key = True  # something is missing inside a part: point at the part's key, not into its value
        return str(self.path)

    def origin(self, path: KeyPath) -> str:
        """Where a value comes from: `default`, `recipe.yaml:7` or `command line`."""
        for length in range(len(path), 0, -1):
            part = path[:length]
            if part in self.overrides:
                return COMMAND_LINE
            if part in self.values:
                is_whole = length == len(path) or not isinstance(value_at(self.data, part), dict | list)
                line = self.keys.get(part, self.values[part])[0]
                return f"{self.path.name}:{line}" if is_whole else "default"
        return "default"


def _from_here(folder: Path) -> Path:
    """The same folder as a person here would write it: relative below the current one, else absolute."""
    real, here = folder.resolve(), Path.cwd()
    return real.relative_to(here) if real.is_relative_to(here) else real


def value_at(data: Any, path: Iterable[str | int]) -> Any:
    for part in path:
        data = data[part]
    return data


# ---------------------------------------------------------------- reading


def read_recipe_file(path: Path) -> RecipeFile:
    """Parse a file. Broken YAML raises `UserError` with the line and a caret; doubled keys are noted as problems."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"not a text file in UTF-8 (byte {error.start})", where=str(path), fix="save it as UTF-8"
        ) from error
    root = _compose(text, str(path))
    file = RecipeFile(path, {})
    if root is None:
        raise UserError(
            "the file is empty", where=str(path), fix="`groundup init` writes a commented recipe to start from"
        )
    if not isinstance(root, MappingNode):
        raise UserError(
            "a recipe is made of `key: value` lines",
            where=_place(path, root),
            fix="`groundup init` writes a commented recipe to start from",
        )
    file.data = _build(root, (), file)
    return file


def _compose(text: str, name: str) -> Node | None:
    yaml = YAML(typ="safe", pure=True)
    try:
        return yaml.compose(text)  # type: ignore[no-any-return]
    except MarkedYAMLError as error:
        raise UserError([_syntax_problem(error, text, name)]) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"a character that YAML does not allow (U+{ord(text[error.position]):04X})",
            where=f"{name}:{line}",
            fix="delete it, or write it inside double quotes as an escape",
        ) from error


def _build(node: Node, path: KeyPath, file: RecipeFile) -> Any:
    """Plain data of a node; notes the place of everything on the way."""
    file.values.setdefault(path, _line_and_column(node))
    if not isinstance(node, ScalarNode) and node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        file.problems.append(_tag_problem(node, file))
    if isinstance(node, MappingNode):
        return _build_mapping(node, path, file)
    if isinstance(node, SequenceNode):
        return [_build(item, (*path, index), file) for index, item in enumerate(node.value)]
    return _scalar(node, file)


def _build_mapping(node: MappingNode, path: KeyPath, file: RecipeFile) -> dict[str, Any]:
    result: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`: keys written here win over merged ones
            for source in value_node.value if isinstance(value_node, SequenceNode) else [value_node]:
                if isinstance(source, MappingNode):
                    merged = {**_build_mapping(source, path, file), **merged}
            continue
        if not isinstance(key_node, ScalarNode):
            file.problems.append(Problem("a key must be a word", _place(file.path, key_node)))
            continue
        key = str(key_node.value)
        place = (*path, key)
        if key in result:
            first = file.keys[place][0]
            file.problems.append(
                Problem(
                    f"'{key}' is given twice, first in line {first}", _place(file.path, key_node), "keep one of the two"
                )
            )
            continue
        file.keys[place] = _line_and_column(key_node)
        file.values.pop(place, None)
        result[key] = _build(value_node, place, file)
    return {**merged, **result}


def _scalar(node: Node, file: RecipeFile) -> Any:
    tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
    if tag in ("str", "timestamp"):  # a date stays a text: no setting is a date, and names may look like one
        return str(node.value)
    if tag not in ("int", "float", "bool", "null"):
        file.problems.append(_tag_problem(node, file))
        return str(node.value)
    return YAML(typ="safe", pure=True).constructor.construct_object(node)


def _tag_problem(node: Node, file: RecipeFile) -> Problem:
    tag = str(node.tag)
    shown = f"!!{tag.removeprefix('tag:yaml.org,2002:')}" if tag.startswith("tag:") else tag
    return Problem(f"the YAML tag {shown} is not allowed here", _place(file.path, node), "write a plain value")


def _line_and_column(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _place(path: Path, node: Node) -> str:
    line, column = _line_and_column(node)
    return f"{path}:{line}:{column}"


# ---------------------------------------------------------------- broken YAML

# what the parser says -> what it means, and what usually helps
PLAIN_WORDS = (
    (
        "mapping values are not allowed",
        "a ':' where none can stand",
        "put the text in quotes, or check the indentation",
    ),
    ("'\\t' that cannot start", "a tab at the start of a line", "indent with spaces; YAML forbids tabs"),
    ("found unexpected end of stream", "a quoted text that never ends", "add the closing quote"),
    ("expected ',' or ']'", "a list that was opened with '[' is not closed", "add ']' or a missing ','"),
    ("expected ',' or '}'", "a mapping that was opened with '{' is not closed", "add '}' or a missing ','"),
    ("could not find expected ':'", "a key without ':'", "write `key: value`, with a blank after the colon"),
    ("expected <block end>", "the indentation does not fit the lines above", "align keys of one block in one column"),
    ("expected the node content", "a value is missing", "write the value, or close what was opened"),
    ("expected alphabetic or numeric", "a '*' or '&' that names nothing", "put the text in quotes"),
    ("found undefined alias", "a '*name' that no '&name' defines", "put the text in quotes if no alias is meant"),
    ("that cannot start any token", "a character that cannot start a value", "put the text in quotes"),
    ("but found another document", "a second document ('---') in one file", "keep one recipe a file"),
)
STARTS_AT_CONTEXT = ("found unexpected end of stream", "expected ',' or ']'", "expected ',' or '}'")


def _syntax_problem(error: MarkedYAMLError, text: str, name: str) -> Problem:
    said = error.problem or str(error)
    mark = error.problem_mark
    what, fix = said, ""
    for pattern, meaning, advice in PLAIN_WORDS:
        if pattern in said:
            what, fix = meaning, advice
            if pattern in STARTS_AT_CONTEXT and error.context_mark is not None:
                mark = error.context_mark
            break
    if mark is None:
        return Problem(f"broken YAML: {what}", name, fix)
    lines = text.splitlines()
    line = min(mark.line, max(len(lines) - 1, 0))
    shown = lines[line].replace("\t", " ") if lines else ""
    column = mark.column if line == mark.line else len(shown)
    number = str(line + 1)
    snippet = f"    {number} | {shown}\n    {' ' * len(number)} | {' ' * column}^"
    return Problem(f"broken YAML: {what}\n{snippet}", f"{name}:{number}:{column + 1}", fix)


# ---------------------------------------------------------------- key=value


def apply_overrides(file: RecipeFile, overrides: Sequence[str]) -> None:
    """Write `stages.base.max_steps=50`, `base.max_steps=50` or (single stage) `max_steps=50` into the data.

    Values are YAML: `1e-4` is a number, `[a, b]` a list, `null` nothing. Whether the key exists is for the validation
    to say; here only places that cannot be reached at all are problems.
    """
    stages = file.data.get("stages")
    for text in overrides:
        key, _, raw = text.partition("=")
        where = f"{COMMAND_LINE}: {text}"
        parts: list[str] = key.strip().removeprefix("--").split(".")
        if "" in parts:
            file.problems.append(Problem("not a setting", where, "write `STAGE.KEY=VALUE`, for example `base.seed=7`"))
            continue
        if isinstance(stages, dict) and parts[0] not in ("stages", "name", "seed", "description", "paths_from"):
            if parts[0] not in stages:
                file.problems.append(_no_such_stage(parts, stages, where))
                continue
            parts = ["stages", *parts]
        scratch = RecipeFile(Path(where), {})
        try:
            node = _compose(raw, where)
        except UserError as error:
            file.problems += [Problem(problem.what, where, problem.fix) for problem in error.problems]
            continue
        value = None if node is None else _build(node, (), scratch)
        file.problems += [Problem(problem.what, where, problem.fix) for problem in scratch.problems]
        _set(file, parts, value, text, where)


def _set(file: RecipeFile, parts: list[str], value: Any, text: str, where: str) -> None:
    at: Any = file.data
    place: list[str | int] = []
    for part in parts[:-1]:
        step = _step(at, part)
        if isinstance(at, dict) and at.get(part) is None:
            at[part] = {}
        if step is None or not isinstance(at[step], dict | list):
            inside = ".".join(map(str, place)) or "the recipe"
            file.problems.append(Problem(f"nothing can be set inside '{part}' of {inside}", where))
            return
        place.append(step)
        at = at[step]
    last = _step(at, parts[-1])
    if last is None:
        file.problems.append(Problem(f"the list has no item '{parts[-1]}': it has 0 to {len(at) - 1}", where))
        return
    at[last] = value
    whole = (*place, last)
    for known in [known for known in file.values if known[: len(whole)] == whole]:
        del file.values[known]
    file.overrides[whole] = text


def _step(at: Any, part: str) -> str | int | None:
    if isinstance(at, list):
        return int(part) if part.isdigit() and int(part) < len(at) else None
    return part


def _no_such_stage(parts: list[str], stages: dict[str, Any], where: str) -> Problem:
    if len(parts) == 1:
        having = [name for name, stage in stages.items() if isinstance(stage, dict) and parts[0] in stage]
        example = f"{having[0] if having else next(iter(stages), 'STAGE')}.{parts[0]}"
        return Problem(f"'{parts[0]}' does not say which stage is meant", where, f"write `{example}=...`")
    return Problem(f"there is no stage '{parts[0]}'{did_you_mean(parts[0], stages)}", where, one_of("stages", stages))


# ---------------------------------------------------------------- words


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`. Did you mean 'x'?`, or nothing where no known word is near."""
    near = nearest(word, known)
    return f". Did you mean '{near}'?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def any_of(words: Iterable[str]) -> str:
    """`a, b or c`."""
    different = list(dict.fromkeys(words))
    return ", ".join(different[:-1]) + " or " + different[-1] if len(different) > 1 else different[0]


def one_of(what: str, known: Iterable[str], at_most: int = 14) -> str:
    """`the stages are: a, b, c`."""
    names = list(known)
    more = f", and {len(names) - at_most} more" if len(names) > at_most else ""
    return f"the {what} are: {', '.join(names[:at_most])}{more}"
