"""Hand-written backward passes against autograd on the textbook formula; RoPE as a rotation."""

from __future__ import annotations

import pytest
import torch

from groundup.model.config import model_config
from groundup.model.functions import rms_norm, rotate
from groundup.model.rope import RotaryTable


def textbook_norm(x, weight, eps):
    return weight * (x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps))


@pytest.mark.parametrize("eps", [1e-5, 0.3])  # a large one: where eps sits matters
def test_rms_norm_and_its_gradients(eps):
    x, weight = torch.randn(2, 5, 16), torch.randn(16)
    grad = torch.randn(2, 5, 16)
    results = []
    for function in (lambda x, w: rms_norm(x, w, eps, torch.float32), lambda x, w: textbook_norm(x, w, eps)):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = function(a, b)
        out.backward(grad)
        results.append((out.detach(), a.grad, b.grad))
    for ours, expected in zip(*results, strict=True):
        assert (ours - expected).abs().max() < 1e-5


def test_rms_norm_takes_its_mean_in_fp32():
    x = torch.full((1, 4096), 200.0, dtype=torch.bfloat16)
    assert rms_norm(x, torch.ones(4096), 1e-5, torch.bfloat16).float().sub(1).abs().max() < 0.01


def test_rotation_turns_each_pair_by_position_times_frequency():
    config = model_config({"hidden_size": 32, "num_attention_heads": 4, "rope_theta": 100.0})
    positions = torch.tensor([[0, 3, 50]])
    x = torch.randn(1, 2, 3, 8)
    y = rotate(x, *RotaryTable(config).at(positions, 51, torch.float32))
    for t, position in enumerate([0, 3, 50]):
        for i in range(4):
            turn = torch.polar(torch.tensor(1.0), torch.tensor(position * 100.0 ** (-2 * i / 8)))
            expected = torch.complex(x[0, :, t, i], x[0, :, t, i + 4]) * turn
            assert (torch.complex(y[0, :, t, i], y[0, :, t, i + 4]) - expected).abs().max() < 1e-5


def test_rotation_gradients():
    config = model_config({"hidden_size": 16, "num_attention_heads": 4})
    cos, sin = (t.double() for t in RotaryTable(config).at(torch.arange(5)[None], 5, torch.float32))
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))


def test_the_table_grows_and_serves_training_after_generation():
    table = RotaryTable(model_config("tiny"))
    with torch.inference_mode():
        table.at(torch.tensor([[1]]), 2, torch.float32)
    assert torch.stack(table.at(torch.tensor([[5000]]), 5001, torch.float32)).isfinite().all()
    short = RotaryTable(model_config("tiny")).at(torch.tensor([[1]]), 2, torch.float32)
    long = table.at(torch.tensor([[1]]), 2, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=True))
    x = torch.ones(1, 4, 1, 64, requires_grad=True)
    rotate(x, *long).sum().backward()
    assert x.grad is not None
