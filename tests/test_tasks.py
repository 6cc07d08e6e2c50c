"""Questions with one right answer: the answers are right, the splits never meet, the verifier is strict."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import UserError
from groundup.tasks import TASKS, Task, is_correct, make_tasks, split_of

NAMES = list(TASKS)


def expected_answer(task: Task) -> str:
    """Worked out a second time, from the words of the question."""
    numbers = [int(number) for number in re.findall(r"\d+", task.prompt)]
    spaced = " ".join
    return {
        "addition": lambda: str(sum(numbers)),
        "subtraction": lambda: str(numbers[0] - numbers[1]),
        "larger": lambda: str(max(numbers)),
        "successor": lambda: str(numbers[0] + 1),
        "sort_digits": lambda: spaced(map(str, sorted(numbers))),
        "reverse_digits": lambda: spaced(map(str, numbers[::-1])),
        "count_digit": lambda: str(numbers[1:].count(numbers[0])),
        "largest_digit": lambda: str(max(numbers)),
    }[task.task]()


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_right(name: str) -> None:
    for task in make_tasks([name], "train", 300, seed=3):
        assert task.answer == expected_answer(task), task
        assert is_correct(task, task.answer)


@given(seeds=st.tuples(st.integers(0, 9), st.integers(0, 9)))
@settings(max_examples=10, deadline=None)
def test_held_out_questions_are_never_trained_on(seeds: tuple[int, int]) -> None:
    """Whatever the seeds and numbers of rows: the question's own text decides."""
    train = {task.prompt for task in make_tasks(NAMES, "train", 800, seeds[0])}
    held_out = {task.prompt for task in make_tasks(NAMES, "held_out", 200, seeds[1])}
    assert not train & held_out
    assert {split_of(prompt) for prompt in train} == {"train"}


def test_rows_are_distinct_repeatable_and_evenly_spread() -> None:
    rows = make_tasks(NAMES, "train", 400, seed=1)
    assert len({row.prompt for row in rows}) == 400
    assert rows == make_tasks(NAMES, "train", 400, seed=1)
    assert rows != make_tasks(NAMES, "train", 400, seed=2)
    assert all(sum(row.task == name for row in rows) == 400 // len(NAMES) for name in NAMES)


def test_more_rows_only_add_rows() -> None:
    assert make_tasks(NAMES, "train", 80, seed=1) == make_tasks(NAMES, "train", 160, seed=1)[:80]


@pytest.mark.parametrize("reply", ["12", " 12\n", "12."])
def test_white_space_and_a_full_stop_do_not_count(reply: str) -> None:
    assert is_correct(Task("addition", "What is 5 + 7?", "12"), reply)


@pytest.mark.parametrize("reply", ["", "1 2", "112", "12 or 13", "The answer is 12", "-12"])
def test_everything_else_counts(reply: str) -> None:
    assert not is_correct(Task("addition", "What is 5 + 7?", "12"), reply)


def test_an_unknown_family_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no task family 'aditon'\n  -> did you mean 'addition'\?"):
        make_tasks(["aditon"], "train", 1, 0)


def test_a_family_that_runs_out_says_how_many_there_are() -> None:
    with pytest.raises(UserError, match=r"has only [\d,]+ different held_out questions"):
        make_tasks(["subtraction"], "held_out", 5000, 0)
