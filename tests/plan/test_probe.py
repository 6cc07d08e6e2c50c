"""The machine's rates: measured once and kept, assumed and labelled where they cannot be measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from groundup.plan import probe
from groundup.plan.probe import Machine


def test_a_measurement_is_kept_and_not_repeated(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(probe, "measured_machine", lambda: calls.append(1) or machine)
    first, second = probe.machine(tmp_path), probe.machine(tmp_path)
    assert first == second == machine
    assert calls == [1]


@pytest.fixture(autouse=True)
def load(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The machine's load, as the probe sees it: quiet unless a test says otherwise."""
    now = {"load": 0.0}
    monkeypatch.setattr("os.getloadavg", lambda: (now["load"], 0.0, 0.0))
    return now


def test_on_a_busy_machine_the_kept_measurement_is_used_and_that_is_said(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, load: dict[str, float]
) -> None:
    calls = []
    monkeypatch.setattr(probe, "measured_machine", lambda: calls.append(1) or machine)
    probe.machine(tmp_path)
    load["load"] = 99.0
    found = probe.machine(tmp_path)
    assert found.note.startswith("this machine is busy (load 99.0 on ") and found.training == machine.training
    load["load"] = 0.0
    assert probe.machine(tmp_path).note == "" and calls == [1]


def test_a_measurement_made_while_busy_is_kept_until_the_machine_is_quiet(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, load: dict[str, float]
) -> None:
    calls = []
    monkeypatch.setattr(probe, "measured_machine", lambda: calls.append(1) or machine)
    load["load"] = 99.0
    assert "busy" in probe.machine(tmp_path).note and "busy" in probe.machine(tmp_path).note
    assert calls == [1]
    load["load"] = 0.0
    assert probe.machine(tmp_path).note == "" and probe.machine(tmp_path).note == ""
    assert calls == [1, 1]


def test_the_whole_probe_measures_for_at_most_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = []
    monkeypatch.setattr(probe, "best_seconds", lambda _: rounds.append(1) or 0.01)
    probe.measure_rates()
    assert len(rounds) * probe.SECONDS_PER_ROUND <= 2.0


def test_work_that_takes_long_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, runs = iter([0.0, 3.0]), []
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert probe.best_seconds(lambda: runs.append(1)) == 3.0 and runs == [1]


def test_another_torch_is_measured_anew(tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(probe, "measured_machine", lambda: calls.append(1) or machine)
    probe.machine(tmp_path)
    monkeypatch.setattr(probe, "torch_version", lambda: "9.9.9")
    probe.machine(tmp_path)
    assert len(calls) == 2


def test_without_torch_rates_are_assumed_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "torch_version", lambda: "absent")
    found = probe.machine(tmp_path)
    assert found.source == "assumed"
    assert "torch is not there" in found.note
    assert list(tmp_path.rglob("*.json")) == []


def test_not_measuring_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import groundup.plan.recipe_plan;"
        "from groundup.plan.probe import machine;"
        f"machine(Path({str(tmp_path)!r}), measure=False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_broken_file_in_the_cache_is_measured_again(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "measured_machine", lambda: machine)
    probe.machine(tmp_path)
    [kept] = tmp_path.rglob("*.json")
    kept.write_text('{"training": 1}')
    assert probe.machine(tmp_path) == machine


def test_the_real_probe_gives_plausible_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS_PER_ROUND", 0.01)
    rates = probe.measure_rates()
    for dtype in ("float32", "bfloat16"):
        assert 1e8 < rates["training"][dtype][0] < 1e15
        assert 1e8 < rates["matmul"][dtype] < 1e16
        fixed, each = rates["decode"][dtype]
        assert fixed > 0 and each >= 0


def test_training_rates_between_and_beyond_the_measured_widths(machine: Machine) -> None:
    assert machine.training_rate(256, "float32") == pytest.approx(1e10)
    assert machine.training_rate(512, "float32") == pytest.approx(2e10)
    assert machine.training_rate(1024, "float32") == pytest.approx(4e10)
    assert machine.training_rate(4096, "float32") == pytest.approx(4e10)
    assert machine.training_rate(64, "float32") == pytest.approx(1e10)


def test_auto_takes_bfloat16_only_where_the_processor_has_it(machine: Machine) -> None:
    from dataclasses import replace

    assert machine.dtype("auto") == "float32"
    assert replace(machine, has_fast_bf16=True).dtype("auto") == "bfloat16"
    assert machine.dtype(True) == "bfloat16"


def test_the_probe_decides_about_bfloat16_as_the_engine_does() -> None:
    from groundup.train.precision import has_fast_bf16

    assert probe.assumed_machine().has_fast_bf16 == has_fast_bf16("cpu")
