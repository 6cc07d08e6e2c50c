"""Every way to the loss against whole logits: values and gradients; and which way is whose."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from groundup.model import logprobs, loss
from groundup.model.loss import choose_loss, cross_entropy_sum, reference

N, C, V = 20, 8, 33
FORMS = ["chunked", "summed"]


def parts(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, N // 2, C, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, C, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(V, (2, N // 2), generator=generator)


def head(weight, **others):
    return SimpleNamespace(head_weight=weight, **others)


SOME = (torch.arange(N).view(2, -1) % 3 == 0).float() * torch.linspace(0.5, 2, N).view(2, -1)


@pytest.fixture(params=[1, 7 * 4 * V, 1 << 20], autouse=True)
def chunk_bytes(request, monkeypatch):
    """Chunks of one row, of seven, and one for all."""
    monkeypatch.setattr(loss, "SUMMED_CHUNK_BYTES", request.param)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weights", [None, SOME, torch.ones(2, N // 2), torch.zeros(2, N // 2)])
def test_every_form_is_the_reference_with_its_gradients(form, weights):
    results = []
    for function in (lambda *x: cross_entropy_sum(*x, form=form)[0], reference):
        hidden, weight, targets = parts()
        value = function(hidden, head(weight), targets, weights)
        (value * 0.25).backward()  # as a step divides it
        # a head that nothing went through has no gradient
        zero = torch.zeros_like(weight)
        results.append((value.detach(), hidden.grad, zero if weight.grad is None else weight.grad))
    for ours, expected in zip(*results, strict=True):
        assert ours.dtype == expected.dtype
        assert (ours - expected).abs().max() < 2e-5


@pytest.mark.parametrize("form", FORMS)
def test_the_second_number_is_the_sum_of_weights(form):
    hidden, weight, targets = parts()
    assert float(cross_entropy_sum(hidden, head(weight), targets, SOME, form)[1]) == pytest.approx(float(SOME.sum()))
    assert float(cross_entropy_sum(hidden, head(weight), targets, None, form)[1]) == N


def test_in_bf16_both_forms_round_only_the_products():
    hidden, weight, targets = parts()
    expected = reference(hidden, head(weight), targets)
    expected.backward()
    exact = hidden.grad, weight.grad
    for form in FORMS:
        hidden, weight, _ = parts()
        with torch.autocast("cpu", torch.bfloat16):
            value, _ = cross_entropy_sum(hidden, head(weight), targets, form=form)
        value.backward()
        assert value.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32
        assert float(value) == pytest.approx(float(expected), rel=0.01)
        for ours, theirs in zip((hidden.grad, weight.grad), exact, strict=True):
            assert (ours - theirs).square().mean().sqrt() < 0.02 * theirs.square().mean().sqrt()


def test_what_needs_no_gradient_gets_none():
    hidden, weight, targets = parts()
    cross_entropy_sum(hidden, head(weight.detach()), targets, form="summed")[0].backward()
    assert hidden.grad is not None
    hidden, weight, targets = parts()
    cross_entropy_sum(hidden.detach(), head(weight), targets, form="summed")[0].backward()
    assert weight.grad is not None
    with torch.no_grad():
        value, _ = cross_entropy_sum(hidden, head(weight), targets, form="summed")
    assert not value.requires_grad
    assert float(value) == pytest.approx(float(reference(hidden, head(weight), targets).detach()), rel=1e-6)


def test_backward_twice_gives_twice_the_gradient():
    hidden, weight, targets = parts()
    value, _ = cross_entropy_sum(hidden, head(weight), targets, form="summed")
    value.backward(retain_graph=True)
    once = hidden.grad.clone(), weight.grad.clone()
    value.backward()
    assert torch.allclose(hidden.grad, 2 * once[0])
    assert torch.allclose(weight.grad, 2 * once[1])


def test_no_logits_are_kept_for_the_backward_pass():
    hidden, weight, targets = parts()
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        cross_entropy_sum(hidden, head(weight), targets, form="summed")
    assert (N, C) in kept
    assert (N, V) not in kept


def test_on_a_gpu_the_sum_makes_its_gradient_unless_the_head_is_split():
    assert choose_loss("cpu") == "chunked"
    assert choose_loss("cuda") == "summed"
    assert choose_loss("cuda", is_split=True) == "chunked"


def test_a_gpus_chunk_of_logprobs_is_a_cpus():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(N, C, generator=generator), torch.randn(V, C, generator=generator)
    targets = torch.randint(V, (N,), generator=generator)
    for temperature in (1.0, 0.7):
        expected = logprobs._residual(hidden, weight, targets, temperature)
        found = logprobs._residual_at_once(hidden @ weight.T, targets, temperature)
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours - theirs).abs().max() < 2e-6


@pytest.mark.slow
def test_compiled_it_is_the_same():
    results = []
    for is_compiled in (False, True):
        hidden, weight, targets = parts()
        value, _ = cross_entropy_sum(hidden, head(weight, is_compiled=is_compiled), targets, SOME, "summed")
        value.backward()
        results.append((value.detach(), hidden.grad, weight.grad))
    for eager, fused in zip(*results, strict=True):
        assert (eager - fused).abs().max() < 1e-5
