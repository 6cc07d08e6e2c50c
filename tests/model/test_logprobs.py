"""Chunked log-probabilities against log_softmax over whole logits: values and gradients, kept or computed again."""

from __future__ import annotations

import math

import pytest
import torch

from groundup.model import logprobs
from groundup.model.logprobs import token_logprobs
from groundup.model.loss import cross_entropy_sum


class Head:
    """The one thing that token_logprobs asks of a model."""

    def __init__(self, weight):
        self.head_weight = weight


@pytest.fixture(params=["kept", "again"], autouse=True)
def chunks(request, monkeypatch):
    """Chunks so small and odd that every boundary is crossed."""
    monkeypatch.setattr(logprobs, "CHUNK_ROWS", 7)
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 1)
    monkeypatch.setattr(logprobs, "SOFTMAX_BYTES", 4 * 33 * 3)
    monkeypatch.setattr(logprobs, "KEEP_BYTES", 1 << 40 if request.param == "kept" else 0)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 10, 8, generator=generator)
    weight = torch.randn(33, 8, generator=generator)
    targets = torch.randint(33, (2, 10), generator=generator)
    return hidden, weight, targets, torch.randn(2, 10, generator=generator)


def naive(hidden, weight, targets, temperature=1.0):
    logits = hidden.float() @ weight.float().T / temperature
    return torch.log_softmax(logits, -1).gather(-1, targets[..., None]).squeeze(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_the_naive_ones(inputs, temperature):
    hidden, weight, targets, slope = inputs
    results = []
    for function in (
        lambda h, w: token_logprobs(h, Head(w), targets, temperature),
        lambda h, w: naive(h, w, targets, temperature),
    ):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        out = function(h, w)
        out.backward(slope)
        results.append((out.detach(), h.grad, w.grad))
    for ours, expected in zip(*results, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - expected).abs().max() < 5e-6


def test_backward_twice_gives_twice_the_gradient(inputs):
    hidden, weight, targets, slope = inputs
    h = hidden.clone().requires_grad_()
    out = token_logprobs(h, Head(weight), targets)
    out.backward(slope, retain_graph=True)
    once = h.grad.clone()
    out.backward(slope)
    assert torch.allclose(h.grad, 2 * once)


def test_a_frozen_head_gets_no_gradient(inputs):
    hidden, weight, targets, slope = inputs
    h = hidden.clone().requires_grad_()
    token_logprobs(h, Head(weight), targets).backward(slope)
    assert h.grad is not None and weight.grad is None
    w = weight.clone().requires_grad_()
    token_logprobs(hidden, Head(w), targets).backward(slope)
    assert w.grad is not None


def test_under_autocast_it_is_bf16_products_and_an_fp32_softmax(inputs):
    hidden, weight, targets, slope = inputs
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = token_logprobs(h, Head(w), targets)
    out.backward(slope)
    assert out.dtype == h.grad.dtype == w.grad.dtype == torch.float32
    rounded = (hidden.bfloat16() @ weight.bfloat16().T).float()
    expected = torch.log_softmax(rounded, -1).gather(-1, targets[..., None]).squeeze(-1)
    assert (out - expected).abs().max() < 1e-5  # only the products are rounded
    assert (out - naive(hidden, weight, targets)).abs().max() < 0.1


def test_huge_logits_do_not_overflow(inputs):
    hidden, weight, targets, _ = inputs
    out = token_logprobs(hidden * 1000, Head(weight), targets)
    assert out.isfinite().all()
    assert torch.allclose(out, naive(hidden * 1000, weight, targets), rtol=1e-5, atol=1e-2)


def test_cross_entropy_sums_over_trained_tokens_only(inputs):
    hidden, weight, targets, _ = inputs
    weights = (torch.arange(20).view(2, 10) % 3 == 0).float() * 0.5
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss, total = cross_entropy_sum(h, Head(w), targets, weights)
    loss.backward()
    expected = -(naive(hidden, weight, targets) * weights).sum()
    assert float(total) == float(weights.sum())
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)
    assert (h.grad[weights == 0] == 0).all() and (h.grad[weights > 0] != 0).any(-1).all()
    h2, w2 = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    (-(naive(h2, w2, targets) * weights).sum()).backward()
    assert (h.grad - h2.grad).abs().max() < 5e-6 and (w.grad - w2.grad).abs().max() < 5e-6


def test_without_weights_every_token_counts(inputs):
    hidden, weight, targets, _ = inputs
    loss, total = cross_entropy_sum(hidden, Head(weight), targets)
    assert float(total) == 20
    assert float(loss) == pytest.approx(-float(naive(hidden, weight, targets).sum()), rel=1e-6)


def test_no_trained_token_is_a_loss_of_zero_with_a_gradient(inputs):
    hidden, weight, targets, _ = inputs
    h = hidden.clone().requires_grad_()
    loss, total = cross_entropy_sum(h, Head(weight), targets, torch.zeros(2, 10))
    loss.backward()
    assert loss.item() == total.item() == 0
    assert (h.grad == 0).all()


def test_a_new_model_predicts_about_uniformly(tokens):
    from groundup.model.config import model_config
    from groundup.model.decoder import Decoder
    from groundup.model.init import init_weights

    model = Decoder(model_config("tiny"))
    init_weights(model, 0)
    loss, total = cross_entropy_sum(model(tokens[:, :-1]), model, tokens[:, 1:])
    assert (loss / total).item() == pytest.approx(math.log(4096), rel=0.02)


def test_whole_logits_never_exist(monkeypatch):
    """The largest tensor that lives at once is a chunk, not N x V (the graph keeps nothing either)."""
    monkeypatch.setattr(logprobs, "KEEP_BYTES", 0)
    monkeypatch.setattr(logprobs, "CHUNK_ROWS", 16)
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 1)
    hidden, weight = torch.randn(1, 512, 8, requires_grad=True), torch.randn(1000, 8, requires_grad=True)
    with torch.profiler.profile(profile_memory=True, record_shapes=True) as profile:
        token_logprobs(hidden, Head(weight), torch.randint(1000, (1, 512))).sum().backward()
    largest = max(math.prod(shape) for event in profile.events() for shape in event.input_shapes if shape)
    assert largest <= 16 * 1000
