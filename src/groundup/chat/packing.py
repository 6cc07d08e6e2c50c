"""Several samples in one row, none of which sees another: best-fit decreasing, and what an objective needs of a row."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.chat.masks import Encoded

PADDING = -1  # document id of positions that hold nothing


@dataclass(frozen=True)
class PackedRow:
    """One row: the ids of its samples one after the other, and to which sample each belongs (0, 1, ...)."""

    ids: list[int]
    trained: list[bool]
    document_ids: list[int]


@dataclass(frozen=True)
class Batch:
    """B rows of equal length T. `weights` is 1 where the target is trained; row ends are padded with document -1."""

    input_ids: NDArray[np.int64]  # B, T
    targets: NDArray[np.int64]  # B, T: the next token of the same sample (0 where there is none)
    weights: NDArray[np.float32]  # B, T
    document_ids: NDArray[np.int64]  # B, T

    @property
    def trained_tokens(self) -> float:
        return float(self.weights.sum())


def pack(samples: Sequence[Encoded], sequence_len: int) -> list[PackedRow]:
    """Rows of at most `sequence_len` tokens that hold every sample whole, each exactly once.

    Best-fit decreasing: the longest first, each into the row where the least room would be left. Deterministic: equal
    lengths keep their order. No sample may be longer than a row (`masks.truncate` first).
    """
    longest = max((len(sample.ids) for sample in samples), default=0)
    if longest > sequence_len:
        raise ValueError(f"a sample of {longest} tokens does not fit into rows of {sequence_len}")
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room left, row), sorted: the best fit is one bisection away
    for number in sorted(range(len(samples)), key=lambda n: -len(samples[n].ids)):
        size = len(samples[number].ids)
        at = bisect_left(open_rows, (size, -1))
        if at < len(open_rows):
            room, row = open_rows.pop(at)
            rows[row].append(number)
        else:
            room, row = sequence_len, len(rows)
            rows.append([number])
        if room > size:
            insort(open_rows, (room - size, row))
    return [join([samples[number] for number in row]) for row in rows]


def join(samples: Sequence[Encoded]) -> PackedRow:
    """Samples side by side in one row. The first token of each is never a target."""
    ids = [token for sample in samples for token in sample.ids]
    trained = [flag and at > 0 for sample in samples for at, flag in enumerate(sample.trained)]
    return PackedRow(ids, trained, [document for document, sample in enumerate(samples) for _ in sample.ids])


def batch_rows(rows: Sequence[PackedRow], pad_id: int) -> Batch:
    """Rows as arrays, padded on the right to the longest. Padding is known by its document id, never by `pad_id`."""
    B, T = len(rows), max(len(row.ids) for row in rows)
    input_ids = np.full((B, T), pad_id, dtype=np.int64)
    targets = np.zeros((B, T), dtype=np.int64)
    weights = np.zeros((B, T), dtype=np.float32)
    document_ids = np.full((B, T), PADDING, dtype=np.int64)
    for b, row in enumerate(rows):
        length = len(row.ids)
        input_ids[b, :length] = row.ids
        document_ids[b, :length] = row.document_ids
        targets[b, : length - 1] = row.ids[1:]
        weights[b, : length - 1] = row.trained[1:]
    return Batch(input_ids, targets, weights, document_ids)
