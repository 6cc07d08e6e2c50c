"""Pre-training: tokens per second and share of the machine's matrix rate, ours against every peer's own loop.

    python benchmarks/train_throughput.py [--json] [--quick] [--nanogpt DIR] [--nanochat DIR] [--peers .bench-venv]

Ours is `groundup run` itself, with torch alone (GROUNDUP_KERNELS=0), with the native kernels, and in two processes.
Peers train in their own loops (transformers' Trainer.train, litgpt's pretrain, nanoGPT's train.py, nanochat's
base_train), on the same rows of token ids in the same order; those of equal shape start from the same weights, and no
time is given unless their first losses are equal. All take turns (contenders.py). A step is from one update to the
next, as each loop runs it, data and clipping included; saving is not in the median.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from contenders import Contender, OurRun

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SEED = 1337
TRAINED_ROWS = 512  # distinct rows; every system goes round them
LOSS_TOLERANCE = 5e-3  # relative, of the first loss: bfloat16 in other orders
WARM_STEPS = 3
START_LIMIT_SECONDS = 900.0  # compiling on a busy machine


@dataclass(frozen=True)
class Work:
    """A shape to train, and what is timed with it."""

    name: str
    model: str | dict[str, Any]
    vocab_size: int
    batch: int
    sequence_len: int
    turns: int
    steps: int  # in one turn
    peers: tuple[tuple[str, str], ...]  # system, dtype
    is_everything: bool = True  # fp32 and a bare loop as well


WORKS = {
    "10m": Work("10m", "10m", 4096, 8, 512, turns=8, steps=4, peers=(
        ("litgpt", "bfloat16"), ("trainer", "bfloat16"), ("nanochat", "bfloat16"), ("trainer", "float32"),
        ("nanogpt", "float32"))),
    "135m": Work("135m", "135m", 49152, 4, 512, turns=4, steps=2, peers=(("trainer", "bfloat16"),),
                 is_everything=False),
    "quick": Work("quick", {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2}, 512, 4, 64, turns=2, steps=2, peers=(("trainer", "bfloat16"),
        ("trainer", "float32"), ("nanogpt", "float32"), ("litgpt", "bfloat16"))),
}  # fmt: skip
TARGETS = {  # guides/performance.md, "Targets": stock torch, native kernels
    ("10m", "bfloat16"): (1.4, 2.1),
    ("10m", "float32"): (1.6, 1.6),
    ("135m", "bfloat16"): (1.3, 1.8),
}
TRAINING_KERNELS = "blocks"  # kernels/blocks.c
MFU_TARGET, MEMORY_TARGET, OVERHEAD_TARGET = 0.68, 0.8, 0.03
BY_DEFAULT = "groundup, kernels"  # at 135M: `--processes auto` takes one process, whose memory is half of that of two
PEER_NAMES = {"trainer": "transformers Trainer", "litgpt": "litgpt", "nanogpt": "nanoGPT", "nanochat": "nanochat"}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to try the script out")
    parser.add_argument("--work", choices=list(WORKS), action="append", help="which shapes (default: 10m and 135m)")
    parser.add_argument("--peers", type=Path, default=ROOT / ".bench-venv", help="made by benchmarks/setup.py")
    parser.add_argument("--nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument("--nanochat", type=Path, help="a clone of karpathy/nanochat")
    parser.add_argument("--turns", type=int, help="turns of each system")
    parser.add_argument("--only", action="append", help="only systems with this in their name")
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "machine": common.machine(["groundup", "torch"]),
        "quick": arguments.quick,
        "work": {},
        "results": [],
        "targets": [],
        "absent": [],
    }
    common.spin_less()
    for name in ["quick"] if arguments.quick else arguments.work or ["10m", "135m"]:
        work = WORKS[name]
        work = dataclasses.replace(work, turns=arguments.turns or work.turns)
        with tempfile.TemporaryDirectory() as folder:
            compare(report, work, Path(folder), arguments)
    report["absent"] = sorted(set(report["absent"]))
    print(json.dumps(report, indent=2) if arguments.json else table(report))
    return 0 if all(work["same"] for work in report["work"].values()) else 1


# ---------------------------------------------------------------- what is trained


def prepare(work: Work, folder: Path) -> dict[str, Any]:
    """Initial weights, token shards for ours, and the same rows in the same order for everybody else."""
    from groundup.model.config import model_config
    from groundup.model.decoder import Decoder
    from groundup.model.files import save_model
    from groundup.model.init import init_weights
    from groundup.tokens.batches import TokenBatches
    from groundup.tokens.shards import Manifest, SourceTokens, SplitWriter, write_manifest
    from groundup.tokens.tokenizer import Tokenizer
    from groundup.tokens.train_tokenizer import save_tokenizer, train_bpe

    save_tokenizer(train_bpe(iter(["text"]), 260), folder / "tokens/tokenizer")  # only its end-of-text id is used
    tokenizer = Tokenizer.from_folder(folder / "tokens/tokenizer")
    config = model_config(work.model, vocab_size=work.vocab_size)
    model = Decoder(config)
    init_weights(model, SEED)
    save_model(model, folder / "model")
    count = TRAINED_ROWS * work.sequence_len
    ids = 4 + np.random.default_rng(SEED).zipf(1.2, count) % (work.vocab_size - 4)  # no special token
    writer = SplitWriter(folder / "tokens", "train", "uint16", count)
    writer.add(ids.tolist(), 0)
    split = writer.finish([SourceTokens("random", 0, count, 1, count, 1.0)])
    fingerprint = tokenizer.fingerprint
    write_manifest(
        folder / "tokens", Manifest("uint16", work.vocab_size, 0, fingerprint, {"train": split}, writer.sha256)
    )
    batches = TokenBatches(folder / "tokens", work.sequence_len, work.batch, SEED)
    rows = [batches.batch(step) for step in range(TRAINED_ROWS // work.batch)]
    ordered = [np.concatenate([row.input_ids, row.targets[:, -1:]], axis=1) for row in rows]
    np.save(folder / "rows.npy", np.concatenate(ordered))
    return {
        "rows": str(folder / "rows.npy"),
        "tokens": str(folder / "tokens"),
        "model": str(folder / "model"),
        "batch": work.batch,
        "sequence_len": work.sequence_len,
        "seed": SEED,
        "shape": config.to_hf(),
        "flops_per_token": config.flops_per_token(work.sequence_len),
    }


RECIPE = """\
name: bench
stage: pretrain
seed: {seed}
tokens: {tokens}
model: {model}
max_steps: 1000000
warmup_steps: 1
learning_rate: 1e-3
optimizer: adamw
weight_decay: 0.0
sequence_len: {sequence_len}
micro_batch_size: {batch}
gradient_accumulation_steps: 1
document_mask: false
bf16: {bf16}
sample_prompts: []
logging_steps: 1
"""


# ---------------------------------------------------------------- who takes part


def contenders(
    work: Work, given: dict[str, Any], folder: Path, arguments: Any, absent: list[str]
) -> dict[tuple[str, str], Any]:
    """(system, dtype) -> a function that starts it. Names of ours begin with `groundup`."""
    found: dict[tuple[str, str], Any] = {}

    has_processes = "--processes" in output_of("-m", "groundup", "run", "--help")

    def our_run(name: str, dtype: str, processes: int, environment: dict[str, str]) -> None:
        options = ["--processes", str(processes)] if has_processes else []
        recipe = RECIPE.format(
            seed=SEED, tokens=given["tokens"], model=json.dumps(work.model), batch=work.batch,
            sequence_len=work.sequence_len, bf16="true" if dtype == "bfloat16" else "false",
        )  # fmt: skip
        place = folder / f"{name}-{dtype}".replace(" ", "-").replace(",", "")
        found[name, dtype] = lambda: OurRun(name, recipe, place, options, environment)

    dtypes = ["bfloat16", "float32"] if work.is_everything else ["bfloat16"]
    for dtype in dtypes:
        our_run("groundup, torch alone", dtype, 1, {"GROUNDUP_KERNELS": "0"})
    if reason := why_no_kernels():
        absent.append(f"groundup's native kernels ({reason})")
    else:
        for dtype in dtypes:
            our_run("groundup, kernels", dtype, 1, {})
        for dtype in dtypes if has_processes else []:
            our_run("groundup, kernels, 2 processes", dtype, 2, {})
    if not has_processes:
        absent.append("groundup in two processes (no `groundup run --processes`)")

    def worker(name: str, system: str, dtype: str, python: Path, **more: Any) -> None:
        place = folder / f"{system}-{dtype}"

        def start() -> Contender:
            place.mkdir(parents=True, exist_ok=True)
            spec = {**given, "dtype": dtype, "folder": str(place), **more}
            (place / "work.json").write_text(json.dumps(spec))
            command = [str(python), str(HERE / "train_worker.py"), system, str(place / "work.json")]
            return Contender(name, command, place, {"GROUNDUP_KERNELS": "0"})

        found[name, dtype] = start

    if work.is_everything:
        worker("bare loop around groundup's model", "bare", "bfloat16", Path(sys.executable))
    for dtype in dtypes:
        worker("matrix products", "gemm", dtype, Path(sys.executable))
    for system, dtype in work.peers:
        python = arguments.peers.absolute() / "bin/python"
        if system == "litgpt":
            python = python.parents[1].with_name(f"{python.parents[1].name}-litgpt") / "bin/python"
        source = {"nanogpt": arguments.nanogpt, "nanochat": arguments.nanochat}.get(system, Path())
        if source is None or not python.exists():
            reason = f"no --{system} DIR" if source is None else f"no {python}; run benchmarks/setup.py"
            absent.append(f"{PEER_NAMES[system]} ({reason})")
            continue
        worker(PEER_NAMES[system], system, dtype, python, source=str(source.absolute()))
    return {
        key: start
        for key, start in found.items()
        if not arguments.only or any(part in key[0] for part in arguments.only)
    }


def why_no_kernels() -> str | None:
    """Nothing where the kernels that training uses are there."""
    code = "from groundup.kernels.build import why_absent; print(why_absent(%r) or '')"
    return output_of("-c", code % TRAINING_KERNELS).strip() or None


def output_of(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else done.stderr[-200:]


# ---------------------------------------------------------------- the comparison


def compare(report: dict[str, Any], work: Work, folder: Path, arguments: Any) -> None:
    given = prepare(work, folder)
    starts = contenders(work, given, folder, arguments, report["absent"])
    running: dict[tuple[str, str], Contender] = {}
    try:
        for key, start in starts.items():
            system = start()
            try:
                system.warm_up(WARM_STEPS, START_LIMIT_SECONDS)
            except (ChildProcessError, TimeoutError) as error:
                system.close()
                report["absent"].append(f"{key[0]} {key[1]}, {work.name} (did not run: {error})")
                continue
            running[key] = system
        for _ in range(work.turns):
            for system in running.values():
                system.turn(work.steps)
    finally:
        for system in running.values():
            system.close()
    report_on(report, work, given, running)


def report_on(
    report: dict[str, Any], work: Work, given: dict[str, Any], running: dict[tuple[str, str], Contender]
) -> None:
    tokens = work.batch * work.sequence_len
    gemm = {dtype: gemm_rates(system) for (name, dtype), system in running.items() if name == "matrix products"}
    trained = {key: system.measured for key, system in running.items() if key[0] != "matrix products"}
    equal = {key: steps.first_loss for key, steps in trained.items() if key[0] not in ("nanoGPT", "nanochat")}
    first = next(iter(equal.values()), None) or math.nan
    is_same = all(loss is not None and abs(loss - first) <= LOSS_TOLERANCE * first for loss in equal.values())
    report["work"][f"train {work.name}"] = {
        "what": f"one update of {work.name} ({work.batch} x {work.sequence_len} tokens, AdamW, clipped at 1) in each "
        "system's own loop; nanoGPT's and nanochat's models differ in their layers",
        "checked": {
            "first_loss": {f"{n} {d}": round(s.first_loss, 4) for (n, d), s in trained.items() if s.first_loss},
            "tolerance": LOSS_TOLERANCE,
        },
        "flops_per_token": given["flops_per_token"],
        "matrix_rate_flops": gemm,
        "same": is_same,
    }
    if not is_same:
        return
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for (name, dtype), steps in trained.items():
        result = steps.result(f"{work.name} {dtype}: {name}", tokens)
        if dtype in gemm:
            result["mfu"] = result["tokens_per_second"] * given["flops_per_token"] / gemm[dtype]["best"]
        results[name, dtype] = result
    report["results"] += results.values()
    report["targets"] += targets(work, results)


def gemm_rates(system: Contender) -> dict[str, float]:
    """Median FLOP/s of each shape, and the best of them: what MFU is measured against."""
    from train_worker import GEMM_SHAPES

    columns = list(zip(*(step["rates"] for step in system.measured.extra), strict=True))
    rates = {"x".join(map(str, shape)): statistics.median(c) for shape, c in zip(GEMM_SHAPES, columns, strict=True)}
    return {**rates, "best": max(rates.values())}


def targets(work: Work, results: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against the fastest peer of the same precision; MFU, memory and the engine's overhead."""
    rows = []
    for dtype in ("bfloat16", "float32"):
        ours = {name: r for (name, d), r in results.items() if d == dtype and name.startswith("groundup")}
        peers = [r for (name, d), r in results.items() if d == dtype and name in PEER_NAMES.values()]
        stock_target, native_target = TARGETS.get((work.name, dtype), (None, None))
        best = min(ours, key=lambda name: ours[name]["median"], default=None)
        for name, result in ours.items():
            wanted = stock_target if name == "groundup, torch alone" else native_target if name == best else None
            if peers:
                rows.append(common.target(f"{work.name} {dtype}: {name}", result, peers, wanted))
        if peers and work.name == "135m":
            default = BY_DEFAULT if BY_DEFAULT in ours else best
            for name in dict.fromkeys(one for one in (default, best) if one is not None):
                wanted = MEMORY_TARGET if name == default else None
                rows.append(memory_target(f"{work.name} {dtype}: peak memory of {name}", ours[name], peers, wanted))
        if dtype == "bfloat16" and best is not None and best != "groundup, torch alone" and "mfu" in ours[best]:
            mfu, wanted = ours[best]["mfu"], MFU_TARGET if work.name == "10m" else None
            rows.append(
                {"name": f"{work.name}: MFU of {best}", "ours": mfu, "peer": 1.0, "peer_name": "matrix products",
                 "ratio": mfu, "target": wanted, "holds": None if wanted is None else mfu >= wanted}
            )  # fmt: skip
    bare = results.get(("bare loop around groundup's model", "bfloat16"))
    engine = results.get(("groundup, torch alone", "bfloat16"))
    if bare and engine:
        rows.append(overhead_target(work, engine, bare))
    return rows


def memory_target(name: str, ours: dict[str, Any], peers: list[dict[str, Any]], wanted: float | None) -> dict[str, Any]:
    peer = min(peers, key=lambda result: result["peak_memory_bytes"])
    ratio = ours["peak_memory_bytes"] / peer["peak_memory_bytes"]
    return {
        "name": name, "ours": ours["peak_memory_bytes"], "peer": peer["peak_memory_bytes"], "peer_name": peer["name"],
        "ratio": ratio, "target": wanted, "holds": None if wanted is None else ratio <= wanted, "is_at_most": True,
    }  # fmt: skip


def overhead_target(work: Work, engine: dict[str, Any], bare: dict[str, Any]) -> dict[str, Any]:
    """In CPU time, which other load disturbs less than the clock."""
    ratio = engine["cpu_seconds"] / bare["cpu_seconds"]
    return {
        "name": f"{work.name}: the engine's step over a bare loop's, CPU time", "ours": engine["cpu_seconds"],
        "peer": bare["cpu_seconds"], "peer_name": bare["name"], "ratio": ratio, "wall_ratio":
        engine["median"] / bare["median"], "target": 1 + OVERHEAD_TARGET, "holds": ratio <= 1 + OVERHEAD_TARGET,
        "is_at_most": True,
    }  # fmt: skip


# ---------------------------------------------------------------- for people


def table(report: dict[str, Any]) -> str:
    facts = report["machine"]
    lines = [
        f"{facts['processor']}, {facts['cores']} cores, load {facts['load_before']}, commit {facts['commit']}, "
        f"{facts['date']}",
        "",
    ]
    for name, work in report["work"].items():
        lines += [f"{name}: {work['what']}", f"  first losses {work['checked']['first_loss']}"]
        lines += [] if work["same"] else ["  NOT THE SAME WORK, so no time is given"]
        rates = {dtype: round(found["best"] / 1e9) for dtype, found in work["matrix_rate_flops"].items()}
        lines.append(f"  matrix products, GFLOP/s: {rates}")
    width = max([len(result["name"]) for result in report["results"]], default=10)
    head = f"{'':{width}}  {'tokens/s':>9}  {'per CPU s':>9}  {'MFU':>5}  {'ms':>7}  {'spread':>15}  {'peak':>8}  start"
    lines += ["", head]
    for result in report["results"]:
        low, high = (f"{value * 1000:,.0f}" for value in result["spread"])
        lines.append(
            f"{result['name']:{width}}  {result['tokens_per_second']:9,.0f}  {result['tokens_per_cpu_second']:9,.0f}  "
            f"{result.get('mfu', float('nan')):5.2f}  {result['median'] * 1000:7,.0f}  {low:>7}-{high:<7}  "
            f"{result['peak_memory_bytes'] / 1e6:5,.0f} MB  {result['start_to_first_step_seconds']:.1f} s"
        )
    lines.append("")
    for row in report["targets"]:
        sign = "<=" if row.get("is_at_most") else ">="
        verdict = "no target" if row["target"] is None else f"target {sign} {row['target']}: "
        verdict += {None: "", True: "holds", False: "missed"}[row["holds"]]
        lines.append(f"{row['name']}: {row['ratio']:.3f} of {row['peer_name']} ({verdict})")
    return "\n".join(lines + [f"absent: {name}" for name in report["absent"]])


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
