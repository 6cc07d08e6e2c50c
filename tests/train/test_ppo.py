"""PPO proves its own arithmetic: ratio 1 before any update, KL 0 to itself, rewards that add up, exact resume."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts import StageContext
from groundup.chat.formats import Prompt
from groundup.console import Console
from groundup.errors import Stopped, UserError
from groundup.model.decoder import Decoder
from groundup.model.files import load_model
from groundup.model.generate import Completion
from groundup.model.heads import ScalarModel
from groundup.model.init import init_weights
from groundup.stopping import StopRequest
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.engine import TrainResult, train, train_options
from groundup.train.ppo import check, run
from groundup.train.ppo_objective import ActorCritic, Ppo
from groundup.train.rollouts import Scores, join_answers, mini_batch_rows, prompts_of, repeat_by_weight, score_answers
from groundup.train.settings import PpoSettings


def ppo_settings(**changes: Any) -> PpoSettings:
    values: dict[str, Any] = {
        "base_model": "base",
        "datasets": [{"tasks": ["addition"]}],
        "verifier": True,
        "total_episodes": 64,
        "rollout_batch_size": 16,
        "num_mini_batches": 2,
        "micro_batch_size": 4,
        "num_ppo_epochs": 2,
        "response_length": 6,
        "learning_rate": 1e-3,
        "critic_warmup_steps": 0,
        "missing_eos_penalty": 0.0,
        "logging_steps": 1,
        "save_steps": 3,
    }
    return PpoSettings(**{**values, **changes})


PROMPTS = [Prompt(({"role": "user", "content": text},)) for text in ("say yes", "say no", "hello there, fox", "two?")]


def prefers_short(prompts: Any, ids: Any, completions: Any) -> Scores:  # noqa: ARG001 (a scorer's signature)
    return Scores(torch.tensor([1 - len(completion.ids) / 6 for completion in completions]), {})


def objective(folder: Path, s: PpoSettings, *, score: Any = prefers_short, dtype: str = "float32") -> Ppo:
    reference = load_model(folder)
    console = Console(quiet=True)
    return Ppo(s, PROMPTS, Tokenizer.from_folder(folder), reference, score, dtype=dtype, seed=1, console=console)


def actor_critic(folder: Path) -> ActorCritic:
    policy = load_model(folder)
    return ActorCritic(policy, ScalarModel.from_decoder(policy, 1, init_std=0.0))


# ---------------------------------------------------------------- identities


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_mini_batch_has_ratio_exactly_one(chat_model_folder: Path, dtype: str) -> None:
    ppo, model = objective(chat_model_folder, ppo_settings(), dtype=dtype), actor_critic(chat_model_folder)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        for micro_batch in ppo.micro_batches(0, model):
            metrics = ppo.loss(model, micro_batch).metrics
            assert metrics["first_ratio_deviation"] == (0.0, 1.0)
            assert metrics["clip_fraction"][0] == 0 and metrics["approx_kl"][0] == 0


def test_a_changed_policy_has_another_ratio(chat_model_folder: Path) -> None:
    """The proof above can fail: weights that moved behind PPO's back are noticed."""
    ppo, model = objective(chat_model_folder, ppo_settings()), actor_critic(chat_model_folder)
    micro_batch = ppo.micro_batches(0, model)[0]
    init_weights(model.policy, seed=99)
    assert ppo.loss(model, micro_batch).metrics["first_ratio_deviation"][0] > 1e-3


def test_the_policy_has_no_divergence_from_itself(chat_model_folder: Path) -> None:
    ppo, model = objective(chat_model_folder, ppo_settings()), actor_critic(chat_model_folder)
    ppo.micro_batches(0, model)
    assert ppo.rollout is not None and ppo.rollout.stats["kl"] == 0.0


def test_rewards_sum_to_score_minus_the_price_of_divergence(chat_model_folder: Path) -> None:
    """With lambda = gamma = 1 and a critic that says 0, each answer's first advantage is its whole reward."""
    s = ppo_settings(lam=1.0, kl_coef=0.3)
    ppo, model = objective(chat_model_folder, s), actor_critic(chat_model_folder)
    init_weights(model.policy, seed=5)  # away from the reference, so that there is divergence to pay for
    ppo.micro_batches(0, model)
    rollout = ppo.rollout
    assert rollout is not None
    first = rollout.answers.mask.int().argmax(1)
    whole = rollout.advantages[torch.arange(len(first)), first].mean()
    assert rollout.stats["kl"] > 0.005
    assert float(whole) == pytest.approx(rollout.stats["score"] - 0.3 * rollout.stats["kl"], abs=1e-5)


def test_padding_changes_nothing(chat_model_folder: Path) -> None:
    """The log-probabilities of an answer are the same alone and beside a longer one."""
    ppo, model = objective(chat_model_folder, ppo_settings()), actor_critic(chat_model_folder)
    prompts, completions = [[4, 5, 6], [4, 5, 6, 7, 8, 9]], [Completion([10, 2], True), Completion([11, 12, 13], False)]
    both = join_answers(prompts, completions, pad_id=3)
    for row in range(2):
        alone = join_answers(prompts[row : row + 1], completions[row : row + 1], pad_id=3)
        together = ppo._logprobs(model.policy, both)[row][both.mask[row]]
        assert torch.allclose(together, ppo._logprobs(model.policy, alone)[alone.mask], atol=1e-6)


def test_log_probabilities_are_those_of_the_answers_tokens(chat_model_folder: Path) -> None:
    ppo, model = objective(chat_model_folder, ppo_settings(temperature=0.7)), actor_critic(chat_model_folder)
    prompt, completion = [4, 5, 6], Completion([10, 2], True)
    answers = join_answers([prompt], [completion], pad_id=3)
    hidden = model.policy(torch.tensor([[4, 5, 6, 10]]))
    expected = (model.policy.logits(hidden) / 0.7).log_softmax(-1)[0]
    ours = ppo._logprobs(model.policy, answers)[answers.mask]
    assert torch.allclose(ours, torch.stack([expected[2, 10], expected[3, 2]]), atol=1e-5)


def test_the_end_of_turn_is_trained() -> None:
    """The stop token is part of the answer; a mask by pad id would lose it where pad and EOS are one."""
    answers = join_answers([[4, 5]], [Completion([10, 2], True)], pad_id=2)
    assert answers.mask.tolist() == [[False, True, True]]
    assert answers.input_ids[0, 1:][answers.mask[0]].tolist() == [10, 2]


# ---------------------------------------------------------------- scores


def test_an_answer_that_never_ends_is_not_judged_by_its_content() -> None:
    prompt = Prompt(({"role": "user", "content": "What is 1 + 1?"},), columns={"task": "addition", "answer": "2"})
    scores = score_answers(
        [prompt] * 3, ["2", "2", "3"], torch.tensor([True, False, True]), verifier_weight=1.0, missing_eos_penalty=0.5
    )
    assert scores.total.tolist() == [1.0, -0.5, 0.0]
    assert scores.parts["accuracy"].tolist() == [1.0, 0.0, 0.0]


def test_verifier_and_reward_model_add_up() -> None:
    prompt = Prompt(({"role": "user", "content": "What is 1 + 1?"},), columns={"task": "addition", "answer": "2"})
    scores = score_answers(
        [prompt, prompt],
        ["2", "4"],
        torch.tensor([True, True]),
        verifier_weight=2.0,
        reward_scores=[2.0, 2.0],
        reward_weight=0.5,
    )
    assert scores.total.tolist() == [3.0, 1.0]


def test_a_prompt_without_an_answer_cannot_be_verified() -> None:
    prompt = Prompt(({"role": "user", "content": "How are you?"},), where="rows.jsonl:3")
    with pytest.raises(UserError, match=r"rows.jsonl:3: this prompt has no `answer` column"):
        score_answers([prompt], ["fine"], torch.tensor([True]), verifier_weight=1.0)


def test_something_must_score_the_answers() -> None:
    with pytest.raises(ValueError, match="nothing scores the answers"):
        ppo_settings(verifier=False)


# ---------------------------------------------------------------- the order of things


@given(prompts=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_prompt_is_answered_before_one_is_answered_again(prompts: int, size: int, seed: int) -> None:
    asked = [i for rollout in range(8) for i in prompts_of(rollout, prompts, size, seed)]
    for start in range(0, len(asked) - prompts + 1, prompts):
        assert sorted(asked[start : start + prompts]) == list(range(prompts))


def test_a_pass_uses_every_row_once_and_differs_from_the_last() -> None:
    passes = [mini_batch_rows(0, epoch, size=10, mini_batches=3, seed=1) for epoch in range(2)]
    for parts in passes:
        assert sorted(torch.cat(parts).tolist()) == list(range(10))
    assert [p.tolist() for p in passes[0]] != [p.tolist() for p in passes[1]]


# ---------------------------------------------------------------- it learns, and it resumes exactly


def run_ppo(folder: Path, context: StageContext, s: PpoSettings) -> tuple[TrainResult, Decoder]:
    options = train_options(s, seed=1, max_steps=s.rollouts * s.updates_per_rollout, eps=1e-5, dtype="float32")
    model = actor_critic(folder)
    result = train(model, objective(folder, s), options, context)
    return result, model.policy


def test_reward_rises_on_a_task_with_a_known_best_policy(chat_model_folder: Path, stage_context: Any) -> None:
    """The best policy ends its answer at once (score 5/6). The random one that it starts from rambles."""
    s = ppo_settings(total_episodes=2880, rollout_batch_size=64, micro_batch_size=64, learning_rate=3e-3)
    context = stage_context("bandit")
    result, _ = run_ppo(chat_model_folder, context, s)
    first = json.loads((context.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["score"] < 0.1 and result.metrics["score"] > 0.6


def test_the_gap_between_writing_and_training_is_logged_and_is_rounding(
    chat_model_folder: Path, stage_context: Any
) -> None:
    s = ppo_settings(total_episodes=32, rollout_batch_size=32, temperature=0.8)
    context = stage_context("gap")
    run_ppo(chat_model_folder, context, s)
    first = json.loads((context.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 < first["rollout_logprob_gap"] < 1e-5


class StopsAfter(StopRequest):
    """A stop request that arrives after some looks at it."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def is_set(self) -> bool:
        self.looks -= 1
        if self.looks == 0:
            self.request(75)
        return super().is_set


@pytest.mark.parametrize("looks", [2, 5, 9])
def test_a_stopped_run_goes_on_to_the_same_weights(chat_model_folder: Path, stage_context: Any, looks: int) -> None:
    """Also in the middle of a rollout's updates, with an adapting KL coefficient."""
    s = ppo_settings(kl_target=0.5, kl_horizon=50)
    _, whole = run_ppo(chat_model_folder, stage_context("whole"), s)
    context = stage_context("stopped")
    with pytest.raises(Stopped):
        run_ppo(chat_model_folder, dataclasses.replace(context, stop=StopsAfter(looks)), s)
    result, resumed = run_ppo(chat_model_folder, context, s)
    assert result.steps == 16
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


# ---------------------------------------------------------------- the stage around it


def test_the_stage_leaves_a_model_that_knows_where_its_answers_end(chat_model_folder: Path, stage_context: Any) -> None:
    context = stage_context("aligned", base=chat_model_folder.parent)
    s = ppo_settings(datasets=[{"tasks": ["addition"], "rows": 8}], total_episodes=16, response_length=3)
    result = run(s, context)
    assert (result.counts["episodes"], result.counts["prompts"]) == (16, 8)
    generation = json.loads((context.folder / "model" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == list(Tokenizer.from_folder(chat_model_folder).stop_ids)


def test_prompts_that_leave_no_room_for_an_answer_are_told_before_anything_is_trained(
    chat_model_folder: Path, stage_context: Any, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    words = ["hello", "fox " * 2000, "say yes"]
    rows.write_text("".join(json.dumps({"prompt": word, "answer": "2"}) + "\n" for word in words))
    context = stage_context("aligned", base=chat_model_folder.parent, **{str(rows): rows})
    s = ppo_settings(datasets=[{"path": str(rows)}])
    message = r"rows.jsonl:2: a prompt of [\d,]+ tokens and response_length 6 pass the model's context of \d+ tokens"
    with pytest.raises(UserError, match=message) as found:
        run(s, context)
    assert len(found.value.problems) == 1
    assert [problem.what for problem in check(s, context).problems] == [found.value.problems[0].what]
    assert not (context.folder / "metrics.jsonl").exists()


def test_a_dataset_is_asked_as_often_as_its_weight_says() -> None:
    assert repeat_by_weight(PROMPTS, [1.0] * 4, seed=1) == PROMPTS
    assert repeat_by_weight(PROMPTS, [2.0, 0.0, 1.0, 0.0], seed=1) == [PROMPTS[0], PROMPTS[0], PROMPTS[2]]
    half = repeat_by_weight(PROMPTS * 250, [0.5] * 1000, seed=1)
    assert 440 < len(half) < 560 and half == repeat_by_weight(PROMPTS * 250, [0.5] * 1000, seed=1)


def test_accumulation_steps_which_ppo_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="gradient_accumulation_steps does nothing in PPO"):
        ppo_settings(gradient_accumulation_steps=2)
