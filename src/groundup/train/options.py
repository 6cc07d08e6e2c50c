"""What one training run is asked to do: the engine's own options, made from a stage's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from groundup.errors import Problem, UserError
from groundup.tokens.skips import Ranges, ranges_of
from groundup.train.device import choose_device, wants_compile
from groundup.train.layout import Layout, layout_of
from groundup.train.precision import compute_dtype
from groundup.train.settings import TrainingSettings

UNKNOWN_HORIZON_WARMUP = 20  # steps
ENDS_ANYWHERE = ("wsd", "constant")  # schedules whose shape does not need the number of steps in advance
# a checkpoint may be continued with other values of these
NOT_CONFIGURATION = (
    # what is shown, how often is saved, and on what it runs
    *("save_steps", "save_total_limit", "milestone_steps", "logging_steps", "layout", "device"),
    *("gradient_checkpointing", "torch_compile"),
    *("cost_per_hour", "stall_seconds", "report_to"),
    # what may change while a run is under way; that what was trained so far stays the same is checked by itself
    *("skip_steps", "on_spike", "max_tokens", "budget"),
    *("sequence_len", "tokens_per_step"),  # known from `batch` already
)


@dataclass(frozen=True)
class TrainOptions:
    max_steps: int | None  # None: only a time limit says when it ends
    learning_rate: float
    lr_scheduler: str = "wsd"
    warmup_steps: int = 0
    decay_ratio: float = 0.5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum_warmup_steps: int = 0  # Muon's
    dtype: str = "float32"  # what the forward pass computes in; weights stay as they are
    save_steps: int = 200
    save_total_limit: int = 2
    milestone_steps: int | None = None
    logging_steps: int = 5
    seed: int = 0
    time_limit_seconds: float | None = None
    eval_steps: int | None = None
    learning_rate_scales: Mapping[str, float] = field(default_factory=dict)  # name prefix -> factor
    data_fingerprint: str = ""  # of what the batches are made from; a checkpoint of other data is refused
    batch: Mapping[str, Any] = field(default_factory=dict)  # how they are made; kept for the same reason
    layout: Layout = field(default_factory=Layout)
    device: str = "cpu"
    gradient_checkpointing: bool | str = False  # or "selective"
    torch_compile: bool = False
    float8: bool = False
    skip_steps: Ranges = ()  # batches that are never trained, counted from 1
    on_spike: str = "warn"  # or skip, rewind
    max_tokens: int | None = None
    budget: float | None = None  # money
    cost_per_hour: float | None = None
    stall_seconds: float | None = None
    report_to: tuple[str, ...] = ()
    sequence_len: int | None = None  # of a full row: what attention costs
    tokens_per_step: float | None = None  # the mean where it varies: what max_tokens is in steps

    def configuration(self) -> dict[str, Any]:
        """What a checkpoint may only be continued with: all that says what is learned from what."""
        return {key: value for key, value in asdict(self).items() if key not in NOT_CONFIGURATION}

    @property
    def is_timed(self) -> bool:
        """Whether time or money may end it before its steps are done."""
        return self.time_limit_seconds is not None or self.budget is not None

    @property
    def has_limits(self) -> bool:
        """Whether a person wants to know what it took."""
        return self.is_timed or self.max_tokens is not None or bool(self.cost_per_hour)

    def is_save_due(self, step: int) -> bool:
        return step % self.save_steps == 0 or (self.milestone_steps is not None and step % self.milestone_steps == 0)

    @property
    def known_horizon(self) -> int | None:
        """Steps in all; None where a limit of time or money still has to be turned into a number of steps."""
        return None if self.time_limit_seconds is not None else self.max_steps


def train_options(
    settings: TrainingSettings, *, seed: int, steps_per_epoch: float | None = None, **changes: Any
) -> TrainOptions:
    """Options from a stage's settings. The horizon is the smaller of max_steps and num_epochs x steps_per_epoch."""
    horizons = [settings.max_steps] if settings.max_steps is not None else []
    if settings.num_epochs is not None and steps_per_epoch is not None:
        horizons.append(max(1, round(settings.num_epochs * steps_per_epoch)))
    if settings.max_tokens is not None and (tokens_per_step := changes.get("tokens_per_step")):
        horizons.append(steps_of_tokens(settings.max_tokens, tokens_per_step))
    max_steps = min(horizons) if horizons else None
    warmup = settings.warmup_steps
    if warmup is None:
        warmup = UNKNOWN_HORIZON_WARMUP if max_steps is None else round(max_steps * settings.warmup_ratio)
    device, stage = choose_device(settings.device), str(getattr(settings, "stage", ""))
    options: dict[str, Any] = {
        "max_steps": max_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler": settings.lr_scheduler,
        "warmup_steps": warmup,
        "decay_ratio": settings.decay_ratio,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optimizer": settings.optimizer,
        "momentum_warmup_steps": settings.momentum_warmup_steps,
        "device": device,
        "dtype": compute_dtype(settings.bf16, device),
        "gradient_checkpointing": settings.gradient_checkpointing,
        "torch_compile": wants_compile(settings.torch_compile, device, stage, max_steps, settings.time_limit),
        "float8": settings.float8,
        "save_steps": settings.save_steps,
        "save_total_limit": settings.save_total_limit,
        "milestone_steps": settings.milestone_steps,
        "logging_steps": settings.logging_steps,
        "seed": seed,
        "time_limit_seconds": settings.time_limit,
        "skip_steps": ranges_of(settings.skip_steps),
        "on_spike": settings.on_spike,
        "max_tokens": settings.max_tokens,
        "budget": settings.budget,
        "cost_per_hour": settings.cost_per_hour,
        "stall_seconds": settings.stall_seconds,
        "report_to": tuple(settings.report_to),
        "sequence_len": settings.sequence_len,
        "layout": layout_of(settings),
    }
    return TrainOptions(**{**options, **changes})


def steps_of_tokens(max_tokens: int, tokens_per_step: float) -> int:
    """Steps that fit. UserError where not one does."""
    if max_tokens < tokens_per_step:
        raise UserError(
            f"max_tokens is {max_tokens:,}, and one step takes {tokens_per_step:,.0f}",
            fix="raise it, or make steps smaller (micro_batch_size, gradient_accumulation_steps)",
        )
    return int(max_tokens // tokens_per_step)


def check_options(options: TrainOptions) -> None:
    """Raise UserError for combinations that cannot be trained."""
    problems = horizon_problems(
        has_horizon=options.max_steps is not None,
        time_limit_seconds=options.time_limit_seconds,
        budget=options.budget,
        lr_scheduler=options.lr_scheduler,
    )
    if problems:
        raise UserError(problems)


def horizon_problems(
    *, has_horizon: bool, time_limit_seconds: float | None, budget: float | None, lr_scheduler: str
) -> list[Problem]:
    """What keeps the learning rate from having an end. `has_horizon`: something says how many steps there are."""
    can_end_anywhere = lr_scheduler in ENDS_ANYWHERE
    if not has_horizon and time_limit_seconds is None and budget is None:
        fix = "set max_steps, num_epochs, max_tokens or time_limit"
        return [Problem("nothing says when training ends", fix=fix)]
    if not has_horizon and budget is not None and not can_end_anywhere:
        what = f"budget alone does not go with lr_scheduler {lr_scheduler}: its shape needs the number of steps"
        return [Problem(what, fix="use lr_scheduler: wsd, or set max_steps beside the budget")]
    if time_limit_seconds is not None and not can_end_anywhere:
        what = f"time_limit does not go with lr_scheduler {lr_scheduler}: its shape needs the number of steps"
        fix = "use lr_scheduler: wsd, or set max_steps instead of time_limit"
        return [Problem(f"{what} before the first one", fix=fix)]
    return []
