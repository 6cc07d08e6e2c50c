"""What `groundup tokens show` prints is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from groundup.cli.showing import show_tokens
from groundup.errors import UserError
from groundup.recipe import load_recipe
from groundup.stopping import StopRequest
from groundup.tokens.tokenizer import Tokenizer
from groundup.train import pretrain
from groundup.workflow.run import run_recipe

from .conftest import write_corpus

T, ROWS, MICRO = 24, 4, 2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def recipe_file(home: Path) -> Path:
    write_corpus(home / "corpus", {"web": 120, "books": 60})
    path = home / "small.yaml"
    model = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"
    path.write_text(
        "name: small\nseed: 3\nstages:\n"
        f"  tokenizer: {{stage: tokenizer, corpus: {home}/corpus, vocab_size: 320}}\n"
        f"  tokens: {{stage: tokens, corpus: {home}/corpus, tokenizer: tokenizer}}\n"
        f"  base: {{stage: pretrain, tokens: tokens, model: {model}, sequence_len: {T}, micro_batch_size: {MICRO},\n"
        f"         gradient_accumulation_steps: {ROWS // MICRO}, max_steps: 8, warmup_steps: 1, save_steps: 3,\n"
        "         sample_prompts: [], logging_steps: 1}\n"
    )
    return path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """Per update, the rows that the model saw, each with its last target."""
    seen: list[list[list[int]]] = []
    inner = pretrain.NextToken.loss

    def loss(self: Any, model: Any, micro_batch: Any) -> Any:
        rows = [
            [*ids, targets[-1]]
            for ids, targets in zip(micro_batch["input_ids"].tolist(), micro_batch["targets"].tolist(), strict=True)
        ]
        if not seen or len(seen[-1]) == ROWS:
            seen.append([])
        seen[-1] += rows
        return inner(self, model, micro_batch)

    monkeypatch.setattr(pretrain.NextToken, "loss", loss)
    return seen


def shown(capsys: pytest.CaptureFixture[str], home: Path, **asked: Any) -> dict[str, Any]:
    capsys.readouterr()
    show_tokens(
        "small", home=home, **{"stage_name": None, "step": None, "batch": None, "rows": None, **asked}, as_json=True
    )
    return dict(json.loads(capsys.readouterr().out))


def text_of(row: dict[str, Any]) -> str:
    return "".join(document["text"] for document in row["documents"])


def test_every_step_shows_what_was_trained_also_where_batches_are_left_out_under_way(
    home: Path, recipe_file: Path, trained: list[list[list[int]]], capsys: pytest.CaptureFixture[str]
) -> None:
    stop = StopRequest()
    inner = pretrain.NextToken.micro_batches

    def stop_in_the_fourth(self: Any, step: int, model: Any) -> Any:
        if step == 3:
            stop.request(75)
        return inner(self, step, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groundup.workflow.run.listening_for_signals", lambda *_: _Listening(stop))
        patch.setattr(pretrain.NextToken, "micro_batches", stop_in_the_fourth)
        patch.setattr(pretrain.NextToken, "is_function_of_step", False)
        assert run_recipe(load_recipe(str(recipe_file), []), home=home).exit_code == 75
    assert len(trained) == 4
    unfinished = [shown(capsys, home, step=step) for step in range(1, 5)]
    assert [step["batch"] for step in unfinished] == [1, 2, 3, 4]

    later = load_recipe(str(recipe_file), ["base.skip_steps=[6-7, 9]"])  # batches that are still to come
    assert run_recipe(later, home=home).exit_code == 0
    steps = [shown(capsys, home, step=step) for step in range(1, 9)]
    assert [step["batch"] for step in steps] == [1, 2, 3, 4, 5, 8, 10, 11]
    assert steps[:4] == unfinished
    assert len(trained) >= 8
    tokenizer = Tokenizer.from_folder(home / "small" / "tokens" / "tokenizer")
    for step, rows in zip(steps, trained[:8], strict=True):
        assert [tokenizer.decode(ids) for ids in rows] == [text_of(row) for row in step["rows"]]
        assert [row["tokens"] for row in step["rows"]] == [T + 1] * ROWS
        assert [row["micro_batch"] for row in step["rows"]] == [0, 0, 1, 1]
        assert all(sum(document["tokens"] for document in row["documents"]) == T + 1 for row in step["rows"])
        assert {row["source"] for row in step["rows"]} <= {"web", "books"}
    assert shown(capsys, home, batch=7)["is_left_out"]
    assert [shown(capsys, home, batch=batch)["is_past_the_end"] for batch in (11, 12)] == [False, True]
    show_tokens("small", home=home, stage_name=None, step=9, batch=None, rows=1, as_json=False)
    assert "batch 12; 4 rows of 24 tokens; it was not trained: base ended with step 8" in capsys.readouterr().out

    past = run_recipe(load_recipe(str(recipe_file), ["base.skip_steps=[2]"]), home=home)  # a finished one is built anew
    assert past.built == ("base",)
    assert shown(capsys, home, step=2)["batch"] == 3


class _Listening:
    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def __enter__(self) -> StopRequest:
        return self.stop

    def __exit__(self, *_: object) -> None: ...


def test_documents_are_cut_where_training_cuts_them(
    home: Path, recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_recipe(load_recipe(str(recipe_file), []), home=home).exit_code == 0
    capsys.readouterr()
    show_tokens("small", home=home, stage_name="base", step=1, batch=None, rows=2, as_json=False)
    out = capsys.readouterr().out
    assert out.startswith("step 1 of base: batch 1; 4 rows of 24 tokens\n\nrow 0  ")
    assert "row 1  " in out and "row 2  " not in out
    assert out.rstrip().endswith("... and 2 more rows (--rows 4)")
    for step in range(1, 9):
        for row in shown(capsys, home, step=step)["rows"]:
            for document in row["documents"][1:]:  # <|endoftext|> starts a document: only there is a row cut
                assert document["text"].startswith("<|endoftext|>")
                assert "<|endoftext|>" not in document["text"][1:]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({}, "which step?"),
        ({"step": 1, "batch": 1}, "which step?"),
        ({"step": 1, "stage_name": "tokens"}, "'tokens' does not train on token shards"),
        ({"step": 1, "stage_name": "bse"}, "'bse' is no stage of this run"),
    ],
)
def test_what_cannot_be_shown_is_told(
    home: Path, recipe_file: Path, capsys: pytest.CaptureFixture[str], asked: dict[str, Any], problem: str
) -> None:
    assert run_recipe(load_recipe(str(recipe_file), []), home=home).exit_code == 0
    with pytest.raises(UserError, match=problem.replace("?", r"\?")):
        shown(capsys, home, **asked)


def test_shards_that_were_built_anew_are_not_shown_as_what_was_trained(
    home: Path, recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_recipe(load_recipe(str(recipe_file), []), home=home).exit_code == 0
    marker = home / "small" / "tokens" / "artifact.json"
    before = marker.read_text()
    try:
        marker.write_text(json.dumps({**json.loads(before), "output_fingerprint": "another"}))
        with pytest.raises(UserError, match="built anew since the training"):
            shown(capsys, home, step=1)
    finally:
        marker.write_text(before)
