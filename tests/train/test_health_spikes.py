"""The watch over loss and gradient, step by step: on real training curves, and on the same with injected faults."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundup.train.curves import Finding, Floats, divergence, trailing_level
from groundup.train.spikes import observe

NAMES = ["adamw-baseline", "llmc-gpt2-with-gradnorm", "muon", "scaleup-1b"]
HIGH = {"adamw-baseline": 0, "llmc-gpt2-with-gradnorm": 0, "muon": 7, "scaleup-1b": 90}  # single bad batches


@pytest.fixture(scope="module")
def curves(shared_data: Path) -> dict[str, tuple[Floats, Floats]]:
    """name -> training loss and gradient norm (1 where none was logged) of real GPT-2-scale runs, steps from 1."""
    found = {}
    for name in NAMES:
        with gzip.open(shared_data / "training_curves" / f"{name}.csv.gz", "rt") as file:
            rows = [row for row in csv.DictReader(file) if row["train_loss"]]
        losses = np.array([float(row["train_loss"]) for row in rows])
        found[name] = losses, np.array([float(row["grad_norm"] or 1) for row in rows])
    return found


def watch(losses: Floats, norms: Floats | None = None, memory: dict[str, Any] | None = None) -> list[Any]:
    memory = {} if memory is None else memory
    norms = np.ones(len(losses)) if norms is None else norms
    pairs = zip(losses.tolist(), norms.tolist(), strict=True)
    return [observe(memory, step, loss, norm) for step, (loss, norm) in enumerate(pairs, 1)]


def findings(seen: list[Any]) -> list[Finding]:
    return [finding for sighting in seen for finding in sighting.findings]


@pytest.mark.parametrize("name", NAMES)
def test_on_real_runs_only_single_bad_batches_are_told_and_nothing_is_called_lasting_or_diverging(
    name: str, curves: dict[str, tuple[Floats, Floats]]
) -> None:
    losses, norms = curves[name]
    seen = watch(losses, norms)
    is_high = np.array([sighting.is_high for sighting in seen])
    level, sigma = trailing_level(losses)  # the same rule over the whole curve at once
    expected = losses - level > np.maximum(6 * sigma, 0.25 * np.abs(level))
    assert (is_high == expected).all()
    assert is_high.sum() == HIGH[name]
    assert {finding.kind for finding in findings(seen)} <= {"spike"}
    assert all(sighting.lasting_since is None for sighting in seen)


@pytest.mark.parametrize("name", NAMES)
def test_a_spike_that_lasts_is_found_in_every_real_run(name: str, curves: dict[str, tuple[Floats, Floats]]) -> None:
    rng = np.random.default_rng(0)
    losses, norms = curves[name]
    for _ in range(8):
        at = int(rng.integers(700, len(losses) - 200))
        spiked = losses[at - 600 : at + 100].copy()
        spiked[600:640] += 0.6 * spiked[599]  # blown up, and forty steps until it is mended
        seen = watch(spiked, norms[at - 600 : at + 100])
        first = next(sighting for sighting in seen if sighting.lasting_since)
        assert 595 <= first.lasting_since <= 603
        assert seen.index(first) <= 608
        assert any(finding.kind == "lasting_spike" for finding in first.findings)


@pytest.mark.parametrize("name", NAMES)
def test_slow_divergences_are_warned_of_within_300_steps(name: str, curves: dict[str, tuple[Floats, Floats]]) -> None:
    rng = np.random.default_rng(1)
    losses, _ = curves[name]
    for _ in range(4):
        at = int(rng.integers(1000, len(losses) - 500))
        rising = losses[at - 900 : at + 300].copy()
        rising[900:] += 0.004 * np.arange(1, 301)
        told = [finding for finding in findings(watch(rising)) if finding.kind == "divergence"]
        assert told and told[0].severity == "warning" and 900 < told[0].step < 1200
        assert not divergence(np.arange(900.0), rising[:900])


def test_the_level_that_came_back_is_told_and_a_second_rise_is_seen_again() -> None:
    rng = np.random.default_rng(2)
    losses = 3 + rng.normal(0, 0.05, 1400)
    losses[400:700] += np.minimum(np.arange(300) * 0.004, 0.8)
    losses[1000:] += np.minimum(np.arange(400) * 0.004, 0.8)
    told = [(finding.kind, finding.severity) for finding in findings(watch(losses)) if "spike" not in finding.kind]
    rise = [("divergence", "warning"), ("divergence", "alarm")]
    assert told == [*rise, ("divergence_over", "note"), *rise]


def test_an_exploding_gradient_is_a_spike_where_the_loss_shows_nothing_or_says_nothing() -> None:
    rng = np.random.default_rng(3)
    losses, norms = 3 + rng.normal(0, 0.05, 200), np.exp(rng.normal(0, 0.3, 200))
    norms[150] = 40.0
    assert [step for step, sighting in enumerate(watch(losses, norms)) if sighting.is_high] == [150]
    memory: dict[str, Any] = {}
    seen = [observe(memory, step, None, float(norm)) for step, norm in enumerate(norms, 1)]
    assert [step for step, sighting in enumerate(seen) if sighting.is_high] == [150]
    assert "losses" not in memory


def test_a_loss_that_stays_high_becomes_the_new_level() -> None:
    losses = np.concatenate([np.full(200, 2.0), np.full(200, 4.0)]) + np.random.default_rng(4).normal(0, 0.02, 400)
    is_high = [sighting.is_high for sighting in watch(losses)]
    assert 32 <= sum(is_high) <= 34 and not any(is_high[234:])  # `skip` cannot leave out updates for ever


@pytest.mark.parametrize("cut", [30, 257, 640])
def test_a_memory_that_was_json_goes_on_as_if_nothing_had_happened(cut: int) -> None:
    rng = np.random.default_rng(5)
    losses = 3 + rng.normal(0, 0.05, 900)
    losses[500:800] += 0.005 * np.arange(300)
    losses[[100, 630, 641]] += 3
    whole: dict[str, Any] = {}
    seen = [observe(whole, step, float(loss), 1.0) for step, loss in enumerate(losses, 1)]
    memory: dict[str, Any] = {}
    parts = []
    for step, loss in enumerate(losses, 1):
        if step == cut:
            memory = json.loads(json.dumps(memory))
        parts.append(observe(memory, step, float(loss), 1.0))
    assert parts == seen
    assert memory == whole
    assert len(whole["losses"]) <= 257


def test_short_and_constant_curves_say_nothing() -> None:
    assert not any(sighting.is_high or sighting.findings for sighting in watch(np.linspace(9, 1, 60)))
    assert not findings(watch(np.full(500, 2.0)))
