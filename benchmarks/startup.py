"""How long until the first training step: `groundup run` of the 10M model against transformers' Trainer.

    python benchmarks/startup.py [--json] [--quick] [--peers .bench-venv]

Both start in a new process, read prepared tokens and initial data from a warm disk, build the 10M model and train one
step of 8 x 512 tokens in bfloat16. Counted is the CPU time of all their processes, and the wall time, from the start
to the end of that first step: the step itself is part of it. A first turn of each, whose files are not in memory yet
and where our kernels are built, is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from contenders import Contender
from train_throughput import LOSS_TOLERANCE, PEER_NAMES, ROOT, SEED, WORKS, contenders, prepare

LIMIT_SECONDS, PEER_SHARE = 6.0, 0.5
TURNS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one turn of a tiny model, to try the script out")
    parser.add_argument("--peers", type=Path, default=ROOT / ".bench-venv", help="made by benchmarks/setup.py")
    arguments = parser.parse_args()
    arguments.nanogpt = arguments.nanochat = arguments.only = None
    common.spin_less()
    os.chdir(ROOT)
    work = WORKS["quick" if arguments.quick else "10m"]
    report: dict[str, Any] = {
        "machine": common.machine(["groundup", "torch"]),
        "quick": arguments.quick,
        "work": {},
        "results": [],
        "targets": [],
        "absent": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = prepare(work, folder)
        measured: dict[str, list[dict[str, float]]] = {}
        for turn in range(2 if arguments.quick else TURNS + 1):
            absent: list[str] = []
            starts = contenders(work, given, folder / f"turn-{turn}", arguments, absent)
            for (system, dtype), start in starts.items():
                if dtype == "bfloat16" and (system.startswith("groundup") or system == PEER_NAMES["trainer"]):
                    measured.setdefault(system, []).append(first_step(start()))
            report["absent"] = [each for each in absent if "Trainer" in each or "groundup" in each]
    report_on(report, work.name, {system: turns[1:] for system, turns in measured.items()})
    print(json.dumps(report, indent=2) if arguments.json else table(report))
    return 0 if all(work["same"] for work in report["work"].values()) else 1


def first_step(system: Contender) -> dict[str, float]:
    """Start it, wait for its first step, and end it."""
    try:
        (step, cpu_seconds), *_ = system.wait_for_steps(1, 600)
        wall_seconds = system.age_seconds()
        system.stop()
        return {
            "seconds": wall_seconds,
            "cpu_seconds": cpu_seconds,
            "peak_memory_bytes": system.peak_memory_bytes(),
            "loss": step["loss"],
        }
    finally:
        system.close()


def report_on(report: dict[str, Any], name: str, measured: dict[str, list[dict[str, float]]]) -> None:
    losses = {system: turns[0]["loss"] for system, turns in measured.items()}
    first = next(iter(losses.values()))
    report["work"][f"start {name}"] = {
        "what": f"from a new process to the end of its first training step, {name}, bfloat16, seed {SEED}",
        "checked": {"first_loss": {system: round(loss, 4) for system, loss in losses.items()}},
        "same": all(abs(loss - first) <= LOSS_TOLERANCE * first for loss in losses.values()),
    }
    for system, turns in measured.items():
        seconds = [turn["seconds"] for turn in turns]
        report["results"].append(
            {
                "name": system,
                "median": statistics.median(seconds),
                "spread": [min(seconds), max(seconds)],
                "unit": "s",
                "cpu_seconds": statistics.median(turn["cpu_seconds"] for turn in turns),
                "repetitions": len(turns),
                "peak_memory_bytes": max(turn["peak_memory_bytes"] for turn in turns),
            }
        )
    ours = [result for result in report["results"] if result["name"].startswith("groundup")]
    default = min(ours, key=lambda result: result["cpu_seconds"])
    cpu = default["cpu_seconds"]
    report["targets"].append(_at_most("CPU seconds to the first step", cpu, 1.0, "a second", LIMIT_SECONDS))
    for peer in report["results"]:
        if peer not in ours:
            report["targets"].append(
                _at_most("CPU time to the first step", cpu, peer["cpu_seconds"], peer["name"], PEER_SHARE)
            )


def _at_most(name: str, ours: float, peer: float, peer_name: str, limit: float) -> dict[str, Any]:
    ratio = ours / peer
    return {
        "name": name, "ours": ours, "peer": peer, "peer_name": peer_name, "ratio": ratio, "target": limit,
        "holds": ratio <= limit, "is_at_most": True,
    }  # fmt: skip


def table(report: dict[str, Any]) -> str:
    lines = [f"{report['machine']['processor']}, load {report['machine']['load_before']}"]
    for name, work in report["work"].items():
        lines += [f"{name}: {work['what']}", f"  first losses {work['checked']['first_loss']}", ""]
    for result in report["results"]:
        lines.append(
            f"{result['name']:34}  {result['cpu_seconds']:6.2f} s of CPU  {result['median']:6.2f} s "
            f"({result['spread'][0]:.2f} to {result['spread'][1]:.2f})  {result['peak_memory_bytes'] / 1e6:5,.0f} MB"
        )
    for row in report["targets"]:
        verdict = "holds" if row["holds"] else "missed"
        lines.append(f"{row['name']}: {row['ratio']:.2f} of {row['peer_name']} (target <= {row['target']}: {verdict})")
    return "\n".join(lines + [f"absent: {name}" for name in report["absent"]])


if __name__ == "__main__":
    sys.exit(main())
