"""A quality classifier that a person trains on texts of their own: good ones against bad ones, in minutes on a CPU.

Hashed word 1- and 2-grams, averaged, under logistic regression: fastText's supervised model (Joulin et al. 2016)
without its hidden layer; DCLM (Li et al. 2024) showed how far a linear filter goes. Two-grams let it see word order.
A model is a folder: weights.npy (float32) and classifier.json, which is written last. No pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.corpus.quality.saved import load_saved
from groundup.corpus.words import ngrams, words_in
from groundup.errors import UserError

FORMAT = 1
BITS = 18  # 262,144 weights, 1 MB
PIECE_WORDS = 400  # a book counts as many texts of this length, or one book would outweigh a thousand pages
EPOCHS = 6
_BATCH_PIECES = 64
_LEARNING_RATE = 0.5  # of AdaGrad
_L2 = 5e-5  # without it, pages that share a topic with a bad page are told by the topic (AUC .908, with it .953)
_SCALE = 20.0  # averages are small numbers: scaled, the rate above suits them
_HELD_OUT = 5  # every fifth document is kept to measure on
FEWEST_DOCUMENTS = 20  # of each kind, after pieces are cut

Buckets = NDArray[np.uint32]


@dataclass(frozen=True)
class Measured:
    """How well a classifier does on documents it was not trained on, and the threshold that was found there."""

    documents: int  # held out, good and bad together
    good_share: float  # of them, good ones
    accuracy: float  # at 0.5
    auc: float
    threshold: float  # the score that a text must have
    precision: float  # of what scores at least `threshold`; with as many good among all as in the held-out documents
    recall: float  # share of the good that scores at least `threshold`


@dataclass(frozen=True)
class Classifier:
    """A linear model over hashed 1- and 2-grams."""

    weights: NDArray[np.float32]  # (2^bits,)
    slope: float  # of the calibration: probability = 1 / (1 + exp(-(slope * mean weight + bias)))
    bias: float
    measured: Measured

    @property
    def threshold(self) -> float:
        return self.measured.threshold

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(texts,) the probability that each is good, were good and bad equally many. 0.5 where there are no words."""
        bits = int(math.log2(len(self.weights)))
        raw = np.zeros(len(texts))
        for place, text in enumerate(texts):
            buckets = _buckets(words_in(text).hashes, bits)
            raw[place] = self.weights[buckets].mean() if len(buckets) else math.nan
        scores = _sigmoid(self.slope * raw + self.bias)
        return np.where(np.isnan(raw), 0.5, scores)


def train(
    good: Iterable[str],
    bad: Iterable[str],
    folder: Path,
    *,
    precision: float = 0.9,
    share: float | None = None,
    seed: int = 1,
    bits: int = BITS,
) -> Classifier:
    """Train on good and bad texts and write the model to `folder`. The same texts give the same bytes.

    Every fifth document of each kind is held out: it calibrates the probability and finds the threshold at which
    `precision` is reached. With `share`, the threshold is what that share of the held-out bad texts reaches: where they
    are a sample of the corpus itself, as in DCLM, that share of the corpus is kept. Raises UserError where there are
    too few texts, or the kinds cannot be told apart so well.
    """
    kinds = [[_buckets(words_in(text).hashes, bits) for text in texts] for texts in (bad, good)]
    kinds = [[buckets for buckets in kind if len(buckets)] for kind in kinds]
    for name, kind in zip(("bad", "good"), kinds, strict=True):
        if len(kind) < FEWEST_DOCUMENTS:
            raise UserError(
                f"the quality classifier has {len(kind)} {name} texts to learn from; it needs {FEWEST_DOCUMENTS}",
                fix=f"give more {name} texts (some thousand of each are better), or leave the classifier out",
            )
    parts = [_split(kind) for kind in kinds]
    pieces = [[piece for buckets in train for piece in _pieces(buckets)] for train, _ in parts]
    weights = _fit(pieces[0], pieces[1], bits, seed)
    held_out = [np.array([weights[buckets].mean() for buckets in kept], np.float64) for _, kept in parts]
    raw = np.concatenate(held_out)
    labels = np.repeat([0.0, 1.0], [len(scores) for scores in held_out])
    slope, bias = _calibrated(raw, labels)
    scores = _sigmoid(slope * raw + bias)
    if share is None:
        threshold = _threshold_of(scores, labels, precision)
    else:
        threshold = threshold_for_share(scores[labels == 0], share)
    measured = _measure(scores, labels, threshold)
    classifier = Classifier(weights, slope, bias, measured)
    _write(classifier, folder)
    return classifier


def load(folder: Path) -> Classifier:
    """A classifier from its folder. Raises UserError where the folder holds none, or one of another format."""
    told, weights = load_saved(
        folder,
        "classifier.json",
        what="quality classifier",
        format=FORMAT,
        shape=lambda facts: (2 ** int(facts.get("bits", 0)),),
        fix="train it, or give its folder",
    )
    return Classifier(weights, told["slope"], told["bias"], Measured(**told["measured"]))


def threshold_for_share(scores: NDArray[np.float64], share: float) -> float:
    """The score that the best `share` of texts reach. `scores` may be a sample, the order does not matter."""
    if not len(scores):
        return 0.0
    ordered = np.sort(scores)[::-1]
    return float(ordered[min(len(ordered), max(1, round(share * len(ordered)))) - 1])


def threshold_for_precision(scores: NDArray[np.float64], labels: NDArray[np.float64], precision: float) -> float | None:
    """The smallest threshold at which at least `precision` of what reaches it is good; None where none does."""
    order = np.argsort(-scores, kind="stable")
    precisions = np.cumsum(labels[order]) / np.arange(1, len(order) + 1)
    # A threshold takes all texts of the same score: only the last of equal scores tells its precision.
    last = np.append(np.diff(scores[order]) != 0, True)
    reached = np.flatnonzero(last & (precisions >= precision))
    return float(scores[order][reached[-1]]) if len(reached) else None


# ---------------------------------------------------------------- training


def _buckets(hashes: NDArray[np.uint64], bits: int) -> Buckets:
    """(2 * words - 1,) where a text's words and pairs of words have their weights."""
    shift = np.uint64(64 - bits)
    pairs = ngrams(hashes, 2) * np.uint64(0xD6E8FEB86659FD93)  # so that the upper bits depend on both words
    return np.concatenate((hashes >> shift, pairs >> shift)).astype(np.uint32)


def _split(kind: list[Buckets]) -> tuple[list[Buckets], list[Buckets]]:
    held_out = kind[_HELD_OUT - 1 :: _HELD_OUT]
    return [buckets for place, buckets in enumerate(kind) if place % _HELD_OUT != _HELD_OUT - 1], held_out


def _pieces(buckets: Buckets) -> list[Buckets]:
    """A text's buckets in runs of PIECE_WORDS words with their pairs; a short rest goes with the run before it."""
    words = (len(buckets) + 1) // 2
    count = max(1, words // PIECE_WORDS)
    edges = [words * place // count for place in range(count + 1)]
    return [
        np.concatenate((buckets[first:last], buckets[words + first : words + last - 1]))
        for first, last in pairwise(edges)
    ]


def _fit(bad: list[Buckets], good: list[Buckets], bits: int, seed: int) -> NDArray[np.float32]:
    """Logistic regression by AdaGrad (Duchi et al. 2011) over batches with as many good as bad pieces."""
    rng = np.random.default_rng(seed)
    size = 2**bits
    weights, squares = np.zeros(size), np.full(size, 1e-8)
    bias = 0.0
    half = _BATCH_PIECES // 2
    labels = np.repeat([0.0, 1.0], half)
    batches = math.ceil(max(len(bad), len(good)) / half)
    for epoch in range(EPOCHS):
        rate = _LEARNING_RATE * (1 - epoch / EPOCHS)
        orders = [_order(len(kind), batches * half, rng) for kind in (bad, good)]
        for batch in range(batches):
            now = slice(batch * half, (batch + 1) * half)
            docs = [kind[place] for kind, order in zip((bad, good), orders, strict=True) for place in order[now]]
            lengths = np.fromiter(map(len, docs), np.int64, len(docs))
            flat = np.concatenate(docs)
            starts = np.concatenate(([0], np.cumsum(lengths[:-1])))
            means = _SCALE * np.add.reduceat(weights[flat], starts) / lengths
            slack = (_sigmoid(means + bias) - labels) / len(docs)
            bias -= rate * float(slack.sum())
            gradient = np.bincount(flat, np.repeat(_SCALE * slack / lengths, lengths), size) + _L2 * weights
            squares += gradient * gradient
            weights -= rate * gradient / np.sqrt(squares)
    return weights.astype(np.float32)


def _order(count: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(wanted,) places in random order; a smaller kind comes round again."""
    rounds = [rng.permutation(count) for _ in range(math.ceil(wanted / count))]
    return np.concatenate(rounds)[:wanted]


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


def _calibrated(raw: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and bias of Platt's scaling (1999, with his smoothed targets); good and bad weigh the same. By Newton."""
    good, bad = labels.sum(), (1 - labels).sum()
    targets = np.where(labels > 0, (good + 1) / (good + 2), 1 / (bad + 2))
    share = np.where(labels > 0, 0.5 / good, 0.5 / bad)
    centre, spread = raw.mean(), raw.std() or 1.0
    x = np.stack(((raw - centre) / spread, np.ones_like(raw)))  # (2, documents)
    solution = np.zeros(2)
    for _ in range(100):
        p = _sigmoid(solution @ x)
        gradient = x @ (share * (p - targets))
        hessian = (x * (share * p * (1 - p))) @ x.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        solution -= step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    slope = float(solution[0] / spread)
    return slope, float(solution[1] - slope * centre)


def _threshold_of(scores: NDArray[np.float64], labels: NDArray[np.float64], precision: float) -> float:
    threshold = threshold_for_precision(scores, labels, precision)
    if threshold is None:
        best = max(labels[scores >= score].mean() for score in np.unique(scores))
        raise UserError(
            f"no threshold has a precision of {precision:g} on {len(labels)} held-out texts; the best is {best:.3f}",
            fix="ask for less precision, give more texts, or texts that differ more",
        )
    return threshold


def _measure(scores: NDArray[np.float64], labels: NDArray[np.float64], threshold: float) -> Measured:
    taken = scores >= threshold
    ordered = np.sort(scores)
    ranks = (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right") + 1) / 2
    good, bad = labels.sum(), (1 - labels).sum()
    return Measured(
        documents=len(labels),
        good_share=float(labels.mean()),
        accuracy=float(((scores >= 0.5) == labels).mean()),
        auc=float((ranks[labels > 0].sum() - good * (good + 1) / 2) / (good * bad)),
        threshold=threshold,
        precision=float(labels[taken].mean()),
        recall=float(labels[taken].sum() / good),
    )


def _write(classifier: Classifier, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "weights.npy", classifier.weights, allow_pickle=False)
    told = {
        "format": FORMAT,
        "bits": int(math.log2(len(classifier.weights))),
        "slope": classifier.slope,
        "bias": classifier.bias,
        "measured": asdict(classifier.measured),
    }
    temporary = folder / "classifier.json.tmp"
    temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "classifier.json")
