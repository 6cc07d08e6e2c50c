"""Generation: batched, ragged, with a KV cache; greedy or sampled; one prompt can be streamed.

Prompts are sorted by length, padded on the left within a batch (padding is document -1, seen by nobody), and rows that
are done leave the batch. Greedy decoding gives transformers' `generate(do_sample=False)` token for token; sampling
filters in its order: temperature, top-k, top-p (Holtzman et al. 2020, arXiv:1904.09751).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.errors import UserError
from groundup.model.decoder import Decoder, KVCache, compute_dtype

MAX_BATCH = 256
PADDING, REAL = -1, 0  # document ids


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, in the names of transformers' `generation_config.json`."""

    max_new_tokens: int = 128
    temperature: float = 1.0
    """0 is greedy: always the most likely token."""
    top_k: int = 0
    """Keep this many most likely tokens; 0: all."""
    top_p: float = 1.0
    """Keep the most likely tokens that together have this probability; 1: all."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end a completion (each is kept as its last token)."""


@dataclass(frozen=True)
class Completion:
    """The new tokens of one prompt, the stop id included. `finished`: a stop id came, not the limit."""

    ids: list[int]
    finished: bool


def generate(
    model: Decoder,
    prompts: list[list[int]],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | None = None,
    max_batch: int = MAX_BATCH,
) -> list[Completion]:
    """Complete every prompt; the results come in the order of `prompts`.

    `generator` makes sampling repeatable for the same prompts and `max_batch`. `dtype` generates with a copy of the
    weights in that dtype (bfloat16 is about 3x faster on CPUs that have it); None: with the model as it is.
    """
    for prompt in prompts:
        _check_prompt(model, prompt, sampling)
    model = inference_model(model, dtype)
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), prompts[index]), reverse=True)
    completions: dict[int, Completion] = {}
    for start in range(0, len(order), max_batch):
        batch = order[start : start + max_batch]
        results = _generate_batch(model, [prompts[index] for index in batch], sampling, generator)
        completions.update(zip(batch, results, strict=True))
    return [completions[index] for index in range(len(prompts))]


def stream(
    model: Decoder,
    prompt: list[int],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Iterator[int]:
    """The same for one prompt, token by token as they are chosen (a stop id, if one comes, is the last)."""
    _check_prompt(model, prompt, sampling)
    steps = _decode(inference_model(model, dtype), [prompt], sampling, generator)
    for tokens, _ in steps:
        token = int(tokens[0])
        yield token
        if token in sampling.stop_ids:
            return


def inference_model(model: Decoder, dtype: torch.dtype | None) -> Decoder:
    """The model itself where it already has this dtype, else a copy whose weights are cast."""
    if dtype is None or model.head_weight.dtype == dtype:
        return model
    with torch.device("meta"):
        result = Decoder(model.config)
    state = {name: tensor.detach().to(dtype) for name, tensor in model.state_dict().items()}
    result.load_state_dict(state, assign=True)
    return result.eval()


def _check_prompt(model: Decoder, prompt: list[int], sampling: Sampling) -> None:
    if not prompt:
        raise UserError("a prompt has no tokens", fix="begin with at least one token, for example <|endoftext|>")
    limit = model.config.max_position_embeddings
    if len(prompt) + sampling.max_new_tokens > limit:
        raise UserError(
            f"a prompt of {len(prompt):,} tokens and {sampling.max_new_tokens:,} new ones pass the model's context of "
            f"{limit:,} tokens (max_position_embeddings)",
            fix=f"shorten the prompt, or ask for at most {max(0, limit - len(prompt)):,} new tokens",
        )


def _generate_batch(
    model: Decoder, prompts: list[list[int]], sampling: Sampling, generator: torch.Generator | None
) -> list[Completion]:
    ids: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    for tokens, rows in _decode(model, prompts, sampling, generator):
        for token, row in zip(tokens.tolist(), rows.tolist(), strict=True):
            if not finished[row]:  # a row that is done may stay in the batch for a while
                ids[row].append(token)
                finished[row] = token in sampling.stop_ids
    return [Completion(i, f) for i, f in zip(ids, finished, strict=True)]


def _decode(
    model: Decoder, prompts: list[list[int]], sampling: Sampling, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, step by step, the next token of each row still in the batch, and which prompt each row belongs to.

    Gradients are off inside each step only, so that the caller of a half-used iterator is not affected.
    """
    device, dtype = model.head_weight.device, compute_dtype(model.head_weight)
    longest = max(map(len, prompts))
    padded = torch.tensor([[PADDING] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    distinct, which = torch.unique(padded, dim=0, return_inverse=True)
    if len(distinct) == len(padded):
        distinct = padded
    lengths = (padded >= 0).sum(1)
    ragged = bool((lengths < longest).any())
    cache = KVCache(model.config, len(distinct), longest + sampling.max_new_tokens, dtype, device)
    with torch.inference_mode():
        documents = torch.where(distinct < 0, PADDING, REAL)
        positions = ((distinct >= 0).cumsum(1) - 1).clamp(min=0)
        last = model(
            distinct.clamp(min=0), position_ids=positions, document_ids=documents if ragged else None, cache=cache
        )[:, -1]
        if distinct is not padded:  # a prompt that is asked for several times is read once
            last = last[which]
            cache.keep_rows(which)

    rows = torch.arange(len(prompts), device=device)
    stop_ids = torch.tensor(sampling.stop_ids, device=device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for step in range(sampling.max_new_tokens):
        with torch.inference_mode():
            chosen = choose(model.logits(last), sampling, generator)
        yield chosen, rows
        with torch.inference_mode():
            done = done | torch.isin(chosen, stop_ids)
            left = int((~done).sum())
            if left == 0 or step + 1 == sampling.max_new_tokens:
                return
            if left <= COMPACT_BELOW * len(done):
                alive = (~done).nonzero().squeeze(1)
                cache.keep_rows(alive)
                chosen, rows, lengths, done = (tensor[alive] for tensor in (chosen, rows, lengths, done))
            documents = torch.full((len(chosen), 1), REAL, device=device)
            last = model(
                chosen[:, None],
                position_ids=lengths[:, None] + step,
                document_ids=documents if ragged else None,
                cache=cache,
            )[:, -1]


COMPACT_BELOW = 0.8  # rows that are done leave once a fifth of the batch is: dropping rows copies the cache


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """One token id per row of logits `B, V`."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    # by the inverse of the cumulative distribution: one random number a row, where torch.multinomial draws V
    cumulative = probabilities(logits, sampling).cumsum(-1)
    total = cumulative[:, -1:]
    point = torch.rand(total.shape, generator=generator, device=total.device) * total
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))  # rounding must not reach the total
    return torch.searchsorted(cumulative, point, right=True).squeeze(1)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """What is sampled from: softmax(logits / temperature) in fp32, cut to top-k, then to top-p. `B, V`."""
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    if sampling.top_p < 1:
        ordered, index = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(1, index, before >= sampling.top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return logits.softmax(-1)
