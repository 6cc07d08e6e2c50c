"""Exam items must not stand in the corpus: documents that hold one, word for word or told again, are found and named.

Word for word: runs of `ngram` words that a document shares with an item. GPT-3's rule (Brown et al. 2020, appendix C)
is one run of 13; Tulu 3's (Lambert et al. 2024) runs of 8 that cover half of the item; Llama 2's (Touvron et al. 2023)
runs of 10 that cover 80 %. Items with fewer words count when they occur whole; items of fewer than eight words are
compared with their punctuation, so that "What is 12 + 34?" is itself and not any "what is 12 34". Runs that are mostly
numbers say nothing and are not looked for. Told again: corpus/exams/rephrased.py.

An index is built once and is all arrays: `save` writes one file, `load` reads it in every worker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from groundup.artifacts import write_atomic
from groundup.corpus.document import words_of
from groundup.corpus.exams.items import ExamItem as ExamItem
from groundup.corpus.exams.items import exam_items as exam_items
from groundup.corpus.exams.items import read_exams as read_exams
from groundup.corpus.exams.ngrams import Hashes, growing_ngram_hashes, hash_words, ngram_hashes
from groundup.corpus.exams.rephrased import MIN_ITEM_WORDS, RephraseIndex, content_words
from groundup.errors import UserError

WHOLE_ITEM_WORDS = 8  # fewer: compared symbol by symbol
MIN_SYMBOLS = 5  # fewer: says nothing ("True or false?")
MIN_DIFFERENT_WORDS = 3  # of a run, numbers apart
REPHRASED = 0.8  # how likely it must be that a stretch tells an item again
FORMAT = 1
_SIEVE_BITS = 20
_SYMBOL = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Hit:
    """An exam item in a text. `score` is the share of the item's words in shared runs, or the rephrasing model's
    probability; `words` what was found: the run, or the words that both hold."""

    exam: str
    item: str
    rule: str  # "words in a row" or "told again"
    score: float
    words: str

    @property
    def reason(self) -> str:
        """Why a document is dropped, for the funnel."""
        how = "holds" if self.rule == "words in a row" else "tells again"
        return f"{how} an item of the exam {self.exam}"

    @property
    def excerpt(self) -> str:
        return f"[{self.item}] ... {self.words} ..."


@dataclass(frozen=True)
class _Table:
    """Runs of `n` tokens of all items, sorted by hash. `sieve` answers "surely not here" for most with one look-up."""

    n: int
    is_words: bool  # else symbols
    keys: NDArray[np.uint64]
    items: NDArray[np.int32]
    places: NDArray[np.int32]  # of the run in its item
    sieve: NDArray[np.bool_]

    @staticmethod
    def of(n: int, is_words: bool, keys: Any, items: Any, places: Any) -> _Table:
        keys = np.asarray(keys, np.uint64)
        order = np.argsort(keys, kind="stable")
        return _Table.sorted(
            n, is_words, keys[order], np.asarray(items, np.int32)[order], np.asarray(places, np.int32)[order]
        )

    @staticmethod
    def sorted(n: int, is_words: bool, keys: Any, items: Any, places: Any) -> _Table:
        sieve = np.zeros(1 << _SIEVE_BITS, bool)
        sieve[keys >> np.uint64(64 - _SIEVE_BITS)] = True
        return _Table(n, is_words, keys, items, places, sieve)

    def found(self, runs: Hashes) -> list[tuple[int, int, int]]:
        """(place in the text, item, place in the item) of every run of its length that the text shares."""
        likely = np.flatnonzero(self.sieve[runs >> np.uint64(64 - _SIEVE_BITS)])
        if not len(likely):
            return []
        first = np.searchsorted(self.keys, runs[likely], "left")
        last = np.searchsorted(self.keys, runs[likely], "right")
        return [
            (int(place), int(self.items[entry]), int(self.places[entry]))
            for place, begin, end in zip(likely, first, last, strict=True)
            for entry in range(begin, end)
        ]


class ExamIndex:
    """All items' runs of words, and their content. `skipped` items are too short to say anything.

    `ngram`: words in a row. `coverage`: the share of an item's words that such runs must cover, 0 for one run.
    `rephrased`: how likely a retelling must be (0 to 1), None to look for none.
    """

    def __init__(
        self, items: Iterable[ExamItem], ngram: int = 13, coverage: float = 0.0, rephrased: float | None = REPHRASED
    ) -> None:
        self.ngram, self.coverage, self.rephrased = ngram, coverage, rephrased
        self.items = self.skipped = 0
        self.names: list[tuple[str, str]] = []  # exam and name, by item number
        self.lengths: list[int] = []  # in words or symbols
        entries: dict[tuple[bool, int], tuple[list[int], list[int], list[int]]] = {}
        kept = list(items)
        rows = list(_rows_of(kept))
        for row in rows:
            words = {number: words_of(kept[number].text) for number in row}
            question = _question_of(row, words)
            for number in row:
                tokens, is_words, n = words[number], True, min(ngram, len(words[number]))
                self.names.append((kept[number].exam, kept[number].name))
                if len(tokens) < WHOLE_ITEM_WORDS:
                    tokens, is_words = _symbols_of(kept[number].text), False
                    n = len(tokens)
                self.lengths.append(len(tokens))
                is_empty = n < MIN_SYMBOLS or all(not token.isalpha() for token in tokens)
                if is_empty or (number != question and len(words[number]) < ngram):
                    self.skipped += 1
                    continue
                self.items += 1
                keys, owners, places = entries.setdefault((is_words, n), ([], [], []))
                for start, key in enumerate(ngram_hashes(hash_words(tokens), n)):
                    if not is_words or _says_something(tokens[start : start + n]):
                        keys.append(int(key))
                        owners.append(number)
                        places.append(start)
        self._tables = [_Table.of(n, is_words, *columns) for (is_words, n), columns in sorted(entries.items())]
        self._retold = _rephrase_index(kept, rows) if rephrased is not None else None

    # ------------------------------------------------------------ looking

    def hit(self, text: str) -> Hit | None:
        """What says most clearly that the text holds an item; None for a clean text."""
        return next(iter(self.hits(text)), None)

    def hits(self, text: str) -> list[Hit]:
        """Every item that the text holds, one hit each: word for word first, then retold, the clearest first."""
        exact = self._exact_hits(text)
        seen = {(hit.exam, hit.item) for hit in exact}
        return exact + [hit for hit in self._retold_hits(text) if (hit.exam, hit.item) not in seen]

    def _exact_hits(self, text: str) -> list[Hit]:
        covered: dict[int, set[int]] = {}
        runs: dict[int, str] = {}
        for is_words in (True, False):
            tables = [table for table in self._tables if table.is_words == is_words]
            if not tables:
                continue
            tokens = words_of(text) if is_words else _symbols_of(text)
            growing = growing_ngram_hashes(hash_words(tokens), [table.n for table in tables])
            for table, (_, keys) in zip(tables, growing, strict=True):
                for place, item, start in table.found(keys):
                    covered.setdefault(item, set()).update(range(start, start + table.n))
                    runs.setdefault(item, " ".join(tokens[place : place + table.n]))
        hits: dict[tuple[str, str], Hit] = {}
        for item, places in covered.items():
            exam, name = self.names[item]
            share = len(places) / self.lengths[item]
            if share >= self.coverage and ((exam, name) not in hits or share > hits[exam, name].score):
                hits[exam, name] = Hit(exam, name, "words in a row", round(share, 4), runs[item])
        return sorted(hits.values(), key=lambda hit: (-hit.score, hit.exam, hit.item))

    def _retold_hits(self, text: str) -> list[Hit]:
        if self._retold is None or self.rephrased is None:
            return []
        hits: dict[tuple[str, str], Hit] = {}
        for match in self._retold.match(text, self.rephrased):
            exam, name = self.names[match.item]
            words = ", ".join(match.shared[:20])
            hits.setdefault((exam, name), Hit(exam, name, "told again", round(match.probability, 4), words))
        return list(hits.values())

    # ------------------------------------------------------------ one file for all workers

    def save(self, path: Path) -> None:
        """One `.npz` without pickles, written atomically."""
        import io

        retold = {f"retold_{name}": value for name, value in self._retold.arrays.items()} if self._retold else {}
        record = {
            "format": FORMAT, "ngram": self.ngram, "coverage": self.coverage, "rephrased": self.rephrased,
            "items": self.items, "skipped": self.skipped, "names": self.names, "lengths": self.lengths,
            "tables": [[table.n, table.is_words] for table in self._tables],
        }  # fmt: skip
        arrays: dict[str, Any] = dict(retold)
        for number, table in enumerate(self._tables):
            arrays |= {f"{number}_keys": table.keys, f"{number}_items": table.items, f"{number}_places": table.places}
        arrays["record"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
        file = io.BytesIO()
        np.savez(file, **arrays)
        write_atomic(path, file.getvalue())

    @classmethod
    def load(cls, path: Path) -> ExamIndex:
        """UserError where the file is damaged or of another version."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            record = json.loads(arrays.pop("record").tobytes())
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise UserError(f"not an index of exams: {error}", where=str(path), fix="build the corpus again") from error
        if record["format"] != FORMAT:
            raise UserError("this index of exams has another format", where=str(path), fix="build the corpus again")
        index = cls((), record["ngram"], record["coverage"], record["rephrased"])
        index.items, index.skipped, index.lengths = record["items"], record["skipped"], record["lengths"]
        index.names = [(exam, name) for exam, name in record["names"]]
        index._tables = [
            _Table.sorted(n, is_words, *(arrays[f"{number}_{part}"] for part in ("keys", "items", "places")))
            for number, (n, is_words) in enumerate(record["tables"])
        ]
        retold = {name.removeprefix("retold_"): value for name, value in arrays.items() if name.startswith("retold_")}
        index._retold = RephraseIndex(retold) if retold else None
        return index


def _question_of(row: list[int], words: Mapping[int, list[str]]) -> int:
    """The field of a row that counts even when it is short: the first of eight words or more, else the longest. Other
    short fields are answers and choices ("1, 2, 3"), which stand everywhere."""
    return next(
        (number for number in row if len(words[number]) >= WHOLE_ITEM_WORDS), max(row, key=lambda n: len(words[n]))
    )


def _rephrase_index(items: list[ExamItem], rows: list[list[int]]) -> RephraseIndex:
    """What a retelling keeps: of each row its question with the short fields (answer, choices), and other long fields.

    Written solutions stand for themselves: a text may repeat the question and not the way to its answer.
    """
    exams = {name: number for number, name in enumerate(dict.fromkeys(item.exam for item in items))}
    texts, exam_of, row_of, numbers = [], [], [], []
    for row, fields in enumerate(rows):
        long = [number for number in fields if len(set(content_words(items[number].text))) >= MIN_ITEM_WORDS]
        short = [items[number].text for number in fields if number not in long]
        for place, number in enumerate(long):
            texts.append("\n".join([items[number].text, *(short if place == 0 else [])]))
            exam_of.append(exams[items[number].exam])
            row_of.append(row)
            numbers.append(number)
    index = RephraseIndex.of(texts, exam_of, row_of)
    index.renumber(np.array(numbers, np.int64))
    return index


def _rows_of(items: list[ExamItem]) -> Iterator[list[int]]:
    """Numbers of the items that are fields of one row: neighbours of the same name, each field once."""
    row: list[int] = []
    for number, item in enumerate(items):
        first = items[row[0]] if row else item
        if row and ((item.exam, item.name) != (first.exam, first.name) or item.field in {items[i].field for i in row}):
            yield row
            row = []
        row.append(number)
    if row:
        yield row


def _says_something(tokens: list[str]) -> bool:
    return len({token for token in tokens if not token.isdigit()}) >= MIN_DIFFERENT_WORDS


def _symbols_of(text: str) -> list[str]:
    return _SYMBOL.findall(text.lower())


# ---------------------------------------------------------------- the list for the report

MAX_EXAMPLES = 5  # documents named of each item


def add_hits(found: dict[str, Any], hits: Iterable[Hit], document_id: str) -> None:
    """Count hits in `found`: exam -> item -> {documents, rules, best, words, examples}. JSON-able."""
    for hit in hits:
        row = found.setdefault(hit.exam, {}).setdefault(
            hit.item, {"documents": 0, "rules": {}, "best": 0.0, "words": "", "examples": []}
        )
        row["documents"] += 1
        row["rules"][hit.rule] = row["rules"].get(hit.rule, 0) + 1
        if hit.score > row["best"]:
            row |= {"best": hit.score, "words": hit.words[:300]}
        row["examples"] = sorted([*row["examples"], document_id])[:MAX_EXAMPLES]


def merge_hits(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The list of two shards together; the order of merging does not matter."""
    merged: dict[str, Any] = json.loads(json.dumps(one))
    for exam, items in other.items():
        for name, row in items.items():
            mine = merged.setdefault(exam, {}).setdefault(
                name, {"documents": 0, "rules": {}, "best": 0.0, "words": "", "examples": []}
            )
            mine["documents"] += row["documents"]
            for rule, count in row["rules"].items():
                mine["rules"][rule] = mine["rules"].get(rule, 0) + count
            if (row["best"], row["words"]) > (mine["best"], mine["words"]):
                mine |= {"best": row["best"], "words": row["words"]}
            mine["examples"] = sorted([*mine["examples"], *row["examples"]])[:MAX_EXAMPLES]
    return {exam: dict(sorted(items.items())) for exam, items in sorted(merged.items())}
