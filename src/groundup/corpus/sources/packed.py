"""What is behind compression, and the members of archives: told by the first bytes, never by a file's name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from groundup.corpus.sources.tars import tar_members
from groundup.errors import UserError

_GZIP, _BZIP2, _XZ, _LZ4 = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x04\x22\x4d\x18"
_SEVENZIP, _ZIP = b"7z\xbc\xaf\x27\x1c", b"PK\x03\x04"
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # a frame, or a skippable one in front of it
_BLOCK = 1 << 18
ZSTD_WINDOW_BYTES = 1 << 31  # what `zstd --long=31` writes, as the Reddit dumps do

# What reading a broken archive raises (RuntimeError: an encrypted member of a zip).
ARCHIVE_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
)
UNPACK_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)


def unpack(raw: IO[bytes], where: str = "") -> IO[bytes]:
    """The bytes behind gzip, bzip2, xz, zstd, lz4 or 7z (its first file); the stream itself where there is none.

    Reading it raises one of UNPACK_ERRORS where the data are damaged. UserError where a package for it is missing.
    """
    stream = raw if hasattr(raw, "peek") else io.BufferedReader(raw, _BLOCK)  # type: ignore[type-var]
    head = bytes(stream.peek(8)[:8])
    if head.startswith(_GZIP):
        return gzip.open(stream)  # type: ignore[return-value]
    if head.startswith(_BZIP2):
        return bz2.open(stream)
    if head.startswith(_XZ):
        return lzma.open(stream)
    if _ZSTD.match(head):
        return _zstd(stream)
    if head.startswith(_LZ4):
        return io.BufferedReader(_Arrow(stream, "lz4"), _BLOCK)
    if head.startswith(_SEVENZIP):
        return _first_of_7z(stream, where)
    return stream


def _zstd(stream: Any) -> IO[bytes]:
    """Through `zstandard` where it is installed, as only that takes the long windows of `zstd --long`."""
    try:
        import zstandard
    except ImportError:
        return io.BufferedReader(_Arrow(stream, "zstd"), _BLOCK)
    inner = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).stream_reader(
        stream, read_across_frames=True, read_size=_BLOCK
    )
    return io.BufferedReader(_Readable(inner, zstandard.ZstdError), _BLOCK)


class _Readable(io.RawIOBase):
    """A foreign reader as a raw stream whose errors are OSErrors."""

    def __init__(self, inner: Any, error: type[Exception] | tuple[type[Exception], ...]) -> None:
        self._inner, self._error = inner, error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except self._error as error:
            raise OSError(str(error)) from error
        buffer[: len(data)] = data
        return len(data)


class _Member(_Readable):
    """A member of an archive; of a zip it may be sought in."""

    def seekable(self) -> bool:
        return bool(self._inner.seekable())

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return int(self._inner.seek(place, whence))

    def tell(self) -> int:
        return int(self._inner.tell())


class _Arrow(_Readable):
    def __init__(self, stream: Any, codec: str) -> None:
        import pyarrow as pa

        super().__init__(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec), pa.ArrowException)


def _first_of_7z(stream: Any, where: str) -> IO[bytes]:
    for _, content in _sevenzip(stream, where):
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its reader
        shutil.copyfileobj(content, copy)
        copy.seek(0)
        return copy
    raise OSError("the 7z archive holds no file")


def _sevenzip(stream: Any, where: str, lost: list[str] | None = None) -> Iterator[tuple[str, IO[bytes]]]:
    """Members of a 7z archive, unpacked to disk one by one: the format cannot be read forwards."""
    try:
        import py7zr
    except ImportError as error:
        raise UserError(
            "reading .7z needs the package py7zr", where=where, fix="pip install 'groundup[sevenzip]'"
        ) from error
    try:
        archive = py7zr.SevenZipFile(stream)
        names = [one.filename for one in archive.list() if not one.is_directory]
    except Exception as error:  # on damaged headers py7zr fails in many ways
        raise OSError(f"broken 7z archive: {type(error).__name__}: {error}") from error
    with archive:
        for name in names:
            with tempfile.TemporaryDirectory(prefix="groundup-7z-") as folder:
                try:
                    archive.reset()
                    archive.extract(path=folder, targets=[name])
                    file = open(Path(folder) / name, "rb")  # noqa: SIM115
                except Exception as error:
                    if lost is None:
                        raise OSError(f"broken 7z archive: {type(error).__name__}: {error}") from error
                    lost.append(f"{name}: {type(error).__name__}: {error}")
                    continue
                with file:
                    yield name, file


def is_archive(head: bytes, name: str) -> bool:
    """Whether a file that begins so (512 bytes, behind its compression) is a zip, tar or 7z archive."""
    return head.startswith((_ZIP, _SEVENZIP)) or head[257:262] == b"ustar" or name.endswith(".tar")


def is_packed(head: bytes) -> bool:
    """Whether a file that begins so is compressed, or an archive."""
    starts = (_GZIP, _BZIP2, _XZ, _LZ4, _SEVENZIP, _ZIP)
    return head.startswith(starts) or _ZSTD.match(head) is not None or is_archive(head[:512], "")


def is_sevenzip(head: bytes) -> bool:
    return head.startswith(_SEVENZIP)


def members(stream: IO[bytes], where: str, lost: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """(path in the archive, content) of every file, in the archive's order; each content is read before the next one.

    What is damaged and was passed over is added to `lost` when it is seen. Raises one of ARCHIVE_ERRORS where nothing
    more of the archive can be read; reading a content raises OSError or EOFError.
    """
    head = bytes(stream.peek(8)[:8])  # type: ignore[attr-defined]
    if head.startswith(_ZIP):
        for name, content in _zip_members(stream, lost):
            yield name, io.BufferedReader(_Member(content, ARCHIVE_ERRORS), _BLOCK)
    elif head.startswith(_SEVENZIP):
        yield from _sevenzip(stream, where, lost)
    else:
        for header, content in tar_members(stream, lost):  # forwards only: a compressed tar is never unpacked twice
            yield header.name, io.BufferedReader(_Member(content, ARCHIVE_ERRORS), _BLOCK)


def _zip_members(stream: Any, lost: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(stream) as archive:
        if not archive.infolist():  # one that is empty does not begin as one with a member
            lost.append("the directory at its end names no file")
        for info in archive.infolist():
            if info.is_dir():
                continue
            try:
                content = archive.open(info)
            except ARCHIVE_ERRORS as error:  # encrypted, of an unknown method, or its own header is broken
                lost.append(f"{info.filename}: {error}")
                continue
            with content:
                yield info.filename, content
