"""Exact duplicates from files to files: what the tasks of a large corpus call. Keys come from exact.py.

A document's number is its place in the corpus: `bases[shard] + row`; `bases` counts the rows of the earlier shards.
The first of several equal ones stays, so a corpus lists first what should be kept: its sources in the recipe's order.

  shard task   keys of the texts, addresses or paragraphs of a shard  -> a table sorted by key
  group task   a range of keys, of all shards                         -> REPEATS (documents) or CUTS (paragraphs)
  last task    the shard's slice of those (keytable.read_documents)   -> the shard without them

Memory: a shard's keys (20 bytes per document, 24 per paragraph), or a group's slice of all shards' keys. Nothing
depends on how many groups there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.corpus.dedup.keytable import (
    CUTS,
    DOCUMENT_KEYS,
    PARAGRAPH_KEYS,
    REPEATS,
    Group,
    Table,
    holds,
    read_group,
    table_of,
    write_table,
)

_LOW_HALF = (1 << 64) - 1


def write_document_keys(keys: Iterable[int | None], out: Path) -> int:
    """Shard task: the 128-bit key of each row's text or address, to `out`; None has none. Returns the keys written."""
    numbered = [(key >> 64, key & _LOW_HALF, row) for row, key in enumerate(keys) if key is not None]
    return write_table(out, np.array(numbered, DOCUMENT_KEYS))


def write_paragraph_keys(keys: Iterable[Sequence[tuple[int, int]]], out: Path) -> int:
    """Shard task: `paragraph_keys` of each row's text (nothing for one that is not looked at), to `out`."""
    numbered = [(key >> 64, key & _LOW_HALF, row, paragraph) for row, own in enumerate(keys) for paragraph, key in own]
    return write_table(out, np.array(numbered, PARAGRAPH_KEYS))


def write_repeats(
    tables: Sequence[Path], bases: Sequence[int], dropped: Sequence[Path], group: Group, out: Path
) -> dict[str, int]:
    """Group task: documents whose key an earlier document has, with the first that has it, to `out` (REPEATS).

    Documents in the `dropped` tables (REPEATS of an earlier step) are not looked at.
    """
    table, documents = _read(tables, bases, dropped, group)
    first, is_repeat = _firsts(table, documents)
    repeats = table_of(
        REPEATS,
        document=documents[is_repeat],
        first=documents[first[is_repeat]],
        similarity=np.ones(int(is_repeat.sum()), np.float32),
    )
    return {"keys": len(table), "repeats": write_table(out, repeats)}


def write_paragraph_cuts(
    tables: Sequence[Path], bases: Sequence[int], dropped: Sequence[Path], group: Group, out: Path
) -> dict[str, int]:
    """Group task: paragraphs that stand earlier in the corpus, or in the same document, to `out` (CUTS).

    Call it with everything that is dropped for good, near-duplicates too: else a paragraph is cut for the sake of a
    document that goes as well.
    """
    table, documents = _read(tables, bases, dropped, group)
    _, is_repeat = _firsts(table, documents, table["paragraph"])
    paragraphs = table["paragraph"][is_repeat].astype(np.int64)
    cuts = table_of(CUTS, document=documents[is_repeat], start=paragraphs, end=paragraphs + 1)
    return {"keys": len(table), "cuts": write_table(out, cuts)}


def _read(
    tables: Sequence[Path], bases: Sequence[int], dropped: Sequence[Path], group: Group
) -> tuple[Table, NDArray[np.int64]]:
    """The group's records of all tables, and the number of each one's document."""
    slices = read_group(tables, group)
    if not slices:
        return np.empty(0, PARAGRAPH_KEYS), np.empty(0, np.int64)
    table = np.concatenate(slices)
    documents = np.concatenate([one["row"].astype(np.int64) + base for one, base in zip(slices, bases, strict=True)])
    if dropped:
        stays = ~holds(dropped, documents)
        table, documents = table[stays], documents[stays]
    return table, documents


def _firsts(
    table: Table, documents: NDArray[np.int64], within: NDArray[Any] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(n,) the place in the table of the first entry with the same key; whether it is another one than itself."""
    if not len(table):
        return np.empty(0, np.int64), np.empty(0, bool)
    keys, checks = np.ascontiguousarray(table["key"]), np.ascontiguousarray(table["check"])
    order = np.lexsort((documents if within is None else within, documents, checks, keys))
    keys, checks = keys[order], checks[order]
    begins = np.concatenate(([True], (keys[1:] != keys[:-1]) | (checks[1:] != checks[:-1])))
    starts = np.flatnonzero(begins)
    first = np.empty(len(table), np.int64)
    first[order] = order[np.repeat(starts, np.diff(np.append(starts, len(table))))]
    return first, first != np.arange(len(table))
