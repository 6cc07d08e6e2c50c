"""Large local files as spans of bytes, so that several workers read one and a kill costs a span.

A line belongs to the span in which it begins, and is named by the byte at which it begins: so nothing depends on where
the spans are cut. Packed files are not cut, as nobody knows what stands in front of a byte of theirs; but for those of
many bzip2 streams, of which a span holds the streams that begin in it (bzip2.py).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from groundup.corpus.sources.packed import is_packed
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.remote import is_remote
from groundup.packages import is_package

SPAN_BYTES = 256_000_000
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # of UTF-32-LE, the first bytes are UTF-16's


@dataclass(frozen=True)
class Span:
    """The lines, or streams, of a file that begin at `start` or behind it, and before `end`."""

    name: str  # of the file, as ids have it
    path: Path
    start: int
    end: int

    def open(self) -> IO[bytes]:
        """The file, at the first line of the span."""
        file = open(self.path, "rb")  # noqa: SIM115 - closed by who reads it
        if self.start:
            file.seek(self.start - 1)
            while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass  # the line that begins before the span
        return file


def cut_lines(pieces: list[Piece], is_lines: Callable[[Piece, bytes], bool]) -> list[Piece]:
    """The pieces, those above SPAN_BYTES in spans where `is_lines(piece, its first bytes)` says that they are lines."""
    can = lambda piece, head: not is_packed(head) and not head.startswith(_WIDE) and is_lines(piece, head)  # noqa: E731
    return cut_into_spans(pieces, can, SPAN_BYTES)


def cut_into_spans(pieces: list[Piece], can: Callable[[Piece, bytes], bool], most: int) -> list[Piece]:
    """The pieces; those of local files above `most` bytes in spans, where `can(piece, its first bytes)`."""
    cut: list[Piece] = []
    for piece in pieces:
        if piece.bytes <= most or is_remote(piece.where) or is_package(piece.where) or not _can(piece, can):
            cut.append(piece)
            continue
        for start in range(0, piece.bytes, most):
            size = min(most, piece.bytes - start)
            where = "\n".join((piece.where, piece.name, str(start), str(start + size)))
            identity = f"{piece.identity} {start}-{start + size}"
            cut.append(Piece(f"{piece.name} from byte {start:,}", identity, size, where, piece.cache))
    return cut


def _can(piece: Piece, can: Callable[[Piece, bytes], bool]) -> bool:
    try:
        with open(piece.where, "rb") as file:
            return can(piece, file.read(1 << 16))
    except OSError:
        return False  # its reader tells of it


def span_of(piece: Piece) -> Span | None:
    """The span that a piece of `cut_into_spans` is; None for a whole file."""
    path, *rest = piece.where.rsplit("\n", 3)
    return Span(rest[0], Path(path), int(rest[1]), int(rest[2])) if len(rest) == 3 else None
