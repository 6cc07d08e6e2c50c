"""The one loop that every objective trains through.

State is weights, optimiser moments and a step number, plus what an objective adds. Learning rate and batches are pure
functions of the step, so that going on after a kill gives the same weights as never having been killed. The loss of a
step is summed over everything trained in it and divided by the global count: micro-batches change memory, not results.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from groundup.artifacts import StageContext
from groundup.errors import EXIT_FAILED, UserError
from groundup.train.checkpoint import TrainState, damage_of, restore_newest, save_checkpoint
from groundup.train.health import check_finite, peak_memory_bytes
from groundup.train.metrics import MetricsFile
from groundup.train.optim import build_optimizers, set_learning_rate, trained_parameters
from groundup.train.precision import autocast, compute_dtype, prepare_processor
from groundup.train.schedule import lr_factor
from groundup.train.settings import TrainingSettings

PROBE_STEPS = 10  # at least so many steps are timed before a time limit becomes a number of steps
PROBE_SHARE = 0.08  # and at least this share of the limit, so that the slow first step weighs little
UNKNOWN_HORIZON_WARMUP = 20


@dataclass(frozen=True)
class LossParts:
    """What an objective says about one micro-batch. Sums, never means: the engine does all dividing."""

    loss_sum: Tensor  # summed over what is trained
    weight: float  # how much was trained (tokens, pairs); equal to `objective.weight(micro_batch)`
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> (sum, weight)
    tokens: int | None = None  # tokens that went through the model, where that is not `weight`


class Objective(Protocol):
    """What training minimises. `step` counts from 0 and names the update that is being prepared.

    An objective whose loss says little may have `shown: tuple[str, ...]`, the numbers of its progress line.
    """

    def micro_batches(self, step: int, model: Any) -> list[Any]:
        """All micro-batches of this one update, a pure function of the step (and of the weights, where it samples)."""

    def weight(self, micro_batch: Any) -> float:
        """Trained tokens (or pairs) in it."""

    def loss(self, model: Any, micro_batch: Any) -> LossParts:
        """The forward pass. Runs under autocast where the run computes in bfloat16."""

    def state_dict(self) -> dict[str, Any]:
        """Generators, controllers, buffers: tensors and JSON values, nested. `{}` where all is a function of step."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


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
    dtype: str = "float32"  # what the forward pass computes in; weights stay as they are
    save_steps: int = 200
    save_total_limit: int = 2
    logging_steps: int = 5
    seed: int = 0
    time_limit_seconds: float | None = None
    eval_steps: int | None = None
    learning_rate_scales: Mapping[str, float] = field(default_factory=dict)  # name prefix -> factor
    data_fingerprint: str = ""  # of what the batches are made from; a checkpoint of other data is refused
    batch: Mapping[str, Any] = field(default_factory=dict)  # how they are made; kept for the same reason

    def configuration(self) -> dict[str, Any]:
        """What a checkpoint may only be continued with: all but what is shown and how often is saved."""
        shown_only = ("save_steps", "save_total_limit", "logging_steps")
        return {key: value for key, value in asdict(self).items() if key not in shown_only}


@dataclass(frozen=True)
class TrainResult:
    steps: int
    tokens: int
    seconds: float  # of training, all attempts together
    loss: float  # of the last step
    tokens_per_second: float  # tokens / seconds
    metrics: dict[str, Any]  # the last line of metrics.jsonl


def train_options(
    settings: TrainingSettings, *, seed: int, steps_per_epoch: float | None = None, **changes: Any
) -> TrainOptions:
    """Options from a stage's settings. The horizon is the smaller of max_steps and num_epochs x steps_per_epoch."""
    horizons = [settings.max_steps] if settings.max_steps is not None else []
    if settings.num_epochs is not None and steps_per_epoch is not None:
        horizons.append(max(1, round(settings.num_epochs * steps_per_epoch)))
    max_steps = min(horizons) if horizons else None
    warmup = settings.warmup_steps
    if warmup is None:
        warmup = UNKNOWN_HORIZON_WARMUP if max_steps is None else round(max_steps * settings.warmup_ratio)
    options: dict[str, Any] = {
        "max_steps": max_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler": settings.lr_scheduler,
        "warmup_steps": warmup,
        "decay_ratio": settings.decay_ratio,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optimizer": settings.optimizer,
        "dtype": compute_dtype(settings.bf16),
        "save_steps": settings.save_steps,
        "save_total_limit": settings.save_total_limit,
        "logging_steps": settings.logging_steps,
        "seed": seed,
        "time_limit_seconds": settings.time_limit,
    }
    return TrainOptions(**{**options, **changes})


# ---------------------------------------------------------------- the story


def train(
    model: nn.Module,
    objective: Objective,
    options: TrainOptions,
    context: StageContext,
    *,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> TrainResult:
    """Train the parameters that require a gradient, from the newest checkpoint in `context.folder` or from the start.

    `evaluate(model)` gives extra metrics (a held-out loss) every `eval_steps` and after the last step; it runs without
    gradients. Raises Stopped where the run was asked to stop (the work is saved), UserError where the loss is not
    finite, the disk refuses, or the checkpoint belongs to other settings.
    """
    _check_options(options)
    prepare_processor()
    optimizers = build_optimizers(
        model,
        optimizer=options.optimizer,
        weight_decay=options.weight_decay,
        betas=options.betas,
        eps=options.eps,
        learning_rate_scales=options.learning_rate_scales,
    )
    checkpoints = context.folder / "checkpoints"
    configuration = options.configuration()
    state = TrainState(total_steps=_known_horizon(options), configuration=configuration)
    restored = restore_newest(checkpoints, model, optimizers, configuration, context.console)
    if restored is not None:
        state, objective_state = restored
        objective.load_state_dict(objective_state)
        context.console.info(f"  {context.name}: going on from step {state.step:,}")
    metrics = MetricsFile(context.folder / "metrics.jsonl", state.step)

    def save() -> None:
        metrics.sync()
        save_checkpoint(checkpoints, state, model, optimizers, objective.state_dict(), keep=options.save_total_limit)

    model.train()
    shown: tuple[str, ...] = getattr(objective, "shown", ("loss",))
    is_first_save = True
    clock = _Clock(state)
    try:
        total, unit = (options.time_limit_seconds, "s") if state.total_steps is None else (state.total_steps, "steps")
        with context.stop.deferred(), context.console.progress(context.name, total or 1, unit) as bar:
            bar(state.step if unit == "steps" else state.seconds)
            while state.total_steps is None or state.step < state.total_steps:
                row = train_step(model, objective, optimizers, options, state)
                state.seconds = clock.seconds()
                is_horizon_new = state.total_steps is None and _fix_horizon(state, options)
                is_last = state.step == state.total_steps
                is_evaluated = evaluate is not None and (is_last or _is_due(state.step, options.eval_steps))
                if evaluate is not None and is_evaluated:
                    row |= _evaluate(model, evaluate)
                if is_evaluated or is_last or state.step == 1 or state.step % options.logging_steps == 0:
                    row |= clock.speed(state)
                    metrics.write({"step": state.step, **row, "memory": peak_memory_bytes()})
                bar(state.step if unit == "steps" else state.seconds, progress_note(row, shown))
                stopping = context.stop.is_set
                if is_first_save or is_horizon_new or is_last or stopping or state.step % options.save_steps == 0:
                    save()
                    if is_first_save:
                        _prove_readable(checkpoints / f"checkpoint-{state.step}")
                    is_first_save = False
                if state.step == 1:
                    state.first_step_seconds = clock.seconds()
                if stopping and not is_last:
                    context.stop.raise_if_set(f"{context.name} is saved at step {state.step:,}")
    finally:
        metrics.close()
    return TrainResult(
        steps=state.step,
        tokens=state.tokens,
        seconds=state.seconds,
        loss=float(metrics.last.get("loss") or 0.0),
        tokens_per_second=state.tokens / max(state.seconds, 1e-9),
        metrics=metrics.last,
    )


def train_step(
    model: nn.Module,
    objective: Objective,
    optimizers: list[torch.optim.Optimizer],
    options: TrainOptions,
    state: TrainState,
) -> dict[str, Any]:
    """One optimiser update: `state.step` counts up, the weights change, and the step's numbers come back."""
    step = state.step
    seed_step(options.seed, step)
    started = time.perf_counter()
    batches = objective.micro_batches(step, model)
    data_wait = time.perf_counter() - started
    weight = sum(objective.weight(batch) for batch in batches)
    if weight <= 0:
        raise UserError(f"step {step + 1}: nothing in this batch is trained", exit_code=EXIT_FAILED)

    loss_sum, tokens = 0.0, 0
    sums: dict[str, list[float]] = {}
    for batch in batches:
        with autocast(options.dtype):
            parts = objective.loss(model, batch)
        (parts.loss_sum / weight).backward()  # type: ignore[no-untyped-call]
        loss_sum += float(parts.loss_sum.detach())
        tokens += int(parts.weight if parts.tokens is None else parts.tokens)
        for name, (value, value_weight) in parts.metrics.items():
            total = sums.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += value_weight

    learning_rate = options.learning_rate * lr_factor(
        step,
        total_steps=state.total_steps,
        scheduler=options.lr_scheduler,
        warmup_steps=options.warmup_steps,
        decay_ratio=options.decay_ratio,
    )
    grads = [parameter.grad for parameter in trained_parameters(model).values() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(grads)
    check_finite(model, step=step + 1, loss=loss_sum, grad_norm=float(norm), lr=learning_rate)
    if norm > options.max_grad_norm:
        for grad in grads:
            grad.mul_(options.max_grad_norm / norm)
    set_learning_rate(optimizers, learning_rate)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.tokens += tokens
    return {
        "loss": loss_sum / weight,
        "lr": learning_rate,
        "grad_norm": float(norm),
        "tokens": state.tokens,
        "data_wait": data_wait,
        **{name: value / max(value_weight, 1e-12) for name, (value, value_weight) in sums.items()},
    }


def progress_note(row: Mapping[str, Any], shown: Sequence[str]) -> str:
    """The numbers beside the progress bar, a name before its slash left out: `score 0.412  kl 1.730`."""
    return "  ".join(f"{name.rpartition('/')[2]} {row[name]:.3f}" for name in shown if name in row)


def seed_step(seed: int, step: int) -> None:
    """Torch's own generator as a function of the step: dropout or sampling inside a step need no saved state."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)


# ---------------------------------------------------------------- time


class _Clock:
    """Seconds of training over all attempts, and the speed since the last logged line."""

    def __init__(self, state: TrainState) -> None:
        self._before = state.seconds
        self._started = self._marked_at = time.monotonic()
        self._marked_tokens = state.tokens

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def speed(self, state: TrainState) -> dict[str, float]:
        now = time.monotonic()
        speed = (state.tokens - self._marked_tokens) / max(now - self._marked_at, 1e-9)
        self._marked_at, self._marked_tokens = now, state.tokens
        return {"tokens_per_second": speed, "seconds": state.seconds}


def _known_horizon(options: TrainOptions) -> int | None:
    return None if options.time_limit_seconds is not None else options.max_steps


def _fix_horizon(state: TrainState, options: TrainOptions) -> bool:
    """Turn the time limit into a number of steps, once, from the measured speed; then it stays, also after a kill."""
    limit = options.time_limit_seconds
    assert limit is not None
    at_most = options.max_steps or 2**62
    is_probed = state.step > PROBE_STEPS and state.seconds >= PROBE_SHARE * limit
    if is_probed or state.seconds >= limit / 2 or state.step >= at_most:
        # the first step allocates, and its checkpoint is proven: neither says how fast the others are
        timed_steps, timed_seconds = state.step - 1, state.seconds - state.first_step_seconds
        steps_per_second = timed_steps / timed_seconds if timed_steps else 1 / state.seconds
        left = max(0.0, limit - state.seconds)
        state.total_steps = min(state.step + int(left * steps_per_second), at_most)
        return True
    return False


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _evaluate(model: nn.Module, evaluate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        found = evaluate(model)
    model.train()
    return found


def _prove_readable(checkpoint: Any) -> None:
    """After the first save: what was written reads back, so a broken disk shows now and not after an hour."""
    damage = damage_of(checkpoint)
    if damage is not None:
        raise UserError(
            f"the first checkpoint does not read back as written: {damage}",
            where=str(checkpoint),
            fix="check the disk, or choose another folder",
            exit_code=EXIT_FAILED,
        )


def _check_options(options: TrainOptions) -> None:
    if options.max_steps is None and options.time_limit_seconds is None:
        raise UserError("nothing says when training ends", fix="set max_steps, num_epochs or time_limit")
    if options.time_limit_seconds is not None and options.lr_scheduler not in ("wsd", "constant"):
        raise UserError(
            f"time_limit does not go with lr_scheduler {options.lr_scheduler}: its shape needs the number of steps "
            "before the first one",
            fix="use lr_scheduler: wsd, or set max_steps instead of time_limit",
        )
