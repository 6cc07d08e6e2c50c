"""The data card: readable by the Hub's own reader, true to the folder, and whole where a file is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from groundup.corpus.mixture import mix
from groundup.corpus.report.card import card_text, hub_license, hub_licenses, write_card
from groundup.corpus.report.funnel import Count, funnel_report, new_source_funnel
from groundup.corpus.report.stats import SourceStats, stats_report

SETTINGS = {"languages": ["en"], "near_duplicate_threshold": 0.8, "pii": ["email", "ip"], "extract": "cascade"}


def write_corpus(folder: Path, *, with_stats: bool = True, names: tuple[str, ...] = ("web", "books")) -> Path:
    funnels, kept, held, stats = {}, {}, {}, {}
    for name in names:
        funnel = new_source_funnel()
        for number in range(10):
            funnel["read"].keep(2_000)
            if number < 3:
                funnel["quality"].drop("too few words | of 50", 2_000)
            else:
                funnel["quality"].keep(2_000, 1_500)
        for step in ("extract", "language"):
            for _ in range(10):
                funnel[step].keep(2_000)
        funnels[name], kept[name], held[name] = funnel, Count(6, 9_000), Count(1, 1_500)
        one = SourceStats()
        for number in range(6):
            one.observe(
                "written", 1_500, language=("en", "de")[number % 2], license=("MIT", "CC BY-SA 4.0")[number % 2]
            )
        one.add("personal data", "EMAIL", 4)
        stats[name] = one
    files: dict[str, Any] = {
        "funnel": funnel_report(funnels, kept, held),
        "mixture": mix(dict.fromkeys(names, 9_000), dict.fromkeys(names, 1.0), 4.0),
        "exam_hits": {
            "human-eval": {f"#{n}": {"documents": 1 + 2 * n, "rules": {}} for n in (0, 1)},
            "x": {"a": {"documents": 3}},
        },
        "exams": [{"name": "human-eval", "status": "used", "reason": "", "items": 164}],
        "sources": [
            {"name": name, "type": "text", "status": "used", "path": f"/data/{name}", "documents": 6, "bytes": 9_000}
            | {"licenses": {"MIT": 3, "CC BY-SA 4.0": 3}, "notes": {}}
            for name in names
        ]
        + [{"name": "gone", "type": "warc", "status": "unreachable", "documents": 0, "bytes": 0}],
    }
    if with_stats:
        files["stats"] = stats_report(stats)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_the_hubs_own_reader_reads_the_card_and_finds_it_valid(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the card is read with huggingface_hub")
    write_card(write_corpus(tmp_path), 'demo: a "corpus"', SETTINGS)
    card = hub.DatasetCard.load(tmp_path / "README.md")
    assert card.data.pretty_name == 'demo: a "corpus"'
    assert card.data.language == ["de", "en"]
    assert card.data.license == ["cc-by-sa-4.0", "mit"]
    assert card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["text-generation"]
    configs = {one["config_name"]: one for one in card.data.configs}
    assert list(configs) == ["default", "web", "books"]
    assert configs["web"]["data_files"] == [
        {"split": "train", "path": "documents/web-*.parquet"},
        {"split": "validation", "path": "held_out/web-*.parquet"},
    ]
    assert hub.DatasetCardData(**card.data.to_dict()).to_yaml(), "and writes it again"


@pytest.mark.parametrize("with_stats", [True, False])
def test_the_prose_says_what_the_files_say(tmp_path: Path, *, with_stats: bool) -> None:
    text = card_text(write_corpus(tmp_path, with_stats=with_stats), "demo", SETTINGS)
    assert "12 documents" in text and "20 documents came in, 60.0 %" in text
    assert "| quality | too few words \\| of 50 | 6 | 30.00 % |" in text
    assert "| human-eval | 164 | used |" in text
    assert "3 items were found in 7 documents" in text
    assert "gone" not in text, "a source that could not be had is no source of this text"
    assert ("| personal data | EMAIL | 8 |" in text) == with_stats
    assert "Looked for: email, ip" in text and "Toxicity was not looked at." in text


def test_a_table_row_is_one_line_with_as_many_cells_as_its_head(tmp_path: Path) -> None:
    text = card_text(write_corpus(tmp_path), "demo", SETTINGS)
    head = 0
    for line in text.splitlines():
        cells = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        assert not head or not cells or cells == head, line
        head = cells


def test_an_empty_folder_gives_a_card_that_promises_nothing(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the card is read with huggingface_hub")
    write_card(tmp_path, "nothing", {})
    card = hub.DatasetCard.load(tmp_path / "README.md")
    assert card.data.license == "unknown" and card.data.language is None
    assert "made by groundup from 0 sources: 0 documents" in card.text


@pytest.mark.parametrize(
    ("written", "identifier"),
    [
        ("CC-BY-SA-3.0 (Wikipedia text)", "cc-by-sa-3.0"),
        ("CC BY-SA 4.0", "cc-by-sa-4.0"),
        ("Apache License 2.0", "apache-2.0"),
        ("BSD-3-Clause", "bsd-3-clause"),
        ("MIT", "mit"),
        ("public domain (texts), inside an MIT package", "other"),
        ("CC0 1.0", "cc0-1.0"),
        ("GPL v2", "gpl-2.0"),
        ("LGPL-2.1", "lgpl"),
        ("AGPL-3.0", "agpl-3.0"),
        ("PSF", "other"),
        ("submitted by permission", "other"),
        ("", "unknown"),
        ("unknown", "unknown"),
    ],
)
def test_licences_as_the_hub_spells_them(written: str, identifier: str) -> None:
    assert hub_license(written) == identifier


def test_several_licences_are_told_apart_and_the_package_around_a_text_is_none_of_them() -> None:
    assert hub_licenses("BSD AND MIT AND CC0-1.0") == {"bsd", "mit", "cc0-1.0"}
    assert hub_licenses("(MPL-2.0 OR GPL-3.0)") == {"mpl-2.0", "gpl-3.0"}
    assert hub_licenses("page content (c) ICANN/IANA, inside a GPL-3.0 package") == {"other"}
    assert hub_licenses("CC-BY-SA-3.0 (Wikipedia text), inside an LGPL-2.1 package") == {"cc-by-sa-3.0"}


def test_a_hundred_languages_are_a_few_rows_and_nothing_else_is_folded(tmp_path: Path) -> None:
    funnel = new_source_funnel()
    codes = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    for number, code in enumerate(codes):
        for _ in range(1 + (number == 7)):
            funnel["read"].keep(10)
            funnel["extract"].keep(10)
            funnel["language"].drop(f"language: {code}", 10)
    for number in range(20):  # any reason of its own has its own row
        funnel["read"].drop(f"damaged in way {number}", 10)
    report = funnel_report({"web": funnel}, {"web": Count()}, {"web": Count()})
    (tmp_path / "funnel.json").write_text(json.dumps(report))
    text = card_text(tmp_path, "corpus", {})
    assert "| language | language: ar | 2 | 1.65 % |" in text  # the most frequent one
    assert text.count("| language | language: ") == 13 and "| language | language: 88 others | 88 |" in text
    assert text.count("| read | damaged in way") == 20


def test_every_setting_that_is_not_at_its_default_is_told(tmp_path: Path) -> None:
    """The card told six settings, whatever else was on."""
    from groundup.corpus.settings import CorpusSettings

    sources = {"web": {"type": "text", "path": "x"}}
    quality = {"min_words": 30, "overrides": {"de": {"max_mean_word_chars": 12}}}
    settings = CorpusSettings(
        sources=sources, quality=quality, duplicate_spans=50, semantic_threshold=0.8, duplicate_urls=True,
        toxicity={"rows": "x.jsonl"}, workers=3, engine="ray",
    ).model_dump(mode="json")  # fmt: skip
    text = card_text(write_corpus(tmp_path), "corpus", settings)
    line = next(line for line in text.splitlines() if line.startswith("Settings: "))
    assert '`quality: {"min_words": 30, "overrides": {"de": {"max_mean_word_chars": 12.0}}}`' in line
    assert "`duplicate_spans: 50`" in line and "`semantic_threshold: 0.8`" in line and "`duplicate_urls: true`" in line
    assert '`toxicity: {"rows": "x.jsonl"' in line and "ray" not in line and "exact_duplicates" not in line


def test_what_a_step_did_besides_dropping_is_told(tmp_path: Path) -> None:
    """`spans cut: 35` stood in funnel.json only."""
    funnel = new_source_funnel()
    for step in ("read", "extract", "language", "quality", "toxicity", "exact duplicates"):
        funnel[step].keep(40_000)
    funnel["near duplicates"].keep(40_000, 14_000)
    funnel["near duplicates"].notes["spans cut"] = 35
    for step in ("decontaminate", "personal data", "limit"):
        funnel[step].keep(14_000)
    report = funnel_report({"web": funnel}, {"web": Count(1, 14_000)}, {"web": Count()})
    (tmp_path / "funnel.json").write_text(json.dumps(report))
    assert "| spans cut: 35, 26 kB of text less |" in card_text(tmp_path, "corpus", {})
