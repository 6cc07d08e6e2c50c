"""When training ends: after steps, tokens, time or money, whichever comes first, and never after it.

Steps and tokens are known in advance. Time and money become a number of steps once some steps have been timed, so that
the learning rate decays within them; where the machine turns slower, the number shrinks. Until the decay begins it may
grow again, so that a short disturbance costs little more than itself; after that, never. The last checkpoint's seconds
are set aside.
"""

from __future__ import annotations

from groundup.console import duration
from groundup.errors import EXIT_REFUSED, UserError
from groundup.train.checkpoint import TrainState
from groundup.train.clock import Clock
from groundup.train.options import ENDS_ANYWHERE, TrainOptions

PROBE_STEPS = 10  # at least so many steps are timed before a limit becomes a number of steps
PROBE_SHARE = 0.08  # and at least this share of the limit, so that the slow first step weighs little
LATE = 1.02  # a run this much too slow for its limit gets fewer steps; what is less is cut off at the very end


def budget_seconds(options: TrainOptions) -> float | None:
    """What the money pays for."""
    if options.budget is None or not options.cost_per_hour:
        return None
    return options.budget / options.cost_per_hour * 3600


def limits(options: TrainOptions, state: TrainState, clock: Clock) -> list[tuple[float, float]]:
    """(limit, spent of it) in seconds. A time limit counts the run as it is, money counts every attempt."""
    paid = budget_seconds(options)
    found = [] if options.time_limit_seconds is None else [(options.time_limit_seconds, state.seconds)]
    return found if paid is None else [*found, (paid, clock.paid_seconds())]


def horizon(options: TrainOptions, state: TrainState, clock: Clock) -> int | None:
    """Steps in all, as far as they are known now: found from the measured speed, and corrected by it."""
    known = limits(options, state, clock)
    if not known:
        return state.total_steps
    limit, spent = min(known, key=lambda pair: pair[0] - pair[1])
    saves = 2 if state.total_steps is None else 1  # the last, and the one that keeps the number that is found
    left = max(0.0, limit - spent - saves * clock.save_seconds)
    if state.total_steps is None:
        return _found(options, state, limit, spent, left)
    return _corrected(options, state, clock, left)


def _found(options: TrainOptions, state: TrainState, limit: float, spent: float, left: float) -> int | None:
    at_most = options.max_steps or 2**62
    is_probed = state.step > PROBE_STEPS and spent >= PROBE_SHARE * limit
    if not (is_probed or spent >= limit / 2 or state.step >= at_most):
        return None
    return min(state.step + int(left / (_mean_step_seconds(state) or state.seconds)), at_most)


def _corrected(options: TrainOptions, state: TrainState, clock: Clock, left: float) -> int:
    """Fewer steps where they no longer fit, more where they do again and the rate does not decay yet.

    Until then the mean speed of all steps counts: seconds in which something else had the machine must not cost the
    rest of the limit. In the decay it is the speed of the last ones. Only for schedules that can end anywhere; a cosine
    is cut off by `is_spent`, not bent.
    """
    assert state.total_steps is not None
    if not can_end_anywhere(options) or state.step <= PROBE_STEPS:
        return state.total_steps
    if left < clock.next_step_seconds():  # not even one more
        return state.step
    to_do = state.total_steps - state.step
    is_decaying = options.lr_scheduler == "wsd" and to_do <= state.total_steps * options.decay_ratio + 1
    per_step = clock.seconds_per_step() if is_decaying else _mean_step_seconds(state)
    if per_step is None:
        return state.total_steps
    fitting = state.step + max(1, int(left / per_step))
    if to_do * per_step > LATE * left:
        return fitting
    more = min(fitting, options.max_steps or fitting)
    return more if more > LATE * state.total_steps and not is_decaying else state.total_steps


def _mean_step_seconds(state: TrainState) -> float | None:
    """Of all steps but the first, which allocates, and whose checkpoint is proven."""
    return (state.seconds - state.first_step_seconds) / (state.step - 1) if state.step > 1 else None


def can_end_anywhere(options: TrainOptions) -> bool:
    return options.lr_scheduler in ENDS_ANYWHERE


def is_spent(options: TrainOptions, clock: Clock) -> bool:
    """Whether one more step, and the checkpoint after it, would pass the money."""
    paid = budget_seconds(options)
    if paid is None:
        return False
    return clock.paid_seconds() + clock.next_step_seconds() + clock.save_seconds > paid


def tokens_are_spent(options: TrainOptions, state: TrainState, step_tokens: int) -> bool:
    """Whether one more step like the largest so far would pass max_tokens."""
    if options.max_tokens is None:
        return False
    most = state.guards["most_tokens"] = max(int(state.guards.get("most_tokens", 0)), step_tokens)
    return state.tokens + most > options.max_tokens


def used_up(options: TrainOptions, where: str) -> UserError:
    """Nothing is left to train with: earlier attempts have cost it."""
    return UserError(
        f"the budget of {options.budget:,.2f} is spent, at {options.cost_per_hour:,.2f} an hour",
        where=where,
        fix="raise budget to go on; what was trained is kept",
        exit_code=EXIT_REFUSED,
    )


def cost(options: TrainOptions, seconds: float) -> float:
    return seconds / 3600 * (options.cost_per_hour or 0.0)


def stopped_text(options: TrainOptions, state: TrainState, clock: Clock, name: str) -> str:
    spent = cost(options, clock.paid_seconds())
    return (
        f"{name} is saved at step {state.step:,}: one more would pass the budget of {options.budget:,.2f} "
        f"({spent:,.2f} spent); raise it to go on"
    )


def spent_text(options: TrainOptions, state: TrainState, clock: Clock) -> str:
    """`600 steps, 1,228,800 tokens in 10 min 02 s; it cost 0.21 of 0.50 (2 attempts)`."""
    text = f"{state.step:,} steps, {state.tokens:,} tokens in {duration(clock.paid_seconds())}"
    if options.cost_per_hour:
        of = f" of {options.budget:,.2f}" if options.budget is not None else ""
        text += f"; it cost {cost(options, clock.paid_seconds()):,.2f}{of}"
    return f"{text} ({clock.attempts} attempts)" if clock.attempts > 1 else text
