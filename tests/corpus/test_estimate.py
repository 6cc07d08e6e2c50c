"""Estimates: linear where the work is, with intervals that hold the truth as often as they say."""

from __future__ import annotations

import random

import pytest

from groundup.corpus.report.estimate import (
    EFFICIENCY,
    StepTime,
    estimate,
    estimate_text,
    rate_of,
    step_times,
    timing_report,
)


def records(tasks: int, *, seed: int = 1, per_mb: float = 0.5, spread: float = 0.3) -> list[dict[str, object]]:
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    for number in range(tasks):
        size = rng.randrange(5_000_000, 50_000_000)
        cpu = size / 1e6 * per_mb * rng.uniform(1 - spread, 1 + spread)
        row = {"source": f"s{number % 2}", "documents": 1_000, "bytes_in": size, "peak_bytes": 100 + number}
        rows.append({**row, "step": "read", "bytes_out": 2 * size, "cpu_seconds": cpu / 10, "seconds": 1.0})
        rows.append({**row, "step": "extract", "bytes_out": size // 2, "cpu_seconds": cpu, "seconds": 2.0})
        rows.append({**row, "step": "write", "bytes_out": size // 5, "cpu_seconds": 0.1, "seconds": 0.1})
    return rows


def test_timing_adds_up_by_step_and_by_source_in_any_order() -> None:
    rows = records(9)
    timing = timing_report(rows, cores=2, wall_seconds=12.3456)
    assert list(timing["steps"]) == ["read", "extract", "write"]
    assert timing["steps"]["extract"]["tasks"] == 9
    assert timing["steps"]["extract"]["bytes_in"] == sum(int(str(row["bytes_in"])) for row in rows[::3])
    assert timing["steps"]["read"]["peak_bytes"] == 108
    by_source = [timing["sources"][name]["extract"]["cpu_seconds"] for name in ("s0", "s1")]
    assert sum(by_source) == pytest.approx(timing["steps"]["extract"]["cpu_seconds"], abs=0.01)
    again = timing_report(rows[::-1], cores=2, wall_seconds=12.3456)
    assert again["steps"]["extract"]["cpu_seconds"] == timing["steps"]["extract"]["cpu_seconds"]


def test_ten_times_the_input_takes_ten_times_the_core_hours() -> None:
    timing = timing_report(records(12))
    measured = timing["steps"]["read"]["bytes_in"]
    once, tenfold = estimate(timing, measured), estimate(timing, 10 * measured)
    assert once is not None and tenfold is not None
    cpu = sum(row["cpu_seconds"] for row in timing["steps"].values())
    assert once["core_hours"]["value"] == pytest.approx(cpu / 3600)
    assert tenfold["core_hours"]["value"] == pytest.approx(10 * cpu / 3600)
    assert tenfold["memory_bytes_per_worker"] == once["memory_bytes_per_worker"] == 111
    assert tenfold["result_bytes"] == pytest.approx(10 * once["result_bytes"], rel=1e-6)
    wider = tenfold["core_hours"]["high"] / tenfold["core_hours"]["value"]
    assert wider > once["core_hours"]["high"] / once["core_hours"]["value"]


def test_matching_grows_faster_than_the_input() -> None:
    rows = [*records(4), {"step": "match", "documents": 4_000, "bytes_in": 10_000_000, "cpu_seconds": 10.0}]
    timing = timing_report(rows)
    measured = timing["steps"]["read"]["bytes_in"]
    found = estimate(timing, 1_000 * measured)
    assert found is not None
    match = next(row for row in found["steps"] if row["step"] == "match")["core_hours"]
    assert 1.5 < match["value"] / (1_000 * 10.0 / 3600) < 3  # n log n
    assert match["high"] > 2.5 * match["value"]


def test_cost_hours_and_cores_belong_together() -> None:
    timing = timing_report(records(6))
    found = estimate(timing, 1e12, cores=64, price_per_core_hour=0.05)
    assert found is not None
    assert found["hours"]["value"] == pytest.approx(found["core_hours"]["value"] / 64 / EFFICIENCY)
    assert found["cost"]["high"] == pytest.approx(0.05 * found["core_hours"]["high"])
    in_a_day = estimate(timing, 1e12)
    assert in_a_day is not None
    assert 20 < in_a_day["hours"]["value"] <= 24
    (line,) = estimate_text([found])
    assert line.startswith("1 TB of input:") and "64 cores" in line and "$" in line


def test_the_interval_of_a_rate_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(300):
        timing = timing_report(records(8, seed=seed))
        rate = rate_of(next(one for one in step_times(timing) if one.step == "extract"))
        held += rate.low <= 0.5 <= rate.high
    assert held / 300 >= 0.90, "a 95 % interval"


def test_with_two_tasks_nothing_is_known_of_the_spread_and_the_interval_says_so() -> None:
    rate = rate_of(step_times(timing_report(records(2)))[1])
    assert (rate.low, rate.high) == (rate.value / 2, rate.value * 2)


def test_no_estimate_from_nothing() -> None:
    assert estimate({}, 1e12) is None
    assert estimate({"write": 0.3}, 1e12) is None  # a timing.json of before the shards
    assert estimate(timing_report([]), 1e12) is None
    assert rate_of(StepTime("select", 1, cpu_seconds=2.0)).value == 0


def test_training_a_model_costs_the_same_however_large_the_corpus() -> None:
    """Half a minute of training on a sample became 650 core hours for a terabyte."""
    rows = records(12)
    train = {"step": "train", "documents": 9_000, "bytes_in": 3, "disk_bytes": 5_000_000, "cpu_seconds": 32.0}
    without, with_model = timing_report(rows), timing_report([*rows, train])
    size = 1_000 * without["steps"]["read"]["bytes_in"]
    bare, more = estimate(without, size), estimate(with_model, size)
    assert bare is not None and more is not None
    assert more["core_hours"]["value"] - bare["core_hours"]["value"] == pytest.approx(32 / 3600, rel=1e-6)
    assert more["work_bytes"] - bare["work_bytes"] == 5_000_000
