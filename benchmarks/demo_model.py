"""The demo's model against transformers: a training step, greedy answers; and how long a command takes to start.

    python benchmarks/demo_model.py [--json] [--quick]

Both systems read the same folder of weights. What they have to do, and what is checked before a time is given, stands
under `work` in what is printed. Targets are those of 10M and 135M models: there are none of their own for 5M.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Samples, System

SEED = 1337
STEPS_A_TURN = 4  # one alone would begin with caches full of another system's data
CHECKED_STEPS = 3  # with an update between them, so that the optimisers are compared too; they warm up as well
RESTING_LOSS, MOVING_LOSS = 1e-5, 5e-3  # largest relative difference: fp32 at rest; bf16 through updates
LAYER_SCALE = 4
FIRST_IDS_EQUAL = 0.75  # share of prompts whose first bf16 token has to agree; later ones follow from other tokens
ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a little of everything, to try the script out")
    arguments = parser.parse_args()
    has_peer = find_spec("transformers") is not None
    report: dict[str, Any] = {
        "machine": common.machine(["groundup", "torch", "transformers"]),
        "quick": arguments.quick,
        "work": {},
        "results": [],
        "targets": [],
        "absent": [] if has_peer else ["transformers"],
    }
    with tempfile.TemporaryDirectory() as folder:
        weights = System("weights", Weights, folder)
        weights.ask("write")
        weights.close()
        compare_training(report, folder, has_peer, arguments.quick)
        compare_generation(report, folder, has_peer, arguments.quick)
        compare_start(report, Path(folder), has_peer, arguments.quick)
    print(json.dumps(report, indent=2) if arguments.json else common.table(report))
    return 0 if all(work["same"] for work in report["work"].values()) else 1


class Weights:
    """Writes the model that all systems read: the demo's shape, from its seed, with the layers' matrices made larger.

    As training begins, a tied model repeats the last token whatever its layers do; equal ids would then prove nothing.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def write(self) -> None:
        import torch

        from groundup.model.config import model_config
        from groundup.model.decoder import Decoder
        from groundup.model.files import save_model
        from groundup.model.init import init_weights

        model = Decoder(model_config("tiny"))
        init_weights(model, SEED)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "layers" in name and parameter.dim() == 2:
                    parameter *= LAYER_SCALE
        save_model(model, self.folder)


# ---------------------------------------------------------------- a training step


def compare_training(report: dict[str, Any], folder: str, has_peer: bool, quick: bool) -> None:
    rows, length = (2, 64) if quick else (16, 256)
    turns, steps = (2, 1) if quick else (11, STEPS_A_TURN)
    systems = [System("groundup", OurTraining, folder, rows, length)]
    if has_peer:
        systems.append(System("transformers (its default)", TheirTraining, folder, rows, length, None))
        systems.append(System("transformers (eager)", TheirTraining, folder, rows, length, "eager"))
    resting = [system.ask("loss_fp32") for system in systems]
    moving = [system.ask("steps", CHECKED_STEPS) for system in systems]
    is_same = all(difference(loss, resting[0]) <= RESTING_LOSS for loss in resting) and all(
        difference(loss, first) <= MOVING_LOSS
        for losses in moving
        for loss, first in zip(losses, moving[0], strict=True)
    )
    report["work"]["train step"] = {
        "what": f"one update of `tiny` (5M): {rows} x {length} tokens in packed documents, bf16 autocast, gradient "
        "clipped at 1, fused AdamW",
        "checked": {
            "loss_fp32": [round(loss, 6) for loss in resting],
            f"losses_bf16_of_{CHECKED_STEPS}_steps": [[round(loss, 4) for loss in losses] for losses in moving],
            "tolerances": [RESTING_LOSS, MOVING_LOSS],
        },
        "same": is_same,
    }
    if is_same:
        samples = {system.name: Samples() for system in systems}
        for _ in range(turns):
            for system in systems:
                system.time(samples[system.name], "steps", steps, units=steps)
        add_results(report, "train step", samples, at_least=1.4)
    for system in systems:
        system.close()


def difference(a: float, b: float) -> float:
    return abs(a - b) / abs(b)


class Batches:
    """Random tokens in packed documents of random lengths, as `TokenBatches` gives them."""

    def __init__(self, rows: int, length: int) -> None:
        self.rows, self.length = rows, length

    def batch(self, step: int) -> Any:
        from groundup.tokens.batches import TokenBatch

        generator = np.random.default_rng([SEED, step])
        ids = generator.zipf(1.2, (self.rows, self.length + 1)) % 4096
        document_ids = np.cumsum(generator.random((self.rows, self.length)) < 1 / 80, axis=1)
        return TokenBatch(np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:]), document_ids)


class OurTraining:
    """The step that the demo's `pretrain` stage runs, with its checks for numbers that are not finite."""

    def __init__(self, folder: str, rows: int, length: int) -> None:
        from groundup.model.files import load_model
        from groundup.train import engine, optim
        from groundup.train.checkpoint import TrainState
        from groundup.train.precision import prepare_processor
        from groundup.train.pretrain import NextToken

        prepare_processor()
        self.model = load_model(Path(folder)).train()
        self.objective = NextToken(Batches(rows, length), rows)  # type: ignore[arg-type]
        self.options = engine.TrainOptions(
            max_steps=10**9, learning_rate=ADAMW["lr"], lr_scheduler="constant", betas=ADAMW["betas"], eps=ADAMW["eps"],
            weight_decay=ADAMW["weight_decay"], dtype="bfloat16",
        )  # fmt: skip
        self.optimizers = optim.build_optimizers(
            self.model, optimizer="adamw", weight_decay=ADAMW["weight_decay"], betas=ADAMW["betas"], eps=ADAMW["eps"]
        )
        self.state = TrainState(total_steps=self.options.max_steps, configuration={})
        self.train_step = engine.train_step

    def loss_fp32(self) -> float:
        import torch

        with torch.no_grad():
            (batch,) = self.objective.micro_batches(0, self.model)
            parts = self.objective.loss(self.model, batch)
        return float(parts.loss_sum) / parts.weight

    def steps(self, count: int) -> list[float]:
        rows = [
            self.train_step(self.model, self.objective, self.optimizers, self.options, self.state) for _ in range(count)
        ]
        return [row["loss"] for row in rows]


class TheirTraining:
    """A plain loop around LlamaForCausalLM: positions that restart tell it where a packed document begins."""

    def __init__(self, folder: str, rows: int, length: int, attention: str | None) -> None:
        import torch
        import transformers

        transformers.logging.disable_progress_bar()
        self.torch = torch
        self.model = transformers.LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        ).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True, **ADAMW)
        self.batches, self.step = Batches(rows, length), 0

    def loss(self, step: int) -> Any:
        batch = self.batches.batch(step)
        index = np.arange(batch.input_ids.shape[1])
        is_start = np.diff(batch.document_ids, axis=1, prepend=-1) != 0
        positions = index - np.maximum.accumulate(np.where(is_start, index, 0), axis=1)
        ids, targets, positions = (self.torch.from_numpy(a) for a in (batch.input_ids, batch.targets, positions))
        return self.model(
            input_ids=ids, position_ids=positions, labels=targets, shift_labels=targets, use_cache=False
        ).loss

    def loss_fp32(self) -> float:
        with self.torch.no_grad():
            return float(self.loss(0))

    def steps(self, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            with self.torch.autocast("cpu", dtype=self.torch.bfloat16):
                loss = self.loss(self.step)
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            losses.append(float(loss.detach()))
        return losses


# ---------------------------------------------------------------- greedy answers


def compare_generation(report: dict[str, Any], folder: str, has_peer: bool, quick: bool) -> None:
    count, new_tokens, turns = (8, 4, 2) if quick else (64, 16, 11)
    generator = np.random.default_rng(SEED)
    prompts = [generator.integers(4096, size=generator.integers(8, 45)).tolist() for _ in range(count)]
    makers: dict[str, Any] = {"groundup": OurAnswers} | ({"transformers": TheirAnswers} if has_peer else {})
    systems = {
        (dtype, name): System(name, make, folder, dtype, prompts, new_tokens)
        for dtype in ("float32", "bfloat16")
        for name, make in makers.items()
    }
    ids = {key: system.ask("answer") for key, system in systems.items()}  # warms them up as well
    answers = [ids["float32", name] for name in makers]
    is_same = all(answer == answers[0] for answer in answers) and all(len(row) == new_tokens for row in answers[0])
    first_ids = [np.array(ids["bfloat16", name])[:, 0] for name in makers]
    first_equal = min(float((own == first_ids[0]).mean()) for own in first_ids)
    checked: dict[str, dict[str, Any]] = {
        "float32": {"equal_ids": is_same, "distinct_ids": len(np.unique(answers[0]))},
        "bfloat16": {"equal_ids_in_float32": is_same, "share_of_first_ids_equal": first_equal},
    }
    same = {"float32": is_same, "bfloat16": is_same and first_equal >= FIRST_IDS_EQUAL}
    for dtype in same:
        report["work"][f"generate {dtype}"] = {
            "what": f"{new_tokens} greedy tokens for each of {count} prompts of 8 to 44 tokens in one batch, {dtype}",
            "checked": checked[dtype],
            "same": same[dtype],
        }
    samples = {key: Samples() for key in systems if same[key[0]]}
    for _ in range(turns):
        for key, own in samples.items():
            systems[key].time(own, "answer")
    for dtype, at_least in (("float32", None), ("bfloat16", 2.0)):
        if same[dtype]:
            add_results(report, f"generate {dtype}", {name: samples[dtype, name] for name in makers}, at_least)
    for system in systems.values():
        system.close()


class OurAnswers:
    def __init__(self, folder: str, dtype: str, prompts: list[list[int]], new_tokens: int) -> None:
        import torch

        from groundup.model.files import load_model
        from groundup.model.generate import Sampling, generate
        from groundup.train.precision import prepare_processor

        prepare_processor()  # as the exam and the rollouts do
        self.model = load_model(Path(folder), getattr(torch, dtype))
        self.prompts, self.generate = prompts, generate
        self.sampling = Sampling(max_new_tokens=new_tokens, temperature=0)

    def answer(self) -> list[list[int]]:
        return [completion.ids for completion in self.generate(self.model, self.prompts, self.sampling)]


class TheirAnswers:
    def __init__(self, folder: str, dtype: str, prompts: list[list[int]], new_tokens: int) -> None:
        import torch
        import transformers

        transformers.logging.disable_progress_bar()
        self.model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        longest = max(map(len, prompts))
        left = [longest - len(prompt) for prompt in prompts]
        self.given = {
            "input_ids": torch.tensor([[0] * n + prompt for n, prompt in zip(left, prompts, strict=True)]),
            "attention_mask": torch.tensor([[0] * n + [1] * (longest - n) for n in left]),
        }
        self.settings = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def answer(self) -> list[list[int]]:
        out = self.model.generate(**self.given, **self.settings)
        rows: list[list[int]] = out[:, self.given["input_ids"].shape[1] :].tolist()
        return rows


# ---------------------------------------------------------------- start-up

RECIPE = """\
name: tiny
stages:
  corpus: {stage: corpus, sources: {text: {type: jsonl, path: text.jsonl}}}
  tokenizer: {stage: tokenizer, corpus: corpus, vocab_size: 512}
  tokens: {stage: tokens, corpus: corpus, tokenizer: tokenizer}
  base: {stage: pretrain, tokens: tokens, model: tiny, max_steps: 1}
"""


def compare_start(report: dict[str, Any], folder: Path, has_peer: bool, quick: bool) -> None:
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "text.jsonl").write_text('{"text": "Once upon a time there was a small model."}\n')
    commands = {
        "groundup -h": [sys.executable, "-m", "groundup", "-h"],
        "groundup check": [sys.executable, "-m", "groundup", "check", "tiny.yaml"],
    }
    if has_peer:
        commands["import transformers"] = [sys.executable, "-c", "import transformers"]
    samples, codes = {name: Samples() for name in commands}, dict.fromkeys(commands, 0)
    for _ in range(1 if quick else 6):
        for name, command in commands.items():
            codes[name] |= common.time_command(samples[name], command, folder)
    if not quick:  # the first of each reads from the disk what the others find in memory
        for own in samples.values():
            del own.seconds[0], own.cpu_seconds[0]
    is_same = not any(codes.values())
    report["work"]["start"] = {
        "what": "a new process from its start to its end; `check` is of a recipe of four stages; the import of "
        "transformers is given for scale, it is other work",
        "checked": {"exit_codes": codes},
        "same": is_same,
    }
    if is_same:
        report["results"] += [own.result(f"start: {name}") for name, own in samples.items()]


def add_results(report: dict[str, Any], work: str, samples: dict[str, Samples], at_least: float | None) -> None:
    """One result per system, ours first, and how ours stands against the fastest of the others."""
    ours, *peers = [own.result(f"{work}: {name}") for name, own in samples.items()]
    report["results"] += [ours, *peers]
    if peers:
        report["targets"].append(common.target(work, ours, peers, at_least))


if __name__ == "__main__":
    sys.exit(main())
