"""What check says of single stages: models that are none, the place of each problem, and nothing told twice."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Literal

import pytest

from groundup.artifacts import StageContext
from groundup.errors import Problem
from groundup.model.config import ModelConfig, model_config
from groundup.model.decoder import Decoder
from groundup.model.files import save_model
from groundup.model.init import init_weights
from groundup.recipe import CheckReport, FileRef, Kind, ModelRef, StageSettings, load_recipe
from groundup.tokens.train_tokenizer import save_tokenizer, train_bpe
from groundup.workflow.preflight import Preflight, preflight


class TuneSettings(StageSettings):
    stage: Literal["sft"] = "sft"
    base_model: ModelRef
    rows: FileRef | None = None
    sequence_len: int = 64


def tune_check(settings: TuneSettings, context: StageContext) -> CheckReport:
    del context
    problems = [
        Problem("the machine has no clock"),
        Problem("sequence_len is too large"),
        Problem("not JSON", "a.jsonl:3"),
    ]
    return CheckReport({}, [*problems, Problem("no rows", settings.rows)] if settings.rows else [])


KINDS = {"sft": Kind("sft", TuneSettings, print, "tune", check=tune_check)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real model and its tokenizer."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    backend = train_bpe(iter(["the cat sat on the mat. " * 20]), 300)
    save_tokenizer(backend, folder)
    shape = ModelConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = Decoder(shape)
    init_weights(model, 0)
    save_model(model, folder)
    return folder


@pytest.fixture(autouse=True)
def model(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, "model")
    return Path("model")


def checked(text: str) -> Preflight:
    Path("r.yaml").write_text("stages:\n" + text)
    return preflight(load_recipe("r.yaml", kinds=KINDS), Path("runs/r"), Path("cache"), planner=lambda *_: {})


def told(text: str) -> list[str]:
    return [f"{problem.where}: {problem.what}" for problem in checked(text).problems]


ONE = "  a: {stage: sft, base_model: model}\n"


def test_a_whole_model_is_no_problem() -> None:
    assert told(ONE) == []


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "it has no config.json"),
        ("model.safetensors", "there is no model.safetensors"),
        ("tokenizer.json", "tokenizer"),
    ],
)
def test_a_model_without_one_of_its_parts(model: Path, missing: str, said: str, nested: bool) -> None:
    (model / missing).unlink()
    if nested:
        model.rename("inner")
        model.mkdir()
        Path("inner").rename(model / "model")
    [problem] = told(ONE)
    assert problem.startswith("r.yaml:2:31: model") and said in problem


def test_a_model_of_an_architecture_that_cannot_be_run(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    [problem] = told(ONE)
    assert "model/config.json" in problem and "bert" in problem


def test_a_model_with_another_vocabulary(model: Path) -> None:
    save_tokenizer(train_bpe(iter(["overland underwater throughout " * 9]), 280), model)
    assert "they do not belong together" in " ".join(told(ONE))


def test_problems_are_placed_at_the_setting_else_at_the_stage() -> None:
    Path("a.jsonl").touch()
    assert told("  a:\n    stage: sft\n    base_model: model\n    rows: a.jsonl\n    sequence_len: 9\n") == [
        "r.yaml:2:3: the machine has no clock",
        "r.yaml:6:19: sequence_len is too large",
        "a.jsonl:3: not JSON",
        "r.yaml:5:11: a.jsonl: no rows",
    ]


def test_what_several_stages_are_told_is_told_once() -> None:
    Path("other").mkdir()
    text = "".join(f"  {name}: {{stage: sft, base_model: other}}\n" for name in "abc")
    found = checked(text)
    [problem] = found.problems
    assert problem.where == "r.yaml:2:31: other" and problem.what.endswith("config.json (the same for b, c)")
    assert [row.problems[0].where for row in found.stages] == [f"r.yaml:{line}:31: other" for line in (2, 3, 4)]


# ---------------------------------------------------------------- what training needs


def pretrain_problems(tmp_path: Path, *settings: str) -> str:
    """What check says of a pretrain stage whose corpus is not built yet."""
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: r\nstages:\n"
        f"  corpus: {{stage: corpus, sources: {{a: {{type: text, path: {tmp_path}/a.txt}}}}}}\n"
        "  tokenizer: {stage: tokenizer, corpus: corpus, vocab_size: 512}\n"
        "  tokens: {stage: tokens, corpus: corpus, tokenizer: tokenizer}\n"
        "  base: {stage: pretrain, tokens: tokens, model: tiny}\n"
    )
    found = preflight(load_recipe(str(recipe), list(settings)), tmp_path / "run", tmp_path / "cache", planner=no_plan)
    return "\n".join(map(str, found.problems))


def no_plan(*_: object) -> dict[str, object]:
    return {}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ["base.report_to=[trackio]"],
            "report_to names trackio, which is not installed here\n  -> pip install",
        ),
        (["base.device=mps"], "device mps: torch sees no Apple GPU here\n  -> set device: auto"),
        (["base.device=cpu", "base.float8=true"], "float8 products are made by NVIDIA GPUs only; this run is on `cpu`"),
        (["base.device=cpu", "base.torch_compile=true"], "torch_compile has nothing to compile with: there is no C++"),
        (["base.max_steps=null"], "nothing says when training ends\n  -> set max_steps, num_epochs"),
        (["base.lr_scheduler=cosine", "base.time_limit=3m"], "time_limit does not go with lr_scheduler cosine"),
        (
            ["base.lr_scheduler=linear", "base.max_steps=null", "base.budget=1", "base.cost_per_hour=2"],
            "budget alone does not go with lr_scheduler linear",
        ),
    ],
)
def test_what_training_lacks_is_told_before_its_corpus_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], expected: str
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr("groundup.train.requirements.why_no_compiler", lambda _: "there is no C++ compiler")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert expected in pretrain_problems(tmp_path, *settings)


def test_a_stage_that_can_train_has_nothing_in_its_way(tmp_path: Path) -> None:
    assert pretrain_problems(tmp_path) == ""


def test_the_plan_says_how_large_a_model_is_whose_tokenizer_is_still_to_be_made(tmp_path: Path) -> None:
    """A preset's own vocabulary is not what will be trained."""
    pretrain_problems(tmp_path)
    recipe = load_recipe(str(tmp_path / "recipe.yaml"), [])
    found = preflight(recipe, tmp_path / "run", tmp_path / "cache")
    [base] = [row for row in found.stages if row.stage == "base"]
    parameters = model_config("tiny", vocab_size=512).parameters()
    assert base.facts["parameters"] == parameters
    assert found.plan["stages"]["base"]["parameters"] == parameters, "--processes auto goes by it"
