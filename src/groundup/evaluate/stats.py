"""Statistics that exams and gates decide on: intervals, paired tests, bootstraps. Standard library and NumPy only.

Notation: a paired comparison of models a and b on the same n questions counts `only_a` (a right, b wrong) and `only_b`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """An estimate and its two-sided confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of a minus accuracy of b on the same questions, with the exact test of no difference."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    only_a: int
    only_b: int


def normal_quantile(confidence: float) -> float:
    """z such that a standard normal lies within +-z with this probability."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


# ---------------------------------------------------------------- one share


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Score interval for a share (Wilson 1927). `successes` may be half-integral, where ties count half."""
    _check_counts(successes, n)
    z = normal_quantile(confidence)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(share, low, high)


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact interval for a share (Clopper & Pearson 1934): never covers less than promised, so right for rare harm."""
    _check_counts(successes, n)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _beta_quantile(tail, successes, n - successes + 1)
    high = 1.0 if successes == n else _beta_quantile(1 - tail, successes + 1, n - successes)
    return Interval(successes / n, low, high)


def _check_counts(successes: float, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a share needs 0 <= successes <= n and n >= 1, got {successes} of {n}")


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz; DLMF 8.17.22)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1.0 - beta_cdf(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1) or tiny)
    fraction = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / ((1.0 + term * d) or tiny)
            c = (1.0 + term / c) or tiny
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


def _beta_quantile(probability: float, a: float, b: float) -> float:
    return _bisect(lambda x: beta_cdf(x, a, b) - probability, 0.0, 1.0)


def _bisect(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function crosses zero, to the last bit that halving can give."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


# ---------------------------------------------------------------- two models on the same questions


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that a and b are equally often right alone (binomial sign test on discordant pairs)."""
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n == 0 or only_a == only_b:
        return 1.0
    log_half_n = -n * math.log(2)
    terms = [_log_choose(n, k) + log_half_n for k in range(fewer + 1)]
    largest = max(terms)
    return min(1.0, 2 * math.exp(largest) * math.fsum(math.exp(term - largest) for term in terms))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def paired_difference(a: Sequence[bool], b: Sequence[bool], confidence: float = 0.95) -> PairedDifference:
    """Accuracy of a minus that of b, question by question: Tango's score interval, exact McNemar p-value."""
    if len(a) != len(b) or not a:
        raise ValueError(f"a paired comparison needs the same questions on both sides, got {len(a)} and {len(b)}")
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    return paired_difference_of_counts(only_a, only_b, len(a), confidence)


def paired_difference_of_counts(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> PairedDifference:
    """The same from counts.

    The interval holds every difference that the score test does not reject (Tango 1998, Statistics in Medicine 17:891);
    unlike Wald's it is sound for small counts and when no pair disagrees.
    """
    z = normal_quantile(confidence)
    value = (only_a - only_b) / n
    low = _bisect(lambda delta: z - _tango_statistic(only_a, only_b, n, delta), -1.0, value)
    high = _bisect(lambda delta: -z - _tango_statistic(only_a, only_b, n, delta), value, 1.0)
    return PairedDifference(value, low, high, mcnemar_exact(only_a, only_b), n, only_a, only_b)


def _tango_statistic(only_a: int, only_b: int, n: int, delta: float) -> float:
    """(observed - delta) in standard errors, those from the likelihood maximised under that delta. Falls with delta."""
    gap = only_a - only_b - n * delta
    b = -only_a - only_b + (2 * n - only_a + only_b) * delta
    c = -only_b * delta * (1 - delta)
    q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)  # P(only b right) under delta
    variance = n * (2 * q + delta * (1 - delta))
    if variance <= 0:
        return math.copysign(math.inf, gap) if gap else 0.0
    return gap / math.sqrt(variance)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): controls the chance of any false claim among several comparisons."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


# ---------------------------------------------------------------- bootstraps


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of a - b for graded scores on the same items, with a percentile interval over resampled items."""
    if len(a) != len(b) or not a:
        raise ValueError(f"a paired comparison needs the same items on both sides, got {len(a)} and {len(b)}")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return bootstrap_ratio(
        differences, np.ones_like(differences), confidence=confidence, resamples=resamples, seed=seed
    )


def bootstrap_ratio(
    numerators: Sequence[float] | NDArray[np.float64],
    denominators: Sequence[float] | NDArray[np.float64],
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Interval:
    """sum(numerators) / sum(denominators) with a percentile interval over resampled clusters.

    One entry per cluster (a document's bits and its bytes): what is inside a cluster hangs together, so clusters are
    drawn whole. A single cluster says nothing about spread: the interval is then infinitely wide.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if top.shape != bottom.shape or top.ndim != 1 or not len(top) or bottom.sum() <= 0:
        raise ValueError("a ratio needs one numerator and one denominator per cluster, and a positive total")
    value = float(top.sum() / bottom.sum())
    if len(top) == 1:
        return Interval(value, -math.inf, math.inf)
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    chunk = max(1, 2_000_000 // len(top))  # bounded memory, whatever the number of clusters
    for start in range(0, resamples, chunk):
        picks = rng.integers(0, len(top), size=(min(chunk, resamples - start), len(top)))
        ratios[start : start + len(picks)] = top[picks].sum(1) / bottom[picks].sum(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


# ---------------------------------------------------------------- how much more evidence would settle a question


def n_to_settle_share(share: float, n: int, threshold: float, confidence: float = 0.95) -> int | None:
    """Smallest n at which a share like the observed one would have its Wilson interval on one side of the threshold.

    None where it never would (the estimate is the threshold itself, to within rounding).
    """

    def is_settled(size: int) -> bool:
        interval = wilson(share * size, size, confidence)
        return interval.low >= threshold or interval.high < threshold

    return _smallest_n(is_settled, n)


def n_to_settle_difference(paired: PairedDifference, p_below: float) -> int | None:
    """Smallest n at which discordant pairs in the observed proportions would give a p-value below `p_below`."""
    if paired.only_a == paired.only_b:
        return None
    share_a, share_b = paired.only_a / paired.n, paired.only_b / paired.n
    return _smallest_n(lambda size: mcnemar_exact(round(share_a * size), round(share_b * size)) < p_below, paired.n)


def _smallest_n(is_settled: Callable[[int], bool], start: int, limit: int = 10_000_000) -> int | None:
    low, high = start, start
    while not is_settled(high):
        low, high = high, high * 2
        if high > limit:
            return None
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if is_settled(middle) else (middle, high)
    return high
