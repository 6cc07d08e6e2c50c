"""The records of a web archive: WARC (ISO 28500) and the older ARC, gzipped record by record, as a whole, or not.

fastwarc reads what is well formed. Behind a damaged place the next gzip member that begins a record is looked for;
uncompressed archives are read here, because lengths in them can be checked against what follows; warcio reads ARC
files, and what fastwarc finds nothing in.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from fastwarc.warc import ArchiveIterator, WarcRecord

from groundup.corpus.sources.files import Input
from groundup.corpus.sources.packed import UNPACK_ERRORS, unpack

_GZIP = b"\x1f\x8b\x08"
_BLOCK = 1 << 20
_MAX_LINE = 1 << 16
_HEADER_LINES = 200
_NEXT_RECORD = re.compile(rb"\r?\nWARC/\d")
_GAP_AFTER_RECORD = re.compile(rb"[\r\n]{1,8}\Z|[\r\n]{1,8}WARC/\d")
_ERRORS = (OSError, EOFError, ValueError, zlib.error)


@dataclass(frozen=True)
class Record:
    """One record; `block` gives what stands below its headers, once, and before the next record is asked for."""

    kind: str  # response, revisit, conversion ...
    headers: dict[str, str]  # names in lower case
    length: int  # of the block, as the headers say or as was found
    block: Any  # .read(size)
    length_mended: bool = False


@dataclass(frozen=True)
class Gap:
    """A place that could not be read. `goes_on`: a record was found behind it."""

    why: str
    goes_on: bool


def records(file: Input) -> Iterator[Record | Gap]:
    """Every record in the archive's order, and the gaps between them. OSError where the file cannot be opened."""
    with file.open() as raw:
        stream: Any = raw if hasattr(raw, "peek") else io.BufferedReader(raw, _BLOCK)  # type: ignore[type-var]
        head = bytes(stream.peek(1024)[:1024])
        start = _inflated(head)[:32] if head.startswith(_GZIP) else head
        if start.startswith(b"filedesc:"):
            yield from _by_warcio(stream)
        elif head.startswith(_GZIP):
            yield from _gzipped(stream)
        elif head.lstrip().startswith(b"WARC/"):
            yield from _plain(stream)
        elif _next_member(stream, 0) is not None:
            yield from _gzipped(stream)  # its beginning is damaged
        elif (unpacked := _from_start(stream, file.where)) is not stream:
            yield from _spooled(unpacked)
        else:
            yield from _plain(stream)


def _from_start(stream: Any, where: str) -> IO[bytes]:
    stream.seek(0)
    return unpack(stream, where)


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data, 1024)
    except zlib.error:
        return b""


# ---------------------------------------------------------------- gzip


def _gzipped(stream: Any) -> Iterator[Record | Gap]:
    begin, found_any, why = 0, False, ""
    while True:
        last = begin
        try:
            stream.seek(begin)
            for record in ArchiveIterator(stream, parse_http=False, quirks_mode=True):
                if why:
                    yield Gap(why, goes_on=True)
                    why = ""
                last, found_any = max(last, record.stream_pos), True
                yield _of_fastwarc(record)
            if not why and found_any:
                return
            why = why or "it has no WARC record"
        except BaseException as error:
            why = why or _why(error)
        behind = _next_member(stream, last + 1)
        if behind is not None:
            begin = behind
            continue
        if found_any:
            yield Gap(why, goes_on=False)
        else:
            stream.seek(0)
            yield from _by_warcio(stream, why)
        return


def _why(error: BaseException) -> str:
    """The words of an error that damaged data cause, panics of fastwarc's Rust included; any other goes on its way."""
    if not isinstance(error, _ERRORS) and type(error).__name__ != "PanicException":
        raise error
    return str(error) or type(error).__name__


class _FastwarcBlock:
    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._reader.read(size))
        except BaseException as error:
            raise OSError(_why(error)) from error


def _next_member(stream: Any, place: int) -> int | None:
    """Where from `place` on a gzip member begins that holds the beginning of a WARC record."""
    stream.seek(place)
    data: bytes = b""
    base = place
    while block := stream.read(_BLOCK):
        data += block
        at = data.find(_GZIP)
        while at >= 0:
            if len(data) - at < 4096:
                data += stream.read(4096)
            if _inflated(data[at : at + 4096]).startswith(b"WARC/"):
                return base + at
            at = data.find(_GZIP, at + 1)
        base, data = base + len(data) - 2, data[-2:]
    return None


def _of_fastwarc(record: WarcRecord) -> Record:
    headers = {name.lower(): value for name, value in record.headers}
    return Record(headers.get("warc-type", "").lower(), headers, record.content_length, _FastwarcBlock(record.reader))


def _spooled(stream: IO[bytes]) -> Iterator[Record | Gap]:
    """Another compression (.warc.zst), unpacked to disk first: what is read forwards only lets no length be checked."""
    with tempfile.TemporaryFile() as spool:
        why = ""
        try:
            shutil.copyfileobj(stream, spool, _BLOCK)
        except UNPACK_ERRORS as error:
            why = str(error)
        yield from _plain(spool)
    if why:
        yield Gap(why, goes_on=False)


def _by_warcio(stream: Any, why: str = "") -> Iterator[Record | Gap]:
    """ARC files, whose headers warcio turns into those of WARC."""
    from warcio.archiveiterator import ArchiveIterator as WarcioIterator
    from warcio.exceptions import ArchiveLoadFailed

    found_any = False
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it prints its warnings
            for record in WarcioIterator(stream, no_record_parse=True, arc2warc=True):
                found_any = True
                headers = {name.lower(): value for name, value in record.rec_headers.headers}
                yield Record(record.rec_type, headers, record.length or 0, record.raw_stream)
    except (*_ERRORS, ArchiveLoadFailed) as error:
        yield Gap(why or " ".join(str(error).split()), goes_on=False)
        return
    if not found_any:
        yield Gap(why or "it has no record", goes_on=False)


# ---------------------------------------------------------------- not compressed


class _Block:
    """A part of a seekable stream."""

    def __init__(self, stream: Any, start: int, length: int) -> None:
        self._stream, self._place, self._end = stream, start, start + length

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._place
        self._stream.seek(self._place)
        data: bytes = self._stream.read(left if size < 0 else min(size, left))
        self._place += len(data)
        return data


def _plain(stream: Any) -> Iterator[Record | Gap]:
    place, found_any = 0, False
    while True:
        stream.seek(place)
        line = stream.readline(_MAX_LINE)
        while line in (b"\r\n", b"\n"):
            line = stream.readline(_MAX_LINE)
        if not line:
            break
        if line.startswith(b"WARC/"):
            headers = _headers(stream)
            length = int(headers.get("content-length", "")) if headers.get("content-length", "").isdigit() else -1
            start = stream.tell()
            actual = _checked_length(stream, start, length)
            found_any = True
            block = _Block(stream, start, actual)
            yield Record(headers.get("warc-type", "").lower(), headers, actual, block, actual != length)
            place = start + actual
        else:
            at = place
            found = _find_record(stream, at)
            yield Gap(f"no record begins at byte {at:,}: {line[:60]!r}", found is not None)
            if found is None:
                return
            place = found
            found_any = True
    if not found_any:
        yield Gap("it has no WARC record", goes_on=False)


def _headers(stream: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(_HEADER_LINES):
        line = stream.readline(_MAX_LINE)
        if not line.strip():
            break
        name, _, value = line.decode("utf-8", "replace").partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


def _checked_length(stream: Any, start: int, length: int) -> int:
    """The stated length where the file ends or a record begins behind it; else up to where the next one begins.

    A file that is cut off inside the block keeps the stated length, so that the block is seen to be short.
    """
    if length >= 0:
        stream.seek(start + length)
        after = stream.read(16)
        if not after or _GAP_AFTER_RECORD.match(after):
            # What is behind the end of the file also reads as nothing: is the block cut off, or its length too large?
            if after or stream.seek(0, io.SEEK_END) == start + length:
                return length
            found = _find_record(stream, start)
            return length if found is None else _without_end_of_line(stream, start, found)
    found = _find_record(stream, start)
    end = stream.seek(0, io.SEEK_END) if found is None else found
    return _without_end_of_line(stream, start, end)


def _without_end_of_line(stream: Any, start: int, end: int) -> int:
    stream.seek(max(start, end - 4))
    tail = stream.read(end - max(start, end - 4))
    return max(0, end - start - (len(tail) - len(tail.rstrip(b"\r\n"))))


def _find_record(stream: Any, place: int) -> int | None:
    """Where from `place` on a line begins a record."""
    stream.seek(place)
    data: bytes = b""
    base = place
    while block := bytes(stream.read(_BLOCK)):
        data += block
        if found := _NEXT_RECORD.search(data):
            return base + found.end() - len(b"WARC/1")
        base, data = base + len(data) - 16, data[-16:]
    return None
