"""Pairs of a model's own answers: right against wrong, judged by the verifier, split by question."""

from __future__ import annotations

from collections.abc import Sequence

from groundup.chat.pairs import judge
from groundup.model.generate import Completion
from groundup.tasks import Task

TASK = Task("addition", "What is 5 + 7?", "12")
STOP = 2


class Letters:
    """Ids are characters."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def answer(text: str, *, finished: bool = True) -> Completion:
    return Completion([*map(ord, text), *([STOP] if finished else [])], finished)


def pair(*answers: Completion) -> tuple[str, str, str]:
    outcome = judge(TASK, answers, Letters())  # type: ignore[arg-type]
    return outcome.chosen, outcome.rejected, outcome.reason


def test_a_right_answer_is_preferred_to_a_wrong_one() -> None:
    assert pair(answer("13"), answer("12")) == ("12", "13", "")


def test_the_commonest_mistake_is_the_one_to_unlearn() -> None:
    assert pair(answer("11"), answer("13"), answer("12"), answer("13")) == ("12", "13", "")


def test_without_both_kinds_of_answer_there_is_no_pair() -> None:
    assert pair(answer("12"), answer("12.")) == ("", "", "all right")
    assert pair(answer("13"), answer("14")) == ("", "", "all wrong")


def test_an_answer_that_never_ended_is_not_compared() -> None:
    assert pair(answer("12", finished=False), answer("13")) == ("", "", "all wrong")
    assert pair(answer("13", finished=False), answer("12")) == ("", "", "all right")


def test_an_answer_with_a_control_token_in_it_is_not_compared() -> None:
    outcome = judge(TASK, [answer("12"), answer("1<3")], Letters(), frozenset({ord("<")}))  # type: ignore[arg-type]
    assert outcome.reason == "all right"
