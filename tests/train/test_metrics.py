"""metrics.jsonl, the account of time, MFU, and the trackers that get a copy."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts import write_json
from groundup.console import Console
from groundup.environment import processor_name
from groundup.errors import Stopped, UserError
from groundup.stopping import StopRequest
from groundup.train import clock as clock_module
from groundup.train.checkpoint import TrainState
from groundup.train.clock import Clock
from groundup.train.engine import train
from groundup.train.metrics import MetricsFile, read_metrics
from groundup.train.peak import peak_flops, use_per_token
from groundup.train.trackers import open_trackers

from .engine_parts import T, context_in, next_token, options, tiny_decoder, train_tiny, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


class Time:
    """A clock that stands still until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(clock_module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(clock_module.time, "time", lambda: 1e9 + self.now)


# ---------------------------------------------------------------- the file


def test_the_file_is_cut_where_training_goes_back_to(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    for step in range(1, 6):
        metrics.write({"step": step, "loss": float(step)})
    assert [row["step"] for row in metrics.cut(3)] == [1, 2, 3]
    metrics.write({"step": 4, "loss": 0.5})
    metrics.sync()
    metrics.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 0.5)]
    assert metrics.last == rows[-1]


def test_every_line_says_how_time_was_spent(tmp_path: Path, shards: Path) -> None:
    train_tiny(tmp_path, shards, logging_steps=3)
    for row in read_metrics(tmp_path / "metrics.jsonl"):
        assert 0 < row["step_seconds_p50"] <= row["step_seconds_p95"]
        assert 0 <= row["data_wait_share"] <= 1
        assert 0 < row["goodput"] <= 1


# ---------------------------------------------------------------- the account


def test_goodput_counts_lost_work_and_the_time_between_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time, path = Time(monkeypatch), tmp_path / "timing.json"
    first = TrainState()
    clock = Clock(first, path)
    for _ in range(10):
        time.now += 2.0
        clock.step_done(first, 2.0, 0.5)
    row = clock.speed(first)
    assert (row["goodput"], row["step_seconds_p50"], row["data_wait_share"]) == (1.0, 2.0, 0.25)
    assert clock.seconds_per_step() is None  # nine moments between ten steps are too few to plan with

    time.now += 5.0  # killed here, 15 seconds after the checkpoint of step 5; 5 seconds were never written down
    saved = TrainState(step=5, seconds=10.0, guards={"useful_seconds": 10.0})
    time.now += 15.0  # until somebody starts it again
    clock = Clock(saved, path)
    assert clock.attempts == 2
    assert clock.paid_seconds() == 20.0 and clock.seconds() == 10.0
    for _ in range(5):
        time.now += 2.0
        clock.step_done(saved, 2.0, 0.0)
    assert saved.seconds == 20.0 and clock.paid_seconds() == 30.0
    assert clock.goodput(saved) == pytest.approx(20 / 50)  # 20 seconds of steps that count, 50 on the wall


def test_what_a_step_takes_is_judged_without_saves_that_were_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    time, state = Time(monkeypatch), TrainState()
    clock = Clock(state)

    def steps(count: int) -> None:
        for _ in range(count):
            time.now += 2.0
            clock.step_done(state, 2.0, 0.0)

    steps(5)
    time.now += 100.0
    clock.save_done(100.0)
    steps(12)
    assert clock.seconds_per_step() == 2.0 and clock.save_seconds == 100.0
    time.now += 6.0  # a long evaluation
    steps(1)
    assert clock.seconds_per_step() == pytest.approx((11 * 2 + 8) / 12)
    assert clock.next_step_seconds() == clock.seconds_per_step()


def test_an_account_that_cannot_be_read_or_written_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "timing.json").write_text("half a li")
    clock = Clock(TrainState(), tmp_path / "timing.json")
    assert clock.attempts == 1
    Clock(TrainState(), tmp_path / "gone" / "timing.json").keep()


# ---------------------------------------------------------------- MFU


def test_mfu_is_work_done_over_work_possible(tmp_path: Path, shards: Path) -> None:
    plan = tmp_path / "cache" / "plan"
    plan.mkdir(parents=True)
    record = {"processor": processor_name(), "source": "measured", "matmul": {"float32": 2e9, "bfloat16": 7e9}}
    write_json(plan / "machine-1.json", {**record, "processor": "another"})
    assert peak_flops("float32", tmp_path / "cache") is None
    write_json(plan / "machine-0.json", record)
    assert peak_flops("float32", tmp_path / "cache") == 2e9
    model = tiny_decoder()
    train(model, next_token(shards), options(sequence_len=T), context_in(tmp_path))
    row = read_metrics(tmp_path / "metrics.jsonl")[-1]
    # by hand: 6 FLOPs a weight that multiplies, and the causal half of attention
    weights = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2)  # tied: the table is the head
    attention = 2 * 12 * 2 * 16 * T / 2
    assert row["mfu"] == pytest.approx(row["tokens_per_second"] * (6 * weights + attention) / 2e9, rel=1e-6)


def test_a_gpus_peak_is_its_data_sheets() -> None:
    none = Path("nowhere")
    assert peak_flops("bfloat16", none, "NVIDIA H100 80GB HBM3") == 9.89e14
    assert peak_flops("bfloat16", none, "NVIDIA H100 PCIe") == 7.56e14
    assert peak_flops("float32", none, "NVIDIA H100 80GB HBM3") is None
    assert peak_flops("bfloat16", none, "Some GPU of tomorrow") is None
    assert use_per_token(object(), 128, 1e12, 8) is None


# ---------------------------------------------------------------- trackers


class Session:
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.is_finished = False

    def log(self, numbers: dict[str, float], step: int) -> None:
        if step == 4:
            raise ConnectionError("no network")
        self.rows.append((step, numbers))

    def finish(self) -> None:
        self.is_finished = True


class Heard(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_every_line_and_where_it_fails_training_goes_on(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    session, asked = Session(), {}

    def init(**named: Any) -> Session:
        asked.update(named)
        return session

    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(init=init))
    heard = Heard()
    context = context_in(tmp_path / "myrun", console=heard)
    result = train(tiny_decoder(), next_token(shards), options(report_to=(name,)), context)
    assert result.steps == 12
    rows = read_metrics(tmp_path / "myrun" / "metrics.jsonl")
    assert [(step, numbers["loss"]) for step, numbers in session.rows] == [
        (row["step"], row["loss"]) for row in rows[:3]
    ]
    assert asked["project"] == "myrun" and asked["name"] == "base" and asked["resume"] == "allow"
    assert sum(f"{name} is not told any more: ConnectionError: no network" in text for text in heard.warnings) == 1


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_trained(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match="report_to names trackio, which is not installed here"):
        train_tiny(tmp_path, shards, report_to=("trackio",))
    assert not read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.extra
def test_tensorboard_shows_what_metrics_jsonl_holds_also_after_going_back(tmp_path: Path, shards: Path) -> None:
    pytest.importorskip("tensorboard", reason="report_to: [tensorboard] needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class StopAt:
        is_function_of_step = False

        def __init__(self, stop: StopRequest) -> None:
            self.inner, self.stop = next_token(shards), stop

        def micro_batches(self, step: int, model: Any) -> list[Any]:
            if step == 6:
                self.stop.request(75)
            return self.inner.micro_batches(step, model)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    stop = StopRequest()
    with pytest.raises(Stopped):
        train(tiny_decoder(), StopAt(stop), options(report_to=("tensorboard",)), context_in(tmp_path, stop=stop))
    for step in (5, 6, 7):  # as a kill would: the newest checkpoint that is left is that of step 4
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        if folder.exists():
            import shutil

            shutil.rmtree(folder)
    train_tiny(tmp_path, shards, report_to=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    events.Reload()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    for name in ("loss", "lr", "grad_norm"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]


def test_nothing_is_opened_where_nothing_is_asked_for(tmp_path: Path) -> None:
    trackers = open_trackers((), tmp_path / "logs", "run", "base", 0, print)
    trackers.send({"step": 1, "loss": 2.0})
    trackers.close()
    assert not (tmp_path / "logs").exists()
