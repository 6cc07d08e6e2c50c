"""Rollouts: the policy answers prompts, the answers are scored, and what PPO learns from is worked out once.

A rollout is a function of the weights, the seed and its number: the prompts, the sampling and the mini-batches all come
from those, so a killed run repeats it exactly and only the numbers that weights made need a place in a checkpoint.

Index convention, here and in ppo.py: position t of a `N, T` array speaks of the prediction of token t + 1. `mask` is
True where that token is part of an answer, its end-of-turn token included.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.chat.formats import Prompt
from groundup.errors import UserError
from groundup.model.generate import Completion
from groundup.tasks import Task, is_correct

PADDING = -1  # document id


@dataclass(frozen=True)
class Answers:
    """N prompts with one answer each, padded on the right."""

    input_ids: Tensor  # N, T + 1
    document_ids: Tensor  # N, T + 1: 0 real, -1 padding
    mask: Tensor  # N, T
    is_finished: Tensor  # N: ended by itself

    def rows(self, index: Tensor) -> Answers:
        """Some of the rows, cut to the longest of them: padding costs as much as text."""
        length = int((self.document_ids[index] != PADDING).sum(1).max())
        return Answers(
            self.input_ids[index, :length],
            self.document_ids[index, :length],
            self.mask[index, : length - 1],
            self.is_finished[index],
        )

    def split(self, index: Tensor, size: int) -> list[Tensor]:
        """Some of the rows in parts of `size`, those of like length together: a fifth less is padded."""
        lengths = (self.document_ids[index] != PADDING).sum(1)
        return list(index[lengths.argsort(stable=True)].split(size))


def join_answers(prompts: Sequence[list[int]], completions: Sequence[Completion], pad_id: int) -> Answers:
    """Prompts and what was written behind them, as one batch."""
    lengths = [len(p) + len(c.ids) for p, c in zip(prompts, completions, strict=True)]
    shape = (len(prompts), max(lengths))
    input_ids = torch.full(shape, pad_id)
    document_ids = torch.full(shape, PADDING)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        input_ids[row, : lengths[row]] = torch.tensor(prompt + completion.ids)
        document_ids[row, : lengths[row]] = 0
        mask[row, len(prompt) : lengths[row]] = True
    return Answers(input_ids, document_ids, mask[:, 1:], torch.tensor([c.finished for c in completions]))


# ---------------------------------------------------------------- scores


@dataclass(frozen=True)
class Scores:
    """One score per answer, and the parts that it was made of (name -> N)."""

    total: Tensor
    parts: dict[str, Tensor]


def task_of(prompt: Prompt) -> Task:
    """The task that a prompt row was made from. UserError where the row has no answer to check against."""
    if "answer" not in prompt.columns:
        raise UserError(
            "this prompt has no `answer` column, so nothing can be verified",
            where=prompt.where,
            fix="use `tasks:` prompts, add an answer to each row, or score with a `reward` model instead",
        )
    question = str(prompt.messages[-1]["content"])
    return Task(str(prompt.columns.get("task", "")), question, str(prompt.columns["answer"]))


def score_answers(
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    is_finished: Tensor,
    *,
    verifier_weight: float = 0.0,
    reward_scores: Sequence[float] | None = None,
    reward_weight: float = 1.0,
    missing_eos_penalty: float = 0.0,
) -> Scores:
    """verifier_weight * (right or wrong) + reward_weight * reward model's; only minus the penalty where it never ended.

    An answer that was cut off is not judged by its content ("The N Implementation Details of RLHF with PPO", 12): a
    policy must first learn to stop.
    """
    parts: dict[str, Tensor] = {}
    total = torch.zeros(len(texts))
    if verifier_weight:
        right = torch.tensor([float(is_correct(task_of(p), text)) for p, text in zip(prompts, texts, strict=True)])
        parts["accuracy"] = right * is_finished
        total += verifier_weight * parts["accuracy"]
    if reward_scores is not None:
        parts["reward_model"] = torch.tensor(reward_scores, dtype=torch.float32)
        total += reward_weight * parts["reward_model"]
    return Scores(torch.where(is_finished, total, -missing_eos_penalty), parts)


# ---------------------------------------------------------------- what is a function of seed and number


def repeat_by_weight(prompts: Sequence[Prompt], weights: Sequence[float], seed: int) -> list[Prompt]:
    """Each prompt as often as its dataset's weight says: 2 is twice, 0.5 every other one, drawn once for all passes."""
    draw = random.Random(f"{seed}/weights")
    times = [int(weight) + (draw.random() < weight % 1) for weight in weights]
    return [prompt for prompt, count in zip(prompts, times, strict=True) for _ in range(count)]


def prompts_of(rollout: int, prompts: int, size: int, seed: int) -> list[int]:
    """Which prompts a rollout answers: all of them in a new order each pass, `size` at a time."""
    chosen: list[int] = []
    while len(chosen) < size:
        at = rollout * size + len(chosen)
        order = list(range(prompts))
        random.Random(f"{seed}/prompts/{at // prompts}").shuffle(order)
        chosen += order[at % prompts : at % prompts + size - len(chosen)]
    return chosen


def mini_batch_rows(rollout: int, epoch: int, *, size: int, mini_batches: int, seed: int) -> list[Tensor]:
    """The rows of each mini-batch of one pass: every row once, in a new order each pass."""
    order = list(range(size))
    random.Random(f"{seed}/mini-batches/{rollout}/{epoch}").shuffle(order)
    return [part.sort().values for part in torch.tensor(order).tensor_split(mini_batches)]


def generator_of(rollout: int, seed: int) -> torch.Generator:
    """What samples this rollout's answers."""
    digest = hashlib.sha256(f"{seed}/rollout/{rollout}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
