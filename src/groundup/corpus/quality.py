"""Quality rules as scores and reasons: `scores_of` measures a text, `reasons_against` holds the scores to thresholds.

Sources: Gopher (Rae et al. 2021, table A1), C4 (Raffel et al. 2020, 2.2), FineWeb (Penedo et al. 2024, 3.6) for prose;
The Stack (Kocetkov et al. 2022) for code. Which rules are asked depends on what a text is: FineWeb's line rules were
made for web pages and would drop every play; C4's "curly bracket" rule drops a third of all technical documentation and
is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from groundup.corpus.document import Media, words_of
from groundup.corpus.ngrams import covered, hash_words, ngram_hashes, repeated
from groundup.corpus.settings import QualityRules

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))  # Gopher's eight
FEWEST_WORDS: dict[Media, int] = {"docs": 20, "dialogue": 3}  # where a short text is nothing bad
_TERMINAL = (".", "!", "?", '"', "'", "”", "’", "…", ":", ";", "。", "！", "？", "।", "؟", "»", ")")
_BULLET = re.compile(r"\s*(?:[-*•●‣▪·]|\d{1,3}[.)])\s")
_BOILERPLATE_LINE = re.compile(
    r"(?:(?:enable|requires?|turn on|activate) (?:javascript|cookies)|javascript (?:is|must be|has been|seems)|"
    r"(?:uses?|accept|our) cookies|cookie policy|terms of (?:use|service)\s*$|privacy policy\s*$)",
    re.I,
)
_MAX_BOILERPLATE_LINE_CHARS = 200
_ENCODED = re.compile(r"[A-Za-z0-9+/]{400,}|(?:\\x[0-9a-fA-F]{2}){60,}|(?:[0-9a-fA-F]{2},?\s?){300,}")


def cut_boilerplate(text: str) -> str:
    """A page without the lines that ask for JavaScript or talk of cookies (C4)."""
    lines = text.split("\n")
    kept = [line for line in lines if len(line) > _MAX_BOILERPLATE_LINE_CHARS or not _BOILERPLATE_LINE.search(line)]
    return text if len(kept) == len(lines) else "\n".join(kept).strip("\n")


def scores_of(text: str, media: Media) -> dict[str, float]:
    """Everything that the rules look at, measured once."""
    return _code_scores(text) if media == "code" else _prose_scores(text)


def reasons_against(scores: dict[str, float], media: Media, language: str, rules: QualityRules) -> list[str]:
    """Each rule that the text breaks, by name; the first is the reason that is counted."""
    if media == "code":
        return list(_code_reasons(scores, rules))
    return list(_prose_reasons(scores, media, language, rules))


# ---------------------------------------------------------------- prose


def _prose_scores(text: str) -> dict[str, float]:
    tokens = text.split()
    words = words_of(text)
    lines = [line for line in text.split("\n") if line.strip()]
    count, line_count = max(1, len(tokens)), max(1, len(lines))
    # Bullets and the bars of tables are no words: they must not make a list look like noise.
    real = [token for token in tokens if any(map(str.isalnum, token))]
    has_cjk = len(words) > 2 * len(tokens)  # characters without spaces between words: token lengths say nothing
    scores = {
        "words": float(max(len(tokens), len(words) if has_cjk else 0)),
        "mean_word_chars": 0.0 if has_cjk else sum(map(len, tokens)) / count,
        "symbols_per_word": (text.count("#") + text.count("...") + text.count("…")) / count,
        "bullet_lines": sum(bool(_BULLET.match(line)) for line in lines) / line_count,
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "…")) for line in lines) / line_count,
        "alphabetic_words": sum(any(map(str.isalpha, token)) for token in real) / max(1, len(real)),
        "stop_words": float(len(STOP_WORDS.intersection(words))),
        "punctuated_lines": sum(line.rstrip().endswith(_TERMINAL) for line in lines) / line_count,
        "short_lines": sum(len(line) < 30 for line in lines) / line_count,
        "lorem_ipsum": float("lorem ipsum" in text.lower()),
    }
    return scores | _repetition(words, lines)


def _repetition(words: list[str], lines: list[str]) -> dict[str, float]:
    long_lines = [line.strip() for line in lines if len(line.strip()) >= 20]
    line_chars = sum(map(len, long_lines))
    repeated_chars = sum(
        len(line) for line, again in zip(long_lines, repeated(hash_words(long_lines)), strict=True) if again
    )
    scores = {"duplicate_lines": repeated_chars / line_chars if line_chars else 0.0}
    hashes = hash_words(words)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    total = max(1, int(lengths.sum()))
    for n in (2, 3, 4):
        keys = ngram_hashes(hashes, n)
        scores[f"top_{n}gram"] = 0.0
        # In a short text one repeated pair is a large share and means nothing.
        if len(keys) >= 50:
            _, first, counts = np.unique(keys, return_index=True, return_counts=True)
            top = int(np.argmax(counts))
            chars = int(lengths[first[top] : first[top] + n].sum())
            scores[f"top_{n}gram"] = float(counts[top]) * chars / total if counts[top] > 1 else 0.0
    starts = repeated(ngram_hashes(hashes, 10))
    scores["duplicate_ngrams"] = float(covered(starts, 10).mean()) if len(starts) else 0.0
    return scores


def _prose_reasons(scores: dict[str, float], media: Media, language: str, rules: QualityRules) -> Iterator[str]:
    def below(name: str, bound: float | None) -> bool:
        return bound is not None and scores[name] < bound

    def above(name: str, bound: float | None) -> bool:
        return bound is not None and scores[name] > bound

    fewest = (
        rules.min_words if rules.min_words is None else min(rules.min_words, FEWEST_WORDS.get(media, rules.min_words))
    )
    if below("words", fewest):
        yield "too few words"
    if above("words", rules.max_words):
        yield "too many words"
    if media == "dialogue":  # a turn such as "How are you?" breaks most of what follows and is fine
        return
    if scores["mean_word_chars"] and below("mean_word_chars", rules.min_mean_word_chars):
        yield "words too short on average"
    if above("mean_word_chars", rules.max_mean_word_chars):
        yield "words too long on average"
    if above("ellipsis_lines", rules.max_ellipsis_lines):
        yield "too many lines end in an ellipsis"
    if above("duplicate_lines", rules.max_duplicate_lines):
        yield "repeated lines"
    if any(
        rules.max_top_ngram is not None and scores[f"top_{n}gram"] > rules.max_top_ngram * factor
        for n, factor in ((2, 1.0), (3, 0.9), (4, 0.8))
    ):
        yield "one phrase makes up too much of the text"
    if above("duplicate_ngrams", rules.max_duplicate_ngrams):
        yield "repeated passages"
    if media == "docs":  # tables, code and option lists are what documentation consists of
        return
    if above("symbols_per_word", rules.max_symbols_per_word):
        yield "too many symbols"
    if above("bullet_lines", rules.max_bullet_lines):
        yield "almost only bullet points"
    if below("alphabetic_words", rules.min_alphabetic_words):
        yield "too few words with letters"
    if language == "en" and below("stop_words", rules.min_stop_words):
        yield "too few stop words"
    if media == "html":
        if rules.boilerplate and scores["lorem_ipsum"]:
            yield "lorem ipsum"
        if below("punctuated_lines", rules.min_punctuated_lines):
            yield "too few lines end in punctuation"
        if above("short_lines", rules.max_short_lines):
            yield "too many short lines"


# ---------------------------------------------------------------- code


def _code_scores(text: str) -> dict[str, float]:
    lines = text.split("\n")
    visible = max(1, sum(not character.isspace() for character in text))
    return {
        "lines": float(sum(bool(line.strip()) for line in lines)),
        "longest_line": float(max(map(len, lines))),
        "mean_line": len(text) / len(lines),
        "alphanumeric": sum(map(str.isalnum, text)) / max(1, len(text)),
        "digits": sum(map(str.isdigit, text)) / visible,
        "encoded": float(_ENCODED.search(text) is not None),
    }


def _code_reasons(scores: dict[str, float], rules: QualityRules) -> Iterator[str]:
    if scores["lines"] < 3:
        yield "fewer than three lines of code"
    if rules.max_code_line_chars is not None and scores["longest_line"] > rules.max_code_line_chars:
        yield "minified or data: a line is too long"
    if rules.max_code_mean_line_chars is not None and scores["mean_line"] > rules.max_code_mean_line_chars:
        yield "minified or data: lines are too long on average"
    if rules.min_code_alphanumeric is not None and scores["alphanumeric"] < rules.min_code_alphanumeric:
        yield "too few letters and digits"
    if rules.max_code_digits is not None and scores["digits"] > rules.max_code_digits:
        yield "a table of numbers"
    if scores["encoded"]:
        yield "holds encoded binary data"
