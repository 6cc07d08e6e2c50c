"""One optimiser update."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from groundup.errors import EXIT_FAILED, UserError
from groundup.tokens.skips import batch_of
from groundup.train.checkpoint import TrainState
from groundup.train.guards import left_out
from groundup.train.health import are_finite, stop_non_finite
from groundup.train.objective import Objective
from groundup.train.optim import set_learning_rate, set_momentum
from groundup.train.options import TrainOptions
from groundup.train.schedule import lr_factor
from groundup.train.world import World


def train_step(
    model: nn.Module,
    objective: Objective,
    optimizers: list[torch.optim.Optimizer],
    options: TrainOptions,
    state: TrainState,
    world: World | None = None,
    *,
    batches: Callable[[int, int], list[Any]] | None = None,
    is_wanted: Callable[[TrainState, float, float], bool] | None = None,
) -> dict[str, Any]:
    """One optimiser update: `state.step` counts up, the weights change, and the step's numbers come back.

    The loss is summed over everything trained in the step and divided by the global count, so micro-batches and
    processes change memory and time, not results. `batches(number, following)` gives the micro-batches of batch
    `number` (from 0) and may prepare the following one. `is_wanted(state, loss, grad_norm)` may refuse the update: the
    step counts, the weights stay.
    """
    world = world or World()
    step = state.step
    seed_step(options.seed, step)
    gone = left_out(options, state.guards)
    number, following = batch_of(step + 1, gone) - 1, batch_of(step + 2, gone) - 1
    started = time.perf_counter()
    micro_batches = batches(number, following) if batches else objective.micro_batches(number, model)
    data_wait = time.perf_counter() - started
    weight = sum(objective.weight(batch) for batch in micro_batches)
    if weight <= 0:
        raise UserError(f"step {step + 1}: nothing in this batch is trained", exit_code=EXIT_FAILED)
    sums = world.forward_backward(model, objective, micro_batches, weight, options.dtype)
    learning_rate = learning_rate_at(step, options, state.total_steps)
    norm = world.grad_norm(model)
    if not are_finite(sums.loss, norm):

        def run_again() -> tuple[float, float]:
            model.zero_grad(set_to_none=True)
            world.drop_gradients(model, optimizers)
            seed_step(options.seed, step)
            again = world.forward_backward(model, objective, micro_batches, weight, options.dtype)
            return float(again.loss), world.grad_norm(model)

        stop_non_finite(
            model, world, run_again, step=step + 1, batch=number + 1, loss=sums.loss, grad_norm=norm, lr=learning_rate
        )
    if is_wanted is None or is_wanted(state, sums.loss / weight, norm):
        set_learning_rate(optimizers, learning_rate)
        set_momentum(optimizers, step, options.momentum_warmup_steps)
        world.update(model, optimizers, options.max_grad_norm / norm if norm > options.max_grad_norm else 1.0)
    else:
        world.drop_gradients(model, optimizers)
    state.step += 1
    state.tokens += int(sums.tokens)
    return {
        "loss": sums.loss / weight,
        "lr": learning_rate,
        "grad_norm": norm,
        "tokens": state.tokens,
        "data_wait": data_wait,
        **{name: value / max(value_weight, 1e-12) for name, (value, value_weight) in sums.metrics.items()},
    }


def learning_rate_at(step: int, options: TrainOptions, total_steps: int | None) -> float:
    return options.learning_rate * lr_factor(
        step,
        total_steps=total_steps,
        scheduler=options.lr_scheduler,
        warmup_steps=options.warmup_steps,
        decay_ratio=options.decay_ratio,
    )


def seed_step(seed: int, step: int) -> None:
    """Torch's own generator as a function of the step: dropout or sampling inside a step need no saved state."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
