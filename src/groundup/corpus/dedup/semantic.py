"""Semantic duplicates (optional): documents whose vectors point the same way, though they share few runs of words.

As SemDeDup (Abbas et al. 2023, "SemDeDup: data-efficient learning at web-scale through semantic deduplication"):
vectors, k-means, and in each cluster a document goes where one that stays is at least as alike as the threshold. The
vectors are a user's function (a sentence-embedding model), or our own: hashed words weighted by TF-IDF and projected at
random (count sketch: Charikar, Chen, Farach-Colton 2002). Ours see which words a text uses, not what it means: they
find reordered and partly rewritten copies, and no paraphrase in other words.

  shard task   texts -> document frequencies of hashed words           (ours only; summed over all shards)
  shard task   texts -> vectors, (documents, dimensions) int8
  one task     a sample of vectors -> centres
  shard task   vectors, centres -> a table of each document's nearest centres
  group task   some centres -> REPEATS

Vectors are rounded to int8 and their products are summed in floats that hold such integers exactly, so the result is
the same on every machine, in every order. Memory: a shard's vectors, or those of one centre.

Limits: two alike documents that share none of their PROBES nearest centres are missed; the threshold has no meaning
beyond the vectors it is used with; short texts on one subject are alike in words without being copies.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.corpus.dedup.keytable import (
    BAND_KEYS,
    REPEATS,
    Table,
    holds,
    map_array,
    most_alike,
    read_range,
    table_of,
    write_table,
)
from groundup.corpus.dedup.near import Places, hashed_words
from groundup.corpus.words import mix
from groundup.errors import UserError

Vectors = NDArray[np.int8]  # (documents, dimensions)

DIMENSIONS = 512
PROBES = 2  # centres that each document is looked for at
_FEATURE_BITS = 18
_ENTRIES = 4  # of the vector that each word adds to
_BLOCK = 256  # documents compared with all that stay, at a time
_EXACT_FLOAT32_DIMENSIONS = (1 << 24) // 127**2  # up to here float32 holds every sum of int8 products


# ---------------------------------------------------------------- vectors


def document_frequencies(texts: Iterable[str]) -> NDArray[np.int64]:
    """(2^18,) in how many of the texts a word of each hash occurs. Those of several shards are added."""
    counts = np.zeros(1 << _FEATURE_BITS, np.int64)
    for words, bounds in hashed_words(texts):
        for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            counts[np.unique(_features(words[first:last]))] += 1
    return counts


def _features(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    places: NDArray[np.int64] = (words >> np.uint64(64 - _FEATURE_BITS)).astype(np.int64)
    return places


def embed(
    texts: Iterable[str], frequencies: NDArray[np.int64], documents: int, dimensions: int = DIMENSIONS
) -> Vectors:
    """Our vectors: (1 + ln count) * ln((documents + 1) / (frequency + 1)) of each word, projected. Zero without words.

    `frequencies` are those of all `documents` of the corpus.
    """
    weights = np.log((documents + 1) / (frequencies + 1))
    batches = [np.empty((0, dimensions), np.int8)]
    for words, bounds in hashed_words(texts):
        vectors = np.zeros((len(bounds) - 1, dimensions))
        for row, (first, last) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            distinct, counts = np.unique(words[first:last], return_counts=True)
            weight = (1 + np.log(counts)) * weights[_features(distinct)]
            for entry in range(_ENTRIES):
                drawn = mix(distinct ^ np.uint64(entry + 1))
                places = (drawn >> np.uint64(1)) % np.uint64(dimensions)
                signed = np.where(drawn & np.uint64(1), weight, -weight)
                vectors[row] += np.bincount(places.astype(np.int64), weights=signed, minlength=dimensions)
        batches.append(quantise(vectors))
    return np.concatenate(batches)


def quantise(vectors: NDArray[Any]) -> Vectors:
    """Directions as int8: the largest entry of each vector becomes 127. Changes a cosine by less than 0.01."""
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    scaled = np.divide(vectors * 127.0, largest, out=np.zeros(vectors.shape), where=largest > 0)
    rounded: Vectors = np.rint(scaled).astype(np.int8)
    return rounded


def user_embedding(spec: str) -> Callable[[list[str]], Vectors]:
    """A function of the user's, `module:function` from texts to (texts, dimensions) numbers, as vectors of ours."""
    module_name, _, name = spec.partition(":")
    fix = "name an importable (installed, or on PYTHONPATH) package.module:function, from a list of strings to an array"
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"the embedding {spec!r} cannot be had: {error}", where="semantic", fix=fix) from error

    def embedded(texts: list[str]) -> Vectors:
        vectors = np.asarray(function(texts), np.float64)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            what = f"{spec} returned an array of shape {vectors.shape} for {len(texts)} texts"
            if vectors.ndim == 2 and len(vectors) == len(texts):
                what = f"{spec} returned numbers that are not finite"
            raise UserError(what, where="semantic", fix=fix)
        return quantise(vectors)

    return embedded


def products(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """(len(a), len(b)) cosines. The sums are exact, so the same in every order; 0 where a vector is zero."""
    if a.shape[1] <= _EXACT_FLOAT32_DIMENSIONS:
        dots = (a.astype(np.float32) @ b.astype(np.float32).T).astype(np.float64)
    else:
        dots = a.astype(np.float64) @ b.astype(np.float64).T
    lengths = np.sqrt(_squares(a))[:, None] * np.sqrt(_squares(b))[None, :]
    cosines: NDArray[np.float64] = np.divide(dots, lengths, out=np.zeros(dots.shape), where=lengths > 0)
    return cosines


def _squares(vectors: Vectors) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.square(vectors.astype(np.int64)).sum(axis=1).astype(np.float64)
    return squares


# ---------------------------------------------------------------- centres


def centres_of(sample: Vectors, count: int, seed: int = 1, rounds: int = 10) -> Vectors:
    """(at most count, dimensions) directions by spherical k-means (Dhillon, Modha 2001) of a sample of documents.

    One centre for every 2,000 documents of the corpus keeps a group's work small; a sample of 50 per centre is enough.
    """
    sample = sample[sample.any(axis=1)]
    if not len(sample):
        return np.zeros((1, sample.shape[1]), np.int8)
    chosen = np.random.default_rng(seed).permutation(len(sample))[:count]
    centres = sample[np.sort(chosen)]
    for _ in range(rounds):
        nearest = products(sample, centres).argmax(axis=1)
        sums = np.zeros(centres.shape, np.int64)
        np.add.at(sums, nearest, sample.astype(np.int64))
        is_used = np.bincount(nearest, minlength=len(centres)) > 0
        moved = np.where(is_used[:, None], quantise(sums), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def write_assigned(vectors: Vectors, centres: Vectors, out: Path) -> int:
    """Shard task: each document's PROBES nearest centres, to `out`: a table by centre. Zero vectors have none."""
    rows = np.flatnonzero(vectors.any(axis=1))
    probes = min(PROBES, len(centres))
    if not len(rows):
        return write_table(out, np.empty(0, BAND_KEYS))
    nearest = np.argsort(-products(vectors[rows], centres), axis=1, kind="stable")[:, :probes]
    return write_table(out, table_of(BAND_KEYS, key=nearest.ravel(), row=np.repeat(rows, probes)))


# ---------------------------------------------------------------- who goes


def write_semantic_repeats(
    vectors: Sequence[Path],
    assigned: Sequence[Path],
    bases: Sequence[int],
    dropped: Sequence[Path],
    centres: range,
    threshold: float,
    out: Path,
) -> dict[str, int]:
    """Group task: of the documents at these centres, those alike an earlier one that stays, to `out` (REPEATS).

    `vectors` and `assigned`: one file per shard. A document may be dropped at several centres, for different others.
    """
    repeats = [np.empty(0, REPEATS)]
    compared = 0
    for centre in centres:
        entries = [read_range(path, "key", centre, centre + 1) for path in assigned]
        numbered = (one["row"].astype(np.int64) + base for one, base in zip(entries, bases, strict=True))
        documents: Places = np.concatenate([np.empty(0, np.int64), *numbered])
        here = [map_array(path)[one["row"]] for path, one in zip(vectors, entries, strict=True) if len(one)]
        if not here:
            continue
        own = np.concatenate(here)
        if dropped:
            stays = ~holds(dropped, documents)
            documents, own = documents[stays], own[stays]
        order = np.argsort(documents, kind="stable")
        found = greedy_repeats(own[order], threshold)
        table = table_of(
            REPEATS,
            document=documents[order][found["document"]],
            first=documents[order][found["first"]],
            similarity=found["similarity"],
        )
        repeats.append(table)
        compared += len(documents)
    return {"documents": compared, "repeats": write_table(out, most_alike(np.concatenate(repeats)))}


def greedy_repeats(vectors: Vectors, threshold: float) -> Table:
    """REPEATS by place: each document that is at least so alike an earlier one that stays, and which one (the most)."""
    staying: list[int] = []
    repeats: list[tuple[int, int, float]] = []
    for first in range(0, len(vectors), _BLOCK):
        block = vectors[first : first + _BLOCK]
        before = products(block, vectors[staying]) if staying else np.zeros((len(block), 0))
        among = products(block, block)
        new: list[int] = []  # those of the block that stay
        for place in range(len(block)):
            alike = np.concatenate((before[place], among[place, new]))
            best = int(alike.argmax()) if len(alike) else -1
            if best >= 0 and alike[best] >= threshold and block[place].any():
                other = staying[best] if best < before.shape[1] else first + new[best - before.shape[1]]
                repeats.append((first + place, other, float(alike[best])))
            else:
                new.append(place)
        staying += [first + place for place in new]
    return np.array(repeats, REPEATS)


def find_semantic_duplicates(
    texts: Sequence[str], threshold: float, embedding: Callable[[list[str]], Vectors] | None = None
) -> Table:
    """REPEATS of texts that fit one machine, every pair compared; `document` and `first` are places in `texts`."""
    if embedding is not None:
        return greedy_repeats(embedding(list(texts)), threshold)
    return greedy_repeats(embed(texts, document_frequencies(texts), len(texts)), threshold)
