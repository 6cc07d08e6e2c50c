"""The benchmarks run, check that all systems did the same work, and say what they found in one form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_demo_models_benchmark_compares_equal_work_and_reports_in_the_agreed_form() -> None:
    pytest.importorskip("transformers")
    process = subprocess.run(
        [sys.executable, "benchmarks/demo_model.py", "--quick", "--json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    report = json.loads(process.stdout)

    assert {"machine", "work", "results", "targets", "absent"} <= report.keys()
    assert {"processor", "cores", "memory_bytes", "gpu", "python", "packages", "commit", "date"} <= report[
        "machine"
    ].keys()
    assert {"groundup", "torch", "transformers"} == report["machine"]["packages"].keys()
    assert list(report["work"]) == ["train step", "generate float32", "generate bfloat16", "start"]
    assert all(work["same"] for work in report["work"].values())
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


def test_every_peer_is_pinned() -> None:
    lines = (REPOSITORY / "benchmarks" / "peers.txt").read_text().splitlines()
    peers = [line for line in lines if line and not line.startswith("#")]
    assert peers
    assert all(name and version for name, _, version in (peer.partition("==") for peer in peers))
