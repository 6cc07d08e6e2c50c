"""The arithmetic of alignment, as pure functions: preference losses, reward-model losses and the pieces of PPO.

Nothing here knows a model, a tokenizer or a batch; every function maps tensors to tensors, so each formula can be read
beside its paper and tested by hand. Shapes: N pairs; B sequences; T token positions. Masks are 1 (or True) where a
token counts. Per-token losses come back as B x T, zero where the mask is zero, so that the caller sums them and divides
by the *global* number of tokens (never a mean of means).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # exp(20) is far outside any clip range; the clamp only keeps a bad token from giving inf
PreferenceLoss = Literal["sigmoid", "robust", "hinge", "ipo"]

# ---------------------------------------------------------------- preferences: DPO and its relatives


@dataclass(frozen=True)
class Completions:
    """Summed log-probabilities of N completions (end-of-turn token included) and how many tokens each sum has."""

    logps: Tensor  # N, fp32: sum over completion tokens of log p
    lengths: Tensor  # N, tokens in each sum

    def per_token(self) -> Tensor:
        return self.logps / self.lengths.clamp(min=1)


def preference_losses(
    chosen: Completions,
    rejected: Completions,
    reference_chosen: Completions,
    reference_rejected: Completions,
    *,
    beta: float,
    loss_type: PreferenceLoss = "sigmoid",
    label_smoothing: float = 0.0,
    rpo_alpha: float = 0.0,
) -> Tensor:
    """One loss per pair (N).

    With h = beta * ((pi_c - ref_c) - (pi_r - ref_r)), where pi and ref are summed log-probabilities:

    - `sigmoid`: -(1-e) log sigma(h) - e log sigma(-h). DPO, Rafailov et al. 2305.18290 eq. 7; conservative where e > 0.
    - `robust`: ((1-e)(-log sigma(h)) + e log sigma(-h)) / (1-2e), unbiased when a share e of the labels is wrong
      (Chowdhury et al. 2403.00409).
    - `hinge`: relu(1 - h). SLiC, Zhao et al. 2305.10425, with the DPO margin (Liu et al. 2309.06657).
    - `ipo`: (d - 1/(2 beta))^2 where d is the same difference of *per-token mean* log-ratios (Azar et al. 2310.12036
      eq. 17; the mean is the authors' own reading of it, as TRL documents).

    `rpo_alpha` adds that many times the mean negative log-likelihood of the chosen answer (the SFT term of RPO, Pang et
    al. 2404.19733 eq. 1), which keeps the chosen answer from losing probability together with the rejected one.
    """
    chosen_ratio = chosen.logps - reference_chosen.logps
    rejected_ratio = rejected.logps - reference_rejected.logps
    margin = beta * (chosen_ratio - rejected_ratio)
    smoothing = label_smoothing
    if loss_type == "sigmoid":
        losses = -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
    elif loss_type == "robust":
        losses = (-(1 - smoothing) * F.logsigmoid(margin) + smoothing * F.logsigmoid(-margin)) / (1 - 2 * smoothing)
    elif loss_type == "hinge":
        losses = torch.relu(1 - margin)
    elif loss_type == "ipo":
        difference = (chosen.per_token() - reference_chosen.per_token()) - (
            rejected.per_token() - reference_rejected.per_token()
        )
        losses = (difference - 1 / (2 * beta)) ** 2
    else:
        raise ValueError(f"unknown preference loss {loss_type!r}")
    if rpo_alpha:
        losses = losses - rpo_alpha * chosen.per_token()
    return losses


# ---------------------------------------------------------------- reward model


def reward_losses(
    chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, center_rewards_coefficient: float = 0.0
) -> Tensor:
    """One loss per pair (N): -log sigma(r_c - r_r - margin) + c * (r_c + r_r)^2.

    Bradley-Terry as in Ouyang et al. 2203.02155 eq. 1, the margin of Llama 2 (2307.09288 eq. 2), and the centring of
    Eisenstein et al. 2312.09244 eq. 2, which fixes the constant that Bradley-Terry leaves free (usual c: 0.01).
    """
    losses = -F.logsigmoid(chosen - rejected - margin)
    if center_rewards_coefficient:
        losses = losses + center_rewards_coefficient * (chosen + rejected) ** 2
    return losses


# ---------------------------------------------------------------- masked statistics


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all positions where `mask` is 1; 0 where there is none. Returns a scalar."""
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def masked_variance(values: Tensor, mask: Tensor, *, unbiased: bool = True) -> Tensor:
    """Variance over the masked positions, with Bessel's correction n/(n-1) when `unbiased` and n > 1."""
    count = mask.sum().to(values.dtype)
    variance = masked_mean((values - masked_mean(values, mask)) ** 2, mask)
    if unbiased:
        variance = variance * torch.where(count > 1, count / (count - 1).clamp(min=1), torch.ones_like(variance))
    return variance


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True, *, unbiased: bool = True) -> Tensor:
    """(values - mean) * rsqrt(variance + 1e-8) over the masked positions; 0 outside the mask.

    `shift_mean=False` puts the mean back afterwards (for rewards, whose level means something). The Bessel-corrected
    variance is TRL's choice; the original lm-human-preferences code used the population's (`unbiased=False`). They
    differ by a factor sqrt(n/(n-1)), which matters below some dozens of tokens.
    """
    mean = masked_mean(values, mask)
    whitened = (values - mean) * torch.rsqrt(masked_variance(values, mask, unbiased=unbiased) + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return whitened * mask.to(values.dtype)


# ---------------------------------------------------------------- PPO


def kl_k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Per-token estimate log p - log q of KL(p || q) from samples of p: unbiased, may be negative for one token.

    Schulman, "Approximating KL divergence" (2020), estimator k1; what PPO for language models subtracts from rewards.
    """
    return logprobs - reference_logprobs


def kl_k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Per-token estimate (q/p - 1) - log(q/p): unbiased, never negative, lower variance than k1 (Schulman 2020, k3)."""
    log_ratio = (reference_logprobs - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.expm1(log_ratio) - log_ratio


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: (advantages, returns), both B x T and zero outside the mask.

    delta_t = r_t + gamma * V_{t+1} - V_t; A_t = sum_k (gamma * lam)^k delta_{t+k}; returns = A + V (the TD(lambda)
    target). Schulman et al. 1506.02438 eq. 16. The value after the last token is 0: an episode ends there. Positions
    outside the mask are stepped over as if they were not in the sequence, so padding on either side, or tokens in the
    middle that the policy did not write, change nothing.
    """
    is_real = mask.bool()
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(values[:, 0])
    backwards = []
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        next_value = torch.where(is_real[:, t], values[:, t], next_value)
        next_advantage = torch.where(is_real[:, t], advantage, next_advantage)
        backwards.append(torch.where(is_real[:, t], advantage, torch.zeros_like(advantage)))
    advantages = torch.stack(backwards[::-1], dim=1)
    return advantages, (advantages + values) * is_real.to(values.dtype)


@dataclass(frozen=True)
class ClippedLoss:
    """Per-token losses and, for the log, which of them the clip decided; all B x T, zero outside the mask."""

    losses: Tensor
    is_clipped: Tensor
    ratio: Tensor  # policy: p_new / p_old, 1 outside the mask. Value loss: all ones


def policy_loss_clipped(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float = 0.2,
    *,
    cliprange_high: float | None = None,
    dual_clip: float | None = None,
) -> ClippedLoss:
    """max(-A * ratio, -A * clip(ratio, 1 - c, 1 + c)) per token, ratio = exp(logp - logp_old).

    Schulman et al. 1707.06347 eq. 7 (negated: to be minimised). `cliprange_high` makes the upper bound its own (DAPO,
    2503.14476, 0.28); `dual_clip` bounds the loss of a negative advantage at -A * dual_clip (Ye et al. 1912.09729, 3).
    """
    weights = mask.to(logprobs.dtype)
    log_ratio = torch.where(mask.bool(), logprobs - old_logprobs, torch.zeros_like(logprobs))
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    upper = cliprange if cliprange_high is None else cliprange_high
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + upper)
    losses = torch.maximum(plain, clipped)
    if dual_clip is not None:
        losses = torch.where(advantages < 0, torch.minimum(losses, -advantages * dual_clip), losses)
    return ClippedLoss(losses * weights, (clipped > plain).to(weights.dtype) * weights, ratio)


def value_loss_clipped(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange_value: float = 0.2
) -> ClippedLoss:
    """0.5 * max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2) per token.

    The original PPO code's value loss, as in "The N Implementation Details of RLHF with PPO", detail 17.
    """
    weights = mask.to(values.dtype)
    plain = (values - returns) ** 2
    near_old = torch.maximum(torch.minimum(values, old_values + cliprange_value), old_values - cliprange_value)
    clipped = (near_old - returns) ** 2
    losses = 0.5 * torch.maximum(plain, clipped) * weights
    return ClippedLoss(losses, (clipped > plain).to(weights.dtype) * weights, torch.ones_like(values))
