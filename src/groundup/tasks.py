"""Questions with exactly one right answer: training rows, rewards and exams that need no judge.

Each family makes a question and its answer from a random generator. Which split a question belongs to is a function of
its text alone, so a held-out question can never turn up in training, whatever the seed or the number of rows.
The same rows serve supervised fine-tuning (question and answer), preference pairs (right against wrong), PPO (exact
reward) and the exam (exact accuracy); the verifier is the same function everywhere.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from groundup.errors import UserError

Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Task:
    """One question. `task` names its family."""

    task: str
    prompt: str
    answer: str


# ---------------------------------------------------------------- families: random generator -> (prompt, answer)


def addition(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return f"What is {a} + {b}?", str(a + b)


def subtraction(rng: random.Random) -> tuple[str, str]:
    b, a = sorted((rng.randint(10, 99), rng.randint(10, 99)))
    return f"What is {a} - {b}?", str(a - b)


def larger(rng: random.Random) -> tuple[str, str]:
    a, b = rng.sample(range(100, 1000), 2)
    return f"Which is larger, {a} or {b}?", str(max(a, b))


def successor(rng: random.Random) -> tuple[str, str]:
    a = rng.randint(10, 9998)
    return f"Which number comes after {a}?", str(a + 1)


def sort_digits(rng: random.Random) -> tuple[str, str]:
    digits = [rng.randint(0, 9) for _ in range(rng.randint(4, 6))]
    return f"Sort these digits: {_spaced(digits)}", _spaced(sorted(digits))


def reverse_digits(rng: random.Random) -> tuple[str, str]:
    digits = [rng.randint(0, 9) for _ in range(rng.randint(4, 6))]
    return f"Reverse these digits: {_spaced(digits)}", _spaced(digits[::-1])


def count_digit(rng: random.Random) -> tuple[str, str]:
    wanted = rng.randint(0, 9)
    digits = [wanted if rng.random() < 0.35 else rng.randint(0, 9) for _ in range(rng.randint(4, 8))]
    return f"How many times does {wanted} occur in {_spaced(digits)}?", str(digits.count(wanted))


def largest_digit(rng: random.Random) -> tuple[str, str]:
    digits = [rng.randint(0, 9) for _ in range(rng.randint(4, 7))]
    return f"Which is the largest of these digits: {_spaced(digits)}", str(max(digits))


def _spaced(digits: Sequence[int]) -> str:
    return " ".join(map(str, digits))


TASKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    family.__name__: family
    for family in (
        addition,
        subtraction,
        larger,
        successor,
        sort_digits,
        reverse_digits,
        count_digit,
        largest_digit,
    )
}


# ---------------------------------------------------------------- rows


def make_tasks(names: Sequence[str], split: Split, rows: int, seed: int) -> list[Task]:
    """`rows` different questions, the families taken in turn; the same arguments give the same rows."""
    require_tasks(names)
    questions = {name: _distinct_questions(name, split, seed) for name in names}
    return [next(questions[names[row % len(names)]]) for row in range(rows)]


def require_tasks(names: Sequence[str]) -> None:
    """Raise a UserError that names the families which exist, where one does not."""
    for name in names:
        if name not in TASKS:
            near = get_close_matches(name, TASKS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"there is no task family {name!r}", fix=f"{hint}there are: {', '.join(TASKS)}")
    if not names:
        raise UserError("no task families are named", fix=f"there are: {', '.join(TASKS)}")


def split_of(prompt: str) -> Split:
    """Which split a question belongs to: decided by its text alone."""
    share = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4]) / 2**32
    return "held_out" if share < HELD_OUT_SHARE else "train"


def _distinct_questions(name: str, split: Split, seed: int) -> Iterator[Task]:
    rng = random.Random(f"{seed}/{name}/{split}")
    seen: set[str] = set()
    in_vain = 0
    while True:
        prompt, answer = TASKS[name](rng)
        if prompt in seen or split_of(prompt) != split:
            in_vain += 1
            if in_vain > 100_000:
                raise UserError(
                    f"the task family {name!r} has only {len(seen):,} different {split} questions",
                    fix="ask for fewer rows, or name more families",
                )
            continue
        in_vain = 0
        seen.add(prompt)
        yield Task(name, prompt, answer)


# ---------------------------------------------------------------- the verifier


def is_correct(task: Task, completion: str) -> bool:
    """Whether the reply is the answer and nothing else; white space and a final full stop do not count."""
    return normalise(completion) == normalise(task.answer)


def normalise(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".").strip()
