"""Settings of the stages that train. No torch in here: `groundup check` reads this file in a moment."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from groundup.chat.settings import Dataset
from groundup.recipe import FileRef, MayChange, ModelRef, Presentation, RewardRef, StageSettings, TokensRef
from groundup.tokens.skips import ranges_of

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(value: Any) -> Any:
    """`90`, `"90s"`, `"3m"`, `"1h30m"` as seconds; anything else is an error that says so."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        raise ValueError(f"{value!r} is not a time; write it like 90s, 3m or 1h30m")
    return sum(float(number) * UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", text))


def _steps(value: Any) -> Any:
    if isinstance(value, list):  # else the type's own message says what is wanted
        ranges_of(value)
    return value


Seconds = Annotated[float, BeforeValidator(seconds_of), Field(gt=0)]


class TrainingSettings(StageSettings):
    """What every stage that trains understands."""

    sequence_len: int = Field(256, ge=2)
    """Tokens in one row of a batch."""
    micro_batch_size: int = Field(16, ge=1)
    """Rows in one forward and backward pass; what fits into memory."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Micro-batches in one optimiser step. 2 x 8 rows train exactly as 1 x 16 do."""
    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps. The first of max_steps, num_epochs and time_limit that is reached ends the training."""
    num_epochs: float | None = Field(None, gt=0)
    """Passes over the data."""
    time_limit: Seconds | None = None
    """Seconds of training (`90s`, `3m`, `1h30m`). They become a number of steps by the measured speed, which is
    corrected until the learning rate decays, and after that only downwards."""
    max_tokens: Annotated[int | None, MayChange()] = Field(None, ge=1)
    """Tokens that go through the model, at most. Like every limit it is never passed: the training ends before."""
    budget: Annotated[float | None, MayChange()] = Field(None, gt=0)
    """Money that this stage may cost, at cost_per_hour. Saved and ended before it is passed; all attempts count."""
    cost_per_hour: Annotated[float | None, Presentation()] = Field(None, ge=0)
    """What an hour of all machines of this run costs, in any currency."""
    skip_steps: Annotated[list[int | str], MayChange(), BeforeValidator(_steps)] = Field(default_factory=list)
    """Batches that are never trained, like [1200-1210, 1300]; `groundup tokens show` prints them. Later ones move up.
    Batches that are still to come may be added while the stage is under way."""
    on_spike: Annotated[Literal["warn", "skip", "rewind"], MayChange()] = "warn"
    """When the loss or the gradient jumps. skip: that update is left out. rewind: where the loss stays high, go back to
    a checkpoint before it and leave those batches out, at most three times."""
    learning_rate: float = Field(3e-3, gt=0)
    """Highest learning rate. The same number serves Muon, whose updates are scaled to the size of AdamW's."""
    lr_scheduler: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    """Shape over the steps: wsd is warm up, stay, decay to zero over the last part (`decay_ratio`)."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps until the learning rate is reached. Without it, warmup_ratio decides."""
    warmup_ratio: float = Field(0.02, ge=0, lt=1)
    """Share of all steps that warm up."""
    decay_ratio: float = Field(0.5, ge=0, le=1)
    """Share of all steps in which wsd decays to zero, at the end."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of matrices. Norms, biases and embeddings are never decayed."""
    max_grad_norm: float = Field(1.0, gt=0)
    """The gradient's norm is clipped to this."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for hidden matrices, AdamW for embeddings, head, norms and biases."""
    momentum_warmup_steps: int = Field(0, ge=0)
    """Steps in which Muon's momentum rises from 0.85 to 0.95. It pays from scratch, where first gradients soon say
    little about later ones."""
    bf16: Literal["auto", True, False] = "auto"
    """Compute in bfloat16 with fp32 weights. auto: where the processor has fast bfloat16."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Presentation()] = "auto"
    """auto: a GPU where there is one, else the CPU. mps (Apple's GPUs) has to be asked for."""
    gradient_checkpointing: Annotated[Literal[False, True, "selective"], Presentation()] = False
    """Keep less of each block for the backward pass and compute it again: the same numbers. true: only what goes into a
    block is kept, for about a third more work; selective: matrix products and attention are kept, too."""
    torch_compile: Annotated[Literal["auto", True, False], Presentation()] = "auto"
    """Compile each block. auto: on a GPU, for pre-training and fine-tuning that is long enough to pay for it."""
    float8: bool = False
    """Matrix products in float8, with torchao: on NVIDIA GPUs since Ada, for models of hidden_size 2048 and more."""
    dp_replicate_size: Annotated[int, Presentation()] = Field(1, ge=1)
    """Whole copies of the model, each trained on its own rows of a step. How many processes do what never changes
    what is learned."""
    dp_shard_size: Annotated[int | None, Presentation()] = Field(None, ge=1)
    """Processes that one copy of the model is sharded over (FSDP). Without it: all that the other sizes leave."""
    tensor_parallel_size: Annotated[int, Presentation()] = Field(1, ge=1)
    """Processes that share each matrix; within one machine."""
    pipeline_parallel_size: Annotated[int, Presentation()] = Field(1, ge=1)
    """Processes that hold consecutive layers of the model."""
    pipeline_schedule: Annotated[Literal["1f1b", "interleaved"], Presentation()] = "1f1b"
    """interleaved: two groups of layers a process, which waits less."""
    context_parallel_size: Annotated[int, Presentation()] = Field(1, ge=1)
    """Processes that share the tokens of each row, for rows too long for one."""
    save_steps: Annotated[int, Presentation()] = Field(100, ge=1)
    """Steps between checkpoints."""
    save_total_limit: Annotated[int, Presentation()] = Field(2, ge=1)
    """Checkpoints that are kept while the stage trains."""
    milestone_steps: Annotated[int | None, Presentation()] = Field(None, ge=1)
    """Every so many steps a checkpoint is kept for good, beside save_total_limit and when the stage is done."""
    keep_checkpoints: Annotated[bool, Presentation()] = False
    """Keep all when the stage is done, too. They only serve to go on after a kill and are larger than the model."""
    logging_steps: Annotated[int, Presentation()] = Field(5, ge=1)
    """Steps between lines in metrics.jsonl; the first and the last step are always there."""
    stall_seconds: Annotated[Seconds | None, Presentation()] = 600.0
    """A step that takes longer (or 20 times the usual, if that is more) is told, with what every thread was doing in
    run.log. Under torchrun, a step of three times that ends the process, so that it is started again."""
    report_to: Annotated[list[Literal["tensorboard", "wandb", "trackio"]], Presentation()] = Field(default_factory=list)
    """Trackers that get a copy of metrics.jsonl; each has to be installed."""
    sample_prompts: list[str] = Field(default_factory=list)
    """Prompts that the model continues before and after the stage, kept in samples.jsonl."""
    sample_tokens: int = Field(48, ge=1)
    """Most tokens in one such continuation."""

    @model_validator(mode="after")
    def has_a_price(self) -> Self:
        if self.budget is not None and not self.cost_per_hour:
            raise ValueError("budget needs cost_per_hour: what an hour of the machines costs")
        return self


class PretrainSettings(TrainingSettings):
    """Train a decoder from scratch to predict the next token."""

    stage: Literal["pretrain"] = "pretrain"
    tokens: TokensRef
    """The token shards to train on."""
    model: str | dict[str, Any] = "tiny"
    """A preset's name (1m, tiny, 10m, 30m, ...) or a mapping of Hugging Face config fields (hidden_size: 256, ...)."""
    max_steps: int | None = Field(600, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    optimizer: Literal["adamw", "muon"] = "muon"
    momentum_warmup_steps: int = Field(300, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    sample_prompts: list[str] = Field(default=["The", "In the beginning", "It is a truth", "def "])
    document_mask: bool = True
    """Tokens attend only within their own document."""
    eval_steps: int | None = Field(None, ge=1)
    """Steps between measurements of the loss on held-out tokens; always measured at the end where there are any."""
    eval_rows: int = Field(64, ge=1)
    """Most held-out rows in one such measurement."""


class ChatTrainingSettings(TrainingSettings):
    """What stages that train on conversations share."""

    base_model: ModelRef
    """The model to start from: a stage, or a Hugging Face folder."""
    datasets: list[Dataset] = Field(min_length=1)
    """Where the rows come from; their weights say how often each is seen."""
    held_out: list[Dataset] = Field(default_factory=list)
    """Rows that are only measured, before and after. The audit tells how many of them are trained on all the same."""
    chat_template: FileRef | None = None
    """A chat_template.jinja to use in place of the base model's."""
    max_steps: int | None = Field(None, ge=1)
    num_epochs: float | None = Field(1.0, gt=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr_scheduler: Literal["wsd", "cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.05, ge=0, lt=1)

    @model_validator(mode="after")
    def has_no_pipeline(self) -> Self:
        if self.pipeline_parallel_size > 1:
            raise ValueError(
                "pipeline_parallel_size serves the prediction of the next token only (stage: pretrain); use "
                "dp_shard_size or tensor_parallel_size here"
            )
        return self


class SftSettings(ChatTrainingSettings):
    """Fine-tune on conversations. Only what the assistant says is trained, and the token that ends its turn."""

    stage: Literal["sft"] = "sft"
    num_epochs: float | None = Field(2.0, gt=0)
    learning_rate: float = Field(2e-5, gt=0)
    """Highest learning rate: 2e-5 for models of a billion parameters, 5e-4 to 1e-3 for models of some millions."""
    sample_packing: bool = True
    """Several conversations in one row; none sees another, and the loss is the same."""
    train_on_inputs: bool = False
    """Train what the user says, too."""
    excess_length: Literal["truncate", "drop"] = "truncate"
    """What happens to a conversation longer than sequence_len. A truncated turn is given no end-of-turn token."""


class RewardSettings(ChatTrainingSettings):
    """Train a reward model on preference pairs (Bradley-Terry), normalised to mean 0 and deviation 1 afterwards."""

    stage: Literal["reward"] = "reward"
    learning_rate: float = Field(1e-4, gt=0)
    center_rewards_coefficient: float = Field(0.01, ge=0)
    """Pulls both rewards of a pair towards opposite signs, which fixes their common level."""


class DpoSettings(ChatTrainingSettings):
    """Prefer the chosen answer to the rejected one, directly, with the start model as reference."""

    stage: Literal["dpo"] = "dpo"
    learning_rate: float = Field(1e-6, gt=0)
    beta: float = Field(0.1, gt=0)
    """How hard the policy is held to the reference: small is loose."""
    loss_type: Literal["sigmoid", "robust", "hinge", "ipo"] = "sigmoid"
    """sigmoid is DPO; with label_smoothing it is conservative DPO."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs whose label is assumed to be wrong."""
    rpo_alpha: float = Field(0.0, ge=0)
    """Adds that many times the chosen answer's mean negative log-likelihood, against likelihood displacement."""


class PpoSettings(TrainingSettings):
    """Proximal policy optimisation: the model answers, the answers are scored, what scored well is made likelier."""

    stage: Literal["ppo"] = "ppo"
    base_model: ModelRef
    """The policy to start from. It is also the reference that the KL penalty holds the policy to."""
    datasets: list[Dataset] = Field(min_length=1)
    """Prompts: made tasks, or prompt rows. Answers in them are only used by the verifier."""
    reward: RewardRef | None = None
    """A reward model that scores each answer (normalised as its stage left it)."""
    reward_weight: float = 1.0
    """Factor on the reward model's score."""
    verifier: bool = False
    """Add the exact verifier's score to tasks: 1 for the right answer, 0 for a wrong one."""
    verifier_weight: float = 1.0
    """Factor on the verifier's score."""
    total_episodes: int = Field(8000, ge=1)
    """Answers that are written and learned from, in all."""
    rollout_batch_size: int = Field(512, ge=1)
    """Answers written with the same policy, before it is updated."""
    num_mini_batches: int = Field(4, ge=1)
    """Optimiser steps in one pass over those answers."""
    num_ppo_epochs: int = Field(1, ge=1)
    """Passes over those answers. Where answers are cheap to write, new ones teach more than a second pass."""
    micro_batch_size: int = Field(32, ge=1)
    """Answers in one forward and backward pass; what fits into memory."""
    response_length: int = Field(16, ge=1)
    """Most tokens in an answer."""
    temperature: float = Field(1.0, gt=0)
    """Of sampling. The policy's log-probabilities are those of this temperature too; nothing is filtered."""
    kl_coef: float = Field(0.05, ge=0)
    """Price of one nat of divergence from the base model, taken off the reward token by token."""
    kl_target: float | None = Field(None, gt=0)
    """Adapt kl_coef so that an answer's divergence stays near so many nats."""
    kl_horizon: int = Field(10_000, ge=1)
    """Answers over which kl_coef adapts; smaller is faster."""
    kl_estimator: Literal["k1", "k3"] = "k1"
    """k1: log p - log q, unbiased. k3: never negative, less noisy."""
    cliprange: float = Field(0.2, gt=0)
    """The policy loss stops rewarding probability ratios outside 1 - cliprange to 1 + cliprange."""
    cliprange_value: float = Field(0.2, gt=0)
    """The same for the critic, in units of reward."""
    vf_coef: float = Field(0.5, ge=0)
    """Weight of the critic's loss."""
    gamma: float = Field(1.0, ge=0, le=1)
    """Discount of later rewards."""
    lam: float = Field(0.95, ge=0, le=1)
    """GAE's lambda: 1 is low bias, 0 is low variance."""
    whiten_rewards: bool = False
    """Scale the rewards of a rollout to variance 1."""
    missing_eos_penalty: float = Field(0.5, ge=0)
    """An answer that does not end by itself scores minus this, whatever is in it."""
    critic: RewardRef | None = None
    """Start the critic from this reward model, which knows right from wrong. Without it: from the base model."""
    critic_learning_rate_scale: float = Field(5.0, gt=0)
    """The critic's learning rate, as a factor on learning_rate."""
    critic_warmup_steps: int = Field(8, ge=0)
    """First steps in which only the critic learns: before it predicts anything, advantages are mostly noise."""
    learning_rate: float = Field(1e-4, gt=0)
    lr_scheduler: Literal["wsd", "cosine", "linear", "constant"] = "linear"

    @property
    def updates_per_rollout(self) -> int:
        return self.num_ppo_epochs * self.num_mini_batches

    @property
    def rollouts(self) -> int:
        return -(-self.total_episodes // self.rollout_batch_size)

    @model_validator(mode="after")
    def is_scored(self) -> PpoSettings:
        if self.reward is None and not self.verifier:
            raise ValueError("nothing scores the answers: name a `reward` stage, or set `verifier: true`")
        if self.num_epochs is not None or self.time_limit is not None:
            raise ValueError("how long PPO trains is set by total_episodes, not by num_epochs or time_limit")
        if self.skip_steps or self.on_spike != "warn":
            raise ValueError(
                "skip_steps and on_spike do nothing in PPO: its batches are answers that the model writes as it goes"
            )
        if "sequence_len" in self.model_fields_set:
            raise ValueError("sequence_len does nothing in PPO: rows are as long as a prompt and its answer")
        if self.gradient_accumulation_steps != 1:
            raise ValueError(
                "gradient_accumulation_steps does nothing in PPO: rollout_batch_size / num_mini_batches answers make "
                "one optimiser step, in micro-batches of micro_batch_size"
            )
        if self.rollout_batch_size < self.num_mini_batches:
            raise ValueError(
                f"rollout_batch_size {self.rollout_batch_size} cannot be cut into {self.num_mini_batches} mini-batches"
            )
        return self
