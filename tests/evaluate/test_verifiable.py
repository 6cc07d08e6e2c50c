"""Exact accuracy: the model's own template, the end of the turn, the same questions for every model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from groundup.evaluate.models import Examinee, model_fingerprint
from groundup.evaluate.verifiable import accuracy, answer_tasks, compare
from groundup.model.decoder import Decoder
from groundup.tasks import Task
from groundup.tokens.tokenizer import Tokenizer


def examinee(model: Decoder, tokenizer: Tokenizer) -> Examinee:
    one = Examinee("m", tokenizer.folder, "f")
    one.__dict__["model"] = model  # as if it had been loaded
    return one


def test_what_a_model_knows_is_counted_and_what_it_does_not_know_is_not(
    crammer: Decoder, tokenizer: Tokenizer, questions: list[Task]
) -> None:
    items = answer_tasks(examinee(crammer, tokenizer), questions, max_new_tokens=12, batch_size=4)
    assert [item["correct"] for item in items[:6]] == [True] * 6
    assert sum(item["correct"] for item in items[6:]) < 4
    assert [(item["task"], item["prompt"], item["answer"]) for item in items] == [
        (task.task, task.prompt, task.answer) for task in questions
    ]
    assert all(item["completion"] == item["answer"] for item in items[:6])  # without the end of the turn
    scores = accuracy(items, 0.95)
    assert scores["overall"]["n"] == 10
    assert scores["overall"]["low"] < scores["overall"]["value"] < scores["overall"]["high"]
    assert sum(part["n"] for part in scores["by_task"].values()) == 10


def test_replies_do_not_depend_on_the_batch(crammer: Decoder, tokenizer: Tokenizer, questions: list[Task]) -> None:
    one = examinee(crammer, tokenizer)
    replies = [answer_tasks(one, questions, max_new_tokens=12, batch_size=size) for size in (1, 3, 100)]
    assert replies[0] == replies[1] == replies[2]


def test_a_reply_that_goes_on_is_neither_finished_nor_correct(
    untrained: Decoder, tokenizer: Tokenizer, questions: list[Task]
) -> None:
    one = examinee(untrained, tokenizer)
    items = answer_tasks(one, questions, max_new_tokens=5, batch_size=100)
    assert items == answer_tasks(one, questions, max_new_tokens=5, batch_size=100)  # greedy: nothing is drawn
    assert not any(item["correct"] for item in items)
    assert not all(item["finished"] for item in items)


def test_the_right_answer_with_something_behind_it_is_wrong(
    crammer: Decoder, tokenizer: Tokenizer, questions: list[Task]
) -> None:
    other = [replace(task, answer=task.answer[:-1]) for task in questions[:6] if len(task.answer) > 1]
    items = answer_tasks(examinee(crammer, tokenizer), other, max_new_tokens=12, batch_size=8)
    assert not any(item["correct"] for item in items)


def test_a_comparison_is_paired_question_by_question() -> None:
    def items(outcomes: str) -> list[dict[str, object]]:
        return [{"task": "t", "correct": letter == "1"} for letter in outcomes]

    row = compare("a", "b", {"a": items("1111100000"), "b": items("1000000001")}, 0.95)
    assert (row["only_a"], row["only_b"], row["n"]) == (4, 1, 10)
    assert row["difference"] == pytest.approx(0.3)
    assert row["p_value"] == pytest.approx(2 * (1 + 5) / 32)


def test_a_fingerprint_names_the_weights_not_the_folder(trained: dict[str, Path]) -> None:
    base, chat = (model_fingerprint(trained[name] / "model") for name in ("base", "chat"))
    assert base != chat
    copy = trained["base"].parent / "elsewhere"
    shutil.copytree(trained["base"] / "model", copy)
    assert model_fingerprint(copy) == base
