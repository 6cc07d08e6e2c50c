"""Generation: many prompts at once (`generate`), or one as it is written (`stream`, `stream_text`).

What is computed how is the engine's (decoding.py); how tokens are chosen is sampling.py's. Here: which prompt is in
which slot. Prompts are let in longest first; what all of them begin with is read once, and so is a prompt that is asked
for several times. A row that is done leaves at once and the next waiting prompt takes its slot.

Greedy decoding in fp32 gives transformers' `generate(do_sample=False)` token for token. What a prompt gets depends on
the weights, the settings, the generator's state and the prompt's place in the list, not on the size of batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.errors import UserError
from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.decoding import Cache, Engine, cache_bytes, prepare
from groundup.model.detokenise import Decode, TextStream
from groundup.model.sampling import Sampling, SeenTokens, choose, chosen_logprobs, probabilities, seed_of, uniform

__all__ = ["Completion", "PromptCache", "Sampling", "choose", "generate", "prepare", "probabilities", "stream"]

MAX_BATCH = 256
CACHE_BYTES = 2 << 30  # a batch is made smaller where its keys and values would need more
READ_TOKENS = 8192  # of prompts read in one call
SHARED_PREFIX = 8  # tokens; a shorter common beginning is read with each prompt
REFILL_SHARE = 8  # waiting prompts come in when one slot in so many is free: reading them is a call of its own


@dataclass(frozen=True)
class Completion:
    """The new tokens of one prompt, the stop id included. `finished`: a stop id or string came, not the limit."""

    ids: list[int]
    finished: bool
    logprobs: list[float] | None = None
    """log p of each token under softmax(logits / temperature), where `return_logprobs` asks for it."""
    text: str | None = None
    """Where `decode` is given: the tokens' text without the stop id, ending before the stop string."""


def generate(
    model: Decoder | Engine,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    max_batch: int = MAX_BATCH,
    decode: Decode | None = None,
    return_logprobs: bool = False,
) -> list[Completion]:
    """Complete every prompt; the results come in the order of `prompts`.

    `generator` makes sampling repeatable. `dtype` generates with a copy of the weights in that dtype (bfloat16, int8);
    None: as the model has it. Who calls often with the same weights packs them once: `prepare(model, dtype)` gives what
    can be passed as `model`. `decode` (ids to text) is needed for stop strings, and gives each completion its text.
    """
    config = model.config
    for prompt in prompts:
        _check_prompt(config, prompt, sampling)
    if sampling.stop_strings and decode is None:
        raise UserError("stop strings need a tokenizer", fix="pass decode=tokenizer.decode")
    seed = seed_of(generator) if sampling.temperature > 0 else 0
    if not prompts or sampling.max_new_tokens < 1:
        return [Completion([], False, [] if return_logprobs else None, "" if decode else None) for _ in prompts]
    writers = [_Writer(sampling, decode) for _ in prompts]
    with torch.no_grad():
        engine = prepare(model, dtype)
        capacity = max(map(len, prompts)) + sampling.max_new_tokens
        room = max(1, CACHE_BYTES // cache_bytes(config, engine.kind, capacity))
        batch = _Batch(engine, prompts, min(max_batch, len(prompts), room), capacity, sampling)
        while batch.fill():
            tokens = batch.choose(seed, return_logprobs)
            is_done = [
                writers[number].write(token, None if logprobs is None else logprobs)
                for number, (token, logprobs) in zip(batch.numbers, tokens, strict=True)
            ]
            batch.leave(is_done)
            batch.step()
    return [writer.completion(return_logprobs) for writer in writers]


def _check_prompt(config: ModelConfig, prompt: list[int], sampling: Sampling) -> None:
    if not prompt:
        raise UserError("a prompt has no tokens", fix="begin with at least one token, for example <|endoftext|>")
    if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
        wrong = next(token for token in prompt if not 0 <= token < config.vocab_size)
        raise UserError(f"a prompt has the token id {wrong}, and the model knows 0 to {config.vocab_size - 1:,}")
    limit = config.max_position_embeddings
    if len(prompt) + sampling.max_new_tokens > limit:
        raise UserError(
            f"a prompt of {len(prompt):,} tokens and {sampling.max_new_tokens:,} new ones pass the model's context of "
            f"{limit:,} tokens (max_position_embeddings)",
            fix=f"shorten the prompt, or ask for at most {max(0, limit - len(prompt)):,} new tokens",
        )


# ---------------------------------------------------------------- what becomes of one prompt


@dataclass
class _Writer:
    """Collects the tokens of one completion and knows when it ends."""

    sampling: Sampling
    decode: Decode | None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False

    def __post_init__(self) -> None:
        watches = self.decode is not None and self.sampling.stop_strings
        self.text = TextStream(self.decode, self.sampling.stop_strings) if self.decode and watches else None

    def write(self, token: int, logprob: float | None) -> bool:
        """Take the next token; True where it was the last."""
        self.ids.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        self.finished = token in self.sampling.stop_ids
        if self.text is not None and not self.finished:
            self.text.push(token)
            if self.text.stopped is None and len(self.ids) == self.sampling.max_new_tokens:
                self.text.finish()  # what was held back may end in a stop string after all
            self.finished = self.text.stopped is not None
        return self.finished or len(self.ids) == self.sampling.max_new_tokens

    def completion(self, with_logprobs: bool) -> Completion:
        text = None
        if self.text is not None:
            self.text.finish()
            text = self.text.text
        elif self.decode is not None:
            has_stop_id = self.finished and self.ids[-1] in self.sampling.stop_ids
            text = self.decode(self.ids[:-1] if has_stop_id else self.ids)
        return Completion(self.ids, self.finished, self.logprobs if with_logprobs else None, text)


# ---------------------------------------------------------------- slots


class _Batch:
    """Prompts in slots 0 to n - 1, the rest waiting. `numbers[slot]` is the prompt there, as the caller counts."""

    def __init__(
        self, engine: Engine, prompts: Sequence[list[int]], slots: int, capacity: int, sampling: Sampling
    ) -> None:
        self.engine, self.prompts, self.slots, self.sampling = engine, prompts, slots, sampling
        self.waiting = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), prompts[number]))
        self.numbers: list[int] = []
        self.steps: list[int] = []  # tokens written so far, per slot
        self.logits = torch.empty(0, engine.config.vocab_size, device=engine.device)
        self.chosen = torch.empty(0, dtype=torch.long, device=engine.device)
        self.prefix = _common_prefix(prompts) if len(prompts) > 1 else 0
        self.prefix = self.prefix if self.prefix >= SHARED_PREFIX else 0
        self.cache: Cache = engine.new_cache(slots + (self.prefix > 0), capacity)
        if self.prefix:
            engine.read(self.cache, slots, [prompts[0][: self.prefix]])
        self.seen = (
            SeenTokens(slots, engine.config.vocab_size, sampling.repetition_penalty, engine.device)
            if sampling.repetition_penalty != 1
            else None
        )

    def fill(self) -> bool:
        """Let waiting prompts into free slots where that pays; False when nobody is left."""
        free = self.slots - len(self.numbers)
        if self.waiting and (not self.numbers or free * REFILL_SHARE >= self.slots or free >= len(self.waiting)):
            self._admit([self.waiting.pop() for _ in range(min(free, len(self.waiting)))])
        return bool(self.numbers)

    def _admit(self, numbers: list[int]) -> None:
        """Read prompts into the next slots, equal ones once."""
        first = len(self.numbers)
        distinct = list({tuple(self.prompts[number]): number for number in numbers}.values())
        where = {tuple(self.prompts[number]): first + at for at, number in enumerate(distinct)}
        again: list[int] = []
        taken = set(distinct)
        for number in numbers:
            if number not in taken:
                again.append(number)
        logits = [self.logits.clone()]  # engines write over what they gave before
        for group in _groups([len(self.prompts[number]) - self.prefix for number in distinct]):
            for at in group:
                if self.prefix:
                    self.cache.copy(self.slots, first + at, self.prefix)
                else:
                    self.cache.lengths[first + at] = 0
            pieces = [self.prompts[distinct[at]][self.prefix :] for at in group]
            logits.append(self.engine.read(self.cache, first + group.start, pieces).clone())
        self.logits = torch.cat(logits)
        sources = [where[tuple(self.prompts[number])] for number in again]
        for slot, (number, source) in enumerate(zip(again, sources, strict=True), first + len(distinct)):
            self.cache.copy(source, slot, len(self.prompts[number]))
        if sources:
            self.logits = torch.cat((self.logits, self.logits[sources]))
        self.numbers += [*distinct, *again]
        self.steps += [0] * len(numbers)
        if self.seen is not None:
            for slot in range(first, len(self.numbers)):
                self.seen.start(slot, self.prompts[self.numbers[slot]])

    def choose(self, seed: int, with_logprobs: bool) -> list[tuple[int, float | None]]:
        """The next token of every slot, and its log-probability where wanted."""
        logits = self.logits if self.seen is None else self.seen.penalise(self.logits)
        draws = uniform(seed, np.array(self.numbers), np.array(self.steps)) if self.sampling.temperature > 0 else None
        self.chosen = choose(logits, self.sampling, draws)
        tokens: list[int] = self.chosen.tolist()
        if not with_logprobs:
            return [(token, None) for token in tokens]
        return list(zip(tokens, chosen_logprobs(logits, self.chosen, self.sampling).tolist(), strict=True))

    def leave(self, is_done: list[bool]) -> None:
        """Free the slots of those that are done: the last one moves into each hole."""
        if self.seen is not None:
            self.seen.add(self.chosen)
        self.steps = [step + 1 for step in self.steps]
        if not any(is_done):
            return
        kept = list(range(len(is_done)))  # which row each slot has
        for slot in reversed(range(len(is_done))):
            if not is_done[slot]:
                continue
            last = len(kept) - 1
            if slot < last:
                self.cache.copy(last, slot, int(self.cache.lengths[last]))
                if self.seen is not None:
                    self.seen.move(last, slot)
            kept[slot] = kept[last]
            kept.pop()
        self.numbers, self.steps = ([values[row] for row in kept] for values in (self.numbers, self.steps))
        self.chosen = self.chosen[kept]

    def step(self) -> None:
        """Read what was chosen."""
        if self.numbers:
            self.logits = self.engine.step(self.cache, self.chosen.cpu().numpy())
        else:
            self.logits = self.logits[:0]


def _common_prefix(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with, at least one of each left over; 0 where they are all the same."""
    low, high = min(prompts), max(prompts)  # what these two share, all share
    if low == high:
        return 0
    limit = min(map(len, prompts)) - 1
    return next((at for at in range(limit) if low[at] != high[at]), limit)


def _groups(lengths: list[int]) -> Iterator[range]:
    """Neighbours whose tokens, padded to the longest, make up to READ_TOKENS."""
    start, longest = 0, 0
    for at, length in enumerate(lengths):
        longest = max(longest, length)
        if at > start and longest * (at + 1 - start) > READ_TOKENS:
            yield range(start, at)
            start, longest = at, length
    yield range(start, len(lengths))


# ---------------------------------------------------------------- one prompt


class PromptCache:
    """What an engine has read for one conversation, so that the next turn reads only what is new."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ids: list[int] = []
        self.cache: Cache | None = None
        self.tokens_read = 0
        """Prompt tokens read so far, all turns together."""

    def read(self, prompt: list[int], capacity: int) -> Tensor:
        """Logits `1, V` after `prompt`; what it shares with what was read before is not read again."""
        limit = min(len(self.ids), len(prompt) - 1)
        shared = next((at for at in range(limit) if self.ids[at] != prompt[at]), limit)
        if self.cache is None or self.cache.capacity < capacity:
            most = self.engine.config.max_position_embeddings
            self.cache, shared = self.engine.new_cache(1, min(most, 2 * capacity)), 0
        self.cache.lengths[0] = shared
        self.ids = prompt[:shared]  # true also where the reading is broken off
        logits = self.engine.read(self.cache, 0, [prompt[shared:]])
        self.ids, self.tokens_read = list(prompt), self.tokens_read + len(prompt) - shared
        return logits

    def step(self, token: int) -> Tensor:
        assert self.cache is not None, "read a prompt first"
        logits = self.engine.step(self.cache, np.array([token]))
        self.ids.append(token)
        return logits


def stream(
    model: Decoder | Engine,
    prompt: list[int],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    cache: PromptCache | None = None,
) -> Iterator[int]:
    """The same for one prompt, token by token as they are chosen (a stop id, if one comes, is the last).

    Stop strings are `stream_text`'s. `cache`: a conversation's, made with the same engine.
    """
    _check_prompt(model.config, prompt, sampling)
    seed = seed_of(generator) if sampling.temperature > 0 else 0
    with torch.no_grad():
        cache = cache or PromptCache(prepare(model, dtype))
        vocab, device = model.config.vocab_size, cache.engine.device
        logits = cache.read(prompt, len(prompt) + sampling.max_new_tokens)
        seen = SeenTokens(1, vocab, sampling.repetition_penalty, device) if sampling.repetition_penalty != 1 else None
    if seen is not None:
        seen.start(0, prompt)
    for step in range(sampling.max_new_tokens):
        with torch.no_grad():  # within each step only: the caller of a half-used iterator is not affected
            draws = uniform(seed, np.array([0]), np.array([step])) if sampling.temperature > 0 else None
            chosen = choose(logits if seen is None else seen.penalise(logits), sampling, draws)
            token = int(chosen)
        yield token
        if token in sampling.stop_ids or step + 1 == sampling.max_new_tokens:
            return
        with torch.no_grad():
            if seen is not None:
                seen.add(chosen)
            logits = cache.step(token)


def stream_text(
    model: Decoder | Engine,
    prompt: list[int],
    sampling: Sampling,
    decode: Decode,
    generator: torch.Generator | None = None,
    **more: Any,
) -> Iterator[str]:
    """`stream` as text in pieces of whole characters, up to the stop id or string; neither is shown, nor a part of it.

    `more`: `dtype` and `cache`, as for `stream`.
    """
    text = TextStream(decode, sampling.stop_strings)
    for token in stream(model, prompt, sampling, generator, **more):
        if token in sampling.stop_ids:
            break
        if piece := text.push(token):
            yield piece
        if text.stopped is not None:
            return
    if rest := text.finish():
        yield rest
