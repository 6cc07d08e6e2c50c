"""Near-duplicates from files to files: what the tasks of a large corpus call. The steps themselves are in near.py.

A document's number is its place in the corpus: `bases[shard] + row`; `bases` counts the rows of the earlier shards.

  shard task          texts of a shard        -> NAME.shingles.npy, NAME.offsets.npy, NAME.bands.npy
  candidate task      a range of band keys    -> pairs of documents that share a key (PAIRS, sorted by the left's hash)
  verification task   a range of left hashes  -> edges: pairs at or above the threshold (EDGES)
  one last task       all edges               -> who is dropped for whom (REPEATS), and who is like whom

Memory: a shard's shingles (1.3 bytes per byte of text) in the first; a range's entries in the second and third, of
which there may be as many as wanted; 130 bytes per document that has a near-duplicate in the last. Nothing depends on
how many tasks there are or which finishes first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.corpus.dedup.keytable import (
    BAND_KEYS,
    EDGES,
    PAIRS,
    REPEATS,
    ArrayFile,
    Group,
    ShardFiles,
    Table,
    holds,
    map_array,
    read_group,
    table_of,
    write_array,
    write_table,
)
from groundup.corpus.dedup.near import (
    Bands,
    Places,
    band_keys,
    candidate_pairs,
    components,
    shingle,
    signatures,
    unique_pairs,
    verify,
)
from groundup.corpus.words import Hashes, mix

_OPEN_SHARDS = 128  # whose two files are open at a time
_HELD_DOCUMENTS = 512  # documents whose shingles stay in memory while a group is verified


class NearFiles(ShardFiles):
    """What one shard's near-duplicates are looked for by."""

    @property
    def shingles(self) -> Path:
        return self.array("shingles")

    @property
    def offsets(self) -> Path:
        return self.array("offsets")

    @property
    def bands(self) -> Path:
        return self.array("bands")

    @property
    def all(self) -> tuple[Path, Path, Path]:
        return self.shingles, self.offsets, self.bands


def write_near_keys(texts: Iterable[str], files: NearFiles, bands: Bands, seed: int = 1) -> dict[str, int]:
    """Shard task: shingles and band keys of the shard's documents, one row per text. Returns counts.

    A text without a word has no shingles, no keys and no duplicates. `bands` and `seed` belong in the fingerprint.
    """
    shingles = shingle(texts)
    filled = np.flatnonzero(np.diff(shingles.offsets))
    keys = band_keys(signatures(shingles, bands.functions, seed)[filled], bands)
    table = table_of(BAND_KEYS, key=keys.ravel(), row=np.repeat(filled, bands.bands))
    write_array(files.shingles, shingles.values)
    write_array(files.offsets, shingles.offsets)
    write_table(files.bands, table)
    return {"documents": len(shingles), "shingles": len(shingles.values), "band_keys": len(table)}


def write_candidates(
    shards: Sequence[NearFiles], bases: Sequence[int], dropped: Sequence[Path], group: Group, out: Path
) -> dict[str, int]:
    """Candidate task: pairs of documents that share a band key of this group, to `out`. Returns counts.

    Documents in the `dropped` tables (REPEATS: exact duplicates) are left out. Reads the group's slice of each shard's
    band keys.
    """
    slices = read_group([shard.bands for shard in shards], group)
    keys = np.concatenate([np.empty(0, np.uint64), *(one["key"] for one in slices)])
    numbered = (one["row"].astype(np.int64) + base for one, base in zip(slices, bases, strict=True))
    documents: Places = np.concatenate([np.empty(0, np.int64), *numbered])
    if dropped:
        stays = ~holds(dropped, documents)
        keys, documents = keys[stays], documents[stays]
    pairs = candidate_pairs(keys, documents)
    owners = mix(pairs[:, 0].astype(np.uint64))
    write_table(out, table_of(PAIRS, key=owners, left=pairs[:, 0], right=pairs[:, 1]))
    return {"band_keys": len(keys), "candidates": len(pairs)}


def write_edges(
    candidates: Sequence[Path],
    shards: Sequence[NearFiles],
    bases: Sequence[int],
    threshold: float,
    group: Group,
    out: Path,
) -> dict[str, int]:
    """Verification task: exact Jaccard similarity of the group's pairs; those at or above `threshold` go to `out`.

    Reads the group's slice of every candidate file, and the shingles of the documents in it: no others.
    """
    slices = read_group(candidates, group)
    table = np.concatenate([np.empty(0, PAIRS), *slices])
    pairs = unique_pairs(np.stack((table["left"], table["right"]), axis=1))
    lookup = _Lookup(shards, bases)
    shingles = lru_cache(maxsize=_HELD_DOCUMENTS)(lookup.shingles)
    verified = verify(pairs, lookup.size, shingles, threshold)
    edges = table_of(
        EDGES, left=verified.edges[:, 0], right=verified.edges[:, 1], similarity=verified.similarity.astype(np.float32)
    )
    write_table(out, edges)
    return {"pairs": len(pairs), "compared": verified.compared, "edges": len(edges)}


class _Lookup:
    """The shingles of any document, read from its shard's file."""

    def __init__(self, shards: Sequence[NearFiles], bases: Sequence[int]) -> None:
        self._shards = shards
        self._bases = list(bases)
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(self._files)

    def size(self, document: int) -> int:
        first, last, _ = self._place(document)
        return last - first

    def shingles(self, document: int) -> Hashes:
        first, last, values = self._place(document)
        return values.read(first, last)

    def _files(self, shard: int) -> tuple[ArrayFile, ArrayFile]:
        return ArrayFile(self._shards[shard].offsets), ArrayFile(self._shards[shard].shingles)

    def _place(self, document: int) -> tuple[int, int, ArrayFile]:
        shard = bisect_right(self._bases, document) - 1
        row = document - self._bases[shard]
        offsets, values = self._open(shard)
        first, last = offsets.read(row, row + 2).tolist()
        return first, last, values


# ---------------------------------------------------------------- who stays


@dataclass(frozen=True)
class Clusters:
    """Documents (numbers, sorted) that have near-duplicates, and the one that stands for each."""

    documents: Places  # (n,)
    kept: Places  # (n,) itself for the one that stays
    similarity: NDArray[np.float32]  # (n,) the largest found with another member of the cluster

    def sizes(self) -> dict[int, int]:
        """How many clusters have how many documents."""
        _, members = np.unique(self.kept, return_counts=True)
        sizes, clusters = np.unique(members, return_counts=True)
        return dict(zip(sizes.tolist(), clusters.tolist(), strict=True))

    def repeats(self) -> Table:
        """REPEATS: the documents that go, each with the one that stays for it."""
        goes = self.documents != self.kept
        return table_of(REPEATS, document=self.documents[goes], first=self.kept[goes], similarity=self.similarity[goes])


Ranks = tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]


def clusters_of(
    edges: Sequence[Path], rank: Callable[[Places], Ranks], names: Callable[[Places], Sequence[str]]
) -> Clusters:
    """The last task: connected components of all edges, and of each the document that stays.

    `rank(documents)` gives the priority of each one's source and its size: the smallest priority stays, of these the
    largest size. Among equals the smallest id does, for which `names(documents)` is asked about those alone. Both are
    asked about sorted documents. `Clusters.repeats()` goes to a file by `write_table`.
    """
    tables = [map_array(path) for path in edges]
    left, right, similarity = (
        np.concatenate([np.empty(0, EDGES[name]), *(table[name] for table in tables)])
        for name in ("left", "right", "similarity")
    )
    documents: Places = np.unique(np.concatenate((left, right)))
    numbers = np.stack((np.searchsorted(documents, left), np.searchsorted(documents, right)), axis=1)
    del left, right
    cluster = components(len(documents), numbers)
    kept = documents[_best(cluster, *rank(documents), lambda places: names(documents[places]))[cluster]]
    largest = np.zeros(len(documents), np.float32)
    for side in (0, 1):
        np.maximum.at(largest, numbers[:, side], similarity)
    return Clusters(documents, kept, largest)


def _best(
    cluster: Places,
    priority: NDArray[np.integer[Any]],
    size: NDArray[np.integer[Any]],
    names: Callable[[Places], Sequence[str]],
) -> Places:
    """(n,) for the number of each cluster, the place of the document that stays; elsewhere nothing of meaning."""
    order = np.lexsort((-size.astype(np.int64), priority, cluster))
    is_first = np.ones(len(order), bool)
    is_first[1:] = cluster[order[1:]] != cluster[order[:-1]]
    best = np.zeros(len(cluster), np.int64)
    best[cluster[order[is_first]]] = order[is_first]
    first = best[cluster]
    ties = np.flatnonzero((priority == priority[first]) & (size == size[first]))
    _, number, count = np.unique(cluster[ties], return_inverse=True, return_counts=True)
    ties = ties[count[number] > 1]
    smallest: dict[int, tuple[str, int]] = {}
    for one, name, place in zip(cluster[ties].tolist(), names(ties), ties.tolist(), strict=True):
        smallest[one] = min(smallest.get(one, (name, place)), (name, place))
    for one, (_, place) in smallest.items():
        best[one] = place
    return best
