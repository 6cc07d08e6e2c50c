"""Plain-text books: Project Gutenberg's frame is cut off, and long books become parts at their headings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath

from groundup.artifacts import fingerprint_of
from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import BooksSource
from groundup.corpus.sources.files import file_pieces, open_inputs
from groundup.corpus.sources.piece import Piece

# "*** START OF THIS PROJECT GUTENBERG EBOOK ...", "*END*THE SMALL PRINT! ..." (before 2004) and their ends.
_START = re.compile(
    r"^(?:\*{3}\s*START OF (?:THE|THIS) PROJECT GUTENBERG.*?\*{3}|\*END\*?\s*THE SMALL PRINT.*?)$", re.M | re.S
)
_END = re.compile(r"^\s*(?:\*{3}\s*END OF (?:THE|THIS) PROJECT|End of (?:the |this )?Project Gutenberg)", re.M | re.I)
_CREDIT = re.compile(r"\A\s*(?:Produced by|E-text prepared by|Transcribed from|This etext was).*?\n\s*\n", re.I | re.S)
_HEADING = re.compile(
    r"^[ \t]*(?:(?:THE\s+)?(?:ACT|SCENE|CHAPTER|BOOK|PART|LETTER|CANTO|SECTION|Actus|Scena|Scoena|Chapter|Scene|Act)\b"
    r"[ \t]*[\w.,: ]{0,60}|[IVXLC]{1,8}\.?)[ \t]*$",
    re.M,
)


def pieces(source: BooksSource, cache: Path) -> list[Piece]:
    """All books are one piece: whether an edition is read depends on which others are there."""
    files = file_pieces(source.path, cache)
    identity = fingerprint_of([[file.name, file.identity] for file in files])
    return [Piece("books", identity, sum(file.bytes for file in files), source.path, str(cache))]


def read(source: BooksSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Parts of each book, in order. Files that are not books of a known package's layout are counted as notes."""
    files = [
        file for file in open_inputs(piece.where, Path(piece.cache), None) if PurePosixPath(file.name).suffix == ".txt"
    ]
    names = {PurePosixPath(file.name).name for file in files}
    for file in files:
        name = PurePosixPath(file.name)
        if file.content is not None and "texts" not in name.parts:
            notes["files of the package that are not texts"] += 1
            continue
        if name.name == "metadata.txt":
            notes["files of the package that are not texts"] += 1
            continue
        try:
            text = file.read_text()
        except (OSError, EOFError) as error:
            yield Drop(file.name, "read", "unreadable file", f"{file.where}: {error}")
            continue
        notes["files"] += 1
        if other := _other_spelling(name, names):
            yield Drop(
                file.name, "read", "old-spelling edition of a text that is here in modern spelling", other, len(text)
            )
            continue
        body = strip_gutenberg(text)
        if not body:
            yield Drop(file.name, "read", "empty file", file.where)
            continue
        parts = split_book(body, source.part_chars)
        license = source.license or file.license or "unknown"
        for place, part in enumerate(parts, 1):
            yield Document(f"{file.name}#{place}", file.name, license, part, "prose")


def _other_spelling(name: PurePosixPath, names: set[str]) -> str:
    """The First Folio's spelling (`_gut_f`) goes where the collection has modern texts too."""
    return name.name if name.stem.endswith("_gut_f") and any(other.endswith("_gut.txt") for other in names) else ""


def strip_gutenberg(text: str) -> str:
    """The book without Project Gutenberg's header, licence and credits; unchanged where it has none."""
    starts = list(_START.finditer(text[: len(text) // 2 + 20_000]))
    if starts:
        text = text[starts[-1].end() :]
    if end := _END.search(text, len(text) // 2):
        text = text[: end.start()]
    return _CREDIT.sub("", text).strip()


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
