"""Our intervals and tests against SciPy, published examples and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from groundup.evaluate.stats import (
    bootstrap_ratio,
    clopper_pearson,
    holm,
    mcnemar_exact,
    n_to_settle_difference,
    n_to_settle_share,
    paired_bootstrap,
    paired_difference,
    paired_difference_of_counts,
    wilson,
)

SHARES = [(0, 1), (1, 1), (0, 10), (10, 10), (3, 10), (263, 400), (1, 164), (81, 263), (15, 148), (999, 1000)]


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "n"), SHARES)
def test_intervals_for_a_share_are_scipys(successes: int, n: int, confidence: float) -> None:
    test = stats.binomtest(successes, n)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = test.proportion_ci(confidence, method=method)
        interval = ours(successes, n, confidence)
        assert interval.value == successes / n
        assert interval.low == pytest.approx(theirs.low, abs=1e-10)
        assert interval.high == pytest.approx(theirs.high, abs=1e-10)


def test_intervals_for_a_share_are_those_of_newcombes_table() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, 81 of 263 and 15 of 148: score and exact limits
    assert wilson(81, 263).low == pytest.approx(0.2553, abs=5e-5)
    assert wilson(81, 263).high == pytest.approx(0.3662, abs=5e-5)
    assert wilson(15, 148).low == pytest.approx(0.0624, abs=5e-5)
    assert wilson(15, 148).high == pytest.approx(0.1605, abs=5e-5)
    assert clopper_pearson(81, 263).low == pytest.approx(0.2527, abs=5e-5)
    assert clopper_pearson(81, 263).high == pytest.approx(0.3676, abs=5e-5)


def test_zero_of_n_still_leaves_room_for_three_over_n() -> None:
    assert clopper_pearson(0, 300, 0.9).high == pytest.approx(3 / 300, rel=0.01)


def test_impossible_counts_are_refused() -> None:
    for successes, n in ((0, 0), (5, 4), (-1, 4)):
        with pytest.raises(ValueError, match="successes"):
            wilson(successes, n)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 5), (1, 0), (10, 2), (2, 10), (121, 59), (600, 500)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(10, 3, 50), (0, 0, 40), (7, 0, 40), (0, 7, 40), (61, 20, 400)])
def test_the_paired_interval_is_where_the_score_test_stops_rejecting(only_a: int, only_b: int, n: int) -> None:
    interval = paired_difference_of_counts(only_a, only_b, n)
    z = stats.norm.ppf(0.975)
    for limit in (interval.low, interval.high):
        gap = only_a - only_b - n * limit
        assert abs(gap) / _score_error(only_a, only_b, n, limit) == pytest.approx(z, rel=1e-3)
    assert interval.low <= interval.difference <= interval.high


def _score_error(only_a: int, only_b: int, n: int, delta: float) -> float:
    """The score test's standard error, its nuisance parameter maximised numerically instead of by Tango's formula."""
    lowest = max(0.0, -delta) + 1e-12
    highest = (1 - delta) / 2 - 1e-12

    def minus_log_likelihood(q: float) -> float:
        same = max(1 - 2 * q - delta, 1e-300)
        return -(
            only_a * math.log(max(q + delta, 1e-300))
            + only_b * math.log(max(q, 1e-300))
            + (n - only_a - only_b) * math.log(same)
        )

    q = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-13}
    ).x
    return math.sqrt(n * (2 * q + delta * (1 - delta)))


def test_the_paired_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    only_a, only_b, n = 0.15, 0.05, 80
    drawn = rng.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=2000)
    intervals = [paired_difference_of_counts(int(a), int(b), n) for a, b, _ in drawn]
    covered = np.mean([interval.low <= 0.1 <= interval.high for interval in intervals])
    assert 0.935 <= covered <= 0.97


def test_a_paired_comparison_counts_who_was_right_alone() -> None:
    a = [True, True, True, False, True]
    b = [True, False, False, True, True]
    result = paired_difference(a, b)
    assert (result.only_a, result.only_b, result.n) == (2, 1, 5)
    assert result.difference == pytest.approx(0.2)
    assert paired_difference(b, a).low == pytest.approx(-result.high)
    with pytest.raises(ValueError, match="same questions"):
        paired_difference([True], [])


def test_holm_is_the_textbooks() -> None:
    # Holm 1979 by hand: sorted .005 .01 .03 .04 times 4 3 2 1, then made monotone
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_cluster_bootstrap_has_the_spread_of_the_ratio() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(200, 5000, 150).astype(float)
    bits = sizes * (rng.normal(2.0, 0.3, 150) - sizes / 5000)  # long documents are cheaper: no mean of ratios
    interval = bootstrap_ratio(bits, sizes, resamples=4000)
    assert interval.value == pytest.approx(bits.sum() / sizes.sum())
    # linearisation of a ratio of sums: residuals over the mean size (Cochran 1977, 6.13)
    residuals = bits - interval.value * sizes
    error = math.sqrt(np.var(residuals, ddof=1) / len(sizes)) / sizes.mean()
    assert interval.high == pytest.approx(interval.value + 1.96 * error, abs=0.2 * error)
    assert interval.low == pytest.approx(interval.value - 1.96 * error, abs=0.2 * error)


def test_the_paired_bootstrap_is_scipys() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(1, 1, 60), rng.normal(0.5, 1, 60)
    ours = paired_bootstrap(list(a), list(b), resamples=5000)
    theirs = stats.bootstrap((a - b,), np.mean, method="percentile", n_resamples=5000, rng=3).confidence_interval
    assert ours.value == pytest.approx((a - b).mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_one_cluster_says_nothing_about_spread() -> None:
    interval = bootstrap_ratio([20.0], [10.0])
    assert (interval.value, interval.low, interval.high) == (2.0, -math.inf, math.inf)


def test_how_many_more_questions_would_settle_it() -> None:
    n = n_to_settle_share(0.55, 40, 0.5)
    assert n is not None
    assert wilson(0.55 * n, n).low >= 0.5
    assert wilson(0.55 * (n - 5), n - 5).low < 0.5
    assert n_to_settle_share(0.5, 40, 0.5) is None
    paired = paired_difference_of_counts(8, 4, 40)
    more = n_to_settle_difference(paired, 0.01)
    assert more is not None
    assert mcnemar_exact(round(8 / 40 * more), round(4 / 40 * more)) < 0.01
