"""A person's own text: folders of .txt, .md and .html files, and .jsonl rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePath

from groundup.corpus.document import Document, Drop
from groundup.corpus.settings import JsonlSource, TextSource
from groundup.corpus.sources.files import Input, decode
from groundup.corpus.sources.warc import decode_page

_HTML = {".html", ".htm", ".xhtml"}
_TEXT = {".txt", ".md", ".markdown", ".rst", ".text", ""}


def read_texts(source: TextSource, inputs: Iterable[Input], notes: Counter[str]) -> Iterator[Document | Drop]:
    """One document per file; files of other kinds, binary and empty ones are drops."""
    for file in inputs:
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


def read_rows(source: JsonlSource, inputs: Iterable[Input], notes: Counter[str]) -> Iterator[Document | Drop]:
    """One document per row; rows that are no JSON object, or lack the text, are drops with their `file:row`."""
    for file in inputs:
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
