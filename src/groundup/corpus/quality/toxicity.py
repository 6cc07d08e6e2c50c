"""Toxicity by category: a linear model of labelled rows, in seconds on a CPU, its thresholds set by precision.

Rows are `{"text": ..., CATEGORY: 0 or 1, ...}`; a row may leave a category out when nobody judged it. Every text gets a
probability per category and `word_list`, the share of profane words: a signal to look at, never a verdict.

A model is a folder: `model.json`, `weights.npy` (categories, features). Nothing in it can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from groundup.corpus.quality import linear
from groundup.corpus.quality.labelled import categories_of
from groundup.corpus.quality.saved import load_saved
from groundup.corpus.quality.toxicity_features import features_of, words_of
from groundup.corpus.quality.toxicity_words import PROFANITY, balanced_rows

FORMAT = "groundup-toxicity-1"
WINDOW_WORDS = 60
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Toxicity:
    """A trained model. `thresholds`: per category the lowest probability that reaches `precision`, or none does."""

    categories: tuple[str, ...]
    weights: npt.NDArray[np.float32]  # categories, features + 1
    thresholds: dict[str, float | None]
    report: dict[str, Any]

    def score(self, texts: Sequence[str]) -> dict[str, Floats]:
        """Per category the probability that a text is toxic, and `word_list`, the share of profane words.

        A long text is read in windows of 60 words; what counts is the mean of its worst tenth, at least one window.
        """
        windows: list[linear.Ids] = []
        sizes, shares = [], []
        for text in texts:
            words = words_of(text)
            parts = _windows(words)
            windows += [features_of(part) for part in parts]
            sizes.append(len(parts))
            shares.append(sum(word in PROFANITY for word in words) / max(1, len(words)))
        ends = np.cumsum(sizes)
        found = {
            name: _worst(_probability(linear.log_odds(weights, windows)), ends)
            for name, weights in zip(self.categories, self.weights, strict=True)
        }
        return found | {"word_list": np.array(shares, np.float64)}


def train(
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    precision: float = 0.9,
    balance: int = 4000,
    background: Sequence[str] = (),
    prevalence: float | None = 0.02,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """A model of these rows in `folder`, and its report: rows, AUC with interval, threshold, per category.

    The figures come from `folds` cross-validation. `balance`: so many made sentences about groups of people, hostile
    ones and look-alikes, are added for the categories `toxic` and `hate` (toxicity_words.balanced_rows).
    `background`: ordinary texts of the corpus that the model is for, taken as not toxic. Labelled sets are far from
    ordinary (four of five of Davidson's tweets are toxic), and a model that saw nothing else suspects everything.
    `prevalence`: the share of toxic texts where the threshold shall reach `precision`; None: that of the rows. Set by
    the rows alone, nine pages in ten of a crawl lay above the threshold of a model of tweets.

    Raises UserError where rows have no text, a label that is neither 0 nor 1, or a category without both.
    """
    categories = categories_of(rows)
    features = [features_of(words_of(row["text"])) for row in rows]
    made = balanced_rows(balance, seed)
    made_features = [features_of(words_of(row["text"])) for row in made]
    ordinary = [features_of(part) for text in background for part in _windows(words_of(text))]
    rng = np.random.default_rng(seed)
    fold, ordinary_fold = rng.permutation(len(rows)) % folds, rng.permutation(len(ordinary)) % folds
    weights, thresholds, report = [], {}, {}
    for name in categories:
        judged = np.array([place for place, row in enumerate(rows) if row.get(name) is not None])
        labels = np.array([int(rows[place][name]) for place in judged])
        extra = made_features if name in ("toxic", "hate") else []
        extra_labels = [row[name] for row in made] if extra else []

        # Rows first, then the background; the made ones, of another origin, are never tested on.
        real = [features[place] for place in judged] + ordinary
        truth = np.concatenate((labels, np.zeros(len(ordinary), np.int64)))
        folded = np.concatenate((fold[judged], ordinary_fold))
        held_out = np.zeros(len(real))
        for number in range(folds):
            is_test = folded == number
            tested = [ids for ids, one in zip(real, is_test, strict=True) if one]
            held_out[is_test] = _probability(linear.log_odds(_fit(real, truth, ~is_test, extra, extra_labels), tested))
        weights.append(_fit(real, truth, np.ones(len(real), bool), extra, extra_labels))
        thresholds[name] = threshold_for(truth, held_out, precision, prevalence)
        report[name] = _report(labels, held_out[: len(labels)], thresholds[name], seed)
        report[name]["background_windows"] = len(ordinary)
        if ordinary and (threshold := thresholds[name]) is not None:
            report[name]["background_above"] = float(np.mean(held_out[len(labels) :] >= threshold))
    model = Toxicity(categories, np.stack(weights), thresholds, report)
    _save(model, folder, {"precision": precision, "prevalence": prevalence, "balance": balance, "seed": seed})
    return report


def _fit(
    rows: Sequence[linear.Ids],
    labels: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.bool_],
    made: Sequence[linear.Ids],
    made_labels: Sequence[int],
) -> npt.NDArray[np.float32]:
    real = [ids for ids, one in zip(rows, chosen, strict=True) if one]
    truth = [*labels[chosen], *made_labels]
    return linear.fit([*real, *made], truth, origins=[0] * len(real) + [1] * len(made))


def load(folder: Path) -> Toxicity:
    """The model that `train` left in `folder`. Raises UserError where it is none."""
    facts, weights = load_saved(
        folder,
        "model.json",
        what="toxicity model",
        format=FORMAT,
        shape=lambda facts: (len(facts.get("categories", ())), linear.SIZE + 1),
        fix="train one from labelled rows",
    )
    categories = tuple(facts["categories"])
    return Toxicity(categories, weights, facts["thresholds"], facts["report"])


# ---------------------------------------------------------------- judging


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Chance that a positive row scores above a negative one, ties counting half (Mann and Whitney 1947)."""
    truth, values = np.asarray(labels, bool), np.asarray(scores, np.float64)
    order = np.sort(values)
    ranks = (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right") + 1) / 2
    positives = int(truth.sum())
    negatives = len(truth) - positives
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_interval(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    minus: npt.ArrayLike | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC over rows; with `minus`, of its lead over that other score."""
    truth, values = np.asarray(labels, bool), np.asarray(scores, np.float64)
    other = None if minus is None else np.asarray(minus, np.float64)
    rng = np.random.default_rng(seed)
    positive, negative = np.flatnonzero(truth), np.flatnonzero(~truth)
    found = np.empty(resamples)
    for turn in range(resamples):
        # Positives and negatives apart, so that every sample has both.
        rows = np.concatenate((rng.choice(positive, len(positive)), rng.choice(negative, len(negative))))
        found[turn] = auc(truth[rows], values[rows]) - (0 if other is None else auc(truth[rows], other[rows]))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def threshold_for(
    labels: npt.ArrayLike, scores: npt.ArrayLike, precision: float, prevalence: float | None = None
) -> float | None:
    """The lowest score from which on at least this share of the rows is positive, or None where no score does it.

    `prevalence`: as if this share of all rows were positive. At least ten rows must lie above the threshold: the
    precision of two rows is none.
    """
    truth, values = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    share = truth.mean() if prevalence is None else prevalence
    order = np.argsort(-values, kind="stable")
    right = np.cumsum(truth[order]) / max(1.0, truth.sum()) * share
    wrong = np.cumsum(1 - truth[order]) / max(1.0, (1 - truth).sum()) * (1 - share)
    reached = right / np.maximum(right + wrong, 1e-300)
    is_last = np.append(values[order][1:] != values[order][:-1], True)  # equal scores stand or fall together
    good = np.flatnonzero((reached >= precision) & is_last & (np.arange(len(truth)) >= 9))
    return float(values[order][good[-1]]) if len(good) else None


def _report(labels: npt.NDArray[np.int64], scores: Floats, threshold: float | None, seed: int) -> dict[str, Any]:
    chosen = scores >= threshold if threshold is not None else np.zeros(len(scores), bool)
    return {
        "rows": len(labels),
        "positive": int(labels.sum()),
        "auc": auc(labels, scores),
        "auc_interval": list(auc_interval(labels, scores, seed=seed)),
        "threshold": threshold,
        "precision": float(labels[chosen].mean()) if chosen.any() else None,
        "recall": float(chosen[labels == 1].mean()),
    }


# ---------------------------------------------------------------- the parts


def _probability(log_odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-log_odds))


def _windows(words: list[str]) -> list[list[str]]:
    parts = [words[at : at + WINDOW_WORDS] for at in range(0, len(words), WINDOW_WORDS)] or [[]]
    if len(parts) > 1 and len(parts[-1]) < WINDOW_WORDS // 4:
        parts[-2:] = [parts[-2] + parts[-1]]
    return parts


def _worst(values: Floats, ends: npt.NDArray[np.int64]) -> Floats:
    found = np.empty(len(ends))
    start = 0
    for place, end in enumerate(ends):
        part = np.sort(values[start:end])[::-1]
        found[place] = part[: max(1, len(part) // 10)].mean()
        start = end
    return found


def _save(model: Toxicity, folder: Path, options: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "weights.npy", model.weights, allow_pickle=False)
    facts = {
        "format": FORMAT,
        "categories": model.categories,
        "thresholds": model.thresholds,
        "options": options,
        "report": model.report,
    }
    (folder / "model.json").write_text(
        json.dumps(facts, indent=2) + "\n", encoding="utf-8"
    )  # last: it makes the rest count
