"""A person's own text: .txt, .md, .html files, in folders or archives; a document each, or one per line."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import TextSource
from groundup.corpus.sources.files import Input, decode, encoding_of, file_pieces, open_members
from groundup.corpus.sources.packed import UNPACK_ERRORS
from groundup.corpus.sources.pages import MAX_PAGE_BYTES, TOO_LARGE, decode_page, page_license
from groundup.corpus.sources.parts import in_parts, text_in_parts
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.spans import Span, cut_lines, span_of

_HTML = {".html", ".htm", ".xhtml"}
_MARKDOWN = {".md", ".markdown"}
_TEXT = {".txt", ".rst", ".text", "", *_MARKDOWN}
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_WHOLE_BYTES = 8_000_000  # up to here a file is decoded as a whole, so that all of it says its encoding
_MAX_LINE_CHARS = 20_000_000
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*\n", re.DOTALL)
_FRONT_FIELD = re.compile(r"^(title|date|author|license|lang|language):[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)


def pieces(source: TextSource, cache: Path) -> list[Piece]:
    """One piece per file (an archive is one file)."""
    found = file_pieces(source.path, cache, root=source.path_root, max_files=source.max_files)
    return cut_lines(found, _is_lines) if source.one_per == "line" else found


def _is_lines(piece: Piece, head: bytes) -> bool:
    return _suffix(piece.name) in _TEXT - _HTML and not encoding_of(head).startswith(("utf-16", "utf-32"))


def read(source: TextSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """A document per file or line; files of other kinds, binary and empty ones are drops."""
    if (span := span_of(piece)) is not None:
        notes["parts of large files"] += 1
        for line in _lines_of_span(span, source):
            yield from _in_parts(line, source, notes)
        return
    for file in open_members(piece):
        if isinstance(file, Drop):
            yield file
            continue
        notes["files"] += 1
        suffix = _suffix(file.name)
        try:
            with file.open_unpacked() as stream:
                if suffix not in _HTML | _TEXT:
                    yield Drop(file.name, "read", f"not a text file ({suffix})", file.where)
                elif source.one_per == "line" and suffix not in _HTML:
                    for line in _lines(stream, source, file):
                        yield from _in_parts(line, source, notes)
                else:
                    yield from _file(stream, suffix, source, file, notes)
        except UNPACK_ERRORS as error:
            yield Drop(file.name, "read", "unreadable file", f"{file.where}: {error}")


def _suffix(name: str) -> str:
    path = PurePath(PurePath(name.lower()).name)
    return PurePath(path.stem).suffix if path.suffix in _PACKED else path.suffix


def _in_parts(one: Document | Drop, source: TextSource, notes: Counter[str]) -> Iterator[Document | Drop]:
    if isinstance(one, Drop):
        yield one
    else:
        yield from text_in_parts(one, source.part_chars, notes)


def _file(stream: Any, suffix: str, source: TextSource, file: Input, notes: Counter[str]) -> Iterator[Document | Drop]:
    data = stream.read(_WHOLE_BYTES if suffix not in _HTML else MAX_PAGE_BYTES + 1)
    license = source.license or file.license or "unknown"
    if b"\0" in data[:8000] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        yield Drop(file.name, "read", "binary file", file.where, len(data))
    elif not data.strip():
        yield Drop(file.name, "read", "empty file", file.where)
    elif suffix in _HTML:
        if len(data) > MAX_PAGE_BYTES:
            yield Drop(file.name, "read", TOO_LARGE, file.where, len(data))
            return
        html = decode_page(data, None)
        yield Document(file.name, file.where, page_license(html) or license, html, "html")
    else:
        whole = len(data) < _WHOLE_BYTES
        # A larger file is read on in the encoding of its first bytes: memory stays that of one part.
        text = io.StringIO(decode(data)) if whole else _text_stream(stream, data)
        empty = Document(file.name, file.where, license, "", "prose")
        for document in in_parts(empty, text.read, source.part_chars, notes):
            yield _with_front_matter(document) if suffix in _MARKDOWN else document


def _text_stream(stream: Any, start: bytes) -> io.TextIOBase:
    joined = io.BufferedReader(_Joined(start, stream))  # type: ignore[type-var]
    return io.TextIOWrapper(joined, encoding_of(start[: 1 << 20]), errors="replace")


class _Joined(io.RawIOBase):
    """What was read already, and then the rest of the stream."""

    def __init__(self, start: bytes, stream: Any) -> None:
        self._start, self._stream = start, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._start[: len(buffer)] or self._stream.read(len(buffer))
        self._start = self._start[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _lines(stream: Any, source: TextSource, file: Input) -> Iterator[Document | Drop]:
    text = io.TextIOWrapper(stream, encoding_of(bytes(stream.peek(1 << 16)[: 1 << 16])), errors="replace")
    license = source.license or file.license or "unknown"
    number = 0
    while line := text.readline(_MAX_LINE_CHARS):
        number += 1
        id = f"{file.name}:{number}"
        if len(line) == _MAX_LINE_CHARS and not line.endswith("\n"):
            while (rest := text.readline(_MAX_LINE_CHARS)) and not rest.endswith("\n"):
                pass
            yield Drop(id, "read", f"line longer than {_MAX_LINE_CHARS // 1_000_000} million characters", line[:300])
        elif line.strip():
            yield Document(id, file.where, license, line.rstrip("\n"), "prose")
    if not number:
        yield Drop(file.name, "read", "empty file", file.where)


def _lines_of_span(span: Span, source: TextSource) -> Iterator[Document | Drop]:
    """Lines of a part of a large file, named by the byte at which they begin."""
    license, place = source.license or "unknown", span.start
    try:
        with open(span.path, "rb") as file:
            encoding = encoding_of(file.read(1 << 16))
        with span.open() as stream:
            while (place := stream.tell()) < span.end and (line := stream.readline(_MAX_LINE_CHARS)):
                id = f"{span.name}:@{place}"
                if len(line) == _MAX_LINE_CHARS and not line.endswith(b"\n"):
                    while (rest := stream.readline(_MAX_LINE_CHARS)) and not rest.endswith(b"\n"):
                        pass
                    start = line[:300].decode(encoding, "replace")
                    yield Drop(id, "read", f"line longer than {_MAX_LINE_CHARS // 1_000_000} MB", start)
                    continue
                text = line.decode(encoding if not place else encoding.removesuffix("-sig"), "replace")
                # as in smaller files, a carriage return alone ends a line too
                for number, one in enumerate(text.removesuffix("\n").removesuffix("\r").split("\r")):
                    if one.strip():
                        yield Document(f"{id}.{number}" if number else id, str(span.path), license, one, "prose")
    except OSError as error:
        yield Drop(f"{span.name}:@{place}", "read", "unreadable file", f"{span.path}: {error}")


def _with_front_matter(document: Document) -> Document:
    """What a Markdown file says about itself in front of its text goes where it belongs."""
    found = _FRONT_MATTER.match(document.text)
    if found is None:
        return document
    fields = dict(_FRONT_FIELD.findall(found[1]))
    date = fields.get("date", "") if re.match(r"\d{4}", fields.get("date", "")) else ""
    return Document(
        document.id,
        document.url,
        fields.get("license") or document.license,
        document.text[found.end() :],
        document.media,
        document.language,
        date,
        {name: fields[name] for name in ("title", "author") if name in fields},
    )
