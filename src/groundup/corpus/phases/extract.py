"""Phase B, a task: raw shard -> text, its language, and everything that the rules will look at; no threshold yet.

Documents go through in groups, all of a group through one step before the next: a step's code and tables (the language
model alone fills most of a core's cache) would else be fetched anew for every document. That is a tenth of the time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groundup.corpus.document import Document, Drop, drop
from groundup.corpus.guard import Technical, TooSlow, time_limit
from groundup.corpus.phases.documents import KILLED, numbered_rows
from groundup.corpus.quality.signals import cut_boilerplate, signals_of
from groundup.corpus.report.funnel import new_source_funnel, source_funnel_to_json
from groundup.corpus.shards import DROPPED, TEXT, ShardWriter, document_of, document_row, drop_row
from groundup.corpus.tasks import Task
from groundup.corpus.texts import language_of, raw_to_text
from groundup.errors import UserError

GROUP, GROUP_CHARS = 256, 4_000_000  # documents, and characters of text, that are in memory at once


@dataclass
class _Page:
    """A document on its way: after the first step `document` holds its text, and what it was read from is gone."""

    document: Document
    raw_bytes: int
    dropped: Drop | None = None
    language_score: float = 0.0
    signals: dict[str, float] = field(default_factory=dict)


def extract(task: Task, out: Path) -> dict[str, Any]:
    """Main text, language and signals of a raw shard. What fails or takes too long is a drop, and counted apart."""
    funnel, technical = new_source_funnel(), Technical()
    count = funnel["extract"]
    with ShardWriter(out / "drops.parquet", DROPPED) as drops, ShardWriter(out / "text.parquet", TEXT) as texts:
        for page in _pages(task, technical):
            if page.dropped is not None:
                count.drop(page.dropped.reason, page.raw_bytes)
                drops.write(drop_row(replace(page.dropped, bytes=page.raw_bytes)))
            else:
                count.keep(page.raw_bytes, page.document.bytes)
                signals = {name: None if math.isnan(value) else value for name, value in page.signals.items()}
                more = {"language_score": page.language_score, "signals": json.dumps(signals)}
                texts.write({**document_row(page.document), **more})
    return {
        "documents": count.into.documents,
        "bytes_in": count.into.bytes,
        "bytes_out": count.out.bytes,
        "texts": count.out.documents,
        "funnel": source_funnel_to_json(funnel),
        "technical": technical.lost,
    }


def _pages(task: Task, technical: Technical) -> Iterator[_Page]:
    """All documents of the shard, in their order, at the end of their way."""
    group: list[_Page] = []
    chars = 0
    for number, row in numbered_rows(task, task.paths()[0]):
        document = document_of(row)
        page = _Page(document, document.bytes)
        if number in task.without:
            page.dropped = _lost(document, KILLED, technical)
        else:
            _try(_text, page, task, technical)
        group.append(page)
        chars += len(page.document.text)
        if len(group) >= GROUP or chars >= GROUP_CHARS:
            yield from _rest_of_the_way(group, task, technical)
            group, chars = [], 0
    yield from _rest_of_the_way(group, task, technical)


def _rest_of_the_way(group: list[_Page], task: Task, technical: Technical) -> list[_Page]:
    for step in (_boilerplate, _language, _signals):
        for page in group:
            if page.dropped is None:
                _try(step, page, task, technical)
    return group


# ---------------------------------------------------------------- the steps: each changes the page


def _text(page: _Page, options: Mapping[str, Any]) -> None:
    document = page.document
    text = raw_to_text(document, options["extract"], options["languages"])
    if not text.strip():
        page.dropped = replace(drop(document, "extract", "no text in it"), excerpt=document.url)
    page.document = replace(document, text=text)


def _boilerplate(page: _Page, options: Mapping[str, Any]) -> None:
    document = page.document
    if options["boilerplate"] and document.media == "html":
        text = cut_boilerplate(document.text)
        if not text.strip():
            page.dropped = drop(document, "extract", "nothing but boilerplate")
        page.document = replace(document, text=text)


def _language(page: _Page, options: Mapping[str, Any]) -> None:  # noqa: ARG001 (as the other steps)
    language, page.language_score = language_of(page.document)
    page.document = replace(page.document, language=language)


def _signals(page: _Page, options: Mapping[str, Any]) -> None:
    document = page.document
    is_wanted = not options["languages"] or not document.language or document.language in options["languages"]
    if is_wanted and options["signals"]:
        page.signals = signals_of(document.text, document.media, document.language)


def _try(step: Callable[[_Page, Mapping[str, Any]], None], page: _Page, task: Task, technical: Technical) -> None:
    """One step of one document, within `document_seconds`; where it fails or takes longer, the document is a drop."""
    seconds = float(task.options["document_seconds"])
    try:
        with time_limit(seconds, may_kill=bool(task.hints.get("may_kill"))):
            step(page, task.options)
    except TooSlow:
        page.dropped = _lost(page.document, f"it took longer than {seconds:g} s", technical)
    except (MemoryError, UserError):
        raise  # the first goes for the whole shard, the second is the installation's
    except Exception as error:
        why = f"the extractor failed: {type(error).__name__}: {error}"[:200]
        page.dropped = _lost(page.document, why, technical)


def _lost(document: Document, reason: str, technical: Technical) -> Drop:
    # exceptions name addresses and lengths: what comes behind the kind is for the excerpt, not for counting
    kind = ":".join(reason.split(":")[:2])
    technical.add(kind, document.url or document.id)
    return replace(drop(document, "extract", kind), excerpt=f"{document.url or document.id}: {reason}"[:300])
