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
from groundup.corpus.stop_words import stop_word_hashes
from groundup.corpus.words import ALNUM, ALONE, ALPHA, SPACE, UPPER, Hashes, Places, Words, ngrams, runs, words_in

SHORT_LINE_CHARS = 30  # FineWeb
TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
_FEWEST_FOR_TOP_NGRAM = 50  # in a shorter text one repeated pair is a large share and means nothing
_FEWEST_LINE_CHARS = 20  # repeated lines: speakers' names and table cells are shorter


def _codes(characters: str) -> NDArray[np.uint32]:
    return np.array(sorted(map(ord, characters)), np.uint32)


_SENTENCE_ENDS = _codes(".!?…।؟۔።։")
_WIDE_ENDS = "。！？"  # nothing follows them: Chinese and Japanese have no spaces
_CLOSING = _codes("\"'”’»)]」』")
_TERMINAL = _codes(".!?\"'”’…:;。！？।؟۔።։»)」』")
_BULLETS = _codes("•●‣▪◦∙■")  # a line that begins with one is a bullet point; with these, where a space follows:
_LONE_BULLETS = _codes("-*–—·+•●‣▪◦∙■")
_LOREM_IPSUM = ("lorem ipsum", "Lorem ipsum", "Lorem Ipsum", "LOREM IPSUM")

_BOILERPLATE_LINE = re.compile(
    r"(?:(?:enable|requires?|turn on|activate) (?:javascript|cookies)|javascript (?:is|must be|has been|seems)|"
    r"(?:uses?|accept|our) cookies|cookie policy|terms of (?:use|service)\s*$|privacy policy\s*$)",
    re.I,
)
_MAX_BOILERPLATE_LINE_CHARS = 200
_BOILERPLATE_WORD = re.compile("cookie|javascript|terms of|privacy policy", re.I)
_ENCODED = re.compile(r"[A-Za-z0-9+/]{400,}|(?:\\x[0-9a-fA-F]{2}){60,}|(?:[0-9a-fA-F]{2},?\s?){300,}")


def cut_boilerplate(text: str) -> str:
    """A page without the lines that ask for JavaScript or talk of cookies (C4)."""
    if not _BOILERPLATE_WORD.search(text):
        return text
    lines = text.split("\n")
    kept = [line for line in lines if len(line) > _MAX_BOILERPLATE_LINE_CHARS or not _BOILERPLATE_LINE.search(line)]
    return text if len(kept) == len(lines) else "\n".join(kept).strip("\n")


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
        "unique_words": len(np.unique(words.hashes)) / max(1, len(words)),
        "stop_words": _stop_words(words, language),
        "sentences": _sentences(text, words, starts, ends),
        "lorem_ipsum": float(any(spelling in text for spelling in _LOREM_IPSUM)),
        **_line_signals(words, starts, ends, number),
        **_repeated_lines(text),
        **_repeated_ngrams(words),
    }


def _stop_words(words: Words, language: str) -> float:
    """How many different stop words of its language a text has."""
    stop_words = stop_word_hashes(language)
    return math.nan if stop_words is None else float(np.isin(stop_words, words.hashes).sum())


def _sentences(text: str, words: Words, starts: Places, ends: Places) -> float:
    """Tokens that end in a full stop, question or exclamation mark, perhaps with a quotation mark behind it."""
    if not len(starts):
        return 0.0
    last = words.codes[ends - 1]
    before = np.where(ends - 2 >= starts, words.codes[np.maximum(ends - 2, 0)], 0)
    is_end = np.isin(last, _SENTENCE_ENDS) | (np.isin(last, _CLOSING) & np.isin(before, _SENTENCE_ENDS))
    return float(is_end.sum()) + sum(map(text.count, _WIDE_ENDS))


def _line_signals(words: Words, starts: Places, ends: Places, number: int) -> dict[str, float]:
    """Shares of the lines that are not blank. No token goes over a line's end, so lines are runs of tokens."""
    codes = words.codes
    breaks = np.flatnonzero(codes == ord("\n"))
    edges = np.concatenate(([0], np.searchsorted(starts, breaks), [len(starts)]))
    filled = edges[1:] > edges[:-1]
    first, last = edges[:-1][filled], edges[1:][filled] - 1
    if not len(first):
        return dict.fromkeys(("bullet_lines", "ellipsis_lines", "punctuated_lines", "short_lines"), 0.0) | {
            "line_breaks_per_word": len(breaks) / number
        }
    begin, end = starts[first], ends[last]
    final = codes[end - 1]
    dots = (final == ord(".")) & (end - begin >= 3)
    dots &= (codes[np.maximum(end - 2, 0)] == ord(".")) & (codes[np.maximum(end - 3, 0)] == ord("."))
    return {
        "bullet_lines": float(_is_bullet(codes, begin, ends[first] - begin, last > first).mean()),
        "ellipsis_lines": float((dots | (final == ord("…"))).mean()),
        "punctuated_lines": float(np.isin(final, _TERMINAL).mean()),
        "short_lines": float((end - begin < SHORT_LINE_CHARS).mean()),
        "line_breaks_per_word": len(breaks) / number,
    }


def _is_bullet(
    codes: NDArray[np.uint32], begin: Places, size: Places, has_more: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Of each line, whether its first token is a bullet, begins with one, or is a number such as `12.` or `3)`."""
    first = codes[begin]
    bullets = np.isin(first, _BULLETS) | (np.isin(first, _LONE_BULLETS) & (size == 1))
    numbered = (size >= 2) & (size <= 4) & np.isin(codes[begin + size - 1], _codes(".)"))
    for offset in range(3):
        character = codes[np.minimum(begin + offset, len(codes) - 1)]
        numbered &= (offset >= size - 1) | ((character >= ord("0")) & (character <= ord("9")))
    return (bullets | numbered) & has_more  # type: ignore[no-any-return]


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
    """Gopher's measures: the share of characters in the most frequent n-gram, and in any n-gram that came before."""
    lengths = words.ends - words.starts
    total = max(1, int(lengths.sum()))
    signals = {f"top_{n}gram": _top_ngram(ngrams(words.hashes, n), lengths, n) / total for n in TOP_NGRAMS}
    has_repeats = True  # without a repeated 5-gram there is no repeated 6-gram
    for n in DUPLICATE_NGRAMS:
        again = repeats(ngrams(words.hashes, n)) if has_repeats else np.empty(0, np.int64)
        has_repeats = bool(len(again))
        signals[f"duplicate_{n}grams"] = float(lengths[covered(again, n, len(words))].sum()) / total
    return signals


def _top_ngram(keys: Hashes, lengths: Places, n: int) -> int:
    """Characters in all copies of the most frequent n-gram; of equally frequent ones, of the longest."""
    if len(keys) < _FEWEST_FOR_TOP_NGRAM:
        return 0
    ordered = np.sort(keys)
    begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.append(begins, len(ordered)))
    most = int(counts.max())
    if most < 2:
        return 0
    # An n-gram that stands at several places has the same letters at each: its first place tells its size.
    places = np.flatnonzero(np.isin(keys, ordered[begins[counts == most]]))
    return most * int(np.add.reduce([lengths[places + offset] for offset in range(n)]).max())


def repeats(keys: Hashes) -> Places:
    """Sorted places whose key stands earlier in the array."""
    ordered = np.sort(keys)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return np.empty(0, np.int64)
    places = np.flatnonzero(np.isin(keys, twice))  # few, as a rule: only these are sorted with their places
    _, first = np.unique(keys[places], return_index=True)
    return np.delete(places, first)


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
