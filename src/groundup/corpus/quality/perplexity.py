"""How surprising a text is to a small n-gram model of reference text: what CCNet (Wenzek et al. 2020) sorts the web by.

Words, hashed; interpolated Kneser-Ney with modified discounts (Chen and Goodman 1999), order 3 by default:
P(w | h) = a(h w) + b(h) P(w | h'), where h' is h without its first word. Every a and b is computed once, in training;
to score is to look up sorted 64-bit keys. A model is a folder: arrays.npz and perplexity.json, written last. No pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundup.corpus.words import Hashes, ngrams, words_in
from groundup.errors import UserError

FORMAT = 1
ORDER = 3
FEWEST_WORDS = 10_000  # of reference text
_BEGIN = np.uint64(0x5BD1E9955BD1E995)  # stands before a text's first word
_BLOCK_WORDS = 1 << 16

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """The n-grams of one order: a(h w) for each n-gram, b(h) for each context that was seen."""

    ngrams: Hashes  # sorted
    shares: Values  # a
    contexts: Hashes  # sorted; one context, the empty one, in the first level
    left: Values  # b: the probability that is left for the lower order


LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class NgramModel:
    """An interpolated n-gram model. A word never seen has what the first level leaves, over `vocabulary` words."""

    levels: tuple[Level, ...]  # of 1-grams, 2-grams, ...
    vocabulary: int  # different words in the reference text, and one for all others
    words: int  # of reference text
    language: str  # of the reference text, where told: other languages are not worth asking

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(texts,) perplexity per word: 2 to the mean surprise in bits. NaN for a text without words."""
        result = np.full(len(texts), math.nan)
        for places, hashes, ends in _blocks(texts, len(self.levels) - 1):
            # a model of few words may leave nothing for one that it never saw, or a rounding less than nothing
            surprise = -np.log(np.maximum(self.probabilities(hashes), LEAST_PROBABILITY))
            surprise[hashes == _BEGIN] = 0.0
            words = np.diff(np.concatenate(([0], ends))) - (len(self.levels) - 1)
            sums = np.add.reduceat(surprise, np.concatenate(([0], ends[:-1])))
            result[places] = np.exp(np.minimum(sums / words, 700.0))
        return result

    def probabilities(self, hashes: Hashes) -> NDArray[np.float64]:
        """(words,) the probability of each word after the words before it, at most order - 1 of them."""
        found = np.full(len(hashes), 1 / self.vocabulary)
        for n, level in enumerate(self.levels, 1):
            if n > len(hashes):
                break
            left = _look_up(level.contexts, level.left, _contexts(hashes, n), absent=1.0)
            found[n - 1 :] = _look_up(level.ngrams, level.shares, ngrams(hashes, n), absent=0.0) + left * found[n - 1 :]
        return found


def train(
    texts: Iterable[str], folder: Path, *, language: str = "", order: int = ORDER, fewest: int | None = None
) -> NgramModel:
    """Count the n-grams of reference texts and write the model to `folder`. The same texts give the same bytes.

    `fewest`: how often an n-gram of the highest order must occur to be kept; without it, 2 from two million words on
    (the file is a third of the size, the perplexity of held-out text 1 % higher). Raises UserError where there is too
    little text.
    """
    pieces = [words_in(text).hashes for text in texts]
    total = sum(map(len, pieces))
    if total < FEWEST_WORDS:
        raise UserError(
            f"the n-gram model has {total:,} words of reference text to learn from; it needs {FEWEST_WORDS:,}",
            fix="give more reference text (some million words are better), or leave the perplexity out",
        )
    begin = np.full(order - 1, _BEGIN, np.uint64)
    stream = np.concatenate([part for piece in pieces if len(piece) for part in (begin, piece)])
    fewest = fewest or (2 if total >= 2_000_000 else 1)
    vocabulary = len(np.unique(stream[stream != _BEGIN])) + 1
    model = NgramModel(tuple(_levels(stream, order, fewest)), vocabulary, total, language)
    _write(model, folder)
    return model


def load(folder: Path) -> NgramModel:
    """A model from its folder. Raises UserError where the folder holds none, or one of another format."""
    try:
        told = json.loads((folder / "perplexity.json").read_text(encoding="utf-8"))
        if told.get("format") != FORMAT:
            raise ValueError(f"format {told.get('format')}; this version reads format {FORMAT}")
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            levels = tuple(
                Level(*(arrays[f"{name}{n}"] for name in ("ngrams", "shares", "contexts", "left")))
                for n in range(1, told["order"] + 1)
            )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no n-gram model can be read: {error}", where=str(folder), fix="train it, or give its folder"
        ) from None
    return NgramModel(levels, told["vocabulary"], told["words"], told["language"])


# ---------------------------------------------------------------- training


def _levels(stream: Hashes, order: int, fewest: int) -> Iterable[Level]:
    """The levels from 1 to `order`. All but the highest count in how many contexts an n-gram occurs, not how often."""
    ends_in_word = stream != _BEGIN
    kept = []  # per order: (sorted keys, first place, count) of the n-grams that end in a word
    for n in range(1, order + 1):
        keys = ngrams(stream, n)
        places = np.flatnonzero(ends_in_word[n - 1 :])
        unique, first, counts = np.unique(keys[places], return_index=True, return_counts=True)
        kept.append((unique, places[first], counts))
    for n in range(1, order + 1):
        unique, first, counts = kept[n - 1]
        if n < order:
            # Kneser-Ney: each different (n+1)-gram that ends in this n-gram counts once. What begins a text has no
            # word before it, except the mark of the beginning, which is one.
            _, longer_first, _ = kept[n]
            suffixes = ngrams(stream, n)[longer_first + 1]
            counts = np.bincount(np.searchsorted(unique, suffixes), minlength=len(unique))
            known = counts > 0
            unique, first, counts = unique[known], first[known], counts[known]
        contexts = _contexts(stream, n)[first]
        yield _level(unique, counts, contexts, fewest if n == order else 1)


def _level(keys: Hashes, counts: NDArray[np.int64], contexts: Hashes, fewest: int) -> Level:
    """a = (c - D(c)) / c(h) for each n-gram, b = what the discounts and the left-out n-grams leave for each context."""
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    names, of = np.unique(contexts, return_inverse=True)
    totals = np.bincount(of, counts, len(names))
    shares = (counts - discounts) / totals[of]
    shares[counts < fewest] = 0.0
    left = 1.0 - np.bincount(of, shares, len(names))
    stays = counts >= fewest
    informs = left < 1.0  # a context of which nothing was kept says nothing
    return Level(keys[stays], shares[stays].astype(np.float32), names[informs], left[informs].astype(np.float32))


def _discounts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(4,) what is taken off an n-gram that occurs 0, 1, 2, 3 or more times."""
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    return np.clip([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3], 0.0, (0.0, 0.95, 1.9, 2.85))


def _contexts(stream: Hashes, n: int) -> Hashes:
    """(len - n + 1,) the key of the n - 1 words before the last one of each n-gram; of no words: 0."""
    if n == 1:
        return np.zeros(len(stream), np.uint64)
    return ngrams(stream[:-1], n - 1)


# ---------------------------------------------------------------- scoring


def _blocks(texts: Sequence[str], padding: int) -> Iterable[tuple[list[int], Hashes, NDArray[np.int64]]]:
    """(places of texts, their words one after the other with marks before each text, where each text ends)."""
    begin = np.full(padding, _BEGIN, np.uint64)
    places: list[int] = []
    parts: list[Hashes] = []
    size = 0
    for place, text in enumerate(texts):
        hashes = words_in(text).hashes
        if not len(hashes):
            continue
        places.append(place)
        parts.append(np.concatenate((begin, hashes)))
        size += len(parts[-1])
        if size >= _BLOCK_WORDS:
            yield places, np.concatenate(parts), np.cumsum([len(part) for part in parts])
            places, parts, size = [], [], 0
    if places:
        yield places, np.concatenate(parts), np.cumsum([len(part) for part in parts])


def _look_up(keys: Hashes, values: Values, wanted: Hashes, absent: float) -> NDArray[np.float64]:
    """(wanted,) the value of each key. Looked up in sorted order, so that the next key is in the cache already."""
    if len(keys) == 1:
        return np.where(wanted == keys[0], np.float64(values[0]), absent)
    order = np.argsort(wanted)
    ordered = wanted[order]
    places = np.minimum(np.searchsorted(keys, ordered), len(keys) - 1)
    found = np.empty(len(wanted))
    found[order] = np.where(keys[places] == ordered, values[places], absent)
    return found


def _write(model: NgramModel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{name}{n}": getattr(level, name)
        for n, level in enumerate(model.levels, 1)
        for name in ("ngrams", "shares", "contexts", "left")
    }
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
    told = {"format": FORMAT, "order": len(model.levels), "vocabulary": model.vocabulary, "words": model.words}
    temporary = folder / "perplexity.json.tmp"
    temporary.write_text(json.dumps(told | {"language": model.language}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "perplexity.json")
