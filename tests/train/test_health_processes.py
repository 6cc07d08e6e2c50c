"""Health where several processes train one model: they decide alike, and stop together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.artifacts import StageContext, read_json
from groundup.console import Console
from groundup.errors import UserError
from groundup.meeting import Meeting
from groundup.stopping import StopRequest
from groundup.team import Helped, Team
from groundup.train.engine import train
from groundup.train.metrics import read_metrics

from .engine_parts import options, tiny_decoder
from .test_health import Line, line
from .test_shared_memory import in_processes


class Parted(Line):
    """The same batches in two micro-batches, one for each process; only the second is bad."""

    def micro_batches(self, step: int, model: Any) -> list[Any]:
        ((x, y),) = super().micro_batches(step, model)
        return [(x[:16], y[:16]), (x[16:], y[16:])]


def fit(folder: Path, size: int, **changes: Any) -> list[Any]:
    settings: dict[str, Any] = {"max_steps": 200, "learning_rate": 0.05, "save_steps": 25, "lr_scheduler": "constant"}

    def work(rank: int, meeting: Meeting) -> Any:
        own = folder if rank == 0 else folder / f".scratch-{rank}"
        own.mkdir(parents=True, exist_ok=True)
        team = Team(rank, size, threads=1, meeting=meeting)
        common = None if rank == 0 else folder
        context = StageContext("base", own, {}, 7, own, Console(quiet=True), StopRequest(), folder, common, team)
        model = line()
        try:
            result = train(model, Parted(range(112, 119)), options(**{**settings, **changes}), context)
        except Helped:
            return "helped"
        torch.save(model.state_dict(), folder / "weights.pt")
        return result.steps

    return [work(0, Meeting.open(1))] if size == 1 else in_processes(size, work)


@pytest.mark.parametrize("on_spike", ["skip", "rewind"])
def test_two_processes_skip_and_go_back_as_one_does(tmp_path: Path, on_spike: str) -> None:
    assert fit(tmp_path / "one", 1, on_spike=on_spike) == [200]
    assert fit(tmp_path / "two", 2, on_spike=on_spike) == [200, "helped"]
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for name in ("loss", "grad_norm"):
        one, two = ([row[name] for row in some] for some in rows)
        assert two == pytest.approx(one, rel=1e-4)
    name = "updates_skipped" if on_spike == "skip" else "rewinds"
    assert rows[0][-1][name] == rows[1][-1][name] > 0
    if on_spike == "rewind":
        assert read_json(tmp_path / "one" / "left_out.json") == read_json(tmp_path / "two" / "left_out.json")
    events = (tmp_path / "two" / "events.jsonl").read_text()
    assert events.count('"spike"') == 1  # the main process alone speaks


def test_a_number_that_is_none_in_one_process_stops_both_and_is_named_in_both(tmp_path: Path) -> None:
    def work(rank: int, meeting: Meeting) -> Any:
        folder = tmp_path / str(rank)
        folder.mkdir()
        common = None if rank == 0 else tmp_path / "0"
        team = Team(rank, 2, threads=1, meeting=meeting)
        context = StageContext(
            "base", folder, {}, 7, folder, Console(quiet=True), StopRequest(), tmp_path, common, team
        )
        model = tiny_decoder()
        layer = model.model.layers[1].mlp
        if rank == 1:  # as a fault of one machine
            layer.register_forward_hook(lambda _module, _inputs, out: out * float("inf"))

        class Rows:
            def micro_batches(self, step: int, model: Any) -> list[Any]:  # noqa: ARG002
                return [torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(n)) for n in (0, 1)]

            def weight(self, micro_batch: Any) -> float:
                return float(micro_batch.numel())

            def loss(self, model: Any, micro_batch: Any) -> Any:
                from groundup.train.engine import LossParts

                return LossParts(model(micro_batch).square().sum(), self.weight(micro_batch))

            def state_dict(self) -> dict[str, Any]:
                return {}

            def load_state_dict(self, state: dict[str, Any]) -> None: ...

        with pytest.raises(UserError) as caught:
            train(model, Rows(), options(), context)
        return str(caught.value)

    first, second = in_processes(2, work)
    assert first == second
    assert "the first module whose output is not finite is model.layers.1.mlp" in first
