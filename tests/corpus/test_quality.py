"""Signals against a slow and readable reference; rules on texts made for each; languages with bounds of their own."""

from __future__ import annotations

import gzip
import json
import math
import re
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groundup.corpus.extract import tidy
from groundup.corpus.quality.rules import RULES, checks, failures
from groundup.corpus.quality.signals import signals_of
from groundup.corpus.quality.stop_words import STOP_WORDS
from groundup.corpus.settings import QualityRules
from groundup.corpus.words import longer, ngrams, word_hash, words_in

GOOD = """The committee met on Tuesday to talk about the plan for the new bridge. Most of the members agreed that it
should be built with local stone, and that the work has to begin before the winter. A report from the engineers, which
was read aloud, says that the river bed is firm. Nobody spoke against the idea, but the treasurer asked what it would
cost to keep the old ferry running until the day the bridge is open.""".replace("\n", " ")

# ---------------------------------------------------------------- the reference: loops, one measure at a time

ALONE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"
)


def is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc")


def slow_words(text: str) -> list[str]:
    words: list[str] = []
    word, has_letter, last_alone = "", False, False
    for character in text + " ":
        letter = (character.isalnum() or character == "_") and not is_mark(character)
        alone = letter and bool(ALONE.match(character))
        if letter or (is_mark(character) and has_letter):
            if letter and has_letter and (alone or last_alone):
                words.append(word)
                word, has_letter = "", False
            word += character
            if letter:
                has_letter, last_alone = True, alone
        elif not is_mark(character):
            if has_letter:
                words.append(word)
            word, has_letter, last_alone = "", False, False
    return ["".join(character.lower()[0] for character in word) for word in words]


def slow_signals(text: str, language: str) -> dict[str, float]:
    tokens = re.split(r"[\u0f0b\u1361\s]+", text)
    tokens = [token for token in tokens if token]
    words = slow_words(text)
    real = [token for token in tokens if any(map(str.isalnum, token))]
    unspaced = 2 * sum(bool(ALONE.match(word)) for word in words) > len(words)
    number = max(1, len(words) if unspaced else len(real))
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    share = lambda hits, all: sum(map(bool, hits)) / max(1, len(all))  # noqa: E731
    gap = "\\s\u0f0b\u1361"  # Tibetan and Ethiopic have marks between words
    blank, word = f"[{gap}]+", f"[^{gap}]"
    bullet = f"[-*–—·+•●‣▪◦∙■]{blank}{word}|[•●‣▪◦∙■]{word}*{blank}{word}|[0-9]{{1,3}}[.)]{blank}{word}"
    bullets = [re.match(bullet, line, re.S) for line in lines]
    found: dict[str, float] = {
        "characters": len(text),
        "words": len(words) if unspaced else len(real),
        "mean_word_chars": math.nan if unspaced or not real else sum(map(len, real)) / len(real),
        "longest_word_chars": math.nan if unspaced else max(map(len, tokens), default=0),
        "hashes_per_word": text.count("#") / number,
        "ellipses_per_word": (text.count("...") + text.count("…")) / number,
        "curly_brackets_per_word": sum(character in "{}" for character in text) / number,
        "alphabetic_words": share([any(map(str.isalpha, token)) for token in real], real),
        "unique_words": len(set(words)) / max(1, len(words)),
        "stop_words": len(set(STOP_WORDS[language].split()) & set(words)) if language in STOP_WORDS else math.nan,
        "bullet_lines": share(bullets, lines),
        "ellipsis_lines": share([line.endswith(("...", "…")) for line in lines], lines),
        "short_lines": share([len(line) < 30 for line in lines], lines),
        "line_breaks_per_word": text.count("\n") / number,
    }
    total = max(1, sum(map(len, words)))
    for n in range(2, 11):
        grams = [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]
        counts = Counter(grams)
        if n <= 4:
            most = max(counts.values(), default=0)
            sizes = [sum(map(len, gram)) for gram, count in counts.items() if count == most]
            found[f"top_{n}gram"] = most * max(sizes) / total if len(grams) >= 50 and most > 1 else 0.0
        if n >= 5:
            covered, seen = set[int](), set[tuple[str, ...]]()
            for place, gram in enumerate(grams):
                if gram in seen:
                    covered.update(range(place, place + n))
                seen.add(gram)
            found[f"duplicate_{n}grams"] = sum(len(words[place]) for place in covered) / total
    long = [line.strip() for line in text.split("\n") if len(line.strip()) >= 20]
    again = [line for place, line in enumerate(long) if line in long[:place]]
    found["duplicate_lines"] = len(again) / max(1, len(long))
    found["duplicate_line_chars"] = sum(map(len, again)) / max(1, sum(map(len, long)))
    return found


def same(left: float, right: float) -> bool:
    return (math.isnan(left) and math.isnan(right)) or math.isclose(left, right, abs_tol=1e-12)


PARTS = st.sampled_from([
    "the", "of", "and", "a", "cat", "sat", "on", "mat", "THE", "Cat", "#", "...", "…", "-", "•", "12.", "3)", "{", "}",
    "!", "?", ".", ",", "42", "x_1", "été", "नमस्ते", "दुनिया", "你", "好", "のは", "ไทย", "ሰላም፡ለዓለም", "བོད་ཡིག",
    " ", "  ", "\n", "\n\n", "\t", "\u00a0", "❤️", "\ufe0f", "e\u0301", "İ", "\r", "\u2028", "ﬁ",
    "the cat sat on the mat and the dog sat on it\n", "one two three four five six seven eight nine ten ",
])  # fmt: skip
TEXTS = st.one_of(st.lists(PARTS, max_size=120).map("".join), st.lists(PARTS, max_size=150).map(" ".join), st.text())


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(["en", "fr", "zh", "xx", ""]))
@example("", "en")
@example("\n \n", "en")
@example("a b " * 60, "en")
@example("•བོད་ཡིག", "en")
@example(GOOD * 3, "en")
@example("".join(f"你好{n}世界。" for n in range(40)), "zh")
def test_signals_are_what_a_slow_reading_gives(text: str, language: str) -> None:
    fast = signals_of(text, "prose", language)
    for name, value in slow_signals(text, language).items():
        assert same(fast[name], value), (name, fast[name], value)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_words_are_what_a_slow_reading_gives_and_equal_words_have_equal_hashes(text: str) -> None:
    words = words_in(text)
    expected = slow_words(text)
    spans = zip(words.starts.tolist(), words.ends.tolist(), strict=True)
    assert ["".join(character.lower()[0] for character in text[start:end]) for start, end in spans] == expected
    by_word: dict[str, int] = {}
    for word, found in zip(expected, words.hashes.tolist(), strict=True):
        assert by_word.setdefault(word, found) == found
    assert len(set(by_word.values())) == len(by_word)


def test_a_word_has_one_hash_wherever_it_stands_and_on_every_machine() -> None:
    assert word_hash("bridge") == 0x3CC23373153DAFD8
    for text in ("bridge", "The BRIDGE.", "x " * 300_000 + "Bridge", "y" * 300_000 + " bridge"):
        assert int(words_in(text).hashes[-1]) == word_hash("bridge")
    with pytest.raises(ValueError, match="2 words"):
        word_hash("a bridge")


def test_ngrams_know_their_order_and_grow_by_a_word() -> None:
    ab, ba = words_in("a b").hashes, words_in("b a").hashes
    assert ngrams(ab, 2).tolist() != ngrams(ba, 2).tolist()
    hashes = words_in(GOOD).hashes
    assert (ngrams(hashes, 3) == longer(ngrams(hashes, 2)[:-1], hashes[2:])).all()
    assert len(ngrams(hashes, len(hashes) + 1)) == 0


# ---------------------------------------------------------------- rules


def why(text: str, media: str = "html", language: str = "en", **rules: Any) -> list[str]:
    signals = signals_of(text, media, language)  # type: ignore[arg-type]
    return [failed.rule for failed in failures(signals, media, language, QualityRules(**rules))]  # type: ignore[arg-type]


SENTENCES = [f"{sentence}." for sentence in GOOD.rstrip(".").split(". ")]


@pytest.mark.parametrize(
    ("text", "rules", "reason"),
    [
        (GOOD + " " + "x" * 1_200, {}, "a word is too long"),
        ("\n\n".join([GOOD[:200], *[GOOD[200:]] * 3]), {}, "repeated paragraphs"),
        ("\n".join([*SENTENCES, *SENTENCES[:2] * 2]), {}, "repeated lines"),
        (GOOD + " " + GOOD[:150] * 3, {}, "repeated passages"),
        (GOOD + " function () { return {}; }", {}, "too many curly brackets"),
        (GOOD.replace(" ", "\n", 60) + "\n" + GOOD, {}, "too many line ends"),
        (GOOD.upper(), {"max_capitalised_words": 0.5}, "too many words in capitals"),
        (GOOD * 4, {"min_unique_words": 0.5}, "too few different words"),
        (GOOD, {"min_sentences": 5}, "too few sentences"),
        (GOOD + " ... " * 15, {}, "too many symbols"),
    ],
)
def test_each_rule_names_what_it_was_made_for(text: str, rules: dict[str, Any], reason: str) -> None:
    assert why(GOOD) == []
    assert reason in why(text, **rules)


def test_curly_brackets_and_lines_are_no_reason_in_documentation_and_code() -> None:
    page = GOOD + "\n" + "\n".join(f"option_{n} {{ value: {n}; }}" for n in range(30))
    assert "too many curly brackets" in why(page)
    assert why(page, "docs") == []
    assert why("\n".join(f"option_{n} = {{'value': call({n})}}  # says why" for n in range(30)), "code") == []


def test_a_signal_that_means_nothing_is_not_asked_about() -> None:
    chinese = (
        "委员会在星期二开会讨论了修建新桥的计划。大多数成员同意，桥应当用当地的石头建造，而且工程必须在冬天之前开始。"
        "工程师的报告说河床是坚固的。没有人反对这个想法，但是司库问，在新桥开通的那一天以前，旧渡船继续运行要花多少钱。"
    )
    asked = {check.signal for check in checks(signals_of(chinese, "html", "zh"), "html", "zh", QualityRules())}
    assert "mean_word_chars" not in asked
    assert "stop_words" in asked
    assert why(chinese, language="zh") == []
    unknown = checks(signals_of(GOOD, "html", "xx"), "html", "xx", QualityRules())
    assert "stop_words" not in {check.signal for check in unknown}


def test_a_threshold_is_judged_without_the_text_and_tells_its_numbers() -> None:
    signals = signals_of(GOOD, "html", "en")
    assert failures(signals, "html", "en", QualityRules()) == []
    failed = failures(signals, "html", "en", QualityRules(min_words=100))
    assert [(one.rule, one.signal, one.value, one.threshold) for one in failed] == [
        ("too few words", "words", signals["words"], 100.0)
    ]
    assert failures(json.loads(json.dumps(signals)), "html", "en", QualityRules(min_words=100)) == failed


def test_scores_of_models_are_held_to_their_thresholds_where_there_are_scores() -> None:
    signals = signals_of(GOOD, "html", "en")
    rules = QualityRules(min_classifier_score=0.5, max_perplexity=1_000)
    assert failures(signals, "html", "en", rules) == []
    failed = failures(signals | {"classifier_score": 0.2, "perplexity": 5_000.0}, "html", "en", rules)
    assert [one.rule for one in failed] == ["scored too low by the classifier", "too high a perplexity"]


def test_overrides_are_for_a_language_or_a_kind_and_the_language_wins() -> None:
    rules = QualityRules(overrides={"de": {"min_words": 200}, "html": {"min_words": 300}, "docs": {"min_words": None}})

    def fewest(media: str, language: str) -> list[float]:
        asked = checks(signals_of(GOOD, media, language), media, language, rules)  # type: ignore[arg-type]
        return [check.threshold for check in asked if check.signal == "words" and check.is_least]

    assert fewest("prose", "en") == [50]
    assert fewest("html", "en") == [300]
    assert fewest("html", "de") == [200]
    assert fewest("docs", "en") == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"german": {"min_words": 3}}, "'german' is neither a language code nor a kind"),
        ({"de": {"min_word": 3}}, "did you mean min_words"),
        ({"de": {"min_words": -3}}, "-3.0 is below 0"),
    ],
)
def test_overrides_that_fit_nothing_are_refused(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QualityRules(overrides=overrides)


def test_every_rule_has_a_setting_and_a_signal() -> None:
    prose, code = signals_of(GOOD, "html", "en"), signals_of("a = 1\n", "code", "")
    for rule in RULES:
        assert rule.setting in QualityRules.model_fields or rule.setting in ("code_lines", "encoded"), rule.setting
        assert rule.signal in (code if rule.media == {"code"} else prose) or rule.signal in (
            "classifier_score",
            "perplexity",
        ), rule.signal


# ---------------------------------------------------------------- other languages

# The Universal Declaration of Human Rights: ordinary prose in each language that has stop words; its file's name.
UDHR = {
    "en": "eng", "ar": "arb", "bg": "bul", "bn": "ben", "ca": "cat", "cs": "ces", "da": "dan", "de": "deu_1901",
    "el": "ell_monotonic", "es": "spa", "et": "est", "fa": "pes_1", "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin",
    "hr": "hrv", "hu": "hun", "id": "ind", "it": "ita", "ja": "jpn", "ko": "kor", "lt": "lit", "lv": "lav", "nl": "nld",
    "no": "nob", "pl": "pol", "pt": "por_PT", "ro": "ron_1993", "ru": "rus", "sk": "slk", "sl": "slv", "sr": "srp_latn",
    "sv": "swe", "tr": "tur", "uk": "ukr", "vi": "vie", "zh": "cmn_hans",
}  # fmt: skip
MORE_UDHR = {
    "am": "amh",
    "km": "khm",
    "th": "tha",
    "lo": "lao",
    "ta": "tam",
    "ml": "mal",
    "ka": "kat",
    "eu": "eus",
    "is": "isl",
    "my": "mya",
}


def declaration(shared_data: Path, name: str) -> list[str]:
    """Its paragraphs, two at a time, without the heading of the file."""
    with zipfile.ZipFile(shared_data / "languages/udhr2.zip") as archive:
        text = tidy(archive.read(f"udhr2/{name}.txt").decode())
    lines = [line.strip() for line in text.split("\n")[6:] if len(line.strip().encode()) > 90]
    return ["\n".join(lines[first : first + 2]) for first in range(0, len(lines) - 1, 2)]


@pytest.mark.parametrize("language", sorted(UDHR))
def test_ordinary_text_has_two_stop_words_of_its_language(language: str, shared_data: Path) -> None:
    texts = declaration(shared_data, UDHR[language])
    assert len(texts) >= 10
    enough = sum(signals_of(text, "html", language)["stop_words"] >= 2 for text in texts)
    assert enough / len(texts) >= 0.95, [text for text in texts if signals_of(text, "html", language)["stop_words"] < 2]


@pytest.mark.parametrize("language", sorted(UDHR | MORE_UDHR))
def test_ordinary_text_in_any_language_breaks_no_rule(language: str, shared_data: Path) -> None:
    text = "\n".join(declaration(shared_data, (UDHR | MORE_UDHR)[language]))
    assert (
        why(text, language=language, max_duplicate_ngrams=0.5, max_duplicate_lines=1, max_duplicate_line_chars=1) == []
    )


def test_stop_words_of_another_language_are_no_help(shared_data: Path) -> None:
    german = "\n".join(declaration(shared_data, UDHR["de"]))
    assert signals_of(german, "html", "de")["stop_words"] >= 10
    assert signals_of(german, "html", "en")["stop_words"] <= 1
    assert "too few stop words" in why(german, language="fr") or signals_of(german, "html", "fr")["stop_words"] <= 4


# ---------------------------------------------------------------- real pages


def test_published_rules_keep_clean_web_text_and_drop_shuffled_menus(shared_data: Path) -> None:
    with gzip.open(shared_data / "web/c4-300.jsonl.gz", "rt", encoding="utf-8") as file:
        pages = [json.loads(line)["text"] for line in file]
    kept = [page for page in pages if not why(page)]
    assert 0.8 <= len(kept) / len(pages) <= 0.95
    menus = ["\n".join(word.title() for word in page.split()[:200]) for page in kept]
    assert all(why(menu) for menu in menus)
