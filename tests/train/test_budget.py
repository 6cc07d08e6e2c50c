"""Steps, tokens, time and money: the first of them ends it, and before it is passed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.console import Console
from groundup.errors import EXIT_REFUSED, Stopped, UserError
from groundup.stopping import StopRequest
from groundup.train import budget
from groundup.train import clock as clock_module
from groundup.train.checkpoint import TrainState
from groundup.train.clock import Clock
from groundup.train.engine import TrainResult, train
from groundup.train.metrics import read_metrics
from groundup.train.options import TrainOptions, check_options, steps_of_tokens, train_options
from groundup.train.settings import PpoSettings, PretrainSettings

from .engine_parts import context_in, options
from .test_health import Line, line


class Time:
    """A clock that goes on by what the work is said to take: 1 s a step, 3 s a checkpoint that is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.step_seconds, self.save_seconds = 1000.0, 1.0, 3.0
        monkeypatch.setattr(clock_module.time, "monotonic", lambda: self.now)
        step_done, save = Clock.step_done, clock_module.Clock.save_done

        def step(clock: Clock, state: TrainState, _seconds: float, data_wait: float) -> None:
            self.now += self.step_seconds
            step_done(clock, state, self.step_seconds, data_wait)

        def saved(clock: Clock, _seconds: float) -> None:
            self.now += self.save_seconds
            save(clock, self.save_seconds)

        monkeypatch.setattr(Clock, "step_done", step)
        monkeypatch.setattr(Clock, "save_done", saved)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


class Heard(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.infos: list[str] = []

    def info(self, text: str) -> None:
        self.infos.append(text)


class At(Line):
    """Does something when it is asked for a batch."""

    is_function_of_step = False  # else it is asked one step ahead

    def __init__(self, step: int, do: Callable[[], Any]) -> None:
        super().__init__()
        self.at, self.do = step, do

    def micro_batches(self, step: int, model: Any) -> list[Any]:
        if step + 1 == self.at:
            self.do()
        return super().micro_batches(step, model)


def fit(
    folder: Path, objective: Any = None, stop: StopRequest | None = None, **changes: Any
) -> tuple[TrainResult, str]:
    heard = Heard()
    settings = {"max_steps": None, "save_steps": 10**6, "logging_steps": 1, "warmup_steps": 0, **changes}
    result = train(line(), objective or Line(), options(**settings), context_in(folder, console=heard, stop=stop))
    return result, heard.infos[-1] if heard.infos else ""


def rates(folder: Path) -> list[float]:
    return [row["lr"] for row in read_metrics(folder / "metrics.jsonl")]


# ---------------------------------------------------------------- time


def test_a_time_limit_is_used_and_not_passed_and_the_rate_decays_within_it(tmp_path: Path, time: Time) -> None:
    result, told = fit(tmp_path, time_limit_seconds=200.0)
    assert 185 <= result.steps <= 194  # 200 less the checkpoints: the first, at the horizon, the last
    assert time.now - 1000 <= 200
    assert rates(tmp_path)[-1] < 0.02 * max(rates(tmp_path))
    assert told.startswith(f"  base: {result.steps} steps, {32 * result.steps:,} tokens in 3 min")


def test_where_the_machine_turns_slower_there_are_fewer_steps_and_the_decay_is_whole(
    tmp_path: Path, time: Time
) -> None:
    def slower() -> None:
        time.step_seconds = 2.0

    result, _ = fit(tmp_path, At(60, slower), time_limit_seconds=200.0)
    assert 115 <= result.steps <= 130
    assert time.now - 1000 <= 200
    assert rates(tmp_path)[-1] < 0.05 * max(rates(tmp_path))


def test_a_short_disturbance_is_made_up_for_before_the_decay(tmp_path: Path, time: Time) -> None:
    class Disturbed(At):
        def micro_batches(self, step: int, model: Any) -> list[Any]:
            time.step_seconds = 4.0 if 30 <= step < 36 else 1.0
            return super().micro_batches(step, model)

    result, _ = fit(tmp_path, Disturbed(0, lambda: None), time_limit_seconds=200.0)
    assert result.steps >= 145  # 133 would fit at the speed just after it, 170 at the usual one
    assert time.now - 1000 <= 200
    assert rates(tmp_path)[-1] < 0.05 * max(rates(tmp_path))


def test_a_machine_that_nearly_stands_still_ends_it_before_the_limit(tmp_path: Path, time: Time) -> None:
    def still() -> None:
        time.step_seconds = 20.0

    result, _ = fit(tmp_path, At(100, still), time_limit_seconds=200.0)
    assert result.steps < 110 and time.now - 1000 <= 200


# ---------------------------------------------------------------- money


def test_money_buys_steps_and_says_what_it_cost(tmp_path: Path, time: Time) -> None:
    result, told = fit(tmp_path, budget=0.5, cost_per_hour=9.0)  # 200 seconds
    assert 180 <= result.steps <= 194 and time.now - 1000 <= 200
    assert rates(tmp_path)[-1] < 0.02 * max(rates(tmp_path))
    assert "; it cost 0.4" in told or "; it cost 0.50" in told
    assert told.endswith(" of 0.50")


def test_money_that_suffices_changes_nothing(tmp_path: Path, time: Time) -> None:
    del time
    with_money, _ = fit(tmp_path / "money", budget=50.0, cost_per_hour=9.0, max_steps=60)
    without, _ = fit(tmp_path / "none", max_steps=60)
    assert with_money.steps == without.steps == 60
    assert rates(tmp_path / "money") == rates(tmp_path / "none")


def test_lost_work_is_paid_for_and_counts(tmp_path: Path, time: Time) -> None:
    class Kill(BaseException):
        pass

    def kill() -> None:
        raise Kill

    with pytest.raises(Kill):
        fit(tmp_path, At(80, kill), budget=0.5, cost_per_hour=9.0)
    time.now += 10_000  # nobody pays for the night between
    began = time.now
    saved = max(int(path.name.rpartition("-")[2]) for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert saved < 30  # more than fifty steps are lost
    result, told = fit(tmp_path, budget=0.5, cost_per_hour=9.0)
    spent_before = 79 + 2 * 3.0
    assert time.now - began + spent_before <= 200
    assert result.steps - saved <= 200 - spent_before
    assert result.steps > 100 and "(2 attempts)" in told


def test_a_cosine_is_not_bent_but_saved_and_stopped_and_more_money_goes_on(tmp_path: Path, time: Time) -> None:
    whole, _ = fit(tmp_path / "whole", max_steps=300, lr_scheduler="cosine")
    began = time.now
    with pytest.raises(Stopped) as caught:
        fit(tmp_path / "run", max_steps=300, lr_scheduler="cosine", budget=0.5, cost_per_hour=9.0)
    assert caught.value.exit_code == EXIT_REFUSED
    assert "one more would pass the budget of 0.50" in str(caught.value) and "raise it to go on" in str(caught.value)
    assert 190 <= time.now - began <= 200
    with pytest.raises(UserError, match=r"the budget of 0.50 is spent, at 9.00 an hour") as refused:
        fit(tmp_path / "run", max_steps=300, lr_scheduler="cosine", budget=0.5, cost_per_hour=9.0)
    assert refused.value.exit_code == EXIT_REFUSED
    result, _ = fit(tmp_path / "run", max_steps=300, lr_scheduler="cosine", budget=5.0, cost_per_hour=9.0)
    assert (result.steps, result.loss) == (300, whole.loss)
    assert rates(tmp_path / "run") == rates(tmp_path / "whole")


# ---------------------------------------------------------------- tokens


def test_max_tokens_ends_it_before_it_is_passed(tmp_path: Path, time: Time) -> None:
    del time
    known, _ = fit(tmp_path / "known", max_steps=20, max_tokens=32 * 20 + 31)
    assert (known.steps, known.tokens) == (20, 640)
    found, told = fit(tmp_path / "found", max_steps=1000, max_tokens=32 * 20 + 31)  # steps not known in advance
    assert (found.steps, found.tokens) == (20, 640)
    assert told.startswith("  base: 20 steps, 640 tokens in ")
    assert (tmp_path / "found" / "checkpoints" / "checkpoint-20").is_dir()


def test_tokens_become_steps_where_a_step_has_so_many() -> None:
    settings = PretrainSettings(tokens="x", max_tokens=100_000, max_steps=600)
    made = train_options(settings, seed=0, tokens_per_step=2048)
    assert made.max_steps == 48 and made.max_tokens == 100_000
    assert train_options(settings, seed=0).max_steps == 600
    with pytest.raises(UserError, match="max_tokens is 2,000, and one step takes 2,048"):
        steps_of_tokens(2000, 2048)


# ---------------------------------------------------------------- what does not go together


def test_what_cannot_end_or_has_no_price_is_refused() -> None:
    with pytest.raises(UserError, match="nothing says when training ends"):
        check_options(TrainOptions(None, 1e-3))
    with pytest.raises(UserError, match="budget alone does not go with lr_scheduler cosine"):
        check_options(TrainOptions(None, 1e-3, lr_scheduler="cosine", budget=1.0, cost_per_hour=1.0))
    with pytest.raises(ValueError, match="budget needs cost_per_hour"):
        PretrainSettings(tokens="x", budget=3.0)
    for key, value in {"skip_steps": [3], "on_spike": "skip"}.items():
        with pytest.raises(ValueError, match="skip_steps and on_spike do nothing in PPO"):
            PpoSettings(base_model="x", datasets=[{"tasks": ["addition"]}], verifier=True, **{key: value})


def test_the_limit_that_is_nearest_counts(time: Time) -> None:
    state, clock = TrainState(step=50, seconds=50.0, total_steps=None), None
    clock = Clock(TrainState())
    time.now += 50
    both = options(max_steps=None, time_limit_seconds=100.0, budget=1.0, cost_per_hour=1.0)
    assert budget.limits(both, state, clock) == [(100.0, 50.0), (3600.0, 50.0)]
    assert budget.horizon(both, state, clock) == 50 + int(50 * 49 / 50.0)
