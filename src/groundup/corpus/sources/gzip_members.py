"""The members of a gzip file one by one, also behind damaged ones, where what they hold begins like a WARC record."""

from __future__ import annotations

import contextlib
import io
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

try:
    from isal import isal_zlib as fast_zlib  # the same at twice the speed
except ImportError:  # no wheel for this processor
    import zlib as fast_zlib  # type: ignore[no-redef]

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


@dataclass
class _Packed:
    """A compressed file, and what of it was read and not yet used."""

    stream: Any
    pending: bytes = b""
    read_to: int = 0

    @property
    def place(self) -> int:
        return self.read_to - len(self.pending)

    def seek(self, place: int) -> None:
        self.stream.seek(place)
        self.pending, self.read_to = b"", place

    def fill(self) -> bool:
        """Is there anything pending, after reading on where there was not?"""
        if not self.pending:
            self.pending = self.stream.read(_READ)
            self.read_to += len(self.pending)
        return bool(self.pending)


def gzip_members(stream: Any, goes_on: Callable[[], bool]) -> Iterator[Member]:
    """The members in their order. Of one that is damaged, what stands before the damage; then on to the next record.

    A member that begins no record is unpacked only where the one before it `goes_on`.
    """
    packed = _Packed(stream)
    packed.seek(0)
    zeros = 0
    while True:
        is_end = not packed.fill()
        size = len(packed.pending)
        packed.pending = packed.pending.lstrip(b"\0")
        zeros += size - len(packed.pending)
        if (is_end and zeros >= _PADDING) or (packed.pending and zeros):
            yield Member(io.BytesIO(), f"{zeros:,} bytes of zeros", goes_on=not is_end)
        if is_end:
            return
        if not packed.pending:
            continue
        zeros, start = 0, packed.place
        data, why = _member(packed, goes_on)
        if not why:
            yield Member(data)
            continue
        found = next_member(stream, start + 1)
        yield Member(data, why, found is not None)
        if found is None:
            return
        packed.seek(found)


def _member(packed: _Packed, goes_on: Callable[[], bool]) -> tuple[IO[bytes], str]:
    """(what the next member holds, what it broke by)"""
    start = packed.place
    with contextlib.suppress(fast_zlib.error):  # type: ignore[arg-type]
        return _unpacked(packed, fast_zlib.decompressobj(31), goes_on)
    packed.seek(start)
    try:  # what is damaged, and how, is zlib's to say, so that no result depends on which of the two is here
        return _unpacked(packed, zlib.decompressobj(31), goes_on)
    except zlib.error as error:
        return _salvaged(packed.stream, start), str(error)


def _unpacked(packed: _Packed, inflater: Any, goes_on: Callable[[], bool]) -> tuple[IO[bytes], str]:
    """Raises the error of the inflater's library where the member is damaged."""
    data: Any = io.BytesIO()  # a SpooledTemporaryFile would read every line in Python
    head, full = b"", False
    while not inflater.eof:
        if not full and not packed.fill():
            return data, "cut off inside a gzip member"
        out = inflater.decompress(packed.pending, _STEP)
        packed.pending, full = inflater.unconsumed_tail, len(out) == _STEP
        data.write(out)
        if isinstance(data, io.BytesIO) and data.tell() > _IN_MEMORY:
            data = _on_disk(data)
        if len(head) < _HEAD:
            head += out[:_HEAD]
            is_told = len(head) >= _HEAD or inflater.eof
            if is_told and not head.lstrip().startswith(b"WARC/") and not goes_on():
                return data, NO_RECORD
    packed.pending = inflater.unused_data
    return data, ""


def _on_disk(data: io.BytesIO) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who reads it
    file.write(data.getbuffer())
    return file


def _salvaged(stream: Any, start: int) -> IO[bytes]:
    """What of a damaged member can be unpacked, up to the very byte at which it shows."""
    data: Any = io.BytesIO()
    stream.seek(start)
    inflater, block = zlib.decompressobj(31), b""
    with contextlib.suppress(zlib.error):
        while not inflater.eof and (block := inflater.unconsumed_tail or stream.read(_SALVAGE)):
            before = inflater.copy()
            try:
                data.write(inflater.decompress(block, _STEP))
            except zlib.error:
                for place in range(len(block)):
                    data.write(before.decompress(block[place : place + 1]))
            if isinstance(data, io.BytesIO) and data.tell() > _IN_MEMORY:
                data = _on_disk(data)
    return data  # type: ignore[no-any-return]


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
