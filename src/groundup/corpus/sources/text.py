"""A person's own text: folders of .txt, .md and .html files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import TextSource
from groundup.corpus.sources.files import decode, file_pieces, open_piece
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.warc import decode_page

_HTML = {".html", ".htm", ".xhtml"}
_TEXT = {".txt", ".md", ".markdown", ".rst", ".text", ""}


def pieces(source: TextSource, cache: Path) -> list[Piece]:
    """One piece per file."""
    return file_pieces(source.path, cache)


def read(source: TextSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """One document per file; files of other kinds, binary and empty ones are drops."""
    for file in open_piece(piece):
        notes["files"] += 1
        suffix = PurePath(PurePath(file.name).name.removesuffix(".gz")).suffix.lower()
        try:
            with file.open_unpacked() as stream:
                data = stream.read()
        except (OSError, EOFError) as error:
            yield Drop(file.name, "read", "unreadable file", f"{file.where}: {error}")
            continue
        if suffix not in _HTML | _TEXT:
            yield Drop(file.name, "read", f"not a text file ({suffix})", file.where, len(data))
        elif b"\0" in data[:8000] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
            yield Drop(file.name, "read", "binary file", file.where, len(data))
        elif not data.strip():
            yield Drop(file.name, "read", "empty file", file.where)
        else:
            is_html = suffix in _HTML
            text = decode_page(data, None) if is_html else decode(data)
            license = source.license or file.license or "unknown"
            yield Document(file.name, file.where, license, text, "html" if is_html else "prose")
