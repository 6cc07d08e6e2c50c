"""Operations, parameters and bytes against values worked out by hand, and against what torch counts and builds."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from groundup.model.config import ModelConfig, model_config
from groundup.model.decoder import Decoder
from groundup.plan import flops

SMALL = ModelConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip


def test_training_is_six_n_d_plus_causal_attention() -> None:
    # per layer: q, o 64x64 each; k, v 64x32 each; gate, up, down 64x192 each. Head: 1000x64.
    weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192) + 1000 * 64
    attention = 6 * 2 * 64 * 128  # 6 L H d T
    assert flops.training_flops(SMALL, 10_000, 128) == pytest.approx(10_000 * (6 * weights + attention))


def test_a_forward_pass_is_a_third_of_training() -> None:
    assert flops.forward_flops(SMALL, 500, 128) == pytest.approx(flops.training_flops(SMALL, 500, 128) / 3)


def test_torch_counts_the_same_matrix_products() -> None:
    model = Decoder(SMALL)
    ids = torch.randint(0, 1000, (2, 32))
    with FlopCounterMode(display=False) as counter:
        model.logits(model(ids))
    counted = counter.get_total_flops()
    products = 2 * SMALL.matmul_parameters() * 2 * 32
    square = 2 * 2 * (2 * 64 * 32 * 32) * 2  # batch x layers x (scores and values over all pairs of tokens)
    assert products < counted <= products + square  # how much of the square a kernel reports differs
    assert flops.forward_flops(SMALL, 2 * 32, 32) == pytest.approx(products + square / 2)


@pytest.mark.parametrize("preset", ["tiny", "10m"])
def test_parameters_are_those_of_the_built_model(preset: str) -> None:
    shape = model_config(preset)
    with torch.device("meta"):
        built = Decoder(shape)
    assert shape.parameters() == sum(parameter.numel() for parameter in built.parameters())


def test_muon_orthogonalises_every_hidden_matrix() -> None:
    def matrix(small: int, large: int) -> float:
        return 5 * (4 * small * small * large + 2 * small**3)

    by_hand = 2 * (2 * matrix(64, 64) + 2 * matrix(32, 64) + 3 * matrix(64, 192))
    assert flops.muon_flops(SMALL) == pytest.approx(by_hand)


def test_adamw_keeps_two_moments_and_muon_one_for_hidden_matrices() -> None:
    parameters = SMALL.parameters()
    hidden = SMALL.matmul_parameters() - 1000 * 64
    assert flops.optimizer_bytes(SMALL, "adamw") == 8 * parameters
    assert flops.optimizer_bytes(SMALL, "muon") == 4 * hidden + 8 * (parameters - hidden)


def test_a_checkpoint_is_twelve_bytes_a_weight_with_adamw() -> None:
    assert flops.checkpoint_bytes(SMALL, "adamw") == 12 * SMALL.parameters()
    kept_and_one_being_written = 3 * 12 * SMALL.parameters()
    assert flops.checkpoints_bytes(SMALL, "adamw", 2) == kept_and_one_being_written


def test_activations_grow_with_tokens_layers_and_width() -> None:
    tokens, logits = 4096, 2048 * 1000 * 4 * 3
    assert flops.activation_bytes(SMALL, tokens, is_bf16=True) == tokens * 2 * (26 * 64 + 8 * 192) + logits


def test_the_cache_holds_keys_and_values() -> None:
    assert flops.cache_bytes(SMALL, 100, 2) == 100 * 2 * 2 * 2 * 16 * 2  # tokens, k and v, layers, heads, width, bytes


def test_checkpointing_keeps_less_and_selective_lies_between() -> None:
    model = model_config("135m")
    for is_bf16 in (True, False):
        logits = 2048 * 49152 * 4 * 3
        whole, some, inputs = (
            flops.activation_bytes(model, 4096, is_bf16=is_bf16, checkpointing=mode) - logits
            for mode in (False, "selective", True)
        )
        assert inputs < 0.5 * some
        assert some < 0.7 * whole
        # 30 blocks' fp32 inputs, and less than two layers of all the rest
        assert 4096 * 30 * 4 * 576 < inputs < 4096 * 30 * 4 * 576 + whole / 15
