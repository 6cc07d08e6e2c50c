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
from groundup.train.world import World

__all__ = ["LossParts", "Objective", "TrainOptions", "TrainResult", "train", "train_options", "train_step"]

Evaluate = Callable[[nn.Module], dict[str, float]]


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
    evaluate: Evaluate | None = None,
) -> TrainResult:
    """Train the parameters that require a gradient, from the newest checkpoint of the stage or from the start.

    `evaluate(model)` gives extra metrics (a held-out loss) every `eval_steps` and after the last step; it runs without
    gradients. Raises Stopped where the run was asked to stop (the work is saved), UserError where the loss is not
    finite, the disk refuses, or the checkpoint belongs to other settings.
    """
    check_options(options)
    if (steps := options.known_horizon) is not None and options.warmup_steps > steps:
        context.console.warn(
            f"{context.name}: warm-up takes {options.warmup_steps:,} steps and training ends after {steps:,}: the "
            f"learning rate rises to {options.learning_rate * steps / options.warmup_steps:.3g} and no further"
        )
    prepare_device(options.device, options.dtype)
    world = open_world(options, context.team)
    model = world.prepare(model)
    speed_up(model, options)
    training = _Training(model, objective, options, context, world, evaluate)
    try:
        training.run()
    finally:
        slow_down(model)
        training.close()
        world.close()
    if options.has_limits:
        context.console.info(f"  {context.name}: {budget.spent_text(options, training.state, training.clock)}")
    world.end_helping()
    return training.result()


class _Training:
    """What a run of the loop is made of, and what happens after each step, in the order in which it happens."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        options: TrainOptions,
        context: StageContext,
        world: World,
        evaluate: Evaluate | None,
    ) -> None:
        self.model, self.objective, self.options = model, objective, options
        self.context, self.world, self.evaluate = context, world, evaluate
        self.optimizers = build_optimizers(
            model,
            optimizer=options.optimizer,
            weight_decay=options.weight_decay,
            betas=options.betas,
            eps=options.eps,
            learning_rate_scales=options.learning_rate_scales,
        )
        self.checkpoints = self._open_checkpoints()
        self.state = TrainState(total_steps=options.known_horizon, configuration=options.configuration())
        restored = self.checkpoints.restore()
        if restored is not None:
            self._take(*restored)
            context.console.info(f"  {context.name}: going on from step {self.state.step:,}")
        self.is_first_save = restored is None  # else the disk has just shown that it gives back what it was given
        accept_skips(options, self.state, where=context.name)
        keep_left_out(context.folder, self.state)
        self.metrics = MetricsFile(context.folder / "metrics.jsonl", self.state.step)
        self.trackers = self._open_trackers()
        self.clock = Clock(self.state, context.folder / "timing.json" if world.is_main else None)
        # what is sampled from the model cannot be prepared ahead, and its loss is nothing that ought to fall
        self.is_judged = bool(getattr(objective, "is_function_of_step", False))
        self.guard = Guard(options, self._tell, is_loss_judged=self.is_judged)
        self.verdicts = Verdicts(read_metrics(self.metrics.path))
        self.watch = Watchdog(
            options.stall_seconds, context.console.warn, context.console.log, is_launched=is_launched()
        )
        self.ahead = Ahead(objective, model, device=options.device)
        is_gpu = options.device.startswith("cuda")
        peak = peak_flops(options.dtype, context.cache, torch.cuda.get_device_name() if is_gpu else None)
        self.use = use_per_token(model, options.sequence_len, peak, world.size if is_gpu else 1)
        self.told_steps = math.inf  # the horizon that was told last
        self.shown: tuple[str, ...] = getattr(objective, "shown", ("loss",))

    def run(self) -> None:
        """Train to the end. Raises Stopped where something else ends it; the work is saved then."""
        options, state, context = self.options, self.state, self.context
        if self.world.from_main(budget.is_spent(options, self.clock)) and state.step != state.total_steps:
            raise budget.used_up(options, where=context.name)
        in_steps = state.total_steps is not None
        total = state.total_steps if in_steps else options.time_limit_seconds
        self.model.train()
        with (
            self.watch,
            context.stop.deferred(),
            context.console.progress(context.name, total or 1, "steps" if in_steps else "s") as bar,
            steady_collection(options.device) as collect,
        ):
            bar(self.state.step if in_steps else self.state.seconds)
            while self.state.total_steps is None or self.state.step < self.state.total_steps:
                row = self._step()
                self.watch.step_done()
                collect(self.state.step)
                if self._rewound():
                    continue
                is_horizon_new, is_broke = self._find_horizon(row.pop("step_tokens"))
                self._log(row)
                bar(self.state.step if in_steps else self.state.seconds, progress_note(row, self.shown))
                self._save_or_stop(is_horizon_new, is_broke)

    def result(self) -> TrainResult:
        state, last = self.state, self.metrics.last
        return TrainResult(
            steps=state.step,
            tokens=state.tokens,
            seconds=state.seconds,
            loss=float(last.get("loss") or 0.0),
            tokens_per_second=state.tokens / max(state.seconds, 1e-9),
            metrics=last,
        )

    def close(self) -> None:
        self.ahead.close()
        self.trackers.close()
        self.clock.keep()
        self.checkpoints.close()
        self.metrics.close()

    # ------------------------------------------------------------ a step, and what follows it

    def _step(self) -> dict[str, Any]:
        """One update. The row has `step_tokens` beside what is logged."""
        started, tokens = time.perf_counter(), self.state.tokens
        row = train_step(
            self.model,
            self.objective,
            self.optimizers,
            self.options,
            self.state,
            self.world,
            batches=self.ahead,
            is_wanted=self.guard.is_wanted,
        )
        self.clock.step_done(self.state, time.perf_counter() - started, row["data_wait"])
        return row | {"step_tokens": self.state.tokens - tokens}

    def _rewound(self) -> bool:
        """Go back to before a spike that lasts, where that is asked for."""
        if not self.guard.wants_rewind(self.state):
            return False
        found = self.guard.rewind(self.state, self.checkpoints)
        if found is None:
            return False
        self._take(*found)
        self.verdicts = Verdicts(self.metrics.cut(self.state.step))
        self.clock.went_back(self.state)
        self.trackers.close()
        self.trackers = self._open_trackers()
        self._save(wait=True)  # what is left out from here on is not forgotten in a kill
        keep_left_out(self.context.folder, self.state)
        return True

    def _find_horizon(self, step_tokens: int) -> tuple[bool, bool]:
        """Turn the limits into `state.total_steps`. Returns (it has just become known, the money is spent)."""
        options, state, clock, world = self.options, self.state, self.clock, self.world
        before = state.total_steps
        if options.is_timed:
            state.total_steps = world.from_main(budget.horizon(options, state, clock))
        is_broke = options.budget is not None and bool(world.from_main(budget.is_spent(options, clock)))
        if budget.tokens_are_spent(options, state, step_tokens) or (is_broke and budget.can_end_anywhere(options)):
            state.total_steps = state.step
        fits = math.inf if state.total_steps is None else state.total_steps
        if fits != before and fits < 0.95 * self.told_steps and world.is_main:
            self.told_steps = fits
            self.context.console.info(f"  {self.context.name}: {fits:,} steps fit into the limits")
        return before is None and state.total_steps is not None, is_broke

    def _log(self, row: dict[str, Any]) -> None:
        """Evaluate, write a line and judge the curve, where that is due. What was evaluated is added to `row`."""
        options, state = self.options, self.state
        is_last = state.step == state.total_steps
        is_evaluated = self.evaluate is not None and (is_last or _is_due(state.step, options.eval_steps))
        if self.evaluate is not None and is_evaluated:
            row |= self.world.evaluate(partial(_evaluate, self.model, self.evaluate))
        if not (is_evaluated or is_last or state.step == 1 or _is_due(state.step, options.logging_steps)):
            return
        line = {"step": state.step, **row, **self.clock.speed(state)}
        line |= {"mfu": line["tokens_per_second"] * self.use} if self.use else {}
        self.metrics.write({**line, **self.guard.counts(state), "memory": peak_memory_bytes()})
        self.trackers.send(self.metrics.last)
        if self.is_judged:
            told = state.guards.setdefault("told", {})
            for finding in self.verdicts.look(self.metrics.last, told, after=2 * options.warmup_steps):
                self._tell(finding)

    def _save_or_stop(self, is_horizon_new: bool, is_broke: bool) -> None:
        """A checkpoint where one is due. Raises Stopped where the run was asked to end, or has no money left."""
        state, context = self.state, self.context
        is_last = state.step == state.total_steps
        is_stopping = self.world.any(context.stop.is_set or self.checkpoints.has_failed)
        if is_stopping:
            self.checkpoints.wait()  # a save that went wrong in the background ends the run here
        if self.is_first_save or is_horizon_new or is_last or is_stopping or is_broke:
            self._save(wait=True)
            if self.is_first_save:
                self.checkpoints.prove(state)
            self.is_first_save = False
        elif self.options.is_save_due(state.step):
            self._save(wait=False)
        if state.step == 1:
            state.first_step_seconds = self.clock.seconds()
        if is_stopping and not is_last:
            context.stop.join()  # it may be another process that was asked
            context.stop.raise_if_set(f"{context.name} is saved at step {state.step:,}")
        if is_broke and not is_last:
            raise Stopped(budget.stopped_text(self.options, state, self.clock, context.name), EXIT_REFUSED)

    # ------------------------------------------------------------ parts

    def _save(self, *, wait: bool) -> None:
        self.metrics.sync()
        started = self.clock.seconds()
        self.checkpoints.save(self.state, self.objective.state_dict(), wait=wait)
        if wait:
            self.clock.save_done(self.clock.seconds() - started)

    def _take(self, state: TrainState, objective_state: Any) -> None:
        self.state = state
        self.objective.load_state_dict(objective_state)

    def _tell(self, finding: Finding) -> None:
        if self.world.is_main:
            tell(self.context, finding)

    def _open_checkpoints(self) -> Checkpoints:
        options = self.options
        found: Checkpoints = self.world.checkpoints(
            Checkpoints(
                self.context.shared_folder / "checkpoints",
                self.model,
                self.optimizers,
                options.configuration(),
                self.context.console,
                keep=options.save_total_limit,
                milestone_steps=options.milestone_steps,
                regular_steps=options.save_steps if options.on_spike == "rewind" else None,
                group=self.world.checkpoint_group,
            )
        )
        return found

    def _open_trackers(self) -> Trackers:
        """Mirrors of metrics.jsonl, from this step on."""
        context = self.context
        names = self.options.report_to if self.world.is_main else ()
        logs = context.folder / "logs"
        return open_trackers(names, logs, context.run_folder.name, context.name, self.state.step, context.console.warn)


def progress_note(row: Mapping[str, Any], shown: Sequence[str]) -> str:
    """The numbers beside the progress bar, a name before its slash left out: `score 0.412  kl 1.730`."""
    return "  ".join(f"{name.rpartition('/')[2]} {row[name]:.3f}" for name in shown if name in row)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _evaluate(model: nn.Module, evaluate: Evaluate) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        found = evaluate(model)
    model.train()
    return found
