"""Trained models as steps of a build: what they learn, what they say of each document, and what goes for it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.corpus.quality.toxicity import Toxicity, load
from groundup.corpus.report.why import why
from groundup.corpus.settings import CorpusSettings

from .conftest import Built

NICE = """careful measured history river valley bridge scholar letter argument evidence garden mountain harvest library
seasons observed described patient ancient journey winter village council teacher music painting""".split()  # noqa: SIM905
SPAM = """buy cheap click bonus casino winner viagra deal discount subscribe free offer jackpot crypto
loan pills""".split()  # noqa: SIM905


def text(words: list[str], seed: int, more: str = "") -> str:
    rng = random.Random(seed)
    sentences = (" ".join(["the", *rng.choices(words, k=9), "and", "of"]) for _ in range(9))
    return ". ".join(sentences) + f". {more}"


def rows(path: Path, texts: list[str]) -> dict[str, str]:
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    return {"type": "jsonl", "path": str(path)}


def test_a_classifier_learns_what_is_good_and_drops_the_rest(build: Callable[..., Built], tmp_path: Path) -> None:
    good = rows(tmp_path / "good.jsonl", [text(NICE, n) for n in range(60)])
    bad = rows(tmp_path / "bad.jsonl", [text(SPAM, n) for n in range(60)])
    source = rows(tmp_path / "rows.jsonl", [text(NICE if n % 2 else SPAM, 500 + n) for n in range(40)])
    built = build(sources={"rows": source}, classifier={"good": good, "bad": bad}, held_out=None)
    assert len(built.rows("documents", "rows")) == 20
    dropped = built.rows("dropped", "rows")
    assert {row["reason"] for row in dropped} == {"scored too low by the classifier"}
    assert all(row["value"] < row["threshold"] for row in dropped)
    assert "classifier_score" in built.json("stats.json")["sources"]["rows"]["histograms"]
    learned_from = built.json("timing.json")["steps"]["train"]["bytes_in"]
    assert learned_from > 10_000, "its progress said `1 B of 1 B`"


def test_perplexity_drops_word_salad(build: Callable[..., Built], tmp_path: Path) -> None:
    sentence = "The committee met on Tuesday to talk about the plan for the new bridge number {} and went home again. "
    reference = rows(tmp_path / "reference.jsonl", [sentence.format(n) * 60 for n in range(40)])
    rng = random.Random(1)
    plain = "".join(sentence.format(n) for n in range(12))
    salad = plain.split()
    rng.shuffle(salad)
    source = rows(tmp_path / "rows.jsonl", [plain, " ".join(salad) + "."])
    built = build(
        sources={"rows": source},
        perplexity={"reference": reference},
        quality={"max_perplexity": 60, "max_duplicate_ngrams": None, "max_top_ngram": None},
        near_duplicate_threshold=None,
        held_out=None,
    )
    (kept,) = built.rows("documents", "rows")
    assert kept["text"].startswith("The committee")
    assert [row["reason"] for row in built.rows("dropped", "rows")] == ["too high a perplexity"]


def test_toxicity_drops_by_category_and_counts_it_in_its_own_step(build: Callable[..., Built], tmp_path: Path) -> None:
    labelled = [{"text": text(NICE, n), "insult": 0} for n in range(80)]
    labelled += [{"text": text(NICE, n, "you are a stupid worthless idiot"), "insult": 1} for n in range(80, 160)]
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in labelled))
    texts = [text(NICE, 900 + n, "you are a stupid worthless idiot" if n < 3 else "") for n in range(30)]
    built = build(
        sources={"rows": rows(tmp_path / "rows.jsonl", texts)},
        toxicity={"rows": str(file), "max_scores": {"insult": 0.5}},
        held_out=None,
    )
    dropped = built.rows("dropped", "rows")
    assert {(row["step"], row["reason"]) for row in dropped} == {("toxicity", "toxic: insult")}
    steps = {step["step"]: step for step in built.json("funnel.json")["sources"]["rows"]["steps"]}
    assert steps["toxicity"]["dropped"]["toxic: insult"]["documents"] == len(dropped) == 3
    assert steps["toxicity"]["notes"] == {}


def test_a_category_that_drops_nothing_is_told(build: Callable[..., Built], tmp_path: Path) -> None:
    """A category whose score never reaches the precision was measured, and nobody was told that nothing followed."""
    built = build(
        sources={"rows": rows(tmp_path / "rows.jsonl", [text(NICE, 900 + n) for n in range(30)])},
        toxicity={"rows": labelled(tmp_path / "labelled.jsonl"), "max_scores": {"insult": None}},
        held_out=None,
    )
    steps = {step["step"]: step for step in built.json("funnel.json")["total"]["steps"]}
    assert steps["toxicity"]["notes"] == {"insult: measured, without a threshold": 30}
    assert "insult: measured, without a threshold: 30" in (built.folder / "README.md").read_text()


def labelled(path: Path) -> str:
    """Rows of another origin than the corpus: short, and half of them insults."""
    found = [{"text": f"{text(NICE, n)[:60]} you worthless idiot", "insult": 1} for n in range(80)]
    found += [{"text": text(NICE, n)[:60], "insult": 0} for n in range(80, 160)]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


def trained(folder: Path, kind: str) -> list[Path]:
    tasks = (folder.parent / ".shards" / folder.name / "train").glob("*/task.json")
    return [path.parent for path in tasks if json.loads(path.read_text())["name"] == kind]


def test_toxicity_learns_from_the_corpus_own_texts_and_again_when_they_change(
    build: Callable[..., Built], tmp_path: Path
) -> None:
    def built(texts: list[str], **more: Any) -> tuple[str, Toxicity]:
        source = rows(tmp_path / "rows.jsonl", texts)
        toxicity = {"rows": labelled(tmp_path / "labelled.jsonl"), **more}
        folder = build(sources={"rows": source}, toxicity=toxicity, quality=None, held_out=None).folder
        (model,) = trained(folder, "toxicity")
        return model.name, load(model)

    texts = [text(SPAM, n) for n in range(100)]
    (alone, bare), (fed, taught) = built(texts, background=0), built(texts)
    assert bare.report["insult"]["background_windows"] == 0
    assert taught.report["insult"]["background_windows"] >= 20, "a fifth of the corpus, and no more"
    assert taught.report["insult"]["background_windows"] <= 40
    unseen = [text(SPAM, n) for n in range(900, 930)]
    assert bare.score(unseen)["insult"].mean() > 2 * taught.score(unseen)["insult"].mean()
    assert built(texts)[0] == fed
    assert built(texts[:-1])[0] != fed, "other texts, another model"
    assert built(texts[:-1], background=0)[0] == alone, "the rows alone know nothing of the texts"


MODELS: dict[str, dict[str, Any]] = {
    "classifier": {"reason": "scored too low by the classifier", "signal": "classifier_score", "is_least": True},
    "perplexity": {"reason": "too high a perplexity", "signal": "perplexity", "is_least": False},
    "toxicity": {"reason": "toxic: insult", "signal": "toxicity_insult", "is_least": False},
}


@pytest.mark.parametrize("kind", MODELS)
def test_why_shows_the_question_of_a_trained_model_with_and_without_the_model(
    build: Callable[..., Built], tmp_path: Path, kind: str
) -> None:
    good = rows(tmp_path / "good.jsonl", [text(NICE, n) for n in range(60)])
    bad = rows(tmp_path / "bad.jsonl", [text(SPAM, n) for n in range(60)])
    insulted = [text(NICE, 700 + n, "you worthless idiot " * 10 if n < 4 else "") for n in range(20)]
    plain = " ".join(sorted(text(NICE, 1).split()))
    sentence = "The committee met on Tuesday to talk about the plan for the new bridge number {} and went home again. "
    reference = rows(tmp_path / "reference.jsonl", [sentence.format(n) * 60 for n in range(40)])
    settings: dict[str, Any] = {
        "perplexity": {
            "sources": {"rows": rows(tmp_path / "plain.jsonl", [sentence.format(7) * 9, plain])},
            "perplexity": {"reference": reference},
            "quality": {"max_perplexity": 60, "max_duplicate_ngrams": None, "max_top_ngram": None},
        },
        "classifier": {
            "sources": {
                "rows": rows(tmp_path / "rows.jsonl", [text(NICE if n % 2 else SPAM, 500 + n) for n in range(20)])
            },
            "classifier": {"good": good, "bad": bad},
        },
        "toxicity": {
            "sources": {"rows": rows(tmp_path / "insulted.jsonl", insulted)},
            "toxicity": {"rows": labelled(tmp_path / "labelled.jsonl"), "max_scores": {"insult": 0.5}},
            "quality": {"max_top_ngram": None, "max_duplicate_ngrams": None},
        },
    }[kind]
    settings |= {"held_out": None, "near_duplicate_threshold": None}
    built = build(**settings)
    recorded = CorpusSettings(**settings).model_dump(mode="json")
    told = MODELS[kind]
    dropped = [row for row in built.rows("dropped", "rows") if row["reason"] == told["reason"]]
    assert dropped, "or nothing is tested"

    def asked(id: str) -> dict[str, Any]:
        checks = why(built.folder, id, recorded, tmp_path / "cache")["checks"]
        (found,) = [check for check in checks if check["signal"] == told["signal"]]
        return found

    row, kept = dropped[0], built.rows("documents", "rows")[0]
    expected = {"rule": row["reason"], "signal": told["signal"], "step": row["step"], "is_least": told["is_least"]}
    expected |= {"value": row["value"], "threshold": row["threshold"], "fails": True}
    assert asked(str(row["id"])) == expected
    assert asked(str(kept["id"]))["fails"] is False, "what is kept is asked too, while the model is there"
    shutil.rmtree(built.folder.parent / ".shards")
    assert asked(str(row["id"])) == expected, "without the model the number that decided is left"
    with pytest.raises(ValueError, match="not enough values"):
        asked(str(kept["id"]))
