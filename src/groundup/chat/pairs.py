"""Stage `pairs`: a model answers each question several times, and the exact verifier tells right from wrong.

A question that got both kinds of answer gives one pair: its likeliest-written right answer against a wrong one. These
are pairs of the model's own making, so a reward model learns the mistakes it will meet in PPO, and DPO learns from
answers that the policy would really give. Held-out pairs come from questions that no training pair was made from.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from groundup.artifacts import StageContext, StageResult, write_atomic
from groundup.chat.settings import PairsSettings
from groundup.chat.template import control_tokens, prompt_ids
from groundup.errors import EXIT_FAILED, Problem, UserError
from groundup.model.files import load_model, require_same_vocabulary
from groundup.model.generate import Completion, Sampling, generate, prepare
from groundup.recipe import CheckReport
from groundup.tasks import Task, is_correct, make_tasks, require_tasks
from groundup.tokens.tokenizer import Tokenizer

QUESTIONS_AT_ONCE = 256


@dataclass(frozen=True)
class Outcome:
    """What became of one question: its pair, or why there is none."""

    task: Task
    chosen: str = ""
    rejected: str = ""
    reason: str = ""  # "all right", "all wrong", or "" where there is a pair


def run(settings: PairsSettings, context: StageContext) -> StageResult:
    """Write `train.jsonl` and `held_out.jsonl` with `{prompt, chosen, rejected, task, answer}` rows."""
    folder = context.model_folder(settings.model)
    tokenizer = Tokenizer.from_folder(folder)
    require_same_vocabulary(folder, tokenizer)
    engine = prepare(load_model(folder).eval())  # weights are packed once, not for every call
    tasks = make_tasks(settings.tasks, "train", settings.prompts, context.seed + 1)  # not the rows of fine-tuning
    sampling = Sampling(settings.response_length, settings.temperature, stop_ids=tuple(tokenizer.stop_ids))
    controls = frozenset(control_tokens(folder))
    outcomes: list[Outcome] = []
    with context.console.progress(context.name, len(tasks), "questions") as bar:
        for start in range(0, len(tasks), QUESTIONS_AT_ONCE):
            asked = tasks[start : start + QUESTIONS_AT_ONCE]
            prompts = [ids for task in asked for ids in [question_ids(tokenizer, task)] * settings.samples]
            generator = torch.Generator().manual_seed(context.seed + start)
            answers = generate(engine, prompts, sampling, generator)
            for number, task in enumerate(asked):
                own = answers[number * settings.samples : (number + 1) * settings.samples]
                outcomes.append(judge(task, own, tokenizer, controls))
            bar(start + len(asked))
    pairs = [outcome for outcome in outcomes if not outcome.reason]
    without = Counter(outcome.reason for outcome in outcomes if outcome.reason)
    held_out = round(len(pairs) * settings.held_out)
    if len(pairs) - held_out < 1:
        raise UserError(
            f"no pairs: of {len(tasks):,} questions, " + ", ".join(f"{n:,} were {why}" for why, n in without.items()),
            fix="ask more questions, raise the temperature, or train the model more (or less) before",
            exit_code=EXIT_FAILED,
        )
    random.Random(context.seed).shuffle(pairs)
    write_pairs(context, "held_out", pairs[:held_out])
    write_pairs(context, "train", pairs[held_out:])
    counts = {
        "questions": len(tasks),
        "train": len(pairs) - held_out,
        "held_out": held_out,
        "without_pair": dict(without),
    }
    return StageResult(counts=counts)


def question_ids(tokenizer: Tokenizer, task: Task) -> list[int]:
    return prompt_ids(tokenizer, [{"role": "user", "content": task.prompt}])


def judge(
    task: Task, answers: Sequence[Completion], tokenizer: Tokenizer, controls: frozenset[int] = frozenset()
) -> Outcome:
    """The commonest right answer against the commonest wrong one: the mistake that is most worth unlearning.

    An answer that never ended by itself is not used: a pair should be about content, not about length. Nor is one with
    a control token in it, which no row of a chat can hold.
    """
    usable = [answer.ids[:-1] for answer in answers if answer.finished and not controls & set(answer.ids[:-1])]
    texts = Counter(tokenizer.decode(ids) for ids in usable)
    right = [text for text, _ in texts.most_common() if is_correct(task, text)]
    wrong = [text for text, _ in texts.most_common() if text.strip() and not is_correct(task, text)]
    if right and wrong:
        return Outcome(task, right[0], wrong[0])
    return Outcome(task, reason="all right" if right else "all wrong")


def write_pairs(context: StageContext, split: str, pairs: Sequence[Outcome]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "prompt": p.task.prompt,
            "chosen": p.chosen,
            "rejected": p.rejected,
            "task": p.task.task,
            "answer": p.task.answer,
        }
        for p in pairs
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(context.folder / f"{split}.jsonl", text)


def check(settings: PairsSettings, context: StageContext) -> CheckReport:  # noqa: ARG001 (every stage's signature)
    """Whether the task families exist."""
    problems: list[Problem] = []
    try:
        require_tasks(settings.tasks)
    except UserError as error:
        problems += error.problems
    return CheckReport({"answers": settings.prompts * settings.samples}, problems)
