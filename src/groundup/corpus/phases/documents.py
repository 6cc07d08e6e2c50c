"""Phases A and C: what is done to one shard of documents alone. Each function is a task: (task, folder) -> stats.

read     pieces of a source -> raw shards of bounded size, with HTML and wikitext as they came
(extract.py: raw shard -> text, its language, and everything that the rules will look at)
filter   text shard         -> the documents that pass the thresholds; the others as drops
keys     filtered shard     -> keys of texts, addresses and paragraphs, shingles and band keys for near-duplicates
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from groundup.artifacts import write_json
from groundup.corpus.dedup.exact import paragraph_keys, text_key, url_key
from groundup.corpus.dedup.exact_groups import write_document_keys, write_paragraph_keys
from groundup.corpus.dedup.near import Bands
from groundup.corpus.dedup.near_groups import NearFiles, write_near_keys
from groundup.corpus.document import Document, Drop, drop
from groundup.corpus.guard import Technical, watched
from groundup.corpus.quality.rules import checks
from groundup.corpus.report.funnel import new_source_funnel, source_funnel_to_json
from groundup.corpus.report.stats import Check, SourceStats
from groundup.corpus.settings import QualityRules
from groundup.corpus.shards import (
    DROPPED,
    RAW,
    ShardWriter,
    document_of,
    document_row,
    drop_row,
    read_rows,
    text_sizes,
)
from groundup.corpus.source_settings import Source
from groundup.corpus.sources import Piece, read_piece
from groundup.corpus.sources.parts import CUT
from groundup.corpus.tasks import Task

KILLED = "it killed the process that looked at it"


def numbered_rows(task: Task, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, content) of the shard's documents; of a trial only those it is about."""
    first, last = task.only or (0, None)
    rows = islice(enumerate(read_rows(path)), first, last)
    return watched(rows, may_kill=bool(task.hints.get("may_kill")))


# ---------------------------------------------------------------- A: read


@cache
def source_of(settings: str) -> Source:
    return TypeAdapter(Source).validate_json(settings)  # type: ignore[no-any-return]


def read(task: Task, out: Path) -> dict[str, Any]:
    """Pieces of a source, one after the other, to raw-00000.parquet and on, each with `shard_bytes` of text at most."""
    source = source_of(json.dumps(task.options["source"]))
    first, last = task.only or (0, len(task.options["pieces"]))
    funnel, notes, technical = new_source_funnel(), Counter[str](), Technical()
    shards: list[dict[str, Any]] = []
    with ShardWriter(out / "drops.parquet", DROPPED) as drops, _RawShards(out, task.options["shard_bytes"]) as raw:

        def take(one: Document | Drop) -> None:
            if isinstance(one, Drop):
                funnel["read"].drop(one.reason, one.bytes)
                drops.write(drop_row(one))
            else:
                funnel["read"].keep(one.bytes)
                raw.write(one)

        for number in range(first, last):
            name, identity, size = task.options["pieces"][number]
            where, cache_folder = task.hints["where"][number]
            if number in task.without:
                technical.add(KILLED, where or name)
                take(Drop(name, "read", KILLED, where or name, size))
                continue
            for one in read_piece(source, Piece(name, identity, size, where, cache_folder), notes):
                take(one)
        shards = raw.shards
    if cut := notes.get(CUT):
        funnel["read"].notes[CUT] = cut
    into = funnel["read"].into
    return {
        "documents": into.documents,
        "bytes_in": task.bytes,
        "bytes_out": funnel["read"].out.bytes,
        "funnel": source_funnel_to_json(funnel),
        "notes": dict(sorted(notes.items())),
        "technical": technical.lost,
        "shards": shards,
    }


class _RawShards:
    """Documents to files that are full at `shard_bytes`. A document that is larger has a file to itself."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.shards: list[dict[str, Any]] = []
        self._writer: ShardWriter | None = None

    def __enter__(self) -> _RawShards:
        return self

    def write(self, document: Document) -> None:
        size = document.bytes
        if self._writer is None or self.shards[-1]["bytes"] + size > self.shard_bytes:
            self._close()
            name = f"raw-{len(self.shards):05d}.parquet"
            self.shards.append({"file": name, "documents": 0, "bytes": 0})
            self._writer = ShardWriter(self.folder / name, RAW).__enter__()
        self.shards[-1]["documents"] += 1
        self.shards[-1]["bytes"] += size
        self._writer.write(document_row(document))

    def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.__exit__(None, None, None)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._close()
        elif self._writer is not None:
            self._writer.__exit__(kind, error, trace)


# ---------------------------------------------------------------- C: filter


def filter(task: Task, out: Path) -> dict[str, Any]:
    """The thresholds: kept.parquet, drops.parquet, and observed.json (stats.SourceStats)."""
    options = task.options
    rules = QualityRules.model_validate(options["quality"]) if options["quality"] else None
    funnel, stats, technical = new_source_funnel(), SourceStats(), Technical()
    with ShardWriter(out / "drops.parquet", DROPPED) as drops, ShardWriter(out / "kept.parquet", RAW) as kept:
        for number, row, scores in _with_scores(task):
            document, score = document_of(row), float(row["language_score"])
            found = json.loads(row["signals"]) | scores
            signals = {name: math.nan if value is None else value for name, value in found.items()}
            dropped, note = _language_drop(document, options)
            if number in task.without:
                technical.add(KILLED, document.url or document.id)
                dropped, note = drop(document, "language", KILLED, document.url or document.id), ""
            if note:
                funnel["language"].notes[note] = funnel["language"].notes.get(note, 0) + 1
            if dropped is None:
                asked = questions(document, score, signals, rules, options)
                stats.judge(document.id, document.text, document.bytes, asked)
                dropped = _first_failed(document, asked)
            for step in ("language", "quality", "toxicity"):
                if dropped is not None and dropped.step == step:
                    break
                funnel[step].keep(document.bytes)
            if dropped is None or dropped.step == "toxicity":
                for note in _measured_only(scores, options):
                    funnel["toxicity"].notes[note] = funnel["toxicity"].notes.get(note, 0) + 1
            if dropped is not None:
                funnel[dropped.step].drop(dropped.reason, dropped.bytes)
                drops.write(drop_row(dropped))
            else:
                kept.write(document_row(document))
            stats.observe(
                "passed" if dropped is None else "dropped",
                document.bytes,
                language=document.language,
                license=document.license,
                url=document.url,
                signals={**signals, "language_score": score} if document.media != "code" and score else signals,
            )
    write_json(out / "observed.json", stats.as_json(), indent=None)
    passed = funnel["toxicity"].out
    return {
        "documents": funnel["language"].into.documents,
        "kept": passed.documents,
        "bytes_in": funnel["language"].into.bytes,
        "bytes_out": passed.bytes,
        "funnel": source_funnel_to_json(funnel),
        "technical": technical.lost,
    }


def _with_scores(task: Task) -> Iterator[tuple[int, dict[str, Any], dict[str, float | None]]]:
    """Each document's number and row with what the models said of it, where there are models."""
    text, *scores = task.paths()
    found = read_rows(scores[0]) if scores else repeat({})
    first = task.only[0] if task.only else 0
    for (number, row), own in zip(numbered_rows(task, text), islice(found, first, None), strict=False):
        yield number, row, own


def _measured_only(scores: Mapping[str, float | None], options: Mapping[str, Any]) -> list[str]:
    """Categories of toxicity that drop nothing, as no score reaches the precision, or as the recipe says so."""
    judged = {f"toxicity_{name}" for name in (*options["toxicity"], "word_list")}
    names = [name for name, value in scores.items() if name.startswith("toxicity_") and value is not None]
    return [f"{name.removeprefix('toxicity_')}: measured, without a threshold" for name in names if name not in judged]


def _language_drop(document: Document, options: Mapping[str, Any]) -> tuple[Drop | None, str]:
    """(the drop of a document in another language, or None; a note to count, or "")."""
    languages = options["languages"]
    if document.media == "code" or not languages:
        return None, ""
    if not document.language:
        return None, "too short to tell the language: kept"
    if document.language not in languages:
        return drop(document, "language", f"language: {document.language}"), ""
    return None, ""


def questions(
    document: Document,
    score: float,
    signals: Mapping[str, float],
    rules: QualityRules | None,
    options: Mapping[str, Any],
) -> list[Check]:
    """Every question that a threshold asks of a document; the first that fails is the reason that counts."""
    asked: list[Check] = []
    if document.media != "code" and document.language and options["languages"]:
        reason, least = f"language: unsure ({document.language})", options["min_language_score"]
        asked.append(Check(reason, "language_score", score, least, True, "language"))
    if rules is not None:
        asked += checks(signals, document.media, document.language, rules)
    for category, threshold in options["toxicity"].items():
        if not math.isnan(value := signals.get(f"toxicity_{category}", math.nan)):
            asked.append(Check(f"toxic: {category}", f"toxicity_{category}", value, threshold, False, "toxicity"))
    return asked


def _first_failed(document: Document, asked: Sequence[Check]) -> Drop | None:
    failed = next((check for check in asked if check.fails), None)
    if failed is None:
        return None
    return drop(document, failed.step, failed.rule, value=failed.value, threshold=failed.threshold)


# ---------------------------------------------------------------- C: keys


def _address_key(row: Mapping[str, Any]) -> int | None:
    """A document's address as a key; of the parts of one long document, with the part's number."""
    key, about = url_key(row["url"]), row["metadata"] or ""
    number = json.loads(about).get("part") if key is not None and '"part"' in about else None
    return (key + number) % 2**128 if key is not None and isinstance(number, int) else key


def keys(task: Task, out: Path) -> dict[str, Any]:
    """What the documents of a shard are compared by: no text goes on from here, only hashes."""
    options, path = task.options, task.paths()[0]

    def texts(columns: tuple[str, ...] = ("text", "media")) -> Iterator[dict[str, Any]]:
        return read_rows(path, columns)

    if options["exact"]:
        write_document_keys(
            (text_key(row["text"], is_code=row["media"] == "code") for row in texts()), out / "exact.npy"
        )
    if options["urls"] != "none":
        # an address that the parts of a book share makes them no duplicates of each other
        is_own = options["urls"] == "of documents"
        addresses = (_address_key(row) if is_own else None for row in texts(("url", "metadata")))
        write_document_keys(addresses, out / "urls.npy")
    if options["paragraphs"]:
        write_paragraph_keys(
            (() if row["media"] == "code" else paragraph_keys(row["text"]) for row in texts()), out / "paragraphs.npy"
        )
    if options["bands"]:
        write_near_keys((row["text"] for row in texts(("text",))), NearFiles(out, "near"), Bands(*options["bands"]))
    sizes = text_sizes(path)
    write_json(out / "sizes.json", sizes, indent=None)
    written = sum(one.stat().st_size for one in out.iterdir())
    return {"documents": len(sizes), "bytes_in": sum(sizes), "bytes_out": written}
