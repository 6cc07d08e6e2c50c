"""The mixture in numbers: weights, groups, temperature, budgets, and what repetition is worth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from groundup.corpus.mixture import mix, mixture_of
from groundup.corpus.settings import CorpusSettings

SIZES = {"english": 8_000_000, "swahili": 80_000, "code": 1_000_000}


def corpus(**given: Any) -> CorpusSettings:
    sources = {name: {"type": "text", "path": "x"} for name in SIZES}
    for name, group in given.pop("groups", {}).items():
        sources[name]["group"] = group
    return CorpusSettings(sources=sources, **given)


@settings(deadline=None)
@given(
    sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10**9), min_size=1),
    weights=st.lists(st.floats(0.01, 100), min_size=6, max_size=6),
    cap=st.floats(0.5, 10),
    budget=st.none() | st.integers(1, 10**10),
)
def test_shares_add_up_caps_hold_and_open_sources_keep_their_proportion(
    sizes: dict[str, int], weights: list[float], cap: float, budget: int | None
) -> None:
    by_name = dict(zip("abcdef", weights, strict=True))
    report = mix(sizes, by_name, cap, budget=budget)
    rows, whole = report["sources"], report["budget"]
    assert sum(row["realised_share"] for row in rows.values()) == pytest.approx(1)
    assert all(row["epochs"] <= cap * (1 + 1e-9) for row in rows.values())
    open_rows = {name: row for name, row in rows.items() if not row["capped"]}
    for name, row in open_rows.items():
        other = next(iter(open_rows))
        expected = by_name[name] / by_name[other] * rows[other]["realised_share"]
        assert row["realised_share"] == pytest.approx(expected)
    wanted = sum(sizes.values()) if budget is None else budget
    assert whole["missing_bytes"] + report["pass_bytes"] == pytest.approx(wanted, abs=2)
    assert not whole["missing_bytes"] or not open_rows, "a pass is short only where every source is at its cap"
    assert whole["unique_bytes"] + whole["repeated_bytes"] == pytest.approx(report["pass_bytes"], abs=8)
    assert whole["effective_bytes"] <= report["pass_bytes"] + 1


def test_temperature_evens_out_sizes_as_the_formula_says() -> None:
    for temperature in (1.0, 2.0, 1 / 0.3):
        report = mix(SIZES, {}, 1000, temperature=temperature)
        weights = {name: size ** (1 / temperature) for name, size in SIZES.items()}
        for name, row in report["sources"].items():
            assert row["target_share"] == pytest.approx(weights[name] / sum(weights.values()))
            assert row["realised_share"] == pytest.approx(row["target_share"])


def test_sources_of_one_language_count_together_and_share_by_size() -> None:
    sizes = {"web": 3000, "books": 1000, "wiki_sw": 500}
    groups = {"web": "en", "books": "en", "wiki_sw": "sw"}
    report = mix(sizes, {}, 100, temperature=1e9, groups=groups)
    assert {name: group["realised_share"] for name, group in report["groups"].items()} == pytest.approx(
        {"en": 0.5, "sw": 0.5}
    )
    assert report["sources"]["web"]["pass_bytes"] == pytest.approx(3 * report["sources"]["books"]["pass_bytes"], abs=3)
    weighted = mix(sizes, {"en": 3, "wiki_sw": 1}, 100, groups=groups)
    assert weighted["groups"]["en"]["realised_share"] == pytest.approx(0.75)


def test_the_weight_of_a_group_is_not_given_twice_where_a_source_is_called_like_it() -> None:
    report = mix({"en": 3000, "books": 1000, "fi": 500}, {"en": 1, "fi": 1}, 100, groups={"books": "en"})
    assert {name: row["target_share"] for name, row in report["sources"].items()} == pytest.approx(
        {"en": 0.375, "books": 0.125, "fi": 0.5}
    )


def test_a_budget_decides_how_often_sources_are_seen() -> None:
    weights = {"english": 1, "swahili": 1, "code": 1}
    small = mix(SIZES, weights, 4, budget=90_000)
    assert small["sources"]["english"]["epochs"] == pytest.approx(30_000 / 8_000_000)
    assert small["budget"]["unseen_bytes"] == pytest.approx(sum(SIZES.values()) - 90_000, abs=3)
    large = mix(SIZES, weights, 4, budget=20_000_000)
    assert large["sources"]["swahili"]["epochs"] == 4
    assert large["sources"]["swahili"]["capped"]
    assert large["sources"]["swahili"]["upsampling"] == pytest.approx((320_000 / 20e6) / (80_000 / 9_080_000))
    endless = mix(SIZES, weights, 4, budget=10**9)
    assert endless["pass_bytes"] == 4 * sum(SIZES.values())
    assert endless["budget"]["missing_bytes"] == 10**9 - 4 * sum(SIZES.values())


def test_repetition_is_worth_less_and_less() -> None:
    worth = [mix({"a": 1000}, {}, 1000, budget=1000 * n)["budget"]["effective_bytes"] for n in (1, 2, 4, 40, 400)]
    assert worth[0] == 1000
    assert 1900 < worth[1] < 2000, "the first repetition is nearly new text"
    assert 3600 < worth[2] < 4000, "four epochs are nearly four times the text (Muennighoff et al. 2023)"
    assert worth[4] == pytest.approx(16_400, rel=0.01), "15.4 repetitions' worth is all there is"


def test_the_recipe_s_settings_are_what_is_mixed() -> None:
    report = mixture_of(corpus(mixture_tokens=500_000, mixture_temperature=2, groups={"code": "other"}), SIZES)
    assert report["budget"]["bytes"] == 2_000_000
    assert report["budget"]["tokens"] == 500_000
    assert report["temperature"] == 2
    assert report["sources"]["code"]["group"] == "other"
    assert mixture_of(corpus(mixture_bytes=70_000), SIZES)["pass_bytes"] == 70_000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mixture": {"english": 1, "french": 1, "swahili": 1, "code": 1}}, "names 'french'"),
        ({"mixture": {"english": 1}}, "no weight to: swahili, code"),
        ({"mixture": {"english": 1, "rest": 1}, "groups": {"swahili": "rest"}}, "no weight to: code"),
        ({"mixture": dict.fromkeys(SIZES, 1), "mixture_temperature": 2}, "one of the two"),
        ({"mixture_tokens": 5, "mixture_bytes": 5}, "one of the two"),
    ],
)
def test_settings_that_contradict_each_other_are_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        corpus(**given)


def test_weights_may_name_groups() -> None:
    asked = corpus(mixture={"english": 1, "rest": 3}, groups={"swahili": "rest", "code": "rest"})
    report = mixture_of(asked, SIZES)
    assert report["sources"]["code"]["target_share"] == pytest.approx(0.75 * 1_000_000 / 1_080_000)
