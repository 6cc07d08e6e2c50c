"""stats.json: adding up does not depend on the order, examples are the nearest, sensitivity is what a rerun gives."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus.report.stats import (
    EDGES,
    EXAMPLES,
    MOST_NAMES,
    OTHER,
    Check,
    Fate,
    SourceStats,
    domain_of,
    loosened,
    merged,
    notch,
    stats_report,
    tightened,
)

RULES = {  # rule -> (signal, threshold, is_least)
    "too few words": ("words", 50.0, True),
    "too many symbols": ("symbols_per_word", 0.1, False),
    "too few lines end in punctuation": ("punctuated_lines", 0.12, True),
}
Row = tuple[str, int, dict[str, float]]


def rows_of(count: int, seed: int = 7) -> list[Row]:
    rng = random.Random(seed)
    return [
        (
            f"doc-{number}",
            rng.randrange(100, 9_000),
            {
                "words": float(rng.randrange(30, 90)),
                "symbols_per_word": round(rng.uniform(0, 0.2), 3),
                "punctuated_lines": round(rng.uniform(0, 1), 2),
            },
        )
        for number in range(count)
    ]


def checks_of(signals: dict[str, float]) -> list[Check]:
    return [Check(rule, signal, signals[signal], bound, least) for rule, (signal, bound, least) in RULES.items()]


def stats_of(rows: list[Row]) -> SourceStats:
    stats = SourceStats()
    for name, size, signals in rows:
        checks = checks_of(signals)
        fate: Fate = "dropped" if any(check.fails for check in checks) else "passed"
        stats.observe(fate, size, language="en", license="MIT", url=f"https://www.{name}.org/x", signals=signals)
        stats.judge(name, f"text of {name}", size, checks)
    return stats


@given(st.lists(st.integers(0, 5), min_size=40, max_size=40), st.randoms(use_true_random=False))
def test_shards_add_up_to_the_same_whatever_their_number_and_order(homes: list[int], order: random.Random) -> None:
    rows = rows_of(40)
    shards = [[row for row, home in zip(rows, homes, strict=True) if home == number] for number in range(6)]
    parts = [SourceStats.from_json(json.loads(json.dumps(stats_of(shard).as_json()))) for shard in shards]
    order.shuffle(parts)
    assert merged(parts).as_json() == stats_of(rows).as_json()


def test_sensitivity_is_what_moving_the_threshold_would_do() -> None:
    """Against the rules run again with each threshold moved by one notch, the others as they were."""
    rows = rows_of(2_000)
    stats = stats_of(rows)

    def kept(moved: str | None = None, to: float = 0.0) -> dict[str, int]:
        return {
            name: size
            for name, size, signals in rows
            if not any(check.fails_at(to if check.rule == moved else check.threshold) for check in checks_of(signals))
        }

    now = kept()
    for found in stats.rules.values():
        check = Check(found.rule, found.signal, found.threshold, found.threshold, found.is_least)
        more, fewer = kept(found.rule, loosened(check)), kept(found.rule, tightened(check))
        assert (found.gained, found.gained_bytes) == (len(more) - len(now), sum(more.values()) - sum(now.values()))
        assert (found.lost, found.lost_bytes) == (len(now) - len(fewer), sum(now.values()) - sum(fewer.values()))
        assert found.gained > 0 and found.lost > 0, "the test would show nothing"


def test_examples_are_the_nearest_to_the_threshold_on_either_side() -> None:
    rows = rows_of(500)
    found = stats_of(rows).rules["too many symbols", "symbols_per_word", 0.1]
    failing = {name for name, _, signals in rows if any(check.fails for check in checks_of(signals))}
    values = {name: signals["symbols_per_word"] for name, _, signals in rows}
    kept = sorted(0.1 - values[name] for name in values if name not in failing)[:EXAMPLES]
    dropped = sorted(value - 0.1 for value in values.values() if value > 0.1)[:EXAMPLES]
    assert [0.1 - one["value"] for one in found.kept_examples] == pytest.approx(kept)
    assert [one["value"] - 0.1 for one in found.dropped_examples] == pytest.approx(dropped)
    assert all(one["excerpt"] == f"text of {one['id']}" for one in found.kept_examples + found.dropped_examples)


def test_what_a_rule_dropped_alone_is_told_from_what_others_would_have_dropped_too() -> None:
    stats = SourceStats()
    stats.judge("a", "", 10, checks_of({"words": 3.0, "symbols_per_word": 0.5, "punctuated_lines": 1.0}))
    stats.judge("b", "", 10, checks_of({"words": 3.0, "symbols_per_word": 0.0, "punctuated_lines": 1.0}))
    words = stats.rules["too few words", "words", 50.0]
    symbols = stats.rules["too many symbols", "symbols_per_word", 0.1]
    assert (words.asked, words.failed, words.counted, words.alone) == (2, 2, 2, 1)
    assert (symbols.asked, symbols.failed, symbols.counted, symbols.alone) == (2, 1, 0, 0)
    assert words.dropped_examples[0].get("also", words.dropped_examples[1].get("also")) == ["too many symbols"]


def test_a_rule_with_other_bounds_for_other_media_is_counted_apart() -> None:
    stats = SourceStats()
    stats.judge("page", "", 1, [Check("too few words", "words", 30, 50, True)])
    stats.judge("manual", "", 1, [Check("too few words", "words", 30, 20, True)])
    assert {key: rule.failed for key, rule in stats.rules.items()} == {
        ("too few words", "words", 50): 1,
        ("too few words", "words", 20): 0,
    }
    assert list(stats.as_json()["rules"]) == ["too few words (words @ 20)", "too few words (words @ 50)"]


def test_a_rule_that_looks_at_two_signals_is_one_reason_and_two_thresholds() -> None:
    """Moving one of them brings nothing back while the other still fails."""
    stats = SourceStats()
    checks = [Check("repeats", "lines", 0.31, 0.3, False), Check("repeats", "paragraphs", 0.9, 0.3, False)]
    stats.judge("a", "", 1, checks)
    stats.judge("b", "", 1, [checks[0], Check("repeats", "paragraphs", 0.1, 0.3, False)])
    lines = stats.rules["repeats", "lines", 0.3]
    assert (lines.failed, lines.alone, lines.gained) == (2, 1, 1)
    assert stats.rules["repeats", "paragraphs", 0.3].failed == 1


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_value_lies_between_the_edges_of_its_bin(value: float) -> None:
    stats = SourceStats()
    stats.observe("passed", 1, signals={"x": value})
    (bin,) = stats.histograms["x"]["passed"]
    assert bin == 0 or EDGES[bin - 1] < value
    assert bin == len(EDGES) or value <= EDGES[bin]


def test_a_score_that_is_no_number_is_left_out_of_the_histogram_and_not_of_the_count() -> None:
    stats = SourceStats()
    stats.observe("passed", 5, signals={"perplexity": float("nan")})
    assert "perplexity" not in stats.histograms
    assert stats.counters["documents"]["passed"] == [1, 5]


def test_notches_are_a_tenth_and_at_least_one_of_what_is_counted() -> None:
    assert notch(0.1) == pytest.approx(0.01)
    assert (notch(50, value_is_whole=True), notch(2, value_is_whole=True)) == (5, 1)


def test_a_question_of_yes_or_no_has_no_notch() -> None:
    stats = SourceStats()
    stats.judge("a", "", 1, [Check("lorem ipsum", "lorem_ipsum", 1.0, 0.0, False)])
    stats.judge("b", "", 1, [Check("lorem ipsum", "lorem_ipsum", 0.0, 0.0, False)])
    (rule,) = stats_report({"web": stats})["total"]["rules"].values()
    assert (rule["counted"], rule["gained"], rule["lost"], rule["looser"], rule["stricter"]) == (1, 0, 0, None, None)


def test_a_long_tail_of_domains_is_cut_and_counted() -> None:
    stats = SourceStats()
    for number in range(MOST_NAMES + 50):
        stats.observe("passed", 10, url=f"http://site{number}.org/")
    stats.observe("passed", 10, url="http://www.site7.org/again")
    names = stats.as_json()["counters"]["domains passed"]
    assert next(iter(names)) == "site7.org"
    assert len(names) == MOST_NAMES + 1
    assert names[OTHER] == [50, 500]
    assert sum(documents for documents, _ in names.values()) == MOST_NAMES + 51


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.example.org:8080/a?b", "example.org"),
        ("http://WWW2.Example.org", "www2.example.org"),
        ("file:///tmp/x", ""),
        ("http://[broken", ""),
        ("", ""),
    ],
)
def test_domains(url: str, domain: str) -> None:
    assert domain_of(url) == domain


def test_the_report_holds_each_source_their_sum_and_the_moved_thresholds() -> None:
    a, b = stats_of(rows_of(50, 1)), stats_of(rows_of(70, 2))
    report = stats_report({"web": a, "books": b}, {"near duplicates": {2: 5, 3: 1}})
    assert json.loads(json.dumps(report)) == report
    assert report["total"]["rules"]["too few words (words @ 50)"]["asked"] == 120
    assert report["total"]["rules"]["too few words (words @ 50)"]["looser"] == 45
    assert report["sources"]["web"]["rules"]["too many symbols (symbols_per_word @ 0.1)"]["stricter"] == pytest.approx(
        0.09
    )
    assert report["clusters"] == {"near duplicates": {"2": 5, "3": 1}}
    assert {"FineWeb", "DCLM-Baseline", "RefinedWeb"} <= {row["name"] for row in report["published"]}
    assert all(0 < row["kept"] < 1 and row["source"] for row in report["published"])


def test_no_notch_moves_a_share_or_a_probability_past_one() -> None:
    """`toxicity_toxic <= 0.997` was said to pass more documents at 1.097."""
    most = Check("toxic: toxic", "toxicity_toxic", 0.5, 0.997, False)
    least = Check("language: unsure (en)", "language_score", 0.5, 0.95, True)
    assert loosened(most) == 1.0 and tightened(most) == pytest.approx(0.8973)
    assert tightened(least) == 1.0 and loosened(least) == pytest.approx(0.855)
    assert loosened(Check("too few words", "words", 5, 1, False)) == 2, "what is counted goes on"
