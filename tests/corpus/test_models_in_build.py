"""Trained models as steps of a build: what they learn, what they say of each document, and what goes for it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

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
