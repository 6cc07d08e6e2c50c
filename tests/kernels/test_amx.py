"""Products on the matrix units against the same in fp32 from the same bfloat16 numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundup.kernels import amx
from groundup.kernels.attention import first_visible

pytestmark = pytest.mark.skipif(not amx.available(torch.bfloat16), reason="this processor has no AMX, or no compiler")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 1100), m=st.integers(1, 530), k=st.integers(1, 300))
@example(n=1024, m=512, k=256)
@example(n=513, m=257, k=33)
def test_weight_gradient(n: int, m: int, k: int) -> None:
    grad, x = numbers(n, m), numbers(n, k, seed=1)
    expected = grad.double().t() @ x.double()
    assert (amx.weight_gradient(grad, x) - expected).norm() <= 1e-5 * expected.norm()


def reference(q: Tensor, k: Tensor, v: Tensor, first: Tensor, grad: Tensor) -> list[Tensor]:
    """Textbook attention in fp64 and autograd's gradients."""
    batch, t = q.shape[0], q.shape[2]
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    scores = torch.einsum("bhtgd,bhsd->bhgts", q, k)
    index = torch.arange(t)
    seen = (index >= first[:, :, None]) & (index <= index[:, None])
    p = scores.masked_fill(~seen[:, None, None], float("-inf")).softmax(-1)
    out = torch.einsum("bhgts,bhsd->bthgd", p, v).reshape(batch * t, -1)
    out.backward(grad.double())
    assert q.grad is not None and k.grad is not None and v.grad is not None
    return [out.detach(), q.grad, k.grad, v.grad]


def torch_attention(q: Tensor, k: Tensor, v: Tensor, first: Tensor, grad: Tensor) -> list[Tensor]:
    """torch's own fused attention, in bfloat16."""
    batch, kv, t, g, d = q.shape
    q, k, v = (x.clone().requires_grad_() for x in (q, k, v))
    index = torch.arange(t)
    seen = ((index >= first[:, :, None]) & (index <= index[:, None]))[:, None]
    heads = q.permute(0, 1, 3, 2, 4).reshape(batch, kv * g, t, d)
    every_k, every_v = k.repeat_interleave(g, 1), v.repeat_interleave(g, 1)
    out = F.scaled_dot_product_attention(heads, every_k, every_v, attn_mask=seen, scale=1.0)
    flat = out.transpose(1, 2).reshape(batch * t, -1)
    flat.backward(grad)
    assert q.grad is not None and k.grad is not None and v.grad is not None
    return [flat.detach(), q.grad, k.grad, v.grad]


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2), kv=st.integers(1, 2), g=st.integers(1, 4), t=st.integers(1, 200),
    d=st.sampled_from([32, 64, 96, 128]), window=st.sampled_from([None, 1, 20, 100]), packed=st.booleans(),
)  # fmt: skip
@example(batch=1, kv=1, g=3, t=200, d=64, window=None, packed=False)
@example(batch=1, kv=1, g=1, t=33, d=64, window=None, packed=True)
def test_attention_errs_no_more_than_torch_does(
    batch: int, kv: int, g: int, t: int, d: int, window: int | None, packed: bool
) -> None:
    q = (2 * numbers(batch, kv, t, g, d) * d**-0.5).bfloat16()
    k, v = numbers(batch, kv, t, d, seed=1), numbers(batch, kv, t, d, seed=2)
    grad = numbers(batch * t, kv * g * d, seed=3)
    documents = (torch.rand(batch, t, generator=torch.Generator().manual_seed(4)) < 0.05).cumsum(1) if packed else None
    first = first_visible(documents, batch, t, window)
    assert first is not None
    expected = reference(q, k, v, first, grad)

    out, kept = amx.attention(q, k, v, first)
    ours = [out, *amx.attention_backward(grad, q, k, v, out, kept, first)]
    theirs = torch_attention(q, k, v, first, grad)
    for a, b, truth in zip(ours, theirs, expected, strict=True):
        assert a.isfinite().all()
        scale = float(truth.norm()) + 0.02 * float(expected[0].norm())  # a gradient may be nothing but rounding
        assert float((a - truth).norm()) <= 1.2 * float((b - truth).norm()) + 3e-3 * scale


def test_scores_far_apart_stay_finite() -> None:
    q, k, v = (100 * numbers(1, 1, 64, 1, 32)), numbers(1, 1, 64, 32, seed=1), numbers(1, 1, 64, 32, seed=2)
    first = torch.zeros(1, 64, dtype=torch.int32)
    expected = reference(q, k, v, first, numbers(64, 32))
    out, kept = amx.attention(q, k, v, first)
    assert (out - expected[0]).norm() < 0.01 * expected[0].norm()
    assert all(g.isfinite().all() for g in amx.attention_backward(numbers(64, 32), q, k, v, out, kept, first))
