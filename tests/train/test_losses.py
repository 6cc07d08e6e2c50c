"""Every loss against its formula, written out a second time in another way."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundup.train.losses import (
    Completions,
    gae,
    kl_k1,
    kl_k3,
    masked_mean,
    masked_variance,
    policy_loss_clipped,
    preference_losses,
    reward_losses,
    value_loss_clipped,
    whiten,
)

LN2 = math.log(2)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ---------------------------------------------------------------- preferences


def preference(pi_c: float, pi_r: float, ref_c: float, ref_r: float, lengths: tuple[int, int] = (4, 5), **options):  # type: ignore[no-untyped-def]
    c, r = torch.tensor([float(lengths[0])]), torch.tensor([float(lengths[1])])
    made = [Completions(torch.tensor([v]), n) for v, n in ((pi_c, c), (pi_r, r), (ref_c, c), (ref_r, r))]
    return float(preference_losses(*made, **{"beta": 0.5, **options}))


def test_preference_losses_by_hand() -> None:
    pi_c, pi_r, ref_c, ref_r = -10.0, -12.0, -11.0, -11.5  # log-ratios +1.0 and -0.5
    h = 0.5 * (1.0 + 0.5)
    args = (pi_c, pi_r, ref_c, ref_r)
    assert preference(*args) == pytest.approx(-math.log(sigmoid(h)), rel=1e-6)
    smoothed = -0.9 * math.log(sigmoid(h)) - 0.1 * math.log(sigmoid(-h))
    assert preference(*args, label_smoothing=0.1) == pytest.approx(smoothed, rel=1e-6)
    robust = (-0.9 * math.log(sigmoid(h)) + 0.1 * math.log(sigmoid(-h))) / 0.8
    assert preference(*args, loss_type="robust", label_smoothing=0.1) == pytest.approx(robust, rel=1e-6)
    assert preference(*args, loss_type="hinge") == pytest.approx(1 - h, rel=1e-6)
    assert preference(*args, loss_type="hinge", beta=5.0) == 0.0
    per_token = 1.0 / 4 - (-0.5) / 5
    assert preference(*args, loss_type="ipo") == pytest.approx((per_token - 1.0) ** 2, rel=1e-6)
    with_sft = preference(*args, rpo_alpha=2.0) - preference(*args)
    assert with_sft == pytest.approx(2.0 * 10.0 / 4, rel=1e-6)


def test_loss_where_policy_is_reference() -> None:
    for beta in (0.01, 0.1, 1.0):
        assert preference(-7.0, -9.0, -7.0, -9.0, beta=beta) == pytest.approx(LN2, abs=1e-7)
        assert preference(-7.0, -9.0, -7.0, -9.0, beta=beta, loss_type="hinge") == 1.0
        assert preference(-7.0, -9.0, -7.0, -9.0, beta=beta, loss_type="ipo") == pytest.approx((0.5 / beta) ** 2)


def test_robust_loss_is_unbiased_under_label_noise() -> None:
    """Expected over flipped labels, it is the loss of the true label."""
    noise, args, swapped = 0.2, (-10.0, -12.0, -11.0, -11.5), (-12.0, -10.0, -11.5, -11.0)
    right = preference(*args, loss_type="robust", label_smoothing=noise, lengths=(5, 5))
    flipped = preference(*swapped, loss_type="robust", label_smoothing=noise, lengths=(5, 5))
    assert (1 - noise) * right + noise * flipped == pytest.approx(preference(*args), rel=1e-5)


def test_unknown_preference_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown preference loss 'simpo'"):
        preference(0.0, 0.0, 0.0, 0.0, loss_type="simpo")


def test_reward_loss_by_hand_and_against_torch() -> None:
    chosen, rejected, margin = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0]), torch.tensor([0.3, 0.0])
    found = reward_losses(chosen, rejected, margin, center_rewards_coefficient=0.01)
    assert float(found[0]) == pytest.approx(-math.log(sigmoid(1.2)) + 0.01 * 2.5**2, rel=1e-6)
    assert float(found[1]) == pytest.approx(-math.log(sigmoid(-2.0)), rel=1e-6)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(
        chosen - rejected - margin, torch.ones(2), reduction="none"
    )
    torch.testing.assert_close(reward_losses(chosen, rejected, margin), bce)


# ---------------------------------------------------------------- masked statistics


def test_whiten_is_trls_formula() -> None:
    """TRL 1.12's masked_whiten, written out: mean and Bessel-corrected variance over the mask, rsqrt(var + 1e-8)."""
    values, mask = random(3, 7), torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0, 1, 1, 0, 0, 0, 0]])
    inside = values[mask.bool()].tolist()
    mean = sum(inside) / len(inside)
    variance = sum((v - mean) ** 2 for v in inside) / (len(inside) - 1)
    for shift_mean in (True, False):
        found = whiten(values, mask, shift_mean=shift_mean)
        for row, column in [(0, 0), (1, 3), (2, 2)]:
            expected = (float(values[row, column]) - mean) / math.sqrt(variance + 1e-8) + (0 if shift_mean else mean)
            assert float(found[row, column]) == pytest.approx(expected, rel=1e-9)
        assert not found[~mask.bool()].any()
    population = variance * (len(inside) - 1) / len(inside)
    assert float(masked_variance(values, mask)) == pytest.approx(variance, rel=1e-12)
    assert float(masked_variance(values, mask, unbiased=False)) == pytest.approx(population, rel=1e-12)


def test_whitened_values_have_mean_0_and_deviation_1_and_padding_is_nothing() -> None:
    values, mask = random(4, 9, scale=3.0) + 5, torch.ones(4, 9)
    found = whiten(values, mask)
    assert float(found.mean()) == pytest.approx(0, abs=1e-9) and float(found.std()) == pytest.approx(1, rel=1e-6)
    padded = torch.cat([values, torch.full((4, 5), 1e6, dtype=torch.float64)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(4, 5)], dim=1)
    torch.testing.assert_close(whiten(padded, padded_mask)[:, :9], found)
    assert float(masked_mean(padded, padded_mask)) == pytest.approx(float(values.mean()))


def test_one_or_no_value_is_not_a_division_by_zero() -> None:
    values = torch.tensor([[3.0, 4.0]])
    assert whiten(values, torch.tensor([[1.0, 0.0]])).tolist() == [[0.0, 0.0]]
    assert whiten(values, torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]
    assert float(masked_mean(values, torch.zeros(1, 2))) == 0.0


# ---------------------------------------------------------------- PPO


def gae_by_double_sum(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum over l of (gamma * lam)^l * delta_{t+l}, straight from the definition."""
    T = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < T else 0.0) - values[t] for t in range(T)]
    return [sum((gamma * lam) ** step * deltas[t + step] for step in range(T - t)) for t in range(T)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=3),
    st.sampled_from([1.0, 0.9]),
    st.sampled_from([0.95, 1.0, 0.0]),
    st.integers(0, 99),
)
def test_gae_is_the_double_sum_over_real_tokens(masks: list[list[bool]], gamma: float, lam: float, seed: int) -> None:
    mask = torch.tensor(masks)
    rewards, values = random(*mask.shape, seed=seed), random(*mask.shape, seed=seed + 1000)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row in range(len(masks)):
        real = mask[row]
        expected = gae_by_double_sum(rewards[row][real].tolist(), values[row][real].tolist(), gamma, lam)
        torch.testing.assert_close(advantages[row][real], torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(returns[row][real], advantages[row][real] + values[row][real])
        assert not advantages[row][~real].any() and not returns[row][~real].any()


def test_gae_with_lambda_1_is_reward_to_go_minus_value() -> None:
    rewards, values, mask = random(2, 5), random(2, 5, seed=1), torch.ones(2, 5)
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, to_go)
    torch.testing.assert_close(advantages, to_go - values)


def test_policy_loss_by_hand() -> None:
    old = torch.zeros(1, 6, dtype=torch.float64)
    new = torch.tensor([[0.0, math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5), math.log(9.0)]]).double()
    advantages = torch.tensor([[2.0, 1.0, -1.0, 1.0, -1.0, 7.0]]).double()
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    found = policy_loss_clipped(new, old, advantages, mask, 0.2)
    torch.testing.assert_close(found.losses, torch.tensor([[-2.0, -1.2, 1.5, -0.5, 0.8, 0.0]]).double())
    assert found.is_clipped.tolist() == [[0, 1, 0, 0, 1, 0]]
    assert float(found.ratio[0, 5]) == 1.0  # outside the mask nothing moved
    higher = policy_loss_clipped(new, old, advantages, mask, 0.2, cliprange_high=0.28)
    assert float(higher.losses[0, 1]) == pytest.approx(-1.28)
    dual = policy_loss_clipped(torch.full_like(old, math.log(9.0)), old, -torch.ones_like(old), mask, dual_clip=3.0)
    assert dual.losses.tolist() == [[3, 3, 3, 3, 3, 0]]


def test_first_minibatch_has_ratio_1_and_the_policy_gradient() -> None:
    """Where new == old, the gradient of the loss is that of -A * log p."""
    logprobs, advantages, mask = random(2, 4).requires_grad_(), random(2, 4, seed=1), torch.ones(2, 4)
    found = policy_loss_clipped(logprobs, logprobs.detach(), advantages, mask)
    assert torch.equal(found.ratio, torch.ones_like(found.ratio)) and not found.is_clipped.any()
    found.losses.sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


def test_clipped_tokens_have_no_gradient_and_a_wild_ratio_stays_finite() -> None:
    new = torch.tensor([[1.0, 1000.0]], dtype=torch.float64, requires_grad=True)
    found = policy_loss_clipped(new, torch.zeros(1, 2).double(), torch.tensor([[1.0, -1.0]]).double(), torch.ones(1, 2))
    found.losses.sum().backward()
    assert new.grad is not None and float(new.grad[0, 0]) == 0.0
    assert torch.isfinite(found.losses).all() and torch.isfinite(new.grad).all()


def test_value_loss_by_hand() -> None:
    values = torch.tensor([[1.0, 1.0, 0.0, 5.0]])
    old, returns = torch.tensor([[0.0, 1.1, 0.0, 0.0]]), torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    found = value_loss_clipped(values, old, returns, torch.tensor([[1, 1, 1, 0]]), 0.2)
    torch.testing.assert_close(found.losses, torch.tensor([[0.32, 0.5, 4.5, 0.0]]))  # (0.2 - 1)^2 / 2, 1 / 2, 9 / 2
    assert found.is_clipped.tolist() == [[1, 0, 0, 0]]


def test_kl_estimators_are_unbiased_and_zero_for_the_same_model() -> None:
    """Over all tokens of a small vocabulary, each is exactly the KL divergence in expectation."""
    p, q = random(9).log_softmax(0), random(9, seed=5).log_softmax(0)
    exact = float((p.exp() * (p - q)).sum())
    assert float((p.exp() * kl_k1(p, q)).sum()) == pytest.approx(exact, rel=1e-9)
    assert float((p.exp() * kl_k3(p, q)).sum()) == pytest.approx(exact, rel=1e-9)
    assert (kl_k3(p, q) >= 0).all() and (kl_k1(p, q) < 0).any()
    assert not kl_k1(p, p).any() and not kl_k3(p, p).any()
    assert torch.isfinite(kl_k3(torch.tensor([-1e4]), torch.tensor([0.0]))).all()
