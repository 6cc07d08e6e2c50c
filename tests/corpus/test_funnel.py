"""The funnel adds up: over shards in any order, through steps that are off, and never past a document that got lost."""

from __future__ import annotations

import json
import random

import pytest

from groundup.corpus.report.funnel import (
    STEPS,
    Count,
    SourceFunnel,
    check_adds_up,
    funnel_report,
    merged,
    new_source_funnel,
    source_funnel_from_json,
    source_funnel_to_json,
)


def shard(seed: int, steps: tuple[str, ...] = ("read", "quality", "near duplicates")) -> SourceFunnel:
    rng = random.Random(seed)
    funnel, left = new_source_funnel(), [rng.randrange(10, 5_000) for _ in range(60)]
    for step in steps:
        stay = []
        for size in left:
            if rng.random() < 0.2:
                funnel[step].drop(rng.choice(("a", "b")), size)
            else:
                funnel[step].keep(size, size - 1)
                stay.append(size - 1)
        left = stay
        funnel[step].notes["seen"] = len(left)
    return funnel


def kept_of(funnel: SourceFunnel) -> Count:
    out = funnel["near duplicates"].out
    return Count(out.documents, out.bytes)


def test_shards_add_up_in_any_order() -> None:
    shards = [shard(seed) for seed in range(5)]
    total = source_funnel_to_json(merged(shards))
    assert source_funnel_to_json(merged(shards[::-1])) == total
    assert source_funnel_to_json(merged([merged(shards[:2]), merged(shards[2:])])) == total
    by_step = {row["step"]: row for row in total}
    assert by_step["read"]["in"]["documents"] == 300
    dropped = sum(one["quality"].dropped["a"].documents for one in shards)
    assert by_step["quality"]["dropped"]["a"]["documents"] == dropped


def test_a_step_that_is_off_lets_everything_through() -> None:
    funnel = shard(1)
    report = funnel_report({"web": funnel}, {"web": kept_of(funnel)}, {"web": Count()})
    check_adds_up(report)
    steps = {row["step"]: row for row in report["sources"]["web"]["steps"]}
    assert list(steps) == list(STEPS)
    assert steps["toxicity"]["in"] == steps["toxicity"]["out"] == steps["quality"]["out"]
    assert steps["limit"]["out"]["documents"] == report["total"]["kept"]["documents"]
    assert funnel["toxicity"].into.documents == 0, "the funnel that was given is as it was"


def test_a_document_that_got_lost_between_two_steps_is_noticed() -> None:
    funnel = shard(2)
    funnel["near duplicates"].keep(10)
    with pytest.raises(AssertionError, match="web, near duplicates"):
        check_adds_up(funnel_report({"web": funnel}, {"web": kept_of(funnel)}, {"web": Count()}))


def test_documents_that_were_never_written_are_noticed() -> None:
    funnel = shard(3)
    lost = Count(kept_of(funnel).documents - 1, 0)
    with pytest.raises(AssertionError, match="documents passed all steps"):
        check_adds_up(funnel_report({"web": funnel}, {"web": lost}, {"web": Count()}))


def test_a_source_without_documents_adds_up_too() -> None:
    check_adds_up(funnel_report({"web": new_source_funnel()}, {"web": Count()}, {"web": Count()}))


def test_a_funnel_survives_being_written_and_read() -> None:
    rows = json.loads(json.dumps(source_funnel_to_json(shard(4))))
    assert source_funnel_to_json(source_funnel_from_json(rows)) == source_funnel_to_json(shard(4))
