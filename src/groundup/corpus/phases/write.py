"""Phases E to G: shards without their duplicates, exam items and personal data; what is taken of them; the output.

finish   filtered shard, verdicts -> clean shard, and a light table: id, bytes, cluster of near-duplicates
select   all light tables         -> for each document: training, held out, or beyond the source's `max_bytes`
write    clean shards, selection  -> documents, held-out documents and drops as they lie in the artifact
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groundup.artifacts import write_json
from groundup.corpus.dedup.exact import cut_paragraphs
from groundup.corpus.dedup.keytable import map_array, write_array
from groundup.corpus.dedup.substring import cut_words
from groundup.corpus.document import Document, Drop, drop
from groundup.corpus.exams.index import ExamIndex, ExamItem, add_hits
from groundup.corpus.guard import Technical
from groundup.corpus.phases.documents import KILLED, numbered_rows
from groundup.corpus.pii import scrub
from groundup.corpus.report.funnel import new_source_funnel, source_funnel_to_json
from groundup.corpus.report.stats import SourceStats
from groundup.corpus.settings import HeldOut
from groundup.corpus.shards import (
    DOCUMENTS,
    DROPPED,
    RAW,
    ShardWriter,
    document_of,
    document_row,
    drop_row,
    read_rows,
)
from groundup.corpus.tasks import Task

# Numbers in code are seldom anybody's telephone: what has an anchor or a check digit is looked for, the rest is not.
PII_IN_CODE = frozenset(("email", "ip", "iban", "card", "secret"))
LIGHT = pa.schema([("id", pa.string()), ("bytes", pa.int64()), ("cluster", pa.string())])
TRAINING, HELD_OUT, BEYOND = 0, 1, 2  # of the selection
BEYOND_LIMIT = "beyond max_bytes"

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
    kept, verdicts_file, *indexes = task.paths()
    verdicts: dict[int, list[dict[str, Any]]] = {}
    for row in read_rows(verdicts_file):
        verdicts.setdefault(row["row"], []).append(row)
    index = _exam_index(indexes[0]) if indexes else None
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
                result, trail = _finish_one(document, about, index, task, stats, found)
            for step, into, left in trail:
                funnel[step].keep(into, left)
            if isinstance(result, Drop):
                funnel[result.step].drop(result.reason, result.bytes)
                drops.write(drop_row(result))
                continue
            after += result.bytes
            clean.write(document_row(result))
            cluster = next((one["other"] for one in about if one["what"] == "cluster"), result.id)
            light.write({"id": result.id, "bytes": result.bytes, "cluster": cluster})
    for name, (number, _) in stats.counters.get("personal data", {}).items():
        funnel["personal data"].notes[f"<{name}>"] = number
    if cut := stats.counters.get("duplicate paragraphs", {}).get("cut"):
        funnel["exact duplicates"].notes["paragraphs cut"] = cut[0]
    if cut := stats.counters.get("duplicate spans", {}).get("cut"):
        funnel["near duplicates"].notes["spans cut"] = cut[0]
    write_json(out / "observed.json", stats.as_json())
    write_json(out / "hits.json", found)
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
    types = [one for one in task.options["pii"] if document.media != "code" or one in PII_IN_CODE]
    text, placeholders = scrub(document.text, types)
    before = document.bytes
    if placeholders:
        document = replace(document, text=text)
        for name, number in placeholders.items():
            stats.add("personal data", name, number)
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


# ---------------------------------------------------------------- F: select


def select(task: Task, out: Path) -> dict[str, Any]:
    """flags-00000.npy and on, one per clean shard: TRAINING, HELD_OUT or BEYOND for each of its documents.

    Which documents are taken depends on hashes of their ids and clusters, never on their order. In memory are 25 bytes
    for each document of the corpus: two hashes, a size and a flag.
    """
    wanted = HeldOut.model_validate(task.options["held_out"]) if task.options["held_out"] else None
    tables = [_light_table(path) for path in task.paths()]
    flags = [np.full(len(table), TRAINING, np.uint8) for table in tables]
    by_source: dict[str, list[int]] = {}
    for place, source in enumerate(task.options["sources"]):
        by_source.setdefault(source, []).append(place)
    chosen = [np.empty(0, np.uint64)]
    for source, places in by_source.items():
        table = np.concatenate([tables[place] for place in places])
        is_taken = _within(table, task.options["max_bytes"].get(source))
        ends = np.cumsum([len(tables[place]) for place in places])
        for place, own in zip(places, np.split(is_taken, ends[:-1]), strict=True):
            flags[place][~own] = BEYOND
        if wanted is not None:
            chosen.append(_held_out(table[is_taken], wanted))
    held_out = np.unique(np.concatenate(chosen))  # a cluster that reaches into another source is held out there as well
    for place, (table, own) in enumerate(zip(tables, flags, strict=True)):
        own[(own == TRAINING) & np.isin(table["cluster"], held_out)] = HELD_OUT
        write_array(out / f"flags-{place:05d}.npy", own)
    return {"documents": sum(map(len, tables))}


_LIGHT = np.dtype([("id", "<u8"), ("bytes", "<i8"), ("cluster", "<u8")])


def _light_table(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """Ids and clusters as the first 64 bits of their sha256, by which documents are ordered."""
    rows = [
        (_hash(row["id"]), row["bytes"], _hash(f"held out\0{row['cluster']}"))
        for row in read_rows(path, ("id", "bytes", "cluster"))
    ]
    return np.array(rows, _LIGHT)


def _hash(text: str) -> int:
    return int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _within(table: np.ndarray[Any, np.dtype[Any]], max_bytes: int | None) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each document is taken: by the hash of its id, while they fit."""
    taken = np.ones(len(table), bool)
    if max_bytes is not None:
        order = np.argsort(table["id"], kind="stable")
        taken[order] = _fitting(table["bytes"][order], max_bytes)
    return taken


def _fitting(sizes: np.ndarray[Any, np.dtype[np.int64]], budget: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Of sizes in order, those that fit into what the ones before them have left of the budget."""
    fits = np.zeros(len(sizes), bool)
    total = 0
    for place, size in enumerate(sizes.tolist()):
        if total + size <= budget:
            total += size
            fits[place] = True
    return fits


def _held_out(table: np.ndarray[Any, np.dtype[Any]], wanted: HeldOut) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The clusters of one source that are held out: `heldout.choose_held_out`, on arrays."""
    clusters, owner = np.unique(table["cluster"], return_inverse=True)  # sorted: in the order of their hashes
    sizes = np.bincount(owner, weights=table["bytes"], minlength=len(clusters)).astype(np.int64)
    budget = min(wanted.share * int(sizes.sum()), wanted.max_bytes)
    fits = _fitting(sizes, budget)
    if not fits.any() and budget > 0:
        tenth = min(0.1 * int(sizes.sum()), wanted.max_bytes)
        fits = _fitting(sizes, tenth) & (np.cumsum(_fitting(sizes, tenth)) == 1)
    return np.asarray(clusters[fits], np.uint64)


# ---------------------------------------------------------------- G: write


def write(task: Task, out: Path) -> dict[str, Any]:
    """documents.parquet, held_out.parquet and dropped.parquet of some shards of one source, in their order."""
    shards, paths = task.options["shards"], task.paths()  # first the drops, then the shards, then their selections
    drops, cleans, selections = paths[: len(paths) - 2 * shards], paths[-2 * shards : -shards], paths[-shards:]
    if not shards:
        drops, cleans, selections = paths, [], []
    source, funnel, stats = task.options["source"], new_source_funnel(), SourceStats()
    sizes = {"documents": [0, 0], "held_out": [0, 0]}
    licenses: Counter[str] = Counter()
    with (
        ShardWriter(out / "documents.parquet", DOCUMENTS) as documents,
        ShardWriter(out / "held_out.parquet", DOCUMENTS) as held_out,
        ShardWriter(out / "dropped.parquet", DROPPED) as dropped,
    ):
        for path in drops:
            for row in read_rows(path):
                dropped.write(row)
        for document, flag in _flagged(cleans, selections):
            if flag == BEYOND:
                gone = drop(document, "limit", BEYOND_LIMIT)
                funnel["limit"].drop(BEYOND_LIMIT, gone.bytes)
                dropped.write(drop_row(gone))
                continue
            funnel["limit"].keep(document.bytes)
            (documents if flag == TRAINING else held_out).write({**document_row(document), "source": source})
            counted = sizes["documents" if flag == TRAINING else "held_out"]
            counted[0] += 1
            counted[1] += document.bytes
            licenses[document.license] += 1
            if flag == TRAINING:
                stats.observe(
                    "written",
                    document.bytes,
                    language=document.language,
                    license=document.license,
                    url=document.url,
                )
    write_json(out / "observed.json", stats.as_json())
    return {
        "documents": funnel["limit"].into.documents,
        "bytes_in": funnel["limit"].into.bytes,
        "bytes_out": sizes["documents"][1] + sizes["held_out"][1],
        "sizes": sizes,
        "licenses": dict(sorted(licenses.items())),
        "funnel": source_funnel_to_json(funnel),
    }


def _flagged(cleans: list[Path], selections: list[Path]) -> Iterator[tuple[Document, int]]:
    for path, selection in zip(cleans, selections, strict=True):
        for row, flag in zip(read_rows(path), map_array(selection), strict=True):
            yield document_of(row), int(flag)
