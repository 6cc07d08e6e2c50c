"""Whole stages give the same in every layout: metrics, samples, the saved model. What cannot be laid out is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.artifacts import StageContext
from groundup.console import Console
from groundup.model.files import load_model
from groundup.model.heads import load_scalar_model
from groundup.stopping import StopRequest
from groundup.train.layout import Layout, layout_problems
from groundup.train.pretrain import check
from groundup.train.settings import DpoSettings, PretrainSettings, RewardSettings, SftSettings

from .processes import Failed, Processes
from .stages import run_stage, settings_of, write_inputs
from .work import tiny

SHARDED = {"dp_shard_size": 2}
TENSOR = {"tensor_parallel_size": 2}
PIPELINE = {"pipeline_parallel_size": 2}
CONTEXT = {"context_parallel_size": 2}
COPIES = {"dp_replicate_size": 2, "dp_shard_size": 1}
STAGES = [
    ("pretrain", SHARDED),
    ("pretrain", PIPELINE),
    ("sft", TENSOR),
    ("sft", COPIES),
    ("dpo", SHARDED),
    ("dpo", TENSOR),
    ("reward", SHARDED),
    ("reward", TENSOR),
    ("sft", CONTEXT),
    ("reward", CONTEXT),
]
OF_TIME = ("tokens_per_second",)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each stage gives in one process, and its folder."""
    found: dict[str, Any] = {}
    for kind in dict(STAGES):
        folder = tmp_path_factory.mktemp(kind)
        monkeypatch = pytest.MonkeyPatch()
        monkeypatch.delenv("RANK", raising=False)
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        found[kind] = (run_stage(kind, str(inputs), str(folder), {}), folder)
        monkeypatch.undo()
    return found


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("kind", "layout"), STAGES, ids=[f"{kind} {next(iter(how))}" for kind, how in STAGES])
def test_a_stage_gives_the_same(
    two: Processes, inputs: Path, alone: dict[str, Any], kind: str, layout: dict[str, Any], tmp_path: Path
) -> None:
    """Three micro-batches for two processes: one of them has one that counts nothing."""
    check_stage(two, inputs, alone, kind, layout, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("pretrain", {**TENSOR, **PIPELINE}),
        ("pretrain", {**SHARDED, **PIPELINE}),
        ("dpo", {**SHARDED, **TENSOR}),
        ("reward", {**SHARDED, **CONTEXT}),
    ],
    ids=["pretrain tp x pp", "pretrain fsdp x pp", "dpo fsdp x tp", "reward fsdp x cp"],
)
def test_four_processes_in_layouts_of_two_kinds(
    four: Processes, inputs: Path, alone: dict[str, Any], kind: str, layout: dict[str, Any], tmp_path: Path
) -> None:
    check_stage(four, inputs, alone, kind, layout, tmp_path)


def check_stage(
    processes: Processes, inputs: Path, alone: dict[str, Any], kind: str, layout: dict[str, Any], tmp_path: Path
) -> None:
    """Metrics, samples and weights are those of the same stage in one process."""
    expected, folder = alone[kind]
    metrics, *others = processes(run_stage, kind, str(inputs), str(tmp_path), layout)
    assert not any(others)
    for name, value in expected.items():
        if name not in OF_TIME:
            assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    ours, theirs = rows_of(tmp_path / "metrics.jsonl"), rows_of(folder / "metrics.jsonl")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("loss", "grad_norm", "tokens", *(name for name in other if name.startswith(("valid", "reward")))):
            assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name
    load = load_scalar_model if kind == "reward" else load_model
    saved, wanted = load(tmp_path / "model").state_dict(), load(folder / "model").state_dict()
    for name, value in wanted.items():
        torch.testing.assert_close(saved[name], value, rtol=0, atol=2e-4)  # four steps move them by 2e-3
    # a pipeline leaves a file of weights for each group of layers
    files = [{path.name for path in (made / "model").iterdir()} for made in (folder, tmp_path)]
    assert files[0] - {"model.safetensors"} == {name for name in files[1] if not name.startswith("model")}
    if kind != "reward":
        assert [row["prompt"] for row in rows_of(tmp_path / "samples.jsonl")] == [
            row["prompt"] for row in rows_of(folder / "samples.jsonl")
        ]


def test_a_pipeline_is_refused_for_other_objectives_where_the_recipe_is_read() -> None:
    for settings in (SftSettings, DpoSettings, RewardSettings):
        with pytest.raises(ValueError, match=r"stage: pretrain\); use dp_shard_size or tensor_parallel_size"):
            settings.model_validate({"base_model": "b", "datasets": [{"path": "x"}], **PIPELINE})


def test_groundup_check_tells_what_of_a_layout_does_not_fit(inputs: Path, tmp_path: Path) -> None:
    settings = PretrainSettings.model_validate(settings_of("pretrain", inputs) | {"tensor_parallel_size": 8})
    context = StageContext("p", tmp_path, {}, 7, tmp_path, Console(quiet=True), StopRequest(), tmp_path)
    assert "tensor_parallel_size 8 does not divide" in str(check(settings, context).problems[0])


def test_sizes_that_do_not_fit_the_model_are_told_with_those_that_do() -> None:
    config = tiny(num_attention_heads=12, num_key_value_heads=4, intermediate_size=48, num_hidden_layers=6)
    (problem,) = layout_problems(Layout(tensor_parallel_size=3), config)
    assert "num_key_value_heads 4" in problem.what and "sizes that do: 1, 2, 4;" in problem.fix
    (problem,) = layout_problems(Layout(pipeline_parallel_size=4, pipeline_schedule="interleaved"), config)
    assert "8 groups of layers; the model has 6 layers" in problem.what
    assert problem.fix == "pipeline_parallel_size 3 or less"
    (problem,) = layout_problems(Layout(context_parallel_size=2, tensor_parallel_size=2), config)
    assert "not combined" in problem.what
    assert layout_problems(Layout(dp_shard_size=7, tensor_parallel_size=4), config) == []


def test_a_pipeline_refuses_rows_that_it_cannot_cut(two: Processes, inputs: Path, tmp_path: Path) -> None:
    changes = {**PIPELINE, "micro_batch_size": 1, "gradient_accumulation_steps": 1}
    with pytest.raises(Failed, match=r"1 rows a step .* at least 2 are needed"):
        two(run_stage, "pretrain", str(inputs), str(tmp_path), changes)
