"""Where exam items come from: files of benchmarks, and the questions that groundup makes itself."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from groundup.console import Console
from groundup.corpus.settings import ExamFiles, ExamTasks
from groundup.corpus.sources.files import open_inputs
from groundup.errors import UserError
from groundup.packages import PackageUnreachableError


@dataclass(frozen=True)
class ExamItem:
    """One field of one row of an exam. The fields of a row follow each other and have the same `name`."""

    exam: str
    name: str
    text: str
    field: str = ""


def exam_items(
    exams: Iterable[ExamFiles | ExamTasks], seed: int, cache: Path, console: Console | None
) -> Iterator[ExamItem]:
    """The items of every exam. Raises what reading raises, PackageUnreachableError first of all."""
    for exam in exams:
        if isinstance(exam, ExamTasks):
            from groundup.tasks import make_tasks

            own = seed if exam.seed is None else exam.seed
            for place, task in enumerate(make_tasks(exam.tasks, exam.split, exam.rows, own)):
                yield ExamItem(f"tasks ({exam.split})", f"{task.task} #{place}", task.prompt)
        else:
            yield from _items_of_files(exam, cache, console)


def read_exams(
    exams: Iterable[ExamFiles | ExamTasks], seed: int, cache: Path, console: Console, records: list[dict[str, Any]]
) -> Iterator[ExamItem]:
    """The items of every exam, each exam noted in `records`. One whose package is out of reach is warned of and noted,
    so that nobody calls the corpus clean of it; what else is wrong with an exam is raised.
    """
    for exam in exams:
        name = exam.path if isinstance(exam, ExamFiles) else f"tasks ({exam.split}): {', '.join(exam.tasks)}"
        record: dict[str, Any] = {"name": name, "status": "used", "reason": "", "items": 0}
        records.append(record)
        try:
            for item in exam_items([exam], seed, cache, console):
                record["items"] += 1
                yield item
        except PackageUnreachableError as error:
            console.warn(f"the corpus is not decontaminated against {name}: {error.reason}")
            record |= {"status": "unreachable", "reason": error.reason}


def _items_of_files(exam: ExamFiles, cache: Path, console: Console | None) -> Iterator[ExamItem]:
    name = (
        exam.path.removeprefix("package:").split("/")[0]
        if exam.path.startswith("package:")
        else PurePath(exam.path).name
    )
    found = 0
    for file in open_inputs(exam.path, cache, console):
        suffixes = [suffix for suffix in PurePath(file.name).suffixes if suffix not in (".gz", ".bz2")]
        suffix = suffixes[-1].lower() if suffixes else ""
        if suffix not in (".jsonl", ".json", ".csv", ".txt"):
            continue  # the code and metadata of an exam's package
        for row, (label, fields) in enumerate(_rows(file.read_text(), suffix, file.name), 1):
            for field, value in fields.items():
                is_list = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
                text = "\n".join(value) if is_list else value  # choices
                if isinstance(text, str) and (field in exam.fields or not exam.fields):
                    found += 1
                    yield ExamItem(name, label or f"{PurePath(file.name).name}:{row}", text, field)
    if not found:
        fix = "exams are read from .jsonl, .json, .csv and .txt" + (
            f"; look at `fields: {exam.fields}`" if exam.fields else ""
        )
        raise UserError("no exam items were found here", where=exam.path, fix=fix)


def _rows(text: str, suffix: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if suffix == ".txt":
        for paragraph in re.split(r"\n\s*\n", text):
            yield "", {"text": paragraph}
    elif suffix == ".csv":
        for columns in csv.reader(io.StringIO(text)):
            yield "", {str(place): column for place, column in enumerate(columns)}
    else:
        try:
            rows = (
                json.loads(text)
                if suffix == ".json"
                else [json.loads(line) for line in text.split("\n") if line.strip()]
            )
        except ValueError as error:
            raise UserError(f"not valid {suffix[1:].upper()}: {error}", where=name) from error
        for row in rows if isinstance(rows, list) else [rows]:
            if isinstance(row, dict):
                yield str(row.get("task_id") or row.get("id") or ""), row
            elif isinstance(row, str):
                yield "", {"text": row}
