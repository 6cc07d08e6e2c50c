"""The classifier and the n-gram model: what they learn from real text, what they write, what they refuse."""

from __future__ import annotations

import bz2
import gzip
import html
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.corpus.quality import classifier, perplexity
from groundup.corpus.settings import ClassifierSettings
from groundup.corpus.words import word_hash, words_in
from groundup.errors import UserError


@pytest.fixture(scope="module")
def articles(shared_data: Path) -> list[str]:
    """Encyclopedia articles, roughly cleaned: paragraphs of the English dump."""
    path = shared_data / "wikipedia/enwiki-pages-articles-shortened.xml.bz2"
    with bz2.open(path, "rt", encoding="utf-8") as file:
        dump = file.read()
    texts = []
    for body in re.findall(r"<text[^>]*>(.*?)</text>", dump, re.S):
        plain = re.sub(r"<[^>]+>|\[\[[^]|]*\||\{\{[^}]*\}\}|[\[\]'=]", "", html.unescape(body))
        paragraphs = [line for line in plain.split("\n") if len(line) > 300]
        texts += ["\n".join(paragraphs[first : first + 4]) for first in range(0, len(paragraphs), 4)]
    return texts[:600]


@pytest.fixture(scope="module")
def pages(shared_data: Path) -> list[str]:
    with gzip.open(shared_data / "web/c4-300.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def shuffled(text: str) -> str:
    words = text.split(" ")
    return " ".join(random.Random(len(words)).sample(words, len(words)))


# ---------------------------------------------------------------- the classifier


def test_it_tells_encyclopedia_from_web_on_documents_it_has_not_seen(
    articles: list[str], pages: list[str], tmp_path: Path
) -> None:
    model = classifier.train(articles[:400], pages[:200], tmp_path / "model", precision=0.95)
    good, bad = model.score(articles[400:]), model.score(pages[200:])
    assert float((good > 0.5).mean()) >= 0.75, "other articles than it was trained on"
    assert float((bad < 0.5).mean()) >= 0.85
    assert float((good[:, None] > bad[None]).mean()) >= 0.92
    taken = np.concatenate((good, bad)) >= model.threshold
    assert float(taken[: len(good)].sum() / taken.sum()) >= 0.9, "about the precision that was asked for"
    assert model.measured.precision >= 0.95
    assert model.measured.documents == 120
    assert 0.9 <= model.measured.auc <= 1


def test_it_sees_the_order_of_words(articles: list[str], tmp_path: Path) -> None:
    """The same words in another order are another text: single words could not tell them apart."""
    model = classifier.train(articles[:400], [shuffled(text) for text in articles[:400]], tmp_path, precision=0.7)
    unseen = articles[400:]
    assert float((model.score(unseen) > model.score([shuffled(text) for text in unseen])).mean()) >= 0.9


def test_a_model_comes_back_as_it_was_and_the_same_texts_give_the_same_bytes(
    articles: list[str], pages: list[str], tmp_path: Path
) -> None:
    first = classifier.train(articles[:100], pages[:100], tmp_path / "one")
    classifier.train(iter(articles[:100]), iter(pages[:100]), tmp_path / "two")
    for name in ("weights.npy", "classifier.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    loaded = classifier.load(tmp_path / "one")
    assert (loaded.score(pages) == first.score(pages)).all()
    assert loaded.measured == first.measured


def test_a_text_is_scored_alike_alone_and_among_others_and_nothing_gives_a_half(
    articles: list[str], pages: list[str], tmp_path: Path
) -> None:
    model = classifier.train(articles[:60], pages[:60], tmp_path)
    together = model.score(["", pages[0], "!!! ...", articles[0]])
    assert together[0] == together[2] == 0.5
    assert together[1] == model.score([pages[0]])[0]
    assert ((together >= 0) & (together <= 1)).all()


def test_a_share_of_the_corpus_may_be_asked_for_instead_of_a_precision(
    articles: list[str], pages: list[str], tmp_path: Path
) -> None:
    thresholds = []
    for share in (0.5, 0.1):
        model = classifier.train(articles[:200], pages[:250], tmp_path, share=share)
        thresholds.append(model.threshold)
        assert float((model.score(pages[4:250:5]) >= model.threshold).mean()) == pytest.approx(share, abs=0.011)
    assert thresholds[0] < thresholds[1]


def test_too_few_texts_and_texts_that_do_not_differ_are_refused(articles: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 3 bad texts to learn from; it needs 20"):
        classifier.train(articles[:50], articles[:3], tmp_path)
    with pytest.raises(UserError, match=r"no threshold has a precision of 0\.99"):
        classifier.train(articles[:300:2], articles[1:300:2], tmp_path, precision=0.99)
    assert not (tmp_path / "classifier.json").exists()


def test_a_folder_without_a_model_or_with_another_format_is_named(tmp_path: Path, articles: list[str]) -> None:
    for module in (classifier, perplexity):
        with pytest.raises(UserError, match="can be read"):
            module.load(tmp_path / "nothing")
    classifier.train(articles[:40], [shuffled(text) for text in articles[40:80]], tmp_path, precision=0.5)
    told = json.loads((tmp_path / "classifier.json").read_text())
    (tmp_path / "classifier.json").write_text(json.dumps(told | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        classifier.load(tmp_path)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.floats(0.05, 1))
def test_the_threshold_for_a_precision_reaches_it_and_no_lower_one_does(
    rows: list[tuple[float, bool]], p: float
) -> None:
    scores, labels = np.array([row[0] for row in rows]), np.array([float(row[1]) for row in rows])
    reached = [score for score in scores if labels[scores >= score].mean() >= p]
    assert classifier.threshold_for_precision(scores, labels, p) == (min(reached) if reached else None)


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0.01, 1))
def test_the_threshold_for_a_share_takes_that_share(values: list[float], share: float) -> None:
    scores = np.array(values)
    threshold = classifier.threshold_for_share(scores, share)
    wanted = min(len(values), max(1, round(share * len(values))))
    assert (scores > threshold).sum() < wanted <= (scores >= threshold).sum()


# ---------------------------------------------------------------- perplexity


def test_reference_like_text_surprises_less_than_web_text_and_that_less_than_noise(
    articles: list[str], pages: list[str], tmp_path: Path
) -> None:
    model = perplexity.train(articles[::2], tmp_path, language="en")
    unseen = articles[1::2]
    medians = [
        float(np.median(model.score(texts)))
        for texts in (articles[::2], unseen, pages, [shuffled(text) for text in unseen])
    ]
    assert medians == sorted(medians)
    assert medians[0] < medians[1] / 5
    better = model.score(unseen) < model.score([shuffled(text) for text in unseen])
    assert float(better.mean()) >= 0.99


def slow_probability(order: int, texts: list[list[str]], context: list[str], word: str) -> float:
    """Interpolated Kneser-Ney with modified discounts, from its definition, with dictionaries."""
    padded = [["<s>"] * (order - 1) + words for words in texts]
    vocabulary = {word for words in texts for word in words} | {"<s>"}

    def grams(n: int) -> list[tuple[str, ...]]:
        return [
            tuple(words[place : place + n])
            for words in padded
            for place in range(len(words) - n + 1)
            if words[place + n - 1] != "<s>"
        ]

    def counts(n: int) -> Counter[tuple[str, ...]]:
        return Counter(grams(n)) if n == order else Counter(gram[1:] for gram in set(grams(n + 1)))

    found = 1 / len(vocabulary)
    for n in range(1, order + 1):
        table = counts(n)
        times = Counter(table.values())
        n1, n2, n3, n4 = (times[count] for count in (1, 2, 3, 4))
        if n1 and n2 and n3:
            y = n1 / (n1 + 2 * n2)
            discount = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3}
            discount = {count: min(max(value, 0), 0.95 * count) for count, value in discount.items()}
        else:
            discount = {1: 0.5, 2: 0.5, 3: 0.5}
        before = tuple(context[len(context) - (n - 1) :])
        following = {gram: count for gram, count in table.items() if gram[:-1] == before}
        if not following:
            continue
        total = sum(following.values())
        taken = sum(discount[min(count, 3)] for count in following.values())
        own = following.get((*before, word), 0)
        found = (own - discount[min(own, 3)] if own else 0) / total + taken / total * found
    return found


WORDS = ["the", "cat", "sat", "on", "mat", "dog", "ran"]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), min_size=1, max_size=6))
def test_probabilities_are_those_of_the_definition_and_add_up_to_one(order: int, texts: list[list[str]]) -> None:
    import tempfile

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(perplexity, "FEWEST_WORDS", 1)
        model = perplexity.train([" ".join(words) for words in texts], Path(folder), order=order)
    for context in (["the", "cat"], ["on", "the"], ["mat", "mat"], ["unseen", "the"]):
        total = 0.0
        for word in WORDS:
            fast = float(model.probabilities(words_in(" ".join([*context, word])).hashes)[-1])
            assert math.isclose(fast, slow_probability(order, texts, context, word), rel_tol=1e-5)
            total += fast if any(word in words for words in texts) else 0.0
        unseen = float(model.probabilities(words_in(" ".join([*context, "zebra"])).hashes)[-1])
        assert math.isclose(total + unseen, 1.0, rel_tol=1e-5), "what is left is the share of all words never seen"


def test_perplexity_is_two_to_the_mean_surprise_alone_and_among_others(articles: list[str], tmp_path: Path) -> None:
    model = perplexity.train(articles[:100], tmp_path)
    texts = ["", *articles[100:160], "?!", "zebra"]
    together = model.score(texts)
    assert math.isnan(together[0])
    assert math.isnan(together[-2])
    alone = [model.score([text])[0] for text in texts]
    assert np.allclose(together, alone, rtol=1e-9, equal_nan=True)
    hashes = words_in(texts[1]).hashes
    begin = np.full(2, perplexity._BEGIN, np.uint64)
    each = model.probabilities(np.concatenate((begin, hashes)))[2:]
    assert math.isclose(together[1], 2 ** -float(np.log2(each).mean()), rel_tol=1e-9)


def test_an_ngram_model_comes_back_as_it_was_and_prunes_what_is_rare(articles: list[str], tmp_path: Path) -> None:
    whole = perplexity.train(articles[:200], tmp_path / "whole", language="en")
    again = perplexity.train(iter(articles[:200]), tmp_path / "again", language="en")
    for name in ("arrays.npz", "perplexity.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    loaded = perplexity.load(tmp_path / "whole")
    assert loaded.language == again.language == "en"
    assert (loaded.score(articles) == whole.score(articles)).all()
    pruned = perplexity.train(articles[:200], tmp_path / "pruned", fewest=2)
    assert len(pruned.levels[2].ngrams) < len(whole.levels[2].ngrams) / 4
    unseen = articles[200:300]
    assert np.median(pruned.score(unseen)) <= 1.1 * np.median(whole.score(unseen))


def test_too_little_reference_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 4 words of reference text"):
        perplexity.train(["four words of text"], tmp_path)


def test_the_hash_of_a_word_does_not_stand_for_the_beginning() -> None:
    assert word_hash("s") != int(perplexity._BEGIN)


# ---------------------------------------------------------------- in a build


def test_a_build_trains_them_scores_with_them_and_keeps_the_share_that_was_asked_for(
    build: Callable[..., Any], articles: list[str], pages: list[str], tmp_path: Path
) -> None:
    for name, texts in (("web", pages), ("reference", articles[:300])):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    reference = {"type": "jsonl", "path": str(tmp_path / "reference.jsonl")}
    built = build(
        sources={"web": {"type": "jsonl", "path": str(tmp_path / "web.jsonl")}},
        classifier={"good": reference, "keep_share": 0.3},
        perplexity={"reference": reference},
        quality={"min_words": None, "max_perplexity": 20_000},
        near_duplicate_threshold=None,
        held_out=None,
        pii=[],
    )
    kept = [row["text"] for row in built.rows("documents", "web")]
    reasons = Counter(row["reason"] for row in built.rows("dropped", "web"))
    assert 0.15 <= len(kept) / len(pages) <= 0.45
    assert reasons["scored too low by the classifier"] >= 0.4 * len(pages)
    classifier.train(articles[:300], pages, tmp_path / "again", share=0.3)
    again = classifier.load(tmp_path / "again")
    assert np.median(again.score(kept)) > np.quantile(again.score(pages), 0.6), "the likest to the reference stay"


def test_a_share_is_refused_where_there_is_no_sample_to_learn_it_from() -> None:
    source = {"type": "jsonl", "path": "rows.jsonl"}
    with pytest.raises(ValueError, match="keep_share is learned from a sample of the corpus"):
        ClassifierSettings(good=source, bad=source, keep_share=0.2)  # type: ignore[arg-type]
