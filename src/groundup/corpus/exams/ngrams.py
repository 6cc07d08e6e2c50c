"""Hashes of words and of their n-grams, for word lists that were made elsewhere: what decontamination works on.

Where a text is at hand, words.py hashes its words several times as fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplication mod 2^64 is a bijection
_MAX_CACHED_WORDS = 2_000_000
_word_hashes: dict[str, int] = {}


def hash_words(words: Sequence[str]) -> Hashes:
    """(n,) one 64-bit hash per word; the same on every machine. Words are cached, as text repeats them."""
    if len(_word_hashes) > _MAX_CACHED_WORDS:
        _word_hashes.clear()
    get, digest = _word_hashes.get, xxhash.xxh3_64_intdigest
    hashes = np.empty(len(words), np.uint64)
    for place, word in enumerate(words):
        value = get(word)
        if value is None:
            value = _word_hashes[word] = digest(word.encode("utf-8", "surrogatepass"))
        hashes[place] = value
    return hashes


def ngram_hashes(hashes: Hashes, n: int) -> Hashes:
    """(len - n + 1,) one hash per run of `n` words; empty where there are fewer than `n`."""
    return next(keys for _, keys in growing_ngram_hashes(hashes, [n]))


def growing_ngram_hashes(hashes: Hashes, lengths: Sequence[int]) -> Iterator[tuple[int, Hashes]]:
    """(n, `ngram_hashes` of it) for several lengths, ascending: the longer grow out of the shorter."""
    total, done = np.zeros(len(hashes), np.uint64), 0
    for n in lengths:
        count = len(hashes) - n + 1
        if count <= 0:
            yield n, np.empty(0, np.uint64)
            continue
        total = total[:count]
        with np.errstate(over="ignore"):
            for offset in range(done, n):
                total = (total + hashes[offset : offset + count]) * _MULTIPLIER
                total ^= total >> np.uint64(29)
        done = n
        yield n, total
