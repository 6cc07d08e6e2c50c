"""Exam items in other words: which item does a stretch of text tell again, whatever the order of its words?

A rephrased item keeps most of its numbers, names and rare nouns, and loses its word order; n-grams see nothing of it
(Yang et al. 2023, "Rethinking benchmark and contamination for language models with rephrased samples"). Here an item is
the set of its content words, lightly stemmed, numbers as numbers ("twelve" is 12, "$80,000" is 80000). A word weighs
-log of the share of the exam's items that hold it. Stretches of a document that share enough weight with an item are
looked at closely: how much of the item is there (words and numbers apart), how much else is there, and whether it fits
this item better than every other one of the exam, which is what tells a copy from another question of the same kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.corpus.exams.ngrams import hash_words

MAX_ITEM_WORDS = 320  # of an item; the rest of a long one is not looked at
MAX_COUNTED_WORDS = 16  # more shared words than these make nothing surer
MIN_ITEM_WORDS = 6  # different words, numbers and grammar apart: fewer say nothing
MIN_ITEM_WEIGHT = 15.0  # nats over all of them: items made from one template have little of their own
BLOCK_WORDS, OVERLAP_WORDS = 20_000, 500  # of a document, looked at together
COMMON_SHARE = 0.05  # a word that more of an exam's items hold does not make a candidate
MIN_COMMON = 5  # items; and never fewer than that
REPEAT_WORDS = 30  # a word that comes again so soon counts once
MIN_SHARE, MIN_CODE_SHARE = 0.35, 0.25  # of the weight of an item's rarer words, for a stretch to be looked at closely
WINDOW_PER_WORD = 1.4  # a retelling may be this much longer than the item
SAME_ITEM = 0.5  # items that share this much weight are told apart by nobody

# Logistic regressions on half of the rephrased items of GSM8K and HumanEval, alone and inside other text, against half
# of the nearest stretches of other questions, instructions, prose and code. What the other half gave: docs/corpus.md.
SIGNALS = ("one", "jaccard", "share", "word_share", "number_share", "weight", "margin", "words")
MARGIN = SIGNALS.index("margin")
TEXT_COEFFICIENTS = (-16.2, -7.26, 10.05, 3.8, 5.72, 0.03, 14.7, 0.48)
CODE_COEFFICIENTS = (-13.56, 5.41, 6.21, 4.86, 1.09, 0.02, 1.06, 0.48)
_CODE = re.compile(r"^\s*(?:def|class|fn|func|function|public|private|static|#include)\b.*[:({]", re.M)

_NUMBERS = {
    word: number
    for words, start in (
        ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen", 0),
        ("sixteen seventeen eighteen nineteen twenty", 16),
    )
    for number, word in enumerate(words.split(), start)
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100,
     "thousand": 1000, "dozen": 12, "twice": 2, "double": 2, "thrice": 3, "triple": 3, "once": 1}  # fmt: skip
# English grammar: it counts like other words, and nothing is an item for it alone.
_GRAMMAR = (
    "a about after again all also am an and any are as at be because been before being both but by can could did "
    "do does doing done during each either else ever every few for from get gets give given go goes had has have "
    "having he her here hers him his how however if in into is it its itself just let like made make makes many "
    "may me might more most much must my neither no nor not of off on only onto or other others our out over own "
    "per same shall she should since so some such take taken takes than that the their them then there these they "
    "this those though through thus to too under until up upon us use used using very was we were what when where "
    "which while who whom whose why will with within without would yet you your yours"
)
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"\d(?:[\d,]*\d)?(?:\.\d+)?|[{_CJK}]|[^\W\d_{_CJK}]{{2,}}")
_SUFFIXES = ("ingly", "edly", "ing", "ies", "ied", "ed", "es", "ly", "s", "e")
_MAX_CACHED_WORDS = 1_000_000


def content_words(text: str) -> list[str]:
    """Words and numbers of a text in their order, each in the form in which items and documents are compared."""
    return [feature_of(word) for word in _TOKEN.findall(text.lower())]


def feature_of(word: str) -> str:
    """`word` is lower case. Numbers without commas and trailing zeros, number words as numbers, English endings cut."""
    if word[0].isdigit():
        plain = word.replace(",", "")
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    if word in _NUMBERS:
        return str(_NUMBERS[word])
    if word.isascii():
        for suffix in _SUFFIXES:
            if word.endswith(suffix) and len(word) - len(suffix) >= 3:
                return word[: -len(suffix)]
    return word


@dataclass(frozen=True)
class Match:
    """A stretch of a text that tells an item again. `item` is its number; `probability` is the model's, 0 to 1."""

    item: int
    probability: float
    signals: tuple[float, ...]  # as SIGNALS names them
    start: int  # of the text's words, as `content_words` counts them
    end: int
    shared: tuple[str, ...]  # words that both hold, the rarest first


class RephraseIndex:
    """Items of one or more exams, as sparse rows of word weights. Everything in it is an array: see `arrays`."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.arrays = dict(arrays)
        self.keys, self.exam_of, self.row_of = arrays["keys"], arrays["exam_of"], arrays["row_of"]
        self.is_code = arrays["is_code"]
        self.totals, self.number_totals, self.lengths = arrays["totals"], arrays["number_totals"], arrays["lengths"]
        self.item_starts, self.item_words = arrays["item_starts"], arrays["item_words"]
        self.item_weights = arrays["item_weights"]
        self.word_starts, self.word_items = arrays["word_starts"], arrays["word_items"]
        self.word_weights = arrays["word_weights"]
        self.weight_in_exam, self.is_number = arrays["weight_in_exam"], arrays["is_number"]  # (F, exams), (F,)
        self.is_grammar = arrays["is_grammar"]  # (F,)
        self.unknown_weight = arrays["unknown_weight"]  # (exams,) of a word that no item holds
        self.rare_ends, self.rare_totals = arrays["rare_ends"], arrays["rare_totals"]
        self.windows = (WINDOW_PER_WORD * self.lengths).astype(np.int64) + 8
        self._rivals: dict[int, NDArray[np.bool_]] = {}
        self.numbers = arrays["numbers"]  # the caller's number of each item
        self._ids: dict[str, int] = {}

    @staticmethod
    def of(texts: Sequence[str], exams: Sequence[int], rows: Sequence[int] | None = None) -> RephraseIndex:
        """`texts[i]` is an item (question and answer) of exam number `exams[i]`; texts of one row, as `rows` numbers
        them, are no rivals. Items that say too little are left out; matches name the others by their place in `texts`.
        """
        row_of = list(range(len(texts))) if rows is None else list(rows)
        words_of = [content_words(text)[:MAX_ITEM_WORDS] for text in texts]
        sets = [sorted(set(words)) for words in words_of]
        count = max(exams, default=-1) + 1
        sizes = np.bincount(np.asarray(exams, np.int64), minlength=count).astype(float)
        document_counts: list[dict[str, int]] = [{} for _ in range(count)]
        for words, exam in zip(sets, exams, strict=True):
            for word in words:
                document_counts[exam][word] = document_counts[exam].get(word, 0) + 1
        pooled: dict[str, int] = {}  # a word that is rare in one exam may be common in all of them
        for counts in document_counts:
            for word, seen in counts.items():
                pooled[word] = pooled.get(word, 0) + seen
        weights = [
            {
                word: float(np.log(min((sizes[exam] + 1) / (seen + 0.5), (len(texts) + 1) / (pooled[word] + 0.5))))
                for word, seen in counts.items()
            }
            for exam, counts in enumerate(document_counts)
        ]
        grammar = {feature_of(word) for word in _GRAMMAR.split()}
        kept = [
            place
            for place, (words, exam) in enumerate(zip(sets, exams, strict=True))
            if len(own := [word for word in words if not word[0].isdigit() and word not in grammar]) >= MIN_ITEM_WORDS
            and sum(weights[exam][word] for word in own) >= MIN_ITEM_WEIGHT
        ]
        vocabulary = sorted({word for place in kept for word in sets[place]})
        hashes = hash_words(vocabulary)
        order = np.argsort(hashes, kind="stable")
        vocabulary = [vocabulary[place] for place in order]
        ids = {word: number for number, word in enumerate(vocabulary)}
        sets = [sorted(words, key=lambda word: ids.get(word, -1)) for words in sets]
        item_words = [np.array([ids[word] for word in sets[place]], np.int32) for place in kept]
        item_weights = [np.array([weights[exams[place]][word] for word in sets[place]]) for place in kept]
        is_grammar = np.array([word in grammar for word in vocabulary], bool)
        is_number = np.array([word[0].isdigit() for word in vocabulary], bool)
        weight_in_exam = np.zeros((len(vocabulary), max(count, 1)))
        for exam, own_weights in enumerate(weights):
            unknown = np.log((sizes[exam] + 1) / 0.5)
            weight_in_exam[:, exam] = [own_weights.get(word, unknown) for word in vocabulary]
        flat = np.concatenate([*item_words, np.zeros(0, np.int32)])
        owners = np.repeat(np.arange(len(kept), dtype=np.int32), [len(words) for words in item_words])
        flat_weights = np.concatenate([*item_weights, np.zeros(0)])
        # Entries by word; of a word, those of exams in which it is rare come first
        exam_of = np.array([exams[place] for place in kept], np.int64)
        limit = np.log((sizes + 1) / (np.maximum(COMMON_SHARE * sizes, MIN_COMMON) + 0.5))[exam_of[owners]]
        is_common = flat_weights < limit
        by_word = np.lexsort((owners, is_common, flat))
        word_starts = np.searchsorted(flat[by_word], np.arange(len(vocabulary) + 1))
        rare_counts = np.bincount(flat[~is_common], minlength=len(vocabulary))
        return RephraseIndex({
            "keys": hashes[order],
            "numbers": np.array(kept, np.int64),
            "exam_of": exam_of,
            "row_of": np.array([row_of[place] for place in kept], np.int64),
            "is_code": np.array([_CODE.search(texts[place]) is not None for place in kept], bool),
            "totals": np.array([row.sum() for row in item_weights]),
            "number_totals": np.array([
                row[is_number[words]].sum() for words, row in zip(item_words, item_weights, strict=True)
            ]),
            "lengths": np.array([len(words_of[place]) for place in kept], np.int64),
            "item_starts": np.cumsum([0, *(len(words) for words in item_words)]),
            "item_words": flat,
            "item_weights": flat_weights,
            "word_starts": word_starts,
            "rare_ends": word_starts[:-1] + rare_counts,
            "rare_totals": np.maximum(np.bincount(owners, flat_weights * ~is_common, len(kept)), MIN_ITEM_WEIGHT / 2),
            "word_items": owners[by_word],
            "word_weights": flat_weights[by_word],
            "weight_in_exam": weight_in_exam,
            "is_number": is_number,
            "is_grammar": is_grammar,
            "unknown_weight": np.log((np.maximum(sizes, 1) + 1) / 0.5) if count else np.zeros(1),
        })  # fmt: skip

    def renumber(self, numbers: NDArray[np.int64]) -> None:
        """Matches name text `i` of those given to `of` by `numbers[i]` from here on."""
        self.numbers = self.arrays["numbers"] = numbers[self.numbers]

    def match(self, text: str, at_least: float = 0.0) -> list[Match]:
        """Items that a stretch of the text tells again with this probability or more, likeliest first."""
        if not len(self.totals):
            return []
        raw = _TOKEN.findall(text.lower())
        words = self._numbers_of(raw)
        best: dict[int, Match] = {}
        for start in range(0, max(len(words) - OVERLAP_WORDS, 1), BLOCK_WORDS):
            block = words[start : start + BLOCK_WORDS + OVERLAP_WORDS]
            for item, place in self._candidates(block):
                found = self._look_closely(block, item, place, start, raw, at_least)
                if found is None or found.probability < at_least:
                    continue
                if found.item not in best or found.probability > best[found.item].probability:
                    best[found.item] = found
        return sorted(best.values(), key=lambda match: (-match.probability, match.item))

    def _candidates(self, block: NDArray[np.int64]) -> list[tuple[int, int]]:
        """(item, place where a stretch begins) for items of which a stretch holds MIN_SHARE of the rarer words."""
        places = np.flatnonzero((block >= 0) & ~_repeats(block))
        words = block[places]
        counts = self.rare_ends[words] - self.word_starts[words]
        ends = np.cumsum(counts)
        if not len(ends) or not ends[-1]:
            return []
        entries = np.arange(ends[-1]) + np.repeat(self.word_starts[words] - ends + counts, counts)
        items, at, weights = self.word_items[entries], np.repeat(places, counts), self.word_weights[entries]
        order = np.argsort(items, kind="stable")
        items, at, weights = items[order], at[order], weights[order]
        keys = items.astype(np.int64) * (1 << 32) + at
        sums = np.cumsum(weights)
        last = np.searchsorted(keys, keys + self.windows[items], "right") - 1
        share = (sums[last] - sums + weights) / self.rare_totals[items]
        enough = np.flatnonzero(share >= np.where(self.is_code[items], MIN_CODE_SHARE, MIN_SHARE))
        found: dict[int, tuple[float, int]] = {}
        for one in enough.tolist():
            item = int(items[one])
            if item not in found or share[one] > found[item][0]:
                found[item] = (float(share[one]), int(at[one]))
        return [(item, place) for item, (_, place) in found.items()]

    def _numbers_of(self, raw: Sequence[str]) -> NDArray[np.int64]:
        """(n,) number of each word in the vocabulary, -1 for one that no item holds."""
        if len(self._ids) > _MAX_CACHED_WORDS:
            self._ids.clear()
        get = self._ids.get
        unknown = [word for word in set(raw) if get(word) is None]
        if unknown:
            hashes = hash_words([feature_of(word) for word in unknown])
            places = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
            found = np.where(self.keys[places] == hashes, places, -1)
            self._ids.update(zip(unknown, found.tolist(), strict=True))
        return np.fromiter((self._ids[word] for word in raw), np.int64, len(raw))

    def _weight_shared(self, words: NDArray[np.int64]) -> NDArray[np.float64]:
        """(items,) weight of the different `words` that each item holds."""
        counts = self.word_starts[words + 1] - self.word_starts[words]
        ends = np.cumsum(counts)
        if not len(ends) or not ends[-1]:
            return np.zeros(len(self.totals))
        entries = np.arange(ends[-1]) + np.repeat(self.word_starts[words] - ends + counts, counts)
        shared: Any = np.bincount(self.word_items[entries], self.word_weights[entries], len(self.totals))
        return shared  # type: ignore[no-any-return]

    def _look_closely(
        self, block: NDArray[np.int64], item: int, near: int, offset: int, raw: Sequence[str], at_least: float
    ) -> Match | None:
        own = slice(self.item_starts[item], self.item_starts[item + 1])
        own_words, own_weights = self.item_words[own], self.item_weights[own]
        low = max(near - int(self.windows[item]), 0)
        chunk = block[low : near + 2 * int(self.windows[item])]
        slot = np.minimum(np.searchsorted(own_words, chunk), len(own_words) - 1)
        matched = np.where(own_words[slot] == chunk, own_weights[slot], 0.0)
        places = np.flatnonzero(matched)
        # The stretch with most of the item's weight that is not much longer than the item
        sums = np.cumsum(matched[places])
        last = np.searchsorted(places, places + self.windows[item], "right") - 1
        first = int(np.argmax(sums[last] - sums + matched[places]))
        start, end = int(places[first]), int(places[last[first]]) + 1
        window = chunk[start:end]
        unknown = len({raw[offset + low + start + place] for place in np.flatnonzero(window < 0).tolist()})
        known = np.unique(window[window >= 0])
        exam = int(self.exam_of[item])
        there = float(self.weight_in_exam[known, exam].sum() + unknown * self.unknown_weight[exam])
        slot = np.minimum(np.searchsorted(own_words, known), len(own_words) - 1)
        weights = np.where(own_words[slot] == known, own_weights[slot], 0.0)
        own_shared = float(weights.sum())
        jaccard = own_shared / (float(self.totals[item]) + there - own_shared)
        numbers_shared = float(weights[self.is_number[known]].sum())
        number_total, word_total = float(self.number_totals[item]), float(self.totals[item] - self.number_totals[item])
        signals = [
            1.0,
            jaccard,
            own_shared / float(self.totals[item]),
            (own_shared - numbers_shared) / word_total,
            numbers_shared / number_total if number_total else 0.5,
            own_shared,
            jaccard,  # the margin where no other item is like it
            float(min(int(np.count_nonzero(weights[~self.is_grammar[known]])), MAX_COUNTED_WORDS)),
        ]
        coefficients = CODE_COEFFICIENTS if self.is_code[item] else TEXT_COEFFICIENTS
        if _probability(coefficients, signals) < at_least:
            return None  # whatever the other items say
        shared = self._weight_shared(known)
        rivals = shared / np.maximum(self.totals + there - shared, 1e-9) * self._are_rivals(item)
        nearest: Any = rivals.max(initial=0.0)
        signals[MARGIN] = jaccard - float(nearest)
        rarest = known[np.argsort(-weights, kind="stable")][: np.count_nonzero(weights)]
        names = {number: word for word, number in zip(raw[offset + low :], chunk.tolist(), strict=False)}
        return Match(
            int(self.numbers[item]),
            _probability(coefficients, signals),
            tuple(signals),
            offset + low + start,
            offset + low + end,
            tuple(names[word] for word in rarest.tolist()),
        )

    def _are_rivals(self, item: int) -> NDArray[np.bool_]:
        """(items,) True for the other items of its exam, but for those that are nearly this one."""
        if item not in self._rivals:
            own = self.item_words[self.item_starts[item] : self.item_starts[item + 1]]
            overlap = self._weight_shared(own.astype(np.int64))
            is_other = (self.exam_of == self.exam_of[item]) & (self.row_of != self.row_of[item])
            self._rivals[item] = is_other & (overlap < SAME_ITEM * np.minimum(self.totals, self.totals[item]))
        return self._rivals[item]


def _probability(coefficients: Sequence[float], signals: Sequence[float]) -> float:
    return 1 / (1 + math.exp(-sum(weight * value for weight, value in zip(coefficients, signals, strict=True))))


def _repeats(words: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) True for a word that stands at most REPEAT_WORDS before as well."""
    order = np.argsort(words, kind="stable")
    repeats = np.zeros(len(words), bool)
    same = (words[order[1:]] == words[order[:-1]]) & (order[1:] - order[:-1] <= REPEAT_WORDS)
    repeats[order[1:][same]] = True
    return repeats
