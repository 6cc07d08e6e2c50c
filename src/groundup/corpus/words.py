"""A text's characters and words as numpy arrays: tokenised once, then every measure is arithmetic on arrays.

A loop over words in Python stops at about 4 MB/s whatever it does with them. Here a character is a number, its kind
and its value for hashing are looked up in tables, and the hash of a word is a difference of two prefix sums, so that no
word ever becomes a Python object: 30 to 50 MB/s on one core.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint32]
Places = NDArray[np.int64]
Hashes = NDArray[np.uint64]

ALPHA, ALNUM, SPACE, WORD, ALONE, UPPER, MARK = (1 << bit for bit in range(7))
_KNOWN = 1 << 7
_BLOCK_CHARS = 1 << 18  # characters hashed at a time: the working set stays in the cache, powers stay few
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_BASE_INVERSE = pow(_BASE, -1, 1 << 64)
_MASK = (1 << 64) - 1
_BLANKS = "\u0f0b\u1361"  # stand between words in Tibetan and Amharic

# Scripts without spaces between words: here a character, with the marks on it, counts as a word.
_ALONE = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


class _Tables:
    """Per code point: what kind of character it is, and a random-looking 64-bit value of its lower case.

    Filled when a character is first met: 1.1 million code points would take a second, a corpus uses a few thousand.
    """

    def __init__(self) -> None:
        self.kinds = np.zeros(0x110000, np.uint8)
        self.values = np.zeros(0x110000, np.uint64)

    def learn(self, codes: Codes) -> NDArray[np.uint8]:
        """(n,) the kinds of the characters."""
        kinds = self.kinds[codes]
        unknown = codes[kinds == 0]
        if len(unknown):
            for code in np.unique(unknown).tolist():
                self.kinds[code] = _kind(chr(code))
                self.values[code] = _mix(ord(chr(code).lower()[0]))
            kinds = self.kinds[codes]
        return kinds


def _kind(character: str) -> int:
    kind = _KNOWN | SPACE * (character.isspace() or character in _BLANKS) | UPPER * character.isupper()
    kind |= ALPHA * character.isalpha() | ALNUM * character.isalnum()
    # Marks belong to the letter before them: without them every Hindi word would fall into pieces.
    if unicodedata.category(character) in ("Mn", "Mc"):
        kind |= WORD | MARK
    elif character.isalnum() or character == "_":
        kind |= WORD
        if character.isalnum() and any(first <= ord(character) <= last for first, last in _ALONE):
            kind |= ALONE
    return kind


def _mix(number: int) -> int:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): neighbouring numbers become unrelated ones."""
    number = (number + _BASE) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


def mix(numbers: Hashes) -> Hashes:
    """The same, of an array."""
    with np.errstate(over="ignore"):
        numbers = numbers + np.uint64(_BASE)
        numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return numbers ^ (numbers >> np.uint64(31))


@cache
def _tables() -> _Tables:
    return _Tables()


@cache
def _powers() -> tuple[Hashes, Hashes]:
    """(_BLOCK_CHARS + 1,) powers of the base modulo 2^64, and of its inverse."""
    both = []
    for base in (_BASE, _BASE_INVERSE):
        steps = np.full(_BLOCK_CHARS + 1, base, np.uint64)
        steps[0] = 1
        with np.errstate(over="ignore"):
            both.append(np.cumprod(steps, dtype=np.uint64))
    return both[0], both[1]


@dataclass(frozen=True)
class Words:
    """A text taken apart. Word i is `text[starts[i]:ends[i]]`; its hash does not tell upper from lower case."""

    codes: Codes  # (characters,)
    kinds: NDArray[np.uint8]  # (characters,) bits: ALPHA, ALNUM, SPACE, WORD, ALONE, UPPER, MARK
    starts: Places  # (words,)
    ends: Places  # (words,)
    hashes: Hashes  # (words,) the same on every machine

    def __len__(self) -> int:
        return len(self.starts)


def words_in(text: str) -> Words:
    """Words are runs of letters, digits, marks and `_`; a Han, kana, Thai, Lao, Khmer or Burmese character is one."""
    codes: Codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _tables().learn(codes)
    starts, ends = _word_bounds(kinds)
    return Words(codes, kinds, starts, ends, _hashes(codes, starts, ends))


def word_hash(word: str) -> int:
    """The hash that `words_in` gives a word. Raises ValueError where it is no single word."""
    words = words_in(word)
    if len(words) != 1 or words.starts[0] != 0 or words.ends[0] != len(word):
        raise ValueError(f"{word!r} is {len(words)} words")
    return int(words.hashes[0])


def runs(mask: NDArray[np.bool_]) -> tuple[Places, Places]:
    """(starts, ends) of the runs of True."""
    padded = np.zeros(len(mask) + 2, np.int8)
    padded[1:-1] = mask
    edges = np.diff(padded)
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _word_bounds(kinds: NDArray[np.uint8]) -> tuple[Places, Places]:
    is_word = kinds & WORD != 0
    starts, ends = runs(is_word)
    is_mark = kinds & MARK != 0
    if is_mark.any():  # marks without a letter before them (variation selectors behind emoji) are in no word
        letters = np.append(np.flatnonzero(is_word & ~is_mark), len(kinds))
        starts = letters[np.searchsorted(letters, starts)]
        starts, ends = starts[starts < ends], ends[starts < ends]
    alone = kinds & ALONE != 0
    if not alone.any():
        return starts, ends
    # A word also begins at each character that stands alone, and at the first letter after one (not at its marks).
    places = np.where(is_mark, 0, np.arange(len(kinds)))
    belongs_to_alone = alone[np.maximum.accumulate(places)]
    begins = alone.copy()
    begins[1:] |= is_word[1:] & ~is_mark[1:] & belongs_to_alone[:-1]
    begins[starts] = True
    all_starts = np.flatnonzero(begins)
    stops = np.append(begins, True)
    stops[ends] = True
    all_stops = np.flatnonzero(stops)
    return all_starts, all_stops[np.searchsorted(all_stops, all_starts, side="right")]


def _hashes(codes: Codes, starts: Places, ends: Places) -> Hashes:
    values = _tables().values
    powers, inverses = _powers()
    result = np.empty(len(starts), np.uint64)
    first = 0
    while first < len(starts):
        origin = int(starts[first])
        last = max(first + 1, int(np.searchsorted(ends, origin + _BLOCK_CHARS, side="right")))
        stop = min(int(ends[last - 1]), origin + _BLOCK_CHARS)  # a longer word is told by its first 262,144 characters
        size = stop - origin
        sums = np.zeros(size + 1, np.uint64)
        with np.errstate(over="ignore"):
            np.cumsum(values[codes[origin:stop]] * powers[:size], out=sums[1:])
            begin, end = starts[first:last] - origin, np.minimum(ends[first:last] - origin, size)
            result[first:last] = (sums[end] - sums[begin]) * inverses[begin]
        first = last
    return mix(result)


# ---------------------------------------------------------------- n-grams


def ngrams(hashes: Hashes, n: int) -> Hashes:
    """(words - n + 1,) a hash of each run of `n` words, order counted; empty where there are fewer."""
    count = len(hashes) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    total = hashes[:count]
    for offset in range(1, n):
        total = longer(total, hashes[offset : offset + count])
    return total


def longer(keys: Hashes, following: Hashes) -> Hashes:
    """(keys,) the hashes of n-grams made longer by one word each."""
    with np.errstate(over="ignore"):
        keys = keys * np.uint64(_BASE)
        keys ^= keys >> np.uint64(32)
        keys += following
    return keys


def hashes_of(words: Sequence[str]) -> Hashes:
    """(words,) sorted hashes of a word list, to be looked up with `np.isin`. For lists written down in code."""
    found: Any = np.sort(np.array([word_hash(word) for word in words], np.uint64))
    return found  # type: ignore[no-any-return]
