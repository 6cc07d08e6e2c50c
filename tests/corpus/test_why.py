"""A document's fate as `data why` tells it is the one that the build gave it; a trial says what a build does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.corpus.document import Document
from groundup.corpus.report.trial import sample_of, trial
from groundup.corpus.report.why import why
from groundup.corpus.settings import CorpusSettings
from groundup.errors import UserError

SENTENCES = [
    "The river rises in the hills above the town and is joined by two smaller streams near the old mill.",
    "Farmers have long relied on it to water their fields, and the first bridge was built of oak in the year 1421.",
    "In winter the banks are covered with snow, and the ferry cannot run until the ice has gone from the harbour.",
    "Travellers who pass this way stop at the inn, where the landlord keeps a list of everyone who has stayed there.",
    "The church at the corner of the square was burnt down twice and built again with stones from the quarry.",
]


def prose(number: int) -> str:
    """Five sentences that differ from those of every other number."""
    names = [f"{word}{number}" for word in ("Arden", "Brook", "Calder", "Dunmore", "Esk")]
    return "\n".join(
        f"{name} lies beyond {names[-1 - i]}. {text}"
        for i, (name, text) in enumerate(zip(names, SENTENCES, strict=True))
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    near = prose(3).replace("two smaller streams", "two little streams")
    texts = {
        **{f"good{number}": prose(number) for number in range(8)},
        "short": "Only a few words here.",
        "same": prose(2),
        "near": near,
        "mail": prose(20) + "\nWrite to jane.roe@mills-of-arden.org before the end of the month.",
    }
    path = tmp_path / "rows.jsonl"
    lines = [{"url": f"https://arden.org/{name}", "text": text, "license": "MIT"} for name, text in texts.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def settings_of(rows: Path, **more: Any) -> dict[str, Any]:
    sources = {"rows": {"type": "jsonl", "path": str(rows)}}
    return {"sources": sources, "languages": ["en"], "held_out": None, "near_duplicate_threshold": 0.7, **more}


@pytest.fixture
def told(build: Callable[..., Any], rows: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    built = build(**settings_of(rows))
    settings = CorpusSettings(**settings_of(rows))
    sample = sample_of(settings.sources["rows"], tmp_path / "cache", 100)
    ids = {document.url.rpartition("/")[2]: document.id for document in sample.documents}

    def told(name: str, **more: Any) -> dict[str, Any]:
        recorded = settings.model_dump(mode="json")
        return why(built.folder, ids.get(name, name), recorded, tmp_path / "cache", **more)

    return told


def test_a_sample_of_many_small_files_is_taken_from_all_of_them(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02d}.txt").write_text(prose(number))
    source = CorpusSettings(**settings_of(tmp_path) | {"sources": {"all": {"type": "text", "path": str(tmp_path)}}})
    sample = sample_of(source.sources["all"], tmp_path / "cache", 9)
    assert len({document.id for document in sample.documents}) == len(sample.documents) == 9
    assert {document.id for document in sample.documents} >= {"00.txt", "06.txt", "11.txt"}
    assert len(sample_of(source.sources["all"], tmp_path / "cache", 100).documents) == 12


def test_a_kept_document_passed_every_step_and_every_question(told: Callable[..., dict[str, Any]]) -> None:
    found = told("good1")
    assert told("https://arden.org/good1") == found, "by its address as well"
    assert found["fate"] == "kept for training" and found["source"] == "rows"
    assert {step["what"] for step in found["steps"][:-1]} == {"passed"}
    assert len(found["checks"]) > 10 and not any(check["fails"] for check in found["checks"])
    assert found["text"] == prose(1)


def test_a_dropped_document_is_told_with_rule_value_and_threshold(told: Callable[..., dict[str, Any]]) -> None:
    found = told("short")
    assert (found["step"], found["reason"], found["value"], found["threshold"]) == ("quality", "too few words", 5, 50)
    assert "dropped at the step quality: too few words (5, threshold 50)" in found["verdict"]
    failed = {check["rule"]: check["value"] for check in found["checks"] if check["fails"]}
    assert failed["too few words"] == 5
    assert found["text"] == "Only a few words here."
    assert "read again" in found["measured_on"]


@pytest.mark.parametrize(("name", "step", "of"), [("same", "exact duplicates", 2), ("near", "near duplicates", 3)])
def test_a_duplicate_stands_beside_the_text_that_it_was_dropped_for(
    told: Callable[..., dict[str, Any]], name: str, step: str, of: int
) -> None:
    found = told(name)
    twin = told(f"good{of}")
    if found["fate"] != "dropped":  # of two that are alike, the longer one stays
        found, twin = twin, found
    assert found["step"] == step
    assert found["other"]["id"] == twin["id"]
    assert found["other"]["text"] == twin["text"]
    assert found["other"]["fate"] == "kept for training"


def test_without_its_source_a_dropped_document_keeps_its_reason_and_excerpt(
    told: Callable[..., dict[str, Any]], rows: Path
) -> None:
    rows.unlink()
    found = next(one for one in (told("near"), told("good3")) if one["step"])
    assert found["step"] == "near duplicates" and 0.7 <= found["value"] < 1
    assert found["checks"] == []
    assert "cannot be read from here" in found["measured_on"]
    assert told("short", read_source=False)["text"] == "Only a few words here."


def test_what_is_not_there_is_answered_with_what_is_like_it(told: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"has the id 'rows\.json'\. Did you mean 'rows\.jsonl"):
        told("rows.json")


def test_a_trial_gives_each_document_the_fate_that_the_build_gives_it(
    build: Callable[..., Any], rows: Path, tmp_path: Path
) -> None:
    settings = CorpusSettings(**settings_of(rows))
    built = build(**settings_of(rows))
    sample = sample_of(settings.sources["rows"], tmp_path / "cache", 100)
    found = trial(settings, {"rows": sample.documents}, tmp_path / "trial", seed=0, cache=tmp_path / "cache")
    kept = {row["id"]: row["text"] for row in built.rows("documents", "rows")}
    dropped = {row["id"]: (row["step"], row["reason"], row["value"]) for row in built.rows("dropped", "rows")}
    assert {one.id: one.text for one in found if one.is_kept} == kept
    assert {one.id: (one.step, one.reason, one.value) for one in found if not one.is_kept} == dropped
    mail = next(one for one in found if one.url.endswith("/mail"))
    assert "jane.roe" in mail.raw_excerpt and "jane.roe" not in mail.text


def test_a_sample_is_small_whatever_the_source_holds(tmp_path: Path) -> None:
    for number in range(7):
        rows = "".join(json.dumps({"text": f"{number} {place}"}) + "\n" for place in range(50))
        (tmp_path / f"part{number}.jsonl").write_text(rows)
    source = CorpusSettings(**settings_of(tmp_path / "*.jsonl")).sources["rows"]
    sample = sample_of(source, tmp_path, 10)
    assert len(sample.documents) == 10
    assert {document.text.split()[0] for document in sample.documents} == {"0", "3", "6"}
    assert len({document.id for document in sample.documents}) == 10


def test_a_trial_of_nothing_is_nothing(tmp_path: Path) -> None:
    settings = CorpusSettings(**settings_of(tmp_path / "absent.jsonl"))
    assert trial(settings, {"rows": []}, tmp_path, seed=0, cache=tmp_path) == []


def test_a_document_that_breaks_the_extractor_is_a_drop_of_the_trial_too(tmp_path: Path) -> None:
    settings = CorpusSettings(**settings_of(tmp_path / "absent.jsonl"))
    empty = Document("x", "https://x.org", "", "<html><body></body></html>", "html")
    (found,) = trial(settings, {"rows": [empty]}, tmp_path / "trial", seed=0, cache=tmp_path)
    assert (found.step, found.reason) == ("extract", "no text in it")


def test_stats_hold_pairs_of_near_duplicates_to_look_at(build: Callable[..., Any], rows: Path) -> None:
    built = build(**settings_of(rows))
    (pair,) = built.json("stats.json")["duplicates"]
    assert {"two smaller streams", "two little streams"} <= {
        words
        for words in ("two smaller streams", "two little streams")
        for key in ("kept_excerpt", "dropped_excerpt")
        if words in pair[key]
    }
    assert 0.7 <= pair["similarity"] < 1 and pair["kept"] != pair["dropped"]
