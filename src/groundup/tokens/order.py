"""The order of the data as a function you can index: nothing is shuffled, nothing is remembered.

`permuted` is a bijection on 0..n-1 by a Feistel network with cycle walking (Black and Rogaway 2002, "Ciphers with
arbitrary finite domains"). `Mixture` draws rows from several sources so that each block of rows has exactly the planned
count of each; each source is gone through in a new permutation every epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]
ROUNDS = 8  # even, so that the two halves end where they began
BLOCK_ROWS = 1024


def key_of(*parts: object) -> int:
    """64 bits from a seed and whatever else names an order."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")


def permuted(index: Int64, n: int, key: int) -> Int64:
    """Where each `index` (any shape, values in 0..n-1) goes under the permutation of 0..n-1 named by `key`."""
    if n <= 1:
        return np.zeros_like(index)
    bits = max(2, (n - 1).bit_length())  # the network works on 2**bits values, at most 2 n of them (4 for n = 2)
    value = index.astype(np.uint64)
    outside = np.ones(value.shape, dtype=bool)
    while outside.any():  # whoever lands at n or above walks on; the walk comes back, since the network is a bijection
        value[outside] = _feistel(value[outside], bits, key)
        outside = value >= np.uint64(n)
    return value.astype(np.int64)


def _feistel(value: UInt64, bits: int, key: int) -> UInt64:
    low, high = bits // 2, bits - bits // 2  # widths of the halves; they change places every round
    left, right = value >> np.uint64(low), value & _mask(low)
    width_left, width_right = high, low
    for round_number in range(ROUNDS):
        left, right = right, left ^ (_scramble(right, key, round_number) & _mask(width_left))
        width_left, width_right = width_right, width_left
    return (left << np.uint64(low)) | right


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


def _scramble(value: UInt64, key: int, round_number: int) -> UInt64:
    """splitmix64's finaliser over the value and a key of this round (Steele et al. 2014)."""
    offset = np.uint64((key + (round_number + 1) * 0x9E3779B97F4A7C15) % 2**64)
    x = value + offset
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Mixture:
    """Which row of which source stands at place `i` of an endless stream.

    Every `BLOCK_ROWS` rows hold the same whole number of rows of each source, `counts`, in an order of their own.
    """

    rows: Mapping[str, int]  # rows that a source has, > 0
    shares: Mapping[str, float]  # share of the stream; sums to 1
    seed: int

    @cached_property
    def sources(self) -> list[str]:
        return list(self.rows)

    @cached_property
    def counts(self) -> Int64:
        """Rows of each source in a block: largest remainders, and at least one of each that is wanted at all."""
        wanted = np.array([self.shares[source] for source in self.sources], dtype=np.float64)
        exact = wanted / wanted.sum() * BLOCK_ROWS
        counts: Int64 = np.floor(exact).astype(np.int64)
        counts[(wanted > 0) & (counts == 0)] = 1
        remainder = np.where(wanted > 0, exact - counts, -np.inf)
        while (missing := BLOCK_ROWS - int(counts.sum())) != 0:
            if missing > 0:
                best = int(np.argmax(remainder))
            else:  # the guaranteed rows of rare sources come from the largest one
                best = int(np.argmax(counts))
            counts[best] += np.sign(missing)
            remainder[best] -= np.sign(missing)
        return counts

    def at(self, places: Int64) -> tuple[Int64, Int64]:
        """For each place in the stream the number of its source and the row in it."""
        source, row = np.empty_like(places), np.empty_like(places)
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        for block in np.unique(places // BLOCK_ROWS):
            here = places // BLOCK_ROWS == block
            slot = permuted(places[here] % BLOCK_ROWS, BLOCK_ROWS, key_of(self.seed, "block", block))
            number = np.searchsorted(starts, slot, side="right") - 1
            drawn = block * self.counts[number] + slot - starts[number]  # how many of this source came before
            source[here], row[here] = number, self._rows_at(number, drawn)
        return source, row

    def _rows_at(self, number: Int64, drawn: Int64) -> Int64:
        rows = np.empty_like(drawn)
        for which in np.unique(number):
            name = self.sources[which]
            n = self.rows[name]
            mine = number == which
            epochs = drawn[mine] // n
            found = np.empty_like(epochs)
            for epoch in np.unique(epochs):
                now = epochs == epoch
                found[now] = permuted(drawn[mine][now] % n, n, key_of(self.seed, name, epoch))
            rows[mine] = found
        return rows
