"""Phases E and G: shards without their duplicates, exam items and personal data; the output. Between them: select.py.

finish   filtered shard, verdicts -> clean shard, and a light table: id, bytes, cluster of near-duplicates, language
write    clean shards, selection  -> documents, held-out documents and drops as they lie in the artifact
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from groundup.artifacts import write_json
from groundup.corpus.dedup.exact import cut_paragraphs
from groundup.corpus.dedup.keytable import map_array
from groundup.corpus.dedup.substring import cut_words
from groundup.corpus.document import Document, Drop, drop
from groundup.corpus.exams.index import ExamIndex, ExamItem, add_hits
from groundup.corpus.guard import Technical
from groundup.corpus.phases.documents import KILLED, numbered_rows
from groundup.corpus.phases.personal import Scrubber, scrubber_of
from groundup.corpus.phases.select import BEYOND, LIGHT, TRAINING
from groundup.corpus.pii.audit import write_audit
from groundup.corpus.report.funnel import new_source_funnel, source_funnel_to_json
from groundup.corpus.report.stats import SourceStats
from groundup.corpus.shards import (
    DOCUMENTS,
    DROPPED,
    GROUP_BYTES,
    RAW,
    ShardWriter,
    document_of,
    document_row,
    drop_row,
    read_rows,
)
from groundup.corpus.tasks import Task

BEYOND_LIMIT = "beyond max_bytes"
LEAST_GROUP_BYTES = 500_000  # a row group of a part among many

_STEPS = {
    "exact": "exact duplicates",
    "url": "exact duplicates",
    "near": "near duplicates",
    "semantic": "near duplicates",
}
_WHAT = {
    "exact": "same text",
    "url": "same address",
    "near": "nearly the same text",
    "semantic": "much the same words",
}


# ---------------------------------------------------------------- E: finish


def finish(task: Task, out: Path) -> dict[str, Any]:
    """One filtered shard through everything that looks at other documents, or changes the text for good."""
    kept, verdicts_file, *others = task.paths()
    verdicts: dict[int, list[dict[str, Any]]] = {}
    for row in read_rows(verdicts_file):
        verdicts.setdefault(row["row"], []).append(row)
    index = next((_exam_index(path) for path in others if path.name == "index.npz"), None)
    scrubber = scrubber_of(task.options["pii"], others)
    found: dict[str, Any] = {}  # exam -> item -> where it was found
    funnel, stats, technical = new_source_funnel(), SourceStats(), Technical()
    result: Document | Drop
    trail: Trail
    before = after = 0
    with (
        ShardWriter(out / "clean.parquet", RAW) as clean,
        ShardWriter(out / "light.parquet", LIGHT) as light,
        ShardWriter(out / "drops.parquet", DROPPED) as drops,
    ):
        for number, row in numbered_rows(task, kept):
            document = document_of(row)
            before += document.bytes
            about = verdicts.get(number, [])
            if number in task.without:
                technical.add(KILLED, document.url or document.id)
                result, trail = drop(document, "exact duplicates", KILLED, document.url or document.id), []
            else:
                result, trail = _finish_one(document, about, index, scrubber, task, stats, found)
            for step, into, left in trail:
                funnel[step].keep(into, left)
            if isinstance(result, Drop):
                funnel[result.step].drop(result.reason, result.bytes)
                drops.write(drop_row(result))
                continue
            after += result.bytes
            clean.write(document_row(result))
            cluster = next((one["other"] for one in about if one["what"] == "cluster"), result.id)
            light.write({"id": result.id, "bytes": result.bytes, "cluster": cluster, "language": result.language})
    for name, (number, _) in stats.counters.get("personal data", {}).items():
        funnel["personal data"].notes[f"<{name}>"] = number
    if cut := stats.counters.get("duplicate paragraphs", {}).get("cut"):
        funnel["exact duplicates"].notes["paragraphs cut"] = cut[0]
    if cut := stats.counters.get("duplicate spans", {}).get("cut"):
        funnel["near duplicates"].notes["spans cut"] = cut[0]
    write_json(out / "observed.json", stats.as_json(), indent=None)
    write_json(out / "hits.json", found, indent=None)
    if task.options["pii"]["audit_share"]:
        write_audit(out / "audit.jsonl", scrubber.audit)
    return {
        "documents": funnel["exact duplicates"].into.documents,
        "bytes_in": before,
        "bytes_out": after,
        "clean": funnel["personal data"].out.documents,
        "technical": technical.lost,
        "funnel": source_funnel_to_json(funnel),
    }


Trail = list[tuple[str, int, int]]  # (step that it passed, bytes before, bytes after)


def _finish_one(
    document: Document,
    about: list[dict[str, Any]],
    index: ExamIndex | None,
    scrubber: Scrubber,
    task: Task,
    stats: SourceStats,
    found: dict[str, Any],
) -> tuple[Document | Drop, Trail]:
    trail: Trail = []
    repeats = {one["what"]: one for one in about if one["what"] in _STEPS}
    cuts = {n for one in about if one["what"] == "cut" for n in range(int(one["number"]), int(one["end"]))}
    spans = [(int(one["number"]), int(one["end"])) for one in about if one["what"] == "span"]
    for step in ("exact duplicates", "near duplicates"):
        whole = document
        for what in ("exact", "url", "near", "semantic"):
            if what in repeats and _STEPS[what] == step:
                return _repeat(document, what, repeats[what], task), trail
        if step == "exact duplicates" and cuts:
            document = replace(document, text=cut_paragraphs(document.text, cuts))
            if not document.text.strip():
                return drop(whole, step, "every paragraph was seen before"), trail
            stats.add("duplicate paragraphs", "cut", len(cuts), whole.bytes - document.bytes)
        if step == "near duplicates" and spans:
            document = replace(document, text=cut_words(document.text, spans))
            if not document.text.strip():
                return drop(whole, step, "every span of it was seen before"), trail
            stats.add("duplicate spans", "cut", len(spans), whole.bytes - document.bytes)
        trail.append((step, whole.bytes, document.bytes))
    if index is not None and (hits := index.hits(document.text)):
        add_hits(found, hits, document.id)
        worst = hits[0]
        stats.add("exams", worst.exam, 1, document.bytes)
        return drop(document, "decontaminate", worst.reason, worst.excerpt, value=worst.score), trail
    trail.append(("decontaminate", document.bytes, document.bytes))
    before = document.bytes
    document = scrubber.scrub(document, stats)
    trail.append(("personal data", before, document.bytes))
    return document, trail


def _repeat(document: Document, what: str, one: Mapping[str, Any], task: Task) -> Drop:
    where = "earlier" if one["other_source"] == task.options["source"] else f"in source {one['other_source']}"
    excerpt = f"[{one['other']}] {document.text}"
    if what not in ("near", "semantic"):
        return drop(document, _STEPS[what], f"{_WHAT[what]} {where}", excerpt)
    threshold = task.options[f"{what}_threshold"]
    return drop(document, _STEPS[what], f"{_WHAT[what]} {where}", excerpt, value=one["similarity"], threshold=threshold)


def index_exams(task: Task, out: Path) -> dict[str, Any]:
    """The items that the build has written down as one index, for all workers to load."""
    options = task.options
    with open(task.paths()[0], encoding="utf-8") as file:
        items = (ExamItem(**json.loads(line)) for line in file)
        index = ExamIndex(items, options["ngram"], options["coverage"], options["rephrased"])
    index.save(out / "index.npz")
    return {"items": index.items, "skipped": index.skipped}


@lru_cache(maxsize=1)
def _exam_index(path: Path) -> ExamIndex:
    return ExamIndex.load(path)


# ---------------------------------------------------------------- G: write


def write(task: Task, out: Path) -> dict[str, Any]:
    """documents.parquet, held_out.parquet and dropped.parquet of some shards of one source, in their order. Of a routed
    source documents and held-out ones go to `documents.en.parquet` and so on, one of each for every part that there is.
    """
    options, paths = task.options, task.paths()
    # first the drops, then the shards, then their selections, then what part their documents stand in
    shards, routes = options["shards"], options["parts"]
    ends = len(paths) - shards * np.array([3, 2, 1, 0] if routes else [2, 1, 0, 0])
    drops, cleans, selections, parts = (paths[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True))
    source, funnel, stats = options["source"], new_source_funnel(), SourceStats()
    licenses: Counter[str] = Counter()
    with (
        _Parts(out, [f".{name}" for name in routes] or [""]) as files,
        ShardWriter(out / "dropped.parquet", DROPPED) as dropped,
    ):
        if not routes:
            files.open(0)  # a file of no documents says that there are none
        for path in drops:
            for row in read_rows(path):
                dropped.write(row)
        for document, flag, part in _flagged(cleans, selections, parts):
            if flag == BEYOND:
                gone = drop(document, "limit", BEYOND_LIMIT)
                funnel["limit"].drop(BEYOND_LIMIT, gone.bytes)
                dropped.write(drop_row(gone))
                continue
            funnel["limit"].keep(document.bytes)
            place = "documents" if flag == TRAINING else "held_out"
            files.write(part, place, {**document_row(document), "source": source}, document.bytes)
            licenses[document.license] += 1
            if flag == TRAINING:
                stats.observe(
                    "written",
                    document.bytes,
                    language=document.language,
                    license=document.license,
                    url=document.url,
                )
    write_json(out / "observed.json", stats.as_json(), indent=None)
    return {
        "documents": funnel["limit"].into.documents,
        "bytes_in": funnel["limit"].into.bytes,
        "bytes_out": funnel["limit"].out.bytes,
        "sizes": {routes[number] if routes else source: sizes for number, sizes in sorted(files.sizes.items())},
        "licenses": dict(sorted(licenses.items())),
        "funnel": source_funnel_to_json(funnel),
    }


class _Parts:
    """Documents and held-out ones of each part in files of their own, made when the first document of it comes."""

    def __init__(self, folder: Path, suffixes: Sequence[str]) -> None:
        self.folder, self.suffixes = folder, suffixes
        self.sizes: dict[int, dict[str, list[int]]] = {}  # part -> documents and bytes, for training and held out
        self._writers: dict[tuple[int, str], ShardWriter] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Parts:
        return self

    def open(self, part: int) -> None:
        self.sizes[part] = {"documents": [0, 0], "held_out": [0, 0]}
        group_bytes = max(GROUP_BYTES // len(self.suffixes), LEAST_GROUP_BYTES)  # all parts are open at once
        for place in self.sizes[part]:
            path = self.folder / f"{place}{self.suffixes[part]}.parquet"
            self._writers[part, place] = self._stack.enter_context(ShardWriter(path, DOCUMENTS, group_bytes))

    def write(self, part: int, place: str, row: Mapping[str, Any], size: int) -> None:
        if part not in self.sizes:
            self.open(part)
        self._writers[part, place].write(row)
        counted = self.sizes[part][place]
        counted[0] += 1
        counted[1] += size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _flagged(cleans: list[Path], selections: list[Path], parts: list[Path]) -> Iterator[tuple[Document, int, int]]:
    for place, (path, selection) in enumerate(zip(cleans, selections, strict=True)):
        own = map_array(parts[place]) if parts else repeat(0)
        for row, flag, part in zip(read_rows(path), map_array(selection), own, strict=not isinstance(own, repeat)):
            yield document_of(row), int(flag), int(part)
