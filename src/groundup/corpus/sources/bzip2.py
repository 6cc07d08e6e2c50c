"""bzip2 files of many streams (Wikipedia's `multistream` dumps, what pbzip2 writes), stream by stream.

Where a stream begins is seen from its first ten bytes alone: they stand elsewhere by chance once in 2^80 bytes. So the
file is cut there before anything is unpacked: a stream that is damaged costs itself only, and a reader that starts
somewhere in the file finds the very streams that one which read all of it found.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

BZIP2 = b"BZh"
STREAM = re.compile(rb"BZh[1-9]1AY&SY")  # the mark, its block size, and the mark of its first block
_MARK_BYTES = 10
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Block:
    """Some bytes of the stream that begins at `place` of the file; or `why` the rest of it could not be read."""

    place: int
    data: bytes
    why: str = ""


def blocks(raw: IO[bytes], start: int = 0) -> Iterator[Block]:
    """What the streams hold that begin at `start` or behind it, at most 256 kB at a time; `raw` stands at `start`.

    What stands between a stream's end and the next one's beginning counts as the former's. OSError where the file
    itself cannot be read.
    """
    current, broken = -1, False
    decompressor = bz2.BZ2Decompressor()
    fed = False  # whether the decompressor is within a stream
    for place, data in _cut(raw, start):
        if place != current:
            if fed and not broken:
                yield Block(current, b"", "cut off inside a bzip2 stream")
            current, broken, decompressor, fed = place, False, bz2.BZ2Decompressor(), False
        while not broken and (data or not (decompressor.needs_input or decompressor.eof)):
            try:
                # What is well compressed comes out bit by bit: memory stays that of a block.
                out, data = decompressor.decompress(data, _BLOCK), b""
            except (OSError, EOFError, ValueError) as error:
                broken = True
                yield Block(place, b"", str(error) or "broken bzip2 stream")
                break
            fed = not decompressor.eof
            if out:
                yield Block(place, out)
            if decompressor.eof:
                data, decompressor = decompressor.unused_data, bz2.BZ2Decompressor()
    if fed and not broken:
        yield Block(current, b"", "cut off inside a bzip2 stream")


def _cut(raw: IO[bytes], start: int) -> Iterator[tuple[int, bytes]]:
    """(where a stream begins, some of its packed bytes). What the file begins with is a stream, whatever it is."""
    data, at = b"", start  # what was read and not yet told, and where in the file it begins
    current = 0 if start == 0 else None
    while block := raw.read(_BLOCK):
        data += block
        told = 0
        for found in STREAM.finditer(data):
            if current is not None and found.start() > told:
                yield current, data[told : found.start()]
            told, current = found.start(), at + found.start()
        end = max(told, len(data) - _MARK_BYTES + 1)  # behind it a mark may begin that is not all there yet
        if current is not None and end > told:
            yield current, data[told:end]
        data, at = data[end:], at + end
    if current is not None and data:
        yield current, data


def has_streams(raw: IO[bytes], within: int) -> bool:
    """Whether a second stream begins in the first `within` bytes; `raw` stands at the file's beginning."""
    data = b""
    at = 0
    while at < within and (block := raw.read(_BLOCK)):
        data = data[1 - _MARK_BYTES :] + block
        at += len(block)
        if any(at - len(data) + found.start() > 0 for found in STREAM.finditer(data)):
            return True
    return False
