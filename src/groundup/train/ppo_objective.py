"""PPO's objective: rollouts, and the losses of policy and critic over them.

Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) as used for language models (Ouyang et al. 2022,
arXiv:2203.02155; "The N Implementation Details of RLHF with PPO", 2023): a critic of its own, a per-token KL penalty to
the model that training started from, GAE, clipped policy and value losses.

Old log-probabilities come from the training forward pass, in the very micro-batches of the first pass over a rollout.
So the probability ratio of the first mini-batch is 1 exactly, whatever the dtype; a run that breaks this says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from groundup.chat.formats import Prompt
from groundup.chat.template import prompt_ids
from groundup.console import Console
from groundup.model.decoder import Decoder
from groundup.model.device import send
from groundup.model.generate import Completion, Sampling, generate
from groundup.model.heads import ScalarModel
from groundup.model.logprobs import token_logprobs
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.device import device_of, to_device
from groundup.train.engine import LossParts
from groundup.train.losses import gae, kl_k1, kl_k3, masked_variance, policy_loss_clipped, value_loss_clipped, whiten
from groundup.train.precision import autocast
from groundup.train.rollouts import (
    Answers,
    Scores,
    generator_of,
    join_answers,
    mini_batch_rows,
    prompts_of,
)
from groundup.train.settings import PpoSettings

RATIO_TOLERANCE = 1e-5

Scorer = Callable[[Sequence[Prompt], Sequence[list[int]], Sequence[Completion]], Scores]


class ActorCritic(nn.Module):
    """The two models that PPO trains together: a decoder and a critic with one value per token."""

    def __init__(self, policy: Decoder, critic: ScalarModel) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic


@dataclass(frozen=True)
class Rollout:
    """Answers and what is learned from them. All but `answers` and `stats` are `N, T`, zero outside the mask."""

    answers: Answers
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor  # not yet whitened: that is done per mini-batch
    returns: Tensor
    stats: dict[str, float]  # what is logged of it


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a rollout, cut to their own length. Arrays are `rows, t`."""

    answers: Answers
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    trains_policy: bool
    must_have_ratio_one: bool
    stats: dict[str, float]


class Ppo:
    """The objective. Its state is the rollout in hand and the KL coefficient; the rest is a function of the step."""

    shown = ("score", "kl")  # the loss of PPO is no measure of progress

    def __init__(
        self,
        settings: PpoSettings,
        prompts: Sequence[Prompt],
        tokenizer: Tokenizer,
        reference: Decoder,
        score: Scorer,
        *,
        dtype: str,
        seed: int,
        console: Console,
    ) -> None:
        self.settings, self.prompts, self.tokenizer, self.reference = settings, prompts, tokenizer, reference
        self.score, self.dtype, self.seed, self.console = score, dtype, seed, console
        self.prompt_ids = [prompt_ids(tokenizer, prompt.messages) for prompt in prompts]
        self.kl_coef = settings.kl_coef
        self.rollout: Rollout | None = None
        self.has_warned = False

    # ------------------------------------------------------------ what the engine asks for

    def micro_batches(self, step: int, model: ActorCritic) -> list[MicroBatch]:
        s = self.settings
        number, update = divmod(step, s.updates_per_rollout)
        if update == 0 or self.rollout is None:
            self.rollout = self._roll_out(number, model)
        epoch, part = divmod(update, s.num_mini_batches)
        rows = self._mini_batches(number, epoch)[part]
        advantages = torch.zeros_like(self.rollout.advantages)
        mask = self.rollout.answers.mask[rows]
        advantages[rows] = whiten(self.rollout.advantages[rows], mask)
        return [
            self._micro_batch(self.rollout, micro_rows, advantages, step, is_first=update == 0)
            for micro_rows in self.rollout.answers.split(rows, s.micro_batch_size)
        ]

    def weight(self, micro_batch: MicroBatch) -> float:
        return float(micro_batch.answers.mask.sum())

    def loss(self, model: ActorCritic, micro_batch: MicroBatch) -> LossParts:
        s, b = self.settings, micro_batch
        weight = self.weight(b)
        values = self._values(model.critic, b.answers)
        mask = send(b.answers.mask, values.device)
        value = value_loss_clipped(values, b.old_values, b.returns, mask, s.cliprange_value)
        loss_sum = s.vf_coef * value.losses.sum()
        metrics: dict[str, tuple[Tensor | float, float]] = {name: (number, 1.0) for name, number in b.stats.items()}
        metrics["value_loss"] = (value.losses.detach().sum(), weight)
        if b.trains_policy:
            logprobs = self._logprobs(model.policy, b.answers)
            policy = policy_loss_clipped(logprobs, b.old_logprobs, b.advantages, mask, s.cliprange)
            loss_sum = loss_sum + policy.losses.sum()
            if b.must_have_ratio_one:
                deviation = float((policy.ratio.detach() - 1).abs().max())
                metrics["first_ratio_deviation"] = (deviation, 1.0)
                self._check_ratio(deviation)
            metrics["policy_loss"] = (policy.losses.detach().sum(), weight)
            metrics["clip_fraction"] = (policy.is_clipped.sum(), weight)
            metrics["approx_kl"] = ((kl_k3(logprobs.detach(), b.old_logprobs) * mask).sum(), weight)
        return LossParts(loss_sum, weight, metrics, tokens=int((b.answers.document_ids >= 0).sum()))

    def state_dict(self) -> dict[str, Any]:
        if self.rollout is None:
            return {"kl_coef": self.kl_coef}
        tensors = {f.name: getattr(self.rollout, f.name) for f in fields(Rollout) if f.name not in ("answers", "stats")}
        answers = {f.name: getattr(self.rollout.answers, f.name) for f in fields(Answers)}
        return {"kl_coef": self.kl_coef, "answers": answers, "stats": self.rollout.stats, **tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kl_coef = state["kl_coef"]
        if "answers" in state:
            arrays = {f.name: state[f.name] for f in fields(Rollout) if f.name not in ("answers", "stats")}
            self.rollout = Rollout(answers=Answers(**state["answers"]), stats=state["stats"], **arrays)

    # ------------------------------------------------------------ one rollout

    @torch.no_grad()
    def _roll_out(self, number: int, model: ActorCritic) -> Rollout:
        """Answer, score, and work out advantages with the weights as they are now."""
        s = self.settings
        chosen = prompts_of(number, len(self.prompts), s.rollout_batch_size, self.seed)
        prompts, ids = [self.prompts[i] for i in chosen], [self.prompt_ids[i] for i in chosen]
        stop_ids = tuple(self.tokenizer.stop_ids)
        sampling = Sampling(max_new_tokens=s.response_length, temperature=s.temperature, stop_ids=stop_ids)
        dtype = torch.bfloat16 if self.dtype == "bfloat16" else None
        completions = generate(
            model.policy, ids, sampling, generator_of(number, self.seed), dtype=dtype, return_logprobs=True
        )
        answers = join_answers(ids, completions, self.tokenizer.pad_id)
        scores = self.score(prompts, ids, completions)

        old_logprobs, reference_logprobs, values = (torch.zeros(answers.mask.shape) for _ in range(3))
        device = device_of(model)
        with autocast(self.dtype, device):
            for rows in self._mini_batches(number, epoch=0):
                for micro_rows in answers.split(rows, s.micro_batch_size):  # the shapes that the first pass will have
                    some = to_device(answers.rows(micro_rows), device)
                    length = some.mask.shape[1]
                    old_logprobs[micro_rows, :length] = self._logprobs(model.policy, some).cpu()
                    reference_logprobs[micro_rows, :length] = self._logprobs(self.reference, some).cpu()
                    values[micro_rows, :length] = self._values(model.critic, some).cpu() * some.mask
        kl = {"k1": kl_k1, "k3": kl_k3}[s.kl_estimator](old_logprobs, reference_logprobs) * answers.mask
        rewards = -self.kl_coef * kl
        last = answers.mask.shape[1] - 1 - answers.mask.flip(1).int().argmax(1)  # N: where the answer's last token is
        rewards[torch.arange(len(rewards)), last] += scores.total
        if s.whiten_rewards:
            rewards = whiten(rewards, answers.mask, shift_mean=False)
        advantages, returns = gae(rewards, values, answers.mask, s.gamma, s.lam)
        stats = self._stats(answers, scores, kl, old_logprobs, values, returns)
        stats["rollout_logprob_gap"] = logprob_gap(completions, old_logprobs[answers.mask])
        self._adapt_kl(stats["kl"])
        return Rollout(answers, old_logprobs, values, advantages, returns, stats)

    def _stats(
        self, answers: Answers, scores: Scores, kl: Tensor, logprobs: Tensor, values: Tensor, returns: Tensor
    ) -> dict[str, float]:
        """What is logged of a rollout. KL, entropy and length are per answer, in nats and tokens."""
        mask, number = answers.mask, len(answers.mask)
        unexplained = masked_variance(returns - values, mask) / masked_variance(returns, mask).clamp(min=1e-8)
        return {
            "score": float(scores.total.mean()),
            **{name: float(part.mean()) for name, part in scores.parts.items()},
            "kl": float(kl.sum()) / number,
            "kl_coef": self.kl_coef,
            "entropy": -float((logprobs * mask).sum()) / number,
            "explained_variance": 1 - float(unexplained),
            "eos_rate": float(answers.is_finished.float().mean()),
            "response_tokens": float(mask.sum()) / number,
        }

    def _adapt_kl(self, kl: float) -> None:
        """Ziegler et al. 2019 (arXiv:1909.08593) 2.2: a proportional controller with its error clipped."""
        s = self.settings
        if s.kl_target is not None:
            error = min(max(kl / s.kl_target - 1, -0.2), 0.2)
            self.kl_coef *= 1 + error * s.rollout_batch_size / s.kl_horizon

    # ------------------------------------------------------------ pieces

    def _mini_batches(self, number: int, epoch: int) -> list[Tensor]:
        s = self.settings
        return mini_batch_rows(
            number, epoch, size=s.rollout_batch_size, mini_batches=s.num_mini_batches, seed=self.seed
        )

    def _micro_batch(
        self, rollout: Rollout, rows: Tensor, advantages: Tensor, step: int, *, is_first: bool
    ) -> MicroBatch:
        answers = rollout.answers.rows(rows)
        length = answers.mask.shape[1]
        return MicroBatch(
            answers,
            rollout.old_logprobs[rows, :length],
            rollout.old_values[rows, :length],
            advantages[rows, :length],
            rollout.returns[rows, :length],
            trains_policy=step >= self.settings.critic_warmup_steps,
            must_have_ratio_one=is_first,
            stats=rollout.stats,
        )

    def _logprobs(self, policy: Decoder, answers: Answers) -> Tensor:
        """`N, T` log-probabilities of the answers' tokens at the sampling temperature, 0 outside the mask."""
        hidden = policy(answers.input_ids[:, :-1], document_ids=answers.document_ids[:, :-1])
        targets, mask = answers.input_ids[:, 1:], answers.mask  # the mask is on the CPU: who is kept is known there
        kept = send(mask.flatten().nonzero().squeeze(1), hidden.device)
        chosen = hidden.flatten(0, 1)[kept], targets.flatten()[kept]
        logprobs = token_logprobs(chosen[0], policy, chosen[1], self.settings.temperature)
        return torch.zeros(mask.numel(), device=hidden.device).index_put((kept,), logprobs).view(mask.shape)

    def _values(self, critic: ScalarModel, answers: Answers) -> Tensor:
        """`N, T`: what the critic expects before each token is written."""
        values: Tensor = critic(answers.input_ids[:, :-1], document_ids=answers.document_ids[:, :-1])
        return values

    def _check_ratio(self, deviation: float) -> None:
        if deviation > RATIO_TOLERANCE and not self.has_warned:
            self.has_warned = True
            self.console.warn(
                f"PPO's probability ratio is off by {deviation:.2g} before any update, where it must be 1: the forward "
                "pass does not repeat itself (dropout left on, or products that depend on the load)"
            )


def logprob_gap(completions: Sequence[Completion], trained: Tensor) -> float:
    """Mean |log p when it was written - log p in the training forward pass| per token of the answers, in nats.

    Rounding alone gives about 1e-6 in fp32 and 1e-2 in bfloat16; more says that the two do not compute the same model.
    """
    written = torch.tensor([number for completion in completions for number in completion.logprobs or []])
    return float((written - trained).abs().mean())
