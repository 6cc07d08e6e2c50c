"""The native block against autograd through the decoder's own code: outputs and every gradient, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundup.kernels import native
from groundup.kernels.attention import first_visible
from groundup.kernels.packing import packed, weights_rest
from groundup.model import native_block
from groundup.model.attention import visibility
from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.init import init_weights

pytestmark = pytest.mark.skipif(not native.available(torch.float32), reason="no native kernels on this machine")

FAMILIES: list[dict[str, Any]] = [
    {},
    {"attention_bias": True, "mlp_bias": True},
    {"model_type": "qwen2", "attention_bias": True, "sliding_window": 9},
    {"model_type": "qwen3", "qk_norm": True, "attention_bias": True},
    {
        "model_type": "qwen3",
        "qk_norm": True,
        "sliding_window": 5,
        "layer_types": ("sliding_attention", "full_attention"),
    },
    {"model_type": "smollm3", "no_rope_layers": (1, 0)},
]


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    kv = draw(st.integers(1, 3))
    return ModelConfig(
        vocab_size=61,
        hidden_size=draw(st.sampled_from([8, 24, 40])),
        intermediate_size=draw(st.sampled_from([1, 16, 37, 64])),
        num_hidden_layers=2,
        num_attention_heads=kv * draw(st.integers(1, 3)),
        num_key_value_heads=kv,
        head_dim=draw(st.sampled_from([2, 10, 16, 32, 64])),
        **draw(st.sampled_from(FAMILIES)),
    )


def make(config: ModelConfig, seed: int = 0) -> Decoder:
    model = Decoder(config)
    init_weights(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too: zeros and ones would hide mistakes
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def documents(rows: int, tokens: int, seed: int) -> Tensor:
    """Packed documents with padding at the end, as the packers make them."""
    generator = torch.Generator().manual_seed(seed)
    ids = (torch.rand(rows, tokens, generator=generator) < 0.1).cumsum(1)
    ids[0, tokens - tokens // 5 :] = -1
    return ids


def run(model: Decoder, ids: Tensor, document_ids: Tensor | None, bf16: bool = False) -> dict[str, Tensor]:
    """Hidden states and all gradients of a random function of them; of padding nothing is used, as in training."""
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = model(ids, document_ids=document_ids)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    if document_ids is not None:
        weights = weights * (document_ids >= 0)[..., None]
    (hidden.float() * weights).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"hidden": (hidden.detach().float() * (weights != 0)), **grads}


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a function with the native blocks switched off."""

    def without(function: Any, *arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(native_block.native, "available", lambda _: False)
            return function(*arguments)

    return without


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def used_native(model: Decoder, ids: Tensor, document_ids: Tensor | None) -> bool:
    _, masks = model.model.surroundings(ids, None, document_ids, None)
    return all(isinstance(mask, native_block.Rows) for mask in masks.values())


@settings(max_examples=30, deadline=None)
@given(config=configs(), rows=st.integers(1, 3), tokens=st.integers(1, 70), packed_rows=st.booleans())
def test_fp32_gradients_of_every_parameter(config: ModelConfig, rows: int, tokens: int, packed_rows: bool) -> None:
    model = make(config)
    ids = torch.randint(0, config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(tokens))
    document_ids = documents(rows, tokens, tokens) if packed_rows else None
    assert used_native(model, ids, document_ids)
    ours = run(model, ids, document_ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_block.native, "available", lambda _: False)
        expected = run(model, ids, document_ids)
    assert ours.keys() == expected.keys()
    largest = max(float(value.norm()) for name, value in expected.items() if name != "hidden")
    digits = 2e-4 if config.qk_norm else 2e-5  # behind the norm of a head of two numbers no more than four are left
    for name in expected:
        # a gradient that is nothing but rounding (a key's bias) is compared with the others
        error = float((ours[name] - expected[name]).norm())
        assert error <= digits * float(expected[name].norm()) + 1e-6 * largest, (name, error)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: "-".join(family) or "llama")
@pytest.mark.parametrize("is_packed", [False, True])
def test_bf16_is_no_further_from_the_truth_than_torch_is(
    family: dict[str, Any], is_packed: bool, reference: Any
) -> None:
    config = ModelConfig(
        vocab_size=300, hidden_size=192, intermediate_size=320, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=64, **family,
    )  # fmt: skip
    model = make(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "layers" in name:
                parameter.mul_(0.3)
    ids = torch.randint(0, 300, (2, 300), generator=torch.Generator().manual_seed(0))
    document_ids = documents(2, 300, 3) if is_packed else None
    truth = reference(run, model, ids, document_ids)  # fp32
    ours, theirs = run(model, ids, document_ids, True), reference(run, model, ids, document_ids, True)
    ratios = []
    for name in truth:
        # of a key's bias the gradient is what is left of large numbers that cancel: rounding, in both
        if float(truth[name].norm()) > 1e-3 and not name.endswith("k_proj.bias"):
            error, limit = distance(ours[name], truth[name]), distance(theirs[name], truth[name])
            assert error <= 1.3 * limit + 1e-4, (name, error, limit)
            ratios.append(error / limit)
    assert sum(ratios) / len(ratios) <= 1.02


def test_a_frozen_weight_gets_no_gradient_and_the_others_keep_theirs() -> None:
    model = make(ModelConfig(vocab_size=61, hidden_size=24, num_hidden_layers=2))
    ids = torch.randint(0, 61, (2, 20))
    everything = run(model, ids, None)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("k_proj" in name or "up_proj" in name)
    some = run(model, ids, None)
    assert set(some) == {"hidden", *(name for name in everything if "k_proj" in name or "up_proj" in name)}
    for name in some:
        assert distance(some[name], everything[name]) < 1e-5


def test_checkpointing_changes_nothing() -> None:
    from torch.utils.checkpoint import checkpoint

    model = make(ModelConfig(vocab_size=61, hidden_size=24, num_hidden_layers=2))
    ids = torch.randint(0, 61, (2, 20))
    expected = run(model, ids, None)
    for layer in model.model.layers:
        forward = layer.forward
        layer.forward = lambda *a, forward=forward: checkpoint(forward, *a, use_reentrant=False)
    for name, value in run(model, ids, None).items():
        assert torch.equal(value, expected[name]), name


def test_the_same_numbers_every_time_and_for_every_number_of_threads() -> None:
    model = make(ModelConfig(vocab_size=61, hidden_size=64, num_hidden_layers=1))
    ids = torch.randint(0, 61, (2, 300))
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            runs.append(run(model, ids, None))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])
    assert all(distance(runs[1][name], runs[0][name]) < 1e-5 for name in runs[0])


def test_what_the_blocks_cannot_do_takes_the_readable_path() -> None:
    model = make(ModelConfig(vocab_size=61, hidden_size=24, num_hidden_layers=2))
    ids = torch.randint(0, 61, (1, 6))
    assert used_native(model, ids, None)
    assert not used_native(model, ids, torch.tensor([[0, 0, 1, 1, 0, 0]]))  # a document in two pieces
    handle = model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert not used_native(model, ids, None)
    handle.remove()
    model.model.layers[0].mlp.up_proj = torch.nn.Sequential(model.model.layers[0].mlp.up_proj)
    assert not used_native(model, ids, None)
    assert not used_native(make(ModelConfig(vocab_size=61, hidden_size=24)).double(), ids, None)


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 40), window=st.sampled_from([None, 1, 7]), seed=st.integers(0, 99))
def test_first_visible_says_what_the_mask_says(tokens: int, window: int | None, seed: int) -> None:
    document_ids = documents(2, tokens, seed)
    first = first_visible(document_ids, 2, tokens, window)
    assert first is not None
    mask = visibility(
        document_ids, document_ids, queries=tokens, keys=tokens, window=window, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert mask is not None
    index = torch.arange(tokens)
    seen = (index >= first[..., None]) & (index <= index[:, None])
    assert torch.equal(seen, mask[:, 0] == 0)


def test_cast_weights_are_kept_only_while_nobody_changes_them() -> None:
    a, b = torch.randn(3, 4), torch.randn(2, 4)
    with weights_rest():
        first = packed(torch.bfloat16, a, b)
        assert packed(torch.bfloat16, a, b) is first
        a.mul_(2)
        assert torch.equal(packed(torch.bfloat16, a, b), torch.cat((a, b)).bfloat16())
    again = packed(torch.bfloat16, a, b)
    assert packed(torch.bfloat16, a, b) is not again
