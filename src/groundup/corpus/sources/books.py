"""Books: Project Gutenberg's texts, EPUB, plain text and HTML; long books become parts at their headings."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import BooksSource
from groundup.corpus.sources.epub import EpubError, is_epub, read_epub
from groundup.corpus.sources.files import Input, file_pieces, open_members, open_piece
from groundup.corpus.sources.gutenberg import decode_book, header_of
from groundup.corpus.sources.gutenberg import strip_gutenberg as strip_gutenberg
from groundup.corpus.sources.html_text import text_of_html
from groundup.corpus.sources.packed import ARCHIVE_ERRORS
from groundup.corpus.sources.piece import Piece
from groundup.packages import is_package

_HEADING = re.compile(
    r"^[ \t]*(?:(?:THE\s+)?(?:ACT|SCENE|CHAPTER|BOOK|PART|LETTER|CANTO|SECTION|Actus|Scena|Scoena|Chapter|Scene|Act)\b"
    r"[ \t]*[\w.,: ]{0,60}|[IVXLC]{1,8}\.?|#{1,3} \S.{0,120})[ \t]*$",
    re.M,
)
_HTML = (".html", ".htm", ".xhtml")
_BOOKS = (".txt", ".text", ".epub", *_HTML, "")
_PACKED = (".gz", ".bz2", ".xz", ".zst")


def pieces(source: BooksSource, cache: Path) -> list[Piece]:
    """One piece per file; a package is one."""
    return file_pieces(source.path, cache)


def read(source: BooksSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Parts of each book, in order. Files that are not books of a known package's layout are counted as notes."""
    if is_package(piece.where):
        yield from _read_package(source, piece, notes)
        return
    siblings = {path.name for path in Path(piece.where).parent.iterdir()} if Path(piece.where).is_file() else set()
    for one in _inputs(piece):
        yield from [one] if isinstance(one, Drop) else _book(source, one, siblings, notes)


def _inputs(piece: Piece) -> Iterator[Input | Drop]:
    """The piece's file, or the members of an archive: an EPUB, though one, stays whole."""
    [file] = open_piece(piece)
    try:
        with file.open() as stream:
            head = stream.read(100)
    except OSError as error:
        yield Drop(file.name, "read", "unreadable file", f"{file.where}: {error}")
        return
    if is_epub(head) or _suffix(file.name) == ".epub":
        yield file
    else:
        yield from open_members(piece)


def _read_package(source: BooksSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    files = [file for file in open_piece(piece) if PurePosixPath(file.name).suffix == ".txt"]
    names = {PurePosixPath(file.name).name for file in files}
    for file in files:
        name = PurePosixPath(file.name)
        if "texts" not in name.parts or name.name == "metadata.txt":
            notes["files of the package that are not texts"] += 1
        else:
            yield from _book(source, file, names, notes)


def _suffix(name: str) -> str:
    path = PurePosixPath(name)
    return PurePosixPath(path.stem if path.suffix in _PACKED else path.name).suffix.lower()


def _book(source: BooksSource, file: Input, siblings: set[str], notes: Counter[str]) -> Iterator[Document | Drop]:
    name = PurePosixPath(file.name)
    suffix = _suffix(file.name)
    if suffix not in _BOOKS:
        notes["files that are no books"] += 1
        return
    notes["files"] += 1
    metadata: dict[str, Any] = {}
    try:
        with file.open_unpacked() as stream:
            data = stream.read()
        epub = read_epub(io.BytesIO(data), notes) if suffix == ".epub" or is_epub(data) else None
    except EpubError as error:
        yield Drop(file.name, "read", str(error), file.where)
        return
    except (*ARCHIVE_ERRORS, NotImplementedError) as error:
        yield Drop(file.name, "read", "unreadable file", f"{file.where}: {error}")
        return
    if not epub and b"\0" in data[:8000] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        yield Drop(file.name, "read", "binary file", file.where, len(data))
        return
    if epub:
        text = "\n\n".join(epub.chapters)
        metadata = {"title": epub.title, "authors": epub.authors, "rights": epub.rights, "identifier": epub.identifier}
    else:
        text = decode_book(data)
        text = text_of_html(text) if suffix in _HTML else text
    if other := _other_spelling(name, siblings):
        reason = "old-spelling edition of a text that is here in modern spelling"
        yield Drop(file.name, "read", reason, other, len(text))
        return
    header = header_of(text)
    body = strip_gutenberg(text)
    if not body:
        yield Drop(file.name, "read", "empty file", file.where)
        return
    if header.is_gutenberg:
        metadata = {"title": header.title, "authors": header.authors} | {
            key: one for key, one in metadata.items() if one
        }
    stated = header.license or (epub.rights if epub else "")
    license = file.license or stated or source.license or "unknown"
    language = header.language or (epub.language if epub and len(epub.language) == 2 else "")
    date = (epub.date if epub else "") or header.date
    parts = split_book(body, source.part_chars)
    for place, part in enumerate(parts, 1):
        url = header.url or file.name
        about = metadata | {"part": place, "parts": len(parts)}
        yield Document(f"{file.name}#{place}", url, license, part, "prose", language, date, about)


def _other_spelling(name: PurePosixPath, names: set[str]) -> str:
    """The First Folio's spelling (`_gut_f`) goes where the collection has modern texts too."""
    return name.name if name.stem.endswith("_gut_f") and any(other.endswith("_gut.txt") for other in names) else ""


def split_book(text: str, part_chars: int) -> list[str]:
    """Parts of about `part_chars` characters. Nothing is lost but white space between parts.

    Cut at headings first, so that two editions of a book are cut alike; what is still too long between paragraphs.
    """
    cuts = sorted({0, len(text), *(match.start() for match in _HEADING.finditer(text))})
    sections = [text[start:end] for start, end in pairwise(cuts)]
    parts: list[str] = []
    for section in sections:
        for piece in _pieces(section, part_chars):
            # A heading alone, or a short scene, belongs to what follows it.
            if parts and len(parts[-1]) < part_chars // 8:
                parts[-1] += piece
            else:
                parts.append(piece)
    return [part.strip() for part in parts if part.strip()]


def _pieces(section: str, part_chars: int) -> list[str]:
    if len(section) <= part_chars * 3 // 2:
        return [section]
    pieces = [""]
    for paragraph in re.split(r"(?<=\n\n)", section):
        if pieces[-1] and len(pieces[-1]) + len(paragraph) > part_chars:
            pieces.append("")
        pieces[-1] += paragraph
    if len(pieces) > 1 and len(pieces[-1]) < part_chars // 8:
        pieces[-2:] = ["".join(pieces[-2:])]  # a short rest stays with what it ends
    return pieces
