"""The corpus stage: sources -> documents/, held_out/, dropped/, funnel.json, mixture.json, sources.json, exams.json.

Each source goes through its own steps (collect.py), in processes, and is kept when the build is killed. The steps that
look across sources follow, in this order: exact duplicates, near-duplicates, decontamination, personal data, limits,
held-out documents, mixture. Earlier sources of the recipe win where two hold the same text. These steps hold the clean
texts in memory, so one machine's memory bounds a corpus (about three times its text); the sources' own steps stream.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from groundup.artifacts import StageContext, StageResult, write_json
from groundup.console import byte_text, duration
from groundup.corpus.check import check as check  # `groundup check` looks for it beside `run`
from groundup.corpus.collect import Collected, collect
from groundup.corpus.decontaminate import ExamIndex, read_exams
from groundup.corpus.document import Document, Drop, drop
from groundup.corpus.exact import cut_seen_paragraphs, exact_duplicates, text_key
from groundup.corpus.funnel import Count, SourceFunnel, check_adds_up, funnel_report
from groundup.corpus.heldout import choose_held_out
from groundup.corpus.mixture import mix
from groundup.corpus.near import find_near_duplicates
from groundup.corpus.pii import scrub
from groundup.corpus.pool import Workers, default_workers
from groundup.corpus.settings import CorpusSettings, PiiType
from groundup.corpus.shards import DROPPED, ShardWriter, drop_row, write_document_file, write_documents
from groundup.corpus.source_settings import PathSource, PythonCodeSource
from groundup.errors import EXIT_FAILED, Problem, UserError
from groundup.packages import is_package, split_spec

HELD_OUT_SIMILARITY = 0.8  # documents this alike never stand on both sides
# Numbers in code are seldom anybody's telephone: what has an anchor or a check digit is looked for, the rest is not.
PII_IN_CODE: frozenset[PiiType] = frozenset(("email", "ip", "iban", "card"))


@dataclass
class Entry:
    """One document on its way through the steps across sources."""

    source: str
    document: Document
    cluster: str = ""  # its group of near-duplicates, for the held-out split


class Work:
    """What the steps across sources share: the documents that are left, the counts, the drops."""

    def __init__(self, collected: list[Collected]) -> None:
        self.funnels: dict[str, SourceFunnel] = {one.name: one.funnel for one in collected}
        self.dropped: dict[str, list[Drop]] = {one.name: one.dropped() for one in collected}
        self.entries = [Entry(one.name, document) for one in collected for document in one.documents()]
        self.exams: list[dict[str, Any]] = []  # what the corpus was decontaminated against, and what could not be had

    def filter(self, step: str, reasons: list[tuple[str, str] | None]) -> None:
        """Drop every entry that has a (reason, excerpt); count all of them."""
        kept = []
        for entry, why in zip(self.entries, reasons, strict=True):
            count = self.funnels[entry.source][step]
            if why is None:
                count.keep(entry.document.bytes)
                kept.append(entry)
            else:
                count.drop(why[0], entry.document.bytes)
                self.dropped[entry.source].append(drop(entry.document, step, *why))
        self.entries = kept


def run(settings: CorpusSettings, context: StageContext) -> StageResult:
    """Build the corpus in `context.folder`. UserError where a source gives nothing, naming every such source."""
    seconds: dict[str, float] = {}
    with Workers(settings.workers or default_workers()) as workers:
        collected = _collect_all(settings, context, workers)
    seconds |= {f"source {one.name}": one.seconds for one in collected}
    work = Work(collected)
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("exact duplicates", lambda: _drop_exact(work, settings)),
        ("near duplicates", lambda: _drop_near(work, settings)),
        ("decontaminate", lambda: _decontaminate(work, settings, context)),
        ("personal data", lambda: _scrub(work, settings)),
        ("limit", lambda: _limit(work, settings)),
    )
    with context.console.progress("all sources together", len(steps), "steps done", is_even=False) as update:
        for place, (step, function) in enumerate(steps):
            update(place, f"now {step}")
            with _timed(step, seconds):
                function()
    with _timed("write", seconds):
        result = _write(work, collected, settings, context)
    write_json(context.folder / "timing.json", {name: round(value, 3) for name, value in seconds.items()})
    shutil.rmtree(context.folder / "work", ignore_errors=True)
    return result


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started


# ---------------------------------------------------------------- sources


def _collect_all(settings: CorpusSettings, context: StageContext, workers: Workers) -> list[Collected]:
    collected: list[Collected] = []
    problems: list[Problem] = []
    with context.console.progress("sources", len(settings.sources), "done", is_even=False) as update:
        for place, (name, source) in enumerate(settings.sources.items()):
            update(place, f"now {name}")
            try:
                one = collect(name, source, settings, context, workers)
            except UserError as error:
                problems += error.problems
                continue
            collected.append(one)
            if not one.unreachable:
                kept = one.funnel["quality"].out
                into = one.funnel["read"].into.documents
                size = f"{byte_text(kept.bytes)}, {duration(one.seconds)}"
                context.console.info(f"  {name}: {kept.documents:,} of {into:,} documents kept, {size}")
                if not kept.documents:
                    problems.append(_nothing_came(one, settings))
        update(len(settings.sources))
    if problems:
        raise UserError(problems)
    if all(one.unreachable for one in collected):
        reasons = [Problem(f"source {one.name!r} could not be had: {one.unreachable}") for one in collected]
        raise UserError(
            [*reasons, Problem("so there is no text at all", fix="see above, or name a local source")],
            exit_code=EXIT_FAILED,
        )
    return collected


def _nothing_came(one: Collected, settings: CorpusSettings) -> Problem:
    source = settings.sources[one.name]
    reasons: dict[str, int] = {}
    for count in one.funnel.values():
        for reason, number in count.dropped.items():
            reasons[reason] = reasons.get(reason, 0) + number.documents
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
    why = "; ".join(f"{reason} ({number:,})" for reason, number in most)
    example = next((dropped.excerpt for dropped in one.dropped() if most and dropped.reason == most[0][0]), "")
    what = f"source {one.name!r} gave no documents" + (f": {why}" if why else ": nothing that it could read was there")
    if example:
        what += f", for example {' '.join(example.split())[:160]!r}"
    where = source.path if isinstance(source, PathSource) else source.type
    return Problem(
        what, where, f"check that this really is {source.type} input, and the rules under `quality` and `languages`"
    )


# ---------------------------------------------------------------- steps across sources


def _drop_exact(work: Work, settings: CorpusSettings) -> None:
    reasons: list[tuple[str, str] | None] = [None] * len(work.entries)
    if settings.exact_duplicates:
        keys = (text_key(entry.document.text, is_code=entry.document.media == "code") for entry in work.entries)
        for place, first in enumerate(exact_duplicates(keys)):
            if first is not None:
                reasons[place] = _duplicate("same text", work.entries[place], work.entries[first])
    if settings.duplicate_paragraphs:
        _cut_paragraphs(work, reasons)
    else:
        work.filter("exact duplicates", reasons)


def _duplicate(what: str, entry: Entry, first: Entry) -> tuple[str, str]:
    where = "earlier" if entry.source == first.source else f"in source {first.source}"
    return f"{what} {where}", f"[{first.document.id}] {entry.document.text}"


def _cut_paragraphs(work: Work, reasons: list[tuple[str, str] | None]) -> None:
    seen: set[int] = set()
    kept = []
    for entry, why in zip(work.entries, reasons, strict=True):
        count = work.funnels[entry.source]["exact duplicates"]
        document, cut = entry.document, 0
        if why is None and document.media != "code":
            text, cut = cut_seen_paragraphs(document.text, seen)
            if not text.strip():
                why = ("every paragraph was seen before", document.text)
            else:
                entry.document = replace(document, text=text)
        if why is not None:
            count.drop(why[0], document.bytes)
            work.dropped[entry.source].append(drop(document, "exact duplicates", *why))
        else:
            count.keep(document.bytes, entry.document.bytes)
            kept.append(entry)
        if cut:
            count.notes["paragraphs cut"] = count.notes.get("paragraphs cut", 0) + cut
    work.entries = kept


def _drop_near(work: Work, settings: CorpusSettings) -> None:
    threshold = settings.near_duplicate_threshold
    reasons: list[tuple[str, str] | None] = [None] * len(work.entries)
    if threshold is not None:
        for place, first in enumerate(_clusters(work, settings, threshold)):
            if first != place:
                reasons[place] = _duplicate("nearly the same text", work.entries[place], work.entries[first])
    work.filter("near duplicates", reasons)
    if settings.held_out is not None and (threshold is None or threshold > HELD_OUT_SIMILARITY):
        for entry, first in zip(work.entries, _clusters(work, settings, HELD_OUT_SIMILARITY), strict=True):
            entry.cluster = work.entries[first].document.id
    else:
        for entry in work.entries:
            entry.cluster = entry.document.id


def _clusters(work: Work, settings: CorpusSettings, threshold: float) -> list[int]:
    """For each entry the place of the one that stands for its cluster: of the earliest source the longest text."""
    rank = {name: place for place, name in enumerate(settings.sources)}
    entries = work.entries
    order = sorted(
        range(len(entries)),
        key=lambda i: (rank[entries[i].source], -len(entries[i].document.text), entries[i].document.id),
    )
    found = find_near_duplicates([entries[place].document.text for place in order], threshold)
    clusters = [0] * len(entries)
    for place, cluster in zip(order, found.cluster, strict=True):
        clusters[place] = order[int(cluster)]
    return clusters


def _decontaminate(work: Work, settings: CorpusSettings, context: StageContext) -> None:
    reasons: list[tuple[str, str] | None] = [None] * len(work.entries)
    if settings.decontaminate:
        items = read_exams(settings.decontaminate, context.seed, context.cache, context.console, work.exams)
        index = ExamIndex(items, settings.decontamination_ngram)
        for place, entry in enumerate(work.entries):
            if hit := index.hit(entry.document.text):
                item, words = hit
                reasons[place] = (f"holds an item of the exam {item.exam}", f"[{item.name}] ... {words} ...")
    work.filter("decontaminate", reasons)


def _scrub(work: Work, settings: CorpusSettings) -> None:
    for entry in work.entries:
        count = work.funnels[entry.source]["personal data"]
        types = [one for one in settings.pii if entry.document.media != "code" or one in PII_IN_CODE]
        before = entry.document.bytes
        text, placeholders = scrub(entry.document.text, types)
        if placeholders:
            entry.document = replace(entry.document, text=text)
        count.keep(before, entry.document.bytes)
        for name, number in placeholders.items():
            count.notes[f"<{name}>"] = count.notes.get(f"<{name}>", 0) + number


def _limit(work: Work, settings: CorpusSettings) -> None:
    """`max_bytes` of each source, by the hash of the id; code was limited when it was read, as there is so much."""
    taken: dict[str, int] = {}
    reasons: list[tuple[str, str] | None] = [None] * len(work.entries)
    order = sorted(range(len(work.entries)), key=lambda i: sha256(work.entries[i].document.id.encode()).digest())
    for place in order:
        entry = work.entries[place]
        source = settings.sources[entry.source]
        size = taken.get(entry.source, 0) + entry.document.bytes
        if source.max_bytes is not None and size > source.max_bytes and not isinstance(source, PythonCodeSource):
            reasons[place] = ("beyond max_bytes", entry.document.text)
        else:
            taken[entry.source] = size
    work.filter("limit", reasons)


# ---------------------------------------------------------------- writing


def _write(work: Work, collected: list[Collected], settings: CorpusSettings, context: StageContext) -> StageResult:
    for name in ("documents", "held_out", "dropped"):
        shutil.rmtree(context.folder / name, ignore_errors=True)  # of an earlier, interrupted build
    held_out_clusters = _held_out_clusters(work, settings)
    kept: dict[str, Count] = {}
    held: dict[str, Count] = {}
    for one in collected:
        own = [entry for entry in work.entries if entry.source == one.name]
        training = [entry.document for entry in own if entry.cluster not in held_out_clusters]
        apart = [entry.document for entry in own if entry.cluster in held_out_clusters]
        kept[one.name] = Count(len(training), sum(document.bytes for document in training))
        held[one.name] = Count(len(apart), sum(document.bytes for document in apart))
        if one.unreachable:
            continue
        write_documents(context.folder / "documents", one.name, training)
        write_document_file(context.folder / "held_out" / f"{one.name}.parquet", one.name, apart)
        with ShardWriter(context.folder / "dropped" / f"{one.name}.parquet", DROPPED) as writer:
            for dropped in sorted(work.dropped[one.name], key=lambda drop: (drop.step, drop.reason, drop.id)):
                writer.write(drop_row(dropped))
        if not training:
            context.console.warn(
                f"source {one.name}: no document is left for training; dropped/{one.name}.parquet says why"
            )
    report = funnel_report(work.funnels, kept, held)
    check_adds_up(report)
    write_json(context.folder / "funnel.json", report)
    mixture = mix({name: count.bytes for name, count in kept.items()}, settings.mixture, settings.max_repetition)
    write_json(context.folder / "mixture.json", mixture)
    write_json(context.folder / "sources.json", [_source_record(one, settings, work, kept) for one in collected])
    write_json(context.folder / "exams.json", work.exams)
    total = report["total"]
    dropped_documents = total["in"]["documents"] - total["kept"]["documents"] - total["held_out"]["documents"]
    context.console.info(
        f"  {total['kept']['documents']:,} documents ({total['kept']['bytes'] / 1e6:.1f} MB) for training, "
        f"{total['held_out']['documents']:,} held out, {dropped_documents:,} of {total['in']['documents']:,} dropped"
    )
    return StageResult(
        counts={
            "documents_in": total["in"]["documents"],
            "documents": total["kept"]["documents"],
            "bytes": total["kept"]["bytes"],
            "held_out_documents": total["held_out"]["documents"],
            "held_out_bytes": total["held_out"]["bytes"],
            "dropped_documents": dropped_documents,
            "sources": sum(not one.unreachable for one in collected),
            "sources_unreachable": sum(bool(one.unreachable) for one in collected),
            "exams_unreachable": sum(exam["status"] == "unreachable" for exam in work.exams),
        }
    )


def _held_out_clusters(work: Work, settings: CorpusSettings) -> set[str]:
    if settings.held_out is None:
        return set()
    chosen: set[str] = set()
    for name in settings.sources:
        own = [entry for entry in work.entries if entry.source == name]
        ids, sizes = [entry.document.id for entry in own], [entry.document.bytes for entry in own]
        clusters = [entry.cluster for entry in own]
        flags = choose_held_out(ids, sizes, clusters, settings.held_out)
        # A cluster that reaches into another source is held out there as well.
        chosen |= {cluster for cluster, is_chosen in zip(clusters, flags, strict=True) if is_chosen}
    return chosen


def _source_record(one: Collected, settings: CorpusSettings, work: Work, kept: dict[str, Count]) -> dict[str, Any]:
    source = settings.sources[one.name]
    licenses = Counter(entry.document.license for entry in work.entries if entry.source == one.name)
    record: dict[str, Any] = {
        "name": one.name,
        "type": source.type,
        "status": "unreachable" if one.unreachable else "used",
        "reason": one.unreachable,
        "documents": kept[one.name].documents,
        "bytes": kept[one.name].bytes,
        "licenses": dict(sorted(licenses.items())),
        "notes": one.notes,
    }
    if isinstance(source, PathSource):
        record["path"] = source.path
        if is_package(source.path):
            package, _ = split_spec(source.path)
            record["package"] = {
                "name": package.name,
                "version": package.version,
                "sha256": package.sha256,
                "license": package.license,
            }
    return record
