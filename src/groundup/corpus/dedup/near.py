"""Near-duplicates: MinHash signatures, LSH bands, and then the exact Jaccard similarity of every candidate pair.

Peers stop after the bands and remove what the bands let through: half again as many documents as they should.
Verifying the candidates costs little and makes precision and recall 1.0 (benchmarks/dedup.py).
Broder (1997), "On the resemblance and containment of documents"; Leskovec, Rajaraman, Ullman, chapter 3.

Everything here works on arrays in memory: of one shard, or of one group of keys. near_groups.py has the same steps from
files to files; `find_near_duplicates` has them for texts that fit one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.corpus.words import Hashes, mix, ngrams, words_in

Places = NDArray[np.int64]
Pairs = NDArray[np.int64]  # (pairs, 2) left < right

SHINGLE_WORDS = 5
MISSED_AT_THRESHOLD = 0.0005  # share of the pairs exactly at the threshold that no band proposes; above it far fewer
MAX_FUNCTIONS = 176
_BATCH_CHARS = 1 << 16  # characters tokenised at a time: the working set stays in the CPU's cache
_BLOCK = 1 << 14  # shingles hashed at a time: likewise
_ALL_PAIRS_UP_TO = 64  # documents in one bucket; larger buckets are almost always copies of one text


@dataclass(frozen=True)
class Shingles:
    """The distinct word 5-grams of some documents, as hashes: document i has `values[offsets[i]:offsets[i + 1]]`."""

    values: Hashes  # (shingles,) sorted within each document
    offsets: Places  # (documents + 1,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, place: int) -> Hashes:
        return self.values[self.offsets[place] : self.offsets[place + 1]]


@dataclass(frozen=True)
class Bands:
    """How signatures are cut: documents that agree in all `rows` of some band are compared."""

    bands: int
    rows: int

    @property
    def functions(self) -> int:
        return self.bands * self.rows

    def chance(self, similarity: float) -> float:
        """Of a pair with this Jaccard similarity being proposed: 1 - (1 - s^rows)^bands."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)


@dataclass(frozen=True)
class NearDuplicates:
    """`cluster[i]` is the place of the document that stands for i (itself, where nothing is like it)."""

    cluster: Places  # (documents,)
    candidates: int  # pairs that the bands proposed and that were compared
    verified: int  # of them, at or above the threshold

    @property
    def dropped(self) -> int:
        return int((self.cluster != np.arange(len(self.cluster))).sum())


# ---------------------------------------------------------------- shingles and signatures


def shingles_of(text: str) -> Hashes:
    """Sorted distinct hashes of a text's word 5-grams; of the whole text where it has fewer words."""
    return shingle([text]).values


def hashed_words(texts: Iterable[str]) -> Iterator[tuple[Hashes, Places]]:
    """Batches of texts: the hashes of all words, and (texts + 1,) where each text's own begin and end.

    Short texts are tokenised together, as numpy works best on 100 kB at a time.
    """
    batch: list[str] = []
    chars = 0
    for text in texts:
        batch.append(text)
        chars += len(text)
        if chars >= _BATCH_CHARS:
            yield _batch_words(batch)
            batch, chars = [], 0
    if batch:
        yield _batch_words(batch)


def _batch_words(texts: list[str]) -> tuple[Hashes, Places]:
    words = words_in("\n".join(texts))  # the newline keeps the last word of one text from the first of the next
    ends_of_texts = np.cumsum([len(text) + 1 for text in texts])
    bounds = np.concatenate(([0], np.searchsorted(words.starts, ends_of_texts))).astype(np.int64)
    return words.hashes, bounds


def shingle(texts: Iterable[str]) -> Shingles:
    """The shingles of many texts."""
    parts = [_shingle_words(words, bounds) for words, bounds in hashed_words(texts)]
    values = np.concatenate([np.empty(0, np.uint64), *(part.values for part in parts)])
    sizes = np.concatenate([np.empty(0, np.int64), *(np.diff(part.offsets) for part in parts)])
    return Shingles(values, offsets_of(sizes))


def _shingle_words(words: Hashes, bounds: Places) -> Shingles:
    counts = np.diff(bounds)
    grams = ngrams(words, SHINGLE_WORDS)
    is_whole = np.ones(len(words), bool)  # False where the 5-gram would reach into the next text
    for back in range(1, SHINGLE_WORDS):
        is_whole[bounds[1:][counts >= back] - back] = False
    own = np.maximum(counts - SHINGLE_WORDS + 1, np.minimum(counts, 1))
    values = np.empty(int(own.sum()), np.uint64)
    starts = offsets_of(own)
    takes_own_grams = np.repeat(counts >= SHINGLE_WORDS, own)
    values[takes_own_grams] = grams[is_whole[: len(grams)]]
    for place in np.flatnonzero((counts > 0) & (counts < SHINGLE_WORDS)).tolist():
        values[starts[place]] = ngrams(words[bounds[place] : bounds[place + 1]], int(counts[place]))[0]
    for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        values[first:last].sort()
    is_new = np.ones(len(values), bool)
    is_new[1:] = values[1:] != values[:-1]
    is_new[starts[:-1][own > 0]] = True
    kept = offsets_of(is_new)
    return Shingles(values[is_new], kept[starts])


def offsets_of(sizes: NDArray[Any]) -> Places:
    """(n + 1,) where each of n runs begins, and where the last one ends."""
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


def bands_for(threshold: float) -> Bands:
    """The strictest bands (most rows) that miss at most 1 in 2,000 of the pairs exactly at the threshold.

    More rows let fewer dissimilar pairs through, at the price of more hash functions: at most MAX_FUNCTIONS.
    At 0.8: 26 bands of 6 rows; a pair of similarity 0.5 is proposed with chance 0.34, of 0.3 with 0.02.
    Raises ValueError where the threshold is not in [0.3, 1]: below, no affordable number of bands finds the pairs.
    """
    if not 0.3 <= threshold <= 1:
        raise ValueError(f"a Jaccard threshold of {threshold} is not between 0.3 and 1")
    best = Bands(1, 1)
    for rows in range(1, 17):
        missed = 1 - min(threshold, 0.999) ** rows
        bands = max(1, int(np.ceil(np.log(MISSED_AT_THRESHOLD) / np.log(missed))))
        if bands * rows <= MAX_FUNCTIONS:
            best = Bands(bands, rows)
    return best


@cache
def _multipliers(functions: int, seed: int) -> NDArray[np.uint32]:
    """Odd, so that each is a bijection of the 32-bit numbers: shingles that differ stay different."""
    drawn = np.random.default_rng(seed).integers(0, 2**31, functions, dtype=np.uint32)
    return drawn * np.uint32(2) + np.uint32(1)


def signatures(shingles: Shingles, functions: int, seed: int = 1) -> NDArray[np.uint32]:
    """(documents, functions) the smallest of each document's shingles under each hash function; 2^32 - 1 where none.

    The shingles' upper 32 bits are hashed by multiplication: the pairs that this proposes are compared in all 64.
    """
    multipliers = _multipliers(functions, seed)
    result = np.full((functions, len(shingles)), np.iinfo(np.uint32).max, np.uint32)
    filled = np.flatnonzero(np.diff(shingles.offsets))
    begins = shingles.offsets[filled]
    hashed = np.empty(_BLOCK, np.uint32)
    for low in range(0, len(shingles.values), _BLOCK):
        block = (shingles.values[low : low + _BLOCK] >> np.uint64(32)).astype(np.uint32)
        first = int(np.searchsorted(begins, low, side="right")) - 1
        last = int(np.searchsorted(begins, low + len(block)))
        starts = np.maximum(begins[first:last] - low, 0)
        columns = filled[first:last]
        smallest = np.empty((functions, len(columns)), np.uint32)
        out = hashed[: len(block)]
        for function in range(functions):
            np.multiply(block, multipliers[function], out=out)
            np.minimum.reduceat(out, starts, out=smallest[function])
        result[:, columns] = np.minimum(result[:, columns], smallest)  # a long document spans blocks
    return np.ascontiguousarray(result.T)


def band_keys(signature: NDArray[np.uint32], bands: Bands) -> Hashes:
    """(documents, bands) one 64-bit key for the rows of each band; keys of different bands never meet by design."""
    cut = signature.reshape(len(signature), bands.bands, bands.rows).astype(np.uint64)
    keys = np.broadcast_to(mix(np.arange(bands.bands, dtype=np.uint64)), cut.shape[:2]).copy()
    for row in range(bands.rows):
        keys = mix(keys ^ cut[:, :, row])
    return keys


# ---------------------------------------------------------------- candidates and their verification


def candidate_pairs(keys: Hashes, documents: Places) -> Pairs:
    """(pairs, 2) documents that share a key, each pair once, in order. `keys` and `documents`: (entries,), any order.

    A bucket of up to 64 documents gives all its pairs; in a larger one each document is paired with the one before it
    and with the first, n comparisons instead of n^2: such buckets are copies of one text, which the chain connects.
    """
    order = np.lexsort((documents, keys))
    keys, documents = keys[order], documents[order]
    begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if len(keys) else np.empty(0, np.int64)
    sizes = np.diff(np.append(begins, len(keys)))
    in_large = np.repeat(sizes > _ALL_PAIRS_UP_TO, sizes)
    left: list[Places] = []
    right: list[Places] = []
    for distance in range(1, min(int(sizes.max(initial=0)), _ALL_PAIRS_UP_TO)):
        together = keys[distance:] == keys[:-distance]
        if distance > 1:
            together &= ~in_large[distance:]
        left.append(documents[:-distance][together])
        right.append(documents[distance:][together])
    if in_large.any():
        left.append(np.repeat(documents[begins], sizes)[in_large])
        right.append(documents[in_large])
    if not left:
        return np.empty((0, 2), np.int64)
    pairs = np.stack((np.concatenate(left), np.concatenate(right)), axis=1)
    return unique_pairs(pairs[pairs[:, 0] != pairs[:, 1]])


def unique_pairs(pairs: Pairs) -> Pairs:
    """The distinct rows, sorted by left, then right."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    is_new = np.ones(len(pairs), bool)
    is_new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[is_new]


def jaccard(a: Hashes, b: Hashes) -> float:
    """Size of the intersection over size of the union of two sorted sets; 0 for two empty ones."""
    together = np.concatenate((a, b))
    together.sort()  # numpy sorts 64-bit numbers with AVX512: faster than any search of one in the other
    both = int(np.count_nonzero(together[1:] == together[:-1]))
    union = len(together) - both
    return both / union if union else 0.0


@dataclass(frozen=True)
class Verified:
    """The pairs at or above the threshold, and how many were looked at. Pairs already connected are left out."""

    edges: Pairs  # (edges, 2)
    similarity: NDArray[np.float64]  # (edges,) exact Jaccard
    compared: int


def verify(pairs: Pairs, sizes: Callable[[int], int], shingles: Callable[[int], Hashes], threshold: float) -> Verified:
    """Edges between documents whose exact Jaccard similarity is at least `threshold`.

    `shingles(document)` is called only where the sizes alone cannot rule a pair out, and once for a run of pairs with
    the same left document. A pair whose documents are already connected by edges found here is not compared: it would
    not change the clusters, and a family of n copies costs n comparisons instead of n^2 / 2.
    """
    documents, numbers = np.unique(pairs, return_inverse=True)
    parent = list(range(len(documents)))
    edges: list[tuple[int, int]] = []
    similarities: list[float] = []
    compared = 0
    held, held_shingles = -1, np.empty(0, np.uint64)
    for (left, right), (a, b) in zip(pairs.tolist(), numbers.reshape(-1, 2).tolist(), strict=True):
        root_a, root_b = _root(parent, a), _root(parent, b)
        if root_a == root_b:
            continue
        compared += 1
        size_a, size_b = sizes(left), sizes(right)
        if min(size_a, size_b) < threshold * max(size_a, size_b):
            continue  # the intersection is no larger than the smaller set, the union no smaller than the larger
        if held != left:
            held, held_shingles = left, shingles(left)
        similarity = jaccard(held_shingles, shingles(right))
        if similarity >= threshold:
            edges.append((left, right))
            similarities.append(similarity)
            parent[max(root_a, root_b)] = min(root_a, root_b)
    found = np.array(edges, np.int64).reshape(-1, 2)
    return Verified(found, np.array(similarities, np.float64), compared)


def _root(parent: list[int], place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]  # path halving keeps the trees flat
        place = parent[place]
    return place


# ---------------------------------------------------------------- clusters


def components(count: int, edges: Pairs) -> Places:
    """(count,) the smallest number of each one's connected component, by hooking roots and halving paths."""
    parent = np.arange(count, dtype=np.int64)
    while len(edges):
        roots = parent[edges]
        low, high = roots.min(axis=1), roots.max(axis=1)
        apart = low != high
        if not apart.any():
            break
        edges = edges[apart]
        np.minimum.at(parent, high[apart], low[apart])
        while True:  # every place points at a root again
            above = parent[parent]
            if np.array_equal(above, parent):
                break
            parent = above
    return parent


def find_near_duplicates(texts: Sequence[str], threshold: float, seed: int = 1) -> NearDuplicates:
    """Clusters of texts whose word 5-grams have a Jaccard similarity of at least `threshold` (connected components).

    The earliest text of a cluster stands for it, so the caller orders texts by what should be kept.
    """
    shingles = shingle(texts)
    bands = bands_for(threshold)
    sizes = np.diff(shingles.offsets)
    filled = np.flatnonzero(sizes)
    keys = band_keys(signatures(shingles, bands.functions, seed)[filled], bands)
    pairs = candidate_pairs(keys.ravel(), np.repeat(filled, bands.bands))
    verified = verify(pairs, lambda place: int(sizes[place]), shingles.of, threshold)
    return NearDuplicates(components(len(texts), verified.edges), verified.compared, len(verified.edges))
