"""benchmarks/gpu_train.py without a GPU: it says so, and its parts work on a toy shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_train.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=600)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_ends_well() -> None:
    done = run("--json")
    assert done.returncode == 0
    assert "no NVIDIA GPU is visible here" in done.stderr
    assert json.loads(done.stdout)["absent"] == ["a GPU"]


@pytest.mark.slow
def test_dry_all_parts_work_and_both_systems_do_the_same() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
    done = run("--dry", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["work"]["dry"]["same"]
    assert {result["name"] for result in report["results"]} >= {"dry: groundup", "dry: transformers"}
    assert all(result["tokens_per_second"] > 0 for result in report["results"])
