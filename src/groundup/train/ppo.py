"""Stage `ppo`: the model answers, the answers are scored, and what scored well is made likelier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from groundup.artifacts import StageContext, StageResult
from groundup.chat.datasets import check_datasets, load_prompts
from groundup.chat.formats import Prompt, to_prompt
from groundup.chat.scoring import load_reward_model, score_ids
from groundup.chat.template import prompt_ids
from groundup.errors import Problem, UserError
from groundup.model.decoder import Decoder
from groundup.model.files import copy_tokenizer_files, load_config, load_model, require_same_vocabulary, save_model
from groundup.model.generate import Completion
from groundup.model.heads import ScalarModel, load_scalar_model
from groundup.recipe import CheckReport
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.device import place
from groundup.train.engine import train, train_options
from groundup.train.ppo_objective import ActorCritic, Ppo, Scorer
from groundup.train.rollouts import Scores, repeat_by_weight, score_answers, task_of
from groundup.train.samples import SamplePrompt, write_samples
from groundup.train.settings import PpoSettings

SAMPLE_PROMPTS = 6
LONGEST_CHECKED = 100  # prompts that `check` measures; the run measures all


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
