"""Rows brought together by a key, on disk: threads of posts that lie far apart in a dump larger than memory.

As a hash join does it (Grace: Kitsuregawa et al. 1983): rows go to bucket files by a hash of their key, and each
bucket is sorted in memory. The files have no name, so that nothing is left behind when the process is killed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import xxhash

BUCKET_BYTES = 24 << 20  # rows as Python objects take several times as much
MOST_BUCKETS = 128  # open files
_MOST_LEVELS = 6


class Grouped:
    """Add rows, then go through the groups once. Memory is that of one bucket, or of one group where that is larger.

    The order of the groups depends on the keys and `expected_bytes` alone; within a group it is that of adding.
    """

    def __init__(self, expected_bytes: int, folder: str | None = None, level: int = 0) -> None:
        self._folder, self._level = folder, level
        count = min(MOST_BUCKETS, expected_bytes // BUCKET_BYTES + 1)
        self._files: list[IO[bytes]] = [tempfile.TemporaryFile(dir=folder) for _ in range(count)]  # noqa: SIM115

    def add(self, key: str, row: Any) -> None:
        line = json.dumps([key, row], ensure_ascii=True, separators=(",", ":")).encode()
        place = xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"), seed=self._level) % len(self._files)
        self._files[place].write(line + b"\n")

    def groups(self) -> Iterator[tuple[str, list[Any]]]:
        """(key, its rows). What has been gone through is no longer on disk."""
        try:
            for file in self._files:
                size = file.tell()
                file.seek(0)
                if size > 4 * BUCKET_BYTES and self._level < _MOST_LEVELS:
                    yield from self._split(file, size)
                else:
                    yield from _in_memory(file)
                file.close()
        finally:
            self.close()

    def _split(self, file: IO[bytes], size: int) -> Iterator[tuple[str, list[Any]]]:
        finer = Grouped(size, self._folder, self._level + 1)
        for line in file:
            key, row = json.loads(line)
            finer.add(key, row)
        yield from finer.groups()

    def close(self) -> None:
        for file in self._files:
            file.close()


def _in_memory(file: IO[bytes]) -> Iterator[tuple[str, list[Any]]]:
    found: dict[str, list[Any]] = {}
    for line in file:
        key, row = json.loads(line)
        found.setdefault(key, []).append(row)
    for key in sorted(found):
        yield key, found.pop(key)
