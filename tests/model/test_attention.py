"""Who sees whom, against a loop that says it in words; and the forms of attention against each other."""

from __future__ import annotations

import pytest
import torch

from groundup.model import attention, packed
from groundup.model.attention import attend, choose_attention, mask_for, visibility
from groundup.model.decoder import restarting_positions
from groundup.model.device import send
from groundup.model.packed import BLOCK, blocks_of, first_visible, spans_of

B, H, KV, T, D = 2, 4, 2, 12, 8
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3, [-1] * 3 + [7] * 9])


def mask_of(documents=DOCUMENTS, queries=T, window=None):
    given = None if documents is None else documents[:, -queries:]
    return visibility(
        given, documents, queries=queries, keys=T, window=window, dtype=torch.float32, device=torch.device("cpu")
    )


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("queries", [T, 4, 1])
def test_a_token_sees_its_own_document_backwards_within_the_window(window, queries):
    mask = mask_of(queries=queries, window=window)
    for row in range(B):
        for q in range(queries):
            t = T - queries + q
            for s in range(T):
                visible = s <= t and DOCUMENTS[row, s] == DOCUMENTS[row, t] and (window is None or t - s < window)
                assert (mask[row, 0, q, s] == 0) == visible
                assert visible or mask[row, 0, q, s] == float("-inf")


def test_one_new_token_that_sees_everything_needs_no_mask():
    assert mask_of(None, queries=1) is None
    assert mask_of(None, queries=1, window=T) is None
    assert mask_of(None, queries=1, window=T - 1) is not None


def by_hand(q, k, v, mask):
    """One head and one token at a time."""
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            kv = h // (q.shape[1] // k.shape[1])
            for t in range(q.shape[2]):
                scores = k[b, kv] @ q[b, h, t] / q.shape[-1] ** 0.5
                if mask is not None:
                    scores = scores + mask[b if mask.shape[0] > 1 else 0, 0, t]
                out[b, h, t] = torch.softmax(scores, 0) @ v[b, kv]
    return out


@pytest.mark.parametrize("form", ["matmul", "sdpa"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("queries", [T, 1])
def test_both_forms_equal_attention_by_hand_forward_and_backward(form, window, queries):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, h, t, D, generator=generator) for h, t in ((H, queries), (KV, T), (KV, T)))
    mask = mask_of(queries=queries, window=window)
    seed = torch.randn(q.shape, generator=generator)
    results = []
    for function in (lambda *x: attend(*x, form=form), by_hand):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        # strided as the decoder's are: heads and tokens swapped
        out = function(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in leaves), mask)
        out.backward(seed)
        results.append((out.detach(), *(x.grad for x in leaves)))
    for ours, expected in zip(*results, strict=True):
        assert (ours - expected).abs().max() < 2e-6


def test_in_bf16_both_forms_are_within_its_rounding(llama, tokens, monkeypatch):
    """bf16 keeps 8 bits: both forms stay as near to fp32 as that allows, neither is the worse one by far."""
    documents = (torch.arange(40) >= 17).long().expand(3, -1)
    errors = {}
    with torch.no_grad():
        exact = llama(tokens, document_ids=documents)
        for form in ("matmul", "sdpa"):
            monkeypatch.setattr(attention, "choose_attention", lambda *_, form=form, **__: form)
            with torch.autocast("cpu", torch.bfloat16):
                errors[form] = float((llama(tokens, document_ids=documents).float() - exact).square().mean().sqrt())
    assert all(error < 0.02 * float(exact.square().mean().sqrt()) for error in errors.values()), errors
    assert errors["matmul"] < 2 * errors["sdpa"]


def test_no_mask_means_all_are_seen():
    q, k, v = torch.randn(B, H, 1, D), torch.randn(B, KV, T, D), torch.randn(B, KV, T, D)
    for form in ("matmul", "sdpa"):
        assert (attend(q, k, v, None, form) - by_hand(q, k, v, None)).abs().max() < 1e-6


@pytest.mark.parametrize("form", ["matmul", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_editing_one_document_leaves_the_other_bit_equal(llama, tokens, form, dtype, monkeypatch):
    monkeypatch.setattr(attention, "choose_attention", lambda *_, **__: form)
    documents = (torch.arange(40) >= 17).long().expand(3, -1)
    edited = tokens.clone()
    edited[:, :17] = (edited[:, :17] + 1) % 131
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        before = llama.logits(llama(tokens, document_ids=documents))
        after = llama.logits(llama(edited, document_ids=documents))
    assert torch.equal(before[:, 17:], after[:, 17:])
    assert not torch.equal(before[:, :17], after[:, :17])


@pytest.mark.parametrize("form", ["matmul", "sdpa"])
def test_gradients_do_not_cross_documents(llama, tokens, form, monkeypatch):
    monkeypatch.setattr(attention, "choose_attention", lambda *_, **__: form)
    documents = (torch.arange(40) >= 17).long().expand(3, -1)
    llama.zero_grad()
    llama(tokens, document_ids=documents)[:, 17:].square().sum().backward()
    grad = llama.model.embed_tokens.weight.grad
    only_before = set(tokens[:, :17].flatten().tolist()) - set(tokens[:, 17:].flatten().tolist())
    assert only_before
    assert all(not grad[token].any() for token in only_before)


BF16 = {"queries": 4096, "dtype": torch.bfloat16, "head_dim": 128}


def test_the_fast_form_is_for_cpus_and_short_rows():
    assert choose_attention("cpu", 256) == "matmul"
    assert choose_attention("cpu", 256, **{**BF16, "queries": 256}, packed=True) == "matmul"
    assert choose_attention("cpu", 100_000) == "sdpa"
    assert choose_attention("cpu", 4096, **BF16, packed=True) == "sdpa"
    assert choose_attention("cpu", 4096, **BF16) == "causal"
    assert choose_attention("cuda", 256) == "sdpa"


def test_on_a_gpu_every_kind_of_row_has_a_kernel_that_makes_no_mask(monkeypatch):
    monkeypatch.setattr(attention, "has_varlen", lambda: True)
    assert choose_attention("cuda", 4096, **BF16) == "causal"
    assert choose_attention("cuda", 4096, **BF16, window=4096) == "causal"
    assert choose_attention("cuda", 4096, **BF16, packed=True) == "varlen"
    assert choose_attention("cuda", 4096, **BF16, window=1024) == "varlen"
    assert choose_attention("cuda", 4096, **{**BF16, "dtype": torch.float32}, packed=True) == "flex"
    assert choose_attention("cuda", 4096, **{**BF16, "head_dim": 36}, packed=True) == "flex"
    assert choose_attention("cuda", 4096, **{**BF16, "queries": 1}, packed=True) == "sdpa"  # a cache
    assert choose_attention("mps", 4096, **BF16, packed=True) == "sdpa"
    monkeypatch.setattr(attention, "has_varlen", lambda: False)
    assert choose_attention("cuda", 4096, **BF16, packed=True) == "flex"


def varlen_by_hand(q, k, v, starts, longest, window):
    """Every document alone, its heads as `by_hand` has them."""
    out = torch.empty_like(q)
    assert int(starts.diff().max()) <= longest
    for begin, end in zip(starts.tolist(), starts[1:].tolist(), strict=False):
        length = end - begin
        t = torch.arange(length)
        seen = (t[:, None] >= t) & ((window[0] < 0) | (t[:, None] - t <= window[0]))
        mask = torch.zeros(length, length).masked_fill(~seen, float("-inf"))[None, None]
        parts = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
        out[begin:end] = by_hand(*parts, mask)[0].transpose(0, 1)
    return out


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("documents", [DOCUMENTS, None])
def test_the_kernels_for_packed_rows_are_told_the_same_as_the_dense_mask(window, documents, monkeypatch):
    """The kernels run on GPUs only: what they are told is run by a loop (varlen) and uncompiled (flex)."""
    monkeypatch.setattr(packed, "varlen", varlen_by_hand)
    generator = torch.Generator().manual_seed(0)
    # strided as the decoder's are: heads and tokens swapped
    q, k, v = (torch.randn(B, T, h, D, generator=generator).transpose(1, 2) for h in (H, KV, KV))
    expected = attend(q, k, v, mask_of(documents, window=window), "sdpa")
    for form in ("varlen", "flex"):
        monkeypatch.setattr(attention, "choose_attention", lambda *_, form=form, **__: form)
        sizes = {"rows": B, "queries": T, "keys": T, "head_dim": D, "dtype": torch.float32}
        mask = mask_for(documents, documents, window=window, device=torch.device("cpu"), **sizes)
        with torch.no_grad():
            assert (attend(q, k, v, mask) - expected).abs().max() < 1e-6, form


def test_causal_rows_need_no_mask():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, h, T, D, generator=generator) for h in (H, KV, KV))
    assert (attend(q, k, v, "causal") - attend(q, k, v, mask_of(None), "matmul")).abs().max() < 1e-6


def test_spans_are_the_runs_of_equal_ids():
    spans = spans_of(DOCUMENTS, 5, "cpu")
    assert spans.starts.tolist() == [0, 5, 9, 12, 15, 24]
    assert spans.starts.dtype == torch.int32
    assert (spans.longest, spans.window) == (9, 5)


@pytest.mark.parametrize("window", [None, 1, 100, 300])
@pytest.mark.parametrize("tokens", [BLOCK, 2 * BLOCK, 3 * BLOCK + 17, 5 * BLOCK])
def test_blocks_hold_every_pair_that_is_seen_and_whole_ones_nothing_else(window, tokens):
    lengths = torch.tensor([1, 40, 200, 3, 150, 97, 1, 1, tokens])
    documents = torch.stack([torch.arange(9).repeat_interleave(lengths)[:tokens], torch.zeros(tokens).long()])
    dense = visibility(
        documents, documents, queries=tokens, keys=tokens, window=window, dtype=torch.float32, device=documents.device
    )
    seen = (dense == 0)[:, 0]
    mask = blocks_of(documents, window, "cpu").mask
    blocks = -(-tokens // BLOCK)
    for row in range(2):
        for i in range(blocks):
            listed = mask.kv_indices[row, 0, i, : mask.kv_num_blocks[row, 0, i]].tolist()
            whole = mask.full_kv_indices[row, 0, i, : mask.full_kv_num_blocks[row, 0, i]].tolist()
            assert not set(listed) & set(whole)
            for j in range(blocks):
                part = seen[row, i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]
                assert bool(part.any()) == (j in {*listed, *whole})
                assert j not in whole or (part.all() and part.shape == (BLOCK, BLOCK))
                assert j in whole or not (part.all() and part.shape == (BLOCK, BLOCK))
    index = torch.arange(tokens)
    told = mask.mask_mod(torch.tensor(0), torch.tensor(0), index[:, None], index)
    assert torch.equal(told, seen[0])


def test_what_a_token_sees_first_never_falls_along_a_row():
    for window in (None, 1, 4):
        assert (first_visible(DOCUMENTS, window).diff(dim=1) >= 0).all()


@pytest.mark.parametrize("family", ["mistral_window", "qwen2_window", "smollm3_no_rope"])
def test_a_whole_decoder_is_the_same_by_spans_and_by_blocks(random_family, tokens, family, monkeypatch):
    monkeypatch.setattr(packed, "varlen", varlen_by_hand)
    model = random_family(family)
    documents = (torch.arange(40) >= 17).long().expand(3, -1)
    with torch.no_grad():
        expected = model(tokens, document_ids=documents)
        for form in ("varlen", "flex"):
            monkeypatch.setattr(attention, "choose_attention", lambda *_, form=form, **__: form)
            assert (model(tokens, document_ids=documents) - expected).abs().max() < 1e-5


def test_nothing_is_sent_where_it_already_is():
    x = torch.zeros(3)
    assert send(x, "cpu") is x
    assert send(x, torch.device("meta")).device.type == "meta"


def test_positions_restart_with_each_document():
    positions = restarting_positions(DOCUMENTS, T, torch.device("cpu"))
    assert positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8]]
    assert restarting_positions(None, 3, torch.device("cpu")).tolist() == [[0, 1, 2]]
