"""Bits per byte against a token-by-token reference, and `xz` against the program itself."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from groundup.errors import UserError
from groundup.evaluate import bits_per_byte
from groundup.evaluate.bits_per_byte import (
    HeldOutText,
    choose_texts,
    document_costs,
    held_out_texts,
    score_source,
    windows_of,
    xz_bits_per_byte,
)
from groundup.model.decoder import Decoder
from groundup.tokens.tokenizer import Tokenizer

TEXTS = [HeldOutText("The quick brown fox."), HeldOutText("Füchse — früh am Morgen! " * 12), HeldOutText("?")]


def slow_bits(model: Decoder, ids: list[int], context_len: int, stride: int) -> float:
    """One forward pass per token, with exactly the inputs that its window gives it. Softmax in float64."""
    total = 0.0
    first = 0
    while first < len(ids) - 1:
        stop = min(len(ids) - 1, context_len if first == 0 else first + stride)
        begin = max(0, stop - context_len)
        for target in range(first, stop):
            with torch.no_grad():
                logits = model.logits(model(torch.tensor([ids[begin : target + 1]])))[0, -1].double()
            total -= float(logits.log_softmax(-1)[ids[target + 1]]) / math.log(2)
        first = stop
    return total


@pytest.mark.parametrize(("context_len", "stride"), [(128, 64), (16, 4), (10, 10)])
def test_bits_are_those_of_one_token_at_a_time(
    context_len: int, stride: int, untrained: Decoder, tokenizer: Tokenizer
) -> None:
    costs = document_costs(untrained, tokenizer, TEXTS, context_len=context_len, stride=stride)
    end = tokenizer.document_end_id
    for cost, text in zip(costs, TEXTS, strict=True):
        ids = [end, *tokenizer.encode(text.text), end]
        assert cost.bits == pytest.approx(slow_bits(untrained, ids, context_len, stride), rel=1e-5)
        assert cost.bytes == len(text.text.encode())
        assert cost.token_ids == ids[1:]


def test_the_result_does_not_depend_on_batches(
    untrained: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for size in (1, 100, 8192):
        monkeypatch.setattr(bits_per_byte, "TOKENS_PER_BATCH", size)
        costs = document_costs(untrained, tokenizer, TEXTS, context_len=32, stride=16)
        results.append([cost.bits for cost in costs])
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[0] == pytest.approx(results[2], rel=1e-5)


def test_a_document_that_was_cut_is_not_charged_for_an_end(untrained: Decoder, tokenizer: Tokenizer) -> None:
    whole, cut = HeldOutText("The quick brown fox."), HeldOutText("The quick brown fox.", is_whole=False)
    costs = document_costs(untrained, tokenizer, [whole, cut], context_len=64, stride=32)
    assert costs[0].token_bits[:-1] == pytest.approx(costs[1].token_bits, rel=1e-5)
    assert costs[0].bits > costs[1].bits


def test_special_tokens_written_in_a_text_are_ordinary_text(untrained: Decoder, tokenizer: Tokenizer) -> None:
    (cost,) = document_costs(untrained, tokenizer, [HeldOutText("a<|endoftext|>b")], context_len=64, stride=32)
    assert cost.token_ids.count(tokenizer.document_end_id) == 1


@pytest.mark.parametrize(("targets", "context_len", "stride"), [(1, 4, 2), (4, 4, 2), (5, 4, 2), (23, 8, 3), (9, 4, 4)])
def test_windows_score_every_target_once_with_as_much_context_as_there_is(
    targets: int, context_len: int, stride: int
) -> None:
    windows = list(windows_of(targets, context_len, stride))
    assert [t for _, first, stop in windows for t in range(first, stop)] == list(range(targets))
    for begin, first, stop in windows:
        assert stop - begin <= context_len
        assert begin <= first
        assert begin == 0 or stop - begin == context_len
    assert all(stop - first <= stride for _, first, stop in windows[1:])


def test_a_uniform_model_costs_the_logarithm_of_the_vocabulary(tokenizer: Tokenizer, untrained: Decoder) -> None:
    import copy

    uniform = copy.deepcopy(untrained)
    with torch.no_grad():
        uniform.model.norm.weight.zero_()
    costs = document_costs(uniform, tokenizer, TEXTS, context_len=64, stride=32)
    score = score_source(costs, TEXTS, tokenizer)
    tokens = sum(len(cost.token_ids) for cost in costs)
    assert score["value"] == pytest.approx(tokens * math.log2(tokenizer.vocab_size) / score["bytes"], rel=1e-6)


def test_xz_is_the_programs(tmp_path: Path) -> None:
    if shutil.which("xz") is None:
        pytest.skip("the program xz is not installed")
    texts = [HeldOutText("Füchse und Dachse. " * 200), HeldOutText("Something else entirely.\n" * 50)]
    file = tmp_path / "texts"
    file.write_bytes("".join(text.text for text in texts).encode())
    packed = subprocess.run(["xz", "-9", "-c", file], capture_output=True, check=True).stdout
    assert xz_bits_per_byte(texts) == 8 * len(packed) / file.stat().st_size


def test_documents_are_chosen_by_their_content_up_to_a_number_of_bytes() -> None:
    texts = [f"document {i} " * 30 for i in range(20)]
    chosen = choose_texts(texts, 2_000)
    assert chosen == choose_texts(texts[::-1], 2_000)
    assert sum(text.bytes for text in chosen) <= 2_000
    assert all(text.is_whole for text in chosen[:-1])
    assert not chosen[-1].is_whole
    assert choose_texts(["ä" * 1000], 501) == [HeldOutText("ä" * 250, is_whole=False)]
    assert [text.text for text in choose_texts(["short"], 1000)] == ["short"]


def test_intervals_resample_documents_and_blocks_where_there_are_few(
    corpus: Path, untrained: Decoder, tokenizer: Tokenizer
) -> None:
    for source, texts in held_out_texts(corpus, 100_000).items():
        costs = document_costs(untrained, tokenizer, texts, context_len=64, stride=32)
        score = score_source(costs, texts, tokenizer)
        assert score["resampled"] == ("documents" if source == "web" else "blocks of 128 tokens")
        assert score["low"] < score["value"] < score["high"]
        assert score["documents"] == len(texts)
        assert score["bytes"] == sum(len(text.text.encode()) for text in texts)
    (single,) = document_costs(untrained, tokenizer, [HeldOutText("One line.")], context_len=64, stride=32)
    assert score_source([single], [HeldOutText("One line.")], tokenizer)["low"] is None


def test_a_corpus_that_held_nothing_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no text back"):
        held_out_texts(tmp_path, 1000)
