"""The benchmarks of tokenizers and decontamination run, check their work, and say what they found in one form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def report_of(*command: str) -> dict[str, Any]:
    process = subprocess.run(
        [sys.executable, *command, "--quick", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.slow
def test_tokenizers_are_compared_on_equal_ids() -> None:
    report = report_of("benchmarks/tokenizer.py")
    assert {name: work["same"] for name, work in report["work"].items()} == {"learning": True, "encoding": True}
    assert [row["name"] for row in report["targets"]] == ["learn, CPU seconds", "encode, CPU seconds"]
    assert len(report["results"]) == 4
    assert all(result["cpu_seconds"] > 0 and result["peak_memory_bytes"] > 0 for result in report["results"])


@pytest.mark.slow
def test_leaks_are_counted_for_every_rule(shared_data: Path) -> None:
    report = report_of("benchmarks/decontamination.py", "--data", str(shared_data))
    assert len(report["results"]) == 8
    for result in report["results"]:
        assert result["recall"]["gsm8k, word for word"] == 1
        assert result["precision"] > 0.9
        if "ours" not in result["name"]:
            assert result["recall"]["gsm8k, told again"] < 0.1, "runs of words see nothing of a rephrased item"
