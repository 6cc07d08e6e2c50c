"""From raw text to a judged assistant in one command: how it ends, and what its report says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from .conftest import REFUSED, STAGES, Demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(demo: Demo) -> dict[str, Any]:
    assert demo.ended.exit_code in (0, REFUSED), demo.ended.said
    return demo.report()


def is_estimate(score: dict[str, Any]) -> bool:
    return bool(0 <= score["low"] <= score["value"] <= score["high"] <= 1 and score["n"] > 0)


def test_it_ends_with_the_gates_word(demo: Demo, report: dict[str, Any]) -> None:
    assert demo.ended.exit_code == (0 if report["gate"]["released"] else REFUSED)
    said = "released" if report["gate"]["released"] else "not released"
    assert f"gate    {said}" in demo.ended.out
    assert str(demo.run / "report.html") in demo.ended.out
    assert "groundup chat" in demo.ended.out


def test_the_gate_gives_the_reason_of_every_criterion(report: dict[str, Any]) -> None:
    criteria = report["gate"]["criteria"]
    assert {row["verdict"] for row in criteria} <= {"pass", "fail", "undecided"}
    assert all(row["what"] and row["evidence"] for row in criteria)
    assert report["gate"]["released"] == all(row["verdict"] == "pass" for row in criteria)
    asked = {row["id"].partition("/")[0] for row in criteria}
    assert {"accuracy_gain_over_baseline", "accuracy", "reply_stops", "reward_accuracy", "bits_per_byte"} <= asked


def test_every_stage_tells_its_seconds(report: dict[str, Any]) -> None:
    assert [stage["name"] for stage in report["stages"]] == list(STAGES)
    assert all(stage["status"] == "done" and stage["seconds"] > 0 for stage in report["stages"])
    assert all(stage["planned_seconds"] > 0 for stage in report["stages"])


def test_every_document_is_accounted_for(report: dict[str, Any]) -> None:
    reached = [row["name"] for row in report["sources"] if row["status"] == "used"]
    assert {"docs", "code"} <= set(reached)  # of this machine: there without any network
    assert all(row["reason"] for row in report["sources"] if row["status"] != "used")
    total = report["funnel"]["total"]
    assert total["kept"]["documents"] > 0
    assert set(report["funnel"]["sources"]) >= set(reached)
    assert set(report["mixture"]["sources"]) >= set(reached)


@pytest.mark.parametrize("model", ["base", "chat", "preferred", "aligned"])
def test_bits_per_byte_stand_beside_xz_for_every_source(report: dict[str, Any], model: str) -> None:
    scores = report["bits_per_byte"][model]
    assert set(scores) == {row["name"] for row in report["sources"] if row["status"] == "used"}
    for score in scores.values():
        assert 0 < score["low"] <= score["value"] <= score["high"] < 10
        assert 0 < score["xz"] < 8 and score["bytes"] > 0


COMPARED = [("base", []), ("sft", ["base"]), ("dpo", ["chat"]), ("ppo", ["chat"])]


@pytest.mark.parametrize(("model", "others"), COMPARED)
def test_accuracy_has_intervals_and_paired_comparisons(report: dict[str, Any], model: str, others: list[str]) -> None:
    score = report["accuracy"][model]
    assert is_estimate(score["overall"])
    assert all(is_estimate(of_task) for of_task in score["by_task"].values())
    assert set(others) <= set(score["paired"])
    for other in score["paired"].values():
        assert -1 <= other["low"] <= other["difference"] <= other["high"] <= 1
        assert 0 <= other["p_value"] <= 1 and other["n"] == score["overall"]["n"]


def test_the_reward_model_is_examined(report: dict[str, Any]) -> None:
    assert is_estimate(report["reward_accuracy"])


def test_the_health_of_every_training_is_judged(report: dict[str, Any]) -> None:
    assert set(report["health"]) >= {"base", "chat", "preferred", "aligned", "judge"}
    assert all(one["verdict"] for one in report["health"].values())


def test_reward_and_divergence_have_a_curve(report: dict[str, Any]) -> None:
    curves = report["curves"]["aligned"]
    assert {"score", "kl"} <= set(curves)
    assert all(len(curves[name]) > 1 for name in ("score", "kl"))


def test_every_value_has_its_origin(report: dict[str, Any]) -> None:
    origins = {f"{row['stage']}.{row['key']}": row["origin"] for row in report["config"]["values"]}
    assert "command line" in origins["base.max_steps"]
    assert all(origins.values())


class Addresses(HTMLParser):
    """Everything a browser would fetch or follow."""

    NAMES = ("src", "href", "srcset", "poster", "action", "data", "xlink:href")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, _tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in self.NAMES]


def test_the_page_is_one_small_file_that_asks_nothing_of_the_outside(demo: Demo) -> None:
    path = demo.run / "report.html"
    assert path.stat().st_size <= 1_000_000
    page = path.read_text(encoding="utf-8")
    assert [one for one in Addresses(page).found if not one.startswith(("#", "data:"))] == []
    assert [
        one for one in re.findall(r"url\(([^)]*)\)", page) if not one.strip("'\" ").startswith(("data:", "#"))
    ] == []
    assert "@import" not in page
