"""Main text of pages: what must be in it, what must not, which extractor is asked, and the language it is in."""

from __future__ import annotations

import gzip
import json
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus import extract as module
from groundup.corpus.extract import extract, main_text, tidy
from groundup.corpus.quality.language import detect, identify

SENTENCE = "The committee met on Tuesday to discuss the plan for the bridge, and it agreed on every point of it. "
GERMAN = "Der Ausschuss hat am Dienstag über den Plan für die neue Brücke beraten und war sich in allem einig. "


def page(body: str, *, before: str = "", after: str = "") -> str:
    return (
        "<html><head><title>T</title><script>var hidden = 'script';</script><style>.hidden {}</style></head><body>"
        "<nav><ul><li><a href='/'>Home</a></li><li><a href='/b'>Products</a></li><li><a href='/c'>Imprint</a></li></ul>"
        f"</nav>{before}<article><h1>The new bridge</h1>{body}</article>{after}"
        "<footer><p>Copyright 2024 by the town. All rights reserved.</p></footer></body></html>"
    )


METHODS: tuple[module.Method, ...] = ("fast", "cascade", "best")


@pytest.mark.parametrize("method", METHODS)
def test_the_text_is_taken_and_menus_scripts_and_footers_are_left(method: module.Method) -> None:
    text = main_text(page(f"<p>{SENTENCE * 3}</p><p>{SENTENCE * 2}</p>"), method)
    assert text.count("The committee met") == 5
    for unwanted in ("Products", "Imprint", "hidden", "All rights reserved"):
        assert unwanted not in text


@pytest.mark.parametrize("method", METHODS)
def test_tables_keep_their_rows_and_code_its_indentation(method: module.Method) -> None:
    code = "def main(argv):\n    for a in argv:\n        print(a)"
    table = "<table><tr><th>Option</th><th>Meaning</th></tr><tr><td>-v</td><td>says more words</td></tr></table>"
    body = f"<p>{SENTENCE * 3}</p><pre><code>{code}</code></pre><p>{SENTENCE}</p>{table}<p>{SENTENCE}</p>"
    text = main_text(page(body), method)
    assert code in text
    row = next(line for line in text.split("\n") if "-v" in line)
    assert "says more words" in row, "the cells of a row stand on one line"
    if method != "fast":
        assert row == "| -v | says more words |"


def test_the_cascade_asks_for_fallbacks_only_where_the_extractors_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    real = module._by_trafilatura

    def spy(html: str, *, with_fallbacks: bool) -> str:
        asked.append(with_fallbacks)
        return real(html, with_fallbacks=with_fallbacks)

    monkeypatch.setattr(module, "_by_trafilatura", spy)
    assert extract(page(f"<p>{SENTENCE * 4}</p>"), "cascade").by == "trafilatura-fast"
    assert asked == [False]
    asked.clear()
    assert extract("<html><body><p>A short page.</p></body></html>", "cascade").text == "A short page."
    assert asked == [False, True]


def test_a_page_in_a_language_nobody_wants_is_spared_the_slow_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    german = page(f"<p>{GERMAN * 6}</p>")
    assert extract(german, "cascade", ("de", "en")).by == "trafilatura-fast"
    assert extract(german, "cascade").by == "trafilatura-fast"
    monkeypatch.setattr(module, "_by_trafilatura", lambda *_, **__: pytest.fail("the slow extractor was asked"))
    assert extract(german, "cascade", ("en",)).by == "resiliparse"
    assert "Der Ausschuss" in main_text(german, "cascade", ("en",))


def test_a_page_of_two_languages_is_not_foreign_to_either() -> None:
    both = page(f"<p>{GERMAN * 18}</p><p>{SENTENCE * 12}</p>")
    assert extract(both, "cascade", ("en",)).by == extract(both, "cascade", ("de",)).by == "trafilatura-fast"


NOTHING = (
    "",
    "   ",
    "<",
    "<html></html>",
    "<html><body></body></html>",
    "<p>" * 5_000,
    "<script>only a script</script>",
)


@pytest.mark.parametrize("html", [*NOTHING, "no tags at all", "\x00\x01<p>a\x00b</p>"])
@pytest.mark.parametrize("method", METHODS)
def test_pages_with_nothing_in_them_give_nothing_and_break_nothing(html: str, method: module.Method) -> None:
    text = main_text(html, method)
    assert text in ({"", "<"} if html in NOTHING else {"no tags at all", "ab", "a b"})
    assert (extract(html, method).by == "nothing") == (text == "")


@given(st.text(alphabet=st.sampled_from(list("ab \t\u00a0\n\r\x00\x07\u200b\ufeffe\u0301é")), max_size=60))
def test_tidy_text_has_one_kind_of_line_end_and_is_as_it_is_when_tidied_again(text: str) -> None:
    once = tidy(text)
    assert tidy(once) == once
    assert not set(once) & set("\r\x00\x07\u200b\ufeff")
    assert "\n\n\n" not in once
    assert all(line == line.rstrip(" \t\u00a0") for line in once.split("\n"))
    assert unicodedata.is_normalized("NFC", once)
    code = tidy(text, is_code=True)
    assert code.count("\n") >= once.count("\n"), "code keeps its empty lines"


# ---------------------------------------------------------------- languages

# The Universal Declaration of Human Rights in languages that the model should know. Those that it takes for a neighbour
# even as a whole document are named below.
UDHR = {
    "af": "afr", "am": "amh", "ar": "arb", "az": "azj_latn", "be": "bel", "bg": "bul", "bn": "ben", "br": "bre",
    "ca": "cat", "cs": "ces", "cy": "cym", "da": "dan", "de": "deu_1901", "el": "ell_monotonic", "en": "eng",
    "eo": "epo", "es": "spa", "et": "est", "eu": "eus", "fa": "pes_1", "fi": "fin", "fr": "fra", "ga": "gle",
    "gd": "gla", "gl": "glg", "gu": "guj", "he": "heb", "hi": "hin", "hr": "hrv", "hu": "hun", "hy": "hye",
    "id": "ind", "is": "isl", "it": "ita", "ja": "jpn", "ka": "kat", "kk": "kaz", "km": "khm", "kn": "kan",
    "ko": "kor", "la": "lat", "lb": "ltz", "lo": "lao", "lt": "lit", "lv": "lav", "mk": "mkd", "ml": "mal",
    "mr": "mar", "mt": "mlt", "my": "mya", "nl": "nld", "no": "nob", "pa": "pan", "pl": "pol", "pt": "por_PT",
    "ro": "ron_1993", "ru": "rus", "sk": "slk", "sl": "slv", "sq": "als", "sr": "srp_cyrl", "sv": "swe", "sw": "swh",
    "ta": "tam", "th": "tha", "tl": "tgl", "tr": "tur", "uk": "ukr", "ur": "urd", "uz": "uzn_latn", "vi": "vie",
    "zh": "cmn_hans", "bs": "bos_latn", "fo": "fao", "so": "som", "yo": "yor",
}  # fmt: skip
NEIGHBOURS = {"bs": {"hr", "sr"}, "fo": {"is", "no"}, "so": {"en", "fi"}, "yo": {"ga", "ca"}}


@pytest.fixture(scope="module")
def declarations(shared_data: Path) -> dict[str, str]:
    with zipfile.ZipFile(shared_data / "languages/udhr2.zip") as archive:
        return {code: archive.read(f"udhr2/{name}.txt").decode() for code, name in UDHR.items()}


def test_whole_documents_in_seventy_languages_are_told_apart(declarations: dict[str, str]) -> None:
    wrong = {code: identify(text).code for code, text in declarations.items() if identify(text).code != code}
    assert set(wrong) <= set(NEIGHBOURS), wrong
    assert all(found in NEIGHBOURS[code] for code, found in wrong.items()), wrong


def test_parallel_sentences_are_told_apart_in_capitals_as_well(shared_data: Path) -> None:
    right, told = Counter[str](), Counter[str]()
    with gzip.open(shared_data / "languages/pud-parallel-9.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][::7]
    for row in rows:
        for kind, text in (("as written", row["text"]), ("in capitals", row["text"].upper())):
            code, score = detect(text)
            assert (code == "") == (score == 0.0)
            if code:
                told[kind] += 1
                right[kind] += code == row["lang"]
    assert right["as written"] / told["as written"] >= 0.995
    assert right["in capitals"] / told["in capitals"] >= 0.99
    assert told["as written"] / len(rows) >= 0.92


def test_a_mixed_document_is_told_as_mixed_and_its_main_language_found() -> None:
    mixed = SENTENCE * 30 + "\n" + GERMAN * 12
    found = identify(mixed)
    assert found.code == "en"
    assert 0.5 <= found.share < 1
    assert list(found.shares) == ["en", "de"]
    assert sum(found.shares.values()) == pytest.approx(1)
    assert identify(SENTENCE * 30).share == 1
    assert identify("").shares == identify("123 456").shares == {}


def test_another_language_in_a_document_takes_its_score_down(shared_data: Path) -> None:
    """What `min_language_score` lets in (docs/corpus.md): documents of 40 sentences, some of them German."""
    with gzip.open(shared_data / "languages/pud-parallel-9.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    english, german = ([row["text"] for row in rows if row["lang"] == code] for code in ("en", "de"))
    scores = []
    for foreign in (0, 8, 16):
        documents = [english[at : at + 40 - foreign] + german[at + 40 - foreign : at + 40] for at in range(0, 1000, 40)]
        scores.append([identify("\n".join(one)).score for one in documents])
    none, some, many = scores
    assert min(none) >= 0.9
    assert max(many) < 0.65 < min(none)
    assert sum(none) > sum(some) + 3 > sum(many) + 6


def test_letters_of_one_language_only_decide_where_the_model_is_unsure() -> None:
    assert detect("የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው፡፡ የተፈጥሮ ማስተዋልና ሕሊና አለው")[0] == "am"
