"""HumanEval's own solutions pass in the sandbox, wrong ones do not, and the score is the paper's."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from groundup.errors import UserError
from groundup.evaluate.humaneval import (
    CodeTask,
    complete_tasks,
    cut_at_stop,
    items_of,
    parse_tasks,
    pass_at_k,
    run_completions,
    spread,
)
from groundup.evaluate.models import Examinee
from groundup.evaluate.sandbox import Level, Limits, ProgramResult, require_level
from groundup.model.decoder import Decoder
from groundup.tokens.tokenizer import Tokenizer

LIMITS = Limits(cpu_seconds=5)


@pytest.fixture(scope="module")
def tasks(shared_data: Path) -> list[CodeTask]:
    return parse_tasks((shared_data / "eval" / "HumanEval.jsonl.gz").read_bytes())


@pytest.fixture(scope="module")
def level() -> Level:
    try:
        return require_level()
    except UserError as error:
        pytest.skip(str(error))


def test_reference_solutions_pass_and_wrong_ones_do_not(tasks: list[CodeTask], level: Level) -> None:
    chosen = spread(tasks, 12)
    results = run_completions(chosen, [task.canonical_solution for task in chosen], LIMITS, level)
    assert [result.kind for result in results] == ["passed"] * 12
    results = run_completions(chosen, ["    return None\n"] * 12, LIMITS, level)
    assert {result.kind for result in results} == {"failed"}


@pytest.mark.slow
def test_all_164_reference_solutions_pass(tasks: list[CodeTask], level: Level) -> None:
    results = run_completions(tasks, [task.canonical_solution for task in tasks], LIMITS, level)
    assert sum(result.passed for result in results) == 164


def test_a_model_writes_and_is_judged(
    tasks: list[CodeTask], level: Level, untrained: Decoder, tokenizer: Tokenizer
) -> None:
    one = Examinee("m", tokenizer.folder, "f")
    one.__dict__["model"] = untrained
    chosen = spread(tasks, 3)  # prompts longer than the model's 128 positions among them
    completions = complete_tasks(one, chosen, max_new_tokens=16, batch_size=2)
    results = run_completions(chosen, completions, LIMITS, level)
    items = items_of(chosen, completions, results)
    assert [item["correct"] for item in items] == [False] * 3
    assert all(item["kind"] in ("failed", "timeout") for item in items)


def test_a_sandbox_that_fails_is_not_a_model_that_fails(tasks: list[CodeTask]) -> None:
    broken = ProgramResult("sandbox_error", "no Landlock", "", 0, 0, 0, "landlock")
    with pytest.raises(UserError, match="did not run HumanEval/0"):
        items_of(tasks[:1], [""], [broken])


def test_a_completion_ends_at_the_first_stop_sequence() -> None:
    assert cut_at_stop("    return 1\n\ndef other():\n    pass") == "    return 1\n"
    assert cut_at_stop("    return 1\nprint(2)\nclass A: pass") == "    return 1"
    assert cut_at_stop("    if x:\n        return 1\n") == "    if x:\n        return 1\n"


def test_a_limit_spreads_over_all_tasks(tasks: list[CodeTask]) -> None:
    assert len(spread(tasks, None)) == 164
    assert [task.task_id for task in spread(tasks, 4)] == [
        "HumanEval/0",
        "HumanEval/41",
        "HumanEval/82",
        "HumanEval/123",
    ]


def test_pass_at_k_is_the_share_of_draws_that_hold_a_pass() -> None:
    for n, correct, k in ((5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (4, 3, 2)):
        draws = list(itertools.combinations([i < correct for i in range(n)], k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(3, 4, 1)


def test_a_file_with_other_tasks_is_refused(tasks: list[CodeTask]) -> None:
    import gzip
    import json

    rows = [replace(task).__dict__ for task in tasks[:3]]
    with pytest.raises(UserError, match="164 tasks, this file has 3"):
        parse_tasks(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
