"""What the loop does about what it sees: stops, skips, goes back, and repeats it exactly after a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import pkgutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from groundup.artifacts import read_json
from groundup.console import Console
from groundup.errors import Stopped, UserError
from groundup.stopping import StopRequest, listening_for_signals
from groundup.tokens.skips import batch_of
from groundup.train.checkpoint import TrainState
from groundup.train.engine import LossParts, TrainResult, train, train_step
from groundup.train.guards import accept_skips
from groundup.train.metrics import read_metrics
from groundup.train.verdicts import Verdicts
from groundup.train.world import World

from .engine_parts import context_in, equal_weights, next_token, options, tiny_decoder, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


# ---------------------------------------------------------------- a small regression with batches that do harm


class Line:
    """Least squares on batches drawn from their number; `bad` ones have targets from elsewhere. Keeps what is asked."""

    is_function_of_step = True

    def __init__(self, bad: range = range(0), how_bad: float = 60.0) -> None:
        self.bad, self.how_bad = bad, how_bad
        self.asked: list[int] = []

    def micro_batches(self, step: int, model: Any) -> list[Any]:  # noqa: ARG002
        self.asked.append(step + 1)
        random = np.random.default_rng(step)
        x = torch.from_numpy(random.normal(size=(32, 4)).astype(np.float32))
        y = x.sum(1, keepdim=True) + torch.from_numpy(random.normal(size=(32, 1)).astype(np.float32))
        return [(x, y + self.how_bad if step + 1 in self.bad else y)]

    def weight(self, micro_batch: Any) -> float:
        return float(len(micro_batch[0]))

    def loss(self, model: Any, micro_batch: Any) -> LossParts:
        return LossParts((model(micro_batch[0]) - micro_batch[1]).square().sum(), self.weight(micro_batch))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class StopAt:
    """Raises the stop flag while batch `batch` is trained, as a signal would."""

    def __init__(self, inner: Any, stop: StopRequest, batch: int) -> None:
        self.inner, self.stop, self.batch = inner, stop, batch
        self.now = 0

    def micro_batches(self, step: int, model: Any) -> list[Any]:
        return [(step + 1, batch) for batch in self.inner.micro_batches(step, model)]

    def weight(self, micro_batch: Any) -> float:
        return self.inner.weight(micro_batch[1])

    def loss(self, model: Any, micro_batch: Any) -> LossParts:
        if micro_batch[0] == self.batch:
            self.stop.request(75)
        return self.inner.loss(model, micro_batch[1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Heard(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []
        self.infos: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def info(self, text: str) -> None:
        self.infos.append(text)


def line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def fit(
    folder: Path, objective: Any, *, console: Console | None = None, stop: StopRequest | None = None, **changes: Any
) -> tuple[nn.Module, TrainResult]:
    model = line()
    settings: dict[str, Any] = {"max_steps": 200, "learning_rate": 0.05, "save_steps": 25, "lr_scheduler": "constant"}
    context = context_in(folder, console=console, stop=stop)
    result = train(model, objective, options(**{**settings, **changes}), context)
    return model, result


def trained(folder: Path) -> list[dict[str, Any]]:
    return read_metrics(folder / "metrics.jsonl")


def events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events.jsonl"
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


# ---------------------------------------------------------------- a spike


def test_by_default_a_spike_is_told_and_changes_nothing(tmp_path: Path) -> None:
    heard = Heard()
    calm, _ = fit(tmp_path / "calm", Line(range(120, 121)), on_spike="warn", console=heard)
    assert any("spike: a loss of" in text for text in heard.warnings)
    told = [event for event in events(tmp_path / "calm") if event["kind"] != "plateau"]  # it has learned what there is
    assert [(event["kind"], event["step"], event["severity"]) for event in told] == [("spike", 120, "warning")]
    assert trained(tmp_path / "calm")[-1]["spikes"] == 1
    assert "spikes" not in trained(tmp_path / "calm")[110]
    watched, _ = fit(tmp_path / "rewind", Line(range(120, 121)), on_spike="rewind")
    assert equal_weights(watched, calm)  # one bad batch is no reason to go back


def test_skip_leaves_the_update_out(tmp_path: Path) -> None:
    objective = Line(range(120, 122))
    model, _ = fit(tmp_path / "skip", objective, on_spike="skip", max_steps=121, weight_decay=0.1)
    before, _ = fit(tmp_path / "before", Line(), max_steps=119, weight_decay=0.1)
    assert equal_weights(model, before)
    last = trained(tmp_path / "skip")[-1]
    assert (last["step"], last["updates_skipped"], last["spikes"]) == (121, 2, 1)
    assert objective.asked[-1] >= 121


@pytest.mark.parametrize("stop_at", [None, 45, 101, 113, 114, 115, 126, 150])
def test_rewind_goes_back_before_the_spike_and_leaves_its_batches_out_whenever_it_is_stopped(
    tmp_path: Path, stop_at: int | None
) -> None:
    """Batches 112 to 118 have targets from elsewhere; that they last is clear after the fourth."""
    bad, heard = range(112, 119), Heard()
    stop = StopRequest()
    if stop_at is not None:
        with pytest.raises(Stopped):
            fit(tmp_path / "run", StopAt(Line(bad), stop, stop_at), stop=stop, on_spike="rewind")
    model, result = fit(tmp_path / "run", Line(bad), on_spike="rewind", console=heard)
    rows = trained(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 201))
    assert rows[-1]["rewinds"] == 1 and result.steps == 200
    left_out = read_json(tmp_path / "run" / "left_out.json")["batches"]
    ((first, last),) = left_out
    assert (first, last) == (112 - 4, 115 + 4)
    assert max(row["loss"] for row in rows[50:]) < 3

    class Only(Line):
        """The same batches, the left out ones never asked for."""

        def micro_batches(self, step: int, model: Any) -> list[Any]:
            return super().micro_batches(batch_of(step + 1, ((first, last),)) - 1, model)

    fit(tmp_path / "reference", Only(range(0)), max_steps=100)
    assert [row["loss"] for row in rows[:100]] == [row["loss"] for row in trained(tmp_path / "reference")]
    if stop_at is not None:
        whole, _ = fit(tmp_path / "whole", Line(bad), on_spike="rewind")
        assert equal_weights(model, whole)
        for name in ("loss", "grad_norm", "tokens"):
            assert [row[name] for row in rows] == [row[name] for row in trained(tmp_path / "whole")]


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("groundup.train.guards.batch_of", 1),  # the checkpoint is loaded, nothing has been said
        ("groundup.train.metrics.MetricsFile.cut", 1),
        ("os.rename", 1),  # among the later checkpoints that are removed, and the save that keeps what is left out
        ("os.rename", 2),
        ("os.rename", 4),
        ("os.fsync", 1),
        ("os.fsync", 3),
        ("groundup.train.engine.keep_left_out", 1),
    ],
)
def test_sigkill_while_it_goes_back_changes_nothing(tmp_path: Path, function: str, call: int) -> None:
    bad = range(112, 119)
    whole, _ = fit(tmp_path / "whole", Line(bad), on_spike="rewind")

    def killed() -> None:
        """Ends itself at that call, counted from when the run begins to go back."""
        from groundup.train import guards

        rewind = guards.Guard.rewind

        def going_back(*arguments: Any) -> Any:
            owner: Any = pkgutil.resolve_name(function.rpartition(".")[0])
            name, calls = function.rpartition(".")[2], [0]
            inner = getattr(owner, name)

            def counted(*inner_arguments: Any, **named: Any) -> Any:
                calls[0] += 1
                if calls[0] == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return inner(*inner_arguments, **named)

            setattr(owner, name, counted)
            return rewind(*arguments)

        guards.Guard.rewind = going_back  # type: ignore[method-assign]
        torch.set_num_threads(1)
        fit(tmp_path / "run", Line(bad), on_spike="rewind")

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    model, _ = fit(tmp_path / "run", Line(bad), on_spike="rewind")
    assert equal_weights(model, whole)
    assert read_json(tmp_path / "run" / "left_out.json") == read_json(tmp_path / "whole" / "left_out.json")
    losses = [[row["loss"] for row in trained(tmp_path / name)] for name in ("run", "whole")]
    assert losses[0] == losses[1]


def test_where_no_checkpoint_is_old_enough_or_it_went_back_often_enough_that_is_told_and_the_run_goes_on(
    tmp_path: Path,
) -> None:
    heard = Heard()
    _, result = fit(tmp_path / "one", Line(range(102, 110)), on_spike="rewind", save_total_limit=1, save_steps=103,
                    console=heard)  # fmt: skip
    assert result.steps == 200
    assert sum("raise save_total_limit" in text for text in heard.warnings) == 1
    heard = Heard()
    many = [range(100 + 12 * k, 105 + 12 * k) for k in range(5)]

    class Often(Line):
        def micro_batches(self, step: int, model: Any) -> list[Any]:
            self.bad = next((bad for bad in many if step + 1 in bad), range(0))
            return super().micro_batches(step, model)

    _, result = fit(tmp_path / "many", Often(), on_spike="rewind", console=heard)
    assert result.steps == 200 and trained(tmp_path / "many")[-1]["rewinds"] == 3
    assert sum("gone back 3 times already" in text for text in heard.warnings) == 1


# ---------------------------------------------------------------- batches that a recipe leaves out


def test_batches_to_come_may_be_left_out_under_way_and_it_is_as_if_they_always_had_been(tmp_path: Path) -> None:
    stop = StopRequest()
    with pytest.raises(Stopped):
        fit(tmp_path / "run", StopAt(Line(), stop, 40), stop=stop, max_steps=60)
    later, _ = fit(tmp_path / "run", Line(), max_steps=60, skip_steps=((44, 46), (50, 50)))
    objective = Line()
    objective.is_function_of_step = False  # type: ignore[misc]
    always, _ = fit(tmp_path / "always", objective, max_steps=60, skip_steps=((44, 46), (50, 50)))
    assert equal_weights(later, always)
    assert objective.asked == [n for n in range(1, 65) if n not in (44, 45, 46, 50)]
    lr = [row["lr"] for row in trained(tmp_path / "always")]
    assert lr[10:] == [pytest.approx(0.05)] * 50  # the schedule goes by updates


@pytest.mark.parametrize(("then", "now"), [((), ((3, 4),)), (((3, 4),), ()), (((3, 4),), ((3, 5),))])
def test_batches_that_were_trained_cannot_be_left_out_any_more(
    then: tuple[tuple[int, int], ...], now: tuple[tuple[int, int], ...]
) -> None:
    state = TrainState(step=10)
    accept_skips(options(skip_steps=then), TrainState(step=0), where="base")
    state.guards["skip_steps"] = [list(pair) for pair in then]
    with pytest.raises(UserError, match=r"of the first 1[02] batches, which are trained already") as caught:
        accept_skips(options(skip_steps=now), state, where="base")
    assert "name batches after" in str(caught.value)
    accept_skips(options(skip_steps=(*then, (20, 25))), state, where="base")
    assert state.guards["skip_steps"][-1] == [20, 25]


# ---------------------------------------------------------------- a number that is none


class Broken(nn.Module):
    """A block that gives NaN from some call on."""

    def __init__(self, inner: nn.Module, kind: str) -> None:
        super().__init__()
        self.inner, self.kind, self.is_broken = inner, kind, False

    def forward(self, *arguments: Any, **named: Any) -> Any:
        out = self.inner(*arguments, **named)
        if not self.is_broken:
            return out
        if self.kind == "output":
            return out * torch.where(torch.arange(out.shape[-1]) == 3, float("nan"), 1.0)
        return out + (out - out.detach()).abs().sqrt()  # nothing, with an infinite slope


class Breaking:
    """Next token; from batch 4 on the layer is broken."""

    def __init__(self, inner: Any, layer: Broken) -> None:
        self.inner, self.layer = inner, layer

    def micro_batches(self, step: int, model: Any) -> list[Any]:
        self.layer.is_broken = step >= 3
        return self.inner.micro_batches(step, model)

    def __getattr__(self, name: str) -> Any:
        if name == "is_function_of_step":
            raise AttributeError
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("output", "the first module whose output is not finite is model.layers.0.mlp.down_proj"),
        ("slope", "the first gradient that is not finite, in backward order, is that of model.layers.0.mlp.down_proj"),
    ],
)
def test_the_first_module_that_is_not_finite_is_named(tmp_path: Path, shards: Path, kind: str, named: str) -> None:
    model = tiny_decoder()
    layer = Broken(model.model.layers[0].mlp.down_proj, kind)
    model.model.layers[0].mlp.down_proj = layer  # type: ignore[assignment]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        train(model, Breaking(next_token(shards, 4), layer), options(max_steps=9, learning_rate=0.0 + 1e-9),
              context_in(tmp_path))  # fmt: skip
    text = str(caught.value)
    assert "step 4:" in text and named in text and "the weights are still those of step 3" in text
    assert "groundup tokens show RUN --step 4" in text and "skip_steps: [4]" in text
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert set(before) == set(model.state_dict())
    assert not any(module._forward_hooks for module in model.modules())


class Once:
    """A loss that is no number the first time it is computed, and a good one when it is computed again."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls = inner, 0

    def loss(self, model: Any, micro_batch: Any) -> LossParts:
        parts = self.inner.loss(model, micro_batch)
        self.calls += 1
        return LossParts(parts.loss_sum * (float("inf") if self.calls == 1 else 1.0), parts.weight)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_number_that_does_not_come_again_points_to_the_hardware(shards: Path) -> None:
    model = line()
    with pytest.raises(UserError, match="computed again it is finite: that points to the hardware"):
        train_step(model, Once(Line()), [], options(), TrainState(total_steps=12))
    del shards


class Two(World):
    """Two processes, of which this one sees the other's numbers: what the other found is in `other`."""

    size = data_size = 2

    def __init__(self, other: list[float]) -> None:
        self.other = other

    def sum(self, *values: float) -> list[float]:
        return [a + b for a, b in zip(values, self.other, strict=True)] if len(values) == len(self.other) else [*values]


def test_what_another_process_found_is_named_here() -> None:
    from groundup.train.health import first_of_all

    assert first_of_all(Two([0, 1, 0]), ["a", "b", "c"], "c") == "b"
    assert first_of_all(Two([0, 0, 0]), ["a", "b", "c"], None) is None


# ---------------------------------------------------------------- verdicts while it trains


def test_over_fitting_is_told_when_it_shows_and_only_once(tmp_path: Path) -> None:
    heard = Heard()
    losses = iter([4.0, 3.0, 2.0, 1.5, 1.45, 1.5, 1.6, 1.8, 1.9, 2.0, 2.1, 2.2])
    context = context_in(tmp_path, console=heard)
    train(line(), Line(), options(max_steps=120, eval_steps=10, learning_rate=0.002, lr_scheduler="constant"), context,
          evaluate=lambda _: {"validation_loss": next(losses)})  # fmt: skip
    told = [event for event in events(tmp_path) if event["kind"] == "overfit"]
    assert [event["severity"] for event in told] == ["note", "warning"]
    assert "held-out loss was lowest at step 50 (1.450)" in told[0]["what"]


def test_verdicts_go_on_from_the_rows_that_are_there() -> None:
    rows = [{"step": step, "loss": 5 + 0.01 * (step % 7)} for step in range(1, 200)]
    whole, told = Verdicts([]), {}
    found = [finding for row in rows for finding in whole.look(row, told, after=0)]
    assert [finding.kind for finding in found] == ["not_learned"]
    resumed = Verdicts(rows[:100])
    assert not [finding for row in rows[100:] for finding in resumed.look(row, told, after=0)]


# ---------------------------------------------------------------- signals


def test_a_second_sigterm_waits_for_the_save_and_a_second_ctrl_c_does_not() -> None:
    with listening_for_signals() as stop, stop.deferred():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_code == 75
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
    with listening_for_signals() as stop, pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)  # nothing is being saved: at once


def test_where_only_the_unwatched_path_overflows_that_is_said_with_the_largest_weight() -> None:
    model = line()

    class Fused(Line):
        """Takes another path as soon as somebody watches the modules, as fused blocks do."""

        def loss(self, model: Any, micro_batch: Any) -> LossParts:
            parts = super().loss(model, micro_batch)
            return parts if model._forward_hooks else LossParts(parts.loss_sum * float("nan"), parts.weight)

    with torch.no_grad():
        model.weight[0, 2] = -7.5  # type: ignore[index,operator]
    with pytest.raises(
        UserError, match=r"module by module it is finite: numbers are too large \(the largest weight is 7.5"
    ):
        train_step(model, Fused(), [], options(), TrainState(total_steps=12))


def test_a_warm_up_that_is_longer_than_the_training_is_told(tmp_path: Path, shards: Path) -> None:
    heard = Heard()
    context = context_in(tmp_path, console=heard)
    train(tiny_decoder(), next_token(shards), options(warmup_steps=48, max_steps=12, learning_rate=0.01), context)
    [told] = [text for text in heard.warnings if "warm-up" in text]
    assert "warm-up takes 48 steps and training ends after 12" in told
    assert told.endswith("the learning rate rises to 0.0025 and no further")
    assert max(row["lr"] for row in read_metrics(tmp_path / "metrics.jsonl")) == pytest.approx(0.0025)
