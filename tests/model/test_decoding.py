"""The two engines against the model itself: same logits in fp32, stated errors in bfloat16 and int8."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from groundup.model import decoding
from groundup.model.config import model_config
from groundup.model.decoding import prepare
from groundup.model.generate import Sampling, generate

from .conftest import SMALL, random_model

KINDS = ("float32", "bfloat16", "int8")
# error of logits, root mean square, against logits of the fp32 model
ALLOWED = {"float32": 2e-6, "bfloat16": 0.012, "int8": 0.025}


@pytest.fixture(params=["native", "torch"])
def engine(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(decoding, "is_native", lambda _: False)
    elif not all(decoding.is_native(kind) for kind in KINDS):
        pytest.skip("no native engine on this machine")
    return request.param


def relative_error(ours, expected):
    return float((ours - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def teacher_forced(engine, ids):
    """Logits after every token of `ids` `B, T`, one step at a time."""
    cache = engine.new_cache(len(ids), ids.shape[1])
    return torch.stack([engine.step(cache, column.numpy()).clone() for column in ids.T], 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("engine")
def test_teacher_forced_logits_stay_within_the_stated_error(twins, tokens, kind):
    with torch.no_grad():
        expected = twins.ours.logits(twins.ours(tokens))
    assert relative_error(teacher_forced(prepare(twins.ours, kind), tokens), expected) < ALLOWED[kind]


@pytest.mark.usefixtures("engine")
def test_a_step_by_step_answer_is_the_same_as_one_read_at_once(twins, tokens):
    packed = prepare(twins.ours, "float32")
    cache = packed.new_cache(5, 40)
    pieces = [tokens[0, :31].tolist(), tokens[1, :1].tolist(), tokens[2, :16].tolist()]
    read = packed.read(cache, 1, pieces).clone()
    stepped = teacher_forced(packed, tokens)
    expected = torch.stack([stepped[0, 30], stepped[1, 0], stepped[2, 15]])
    assert torch.allclose(read, expected, atol=1e-5)
    assert cache.lengths.tolist() == [0, 31, 1, 16, 0]
    # ragged again: pieces of different lengths behind sequences of different lengths
    more = packed.read(cache, 1, [tokens[0, 31:33].tolist(), tokens[1, 1:30].tolist(), tokens[2, 16:17].tolist()])
    assert torch.allclose(more, torch.stack([stepped[0, 32], stepped[1, 29], stepped[2, 16]]), atol=1e-5)


@pytest.mark.usefixtures("engine")
def test_slots_can_be_copied_cut_and_used_again(llama, tokens):
    packed = prepare(llama)
    expected = teacher_forced(packed, tokens)
    cache = packed.new_cache(3, 40)
    packed.read(cache, 0, [tokens[0].tolist(), tokens[1].tolist()])
    cache.copy(0, 2, 17)  # within a block of the native cache
    assert torch.allclose(packed.read(cache, 2, [tokens[0, 17:20].tolist()])[0], expected[0, 19], atol=1e-5)
    cache.lengths[1] = 5
    assert torch.allclose(packed.read(cache, 1, [tokens[1, 5:7].tolist()])[0], expected[1, 6], atol=1e-5)
    cache.lengths[0] = 0
    out = packed.step(cache, np.array([int(tokens[2, 0])]))
    assert torch.allclose(out[0], expected[2, 0], atol=1e-5)


@pytest.mark.usefixtures("engine")
def test_what_an_old_sequence_left_in_a_slot_is_never_seen(tokens):
    """Not even where it is no number: a model that diverged may have had the slot before."""
    packed = prepare(random_model(model_config({**SMALL, "head_dim": 16})))
    expected = teacher_forced(packed, tokens)
    cache = packed.new_cache(2, 40)
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("nan"))
    out = packed.read(cache, 0, [tokens[0, :21].tolist(), tokens[1, :10].tolist()])
    assert torch.allclose(out, torch.stack([expected[0, 20], expected[1, 9]]), atol=1e-5)
    cache.values[:, 1, :, :].fill_(float("nan"))
    cache.copy(0, 1, 13)
    assert torch.allclose(packed.read(cache, 1, [tokens[0, 13:16].tolist()])[0], expected[0, 15], atol=1e-5)


@pytest.mark.usefixtures("engine")
def test_a_cache_that_is_full_says_so(llama):
    packed = prepare(llama)
    cache = packed.new_cache(1, 16)
    packed.read(cache, 0, [[1] * 15])
    packed.step(cache, np.array([1]))
    with pytest.raises(IndexError):
        packed.step(cache, np.array([1]))


@pytest.mark.usefixtures("engine")
def test_a_broken_weight_is_seen_in_the_logits():
    """NaN must not be rounded into a plausible number."""
    for kind in KINDS:
        model = random_model(model_config(SMALL))
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight[3, 5] = float("nan")
        packed = prepare(model, kind)
        assert torch.isnan(packed.read(packed.new_cache(1, 4), 0, [[1, 2, 3]])).any(), kind


@pytest.mark.usefixtures("engine")
def test_greedy_answers_in_fewer_bits_are_those_of_fp32():
    """On a model that has something to say: one that was trained to count."""
    model = counting_model()
    prompts = [[start, start + 1, start + 2] for start in range(0, 100, 9)]
    expected = [[(p[-1] + i) % 131 for i in range(1, 9)] for p in prompts]
    for kind in KINDS:
        assert [c.ids for c in generate(model, prompts, Sampling(8, 0), dtype=kind)] == expected, kind


_COUNTING = []


def counting_model():
    if not _COUNTING:
        model = random_model(model_config(SMALL)).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        rows = (torch.arange(131)[:, None] + torch.arange(12)) % 131
        for _ in range(150):
            logits = model.logits(model(rows[:, :-1]))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert float(loss.detach()) < 0.1
        _COUNTING.append(model.eval())
    return _COUNTING[0]


def test_native_is_chosen_only_where_it_is_there_and_asked_for_on_the_cpu(llama, monkeypatch):
    monkeypatch.setenv("GROUNDUP_KERNELS", "0")
    from groundup.kernels import decode

    decode.decode_library.cache_clear()
    try:
        assert type(prepare(llama)).__name__ == "TorchDecoder"
        assert decode.why_no_decode() == "GROUNDUP_KERNELS=0 leaves them out"
    finally:
        decode.decode_library.cache_clear()
