"""Exam items must not stand in the corpus: documents that share a run of words with one are found and named.

GPT-3's rule (Brown et al. 2020, appendix C): 13 words in a row. Items with fewer words count when they occur whole;
items of fewer than eight words are compared with their punctuation, so that "What is 12 + 34?" is itself and not any
"what is 12 34". Runs that are mostly numbers ("1 2 3 4 5 ...") say nothing and are not looked for.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.console import Console
from groundup.corpus.document import words_of
from groundup.corpus.ngrams import Hashes, hash_words, ngram_hashes
from groundup.corpus.settings import ExamFiles, ExamTasks
from groundup.corpus.sources.files import open_inputs
from groundup.errors import UserError
from groundup.packages import PackageUnreachableError

WHOLE_ITEM_WORDS = 8  # fewer: compared symbol by symbol
MIN_SYMBOLS = 5  # fewer: says nothing ("True or false?")
MIN_DIFFERENT_WORDS = 3  # of a run, numbers apart
_SIEVE_BITS = 20
_SYMBOL = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class ExamItem:
    exam: str
    name: str
    text: str


@dataclass(frozen=True)
class _Table:
    """Runs of `n` tokens, by hash. `sieve` answers "surely not here" for most of them with one look-up."""

    n: int
    items: dict[int, ExamItem]
    sieve: NDArray[np.bool_]

    @staticmethod
    def of(n: int, items: dict[int, ExamItem]) -> _Table:
        sieve = np.zeros(1 << _SIEVE_BITS, bool)
        sieve[np.fromiter(items, np.uint64, len(items)) >> np.uint64(64 - _SIEVE_BITS)] = True
        return _Table(n, items, sieve)

    def first_hit(self, hashes: Hashes) -> tuple[int, ExamItem] | None:
        keys = ngram_hashes(hashes, self.n)
        for place in np.flatnonzero(self.sieve[keys >> np.uint64(64 - _SIEVE_BITS)]):
            if (item := self.items.get(int(keys[place]))) is not None:
                return int(place), item
        return None


class ExamIndex:
    """All items' runs of words. `skipped` items are too short to say anything."""

    def __init__(self, items: Iterable[ExamItem], ngram: int = 13) -> None:
        words: dict[int, dict[int, ExamItem]] = {}
        symbols: dict[int, dict[int, ExamItem]] = {}
        self.items = self.skipped = 0
        for item in items:
            tokens = words_of(item.text)
            table, n = words, min(ngram, len(tokens))
            if len(tokens) < WHOLE_ITEM_WORDS:
                tokens = _symbols_of(item.text)
                table, n = symbols, len(tokens)
            if n < MIN_SYMBOLS:
                self.skipped += 1
                continue
            self.items += 1
            for start, key in enumerate(ngram_hashes(hash_words(tokens), n)):
                if table is symbols or _says_something(tokens[start : start + n]):
                    table.setdefault(n, {}).setdefault(int(key), item)
        self._words = [_Table.of(n, items) for n, items in sorted(words.items())]
        self._symbols = [_Table.of(n, items) for n, items in sorted(symbols.items())]

    def hit(self, text: str) -> tuple[ExamItem, str] | None:
        """The first item that this text shares a run with, and the run; None for a clean text."""
        for tables, split in ((self._words, words_of), (self._symbols, _symbols_of)):
            if tables:
                tokens = split(text)
                hashes = hash_words(tokens)
                for table in tables:
                    if found := table.first_hit(hashes):
                        place, item = found
                        return item, " ".join(tokens[place : place + table.n])
        return None


def _says_something(tokens: list[str]) -> bool:
    return len({token for token in tokens if not token.isdigit()}) >= MIN_DIFFERENT_WORDS


def _symbols_of(text: str) -> list[str]:
    return _SYMBOL.findall(text.lower())


# ---------------------------------------------------------------- where exam items come from


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
            for field, text in fields.items():
                if isinstance(text, str) and (field in exam.fields or not exam.fields):
                    found += 1
                    yield ExamItem(name, label or f"{PurePath(file.name).name}:{row}", text)
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
