"""One source at a time: read, extract, language, quality. Each is finished atomically, so a killed build goes on.

What is kept of a source lies in `work/`: its clean documents, its drops, and last of all a JSON file with the counts
and the fingerprint of everything that decided them. Only a source whose fingerprint still fits is not done again.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from groundup.artifacts import StageContext, fingerprint_of, read_json, write_json
from groundup.corpus.clean import Cleaned, CleanOptions, clean_batch, crashed
from groundup.corpus.document import Document, Drop
from groundup.corpus.funnel import SourceFunnel, new_source_funnel, source_funnel_from_json, source_funnel_to_json
from groundup.corpus.pool import Workers
from groundup.corpus.settings import CorpusSettings
from groundup.corpus.shards import CLEANED, DROPPED, ShardWriter, document_row, drop_row, read_cleaned, read_dropped
from groundup.corpus.source_settings import PathSource, Source
from groundup.corpus.sources import read_source
from groundup.corpus.sources.files import local_files
from groundup.packages import PackageUnreachableError, is_package, split_spec

VERSION = 1  # raised when the code changes what a source's clean documents are
BATCH_BYTES, BATCH_DOCUMENTS = 400_000, 64


@dataclass(frozen=True)
class Collected:
    """A source after its own steps. `unreachable` says why it could not be had; then there are no documents."""

    name: str
    funnel: SourceFunnel
    notes: dict[str, int]
    documents_file: Path | None
    dropped_file: Path | None
    seconds: float
    unreachable: str = ""

    def documents(self) -> list[Document]:
        return list(read_cleaned(self.documents_file)) if self.documents_file else []

    def dropped(self) -> list[Drop]:
        return list(read_dropped(self.dropped_file)) if self.dropped_file else []


def collect(name: str, source: Source, settings: CorpusSettings, context: StageContext, workers: Workers) -> Collected:
    """Read and clean one source, or take over what an earlier, interrupted build finished of it."""
    folder = context.folder / "work"
    options = CleanOptions.of(settings)
    fingerprint = source_fingerprint(source, options)
    marker = folder / f"{name}.json"
    documents_file, dropped_file = folder / f"{name}.parquet", folder / f"{name}.dropped.parquet"
    if marker.is_file() and (record := read_json(marker))["fingerprint"] == fingerprint:
        context.console.info(f"  {name}: taken over from the interrupted build")
        funnel = source_funnel_from_json(record["funnel"])
        return Collected(name, funnel, record["notes"], documents_file, dropped_file, record["seconds"])
    started = time.monotonic()
    funnel, notes = new_source_funnel(), Counter[str]()
    marker.unlink(missing_ok=True)  # never a marker beside files of another build
    with ShardWriter(documents_file, CLEANED) as kept, ShardWriter(dropped_file, DROPPED) as dropped:
        try:
            for cleaned in _cleaned(source, options, context, workers, funnel, notes):
                result = cleaned.result
                if isinstance(result, Drop):
                    dropped.write(drop_row(result))
                else:
                    kept.write(document_row(result))
        except PackageUnreachableError as error:
            context.console.warn(f"source {name} is left out: {error.reason}")
            return Collected(name, new_source_funnel(), {}, None, None, time.monotonic() - started, error.reason)
    seconds = time.monotonic() - started
    record = {"fingerprint": fingerprint, "funnel": source_funnel_to_json(funnel), "notes": dict(sorted(notes.items()))}
    write_json(marker, record | {"seconds": seconds})
    return Collected(name, funnel, record["notes"], documents_file, dropped_file, seconds)  # type: ignore[arg-type]


def _cleaned(
    source: Source,
    options: CleanOptions,
    context: StageContext,
    workers: Workers,
    funnel: SourceFunnel,
    notes: Counter[str],
) -> Iterator[Cleaned]:
    """Every candidate's fate, drops of the reader included; the funnel counts along."""
    passed_over: list[Drop] = []

    def batches() -> Iterator[list[Document]]:
        batch: list[Document] = []
        size = 0
        for one in read_source(source, context.cache, context.console, notes):
            if isinstance(one, Drop):
                passed_over.append(one)
                continue
            batch.append(one)
            size += len(one.text)
            if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def take_passed_over() -> Iterator[Cleaned]:
        for one in passed_over:
            funnel["read"].drop(one.reason, one.bytes)
            yield Cleaned(one, ())
        passed_over.clear()

    remembered: list[list[int]] = []

    def measured() -> Iterator[list[Document]]:
        for batch in batches():
            remembered.append([document.bytes for document in batch])
            yield batch

    for results in workers.map(partial(clean_batch, options=options), measured(), crashed):
        for raw_bytes, cleaned in zip(remembered.pop(0), results, strict=True):
            funnel["read"].keep(raw_bytes)
            _count(cleaned, raw_bytes, funnel)
            yield cleaned
    yield from take_passed_over()


def _count(cleaned: Cleaned, size: int, funnel: SourceFunnel) -> None:
    for step, after in cleaned.sizes:
        funnel[step].keep(size, after)
        size = after
    if isinstance(cleaned.result, Drop):
        funnel[cleaned.result.step].drop(cleaned.result.reason, size)
    if cleaned.note:
        notes = funnel["language"].notes
        notes[cleaned.note] = notes.get(cleaned.note, 0) + 1


def source_fingerprint(source: Source, options: CleanOptions) -> str:
    """Everything that decides a source's clean documents: code version, settings, and the identity of the input."""
    return fingerprint_of(
        {
            "version": VERSION,
            "source": source.model_dump(mode="json"),
            "options": [options.extract, options.languages, options.min_language_score],
            "quality": options.quality.model_dump(mode="json") if options.quality else None,
            "input": input_identity(source),
        }
    )


def input_identity(source: Source) -> Any:
    """What tells one state of a source's input from another, without reading it."""
    if isinstance(source, PathSource):
        if is_package(source.path):
            return split_spec(source.path)[0].sha256
        stats = [(str(path), path.stat()) for path in local_files(source.path)]
        return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    from groundup.corpus.sources.python_docs import distribution_name, installed

    return [sys.version, *(f"{distribution_name(one)} {one.version}" for one in installed())]
