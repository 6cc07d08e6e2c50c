"""The records of a web archive: WARC (ISO 28500) and the older ARC, gzipped record by record, as a whole, or not.

Read here and not by fastwarc, which believes the stated length of a record: what follows says whether it is true, and
a page is not cut off or drawn into the next one. Behind a damaged place the next gzip member that begins a record is
looked for. warcio reads ARC files, and where no record is found.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import IO, Any

from groundup.corpus.sources.files import Input
from groundup.corpus.sources.gzip_members import GZIP, NO_RECORD, Member, gzip_members, inflated, next_member
from groundup.corpus.sources.packed import UNPACK_ERRORS, unpack

_BLOCK = 1 << 20
_BEGINNING = 1 << 11
_MAX_LINE = 1 << 16
_HEADER_LINES = 200
_BLANK_LINE = re.compile(rb"\n\r?\n")
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
    damaged: str = ""  # why not all of it is as it was written, as far as is known


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
        start = inflated(head)[:32] if head.startswith(GZIP) else head
        if start.startswith(b"filedesc:"):
            yield from _by_warcio(stream)
        elif head.startswith(GZIP):
            yield from _gzipped(stream)
        elif head.lstrip().startswith(b"WARC/"):
            yield from _plain(stream)
        elif next_member(stream, 0) is not None:
            yield from _gzipped(stream)  # its beginning is damaged
        elif (unpacked := _from_start(stream, file.where)) is not stream:
            yield from _spooled(unpacked)
        else:
            yield from _plain(stream)


def _from_start(stream: Any, where: str) -> IO[bytes]:
    stream.seek(0)
    return unpack(stream, where)


# ---------------------------------------------------------------- gzip


def _gzipped(stream: Any) -> Iterator[Record | Gap]:
    """Members as files of their own: usually a record each, but also a whole archive, or a part of a record."""
    found_any, why = False, ""
    for one in _of_members(stream):
        if isinstance(one, Gap) and not found_any:
            why = why or one.why  # told when it is known that this is a web archive
            continue
        if not found_any and why:
            yield Gap(why, goes_on=True)
        found_any = True
        yield one
    if not found_any and why in ("", NO_RECORD):
        stream.seek(0)
        yield from _by_warcio(stream, "it has no WARC record")
    elif not found_any:
        yield Gap(why, goes_on=False)


def _of_members(stream: Any) -> Iterator[Record | Gap]:
    units: list[Member] = []  # the last member, with those behind it that go on with its records
    is_cut_anywhere = False  # the archive was compressed in blocks, and not record by record

    def goes_on() -> bool:
        return bool(units) and not units[-1].why and (is_cut_anywhere or _is_short(units[-1].data))

    for member in gzip_members(stream, goes_on):
        if not _begins_record(member.data) and goes_on():
            is_cut_anywhere = True
            units[-1].data.seek(0, io.SEEK_END)
            shutil.copyfileobj(member.data, units[-1].data, _BLOCK)
            units[-1].why, units[-1].goes_on = member.why, member.goes_on
            continue
        if units:
            yield from _of_unit(units.pop())
        units.append(member)
    if units:
        yield from _of_unit(units.pop())


def _of_unit(unit: Member) -> Iterator[Record | Gap]:
    if _begins_record(unit.data):
        waiting: list[Record | Gap] = []  # a record with what follows it up to the next one
        for one in _plain(unit.data):
            if isinstance(one, Record):
                yield from waiting
                waiting.clear()
            waiting.append(replace(one, goes_on=True) if isinstance(one, Gap) else one)
        if unit.why and waiting and isinstance(waiting[0], Record):
            waiting[0] = replace(waiting[0], damaged=unit.why)  # no checksum vouches for the last one
        yield from waiting
    elif not unit.why:
        yield Gap(NO_RECORD, unit.goes_on)
    if unit.why:
        yield Gap(unit.why, unit.goes_on)
    unit.data.close()


def _begins_record(data: IO[bytes]) -> bool:
    """Whether it begins with a record, with all of its headers. Leaves the place at the beginning."""
    for size in (_BEGINNING, _MAX_LINE):  # few records have longer headers
        data.seek(0)
        start = data.read(size).lstrip()
        data.seek(0)
        if len(start) >= len(b"WARC/") and not start.startswith(b"WARC/"):
            return False
        if start.startswith(b"WARC/") and _BLANK_LINE.search(start):
            return True
    return False


def _is_short(data: IO[bytes]) -> bool:
    """Whether the last record in it ends, as its headers say, behind the end of what is there."""
    end, place = data.seek(0, io.SEEK_END), 0
    while place < end:
        data.seek(place)
        line = data.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            return True
        if not line.strip():
            place = data.tell()
            continue
        if not line.startswith(b"WARC/"):
            return False
        length, has_all = "", False
        for line in islice(iter(lambda: data.readline(_MAX_LINE), b""), _HEADER_LINES):
            name, _, value = line.partition(b":")
            length = value.decode("latin-1").strip() if name.strip().lower() == b"content-length" else length
            if has_all := line in (b"\r\n", b"\n"):
                break
        if not has_all:
            return True
        place = data.tell() + (int(length) if length.isdigit() else 0)
    return place > end


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
                if record.format == "arc":
                    headers.pop("warc-record-id", None)  # made up by warcio, and another one every time
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
