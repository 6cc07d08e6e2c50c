"""What the quality rules look at, measured once: `signals_of`. The rules themselves are in quality_rules.py.

Sources: Gopher (Rae et al. 2021, table A1), C4 (Raffel et al. 2020, 2.2), FineWeb (Penedo et al. 2024, 3.6) for prose;
The Stack (Kocetkov et al. 2022) for code. Signals are numbers and thresholds are judged later, so that a changed
threshold never reads a page again. A text is tokenised once (words.py); everything else is arithmetic on arrays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from groundup.corpus.document import Media
from groundup.corpus.quality.stop_words import stop_word_hashes
from groundup.corpus.words import ALNUM, ALONE, ALPHA, SPACE, UPPER, Hashes, Places, Words, longer, runs, words_in

SHORT_LINE_CHARS = 30  # FineWeb
TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
_FEWEST_FOR_TOP_NGRAM = 50  # in a shorter text one repeated pair is a large share and means nothing
_FEWEST_LINE_CHARS = 20  # repeated lines: speakers' names and table cells are shorter


# What a line or a sentence ends or begins with: one byte per character, looked up instead of searched.
_ENDS_SENTENCE, _CLOSES, _ENDS_LINE, _BULLET, _LONE_BULLET, _ENDS_NUMBER, _DIGIT, _DOT = (1 << bit for bit in range(8))
_MARKED = (
    (_ENDS_SENTENCE, ".!?…।؟۔።։။។།"),
    (_CLOSES, "\"'”’»)]」』"),
    (_ENDS_LINE, ".!?\"'”’…:;。！？।؟۔።։။។།»)」』"),
    (_BULLET, "•●‣▪◦∙■"),  # a line that begins with one is a bullet point; with these, where a blank follows:
    (_LONE_BULLET, "-*–—·+•●‣▪◦∙■"),
    (_ENDS_NUMBER, ".)"),
    (_DIGIT, "0123456789"),
    (_DOT, "."),
)
_MARKS = np.zeros(0x10000, np.uint8)
for _bit, _characters in _MARKED:
    _MARKS[[*map(ord, _characters)]] |= _bit
_WIDE_ENDS = "。！？"  # nothing follows them: Chinese and Japanese have no spaces
_LOREM_IPSUM = ("lorem ipsum", "Lorem ipsum", "Lorem Ipsum", "LOREM IPSUM")

_BOILERPLATE_LINE = re.compile(
    r"(?:(?:enable|requires?|turn on|activate) (?:javascript|cookies)|javascript (?:is|must be|has been|seems)|"
    r"(?:uses?|accept|our) cookies|cookie policy|terms of (?:use|service)\s*$|privacy policy\s*$)",
    re.I,
)
_MAX_BOILERPLATE_LINE_CHARS = 200
_BOILERPLATE_WORDS = ("cookie", "javascript", "terms of", "privacy policy")  # one stands in every such line
_ENCODED = re.compile(r"[A-Za-z0-9+/]{400,}|(?:\\x[0-9a-fA-F]{2}){60,}|(?:[0-9a-fA-F]{2},?\s?){300,}")


def cut_boilerplate(text: str) -> str:
    """A page without the lines that ask for JavaScript or talk of cookies (C4)."""
    kept, place = [], 0
    for start, end in _lines_with(_BOILERPLATE_WORDS, text):
        if end - start <= _MAX_BOILERPLATE_LINE_CHARS and _BOILERPLATE_LINE.search(text[start:end]):
            kept.append(text[place:start])
            place = end + 1
    return "".join((*kept, text[place:])).strip("\n") if kept else text


def _lines_with(words: Sequence[str], text: str) -> list[tuple[int, int]]:
    """(start, end) of each line that holds one of these words, in order; the words are in small letters."""
    small = text.replace("İ", "I").lower()  # that letter alone grows longer by it
    found = set()
    for word in words:
        place = small.find(word)
        while place >= 0:
            start, end = small.rfind("\n", 0, place) + 1, small.find("\n", place)
            end = len(small) if end < 0 else end
            found.add((start, end))
            place = small.find(word, end)
    return sorted(found)


def signals_of(text: str, media: Media, language: str) -> dict[str, float]:
    """Everything that the rules look at. Shares are of 0..1; NaN where a text cannot be measured so (word lengths in
    Chinese, stop words in a language without a list); the keys depend on whether `media` is "code", and on nothing
    else. `language` is an ISO 639-1 code or ""."""
    words = words_in(text)
    return _code_signals(text, words) if media == "code" else _prose_signals(text, words, language)


# ---------------------------------------------------------------- prose


def _prose_signals(text: str, words: Words, language: str) -> dict[str, float]:
    kinds = words.kinds
    starts, ends = runs(kinds & SPACE == 0)
    sizes = ends - starts
    # What stands between two starts is the token and the blanks behind it, which are neither letters nor digits.
    found = np.bitwise_or.reduceat(kinds, starts) if len(starts) else np.empty(0, np.uint8)
    has_lower = np.bitwise_or.reduceat((kinds & (ALPHA | UPPER)) == ALPHA, starts) if len(starts) else found != 0
    has_alpha = found & ALPHA != 0
    real = found & ALNUM != 0  # bullets and the bars of tables are no words: a list must not look like noise
    count = int(real.sum())
    alone = int((kinds[words.starts] & ALONE != 0).sum())
    is_unspaced = 2 * alone > len(words)
    number = max(1, len(words) if is_unspaced else count)
    ordered = np.sort(words.hashes)
    different = ordered[_is_first(ordered)]
    return {
        "characters": float(len(text)),
        "words": float(len(words) if is_unspaced else count),
        "mean_word_chars": math.nan if is_unspaced or not count else float(sizes[real].sum()) / count,
        "longest_word_chars": math.nan if is_unspaced else float(sizes.max(initial=0)),
        "hashes_per_word": text.count("#") / number,
        "ellipses_per_word": (text.count("...") + text.count("…")) / number,
        "curly_brackets_per_word": (text.count("{") + text.count("}")) / number,
        "alphabetic_words": float((real & has_alpha).sum()) / max(1, count),
        "capitalised_words": float((has_alpha & ~has_lower & (sizes > 1)).sum()) / max(1, count),
        "unique_words": len(different) / max(1, len(words)),
        "stop_words": _stop_words(different, language),
        "sentences": _sentences(text, words.codes, starts, ends),
        "lorem_ipsum": float(any(spelling in text for spelling in _LOREM_IPSUM)),
        **_line_signals(words.codes, starts, ends, number),
        **_repeated_lines(text),
        **_repeated_ngrams(words),
    }


def _stop_words(different: Hashes, language: str) -> float:
    """How many stop words of its language are among the sorted different words of a text."""
    stop_words = stop_word_hashes(language)
    return math.nan if stop_words is None else float(_among(stop_words, different).sum())


def _marks(codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    return _MARKS[np.minimum(codes, len(_MARKS) - 1)]


def _sentences(text: str, codes: NDArray[np.uint32], starts: Places, ends: Places) -> float:
    """Tokens that end in a full stop, question or exclamation mark, perhaps with a quotation mark behind it."""
    if not len(starts):
        return 0.0
    last, before = _marks(codes[ends - 1]), _marks(codes[np.maximum(ends - 2, 0)])
    is_quoted = (last & _CLOSES != 0) & (before & _ENDS_SENTENCE != 0) & (ends - starts > 1)
    return float(((last & _ENDS_SENTENCE != 0) | is_quoted).sum()) + sum(map(text.count, _WIDE_ENDS))


def _line_signals(codes: NDArray[np.uint32], starts: Places, ends: Places, number: int) -> dict[str, float]:
    """Shares of the lines that are not blank. No token goes over a line's end, so lines are runs of tokens."""
    breaks = np.flatnonzero(codes == ord("\n"))
    edges = np.concatenate(([0], np.searchsorted(starts, breaks), [len(starts)]))
    filled = edges[1:] > edges[:-1]
    first, last = edges[:-1][filled], edges[1:][filled] - 1
    lines = max(1, len(first))
    begin, end = starts[first], ends[last]
    final, second, third = (_marks(codes[np.maximum(end - back, 0)]) for back in (1, 2, 3))
    has_dots = (final & second & third & _DOT != 0) & (end - begin >= 3)
    has_ellipsis = has_dots | (codes[end - 1] == ord("…"))
    is_bullet = _is_bullet(codes, begin, ends[first] - begin) & (last > first)
    return {
        "bullet_lines": np.count_nonzero(is_bullet) / lines,
        "ellipsis_lines": np.count_nonzero(has_ellipsis) / lines,
        "punctuated_lines": np.count_nonzero(final & _ENDS_LINE) / lines,
        "short_lines": np.count_nonzero(end - begin < SHORT_LINE_CHARS) / lines,
        "line_breaks_per_word": len(breaks) / number,
    }


def _is_bullet(codes: NDArray[np.uint32], begin: Places, size: Places) -> NDArray[np.bool_]:
    """Of each line's first token: is it a bullet, does it begin with one, or is it a number such as `12.` or `3)`?"""
    marks = [_marks(codes[np.minimum(begin + offset, len(codes) - 1)]) for offset in range(4)]
    bullets = (marks[0] & _BULLET != 0) | ((marks[0] & _LONE_BULLET != 0) & (size == 1))
    numbered = np.zeros(len(begin), bool)
    for digits in (1, 2, 3):
        is_number = (size == digits + 1) & (marks[digits] & _ENDS_NUMBER != 0)
        for mark in marks[:digits]:
            is_number &= mark & _DIGIT != 0
        numbered |= is_number
    return bullets | numbered  # type: ignore[no-any-return]


# ---------------------------------------------------------------- repetition


def _repeated_lines(text: str) -> dict[str, float]:
    lines = [line for part in text.split("\n") if len(line := part.strip()) >= _FEWEST_LINE_CHARS]
    paragraphs = [part for part in re.split(r"\n\s*\n", text.strip()) if len(part) >= _FEWEST_LINE_CHARS]
    line_share, line_chars = _repeated_share(lines)
    paragraph_share, paragraph_chars = _repeated_share(paragraphs)
    return {
        "duplicate_lines": line_share,
        "duplicate_line_chars": line_chars,
        "duplicate_paragraphs": paragraph_share,
        "duplicate_paragraph_chars": paragraph_chars,
    }


def _repeated_share(parts: Sequence[str]) -> tuple[float, float]:
    """(share of the parts, share of their characters) that stood earlier in the text."""
    once = dict.fromkeys(parts)
    if len(once) == len(parts):
        return 0.0, 0.0
    return 1 - len(once) / len(parts), 1 - sum(map(len, once)) / sum(map(len, parts))


def _repeated_ngrams(words: Words) -> dict[str, float]:
    """Gopher's measures: the share of characters in the most frequent n-gram, and in n-grams that came before.

    Only where an n-gram is repeated can a longer one be: after the pairs, few places are left to look at.
    """
    hashes, lengths, number = words.hashes, words.ends - words.starts, len(words)
    total = max(1, int(lengths.sum()))
    signals = dict.fromkeys((f"top_{n}gram" for n in TOP_NGRAMS), 0.0)
    signals |= dict.fromkeys((f"duplicate_{n}grams" for n in DUPLICATE_NGRAMS), 0.0)
    places, keys = np.arange(number), hashes
    for n in range(2, max(DUPLICATE_NGRAMS) + 1):
        fit = int(places.searchsorted(number - n, "right"))
        places = places[:fit]
        keys = longer(keys[:fit], hashes[places + (n - 1)])
        order = keys.argsort(kind="stable")
        ordered = keys[order]
        same = ordered[1:] == ordered[:-1]
        later = order[1:][same]  # all but the first of each that is repeated
        if not len(later):
            break
        # In a short text one repeated pair is a large share and means nothing.
        if n in TOP_NGRAMS and number - n + 1 >= _FEWEST_FOR_TOP_NGRAM:
            begins = np.concatenate(([0], np.flatnonzero(~same) + 1, [fit]))
            counts = begins[1:] - begins[:-1]
            most = int(counts.max())
            of_top = places[order[begins[:-1][counts == most]]]
            signals[f"top_{n}gram"] = most * int(sum(lengths[of_top + offset] for offset in range(n)).max()) / total
        if n in DUPLICATE_NGRAMS:
            signals[f"duplicate_{n}grams"] = int(lengths[covered(places[later], n, number)].sum()) / total
        is_repeated = np.zeros(fit, bool)
        is_repeated[later] = is_repeated[order[:-1][same]] = True
        places, keys = places[is_repeated], keys[is_repeated]
    return signals


def _is_first(ordered: Hashes) -> NDArray[np.bool_]:
    """(len,) True where a sorted array has a value for the first time."""
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def _among(keys: Hashes, ordered: Hashes) -> NDArray[np.bool_]:
    """(keys,) True for a key that stands in the sorted array. Half the time of `np.isin` where arrays are small."""
    if not len(ordered):
        return np.zeros(len(keys), bool)
    return ordered[np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)] == keys  # type: ignore[no-any-return]


def covered(starts: Places, n: int, length: int) -> NDArray[np.bool_]:
    """(length,) True for each word that lies in an n-gram with one of these starts."""
    edges = np.zeros(length + 1, np.int64)
    edges[starts] += 1
    edges[starts + n] -= 1
    return np.cumsum(edges[:-1]) > 0  # type: ignore[no-any-return]


# ---------------------------------------------------------------- code


def _code_signals(text: str, words: Words) -> dict[str, float]:
    """Of a source file (The Stack, 2022): the shape of its lines, and what data in it looks like."""
    codes, kinds = words.codes, words.kinds
    breaks = np.concatenate(([-1], np.flatnonzero(codes == ord("\n")), [len(codes)]))
    sizes = np.diff(breaks) - 1
    visible = np.concatenate(([0], np.cumsum(kinds & SPACE == 0)))
    digits = (codes >= ord("0")) & (codes <= ord("9"))
    return {
        "characters": float(len(text)),
        "lines": float((visible[breaks[1:]] > visible[breaks[:-1] + 1]).sum()),
        "longest_line": float(sizes.max()),
        "mean_line": len(text) / len(sizes),
        "alphanumeric": float((kinds & ALNUM != 0).sum()) / max(1, len(text)),
        "digits": float(digits.sum()) / max(1, int(visible[-1])),
        "encoded": float(_ENCODED.search(text) is not None),
    }
