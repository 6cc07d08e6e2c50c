"""What `groundup check` foretells of a corpus: shipped rates first, then those of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundup.corpus.report.estimate import EFFICIENCY, timing_report
from groundup.corpus.report.rates import (
    DOCUMENT_BYTES,
    FILE,
    OTHER,
    SCORING,
    SEEN,
    SHIPPED,
    TRAINING,
    ModelWork,
    foretell,
    kind_of,
    rate_of_kind,
    remember,
)


def timing(source: str, size: int, cpu: float) -> dict[str, object]:
    steps = (("read", 0.1), ("extract", 0.6), ("write", 0.3))
    return timing_report(
        {"source": source, "step": step, "bytes_in": size, "bytes_out": size // 4, "disk_bytes": size // 8}
        | {"cpu_seconds": share * cpu}
        for step, share in steps
    )


def test_without_a_build_the_shipped_rates_speak_with_a_wide_interval(tmp_path: Path) -> None:
    facts = foretell([("warc", 1e9, None)], tmp_path, cores=1)
    assert facts["seconds"] == pytest.approx(1e9 * SHIPPED["warc"].cpu_seconds)
    assert facts["seconds_high"] / facts["seconds"] == pytest.approx(SHIPPED["warc"].factor)
    assert rate_of_kind("never seen", tmp_path) == OTHER


def test_a_finished_build_speaks_for_its_kinds_of_source_from_then_on(tmp_path: Path) -> None:
    remember(tmp_path, {"crawl": "warc"}, timing("crawl", 40_000_000, 80.0))
    rate = rate_of_kind("warc", tmp_path)
    assert rate.cpu_seconds == pytest.approx(2e-6)
    assert (rate.text, rate.disk) == (pytest.approx(0.25), pytest.approx(0.375))
    assert rate_of_kind("books", tmp_path) == SHIPPED["books"]
    facts = foretell([("warc", 400e6, None)], tmp_path, cores=2)
    assert facts["seconds"] == pytest.approx(800 / 2 / EFFICIENCY, abs=0.1)
    assert facts["seconds_high"] / facts["seconds"] < SHIPPED["warc"].factor
    remember(tmp_path, {"crawl": "warc"}, timing("crawl", 40_000_000, 40.0))
    assert rate_of_kind("warc", tmp_path).cpu_seconds == pytest.approx(1e-6), "the last build speaks"


def test_a_build_of_a_few_kilobytes_says_nothing(tmp_path: Path) -> None:
    remember(tmp_path, {"crawl": "warc"}, timing("crawl", 40_000, 80.0))
    assert not (tmp_path / FILE).exists()


def test_a_small_build_does_not_speak_against_a_large_one(tmp_path: Path) -> None:
    remember(tmp_path, {"crawl": "warc"}, timing("crawl", 400_000_000, 400.0))
    remember(tmp_path, {"crawl": "warc"}, timing("crawl", 40_000_000, 400.0))
    assert rate_of_kind("warc", tmp_path).cpu_seconds == pytest.approx(1e-6)


def test_a_torn_file_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"warc": ')
    assert rate_of_kind("warc", tmp_path) == SHIPPED["warc"]


def test_memory_follows_the_workers_and_not_the_input(tmp_path: Path) -> None:
    small, large = (foretell([("warc", size, None)], tmp_path, cores=2) for size in (1e9, 1e12))
    assert small["memory_bytes"] == large["memory_bytes"] < 800e6
    assert foretell([("warc", 1e9, None)], tmp_path, cores=8)["memory_bytes"] > small["memory_bytes"]


def test_models_cost_their_training_on_one_core_and_their_scoring_on_all(tmp_path: Path) -> None:
    parts = [("jsonl", 1e9, None)]
    learning = ModelWork("toxicity", True, learned=2e6, categories=2, documents=1_000)
    plain, trained, ready = (
        foretell(parts, tmp_path, cores=4, models=models) for models in ((), [learning], [ModelWork("toxicity", False)])
    )
    scoring = SCORING["toxicity"] * SEEN * OTHER.text * 1e9 / (4 * EFFICIENCY)
    assert ready["seconds"] - plain["seconds"] == pytest.approx(scoring, abs=0.2)
    training = TRAINING["toxicity"] * 2 * (2e6 + 1_000 * DOCUMENT_BYTES)
    assert trained["seconds"] - ready["seconds"] == pytest.approx(training, abs=0.2)
    assert trained["memory_bytes"] >= ready["memory_bytes"] == plain["memory_bytes"]
    assert trained["seconds_low"] < trained["seconds"] < trained["seconds_high"]


def test_scoring_is_not_remembered_as_a_source_s_own_time(tmp_path: Path) -> None:
    about = {"source": "crawl", "bytes_in": 40_000_000, "cpu_seconds": 40.0}
    remember(tmp_path, {"crawl": "warc"}, timing_report(about | {"step": step} for step in ("read", "score")))
    assert rate_of_kind("warc", tmp_path).cpu_seconds == pytest.approx(1e-6)


def test_money_is_spoken_of_where_there_is_some(tmp_path: Path) -> None:
    assert "dollars" not in foretell([("warc", 1e7, None)], tmp_path, cores=2)
    facts = foretell([("warc", 1e12, None)], tmp_path, cores=2, price_per_core_hour=0.1)
    hours = 1e12 * SHIPPED["warc"].cpu_seconds / 3600
    assert facts["dollars"] == f"{hours * 0.1:,.2f} at 0.1 a core hour"
    assert facts["core_hours"].startswith(f"{hours:,.1f} (")


def test_max_bytes_limits_the_text_on_disk_and_not_the_work(tmp_path: Path) -> None:
    all_of_it = foretell([("books", 1e9, None)], tmp_path, cores=1)
    some = foretell([("books", 1e9, 1e6)], tmp_path, cores=1)
    assert some["seconds"] == all_of_it["seconds"]
    assert some["disk_bytes"] < all_of_it["disk_bytes"]


def test_a_fast_extractor_makes_web_archives_a_kind_of_their_own(tmp_path: Path) -> None:
    assert kind_of("warc", "cascade") == kind_of("warc", "best") == "warc"
    fast, slow = (rate_of_kind(kind_of("warc", how), tmp_path).cpu_seconds for how in ("fast", "cascade"))
    assert fast < slow
    assert kind_of("books", "fast") == "books"
