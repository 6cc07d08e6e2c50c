"""A reward model in use: texts in, rewards out, one number each, normalised and independent of the batch.

The score is the value at a sequence's last real token, which is the end-of-turn token of the answer. Where that is,
is known from the sequence's length and never from the pad id, so a model whose pad and end tokens are the same scores
the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts import read_json, write_json
from groundup.chat.masks import encode_answer
from groundup.chat.template import ChatTokenizer, Message
from groundup.model.device import send
from groundup.model.heads import ScalarModel, load_scalar_model, save_scalar_model
from groundup.model.sharded_files import writes_here

FILE = "reward.json"
BATCH_TOKENS = 8192
PADDING, REAL = -1, 0  # document ids


@dataclass(frozen=True)
class RewardModel:
    """`gain * value + bias` has mean 0 and deviation 1 over the answers that it was normalised on."""

    model: ScalarModel
    gain: float = 1.0
    bias: float = 0.0


def load_reward_model(folder: Path | str) -> RewardModel:
    """The model in a `reward` stage's `model/` folder, or any one-label classifier (gain 1, bias 0)."""
    path = Path(folder) / FILE
    kept = read_json(path) if path.is_file() else {}
    return RewardModel(load_scalar_model(folder), float(kept.get("gain", 1.0)), float(kept.get("bias", 0.0)))


def save_reward_model(reward: RewardModel, folder: Path | str, **facts: Any) -> None:
    """Write the model and, beside it, its gain and bias with `facts` on how they came about."""
    if writes_here(reward.model):
        write_json(Path(folder) / FILE, {"gain": reward.gain, "bias": reward.bias, **facts})
    save_scalar_model(reward.model, folder)


def normalised(model: ScalarModel, raw_scores: Sequence[float]) -> RewardModel:
    """Gain and bias that give these raw scores mean 0 and (population) deviation 1; equal scores keep gain 1."""
    scores = torch.tensor(raw_scores, dtype=torch.float64)
    deviation = float(scores.std(unbiased=False))
    gain = 1 / deviation if deviation > 1e-6 else 1.0
    return RewardModel(model, gain, -gain * float(scores.mean()))


# ---------------------------------------------------------------- scores


def score_texts(
    reward: RewardModel, tokenizer: ChatTokenizer, conversations: Sequence[Sequence[Message]]
) -> list[float]:
    """Normalised reward of each conversation's last turn, which must be the assistant's. Order is kept."""
    sequences = [encode_answer(tokenizer, messages[:-1], messages[-1:]).ids for messages in conversations]
    return score_ids(reward, sequences)


def score_ids(
    reward: RewardModel,
    sequences: Sequence[Sequence[int]],
    autocast: AbstractContextManager[Any] | None = None,
) -> list[float]:
    """Normalised reward of each token sequence (prompt, answer, end of turn), read at its last token.

    A sequence's score is the same (to rounding) alone or in a batch. `autocast` is the context the forward pass runs
    in (none: the weights' own precision).
    """
    scores: dict[int, float] = {}
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    with autocast if autocast is not None else nullcontext(), torch.no_grad():
        for batch in _batches(order, sequences):
            values = last_values(reward.model, [sequences[index] for index in batch])
            scores.update(zip(batch, (reward.gain * values + reward.bias).tolist(), strict=True))
    return [scores[index] for index in range(len(sequences))]


def last_values(model: ScalarModel, sequences: Sequence[Sequence[int]], *, pad_left: bool = False) -> Tensor:
    """Raw value (fp32, N) at the last token of each sequence, found by length; differentiable."""
    B, T = len(sequences), max(len(sequence) for sequence in sequences)
    device = model.score.weight.device
    input_ids = torch.zeros(B, T, dtype=torch.long)
    document_ids = torch.full((B, T), PADDING)
    for row, sequence in enumerate(sequences):
        start = T - len(sequence) if pad_left else 0
        input_ids[row, start : start + len(sequence)] = torch.as_tensor(sequence)
        document_ids[row, start : start + len(sequence)] = REAL
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    last = torch.full((B,), T - 1) if pad_left else lengths - 1
    values: Tensor = model(send(input_ids, device), document_ids=document_ids)  # B, T
    return values.gather(1, send(last[:, None], device)).squeeze(1)


def _batches(order: Sequence[int], sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices in order of length, in batches of at most BATCH_TOKENS padded tokens."""
    batches: list[list[int]] = []
    for index in order:
        size = max(1, len(sequences[index]))
        if not batches or (len(batches[-1]) + 1) * size > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches
