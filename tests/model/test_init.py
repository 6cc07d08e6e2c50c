"""Every weight comes from hash(seed, its name): nothing else moves it."""

from __future__ import annotations

import math

import torch

from groundup.model.config import model_config
from groundup.model.decoder import Decoder
from groundup.model.init import init_weights

SHAPE = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def weights(seed=7, **fields):
    model = Decoder(model_config({**SHAPE, **fields}))
    init_weights(model, seed)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_the_same_seed_gives_the_same_model_whatever_torchs_state():
    torch.manual_seed(1)
    first = weights()
    torch.manual_seed(2)
    torch.randn(1000)
    assert all(torch.equal(a, b) for a, b in zip(first.values(), weights().values(), strict=True))


def test_another_seed_gives_another_model():
    a, b = weights(1), weights(2)
    assert all(not torch.equal(a[name], b[name]) for name in a if a[name].dim() == 2)


def test_the_order_of_modules_does_not_matter():
    model = Decoder(model_config(SHAPE))
    reversed_names = dict(reversed(list(model.named_parameters())))
    model.named_parameters = lambda: reversed_names.items()  # type: ignore[method-assign]
    init_weights(model, 7)
    assert all(torch.equal(reversed_names[name], value) for name, value in weights().items())


def test_a_deeper_or_untied_model_shares_what_has_the_same_name_and_scale():
    small, untied = weights(), weights(tie_word_embeddings=False)
    assert all(torch.equal(untied[name], value) for name, value in small.items())
    deep = weights(num_hidden_layers=3)
    assert torch.equal(deep["model.layers.1.self_attn.q_proj.weight"], small["model.layers.1.self_attn.q_proj.weight"])


def test_no_two_weights_are_equal():
    matrices = [value for value in weights().values() if value.dim() == 2]
    firsts = {float(value[0, 0]) for value in matrices}
    assert len(firsts) == len(matrices)


def test_scales():
    values = weights(attention_bias=True, initializer_range=0.05)
    for name, value in values.items():
        if name.endswith("norm.weight"):
            assert (value == 1).all()
        elif name.endswith("bias"):
            assert (value == 0).all()
        else:
            residual = "o_proj" in name or "down_proj" in name
            expected = 0.05 / math.sqrt(2 * 2) if residual else 0.05
            assert abs(float(value.std()) / expected - 1) < 0.06, name
            assert abs(float(value.mean())) < 0.05 * expected + 3 * expected / math.sqrt(value.numel())
