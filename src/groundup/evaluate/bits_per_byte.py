"""How well a model predicts text it has never seen, in bits per byte: comparable between tokenizers.

A document costs -log2 p(its tokens, then the end of text), each document on its own after the token that starts one:
its first token and its end are charged, as a compressor would have to. The sum over a source is divided by the UTF-8
bytes of its text. Text longer than the context is read in overlapping windows, so that no token is judged without
context. Beside it stands what `xz -9` makes of the same bytes, all documents of a source as one file.
"""

from __future__ import annotations

import hashlib
import lzma
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundup.errors import UserError
from groundup.evaluate.settings import BitsPerByteSettings
from groundup.evaluate.stats import Interval, bootstrap_ratio
from groundup.model.decoder import Decoder
from groundup.model.logprobs import token_logprobs
from groundup.tokens.documents import corpus_files, read_texts
from groundup.tokens.tokenizer import Tokenizer

TOKENS_PER_BATCH = 16384
FEWEST_DOCUMENTS = 10  # with fewer, blocks of text are resampled instead of documents
BLOCK_TOKENS = 128

# ---------------------------------------------------------------- which text


@dataclass(frozen=True)
class HeldOutText:
    """One document. `is_whole`: it was not cut at `max_bytes`, so its end is the author's and is charged."""

    text: str
    is_whole: bool = True

    @property
    def bytes(self) -> int:
        return len(self.text.encode("utf-8", "replace"))


def held_out_texts(corpus: Path, max_bytes: int) -> dict[str, list[HeldOutText]]:
    """Source -> documents with at most `max_bytes` in all, in an order that only their content decides."""
    files = corpus_files(corpus, "held_out")
    if not files:
        raise UserError(
            "the corpus holds no text back: there is no held_out/*.parquet",
            where=str(corpus),
            fix="set `held_out:` in the corpus stage and run it again",
        )
    texts = {source: [text for part in read_texts(paths) for text in part] for source, paths in files.items()}
    return {source: choose_texts(found, max_bytes) for source, found in texts.items() if found}


def choose_texts(texts: Sequence[str], max_bytes: int) -> list[HeldOutText]:
    """Documents in the order of their hashes until `max_bytes`; the one that passes it is cut between characters."""
    chosen: list[HeldOutText] = []
    left = max_bytes
    for text in sorted(texts, key=lambda text: hashlib.sha256(text.encode("utf-8", "replace")).digest()):
        data = text.encode("utf-8", "replace")
        if len(data) <= left:
            chosen.append(HeldOutText(text))
            left -= len(data)
            continue
        cut = data[:left].decode("utf-8", "ignore")
        if cut and (not chosen or len(cut) >= 200):
            chosen.append(HeldOutText(cut, is_whole=False))
        break
    return chosen


def xz_bits_per_byte(texts: Sequence[HeldOutText]) -> float:
    """What `xz -9` needs for the concatenated bytes."""
    data = "".join(text.text for text in texts).encode("utf-8", "replace")
    return 8 * len(lzma.compress(data, format=lzma.FORMAT_XZ, preset=9)) / len(data)


# ---------------------------------------------------------------- what a model makes of it


@dataclass(frozen=True)
class DocumentCost:
    """Bits that a document costs, token by token (its end last, if it was charged), and its bytes."""

    token_bits: list[float]
    token_ids: list[int]
    bytes: int

    @property
    def bits(self) -> float:
        return math.fsum(self.token_bits)


def document_costs(
    model: Decoder,
    tokenizer: Tokenizer,
    texts: Sequence[HeldOutText],
    *,
    context_len: int,
    stride: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[DocumentCost]:
    """The cost of each document; `progress` is told how many tokens are done. Independent of how rows are batched."""
    start, end = tokenizer.document_end_id, tokenizer.document_end_id
    encoded = tokenizer.encode_documents([text.text for text in texts])
    sequences = [[start, *ids, *([end] if t.is_whole else [])] for ids, t in zip(encoded, texts, strict=True)]
    bits = [np.zeros(len(sequence) - 1) for sequence in sequences]
    windows = [
        (document, *window)
        for document, sequence in enumerate(sequences)
        for window in windows_of(len(sequence) - 1, context_len, stride)
    ]
    windows.sort(key=lambda window: (window[3] - window[1], window), reverse=True)
    done = 0
    for batch in _batches(windows):
        costs = _window_bits(
            model, [(sequences[d][begin : stop + 1], first - begin) for d, begin, first, stop in batch]
        )
        for (document, _, first, stop), cost in zip(batch, costs, strict=True):
            bits[document][first:stop] = cost
            done += stop - first
        progress(done)
    return [
        DocumentCost(cost.tolist(), sequence[1:], text.bytes)
        for cost, sequence, text in zip(bits, sequences, texts, strict=True)
    ]


def windows_of(targets: int, context_len: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first, stop): the model reads inputs `begin..stop` and its targets `first..stop` are scored.

    Every target is scored exactly once. The first window scores all it reads; each later one reads as far back as the
    context reaches and scores `stride` new targets.
    """
    first = 0
    while first < targets:
        stop = min(targets, context_len if first == 0 else first + stride)
        yield max(0, stop - context_len), first, stop
        first = stop


Window = tuple[int, int, int, int]  # document, begin, first, stop


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Windows come longest first, so a batch has nearly equal lengths and little padding."""
    batch: list[Window] = []
    for window in windows:
        longest = batch[0][3] - batch[0][1] if batch else 0
        if batch and longest * (len(batch) + 1) > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _window_bits(model: Decoder, rows: Sequence[tuple[list[int], int]]) -> list[list[float]]:
    """Bits of the scored targets of each row; a row is its ids (inputs and last target) and where scoring starts."""
    longest = max(len(ids) for ids, _ in rows) - 1
    device = model.head_weight.device
    inputs = torch.tensor([ids[:-1] + [0] * (longest - len(ids) + 1) for ids, _ in rows], device=device)  # B, T
    targets = torch.tensor([ids[1:] + [0] * (longest - len(ids) + 1) for ids, _ in rows], device=device)
    lengths = torch.tensor([len(ids) - 1 for ids, _ in rows], device=device)
    firsts = torch.tensor([first for _, first in rows], device=device)
    at = torch.arange(longest, device=device)[None]
    is_scored = (at >= firsts[:, None]) & (at < lengths[:, None])
    with torch.inference_mode():
        hidden = model(inputs)  # B, T, C; the padding comes last, where no real token looks
        logprobs = token_logprobs(hidden[is_scored][None], model, targets[is_scored][None])[0]
    counts = is_scored.sum(1).tolist()
    return [(-part / math.log(2)).tolist() for part in logprobs.double().split(counts)]


# ---------------------------------------------------------------- the score


def score_source(
    costs: Sequence[DocumentCost],
    texts: Sequence[HeldOutText],
    tokenizer: Tokenizer,
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> dict[str, Any]:
    """`{value, low, high, bytes, documents, tokens, xz, resampled}` of one source."""
    interval, resampled = _interval(costs, tokenizer, confidence, resamples)
    return {
        "value": interval.value,
        "low": interval.low if math.isfinite(interval.low) else None,  # one cluster says nothing about spread
        "high": interval.high if math.isfinite(interval.high) else None,
        "bytes": sum(cost.bytes for cost in costs),
        "documents": len(costs),
        "tokens": sum(len(cost.token_ids) for cost in costs),
        "xz": xz_bits_per_byte(texts),
        "resampled": resampled,
    }


def _interval(
    costs: Sequence[DocumentCost], tokenizer: Tokenizer, confidence: float, resamples: int
) -> tuple[Interval, str]:
    """Bootstrap over documents; over blocks of text where there are too few documents to resample."""
    if len(costs) >= FEWEST_DOCUMENTS:
        clusters = [(cost.bits, float(cost.bytes)) for cost in costs]
        resampled = "documents"
    else:
        clusters = [block for cost in costs for block in _blocks(cost, tokenizer)]
        resampled = f"blocks of {BLOCK_TOKENS} tokens"
    bits, sizes = zip(*clusters, strict=True)
    return bootstrap_ratio(bits, sizes, confidence=confidence, resamples=resamples), resampled


def _blocks(cost: DocumentCost, tokenizer: Tokenizer) -> Iterator[tuple[float, float]]:
    """Bits and bytes of consecutive blocks of a document; their bytes add up to the document's."""
    starts = range(0, len(cost.token_ids), BLOCK_TOKENS)
    sizes = [
        len(tokenizer.decode(cost.token_ids[start : start + BLOCK_TOKENS], skip_special_tokens=True).encode())
        for start in starts
    ]
    scale = cost.bytes / max(sum(sizes), 1)  # a character cut between blocks decodes to something longer
    for start, size in zip(starts, sizes, strict=True):
        yield math.fsum(cost.token_bits[start : start + BLOCK_TOKENS]), size * scale


def window_sizes(settings: BitsPerByteSettings, model: Decoder) -> tuple[int, int]:
    """Context and stride in tokens, the context no longer than the model's."""
    context_len = min(
        settings.context_len or model.config.max_position_embeddings, model.config.max_position_embeddings
    )
    return context_len, min(settings.stride or max(1, 3 * context_len // 4), context_len)
