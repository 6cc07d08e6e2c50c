"""How the next token is chosen from logits, in the names and the order of transformers' generation config.

Order: repetition penalty (Keskar et al. 2019, arXiv:1909.05858), temperature, top-k, top-p (Holtzman et al. 2020,
arXiv:1904.09751), min-p (Nguyen et al. 2024, arXiv:2407.01082); each gives what transformers' processor of that name
gives (tested).

Random numbers are a function of (seed, prompt, step) and of nothing else: what a prompt draws does not depend on which
other prompts share its batch, when it was let in, or how large batches are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.errors import Problem, UserError

NUCLEUS_AT_FIRST = 512  # most likely tokens that are looked at before all of them are sorted


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens and when to stop, in the names of transformers' `generation_config.json`."""

    max_new_tokens: int = 128
    temperature: float = 1.0
    """0 is greedy: always the most likely token."""
    top_k: int = 0
    """Keep this many most likely tokens; 0: all."""
    top_p: float = 1.0
    """Keep the most likely tokens that together have this probability; 1: all."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end a completion (each is kept as its last token)."""
    min_p: float = 0.0
    """Keep tokens at least this many times as likely as the most likely one; 0: all."""
    repetition_penalty: float = 1.0
    """Logits of tokens that the prompt or the completion has are divided (below 0: multiplied) by this; 1: as is."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end a completion, wherever they lie across tokens. `generate` then needs `decode`."""

    def __post_init__(self) -> None:
        checks = (
            (self.temperature >= 0, f"`temperature` must be 0 (greedy) or more, not {self.temperature}"),
            (self.top_k >= 0, f"`top_k` must be 0 (all) or more, not {self.top_k}"),
            (0 < self.top_p <= 1, f"`top_p` must be above 0 and at most 1 (all), not {self.top_p}"),
            (0 <= self.min_p <= 1, f"`min_p` must be from 0 (all) to 1, not {self.min_p}"),
            (self.repetition_penalty > 0, f"`repetition_penalty` must be above 0, not {self.repetition_penalty}"),
            ("" not in self.stop_strings, "an empty text in `stop_strings` would end every completion at once"),
        )
        problems = [Problem(what) for holds, what in checks if not holds]
        if problems:
            raise UserError(problems)


def choose(logits: Tensor, sampling: Sampling, draws: Tensor | None = None) -> Tensor:
    """One token id per row of logits `B, V`. `draws` `B`: uniform numbers in [0, 1); greedy needs none."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    assert draws is not None, "sampling needs random numbers"
    # by the inverse of the cumulative distribution: one random number a row, where torch.multinomial draws V
    cumulative = probabilities(logits, sampling).cumsum(-1)
    total = cumulative[:, -1:]
    point = draws.to(total)[:, None] * total
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))  # rounding must not reach the total
    return torch.searchsorted(cumulative, point, right=True).squeeze(1)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """What is sampled from, `B, V`: softmax(logits / temperature) in fp32, cut to top-k, then top-p, then min-p."""
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    if sampling.top_p < 1:
        logits = _nucleus(logits, sampling.top_p)
    result = logits.softmax(-1)
    if sampling.min_p > 0:
        result = torch.where(result < sampling.min_p * result.amax(-1, keepdim=True), 0.0, result)
        result = result / result.sum(-1, keepdim=True)
    return result


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Everything behind the first tokens that together reach `top_p` becomes -inf."""
    probs = logits.softmax(-1)
    likely, index = probs.topk(min(NUCLEUS_AT_FIRST, probs.shape[-1]))
    if likely.shape[-1] < probs.shape[-1] and bool((likely.sum(-1) < top_p).any()):
        likely, index = probs.sort(descending=True)
    before = likely.cumsum(-1) - likely
    dropped = torch.ones_like(logits, dtype=torch.bool).scatter(1, index, before >= top_p)
    return logits.masked_fill(dropped, float("-inf"))


def chosen_logprobs(logits: Tensor, chosen: Tensor, sampling: Sampling) -> Tensor:
    """log p of the chosen tokens, `B`, under softmax(logits / temperature) before any cut (temperature 0 counts as 1).

    This is what a training forward pass computes for the same tokens (model/logprobs.py).
    """
    logits = logits.float() / (sampling.temperature or 1.0)
    return logits.gather(1, chosen[:, None]).squeeze(1) - logits.logsumexp(-1)


# ---------------------------------------------------------------- repetition


class SeenTokens:
    """Which tokens each slot of a batch has had, prompt included; for the repetition penalty."""

    def __init__(self, slots: int, vocab: int, penalty: float, device: torch.device) -> None:
        self.seen = torch.zeros(slots, vocab, dtype=torch.bool, device=device)
        self.penalty = penalty

    def start(self, slot: int, prompt: list[int]) -> None:
        self.seen[slot] = False
        self.seen[slot, torch.tensor(prompt, device=self.seen.device)] = True

    def add(self, chosen: Tensor) -> None:
        """The newest token of each of the first slots."""
        self.seen[torch.arange(len(chosen), device=chosen.device), chosen] = True

    def move(self, source: int, target: int) -> None:
        self.seen[target] = self.seen[source]

    def penalise(self, logits: Tensor) -> Tensor:
        changed = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return torch.where(self.seen[: len(logits)], changed, logits)


# ---------------------------------------------------------------- random numbers


def seed_of(generator: torch.Generator | None) -> int:
    """One number out of the generator (torch's global one where it is None), from which all draws of a call follow."""
    device = torch.device("cpu") if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))


def uniform(seed: int, prompts: np.ndarray[Any, Any], steps: np.ndarray[Any, Any]) -> Tensor:
    """A number in [0, 1) for each (prompt, step), fp32: a hash of the three (SplitMix64, Steele et al. 2014)."""
    first = _mixed(np.uint64(seed) + prompts.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    bits = _mixed(first + (steps.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95))
    return torch.from_numpy(((bits >> np.uint64(40)).astype(np.float64) * 2.0**-24).astype(np.float32))


def _mixed(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray[Any, Any] = x ^ (x >> np.uint64(31))
    return mixed
