"""Stage `ppo`: the model answers, the answers are scored, and what scored well is made likelier.

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

from groundup.artifacts import StageContext, StageResult
from groundup.chat.datasets import check_datasets, load_prompts
from groundup.chat.formats import Prompt, to_prompt
from groundup.chat.scoring import load_reward_model, score_ids
from groundup.chat.template import prompt_ids
from groundup.console import Console
from groundup.errors import Problem, UserError
from groundup.model.decoder import Decoder
from groundup.model.device import send
from groundup.model.files import copy_tokenizer_files, load_config, load_model, require_same_vocabulary, save_model
from groundup.model.generate import Completion, Sampling, generate
from groundup.model.heads import ScalarModel, load_scalar_model
from groundup.model.logprobs import token_logprobs
from groundup.recipe import CheckReport
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.device import device_of, place, to_device
from groundup.train.engine import LossParts, train, train_options
from groundup.train.losses import gae, kl_k1, kl_k3, masked_variance, policy_loss_clipped, value_loss_clipped, whiten
from groundup.train.precision import autocast
from groundup.train.rollouts import (
    Answers,
    Scores,
    generator_of,
    join_answers,
    mini_batch_rows,
    prompts_of,
    repeat_by_weight,
    score_answers,
    task_of,
)
from groundup.train.samples import SamplePrompt, write_samples
from groundup.train.settings import PpoSettings

RATIO_TOLERANCE = 1e-5
SAMPLE_PROMPTS = 6
LONGEST_CHECKED = 100  # prompts that `check` measures; the run measures all

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


# ---------------------------------------------------------------- the stage


def run(settings: PpoSettings, context: StageContext) -> StageResult:
    """Train the policy and leave it in `model/`."""
    folder = context.model_folder(settings.base_model)
    tokenizer = Tokenizer.from_folder(folder)
    require_same_vocabulary(folder, tokenizer)
    loaded = load_prompts(settings.datasets, context)
    prompts = repeat_by_weight(loaded.rows, loaded.weights, context.seed)
    if not prompts:
        raise UserError("not one prompt is left", fix="raise the datasets' `weight`, or give more rows")
    if settings.verifier:
        require_answers(prompts)
    policy, reference = load_model(folder), load_model(folder)
    require_room(loaded.rows, tokenizer, settings.response_length, policy.config.max_position_embeddings)
    reference.requires_grad_(False)
    critic = first_critic(settings, context, policy, tokenizer)
    options = train_options(
        settings,
        seed=context.seed,
        max_steps=min(settings.max_steps or 2**62, settings.rollouts * settings.updates_per_rollout),
        eps=1e-5,
        learning_rate_scales={"critic.": settings.critic_learning_rate_scale},
    )
    for model in (policy, reference, critic):
        place(model, options.device)
    objective = Ppo(
        settings,
        prompts,
        tokenizer,
        reference,
        scorer(settings, context, tokenizer, options.device),
        dtype=options.dtype,
        seed=context.seed,
        console=context.console,
    )
    samples = sample_prompts(settings, prompts, tokenizer)
    write_samples(policy, tokenizer, samples, context, "before", max_new_tokens=settings.response_length)
    result = train(ActorCritic(policy, critic), objective, options, context)
    write_samples(policy, tokenizer, samples, context, "after", max_new_tokens=settings.response_length)
    copy_tokenizer_files(folder, context.folder / "model")
    save_model(policy, context.folder / "model", generation={"eos_token_id": list(tokenizer.stop_ids)})
    episodes = -(-result.steps // settings.updates_per_rollout) * settings.rollout_batch_size
    shown = ("score", "accuracy", "reward_model", "kl", "entropy", "eos_rate", "explained_variance")
    return StageResult(
        counts={"episodes": episodes, "steps": result.steps, "tokens": result.tokens, "prompts": len(prompts)},
        metrics={name: result.metrics[name] for name in shown if name in result.metrics},
    )


def first_critic(settings: PpoSettings, context: StageContext, policy: Decoder, tokenizer: Tokenizer) -> ScalarModel:
    """The policy's or a reward model's trunk with a head that says 0 everywhere.

    Ouyang et al. 2022 start the critic from the reward model: it can tell good answers from bad ones already, which is
    most of what a value is. Its head is not kept, since rewards and returns have different scales.
    """
    if settings.critic is None:
        return ScalarModel.from_decoder(policy, context.seed, init_std=0.0)
    folder = context.model_folder(settings.critic)
    require_same_vocabulary(folder, tokenizer)
    critic = load_scalar_model(folder)
    torch.nn.init.zeros_(critic.score.weight)
    return critic


def scorer(settings: PpoSettings, context: StageContext, tokenizer: Tokenizer, device: str = "cpu") -> Scorer:
    """The reward of this stage: the exact verifier, a reward model, or both."""
    reward = None
    if settings.reward is not None:
        folder = context.model_folder(settings.reward)
        require_same_vocabulary(folder, tokenizer)  # it reads the very ids that the policy wrote
        reward = load_reward_model(folder)
        place(reward.model, device)

    def score(prompts: Sequence[Prompt], ids: Sequence[list[int]], completions: Sequence[Completion]) -> Scores:
        texts = [tokenizer.decode(c.ids[:-1] if c.finished else c.ids) for c in completions]
        sequences = [prompt + c.ids for prompt, c in zip(ids, completions, strict=True)]
        return score_answers(
            prompts,
            texts,
            torch.tensor([completion.finished for completion in completions]),
            verifier_weight=settings.verifier_weight if settings.verifier else 0.0,
            reward_scores=score_ids(reward, sequences) if reward is not None else None,
            reward_weight=settings.reward_weight,
            missing_eos_penalty=settings.missing_eos_penalty,
        )

    return score


def require_answers(prompts: Sequence[Prompt]) -> None:
    """All prompts that cannot be verified, told at once (the first twenty)."""
    problems: list[Problem] = []
    for prompt in prompts:
        try:
            task_of(prompt)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems[:20])


def require_room(prompts: Sequence[Prompt], tokenizer: Tokenizer, response_length: int, positions: int) -> None:
    """All prompts that leave no room for an answer in the model's context, told at once (the first twenty)."""
    problems = []
    for prompt in prompts:
        length = len(prompt_ids(tokenizer, prompt.messages))
        if length + response_length > positions:
            what = (
                f"a prompt of {length:,} tokens and response_length {response_length:,} pass the model's context of "
                f"{positions:,} tokens (max_position_embeddings)"
            )
            fix = f"shorten the prompt, or use response_length {max(0, positions - length):,} or less"
            problems.append(Problem(what, prompt.where, fix))
    if problems:
        raise UserError(problems[:20])


def sample_prompts(settings: PpoSettings, prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[SamplePrompt]:
    """The recipe's own, or the first few that are trained on."""
    conversations: list[list[dict[str, Any]]] = [[{"role": "user", "content": p}] for p in settings.sample_prompts]
    conversations = conversations or [list(prompt.messages) for prompt in prompts[:SAMPLE_PROMPTS]]
    return [SamplePrompt(str(c[-1]["content"]), prompt_ids(tokenizer, c)) for c in conversations]


def check(settings: PpoSettings, context: StageContext) -> CheckReport:
    """Prompts that can be read and verified, and how many answers will be written."""
    loaded, problems, pending = check_datasets(settings.datasets, context, to_prompt)
    if settings.verifier:
        try:
            require_answers(loaded.rows)
        except UserError as error:
            problems += error.problems
    folder = context.model_folder(settings.base_model)
    if (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file():
        longest = sorted(loaded.rows, key=lambda prompt: -sum(len(str(m["content"])) for m in prompt.messages))
        try:
            positions = load_config(folder).max_position_embeddings
            some = longest[:LONGEST_CHECKED]
            require_room(some, Tokenizer.from_folder(folder), settings.response_length, positions)
        except UserError as error:
            problems += error.problems
    facts = {
        "prompts": len(loaded.rows),
        "episodes": settings.rollouts * settings.rollout_batch_size,
        "steps": settings.rollouts * settings.updates_per_rollout,
    }
    return CheckReport({**facts, **({"pending": pending} if pending else {})}, problems)
