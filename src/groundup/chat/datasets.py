"""From a recipe's `datasets` to conversations, preferences or prompts: every row checked, every lost row counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic

from groundup.artifacts import StageContext
from groundup.chat.formats import (
    Conversation,
    Preference,
    Prompt,
    T,
    convert_rows,
    to_conversation,
    to_preference,
    to_prompt,
)
from groundup.chat.rows import BadRow, Row, read_rows
from groundup.chat.settings import Dataset
from groundup.errors import Problem, UserError
from groundup.packages import PackageUnreachableError, is_package, open_member, split_spec
from groundup.tasks import Task, make_tasks

PROBLEMS_SHOWN = 20
TASK_ROWS = 1000
DIALOGUE_PACKAGE = "chatterbot-corpus"


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """Rows of all datasets, and what did not become one."""

    rows: list[T] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # one per row: how often it is seen in an epoch
    used: dict[str, int] = field(default_factory=dict)  # source -> rows
    bad: dict[str, dict[str, int]] = field(default_factory=dict)  # source -> reason -> rows left out
    unreachable: dict[str, str] = field(default_factory=dict)  # source -> why it could not be had


def load_conversations(datasets: Sequence[Dataset], context: StageContext) -> Loaded[Conversation]:
    """Supervised rows of all datasets. UserError with up to twenty bad rows at once, or where nothing is left."""
    return _load(datasets, context, to_conversation)


def load_preferences(datasets: Sequence[Dataset], context: StageContext) -> Loaded[Preference]:
    """Pairs of all datasets; raises as `load_conversations`."""
    return _load(datasets, context, to_preference)


def load_prompts(datasets: Sequence[Dataset], context: StageContext) -> Loaded[Prompt]:
    """Prompts of all datasets; raises as `load_conversations`."""
    return _load(datasets, context, to_prompt)


def check_datasets(
    datasets: Sequence[Dataset], context: StageContext, convert: Callable[[Row, str, str], T]
) -> tuple[Loaded[T], list[Problem], list[str]]:
    """What `groundup check` can say before anything runs: the rows there are, problems, and datasets not made yet.

    A dataset that another stage of the recipe will make, or a package that is not downloaded, is not a problem.
    """
    loaded: Loaded[T] = Loaded()
    problems: list[Problem] = []
    pending: list[str] = []
    for dataset in datasets:
        folder = context.input_folder(dataset.path) if dataset.path and not is_package(dataset.path) else None
        if dataset.path in context.inputs and folder is not None and not folder.exists():
            pending.append(dataset.name)
            continue
        try:
            _extend(loaded, _load([dataset], context, convert, needs_rows=False))
        except UserError as error:
            problems += error.problems
    return loaded, problems, pending + list(loaded.unreachable)


# ---------------------------------------------------------------- one dataset after the other


def _load(
    datasets: Sequence[Dataset],
    context: StageContext,
    convert: Callable[[Row, str, str], T],
    *,
    needs_rows: bool = True,
) -> Loaded[T]:
    loaded: Loaded[T] = Loaded()
    problems: list[Problem] = []
    for dataset in datasets:
        try:
            part, part_problems = _load_one(dataset, context, convert)
        except PackageUnreachableError as error:
            loaded.unreachable[dataset.name] = error.reason
            context.console.warn(f"going on without {dataset.name}: {error.reason}")
        except UserError as error:
            problems += error.problems
        else:
            problems += part_problems
            _extend(loaded, part)
    if problems:
        raise UserError(problems)
    if needs_rows and not loaded.rows:
        why = "; ".join(f"{name}: {reason}" for name, reason in loaded.unreachable.items()) or "no datasets are named"
        raise UserError(f"there is not one row to train on ({why})", fix="add a dataset that can be read here")
    return loaded


def _load_one(
    dataset: Dataset, context: StageContext, convert: Callable[[Row, str, str], T]
) -> tuple[Loaded[T], list[Problem]]:
    rows, unreadable = _rows_of(dataset, context)
    good, malformed = convert_rows(rows, convert, format=dataset.type, columns=dataset.columns, source=dataset.name)
    bad = sorted([*unreadable, *malformed], key=_by_row)
    reasons = {dataset.name: dict(Counter(row.reason for row in bad))} if bad else {}
    part: Loaded[T] = Loaded(good, [dataset.weight] * len(good), {dataset.name: len(good)}, reasons)
    return part, _too_many_bad(dataset, bad, len(good))


def _extend(loaded: Loaded[T], part: Loaded[T]) -> None:
    loaded.rows.extend(part.rows)
    loaded.weights.extend(part.weights)
    for name, count in part.used.items():
        loaded.used[name] = loaded.used.get(name, 0) + count
    for name, reasons in part.bad.items():
        loaded.bad[name] = dict(Counter(loaded.bad.get(name, {})) + Counter(reasons))
    loaded.unreachable.update(part.unreachable)


def _too_many_bad(dataset: Dataset, bad: Sequence[BadRow], good: int) -> list[Problem]:
    """The problems to tell, where bad rows may not simply be left out."""
    if not bad or is_package(dataset.path or ""):  # nobody can mend a pinned package: counted and left out
        return []
    share = len(bad) / (len(bad) + good)
    if dataset.on_bad_row == "skip" and share <= dataset.max_bad_share and good:
        return []
    counts = ", ".join(f"{reason}: {n:,}" for reason, n in Counter(row.reason for row in bad).most_common())
    if dataset.on_bad_row == "skip":
        limit = f", more than max_bad_share {dataset.max_bad_share:.1%} allows" if good else ": none is left"
        fix = "mend the rows, or raise max_bad_share"
    else:
        limit, fix = "", "mend them, or leave them out and counted with `on_bad_row: skip`"
    total = f"{len(bad):,} of {len(bad) + good:,} rows cannot be used ({counts}){limit}"
    if len(bad) > PROBLEMS_SHOWN:
        total += f"; the first {PROBLEMS_SHOWN}"
    return [Problem(total, dataset.name, fix), *(row.problem for row in bad[:PROBLEMS_SHOWN])]


def _by_row(bad: BadRow) -> tuple[str, int]:
    """Unreadable and malformed rows together in the order in which a person meets them in the file."""
    file, _, number = bad.problem.where.rpartition(":")
    return (file, int(number)) if number.isdigit() else (bad.problem.where, 0)


def _rows_of(dataset: Dataset, context: StageContext) -> tuple[list[Row], list[BadRow]]:
    if dataset.tasks is not None:
        tasks = make_tasks(dataset.tasks, dataset.split, dataset.rows or TASK_ROWS, context.seed)
        return [_task_row(task, number) for number, task in enumerate(tasks, start=1)], []
    assert dataset.path is not None
    if is_package(dataset.path):
        rows, bad = _package_rows(dataset, context)
    else:
        rows, bad = read_rows(_file_of(dataset, context.input_folder(dataset.path)))
    return rows[: dataset.rows], bad


def _file_of(dataset: Dataset, path: Path) -> Path:
    """The split's file, where the path is a `pairs` stage's folder."""
    own = path / f"{dataset.split}.jsonl"
    return own if path.is_dir() and own.is_file() else path


def _task_row(task: Task, number: int) -> Row:
    values = {"prompt": task.prompt, "completion": task.answer, "task": task.task, "answer": task.answer}
    return Row(values, f"{task.task}:{number}")


# ---------------------------------------------------------------- chatterbot-corpus: real dialogues in a wheel


def _package_rows(dataset: Dataset, context: StageContext) -> tuple[list[Row], list[BadRow]]:
    assert dataset.path is not None
    package, pattern = split_spec(dataset.path)
    if package.name != DIALOGUE_PACKAGE:
        raise UserError(
            f"{package.name} holds {package.what}, not conversations",
            where=dataset.path,
            fix=f"use package:{DIALOGUE_PACKAGE}, or a file of your own",
        )
    spec = dataset.path if pattern != "*" else f"package:{package.name}/data/english/*.yml"
    dialogues = {Path(name).stem: content for name, content in open_member(spec, context.cache, context.console)}
    if unknown := [name for name in dataset.categories or () if name not in dialogues]:
        raise UserError(
            f"there is no category {', '.join(unknown)}",
            where=dataset.path,
            fix=f"there are: {', '.join(sorted(dialogues))}",
        )
    rows: list[Row] = []
    bad: list[BadRow] = []
    for category, content in dialogues.items():
        if dataset.categories is None or category in dataset.categories:
            found, unusable = dialogue_rows(content.decode(), f"{package.name}/{category}.yml", dataset.multi_turn)
            rows += found
            bad += unusable
    return rows, bad


@lru_cache(maxsize=64)  # check, training and its held-out rows read the same package; it is parsed once a process
def _parsed(text: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(text)


def dialogue_rows(text: str, name: str, multi_turn: bool) -> tuple[list[Row], list[BadRow]]:
    """One YAML file of `conversations` (lists of lines, the person first) as rows of messages.

    A last line of the person's that nobody answers is left out. `multi_turn` False: each line with its answer alone.
    """
    rows: list[Row] = []
    bad: list[BadRow] = []
    for number, lines in enumerate(_parsed(text)["conversations"], start=1):
        where = f"{name}:{number}"
        if not isinstance(lines, list) or len(lines) < 2 or not all(str(line).strip() for line in lines):
            bad.append(BadRow("not a dialogue", Problem("expected a list of at least two lines", where)))
            continue
        answered = [str(line).strip() for line in lines][: len(lines) // 2 * 2]
        exchanges = list(zip(answered[0::2], answered[1::2], strict=True))
        for part in [exchanges] if multi_turn else [[exchange] for exchange in exchanges]:
            messages = [
                {"role": role, "content": line}
                for exchange in part
                for role, line in zip(("user", "assistant"), exchange, strict=True)
            ]
            rows.append(Row({"messages": messages}, where))
    return rows, bad
