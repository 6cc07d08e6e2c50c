"""Exact accuracy on questions with one right answer, model against model on the same questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from groundup.chat.template import prompt_ids
from groundup.evaluate.models import Examinee
from groundup.evaluate.stats import paired_difference, wilson
from groundup.model.generate import Sampling, generate, prepare
from groundup.tasks import Task, is_correct

Item = dict[str, Any]  # {task, prompt, answer, completion, correct, finished}


def answer_tasks(
    examinee: Examinee,
    tasks: Sequence[Task],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Item]:
    """Greedy replies through the model's own chat template, each until the end of its turn, judged exactly.

    A base model reads the same prompts. Special tokens inside a reply stay in it, so they make it wrong.
    """
    tokenizer = examinee.tokenizer
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": task.prompt}]) for task in tasks]
    stop_ids = examinee.stop_ids
    room = examinee.model.config.max_position_embeddings - max(map(len, prompts), default=0)
    sampling = Sampling(max_new_tokens=max(1, min(max_new_tokens, room)), temperature=0.0, stop_ids=stop_ids)
    items: list[Item] = []
    engine = prepare(examinee.model)
    for start in range(0, len(tasks), batch_size):
        batch = range(start, min(start + batch_size, len(tasks)))
        for number, reply in zip(batch, generate(engine, [prompts[number] for number in batch], sampling), strict=True):
            text = tokenizer.decode(reply.ids[:-1] if reply.finished else reply.ids)
            items.append(
                {
                    "task": tasks[number].task,
                    "prompt": tasks[number].prompt,
                    "answer": tasks[number].answer,
                    "completion": text,
                    "correct": is_correct(tasks[number], text),
                    "finished": reply.finished,
                }
            )
        progress(len(items))
    return items


def accuracy(items: Sequence[Item], confidence: float) -> dict[str, Any]:
    """`{overall, by_task}`, each `{value, low, high, n, correct}` with a Wilson interval."""
    families = dict.fromkeys(item["task"] for item in items)
    return {
        "overall": share([item["correct"] for item in items], confidence),
        "by_task": {
            family: share([item["correct"] for item in items if item["task"] == family], confidence)
            for family in families
        },
    }


def share(outcomes: Sequence[bool], confidence: float) -> dict[str, Any]:
    """A share with its Wilson interval, as scores.json keeps it."""
    interval = wilson(sum(outcomes), len(outcomes), confidence)
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": len(outcomes),
        "correct": sum(outcomes),
    }


def compare(a: str, b: str, items: dict[str, list[Item]], confidence: float) -> dict[str, Any]:
    """Accuracy of a minus that of b on the same questions: Tango's interval, exact McNemar p-value."""
    result = paired_difference(
        [item["correct"] for item in items[a]], [item["correct"] for item in items[b]], confidence
    )
    return {
        "a": a,
        "b": b,
        "of": "accuracy",
        "difference": result.difference,
        "low": result.low,
        "high": result.high,
        "p_value": result.p_value,
        "n": result.n,
        "only_a": result.only_a,
        "only_b": result.only_b,
    }
