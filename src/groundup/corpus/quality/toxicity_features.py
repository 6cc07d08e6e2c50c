"""What the toxicity model sees of a text: words and pairs of words, characters inside words, classes of words.

Disguises are undone first (`h4te`, `h a t e`, `haaate`, `ihatethem`); names of groups of people become one token, so
that no group's name is a bad sign by itself.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

from groundup.corpus.quality.linear import BITS, Ids
from groundup.corpus.quality.toxicity_words import CLASSES, FORMS, GROUP

_LEET = str.maketrans("013457@$!", "oieastasi")
_TOKEN = re.compile(r"[^\W_][\w@$!]*|[@$][\w@$!]*[^\W\d_][\w@$!]*")
_URL, _USER = re.compile(r"https?://\S+"), re.compile(r"(?<!\w)@\w+")
_SPACED = re.compile(r"(?<!\w)(?:[^\W\d_][ .*-]){2,}[^\W\d_](?!\w)")
_REPEATED = re.compile(r"(.)\1{2,}")
_INSIDE = re.compile("(" + "|".join(sorted((w for w in CLASSES if len(w) >= 4), key=lambda w: (-len(w), w))) + ")")
_PEOPLE = frozenset(("people", "folks", "person", "persons", "families", "kids"))
_FRAME = frozenset(
    ("i", "you", "are", "is", "they", "we", "should", "be", "who", "why", "all", "people", "how", "if", "my", "am")
)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def words_of(text: str) -> list[str]:
    """Words in small letters, disguises undone."""
    text = html.unescape(text).lower()
    if "http" in text:
        text = _URL.sub(" ", text)
    if "@" in text:
        text = _USER.sub(" user ", text)
    text = text.replace("'", "").replace("\u2019", "")
    text = _SPACED.sub(lambda match: re.sub(r"[ .*-]", "", match[0]), text)
    text = _REPEATED.sub(r"\1\1", text)
    words: list[str] = []
    for token in _TOKEN.findall(text):
        words += _undisguised(token)
    return words


@lru_cache(maxsize=1 << 17)
def _undisguised(token: str) -> tuple[str, ...]:
    word = token.rstrip("!@$")
    if not word.isalpha() and not word.isdigit():
        word = word.translate(_LEET)
    if len(word) >= 9 and word not in FORMS:
        parts = tuple(part for part in _INSIDE.split(word) if part)
        if len(parts) > 1 and 2 * sum(len(part) for part in parts if part in CLASSES) >= len(word):
            return parts
    return (word,) if word else ()


def features_of(words: list[str]) -> Ids:
    """Sorted distinct feature ids below `linear.SIZE`."""
    shown: list[_Word] = []  # the words, with groups of people as one token
    frame: list[int] = []  # the classes of words that have one, and words that carry the sentence
    named: set[str] = set()
    was_group = False
    for word in words:
        known = _known(word)
        is_group = known.name == GROUP
        if was_group and (is_group or word in _PEOPLE):
            continue  # `gay black women`, `muslim people`: one group
        was_group = is_group
        shown.append(known)
        if known.frame:
            frame.append(known.frame)
        if known.name:
            named.add(known.name)
    if not shown:
        return np.zeros(1, np.int64)
    hashes = np.array([known.hash for known in shown], np.uint64)
    pairs = hashes[:-1] * _MIX + hashes[1:]
    ids = [known.own for known in shown]
    ids.append(_places(np.concatenate((pairs, _frames(tuple(frame)), _combined(frozenset(named))))))
    return np.unique(np.concatenate(ids))


@dataclass(frozen=True, slots=True)
class _Word:
    name: str  # its class, as `<bad>`
    hash: int
    frame: int  # what it is in the frame of the sentence, or 0
    own: Ids  # itself, and the 3-, 4- and 5-grams of its characters between its borders


@lru_cache(maxsize=1 << 17)
def _known(word: str) -> _Word:
    name = FORMS.get(word, "")
    if name == GROUP:
        hashed = _hash(GROUP)
        return _Word(name, hashed, hashed, _places(np.array([hashed], np.uint64)))
    bordered = f"_{word}_"
    grams = [bordered[at : at + size] for size in (3, 4, 5) for at in range(len(bordered) - size + 1)]
    own = _places(np.array([_hash(word), *(_hash(f"c{gram}") for gram in grams)], np.uint64))
    return _Word(name, _hash(word), _hash(name or word) if name or word in _FRAME else 0, own)


@lru_cache(maxsize=1 << 14)
def _frames(frame: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    """Runs of one to four classes: `i <hate> <group>`, `<group> are <not> <bad>`."""
    classes = np.array(frame, np.uint64) + np.uint64(1)
    runs, found = classes, []
    for size in range(1, 5):
        found.append(runs * _MIX + np.uint64(size))
        runs = runs[:-1] * _MIX + classes[size:] if len(classes) > size else classes[:0]
    return np.concatenate(found)


@lru_cache(maxsize=1 << 14)
def _combined(names: frozenset[str]) -> npt.NDArray[np.uint64]:
    """Which classes occur together, in pairs and all of them, whatever their order."""
    inside = sorted(names)
    pairs = [_hash(f"{one}+{other}") for place, one in enumerate(inside) for other in inside[place + 1 :]]
    return np.array([*pairs, _hash("+".join(inside))], np.uint64)


def _places(hashes: npt.NDArray[np.uint64]) -> Ids:
    mixed = (hashes ^ (hashes >> np.uint64(29))) * _MIX
    return (mixed >> np.uint64(64 - BITS)).astype(np.int64)


@lru_cache(maxsize=1 << 17)
def _hash(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"))
