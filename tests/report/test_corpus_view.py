"""The corpus section says what the files say: thresholds, what one notch would change, and figures true to scale."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from groundup.report.build import render
from groundup.report.corpus_view import corpus_view
from groundup.report.data import report_data
from groundup.report.data_view import funnel_rows, reasons_table, source_rows
from groundup.report.histograms import histogram

EDGES = [0.0, 0.5, 1.0, 10.0, 100.0]


@pytest.fixture(scope="module")
def data(finished_run: Path) -> dict:  # type: ignore[type-arg]
    return report_data(finished_run)


@pytest.fixture(scope="module")
def view(data: dict) -> dict:  # type: ignore[type-arg]
    return corpus_view(data)


def test_each_rule_stands_with_its_threshold_and_what_a_notch_would_change(data: dict, view: dict) -> None:  # type: ignore[type-arg]
    row = next(row for row in view["rules"] if row["rule"] == "too few words")
    found = data["corpus_stats"]["total"]["rules"]["too few words (words @ 50)"]
    assert row["question"] == "words ≥ 50"
    assert row["dropped"] == f"{found['counted']:,}"
    assert row["looser"] == (f"+{found['gained']}", "at 45")
    assert row["stricter"] == (f"−{found['lost']}", "at 55")
    assert len(row["kept_examples"]) == len(row["dropped_examples"]) == 5


def test_before_and_after_of_languages_are_counted_apart(data: dict, view: dict) -> None:  # type: ignore[type-arg]
    languages = next(table for table in view["shares"] if table["title"] == "Languages")
    counters = data["corpus_stats"]["total"]["counters"]
    for row in languages["rows"]:
        name = row["name"]
        before = counters["languages passed"][name][0] + counters["languages dropped"].get(name, [0])[0]
        assert (row["before"], row["after"]) == (f"{before:,}", f"{counters['languages written'][name][0]:,}")


def test_web_sources_stand_beside_the_published_shares(view: dict) -> None:  # type: ignore[type-arg]
    chart = view["published"]["chart"]
    assert "web" in chart and "RefinedWeb" in chart and "books" not in chart
    assert all(row["source"] and row["of"] for row in view["published"]["rows"])


def test_the_steps_figure_leaves_out_steps_that_dropped_nothing(view: dict) -> None:  # type: ignore[type-arg]
    assert "near duplicates" in view["steps"] and "toxicity" not in view["steps"]


def test_a_sample_of_what_was_replaced_is_told_of_with_a_warning(data: dict) -> None:  # type: ignore[type-arg]
    assert "pii-audit" not in render(data)
    stages = [
        {**row, "counts": {**row["counts"], "audited_documents": 1234}} if row["kind"] == "corpus" else row
        for row in data["stages"]
    ]
    page = render({**data, "stages": stages})
    assert "what was replaced in 1,234 documents. It holds personal data" in page


def test_clusters_are_put_together_above_four(view: dict) -> None:  # type: ignore[type-arg]
    chart = next(one["svg"] for one in view["clusters"] if one["title"] == "near duplicates")
    assert [label for label in ("2", "3", "4", "5–8", "9–16") if f">{label}</text>" not in chart] == []


def test_tokens_are_measured_where_a_tokenizer_was_and_a_range_elsewhere(view: dict) -> None:  # type: ignore[type-arg]
    rates = {row["source"]: row["rate"] for row in view["tokens"]["rows"]}
    assert "to" not in rates["code"] and "3.3 to 4.9" in rates["web"]
    assert "estimated" in view["tokens"]["note"]


def test_a_corpus_of_an_older_build_still_has_its_page(data: dict) -> None:  # type: ignore[type-arg]
    bare = {**data, "corpus_stats": None, "corpus_timing": {"write": 0.3}, "exam_hits": None, "mixture": None}
    found = corpus_view(bare)
    assert found["rules"] == [] and found["timing"] is None and found["steps"]
    nothing = dict.fromkeys(data)
    empty = corpus_view({**nothing, "sources": None})
    assert not any(value for key, value in empty.items())


def test_a_bar_of_the_histogram_is_as_high_as_its_documents_are_many() -> None:
    picture = histogram(EDGES, {"passed": {"1": 30, "3": 10}, "dropped": {"1": 10}}, title="t", x_title="x")
    heights = [float(value) for value in re.findall(r'height="([\d.]+)" class="bar', picture)]
    kept, dropped, other = heights
    assert kept == pytest.approx(3 * dropped, rel=0.02) == pytest.approx(3 * other, rel=0.02)


def test_a_threshold_stands_where_its_value_is() -> None:
    picture = histogram(
        EDGES, {"passed": {"1": 5, "2": 5, "3": 5, "4": 5}}, title="t", x_title="x", thresholds=[1.0, 5.5]
    )
    lines = [float(x) for x in re.findall(r'<line x1="([\d.]+)"[^>]*class="target"', picture)]
    bars = [
        (float(x), float(width)) for x, width in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', picture)
    ]
    assert lines[0] == pytest.approx(bars[2][0] - 0.5, abs=0.2), "1 is where the third bin begins"
    assert lines[1] == pytest.approx(bars[2][0] - 0.5 + (bars[2][1] + 1) / 2, abs=0.2), "5.5 is half way to 10"


def test_a_histogram_of_nothing_says_so() -> None:
    assert "no documents" in histogram(EDGES, {}, title="t", x_title="x")


def test_zero_is_named_in_the_middle_of_its_bin_and_no_bar_stands_left_of_it() -> None:
    """The bin of the value 0 stood to the left of the mark 0, as if shares could be negative."""
    picture = histogram(EDGES, {"passed": {"0": 5, "1": 5, "2": 5, "3": 5}}, title="t", x_title="x")
    x, width = next(
        (float(x), float(width)) for x, width in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', picture)
    )
    marks = re.findall(r'<text x="([\d.]+)"[^>]*class="tick"[^>]*text-anchor="middle"[^>]*>([^<]+)<', picture)
    assert marks[0][1] == "0" and float(marks[0][0]) == pytest.approx(x + width / 2, abs=1)
    assert sum(text == "0" for _, text in marks) == 1


def test_a_hundred_languages_are_a_few_rows_of_the_table() -> None:
    dropped = {f"language: x{number:02d}": {"documents": 1 + (number == 3)} for number in range(100)}
    steps = [
        {"step": "language", "dropped": dropped},
        {"step": "limit", "dropped": {"beyond max_bytes": {"documents": 7}}},
    ]
    funnel = {"sources": {"web": {"in": {"documents": 200}, "kept": {"documents": 92}, "steps": steps}}}
    rows = (reasons_table(funnel_rows(funnel)) or {})["rows"]
    assert [row["reason"] for row in rows[:2]] == ["language: x03", "language: x00"]
    assert (rows[12]["reason"], rows[12]["cells"], rows[12]["total"]) == ("language: 88 more", ["88"], "88")
    assert rows[13]["reason"] == "beyond max_bytes", "a setting's name stays as it is written in a recipe"
    assert len(rows) == 14


def test_licences_of_a_source_are_told_most_frequent_first() -> None:
    counts = {"MIT": 5, "BSD-3-Clause": 9, "ISC": 1, "Apache-2.0": 2}
    row = source_rows([{"name": "code", "licenses": counts}])[0]
    assert row["license"] == "BSD-3-Clause, MIT, Apache-2.0 and 1 more"
    assert source_rows([{"name": "code"}])[0]["license"] == "kept for each document"


def test_what_steps_did_besides_dropping_is_told(data: dict) -> None:  # type: ignore[type-arg]
    step = {"step": "near duplicates", "notes": {"spans cut": 35, "<EMAIL>": 3}, "changed_bytes": -26_065}
    funnel = {"total": {"steps": [step]}, "sources": {}}
    assert corpus_view({**data, "funnel": funnel})["besides"] == [
        "near duplicates: spans cut (35), 26.1 kB of text less"
    ]
