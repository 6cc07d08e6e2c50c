"""Rows with the text in one of their fields: JSON lines, JSON lists, parquet, CSV; from a folder, an address, the Hub.

The format is told by the content (parquet's first bytes, a JSON list's bracket) and the name (`.csv`, `.tsv`). A row
that cannot be used is a drop named `file:row`; a file that breaks ends there, with a drop that says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from groundup.corpus.document import EXCERPT_CHARS, Document, Drop
from groundup.corpus.source_settings import RowsSource
from groundup.corpus.sources.files import Input, file_pieces, open_members, sample
from groundup.corpus.sources.packed import UNPACK_ERRORS
from groundup.corpus.sources.pages import MAX_PAGE_BYTES, TOO_LARGE
from groundup.corpus.sources.parts import text_in_parts
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.row_formats import (
    BadRow,
    csv_rows,
    json_lines,
    json_lines_in_utf8,
    json_list,
    parquet_rows,
)
from groundup.corpus.sources.spans import Span, cut_lines, span_of
from groundup.errors import UserError

_DATE_FIELDS = ("date", "created", "published", "timestamp")
_FORMATS = (".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".csv", ".tsv", ".zip", ".tar", ".tgz", ".7z")
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_END: Any = object()
_PLACEHOLDER = re.compile(r"\{([\w.\- ]+)\}")
_SPLITS = re.compile(r"(?:^|[^a-z])({})(?:[^a-z]|$)", re.IGNORECASE)


def pieces(source: RowsSource, cache: Path) -> list[Piece]:
    """One piece per file of a known format. UserError where there is none, or none of the split."""
    found = file_pieces(source.path, cache, lists=True, root=source.path_root, max_files=None)
    if len(found) > 1:
        found = [piece for piece in found if _suffix(piece.name) in _FORMATS]
        if not found:
            raise UserError(
                "no file there is one of rows", where=source.path, fix=f"known endings: {' '.join(_FORMATS[:7])}"
            )
    if source.split is not None:
        pattern = re.compile(_SPLITS.pattern.format(re.escape(source.split)), re.IGNORECASE)
        names = [piece.name for piece in found]
        found = [piece for piece in found if pattern.search(piece.name)]
        if not found:
            raise UserError(
                f"no file's name says it is of the split {source.split!r}; there are: {', '.join(names[:5])}",
                where=source.path,
                fix="name the split as the files do, or leave `split` out",
            )
    return cut_lines(sample(found, source.max_files), _is_json_lines)


def _is_json_lines(piece: Piece, head: bytes) -> bool:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return piece.name.lower().endswith((".jsonl", ".ndjson")) and start.startswith(b"{")


def _suffix(name: str) -> str:
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in _PACKED else path.suffix


def read(source: RowsSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """One document per row; rows that cannot be read, or lack the text, are drops with their `file:row`."""
    mapping = Mapping.of(source)
    if (span := span_of(piece)) is not None:
        notes["parts of large files"] += 1
        for one in _read_span(span, source, mapping):
            yield from _in_parts(one, source, notes)
        return
    for file in open_members(piece):
        if isinstance(file, Drop):
            yield file
            continue
        notes["files"] += 1
        row, number = None, 0
        try:
            for number, row in enumerate(_rows(file, source, mapping), 1):
                if row is not None:
                    yield from _in_parts(_fate(row, f"{file.name}:{number}", source, mapping, file), source, notes)
        except UNPACK_ERRORS as error:
            yield Drop(f"{file.name}:{number + 1}", "read", "unreadable file", f"{file.where}: {error}")
            continue
        if not number:
            yield Drop(f"{file.name}:1", "read", "empty file", file.where)


def _in_parts(one: Document | Drop, source: RowsSource, notes: Counter[str]) -> Iterator[Document | Drop]:
    """A long text as a file of text is read: in parts, or, where it is a page, not at all."""
    if isinstance(one, Drop):
        yield one
    elif one.media != "html":
        yield from text_in_parts(one, source.part_chars, notes)
    elif len(one.text) > MAX_PAGE_BYTES // 4 and one.bytes > MAX_PAGE_BYTES:
        yield Drop(one.id, "read", TOO_LARGE, one.text[:EXCERPT_CHARS], one.bytes)
    else:
        yield one


def _read_span(span: Span, source: RowsSource, mapping: Mapping) -> Iterator[Document | Drop]:
    """Rows of a part of a large file, named by the byte at which they begin."""
    file, place = Input(span.name, path=span.path), span.start
    try:
        with span.open() as stream:
            rows = json_lines_in_utf8(stream)
            while (place := stream.tell()) < span.end and (row := next(rows, _END)) is not _END:
                if row is not None:
                    yield _fate(row, f"{span.name}:@{place}", source, mapping, file)
    except OSError as error:
        yield Drop(f"{span.name}:@{place}", "read", "unreadable file", f"{file.where}: {error}")


def _rows(file: Input, source: RowsSource, mapping: Mapping) -> Iterator[dict[str, Any] | BadRow | None]:
    """The rows of one file in order: None for an empty line, BadRow for what is no row. One of UNPACK_ERRORS where it
    breaks."""
    suffix = _suffix(file.name)
    with file.open_unpacked() as stream:
        head = bytes(stream.peek(4096)[:4096])  # type: ignore[attr-defined]
        if head.startswith(b"PAR1"):
            yield from parquet_rows(stream, mapping.fields)
        elif suffix in (".csv", ".tsv") or (source.type == "csv" and suffix not in _FORMATS):
            delimiter = source.delimiter or ("\t" if suffix == ".tsv" else None)
            yield from csv_rows(stream, delimiter, source.columns)
        elif head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") and suffix != ".jsonl":
            yield from json_list(stream)
        else:
            yield from json_lines(stream)


@dataclass(frozen=True)
class Mapping:
    """Which fields of a row become what of a document."""

    text: str
    template: str | None
    dates: tuple[str, ...]
    fields: tuple[str, ...]  # everything that is looked at, so that of parquet nothing else is read

    @staticmethod
    def of(source: RowsSource) -> Mapping:
        texts = _PLACEHOLDER.findall(source.template) if source.template else [source.text_field]
        dates = (source.date_field,) if source.date_field else _DATE_FIELDS
        others = (source.id_field, source.url_field, source.license_field, source.language_field)
        fields = (*texts, *(one for one in others if one), *dates, *source.metadata_fields, "metadata")
        return Mapping(source.text_field, source.template, dates, tuple(dict.fromkeys(fields)))


def _fate(row: dict[str, Any] | BadRow, id: str, source: RowsSource, mapping: Mapping, file: Input) -> Document | Drop:
    if isinstance(row, BadRow):
        # the row's number is what helps; what the parser says counts inside the row
        return Drop(id, "read", row.reason, f"{id}: {row.why}: {row.start}"[:EXCERPT_CHARS], row.bytes)
    get: Callable[[str | None], Any] = lambda name: field_of(row, name) if name else None  # noqa: E731
    if mapping.template is None:
        text = get(mapping.text)
    else:
        values = {name: get(name) for name in _PLACEHOLDER.findall(mapping.template)}
        said = any(isinstance(value, str) and value.strip() for value in values.values())
        text = _PLACEHOLDER.sub(lambda match: _plain(values[match[1]]), mapping.template).strip() if said else None
    if not isinstance(text, str) or not text.strip():
        what = repr(mapping.text) if mapping.template is None else "any field of the template"
        return Drop(id, "read", f"row has no text in {what}", f"fields: {', '.join(map(str, row))}")
    own_id = get(source.id_field)
    license = _plain(get(source.license_field)) or source.license or file.license or "unknown"
    when = next((found for name in mapping.dates if (found := iso_date(get(name)))), "")
    metadata = {name: value for name in source.metadata_fields if (value := jsonable(get(name))) not in (None, "")}
    return Document(
        f"{file.name}:{own_id}" if own_id not in (None, "") else id,
        _plain(get(source.url_field)),
        license,
        text,
        source.media,
        _plain(get(source.language_field)).lower(),
        when,
        metadata,
    )


def field_of(row: dict[str, Any], name: str) -> Any:
    """A field by its name, by its dotted path, or of the row's `metadata`, in this order; None where it is absent."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None and isinstance(inner := row.get("metadata"), dict):
        return inner.get(name)
    return value


def _plain(value: Any) -> str:
    """A value inside a text: lists are joined (licences of a Stack row, paragraphs), nothing is empty."""
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value)
    return "" if value is None else str(value)


def jsonable(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(one) for one in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def iso_date(value: Any) -> str:
    """A date as ISO 8601, also from seconds or milliseconds since 1970; empty where the value is none."""
    if isinstance(value, datetime | date):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, str) and re.match(r"\d{4}(?:-\d\d(?:-\d\d)?)?(?:$|[T ]\d)", value.strip()):
        return value.strip().replace(" ", "T", 1)
    if isinstance(value, str) and value.strip().isdigit() and len(value.strip()) >= 9:
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 1e8 < value < 1e14:
        seconds = value / 1000 if value > 1e11 else value
        return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
    return ""
