"""A person's own rows: .jsonl files with the text in one field."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import JsonlSource
from groundup.corpus.sources.files import Input, file_pieces, open_piece
from groundup.corpus.sources.piece import Piece


def pieces(source: JsonlSource, cache: Path) -> list[Piece]:
    """One piece per file."""
    return file_pieces(source.path, cache)


def read(source: JsonlSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """One document per row; rows that are no JSON object, or lack the text, are drops with their `file:row`."""
    for file in open_piece(piece):
        notes["files"] += 1
        row = 0
        try:
            with file.open_unpacked() as stream:
                for row, line in enumerate(stream, 1):
                    if line.strip():
                        yield _row(line, f"{file.name}:{row}", source, file)
        except (OSError, EOFError) as error:
            yield Drop(f"{file.name}:{row + 1}", "read", "unreadable file", f"{file.where}: {error}")
            continue
        if not row:
            yield Drop(f"{file.name}:1", "read", "empty file", file.where)


def _row(line: bytes, id: str, source: JsonlSource, file: Input) -> Document | Drop:
    try:
        row = json.loads(line)
    except ValueError as error:
        # json's own message counts lines and columns inside the row, where the row's number is what helps
        why = f"{error.msg} at column {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        said = line[:200].decode("utf-8", errors="replace").strip()
        return Drop(id, "read", "row is not JSON", f"{id}: {why}: {said}", len(line))
    text = row.get(source.text_field) if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        found = f"fields: {', '.join(row)}" if isinstance(row, dict) else f"a JSON {type(row).__name__}"
        return Drop(id, "read", f"row has no text in {source.text_field!r}", found, len(line))
    license = str(row.get(source.license_field) or source.license or file.license or "unknown")
    media = "code" if source.code else "prose"
    return Document(id, str(row.get(source.url_field) or ""), license, text, media)  # type: ignore[arg-type]
