"""The benchmarks run, check that all systems did the same work, and say what they found in one form."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PEERS = Path(os.environ.get("GROUNDUP_BENCH_VENV") or REPOSITORY / ".bench-venv")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    yield importlib.import_module
    for name in ("common", "contenders", "train_throughput", "train_worker", "time_to_bpb", "startup", "setup"):
        sys.modules.pop(name, None)


def report_of(*command: str, **environment: str) -> dict[str, Any]:
    """What a benchmark prints with --quick --json."""
    process = subprocess.run(
        [sys.executable, *command, "--quick", "--json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    report: dict[str, Any] = json.loads(process.stdout)
    assert {"machine", "work", "results", "targets", "absent"} <= report.keys()
    assert {"processor", "cores", "memory_bytes", "gpu", "python", "packages", "commit", "date"} <= report[
        "machine"
    ].keys()
    assert all(work["same"] for work in report["work"].values())
    return report


# ---------------------------------------------------------------- whole benchmarks


@pytest.mark.slow
def test_the_demo_models_benchmark_compares_equal_work_and_reports_in_the_agreed_form() -> None:
    pytest.importorskip("transformers")
    report = report_of("benchmarks/demo_model.py")
    assert {"groundup", "torch", "transformers"} == report["machine"]["packages"].keys()
    assert list(report["work"]) == ["train step", "generate float32", "generate bfloat16", "start"]
    assert report["work"]["generate float32"]["checked"]["distinct_ids"] > 8  # equal ids that say something
    assert report["absent"] == []

    assert len(report["results"]) == 3 + 2 + 2 + 3
    for result in report["results"]:
        assert result["spread"][0] <= result["median"] <= result["spread"][1]
        assert result["unit"] == "s"
        assert result["peak_memory_bytes"] > 1e6
        assert result["cpu_seconds"] > 0
    for row in report["targets"]:
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
        assert row["holds"] == (None if row["target"] is None else row["ratio"] >= row["target"])


@pytest.mark.slow
def test_training_is_timed_without_any_peer_and_names_those_that_are_absent(tmp_path: Path) -> None:
    report = report_of("benchmarks/train_throughput.py", "--peers", str(tmp_path))
    names = [result["name"] for result in report["results"]]
    assert "quick bfloat16: groundup, torch alone" in names
    assert "quick float32: groundup, torch alone" in names
    assert "quick bfloat16: bare loop around groundup's model" in names
    for peer in ("transformers Trainer", "litgpt", "nanoGPT"):
        assert any(absent.startswith(peer) for absent in report["absent"])
    losses = report["work"]["train quick"]["checked"]["first_loss"]
    assert len(losses) == len(names)
    assert all(loss == pytest.approx(np.log(512), rel=0.02) for loss in losses.values())
    for result in report["results"]:
        assert result["spread"][0] <= result["median"] <= result["spread"][1]
        assert result["tokens_per_second"] == pytest.approx(4 * 64 / result["median"])
        assert result["peak_memory_bytes"] > 1e8


@pytest.mark.slow
def test_training_is_timed_against_transformers_from_equal_weights_on_equal_rows() -> None:
    peers = PEERS if (PEERS / "bin/python").exists() else Path(sys.prefix)  # the tests' own has the Trainer, too
    if peers != PEERS:
        pytest.importorskip("transformers")
        pytest.importorskip("accelerate", reason="the Trainer needs accelerate (or: python benchmarks/setup.py)")
    report = report_of(
        "benchmarks/train_throughput.py", "--peers", str(peers), "--only", "Trainer", "--only", "torch alone"
    )
    names = [result["name"] for result in report["results"]]
    assert "quick bfloat16: transformers Trainer" in names
    assert {row["peer_name"] for row in report["targets"]} == {
        "quick bfloat16: transformers Trainer",
        "quick float32: transformers Trainer",
    }


@pytest.mark.slow
def test_the_start_is_timed_up_to_the_first_step(tmp_path: Path) -> None:
    report = report_of("benchmarks/startup.py", "--peers", str(tmp_path))
    assert report["results"][0]["cpu_seconds"] > 0.5  # torch alone takes longer to import
    assert report["targets"][0]["ours"] == min(result["cpu_seconds"] for result in report["results"])
    assert any(absent.startswith("transformers Trainer") for absent in report["absent"])


# ---------------------------------------------------------------- their parts


def test_a_contender_runs_only_in_its_turns_and_only_whole_steps_count(benchmark: Any, tmp_path: Path) -> None:
    """A made-up system says when its steps ended; between turns it stands still, whatever it does."""
    program = """
        import json, os, time
        file = os.fdopen(int(os.environ["GROUNDUP_BENCH_EVENTS"]), "w", buffering=1)
        for step in range(1, 10_000):
            time.sleep(0.01)
            file.write(json.dumps({"step": step, "at": time.monotonic(), "loss": 2.5}) + "\\n")
    """
    contenders = benchmark("contenders")
    system = contenders.Contender("made up", [sys.executable, "-c", textwrap.dedent(program)], tmp_path)
    try:
        system.warm_up(3, 60)
        assert system.measured.first_loss == 2.5
        system.ended_steps()
        time.sleep(0.1)
        assert system.ended_steps() == []
        system.turn(4, 60)
        time.sleep(0.3)
        system.turn(4, 60)
        assert len(system.measured.seconds) >= 8
        assert min(system.measured.seconds) >= 0.009
        assert system.measured.peak_memory_bytes > 1e6
        result = system.measured.result("made up", tokens=100)
        assert result["repetitions"] == len(system.measured.seconds)
        assert result["tokens_per_second"] == pytest.approx(100 / result["median"])
    finally:
        system.close()
    assert system.process.returncode is not None


def test_a_contender_that_dies_is_told_with_its_last_words(benchmark: Any, tmp_path: Path) -> None:
    contenders = benchmark("contenders")
    system = contenders.Contender("dying", [sys.executable, "-c", "raise SystemExit('no such option')"], tmp_path)
    with pytest.raises(ChildProcessError, match="no such option"):
        system.warm_up(1, 60)
    system.close()


def result(name: str, median: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "median": median, "cpu_seconds": median, "peak_memory_bytes": 100, **more}


def test_targets_compare_with_the_fastest_peer_of_the_same_precision(benchmark: Any) -> None:
    throughput = benchmark("train_throughput")
    results = {
        ("groundup, torch alone", "bfloat16"): result("a", 1.0),
        ("groundup, kernels", "bfloat16"): result("b", 0.5, mfu=0.7),
        ("groundup, torch alone", "float32"): result("c", 2.0),
        ("bare loop around groundup's model", "bfloat16"): result("d", 0.98),
        ("litgpt", "bfloat16"): result("e", 1.2),
        ("transformers Trainer", "bfloat16"): result("f", 1.5),
        ("transformers Trainer", "float32"): result("g", 3.0),
    }
    rows = {row["name"]: row for row in throughput.targets(throughput.WORKS["10m"], results)}
    stock = rows["10m bfloat16: groundup, torch alone"]
    assert (stock["peer_name"], stock["ratio"], stock["target"], stock["holds"]) == ("e", 1.2, 1.4, False)
    native = rows["10m bfloat16: groundup, kernels"]
    assert (native["ratio"], native["target"], native["holds"]) == (2.4, 2.1, True)
    assert rows["10m float32: groundup, torch alone"]["ratio"] == 1.5
    assert rows["10m: MFU of groundup, kernels"]["holds"]
    overhead = rows["10m: the engine's step over a bare loop's, CPU time"]
    assert overhead["ratio"] == pytest.approx(1 / 0.98)
    assert overhead["holds"]


def test_memory_counts_as_a_target_for_the_large_shape(benchmark: Any) -> None:
    throughput = benchmark("train_throughput")
    results = {
        ("groundup, torch alone", "bfloat16"): result("a", 1.0, peak_memory_bytes=90),
        ("transformers Trainer", "bfloat16"): result("b", 1.5),
    }
    rows = {row["name"]: row for row in throughput.targets(throughput.WORKS["135m"], results)}
    memory = rows["135m bfloat16: peak memory of groundup, torch alone"]
    assert (memory["ratio"], memory["holds"]) == (0.9, False)
    results["groundup, kernels", "bfloat16"] = result("c", 0.6, peak_memory_bytes=70)
    results["groundup, kernels, 2 processes", "bfloat16"] = result("d", 0.5, peak_memory_bytes=120)
    rows = {row["name"]: row for row in throughput.targets(throughput.WORKS["135m"], results)}
    assert rows["135m bfloat16: peak memory of groundup, kernels"]["holds"], "what --processes auto takes there"
    assert rows["135m bfloat16: peak memory of groundup, kernels, 2 processes"]["holds"] is None


def test_iterations_fill_the_time_with_evaluations_and_start_counted(benchmark: Any) -> None:
    seconds = [0.52, *[0.02] * 249, 0.52, *[0.02] * 249, 0.52]  # evaluations take 0.5 s, before every 250th
    time_to_bpb = benchmark("time_to_bpb")
    iterations = time_to_bpb.iterations_for(seconds, sum(seconds) + 4.0, 300.0)
    assert iterations % 250 == 0
    used = 4.0 + 0.5 + iterations / 250 * (250 * 0.02 + 0.5)
    assert abs(used - 300.0) <= 5.5 / 2 + 0.01


def test_bits_per_byte_are_those_of_a_model_that_is_known(benchmark: Any) -> None:
    time_to_bpb = benchmark("time_to_bpb")
    windows = np.arange(3 * (time_to_bpb.WINDOW + 1)).reshape(3, -1) % 256
    bits = time_to_bpb.bits_per_byte(lambda _, targets: targets.numel() * np.log(256), windows)
    assert bits == pytest.approx(8.0)


def test_the_time_to_quality_holds_only_where_quality_and_time_do(benchmark: Any) -> None:
    target = benchmark("time_to_bpb").target
    peer = {"name": "nanoGPT", "seconds": 300.0, "bits_per_byte": 2.4}
    assert target({"name": "a", "seconds": 99.0, "bits_per_byte": 2.3}, peer, 1 / 3)["holds"]
    assert not target({"name": "a", "seconds": 99.0, "bits_per_byte": 2.41}, peer, 1 / 3)["holds"]
    assert not target({"name": "a", "seconds": 101.0, "bits_per_byte": 2.3}, peer, 1 / 3)["holds"]


@pytest.mark.parametrize("file", ["peers.txt", "peers-litgpt.txt"])
def test_every_peer_is_pinned(file: str) -> None:
    lines = (REPOSITORY / "benchmarks" / file).read_text().splitlines()
    peers = [line for line in lines if line and not line.startswith("#")]
    assert peers
    assert all(name and version for name, _, version in (peer.partition("==") for peer in peers))


def test_peers_get_the_cpu_build_of_the_torch_that_is_pinned(benchmark: Any) -> None:
    setup = benchmark("setup")
    assert setup.torch_requirement("numpy==2.4.6\ntorch==2.13.0\n") == "torch==2.13.0+cpu"
    with pytest.raises(SystemExit):
        setup.torch_requirement("numpy==2.4.6\n")
