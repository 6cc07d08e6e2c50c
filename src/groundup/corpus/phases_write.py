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
from groundup.corpus.decontaminate import ExamIndex, ExamItem, add_hits
from groundup.corpus.document import Document, Drop, drop
from groundup.corpus.exact import cut_paragraphs
from groundup.corpus.funnel import new_source_funnel, source_funnel_to_json
from groundup.corpus.heldout import choose_held_out
from groundup.corpus.keytable import map_array, write_array
from groundup.corpus.phases_documents import numbered_rows
from groundup.corpus.pii import scrub
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
from groundup.corpus.stats import SourceStats
from groundup.corpus.substring import cut_words
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
    funnel, stats = new_source_funnel(), SourceStats()
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
    into = funnel["exact duplicates"].into
    return {
        "documents": into.documents,
        "bytes_in": before,
        "bytes_out": after,
        "clean": funnel["personal data"].out.documents,
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

    Which documents are taken depends on hashes of their ids and clusters, never on their order.
    """
    by_source: dict[str, list[int]] = {}
    for place, source in enumerate(task.options["sources"]):
        by_source.setdefault(source, []).append(place)
    paths = task.paths()
    held_out_settings = task.options["held_out"]
    wanted = HeldOut.model_validate(held_out_settings) if held_out_settings else None
    flags: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}
    clusters: dict[str, list[str]] = {}  # of each source's documents that are taken
    chosen: set[str] = set()
    for source, places in by_source.items():
        rows = [(place, row) for place in places for row in read_rows(paths[place])]
        taken = _within(rows, task.options["max_bytes"].get(source))
        for place in places:
            own = [is_taken for (where, _), is_taken in zip(rows, taken, strict=True) if where == place]
            flags[place] = np.where(np.array(own, bool), TRAINING, BEYOND).astype(np.uint8)
        left = [row for (_, row), is_taken in zip(rows, taken, strict=True) if is_taken]
        clusters[source] = [row["cluster"] for row in left]
        if wanted is not None:
            ids, sizes = [row["id"] for row in left], [row["bytes"] for row in left]
            held = choose_held_out(ids, sizes, clusters[source], wanted)
            # A cluster that reaches into another source is held out there as well.
            chosen |= {cluster for cluster, is_held in zip(clusters[source], held, strict=True) if is_held}
    for place, own_flags in flags.items():
        if chosen:
            for number, row in enumerate(read_rows(paths[place], ("cluster",))):
                if own_flags[number] == TRAINING and row["cluster"] in chosen:
                    own_flags[number] = HELD_OUT
        write_array(out / f"flags-{place:05d}.npy", own_flags)
    return {"documents": sum(len(one) for one in flags.values())}


def _within(rows: list[tuple[int, dict[str, Any]]], max_bytes: int | None) -> list[bool]:
    if max_bytes is None:
        return [True] * len(rows)
    taken, total = [False] * len(rows), 0
    for number in sorted(range(len(rows)), key=lambda one: sha256(rows[one][1]["id"].encode()).digest()):
        if total + rows[number][1]["bytes"] <= max_bytes:
            total += rows[number][1]["bytes"]
            taken[number] = True
    return taken


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
