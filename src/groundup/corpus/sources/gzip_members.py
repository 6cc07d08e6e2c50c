"""The members of a gzip file one by one, also behind damaged ones, where what they hold begins like a WARC record."""

from __future__ import annotations

import contextlib
import io
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

GZIP = b"\x1f\x8b\x08"
NO_RECORD = "a gzip member without a WARC record"
_BLOCK = 1 << 20
_READ = 1 << 16  # compressed bytes at a time: what is left of it is copied once for every record
_STEP = 1 << 18  # unpacked at a time
_HEAD = 64  # by which a record is told
_IN_MEMORY = 1 << 24  # larger members go to disk
_SALVAGE = 1 << 14  # read at a time of a damaged member
_PADDING = 512  # fewer zeros than this at the end of a file are no loss


@dataclass
class Member:
    """What a gzip member holds, and what it broke by. `goes_on`: another one was found behind it."""

    data: IO[bytes]
    why: str = ""
    goes_on: bool = True


def gzip_members(stream: Any, goes_on: Callable[[], bool]) -> Iterator[Member]:
    """The members in their order. Of one that is damaged, what stands before the damage; then on to the next record.

    A member that begins no record is unpacked only where the one before it `goes_on`.
    """
    stream.seek(0)
    pending, read_to = b"", 0  # bytes that were read and not yet used, and where in the file they end
    zeros = 0
    while True:
        if not pending and (pending := stream.read(_READ)):
            read_to += len(pending)
        is_end = not pending
        zeros += len(pending) - len(pending := pending.lstrip(b"\0"))
        if (is_end and zeros >= _PADDING) or (pending and zeros):
            yield Member(io.BytesIO(), f"{zeros:,} bytes of zeros", goes_on=not is_end)
        if is_end:
            return
        if not pending:
            continue
        zeros = 0
        start, why = read_to - len(pending), ""
        data: Any = io.BytesIO()  # a SpooledTemporaryFile would read every line in Python
        inflater, head, full = zlib.decompressobj(31), b"", False
        while not inflater.eof and not why:
            if not pending and not full:
                pending = stream.read(_READ)
                read_to += len(pending)
                why = "" if pending else "cut off inside a gzip member"
            try:
                out = inflater.decompress(pending, _STEP)
            except zlib.error as error:
                why = str(error)
                _salvage(stream, start, data)
                break
            pending, full = inflater.unconsumed_tail, len(out) == _STEP
            data.write(out)
            if isinstance(data, io.BytesIO) and data.tell() > _IN_MEMORY:
                data = _on_disk(data)
            if len(head) < _HEAD and (len(head := head + out[:_HEAD]) >= _HEAD or inflater.eof):
                why = why if head.lstrip().startswith(b"WARC/") or goes_on() else NO_RECORD
        if not why:
            pending = inflater.unused_data
            yield Member(data)
            continue
        found = next_member(stream, start + 1)
        yield Member(data, why, found is not None)
        if found is None:
            return
        stream.seek(found)
        pending, read_to = b"", found


def _on_disk(data: io.BytesIO) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who reads it
    file.write(data.getbuffer())
    return file


def _salvage(stream: Any, start: int, data: Any) -> None:
    """What of a damaged member can be unpacked, up to the very byte at which it shows."""
    stream.seek(start)
    data.seek(0)
    data.truncate()
    inflater, block = zlib.decompressobj(31), b""
    with contextlib.suppress(zlib.error):
        while not inflater.eof and (block := inflater.unconsumed_tail or stream.read(_SALVAGE)):
            before = inflater.copy()
            try:
                data.write(inflater.decompress(block, _STEP))
            except zlib.error:
                for place in range(len(block)):
                    data.write(before.decompress(block[place : place + 1]))


def next_member(stream: Any, place: int) -> int | None:
    """Where from `place` on a gzip member begins that holds the beginning of a WARC record."""
    stream.seek(place)
    data: bytes = b""
    base = place
    while block := stream.read(_BLOCK):
        data += block
        at = data.find(GZIP)
        while at >= 0:
            if len(data) - at < 4096:
                data += stream.read(4096)
            if inflated(data[at : at + 4096]).startswith(b"WARC/"):
                return base + at
            at = data.find(GZIP, at + 1)
        base, data = base + len(data) - 2, data[-2:]
    return None


def inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data, 1024)
    except zlib.error:
        return b""
