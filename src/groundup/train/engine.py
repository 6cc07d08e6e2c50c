"""The one loop that every objective trains through.

State is weights, optimiser moments and a step number, plus what an objective adds. Learning rate and batches are pure
functions of the step, so that going on after a kill gives the same weights as never having been killed. The loss of a
step is summed over everything trained in it and divided by the global count: micro-batches and processes change memory
and time, not results.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from groundup.artifacts import StageContext
from groundup.errors import EXIT_REFUSED, Stopped
from groundup.train import budget
from groundup.train.checkpoint import Checkpoints, TrainState
from groundup.train.clock import Clock
from groundup.train.curves import Finding
from groundup.train.device import prepare_device
from groundup.train.guards import Guard, accept_skips, keep_left_out
from groundup.train.health import peak_memory_bytes
from groundup.train.metrics import MetricsFile, read_metrics
from groundup.train.objective import LossParts, Objective
from groundup.train.optim import build_optimizers
from groundup.train.options import TrainOptions, check_options, train_options
from groundup.train.peak import peak_flops, use_per_token
from groundup.train.prefetch import Ahead
from groundup.train.speedups import slow_down, speed_up, steady_collection
from groundup.train.start import open_world
from groundup.train.step import train_step
from groundup.train.trackers import Trackers, open_trackers
from groundup.train.verdicts import Verdicts, tell
from groundup.train.watchdog import Watchdog, is_launched

__all__ = ["LossParts", "Objective", "TrainOptions", "TrainResult", "train", "train_options", "train_step"]


@dataclass(frozen=True)
class TrainResult:
    steps: int
    tokens: int
    seconds: float  # of training, all attempts together
    loss: float  # of the last step
    tokens_per_second: float  # tokens / seconds
    metrics: dict[str, Any]  # the last line of metrics.jsonl


def train(
    model: nn.Module,
    objective: Objective,
    options: TrainOptions,
    context: StageContext,
    *,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> TrainResult:
    """Train the parameters that require a gradient, from the newest checkpoint of the stage or from the start.

    `evaluate(model)` gives extra metrics (a held-out loss) every `eval_steps` and after the last step; it runs without
    gradients. Raises Stopped where the run was asked to stop (the work is saved), UserError where the loss is not
    finite, the disk refuses, or the checkpoint belongs to other settings.
    """
    check_options(options)
    prepare_device(options.device, options.dtype)
    world = open_world(options, context.team)
    model = world.prepare(model)
    speed_up(model, options)
    optimizers = build_optimizers(
        model,
        optimizer=options.optimizer,
        weight_decay=options.weight_decay,
        betas=options.betas,
        eps=options.eps,
        learning_rate_scales=options.learning_rate_scales,
    )
    configuration = options.configuration()
    state = TrainState(total_steps=options.known_horizon, configuration=configuration)
    checkpoints: Checkpoints = world.checkpoints(
        Checkpoints(
            context.shared_folder / "checkpoints",
            model,
            optimizers,
            configuration,
            context.console,
            keep=options.save_total_limit,
            milestone_steps=options.milestone_steps,
            regular_steps=options.save_steps if options.on_spike == "rewind" else None,
            group=world.checkpoint_group,
        )
    )
    restored = checkpoints.restore()
    if restored is not None:
        state, objective_state = restored
        objective.load_state_dict(objective_state)
        context.console.info(f"  {context.name}: going on from step {state.step:,}")
    accept_skips(options, state, where=context.name)
    keep_left_out(context.folder, state)
    metrics = MetricsFile(context.folder / "metrics.jsonl", state.step)
    verdicts = Verdicts(read_metrics(metrics.path))
    clock = Clock(state, context.folder / "timing.json" if world.is_main else None)

    def save(*, wait: bool) -> None:
        metrics.sync()
        started = clock.seconds()
        checkpoints.save(state, objective.state_dict(), wait=wait)
        if wait:
            clock.save_done(clock.seconds() - started)

    def mirrors() -> Trackers:
        names = options.report_to if world.is_main else ()
        logs = context.folder / "logs"
        return open_trackers(names, logs, context.run_folder.name, context.name, state.step, context.console.warn)

    def tell_main(finding: Finding) -> None:
        if world.is_main:
            tell(context, finding)

    model.train()
    shown: tuple[str, ...] = getattr(objective, "shown", ("loss",))
    is_first_save = restored is None  # else the disk has just shown that it gives back what it was given
    # what is sampled from the model cannot be prepared ahead, and its loss is nothing that ought to fall
    is_judged = bool(getattr(objective, "is_function_of_step", False))
    guard = Guard(options, tell_main, is_loss_judged=is_judged)
    ahead = Ahead(objective, model, device=options.device)
    told_steps = math.inf
    trackers = mirrors()
    is_gpu = options.device.startswith("cuda")
    peak = peak_flops(options.dtype, context.cache, torch.cuda.get_device_name() if is_gpu else None)
    use = use_per_token(model, options.sequence_len, peak, world.size if is_gpu else 1)
    watch = Watchdog(options.stall_seconds, context.console.warn, context.console.log, is_launched=is_launched())
    try:
        if world.from_main(budget.is_spent(options, clock)) and state.step != state.total_steps:
            raise budget.used_up(options, where=context.name)
        total, unit = (options.time_limit_seconds, "s") if state.total_steps is None else (state.total_steps, "steps")
        progress = context.console.progress(context.name, total or 1, unit)
        with watch, context.stop.deferred(), progress as bar, steady_collection(options.device) as collect:
            bar(state.step if unit == "steps" else state.seconds)
            while state.total_steps is None or state.step < state.total_steps:
                started, tokens = time.perf_counter(), state.tokens
                row = train_step(
                    model, objective, optimizers, options, state, world, batches=ahead, is_wanted=guard.is_wanted
                )
                clock.step_done(state, time.perf_counter() - started, row["data_wait"])
                watch.step_done()
                collect(state.step)
                if guard.wants_rewind(state) and (found := guard.rewind(state, checkpoints)) is not None:
                    state, objective_state = found
                    objective.load_state_dict(objective_state)
                    verdicts = Verdicts(metrics.cut(state.step))
                    clock.went_back(state)
                    trackers.close()
                    trackers = mirrors()
                    save(wait=True)  # what is left out from here on is not forgotten in a kill
                    keep_left_out(context.folder, state)
                    continue
                is_logged = state.step == 1 or state.step % options.logging_steps == 0
                before = state.total_steps
                if options.is_timed:
                    state.total_steps = world.from_main(budget.horizon(options, state, clock))
                is_broke = options.budget is not None and world.from_main(budget.is_spent(options, clock))
                if (is_broke and budget.can_end_anywhere(options)) or budget.tokens_are_spent(
                    options, state, state.tokens - tokens
                ):
                    state.total_steps = state.step
                is_horizon_new = before is None and state.total_steps is not None
                fits = state.total_steps if state.total_steps is not None else math.inf
                if fits != before and fits < 0.95 * told_steps and world.is_main:
                    told_steps = fits
                    context.console.info(f"  {context.name}: {fits:,} steps fit into the limits")
                is_last = state.step == state.total_steps
                is_evaluated = evaluate is not None and (is_last or _is_due(state.step, options.eval_steps))
                if evaluate is not None and is_evaluated:
                    row |= world.evaluate(partial(_evaluate, model, evaluate))
                if is_evaluated or is_last or is_logged:
                    row |= clock.speed(state)
                    row |= {"mfu": row["tokens_per_second"] * use} if use else {}
                    metrics.write({"step": state.step, **row, **guard.counts(state), "memory": peak_memory_bytes()})
                    trackers.send(metrics.last)
                    if is_judged:
                        told = state.guards.setdefault("told", {})
                        for finding in verdicts.look(metrics.last, told, after=2 * options.warmup_steps):
                            tell_main(finding)
                bar(state.step if unit == "steps" else state.seconds, progress_note(row, shown))
                stopping = world.any(context.stop.is_set or checkpoints.has_failed)
                if stopping:
                    checkpoints.wait()  # a save that went wrong in the background ends the run here
                if is_first_save or is_horizon_new or is_last or stopping or is_broke:
                    save(wait=True)
                    if is_first_save:
                        checkpoints.prove(state)
                    is_first_save = False
                elif options.is_save_due(state.step):
                    save(wait=False)
                if state.step == 1:
                    state.first_step_seconds = clock.seconds()
                if stopping and not is_last:
                    context.stop.join()  # it may be another process that was asked
                    context.stop.raise_if_set(f"{context.name} is saved at step {state.step:,}")
                if is_broke and not is_last:
                    raise Stopped(budget.stopped_text(options, state, clock, context.name), EXIT_REFUSED)
    finally:
        slow_down(model)
        ahead.close()
        trackers.close()
        clock.keep()
        checkpoints.close()
        metrics.close()
        world.close()
    if options.has_limits:
        context.console.info(f"  {context.name}: {budget.spent_text(options, state, clock)}")
    world.end_helping()
    return TrainResult(
        steps=state.step,
        tokens=state.tokens,
        seconds=state.seconds,
        loss=float(metrics.last.get("loss") or 0.0),
        tokens_per_second=state.tokens / max(state.seconds, 1e-9),
        metrics=metrics.last,
    )


def progress_note(row: Mapping[str, Any], shown: Sequence[str]) -> str:
    """The numbers beside the progress bar, a name before its slash left out: `score 0.412  kl 1.730`."""
    return "  ".join(f"{name.rpartition('/')[2]} {row[name]:.3f}" for name in shown if name in row)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _evaluate(model: nn.Module, evaluate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        found = evaluate(model)
    model.train()
    return found
