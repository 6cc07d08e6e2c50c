"""Tables of 64-bit hash keys on disk, sorted by key, so that a group of keys is one slice of every shard's table.

A shard task writes one table; a group task reads the keys of its range from all of them by binary search on the mapped
file. No shuffle is needed, the number of groups is free until then, and a group needs memory for its own slice only.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[Any]  # structured: one record per entry

BAND_KEYS = np.dtype([("key", "<u8"), ("row", "<u4")])
DOCUMENT_KEYS = np.dtype([("key", "<u8"), ("check", "<u8"), ("row", "<u4")])  # 128 bits tell texts apart
PARAGRAPH_KEYS = np.dtype([("key", "<u8"), ("check", "<u8"), ("row", "<u4"), ("paragraph", "<u4")])
PAIRS = np.dtype([("key", "<u8"), ("left", "<i8"), ("right", "<i8")])  # the key of `left` tells who verifies the pair
EDGES = np.dtype([("left", "<i8"), ("right", "<i8"), ("similarity", "<f4")])
REPEATS = np.dtype([("document", "<i8"), ("first", "<i8"), ("similarity", "<f4")])  # `first` stays for `document`
CUTS = np.dtype([("document", "<i8"), ("start", "<i8"), ("end", "<i8")])  # what is cut of it: paragraphs or words


@dataclass(frozen=True)
class Group:
    """One of `of` equal ranges of the 64-bit keys; `number` counts from 0."""

    number: int
    of: int

    @property
    def low(self) -> int:
        return (self.number << 64) // self.of

    @property
    def high(self) -> int:
        """The first key beyond the range."""
        return ((self.number + 1) << 64) // self.of


@dataclass(frozen=True)
class ShardFiles:
    """The arrays that one shard left, `folder/name.*.npy`."""

    folder: Path
    name: str

    def array(self, what: str) -> Path:
        return self.folder / f"{self.name}.{what}.npy"


def table_of(dtype: np.dtype[Any], **columns: NDArray[Any]) -> Table:
    """A structured array from its columns, all of one length."""
    table = np.empty(len(next(iter(columns.values()))), dtype)
    for name, values in columns.items():
        table[name] = values
    return table


def write_table(path: Path, table: Table, sort_by: Sequence[str] = ()) -> int:
    """Write `table` sorted by these columns (default: all, in their order), or not at all. Returns its rows.

    The file is complete when it has its name: it is written under another one, flushed and renamed.
    """
    names = list(sort_by) or list(table.dtype.names or ())
    table = table[np.lexsort([np.ascontiguousarray(table[name]) for name in reversed(names)])]
    write_array(path, table)
    return len(table)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """A .npy file, whole or not there."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def map_array(path: Path) -> NDArray[Any]:
    """The array of a .npy file, read from disk only where it is looked at."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


class ArrayFile:
    """Runs of a one-dimensional .npy file, read one by one: of a mapped file every page once seen counts as memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        np.lib.format.read_magic(self._file)
        _, _, self.dtype = np.lib.format.read_array_header_1_0(self._file)
        self._begin = self._file.tell()

    def read(self, first: int, last: int) -> NDArray[Any]:
        size = self.dtype.itemsize
        return np.frombuffer(
            os.pread(self._file.fileno(), (last - first) * size, self._begin + first * size), self.dtype
        )


def read_group(paths: Sequence[Path], group: Group) -> list[Table]:
    """For each table, its records of the group, copied into memory."""
    return [read_range(path, "key", group.low, group.high) for path in paths]


def read_range(path: Path, column: str, low: int, high: int) -> Table:
    """The records with low <= column < high of a table sorted by that column."""
    table = map_array(path)
    keys = table[column]
    first = bisect_left(keys, low, key=int)
    last = bisect_left(keys, high, lo=first, key=int)
    return np.array(table[first:last])


def read_documents(paths: Sequence[Path], first: int, count: int, dtype: np.dtype[Any] = REPEATS) -> Table:
    """All records about the documents first ... first + count - 1, by document: what a shard's last task looks up."""
    found = [read_range(path, "document", first, first + count) for path in paths]
    table = np.concatenate([np.empty(0, dtype), *found])
    return table[np.argsort(table["document"], kind="stable")]


def most_alike(repeats: Table) -> Table:
    """REPEATS with each document once, with the one that is the most alike; by document."""
    repeats = repeats[np.lexsort((repeats["first"], -repeats["similarity"], repeats["document"]))]
    is_first = np.ones(len(repeats), bool)
    is_first[1:] = repeats["document"][1:] != repeats["document"][:-1]
    return repeats[is_first]


def holds(paths: Sequence[Path], documents: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether each document is dropped by one of these REPEATS tables."""
    found = np.zeros(len(documents), bool)
    for path in paths:
        dropped = np.ascontiguousarray(map_array(path)["document"])
        if len(dropped):
            places = np.searchsorted(dropped, documents)
            found |= dropped[np.minimum(places, len(dropped) - 1)] == documents
    return found
