"""`groundup data ...` as a person meets it: on a small corpus, from the preview to the card."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from groundup.cli import app
from groundup.packages import PINNED, PackageUnreachableError

TEXT = (
    "{name} is a village on the river {name}brook, and the people who live there have kept sheep for a long time. "
    "It has a church that was built in the year {number}, two inns and a market on every second Friday of the month.\n"
    "The road from {name} to the coast goes over the hills and is closed when there is snow, which is not often.\n"
    "Most of the houses in {name} are made of the grey stone that was cut in the quarry of {name}ford until {number}."
)
RECIPE = """
name: villages
seed: 1
stages:
  corpus:
    stage: corpus
    workers: 0
    languages: [en]
    sources:
      notes: {type: jsonl, path: rows.jsonl}
      more: {type: jsonl, path: more.jsonl}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its sources and the finished run."""
    folder = tmp_path_factory.mktemp("villages")
    names = ["Ardley", "Bexwell", "Colne", "Denby", "Elmswell", "Farndon", "Grafham", "Hadlow", "Ickford", "Kelmarsh"]
    rows = [TEXT.format(name=name, number=1200 + 31 * number) for number, name in enumerate(names)]
    rows += [rows[1], "Too short to be kept.", rows[4] + "\nAsk mary.poole@elmswell-parish.org for the key."]
    lines = [
        {"url": f"https://parish.org/{number}", "text": text, "license": "MIT"} for number, text in enumerate(rows)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = [TEXT.format(name=name, number=1700) for name in ("Larling", "Mendham", "Norbury")]
    (folder / "more.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in more))
    (folder / "mine.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def built(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        assert app._main(["run", "mine.yaml", "--quiet"]) == 0
    return place / "runs" / "villages"


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("GROUNDUP_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert app._main(["data", *words]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(said(capsys, *words, "--json"))


def test_a_preview_shows_what_the_build_would_do_and_builds_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in place.iterdir() if path.name not in ("runs", "cache"))
    found = as_json(capsys, "preview", "mine.yaml")
    notes = next(one for one in found["sources"] if one["source"] == "notes")
    assert notes["sampled"] == 13 and notes["dropped"]["quality: too few words"] == 1
    assert len(notes["documents"]) == 3 and any(not row["is_kept"] for row in notes["documents"])
    text = said(capsys, "preview", "mine.yaml", "--source", "notes", "--documents", "13")
    assert "dropped at quality: too few words (5, threshold 50)" in text
    assert "== more" not in text
    assert sorted(path.name for path in place.iterdir() if path.name not in ("runs", "cache")) == before


def test_a_preview_of_a_source_that_cannot_be_had_says_so_and_shows_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from groundup.corpus.sources import pieces as real

    def pieces(source: Any, cache: Path) -> Any:
        if "more" in source.path:
            raise PackageUnreachableError(next(iter(PINNED.values())), "the registry did not answer")
        return real(source, cache)

    monkeypatch.setattr("groundup.corpus.report.trial.pieces", pieces)
    text = said(capsys, "preview", "mine.yaml")
    assert "== notes:" in text and "== more: cannot be read: source 'more' could not be had" in text
    assert "the registry did not answer" in said(capsys, "preview", "mine.yaml", "--source", "more", code=1)
    error = said(capsys, "preview", "mine.yaml", "--source", "noets", code=2)
    assert "no source is called 'noets'" in error


def test_stats_add_up_and_show_rules_with_thresholds(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "stats", str(built))
    assert found["funnel"]["total"]["in"]["documents"] == 16
    rules = found["stats"]["total"]["rules"].values()
    assert sum(rule["counted"] for rule in rules) == sum(
        count["documents"]
        for step in found["funnel"]["total"]["steps"]
        if step["step"] == "quality"
        for count in step["dropped"].values()
    )
    text = said(capsys, "stats", "villages", "--runs", str(built.parent))
    assert "too few words" in text and "words >= 50" in text and "DCLM-Baseline" in text
    assert "1 TB of input" in text and "100 TB of input" in text
    one = said(capsys, "stats", str(built), "--rule", "too few words")
    assert "Too short to be kept." in one and "kept, just inside" in one
    assert "no source is called" in said(capsys, "stats", str(built), "--source", "x", code=2)
    assert "no rule has 'zzz' in its name" in said(capsys, "stats", str(built), "--rule", "zzz", code=2)


def test_why_finds_the_document_of_an_example(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = as_json(capsys, "stats", str(built))["stats"]["total"]["rules"].values()
    example = next(one for rule in rules if rule["rule"] == "too few words" for one in rule["dropped_examples"])
    text = said(capsys, "why", example["id"], str(built))
    assert "dropped at the step quality: too few words (5, threshold 50)" in text
    assert "Too short to be kept." in text
    kept = as_json(capsys, "why", "https://parish.org/0", str(built / "corpus"))
    assert kept["fate"] == "kept for training" and kept["checks"]
    assert "no document of this corpus" in said(capsys, "why", "nothing like it", str(built), code=2)


def test_why_and_doing_it_again_find_sources_beside_the_recipe_from_any_folder(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dropped = "rows.jsonl:12"
    found = as_json(capsys, "why", dropped, str(built))
    assert found["measured_on"] == "measured on the source, read again" and found["checks"] and found["signals"]
    assert found["text"] == "Too short to be kept."
    assert app._main(["run", str(built / "recipe.yaml"), "name=again", "--quiet"]) == 0
    ours, theirs = (Path("runs/again") / "corpus", built / "corpus")
    for name in ("documents", "held_out", "dropped"):
        files = {one.name: one.read_bytes() for one in (theirs / name).iterdir()}
        assert {one.name: one.read_bytes() for one in (ours / name).iterdir()} == files
    capsys.readouterr()


def test_the_card_is_printed_written_and_told_as_data(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "card", str(built))
    assert text.startswith("---\n") and "| quality | too few words | 1 |" in text
    assert said(capsys, "card", str(built), "-o", str(tmp_path / "README.md")).strip() == str(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == text
    assert as_json(capsys, "card", str(built))["task_categories"] == ["text-generation"]


def test_a_run_without_a_corpus_is_told_what_would_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    (tmp_path / "runs" / "empty" / "recipe.yaml").write_text("name: empty\n")
    error = said(capsys, "stats", "empty", "--runs", str(tmp_path / "runs"), code=2)
    assert "no corpus of this run is finished" in error and "data preview" in error


def test_a_file_in_the_place_of_the_runs_folder_is_told(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("")
    command = ["run", str(place / "mine.yaml"), "--runs", str(tmp_path / "taken")]
    assert app._main(command) == 1
    error = capsys.readouterr().err
    assert "there is a file where a folder should be" in error and "--runs FOLDER" in error and "failed:" not in error


def test_the_report_of_a_corpus_alone_speaks_of_no_models(built: Path) -> None:
    page = (built / "report.html").read_text()
    assert "The stage finished." in page and "groundup data stats" in page and "load_dataset" in page
    sections = set(re.findall(r'<section id="(\w+)">', page))
    assert sections == set(re.findall(r'<a href="#(\w+)">', page))
    assert {"data", "corpus", "plan"} < sections and not sections & {"made", "samples", "scores", "training", "audit"}
    assert "This recipe has no" not in page
