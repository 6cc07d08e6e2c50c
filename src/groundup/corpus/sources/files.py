"""From a path as written in a recipe to open inputs: files, folders, globs, addresses, lists of paths, packages."""

from __future__ import annotations

import codecs
import glob
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from groundup.console import Console
from groundup.corpus.document import Drop
from groundup.corpus.sources.packed import ARCHIVE_ERRORS, UNPACK_ERRORS, is_archive, is_sevenzip, members, unpack
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.remote import dataset_license, find, is_remote, normalised, open_remote
from groundup.errors import UserError
from groundup.packages import fetch_package, is_package, open_member, split_spec

COMMON_CRAWL = "https://data.commoncrawl.org/"


@dataclass(frozen=True)
class Input:
    """One file to read. `name` goes into ids, and is the same wherever the data lies; messages say `where` it is."""

    name: str  # relative to what the recipe names
    path: Path | None = None
    content: bytes | None = None
    license: str = ""  # the package's or the Hub data set's, where it is one
    address: str = ""  # of a remote file
    stream: IO[bytes] | None = None  # a member of an archive: read once, before the next one

    @property
    def where(self) -> str:
        return str(self.path) if self.path is not None else self.address or self.name

    def open(self) -> IO[bytes]:
        """The bytes as they are stored. OSError where they cannot be read, UserError where a network stays away."""
        if self.stream is not None:
            return self.stream
        if self.content is not None:
            return io.BytesIO(self.content)
        return open_remote(self.address) if self.address else open(self.path or "", "rb")

    def open_unpacked(self) -> IO[bytes]:
        """The bytes behind compression, told by their first bytes and not by the file's name (`packed.unpack`)."""
        return unpack(self.open(), self.where)

    def read_text(self) -> str:
        with self.open_unpacked() as file:
            return decode(file.read())


def open_inputs(spec: str, cache: Path, console: Console | None) -> Iterator[Input]:
    """The files behind a recipe's `path`, sorted by name. UserError where there are none."""
    if is_package(spec):
        package, _ = split_spec(spec)
        for name, content in open_member(spec, cache, console):
            yield Input(f"{package.name}/{name}", content=content, license=package.license)
    elif is_remote(spec):
        for found in find(spec):
            yield Input(found.name, license=_hub_license(found.address), address=found.address)
    else:
        files = local_files(spec)
        root = Path(spec).expanduser()
        if not root.is_dir():
            root = Path(os.path.commonpath([path.parent for path in files]))
        for path in files:
            yield Input(path.relative_to(root).as_posix(), path=path)


def file_pieces(
    spec: str, cache: Path, *, lists: bool = False, root: str | None = None, max_files: int | None = None
) -> list[Piece]:
    """One piece per file behind a recipe's `path`, sorted by name; a package (downloaded here) is one piece.

    `.paths` and `.paths.gz` are lists of paths, one a line, as Common Crawl publishes them; with `lists`, `.txt` and
    `.txt.gz` are too. `root` is what relative paths in them start from. Of more than `max_files` files, those with the
    smallest hashes of their names are taken. A remote file of a list is not asked for here: what its address names
    is taken not to change.
    Raises PackageUnreachableError where a package cannot be had, UserError where there are no files.
    """
    if is_package(spec):
        package, _ = split_spec(spec)
        fetch_package(package.name, cache)
        return [Piece(package.name, package.sha256, package.bytes, spec, str(cache))]
    if is_path_list(spec, lists):
        return listed_pieces(spec, root, max_files)
    if is_remote(spec):
        pieces = [Piece(found.name, found.identity, found.bytes, found.address) for found in find(spec)]
        return sample(pieces, max_files)
    pieces = [_local_piece(file.name, file.path or Path()) for file in open_inputs(spec, cache, None)]
    return sample(pieces, max_files)


def open_piece(piece: Piece) -> Iterator[Input]:
    """The inputs of a piece that `file_pieces` made: one file, or the members of a package."""
    if is_package(piece.where):
        yield from open_inputs(piece.where, Path(piece.cache), None)
    elif is_remote(piece.where):
        yield Input(piece.name, license=_hub_license(piece.where), address=piece.where)
    else:
        yield Input(piece.name, path=Path(piece.where))


def open_members(piece: Piece) -> Iterator[Input | Drop]:
    """As `open_piece`, with zip, tar and 7z archives as their members; a drop for every place of one that is damaged.

    A member is read before the next one is asked for.
    """
    for file in open_piece(piece):
        lost: list[str] = []
        try:
            with _open_outer(file) as stream:
                if is_archive(bytes(stream.peek(512)[:512]), file.name):  # type: ignore[attr-defined]
                    for name, content in members(stream, file.where, lost):
                        yield from lost_places(file, lost)
                        yield Input(f"{file.name}/{name}", license=file.license, stream=content)
                    yield from lost_places(file, lost)
                    continue
        except ARCHIVE_ERRORS as error:
            yield from lost_places(file, lost)
            yield Drop(file.name, "read", "unreadable file", f"{file.where}: {error}")
            continue
        yield file


def lost_places(file: Input, lost: list[str]) -> Iterator[Drop]:
    """A drop for each place of an archive that was passed over; they are taken out of `lost`."""
    while lost:
        why = lost.pop(0)
        yield Drop(f"{file.name}: {why}", "read", "damaged place in an archive: on to what follows", file.where)


def _open_outer(file: Input) -> IO[bytes]:
    """As `open_unpacked`, but a 7z archive as it is: it is an archive here, and not the packing of one file."""
    raw = file.open()
    stream: Any = raw if hasattr(raw, "peek") else io.BufferedReader(raw)  # type: ignore[type-var]
    return stream if is_sevenzip(bytes(stream.peek(8)[:8])) else unpack(stream, file.where)  # type: ignore[no-any-return]


@lru_cache(maxsize=16)
def _hub_license(address: str) -> str:
    return dataset_license(address) if address.startswith("hf://") else ""


def _local_piece(name: str, path: Path) -> Piece:
    stat = path.stat()
    return Piece(name, f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_size, str(path))


def sample(pieces: list[Piece], most: int | None) -> list[Piece]:
    if most is None or len(pieces) <= most:
        return pieces
    by_hash = sorted(pieces, key=lambda piece: hashlib.blake2b(piece.name.encode("utf-8", "replace")).digest())
    chosen = {piece.name for piece in by_hash[:most]}
    return [piece for piece in pieces if piece.name in chosen]


# ---------------------------------------------------------------- lists of paths


def is_path_list(spec: str, lists: bool = False) -> bool:
    """Whether a recipe's `path` names a list of paths, by its name."""
    name = PurePosixPath(spec.partition("?")[0]).name.removesuffix(".gz")
    return not glob.has_magic(spec) and name.endswith((".paths", ".txt", ".lst") if lists else (".paths",))


def listed_pieces(spec: str, root: str | None, max_files: int | None) -> list[Piece]:
    """A piece for each entry of a list of paths. UserError where local ones are not there."""
    [file] = open_inputs(spec, Path(), None)
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except UNPACK_ERRORS as error:
        raise UserError(f"the list of paths cannot be read: {error}", where=spec, fix="fetch it again") from error
    entries = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not entries:
        raise UserError("the list names no path", where=spec, fix="write one path or address a line")
    pieces = sample([_entry(entry, _root_of(entry, spec, root)) for entry in entries], max_files)
    missing = [piece.where for piece in pieces if not is_remote(piece.where) and not Path(piece.where).is_file()]
    if missing:
        raise UserError(
            f"{len(missing):,} of the {len(pieces):,} files it names are not there: {', '.join(missing[:3])}",
            where=spec,
            fix="correct the list, or set `path_root` to what its relative paths start from",
        )
    return [piece if is_remote(piece.where) else _local_piece(piece.name, Path(piece.where)) for piece in pieces]


def _root_of(entry: str, spec: str, root: str | None) -> str:
    """What a relative path starts from: what was set; what stands before its first part in the list's own address;
    Common Crawl's server for Common Crawl's paths; else the list's folder."""
    if root is not None:
        return root.rstrip("/") + "/"
    before, found, _ = spec.rpartition(f"/{entry.split('/')[0]}/")
    if found:
        return f"{before}/"
    folder = spec.rpartition("/")[0]
    beside = f"{folder}/" if folder else ""
    is_crawl = entry.startswith("crawl-data/") and not is_remote(spec) and not Path(beside + "crawl-data").is_dir()
    return COMMON_CRAWL if is_crawl else beside


def _entry(entry: str, root: str) -> Piece:
    """A piece by its path alone. Its name has no scheme, so that it is the same from s3:// and from https://."""
    where = entry if is_remote(entry) or entry.startswith(("/", "~")) else root + entry
    name = where.partition("://")[2].partition("?")[0] if is_remote(entry) else entry.lstrip("/~")
    if is_remote(where):
        return Piece(name, entry, 0, normalised(where))
    return Piece(name, "", 0, str(Path(where).expanduser()))


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


def encoding_of(head: bytes) -> str:
    """The encoding of a text that begins so, for what is too large to be decoded as a whole."""
    for bom, encoding in (
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(bom):
            return encoding
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # not final: the last character may be cut in two
        return "utf-8-sig"
    except UnicodeDecodeError:
        from resiliparse.parse.encoding import detect_encoding

        return detect_encoding(head) or "cp1252"


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
