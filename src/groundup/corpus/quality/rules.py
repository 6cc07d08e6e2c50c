"""The quality rules: which signal is held to which threshold, in which kinds of document. Costs no reading of texts.

Which rules are asked depends on what a text is: FineWeb's line rules were made for web pages and would drop every play;
C4's "curly bracket" rule drops a third of all technical documentation and is asked of web pages only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from groundup.corpus.document import Media
from groundup.corpus.quality.signals import DUPLICATE_NGRAMS
from groundup.corpus.report.stats import Check
from groundup.corpus.settings import QualityRules

WEB: frozenset[Media] = frozenset(("html",))
RUNNING: frozenset[Media] = frozenset(("html", "wikitext", "prose"))  # text in sentences
WRITTEN: frozenset[Media] = RUNNING | {"docs"}  # documentation consists of tables, code and option lists too
PROSE: frozenset[Media] = WRITTEN | {"dialogue"}  # a turn such as "How are you?" breaks most rules and is fine
CODE: frozenset[Media] = frozenset(("code",))


@dataclass(frozen=True)
class Rule:
    """One question. `reason` is what the funnel counts; the threshold is the setting's value times `factor`."""

    reason: str
    signal: str
    setting: str
    media: frozenset[Media]
    factor: float = 1.0

    @property
    def is_least(self) -> bool:
        return self.setting.startswith("min_")


# In this order: the first rule that a text breaks is the reason that is counted.
RULES: tuple[Rule, ...] = (
    Rule("too few words", "words", "min_words", PROSE),
    Rule("too many words", "words", "max_words", PROSE),
    Rule("words too short on average", "mean_word_chars", "min_mean_word_chars", WRITTEN),
    Rule("words too long on average", "mean_word_chars", "max_mean_word_chars", WRITTEN),
    Rule("too many lines end in an ellipsis", "ellipsis_lines", "max_ellipsis_lines", WRITTEN),
    Rule("repeated lines", "duplicate_line_chars", "max_duplicate_line_chars", WRITTEN),
    Rule("repeated lines", "duplicate_lines", "max_duplicate_lines", WEB),
    Rule("repeated paragraphs", "duplicate_paragraph_chars", "max_duplicate_paragraph_chars", WRITTEN),
    Rule("repeated paragraphs", "duplicate_paragraphs", "max_duplicate_paragraphs", WEB),
    *(
        Rule("one phrase makes up too much of the text", f"top_{n}gram", "max_top_ngram", WRITTEN, factor)
        for n, factor in ((2, 1.0), (3, 0.9), (4, 0.8))
    ),
    *(
        # option lists and tables repeat five words in a row, but not ten
        Rule(
            "repeated passages",
            f"duplicate_{n}grams",
            "max_duplicate_ngrams",
            WRITTEN if n == 10 else RUNNING,
            (20 - n) / 10,
        )
        for n in reversed(DUPLICATE_NGRAMS)
    ),
    Rule("a word is too long", "longest_word_chars", "max_word_chars", RUNNING),
    Rule("too many symbols", "hashes_per_word", "max_symbols_per_word", RUNNING),
    Rule("too many symbols", "ellipses_per_word", "max_symbols_per_word", RUNNING),
    Rule("almost only bullet points", "bullet_lines", "max_bullet_lines", RUNNING),
    Rule("too few words with letters", "alphabetic_words", "min_alphabetic_words", RUNNING),
    Rule("too many words in capitals", "capitalised_words", "max_capitalised_words", RUNNING),
    Rule("too few different words", "unique_words", "min_unique_words", RUNNING),
    Rule("too few stop words", "stop_words", "min_stop_words", RUNNING),
    Rule("lorem ipsum", "lorem_ipsum", "boilerplate", WEB),
    Rule("too few lines end in punctuation", "punctuated_lines", "min_punctuated_lines", WEB),
    Rule("too many short lines", "short_lines", "max_short_lines", WEB),
    Rule("too many line ends", "line_breaks_per_word", "max_line_breaks_per_word", WEB),
    Rule("too few sentences", "sentences", "min_sentences", WEB),
    Rule("too many curly brackets", "curly_brackets_per_word", "max_curly_brackets_per_word", WEB),
    Rule("scored too low by the classifier", "classifier_score", "min_classifier_score", PROSE),
    Rule("too high a perplexity", "perplexity", "max_perplexity", PROSE),
    Rule("fewer than three lines of code", "lines", "code_lines", CODE),
    Rule("minified or data: a line is too long", "longest_line", "max_code_line_chars", CODE),
    Rule("minified or data: lines are too long on average", "mean_line", "max_code_mean_line_chars", CODE),
    Rule("too few letters and digits", "alphanumeric", "min_code_alphanumeric", CODE),
    Rule("a table of numbers", "digits", "max_code_digits", CODE),
    Rule("holds encoded binary data", "encoded", "encoded", CODE),
)

FEWEST_WORDS: dict[Media, int] = {"docs": 20, "dialogue": 3}  # where a short text is nothing bad
FEWEST_CODE_LINES = 3

# Gopher's bounds were set for English, whose mean word in the Universal Declaration of Human Rights has 5 letters. In
# languages where that text comes near a bound (3.1 in Korean, 12.5 in Malayalam) they are about half as much again.
# Thai and Lao end no sentence with a sign. What a recipe says itself stands.
LANGUAGE_BOUNDS: dict[str, dict[str, float | None]] = {
    "ko": {"min_mean_word_chars": 2.0},
    "th": {"min_punctuated_lines": None, "min_sentences": None},
    "lo": {"min_punctuated_lines": None, "min_sentences": None},
    **{language: {"max_mean_word_chars": 12.0} for language in ("fi", "ka", "kn", "te")},
    **{language: {"max_mean_word_chars": 15.0} for language in ("dv", "sa", "ta")},
    "ml": {"max_mean_word_chars": 18.0},
}


def checks(signals: Mapping[str, float], media: Media, language: str, rules: QualityRules) -> tuple[Check, ...]:
    """Every question that the rules ask of a text with these signals, in the order in which they count.

    A signal that is absent or NaN (a language without stop words, no classifier) is not asked about.
    """
    return tuple(
        Check(rule.reason, rule.signal, value, threshold, is_least)
        for rule, threshold, is_least in _thresholds(_key(rules), media, language)
        if not math.isnan(value := signals.get(rule.signal, math.nan))
    )


def failures(signals: Mapping[str, float], media: Media, language: str, rules: QualityRules) -> list[Check]:
    """The questions that the text fails: `rule` (the reason), `value`, `threshold`. The first is the one to count."""
    return [check for check in checks(signals, media, language, rules) if check.fails]


def _key(rules: QualityRules) -> str:
    return rules.model_dump_json()


@lru_cache(maxsize=4096)
def _thresholds(rules_json: str, media: Media, language: str) -> tuple[tuple[Rule, float, bool], ...]:
    """(rule, threshold, is it a lower bound) of what is asked of every document of a kind and language."""
    rules = QualityRules.model_validate_json(rules_json)
    settings = {**rules.model_dump(exclude={"overrides", "boilerplate"})}
    if media in FEWEST_WORDS and rules.min_words is not None:
        settings["min_words"] = min(rules.min_words, FEWEST_WORDS[media])
    for name, value in LANGUAGE_BOUNDS.get(language, {}).items():
        if settings[name] == type(rules).model_fields[name].default:  # what a recipe says itself stands
            settings[name] = value
    settings |= rules.overrides.get(media, {}) | rules.overrides.get(language, {})
    asked = []
    for rule in RULES:
        if media not in rule.media:
            continue
        if rule.setting == "boilerplate":
            threshold, is_least = (0.0 if rules.boilerplate else None), False
        elif rule.setting == "encoded":
            threshold, is_least = 0.0, False
        elif rule.setting == "code_lines":
            threshold, is_least = float(FEWEST_CODE_LINES), True
        else:
            bound = settings[rule.setting]
            threshold, is_least = (None if bound is None else float(bound) * rule.factor), rule.is_least
        if threshold is not None:
            asked.append((rule, threshold, is_least))
    return tuple(asked)
