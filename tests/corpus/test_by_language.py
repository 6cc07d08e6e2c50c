"""Sources that hold several languages: each language is a part of its own, and the mixture weighs languages."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from groundup.corpus.settings import CorpusSettings
from groundup.corpus.weights import LANGUAGES, language_part, language_parts
from groundup.tokens.documents import corpus_files, source_shares

from .conftest import Built

OPEN = {"quality": None, "near_duplicate_threshold": None, "pii": [], "held_out": {"share": 0.1}}


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_rows(path: Path, counts: dict[str, int], name: str = "row") -> dict[str, Any]:
    """A source in which the rows say their language; `counts` of each, 1,000 bytes a row."""
    rows = [
        {
            "text": (f"{name} {language} {number} " if language else f"{number} ").ljust(
                1_000, "x" if language else "7"
            ),
            "lang": language,
        }
        for language, count in counts.items()
        for number in range(count)
    ]
    write_rows(path, rows)
    return {"type": "jsonl", "path": str(path), "language_field": "lang", "by_language": True}


def part_sizes(built: Built) -> dict[str, int]:
    return {name: row["bytes"] for name, row in built.json("mixture.json")["sources"].items()}


@pytest.fixture
def parallel(shared_data: Path, tmp_path: Path) -> dict[str, Any]:
    """1,000 sentences in nine languages as documents of twenty, all in one file; and one of UDHR's texts in Finnish."""
    with gzip.open(shared_data / "languages/pud-parallel-9.jsonl.gz", "rt") as file:
        sentences = [json.loads(line) for line in file]
    by_language: dict[str, list[str]] = defaultdict(list)
    for one in sentences:
        by_language[one["lang"]].append(one["text"])
    with zipfile.ZipFile(shared_data / "languages/udhr2.zip") as archive:
        finnish = archive.read("udhr2/fin.txt").decode()
    documents = [
        {"text": " ".join(own[n : n + 20]), "truth": lang}
        for lang, own in by_language.items()
        for n in range(0, 1000, 20)
    ]
    path = tmp_path / "parallel.jsonl"
    write_rows(path, [*documents, {"text": finnish, "truth": "fi"}, {"text": "12 34", "truth": "-"}])
    return {"type": "jsonl", "path": str(path), "metadata_fields": ["truth"], "by_language": True}


def test_real_texts_in_ten_languages_become_a_part_each(build: Callable[..., Built], parallel: dict[str, Any]) -> None:
    built = build(
        sources={"web": parallel}, mixture_temperature=1e9, max_repetition=1_000, min_language_part=0.05, **OPEN
    )
    counted: Counter[tuple[str, str]] = Counter()
    for place in ("documents", "held_out"):
        for name in corpus_files(built.folder, "train" if place == "documents" else "held_out"):
            for row in built.rows(place, name):
                counted[name, json.loads(row["metadata"])["truth"]] += 1
                assert row["source"] == "web", "where it came from stays written beside it"
    languages = ["ar", "de", "en", "es", "fr", "hi", "ru", "tr", "zh"]
    assert counted == {(one, one): 50 for one in languages} | {("other", "fi"): 1, ("other", "-"): 1}
    shares = {name: row["realised_share"] for name, row in built.json("mixture.json")["groups"].items()}
    assert shares == pytest.approx(dict.fromkeys([*languages, "other"], 0.1)), "a great temperature: all alike"
    assert source_shares(built.folder, part_sizes(built)) == pytest.approx(shares), "what the tokens stage reads"
    held_out = corpus_files(built.folder, "held_out")
    assert all(built.rows("held_out", name) for name in languages), "each language can be measured"
    assert list(held_out) == list(corpus_files(built.folder))
    funnel = built.json("funnel.json")["sources"]["web"]
    assert funnel["in"]["documents"] == sum(counted.values())
    card = (built.folder / "README.md").read_text()
    assert 'config_name: "fi"' not in card
    assert 'config_name: "zh"' in card
    assert "documents/zh-*.parquet" in card


def test_weights_of_languages_count_over_all_sources(build: Callable[..., Built], tmp_path: Path) -> None:
    (tmp_path / "suomi.txt").write_text("Plain text of one language, with a group of its own.\n" * 200)
    sources = {
        "web": make_rows(tmp_path / "a.jsonl", {"en": 60, "fi": 20, "sv": 2}),
        "forum": make_rows(tmp_path / "b.jsonl", {"en": 20, "et": 2}, "forum"),
        "suomi": {"type": "text", "path": str(tmp_path / "suomi.txt"), "group": "fi"},
    }
    settings = OPEN | {"held_out": None}
    built = build(sources=sources, mixture={"en": 0.45, "fi": 0.45, "other": 0.1}, min_language_part=0.05, **settings)
    mixture = built.json("mixture.json")
    assert part_sizes(built) == {"suomi": pytest.approx(10_600, rel=0.01), "en": 80_000, "fi": 20_000, "other": 4_000}
    groups = {name: row["target_share"] for name, row in mixture["groups"].items()}
    assert groups == pytest.approx({"en": 0.45, "fi": 0.45, "other": 0.1})
    assert {row["source"] for row in built.rows("documents", "en")} == {"web", "forum"}
    assert {row["language"] for row in built.rows("documents", "other")} == {"sv", "et"}
    records = {row["name"]: row for row in built.json("sources.json")}
    assert records["forum"]["parts"] == {
        "en": {"documents": 20, "bytes": 20_000},
        "other": {"documents": 2, "bytes": 2_000},
    }
    assert "parts" not in records["suomi"]
    assert sum(row["bytes"] for row in records.values()) == sum(part_sizes(built).values())


def test_a_language_that_the_recipe_names_is_never_too_rare(build: Callable[..., Built], tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "a.jsonl", {"en": 300, "fi": 1, "sv": 1, "": 3})
    settings = OPEN | {"held_out": None}
    built = build(
        "weighted", sources={"web": rows}, mixture={"en": 1, "fi": 1, "other": 1}, min_language_part=0.1, **settings
    )
    assert part_sizes(built) == {"en": 300_000, "fi": 1_000, "other": 4_000}
    built = build("kept", sources={"web": rows}, languages=["en", "sv"], min_language_part=0.1, **settings)
    assert part_sizes(built) == {"en": 300_000, "sv": 1_000, "other": 3_000}, "what has no language is kept, in `other`"


def test_what_weights_do_not_fit_is_told(build: Callable[..., Built], tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "a.jsonl", {"en": 30, "": 3})
    built = build(
        sources={"web": rows}, languages=["en", "fi"], mixture={"en": 1, "fi": 1}, **(OPEN | {"held_out": None})
    )
    assert "mixture gives no weight to other: its 3.0 kB are written and not trained on" in built.narration
    assert "mixture gives a weight to fi, and no document is in it" in built.narration
    assert built.json("mixture.json")["budget"]["unseen_bytes"] >= 3_000


def test_limits_and_held_out_documents_of_a_routed_source(build: Callable[..., Built], tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "a.jsonl", {"en": 200, "fi": 40}) | {"max_bytes": 120_000}
    built = build(sources={"web": rows}, **OPEN)
    funnel = built.json("funnel.json")["sources"]["web"]
    assert funnel["kept"]["bytes"] + funnel["held_out"]["bytes"] == 120_000, "the limit is the source's"
    limited = next(step for step in funnel["steps"] if step["step"] == "limit")
    assert limited["dropped"]["beyond max_bytes"]["documents"] == 120
    for language in ("en", "fi"):
        kept, held_out = (len(built.rows(place, language)) for place in ("documents", "held_out"))
        assert held_out == int(0.1 * (kept + held_out)), "the share is each language's"


def test_bytes_do_not_depend_on_workers_or_the_place_of_a_kill(build: Callable[..., Built], tmp_path: Path) -> None:
    sources = {
        "web": make_rows(tmp_path / "a.jsonl", {"en": 60, "fi": 30, "sv": 3}),
        "forum": make_rows(tmp_path / "b.jsonl", {"fi": 20, "et": 40}, "forum"),
    }
    settings: dict[str, Any] = {"sources": sources, "shard_bytes": 10_000, **OPEN}
    alone = build("alone", **settings)
    assert (
        build("pair", workers=2, **settings).files()
        == alone.files()
        | {"README.md": alone.files()["README.md"].replace(b"# alone", b"# pair").replace(b'"alone"', b'"pair"')}
        or build("pair", workers=2, **settings).folder
    )
    work = tmp_path / "runs" / ".shards" / "alone"
    shutil.rmtree(work / "write")
    assert build("alone", **settings).files() == alone.files()


def test_another_way_to_mix_reads_nothing_again(build: Callable[..., Built], tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "a.jsonl", {"en": 30, "fi": 10})
    build(sources={"web": rows}, **OPEN)
    work = tmp_path / "runs" / ".shards" / "corpus"
    before = {step: sorted(path.name for path in (work / step).iterdir()) for step in ("read", "finish", "select")}
    build(sources={"web": rows | {"by_language": False, "group": "all"}}, **OPEN)
    after = {step: sorted(path.name for path in (work / step).iterdir()) for step in ("read", "finish", "select")}
    assert (after["read"], after["finish"]) == (before["read"], before["finish"])
    assert after["select"] != before["select"]


# ---------------------------------------------------------------- which part


@pytest.mark.parametrize(
    ("said", "part"),
    [("en", "en"), ("en-GB", "en"), ("pt_BR", "pt"), ("zh-Hans-CN", "zh"), ("ceb", "ceb"), ("EN", "en")]
    + [(said, "other") for said in ("", "und", "English", "x", "../en", "en/..", "12")],
)
def test_only_codes_name_parts(said: str, part: str) -> None:
    assert language_part(said) == part


@given(
    sizes=st.dictionaries(st.sampled_from(["en", "fi", "sv", "et", "de", "other"]), st.integers(0, 1_000)),
    least=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    named=st.sets(st.sampled_from(["en", "fi", "zz"])),
)
def test_every_language_has_a_place(sizes: dict[str, int], least: float, named: set[str]) -> None:
    names = language_parts(sizes, least, named)
    assert all(one in names or names[-1] == "other" for one in sizes)
    assert named & sizes.keys() <= set(names)
    total = sum(sizes.values())
    assert all(one in named or sizes[one] >= least * total for one in names if one != "other")
    assert names == language_parts(dict(reversed(sizes.items())), least, named), "the order of reading decides nothing"


# ---------------------------------------------------------------- what a recipe may say

WEB, BOOKS = ({"type": "jsonl", "path": "a.jsonl", **more} for more in ({"by_language": True}, {}))


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        (
            {"sources": {"web": WEB}, "mixture": {"en": 1}},
            "no weight to: other .all other languages.; give one, or keep",
        ),
        ({"sources": {"web": WEB}, "mixture": {"en": 1}, "languages": ["en", "fi"]}, "no weight to: fi"),
        ({"sources": {"web": WEB, "b": BOOKS}, "mixture": {"en": 1, "other": 1}}, "no weight to: b; give one"),
        (
            {"sources": {"web": WEB}, "mixture": {"web": 1}},
            "'web', which is by_language: give weights to its languages",
        ),
        (
            {"sources": {"web": WEB}, "mixture": {"english": 1}},
            r"'english', which is not .* languages \(en, fi \.\.\.\), other",
        ),
        ({"sources": {"web": WEB, "fi": BOOKS}}, "source name 'fi' would also be"),
        ({"sources": {"web": {**WEB, "group": "x"}}}, "leave out `group`"),
        ({"sources": {"web": {**WEB, "media": "code"}}}, "of code no language is told"),
        ({"sources": {"web": {"type": "code", "path": "x", "by_language": True}}}, "of code no language is told"),
    ],
)
def test_settings_that_do_not_fit_are_told(given_settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CorpusSettings(**given_settings)


def test_what_the_detector_may_say_names_a_part() -> None:
    assert len(LANGUAGES) == 176
    assert all(language_part(code) == code for code in LANGUAGES)


def test_weights_for_every_part_are_taken() -> None:
    CorpusSettings(sources={"web": WEB, "fi_books": {**BOOKS, "group": "fi"}}, mixture={"en": 1, "fi": 2, "other": 1})
    CorpusSettings(sources={"web": WEB}, languages=("en", "fi"), mixture={"en": 1, "fi": 2})
