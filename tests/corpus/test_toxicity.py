"""Toxicity: a model of labelled rows, its thresholds and intervals, and what a group's name may not do."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from groundup.corpus.quality import linear
from groundup.corpus.quality.toxicity import auc, auc_interval, load, threshold_for, train
from groundup.corpus.quality.toxicity_features import features_of, words_of
from groundup.corpus.quality.toxicity_words import balanced_rows
from groundup.errors import UserError

LABELS = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


@given(LABELS)
def test_auc_is_the_statistic_of_mann_and_whitney(rows: list[tuple[bool, int]]) -> None:
    positive = [score for label, score in rows if label]
    negative = [score for label, score in rows if not label]
    expected = stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert auc([label for label, _ in rows], [score for _, score in rows]) == pytest.approx(expected)


def test_the_interval_holds_the_auc_and_narrows_with_rows() -> None:
    rng = np.random.default_rng(1)

    def width(rows: int) -> float:
        labels = np.arange(rows) % 2
        scores = labels + rng.normal(size=rows)
        low, high = auc_interval(labels, scores, resamples=200)
        assert low < auc(labels, scores) < high
        return high - low

    assert width(4000) < width(200)
    labels = np.arange(400) % 2
    good, bad = labels + rng.normal(size=400), rng.normal(size=400)
    assert auc_interval(labels, good, minus=bad, resamples=200)[0] > 0


def test_a_threshold_reaches_its_precision_and_no_lower_one_does() -> None:
    labels = np.array([1] * 12 + [0, 1, 0, 0, 1] + [0] * 20)
    scores = np.linspace(1, 0, len(labels))
    threshold = threshold_for(labels, scores, 0.9)
    assert threshold is not None
    assert labels[scores >= threshold].mean() >= 0.9
    for lower in scores[scores < threshold]:
        assert labels[scores >= lower].mean() < 0.9
    assert threshold_for(1 - labels, scores, 0.9) is None
    # Where toxic texts are rare, the same precision asks for more.
    rare = threshold_for(labels, scores, 0.9, prevalence=0.05)
    assert rare is not None
    assert rare > threshold


def test_the_linear_model_finds_the_optimum_that_scipy_finds() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    rows = [np.unique(rng.integers(0, 40, 6)) for _ in range(300)]
    labels = np.array([int(3 in ids or rng.random() < 0.2) for ids in rows])
    values = np.zeros((300, 41))
    for row, ids in enumerate(rows):
        values[row, ids] = 1 / np.sqrt(len(ids))
    values[:, 40] = 1

    def loss(weights: np.ndarray) -> float:
        z = values @ weights
        return float(np.sum(np.logaddexp(0, z) - labels * z) + 0.15 * np.sum(weights[:40] ** 2))

    expected = minimize(loss, np.zeros(41), method="BFGS").x
    found = linear.fit(rows, labels, ridge=0.3, steps=200)
    assert found[:40] == pytest.approx(expected[:40], abs=2e-2)
    assert linear.log_odds(found, rows) == pytest.approx(values @ expected, abs=2e-2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("h4te", "hate"), ("h a t e it", "hate it"), ("haaaaate", "haate"), ("they're $tupid!", "theyre stupid"),
     ("ihatewomen", "i hate women"), ("see https://x.y/z @someone", "see user"), ("&quot;no&quot;", "no")],
)  # fmt: skip
def test_disguises_are_undone(text: str, expected: str) -> None:
    assert " ".join(words_of(text)) == expected


@given(st.text(max_size=200))
def test_any_text_has_features(text: str) -> None:
    ids = features_of(words_of(text))
    assert len(ids)
    assert (ids >= 0).all()
    assert (ids < linear.SIZE).all()


def test_to_the_model_all_groups_have_one_name() -> None:
    assert list(features_of(words_of("I like muslims"))) == list(features_of(words_of("I like gay people")))


ROWS = [{"text": row["text"], "rude": row["toxic"]} for row in balanced_rows(400, 5)]


def test_a_model_is_saved_and_gives_the_same_scores_however_it_is_trained(tmp_path: Path) -> None:
    report = train(ROWS, tmp_path / "a", precision=0.8, prevalence=None)
    train(ROWS, tmp_path / "b", precision=0.8, prevalence=None)
    for name in ("model.json", "weights.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert set(report) == {"rude"}
    assert report["rude"]["auc"] > 0.85
    assert report["rude"]["precision"] >= 0.8
    model = load(tmp_path / "a")
    texts = ["All foreigners are filthy.", "", "A quiet day by the sea. " * 200, "What a damn mess"]
    together, alone = model.score(texts), [model.score([text]) for text in texts]
    assert set(together) == {"rude", "word_list"}
    assert list(together["rude"]) == [one["rude"][0] for one in alone]
    assert together["word_list"][3] == 0.25
    assert together["rude"][0] > together["rude"][2]


def test_background_teaches_what_ordinary_text_looks_like(tmp_path: Path) -> None:
    rows = [row for row in ROWS if row["rude"]] + [row for row in ROWS if not row["rude"]][:20]
    pages = [f"The harbour of town {n} was built in 18{n % 90 + 10} and ships still call there." for n in range(200)]
    train(rows, tmp_path / "bare")
    report = train(rows, tmp_path / "fed", background=pages[:150], prevalence=0.02)
    bare, fed = (load(tmp_path / name).score(pages[150:])["rude"] for name in ("bare", "fed"))
    assert bare.mean() > 5 * fed.mean()
    assert report["rude"]["background_windows"] == 150


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"toxic": 1}], "needs a `text`"),
        ([{"text": "a", "toxic": 2}], "toxic is 2"),
        ([{"text": "a"}], "no row has a label"),
        ([{"text": "a", "toxic": 1}] * 30, "30 rows are labelled 1 and 0 are labelled 0"),
    ],
)
def test_rows_that_teach_nothing_are_told(rows: list[dict[str, object]], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train(rows, tmp_path)
    with pytest.raises(UserError, match="no toxicity model"):
        load(tmp_path)


@pytest.mark.slow
def test_tweets_and_hatecheck_beat_the_bag_of_words(shared_data: Path, tmp_path: Path) -> None:
    """Trained on tweets only. Baseline: the same linear model on plain words, which HateCheck leaves at chance."""
    with gzip.open(shared_data / "toxicity/davidson-tweets.csv.gz", "rt", encoding="utf-8") as file:
        tweets = [(row["tweet"], int(row["class"])) for row in csv.DictReader(file)]
    with open(shared_data / "toxicity/hatecheck.csv", encoding="utf-8") as file:
        checks = [(row["test_case"], row["label_gold"] == "hateful") for row in csv.DictReader(file)]
    rows = [{"text": text, "toxic": int(label != 2), "hate": int(label == 0)} for text, label in tweets]
    report = train(rows, tmp_path)
    assert report["toxic"]["auc"] > 0.979
    assert report["hate"]["auc"] > 0.855
    truth = [label for _, label in checks]
    scores = load(tmp_path).score([text for text, _ in checks])["hate"]

    def plain(text: str) -> linear.Ids:
        from zlib import crc32

        return np.array(sorted({crc32(word.encode()) % linear.SIZE for word in text.lower().split()} or {0}))

    weights = linear.fit([plain(text) for text, _ in tweets], [int(label == 0) for _, label in tweets])
    baseline = linear.log_odds(weights, [plain(text) for text, _ in checks])
    assert auc_interval(truth, scores)[0] > 0.64
    assert auc_interval(truth, scores, minus=baseline)[0] > 0.1
