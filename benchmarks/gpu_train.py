"""Training on one GPU: tokens per second, MFU and peak memory, next to the Hugging Face Trainer in the same run.

    python benchmarks/gpu_train.py [--model 124m|1b|8b] [--json] [--dry]

124m at 1,024 tokens a row, 1b at 4,096, and 8b's shape with four of its layers at 4,096; bfloat16, AdamW, the same
initial weights and rows for all. Each system runs in a process of its own, in turns, so that one's memory is not the
other's. MFU counts 6 FLOPs per matrix weight and token and causal attention, of the GPU's dense bfloat16 rate as its
maker gives it; the rate of one large product measured here stands beside it. Without a GPU it says so and ends well.
`--dry` runs a toy shape once on any device: whether all parts work, not how fast.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import Samples, machine, table, target

from groundup.model.config import ModelConfig, model_config
from groundup.model.decoder import Decoder
from groundup.model.files import load_model, save_model
from groundup.model.init import init_weights

SEED, TURNS, WARM_UP, TIMED = 17, 3, 8, 20
LOSS_TOLERANCE = 0.01  # of the first loss: bfloat16, and a row's last token, which the Trainer has no target for
MFU_TARGET = {"1b": 0.5}
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}  # dense bf16, by maker
SHAPES: dict[str, dict[str, Any]] = {
    "124m": {"model": "124m", "tokens": 1024, "rows": 32},
    "1b": {"model": "1b", "tokens": 4096, "rows": 4},
    "8b": {"model": "8b", "layers": 4, "tokens": 4096, "rows": 2},
    "dry": {"model": "tiny", "layers": 2, "tokens": 64, "rows": 2},
}
SYSTEMS = ["groundup", "groundup, eager", "transformers", "transformers, compiled"]


def shape_of(name: str) -> tuple[ModelConfig, int, int]:
    """(config, tokens in a row, rows in a step)."""
    shape = SHAPES[name]
    more = {"num_hidden_layers": shape["layers"]} if "layers" in shape else {}
    config = model_config(shape["model"])
    return ModelConfig(**{**vars(config), **more}), shape["tokens"], shape["rows"]


def rows_of(name: str) -> torch.Tensor:
    config, T, rows = shape_of(name)
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(config.vocab_size, (rows, T + 1), generator=generator)


# ---------------------------------------------------------------- the systems, each in a process of its own


def train_ours(name: str, folder: Path, steps: int, device: str, *, is_compiled: bool) -> dict[str, Any]:
    """The engine's own step, over the same rows again and again."""
    from groundup.train.checkpoint import TrainState
    from groundup.train.device import prepare_device
    from groundup.train.optim import build_optimizers
    from groundup.train.options import TrainOptions
    from groundup.train.pretrain import NextToken
    from groundup.train.speedups import speed_up
    from groundup.train.start import open_world
    from groundup.train.step import train_step

    batch = rows_of(name)
    options = TrainOptions(
        max_steps=steps,
        learning_rate=1e-4,
        optimizer="adamw",
        dtype="bfloat16",
        device=device,
        torch_compile=is_compiled,
    )
    prepare_device(device, options.dtype)
    world = open_world(options)
    model = world.prepare(load_model(folder)).train()
    speed_up(model, options)
    optimizers = build_optimizers(model, optimizer="adamw", weight_decay=0.0)
    objective = NextToken(None, len(batch), document_mask=False)  # type: ignore[arg-type]
    ids, targets = batch[:, :-1], batch[:, 1:]
    micro_batches = [{"input_ids": ids, "targets": targets, "document_ids": torch.zeros_like(ids)}]

    def same_rows(number: int, following: int) -> list[Any]:  # noqa: ARG001 (batches are asked for by number)
        return micro_batches

    state, found = TrainState(total_steps=steps), {"loss": 0.0, "at": []}
    for step in range(steps):
        row = train_step(model, objective, optimizers, options, state, world, batches=same_rows)
        note(found, step, float(row["loss"]), device)
    return found


def train_transformers(name: str, folder: Path, steps: int, device: str, *, is_compiled: bool) -> dict[str, Any]:
    """What a user of the Trainer would write for these rows."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    batch = rows_of(name)[:, :-1]
    found: dict[str, Any] = {"loss": 0.0, "at": []}

    class Noted(TrainerCallback):
        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            note(found, state.global_step - 1, None, device)

        def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
            if "loss" in (logs or {}) and not found["loss"]:
                found["loss"] = float(logs["loss"])

    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            max_steps=steps,
            per_device_train_batch_size=len(batch),
            bf16=True,
            learning_rate=1e-4,
            optim="adamw_torch_fused",
            save_strategy="no",
            report_to=[],
            logging_steps=1,
            logging_first_step=True,
            torch_compile=is_compiled,
            disable_tqdm=True,
            use_cpu=device == "cpu",
            dataloader_pin_memory=device != "cpu",
        )
        rows = [{"input_ids": row, "labels": row} for row in batch] * steps
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Noted()]).train()
    return found


def note(found: dict[str, Any], step: int, loss: float | None, device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
    found["at"].append(time.perf_counter())
    if step == 0 and loss is not None:
        found["loss"] = loss


def work(system: str, name: str, folder: Path, device: str) -> dict[str, Any]:
    """One turn: seconds of each timed step, the first loss, and the most memory that was held."""
    steps = 3 if name == "dry" else WARM_UP + TIMED
    run = train_ours if system.startswith("groundup") else train_transformers
    compiles = device != "cpu" and system in ("groundup", "transformers, compiled")
    found = run(name, folder, steps, device, is_compiled=compiles)
    at = found["at"][1 if name == "dry" else WARM_UP - 1 :]
    seconds = [later - earlier for earlier, later in itertools.pairwise(at)]
    return {"seconds": seconds, "loss": found["loss"], "peak_memory_bytes": peak_memory(device)}


def peak_memory(device: str) -> int:
    import resource

    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(torch.cuda.max_memory_allocated())


def product_rate(device: str) -> float:
    """FLOP/s of one large bfloat16 product: what this GPU reaches at best."""
    side = 8192 if device != "cpu" else 256
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


# ---------------------------------------------------------------- turns and the report


def measure(name: str, device: str, report: dict[str, Any]) -> None:
    config, T, rows = shape_of(name)
    systems = [
        s for s in SYSTEMS if importlib.util.find_spec(s.partition(",")[0]) and (device != "cpu" or "," not in s)
    ]
    samples = {system: Samples() for system in systems}
    losses: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Decoder(config)
        init_weights(model, SEED)
        save_model(model, folder)
        for _ in range(1 if name == "dry" else TURNS):
            for system in systems:
                found = in_a_process(system, name, folder, device)
                if found is None:
                    report["absent"].append(f"{system} ({name}): ended with an error, see above")
                    continue
                samples[system].seconds += found["seconds"]
                samples[system].cpu_seconds += found["seconds"]
                samples[system].peak_memory_bytes = max(samples[system].peak_memory_bytes, found["peak_memory_bytes"])
                losses[system] = found["loss"]
    expected = losses.get("groundup", 0.0)
    same = all(abs(loss - expected) <= LOSS_TOLERANCE * abs(expected) for loss in losses.values())
    checked = {"first losses": ", ".join(f"{system} {loss:.3f}" for system, loss in losses.items())}
    what = f"{config.parameters():,} parameters, {rows} rows of {T:,} tokens a step, bfloat16, AdamW"
    report["work"][name] = {
        "what": what,
        "same": same,
        "checked": checked,
        "flops_per_token": config.flops_per_token(T),
    }
    done = {system: sample for system, sample in samples.items() if sample.seconds and same}
    for system, sample in done.items():
        result = sample.result(f"{name}: {system}")
        speed = rows * T / result["median"]
        flops = speed * config.flops_per_token(T)
        result |= {"tokens_per_second": speed, "flops": flops, "share_of_product": flops / report["product_flops"]}
        result |= {"mfu": flops / report["peak_flops"]} if report["peak_flops"] else {}
        report["results"].append(result)
    peers = [r for r in report["results"] if r["name"].startswith(f"{name}: transformers")]
    ours = next((r for r in report["results"] if r["name"] == f"{name}: groundup"), None)
    if ours and peers:
        report["targets"].append(target(f"{name}: time of a step", ours, peers, None))
    if ours and name in MFU_TARGET and "mfu" in ours:
        rates = {"ours": ours["flops"], "peer": report["peak_flops"], "peer_name": "the GPU by its maker's rate"}
        line = {"name": f"{name}: MFU", **rates, "ratio": ours["mfu"], "target": MFU_TARGET[name]}
        report["targets"].append({**line, "holds": ours["mfu"] >= MFU_TARGET[name]})


def in_a_process(system: str, name: str, folder: str, device: str) -> dict[str, Any] | None:
    command = [sys.executable, __file__, "--worker", system, "--model", name, "--folder", folder, "--device", device]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        return None
    found: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), help="one shape instead of all three")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--dry", action="store_true", help="a toy shape on any device: do all parts work?")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--device", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if asked.worker:
        print(json.dumps(work(asked.worker, asked.model, Path(asked.folder), asked.device)))
        return
    if device == "cpu" and not asked.dry:
        print(
            f"no NVIDIA GPU is visible here (torch {torch.__version__}): nothing was measured; try --dry",
            file=sys.stderr,
        )
        if asked.json:
            print(
                json.dumps(
                    {"absent": ["a GPU"], "results": [], "targets": [], "work": {}, "machine": machine(["torch"])}
                )
            )
        return
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    report: dict[str, Any] = {
        "machine": machine(["torch", "transformers"]), "work": {}, "results": [], "targets": [],
        "absent": [s for s in ("transformers",) if not importlib.util.find_spec(s)],
        "gpu": gpu, "peak_flops": next((rate for part, rate in PEAK_FLOPS.items() if part in gpu), None),
        "product_flops": product_rate(device),
    }  # fmt: skip
    names = ["dry"] if asked.dry else [asked.model] if asked.model else ["124m", "1b", "8b"]
    for name in names:
        measure(name, device, report)
    print(json.dumps(report, indent=1) if asked.json else table(report))
    if not asked.json:
        for result in report["results"]:
            speed, share = f"{result['tokens_per_second']:,.0f} tokens/s", f"{result['share_of_product']:.1%}"
            mfu = f", MFU {result['mfu']:.1%}" if "mfu" in result else ""
            print(f"{result['name']}: {speed}{mfu}, {share} of the rate of one large product")


if __name__ == "__main__":
    main()
