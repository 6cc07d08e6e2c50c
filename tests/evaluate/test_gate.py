"""The gate decides on bounds, on evidence about this very model, and says what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from groundup.artifacts import StageContext, read_json, write_json
from groundup.errors import Problem, UserError
from groundup.evaluate.curves import judge_run
from groundup.evaluate.gate import Criterion, Evidence, decide, run, verdict_of
from groundup.evaluate.models import model_fingerprint
from groundup.evaluate.settings import GateSettings
from groundup.evaluate.stats import mcnemar_exact, wilson

PRINTS = {"aligned": "a" * 64, "chat": "c" * 64}


def scores(**changes: Any) -> dict[str, Any]:
    share = {"value": 0.6, "low": 0.0, "high": 1.0, "n": 400, "correct": 240}  # low and high are not to be believed
    return {
        "models": {name: {"fingerprint": fingerprint} for name, fingerprint in PRINTS.items()},
        "accuracy": {"aligned": {"overall": share, "by_task": {"addition": {**share, "n": 40, "correct": 24}}}},
        "reply_stops": {"aligned": {**share, "correct": 396}},
        "reward_accuracy": {**share, "n": 200, "correct": 150.5},
        "humaneval": {"aligned": {**share, "n": 164, "correct": 0}},
        "paired": [{"a": "aligned", "b": "chat", "of": "accuracy", "only_a": 70, "only_b": 30, "n": 400}],
        "bits_per_byte": {
            "aligned": {
                "web": {"value": 2.0, "low": 1.9, "high": 2.1, "xz": 2.5, "documents": 30, "resampled": "documents"},
                "books": {"value": 2.4, "low": 2.3, "high": 2.6, "xz": 2.5, "documents": 30, "resampled": "documents"},
                "code": {"value": 2.4, "low": None, "high": None, "xz": 9.9, "documents": 1, "resampled": "blocks"},
            }
        },
        "health": {
            "aligned": {"verdict": "healthy", "findings": []},
            "judge": {"verdict": "warning", "findings": [{"what": "spike: high", "severity": "warning"}]},
        },
        **changes,
    }


def judge(require: dict[str, Any], **changes: Any) -> tuple[list[Criterion], list[Problem]]:
    settings = GateSettings.model_validate(
        {"candidate": "aligned", "baseline": "chat", "evidence": ["exam"], "require": require}
    )
    return decide(settings, [Evidence("exam", Path("exam/scores.json"), "e" * 64, scores(**changes))], PRINTS)


def only(require: dict[str, Any], **changes: Any) -> Criterion:
    criteria, problems = judge(require, **changes)
    assert problems == []
    (criterion,) = criteria
    return criterion


@pytest.mark.parametrize(("threshold", "verdict"), [(0.5, "pass"), (0.55, "pass"), (0.6, "undecided"), (0.7, "fail")])
def test_a_share_is_decided_by_its_bounds(threshold: float, verdict: str) -> None:
    criterion = only({"accuracy": {"at_least": threshold}})
    interval = wilson(240, 400)
    assert (criterion.low, criterion.high) == (interval.low, interval.high)
    assert criterion.verdict == verdict
    assert criterion.bound == threshold
    assert criterion.evidence.startswith("exam/scores.json")


def test_less_evidence_turns_a_pass_into_undecided_and_says_how_much_more_is_needed() -> None:
    few = {"overall": {"n": 40, "correct": 24}, "by_task": {}}
    assert only({"accuracy": {"at_least": 0.55}}).verdict == "pass"
    criterion = only({"accuracy": {"at_least": 0.55}}, accuracy={"aligned": few})
    assert criterion.verdict == "undecided"
    more = int(criterion.why.split("about ")[1].split(" more")[0].replace(",", ""))
    assert wilson(0.6 * (40 + more), 40 + more).low >= 0.55
    assert wilson(0.6 * (35 + more), 35 + more).low < 0.55


def test_nothing_right_of_many_fails_and_nothing_right_of_few_is_undecided() -> None:
    assert only({"humaneval": {"at_least": 0.05}}).verdict == "fail"
    few = {"aligned": {"n": 8, "correct": 0}}
    assert only({"humaneval": {"at_least": 0.05}}, humaneval=few).verdict == "undecided"


def test_all_shares_have_their_own_evidence() -> None:
    assert only({"accuracy": {"at_least": 0.4, "task": "addition"}}).value == 24 / 40
    assert only({"reply_stops": {"at_least": 0.9}}).value == 396 / 400
    assert only({"reward_accuracy": {"at_least": 0.6}}).value == 150.5 / 200


def test_a_gain_is_decided_by_the_exact_test() -> None:
    criterion = only({"accuracy_gain_over_baseline": {"p_below": 0.01}})
    assert criterion.verdict == "pass"
    assert criterion.value == 0.1
    assert f"{mcnemar_exact(70, 30):.2g}" in criterion.why


@pytest.mark.parametrize(
    ("only_a", "only_b", "verdict"), [(70, 30, "pass"), (30, 70, "fail"), (12, 6, "undecided"), (6, 12, "undecided")]
)
def test_a_gain_passes_fails_or_stays_open(only_a: int, only_b: int, verdict: str) -> None:
    for a, b in (("aligned", "chat"), ("chat", "aligned")):  # the exam may have written the pair either way round
        counts = (only_a, only_b) if a == "aligned" else (only_b, only_a)
        row = {"a": a, "b": b, "of": "accuracy", "only_a": counts[0], "only_b": counts[1], "n": 400}
        criterion = only({"accuracy_gain_over_baseline": {"p_below": 0.01}}, paired=[row])
        assert criterion.verdict == verdict
        assert criterion.value == (only_a - only_b) / 400


def test_a_gain_of_a_certain_size_is_a_second_criterion() -> None:
    criteria, _ = judge({"accuracy_gain_over_baseline": {"p_below": 0.01, "at_least": 0.2}})
    assert [criterion.verdict for criterion in criteria] == ["pass", "fail"]
    criteria, _ = judge({"accuracy_gain_over_baseline": {"superior": False, "at_least": -0.02}})
    assert [criterion.verdict for criterion in criteria] == ["pass"]


def test_bits_per_byte_need_their_upper_bound_below() -> None:
    criteria, problems = judge({"bits_per_byte": {"below_xz_on": ["web", "books", "code"], "at_most": {"web": 1.8}}})
    assert problems == []
    assert [(criterion.id, criterion.verdict) for criterion in criteria] == [
        ("bits_per_byte/web/xz", "pass"),
        ("bits_per_byte/books/xz", "undecided"),
        ("bits_per_byte/code/xz", "undecided"),  # one document: nothing is known about spread
        ("bits_per_byte/web", "fail"),
    ]


def test_bits_per_byte_may_be_asked_of_the_base_model() -> None:
    """Chat training trades some prediction of text for its purpose; what the base learned is judged on the base."""
    of_chat = {"web": {"value": 3.0, "low": 2.9, "high": 3.1, "xz": 2.5, "documents": 30, "resampled": "documents"}}
    both = {**scores()["bits_per_byte"], "chat": of_chat}
    criterion = only({"bits_per_byte": {"model": "chat", "below_xz_on": ["web"]}}, bits_per_byte=both)
    assert (criterion.verdict, criterion.what) == ("fail", "chat needs fewer bits per byte than xz -9 on web")


def test_a_source_that_could_not_be_had_is_undecided_and_says_why() -> None:
    require = {"bits_per_byte": {"below_xz_on": ["web", "sea"], "at_most": {"sea": 2.0}}}
    criteria, problems = judge(require, sources_left_out={"sea": "the package registry is out of reach"})
    assert problems == []
    assert [(criterion.id, criterion.verdict) for criterion in criteria] == [
        ("bits_per_byte/web/xz", "pass"),
        ("bits_per_byte/sea/xz", "undecided"),
        ("bits_per_byte/sea", "undecided"),
    ]
    assert criteria[1].why == "there is no held-out text of sea: the package registry is out of reach"
    assert verdict_of(criteria)["verdict"] == "undecided"


def test_health_is_no_worse_than_asked() -> None:
    criteria, _ = judge({"health": {"no_worse_than": "healthy"}})
    assert [(c.id, c.verdict) for c in criteria] == [("health/aligned", "pass"), ("health/judge", "fail")]
    assert criteria[1].why == "spike: high"
    assert only({"health": {"stages": ["judge"], "no_worse_than": "warning"}}).verdict == "pass"


@pytest.mark.parametrize(("bound", "verdict"), [("healthy", "undecided"), ("warning", "pass"), ("unhealthy", "pass")])
def test_a_curve_too_short_to_judge_is_a_warning_that_is_told(bound: str, verdict: str) -> None:
    short = {"aligned": judge_run([{"step": 1, "loss": 3.0}]).as_json()}
    criterion = only({"health": {"no_worse_than": bound}}, health=short)
    assert criterion.verdict == verdict
    assert criterion.why.startswith("too short: 1 point, where 16 are needed")


def test_the_gain_is_one_comparison_whose_p_value_is_not_adjusted() -> None:
    """The exam's table adjusts among all its comparisons; a gate declared its one before anything was measured."""
    paired = {"a": "aligned", "b": "chat", "of": "accuracy", "only_a": 20, "only_b": 7, "n": 400}
    p_value = binomtest(7, 27).pvalue
    assert 0.01 < p_value < 0.05 < 4 * p_value
    rows = [{**paired, "p_value": p_value, "p_adjusted": 4 * p_value}]
    assert only({"accuracy_gain_over_baseline": {"p_below": 0.05}}, paired=rows).verdict == "pass"


def test_evidence_about_another_model_is_refused() -> None:
    for name in ("aligned", "chat"):
        models = {**scores()["models"], name: {"fingerprint": "b" * 64}}
        criteria, problems = judge({"accuracy_gain_over_baseline": {}}, models=models)
        assert criteria == []
        assert f"about another {name}" in problems[0].what
    models = {"chat": {"fingerprint": PRINTS["chat"]}}
    for require in (
        {"accuracy": {"at_least": 0.1}},
        {"health": {"stages": ["judge"]}},
        {"reward_accuracy": {"at_least": 0.1}},
    ):
        criteria, problems = judge(require, models=models)
        assert criteria == []
        assert len(problems) == 1


def test_all_missing_evidence_is_named_at_once() -> None:
    require = {
        "accuracy": {"at_least": 0.1},
        "bits_per_byte": {"below_xz_on": ["sea"]},
        "health": {"stages": ["x"]},
        "accuracy_gain_over_baseline": {},
    }
    criteria, problems = judge(require, accuracy={}, paired=[])
    assert criteria == []
    assert len(problems) == 4


def test_released_means_that_all_pass() -> None:
    words = {"pass": "released", "undecided": "undecided", "fail": "refused"}
    passing = only({"accuracy": {"at_least": 0.1}})
    for verdict, word in words.items():
        from dataclasses import replace

        decision = verdict_of([passing, replace(passing, verdict=verdict)])  # type: ignore[arg-type]
        assert decision == {"released": word == "released", "verdict": word}


@pytest.mark.parametrize(("threshold", "exit_code"), [(0.3, 0), (0.99, 3), (0.6, 3)])
def test_the_stage_writes_its_decision_and_its_exit_code(
    threshold: float, exit_code: int, make_context: Callable[..., StageContext], trained: dict[str, Path]
) -> None:
    context = make_context("release", exam=trained["base"].parent / "exam", **trained)
    fingerprint = model_fingerprint(trained["chat"] / "model")
    share = {"n": 100, "correct": 60}
    evidence = {"models": {"chat": {"fingerprint": fingerprint}}, "accuracy": {"chat": {"overall": share}}}
    write_json(context.inputs["exam"] / "scores.json", evidence)
    settings = GateSettings.model_validate(
        {"candidate": "chat", "evidence": ["exam"], "require": {"accuracy": {"at_least": threshold}}}
    )
    result = run(settings, context)
    decision = read_json(context.folder / "decision.json")
    assert result.exit_code == exit_code
    assert decision["released"] == (exit_code == 0)
    assert decision["candidate_fingerprint"] == fingerprint
    criterion = decision["criteria"][0]
    assert {"id", "what", "statistic", "value", "low", "high", "bound", "verdict", "evidence"} <= set(criterion)

    evidence["models"]["chat"]["fingerprint"] = "another"
    write_json(context.inputs["exam"] / "scores.json", evidence)
    with pytest.raises(UserError, match="run the exam again") as refused:
        run(settings, context)
    assert refused.value.exit_code == 3


def test_a_gate_without_criteria_or_without_the_baseline_it_needs_is_refused() -> None:
    for require, message in (
        ({}, "at least one criterion"),
        ({"accuracy_gain_over_baseline": {}}, "needs `baseline:`"),
    ):
        with pytest.raises(ValueError, match=message):
            GateSettings.model_validate({"candidate": "a", "evidence": ["e"], "require": require})
