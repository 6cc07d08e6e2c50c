"""One system that trains, in a process of its own: a peer's own loop, a bare loop of ours, or matrix products.

    PYTHON train_worker.py SYSTEM WORK.json     (started by train_throughput.py, startup.py; not by people)

A line of JSON per optimiser step goes to the file descriptor in GROUNDUP_BENCH_EVENTS: `{"step": 3, "at": monotonic
seconds, "loss": of the first step}`. Peers are not changed: a hook that torch calls after every optimiser step writes
the line, and what a peer would read from the network (data, a tokenizer) is put in its place. Each `run_*` is what a
user of that peer would write to train on these rows.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOREVER = 1_000_000
LEARNING_RATE = 1e-3


class Events:
    """Tells the benchmark about each step."""

    def __init__(self) -> None:
        self._file = os.fdopen(int(os.environ["GROUNDUP_BENCH_EVENTS"]), "w", buffering=1)
        self.first_loss: float | None = None
        self.steps = 0

    def loss(self, value: Any) -> None:
        if self.first_loss is None:
            self.first_loss = float(value)

    def step(self, **more: Any) -> None:
        self.steps += 1
        loss = {"loss": self.first_loss} if self.steps == 1 else {}
        self._file.write(json.dumps({"step": self.steps, "at": time.monotonic(), **loss, **more}) + "\n")

    def after_each_optimizer_step(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(lambda *_: self.step())


class Rows:
    """The rows of all steps, T + 1 token ids each; every system trains on them in this order, round and round."""

    def __init__(self, work: dict[str, Any]) -> None:
        import numpy as np

        self.ids = np.load(work["rows"])  # N, T + 1

    def __len__(self) -> int:
        return FOREVER

    def __getitem__(self, number: int) -> dict[str, Any]:
        import torch

        row = torch.from_numpy(self.ids[number % len(self.ids)])
        return {"input_ids": row[:-1], "labels": row[1:], "shift_labels": row[1:]}

    def batches(self, size: int) -> Iterator[tuple[Any, Any]]:
        import torch

        step = 0
        while True:
            picked = [self[step * size + place] for place in range(size)]
            yield torch.stack([row["input_ids"] for row in picked]), torch.stack([row["labels"] for row in picked])
            step += 1


# ---------------------------------------------------------------- transformers


def run_trainer(work: dict[str, Any], events: Events) -> None:
    """transformers.Trainer with its defaults, on a CPU."""
    import torch
    import transformers
    from transformers import Trainer, TrainingArguments

    model = transformers.LlamaForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
    model.register_forward_hook(lambda _module, _inputs, output: events.loss(output.loss.detach()))
    events.after_each_optimizer_step()
    arguments = TrainingArguments(
        output_dir=str(Path(work["folder"]) / "trainer"),
        per_device_train_batch_size=work["batch"],
        max_steps=FOREVER,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
        bf16=work["dtype"] == "bfloat16",
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
    )
    Trainer(model=model, args=arguments, train_dataset=Rows(work)).train()


# ---------------------------------------------------------------- litgpt


def run_litgpt(work: dict[str, Any], events: Events) -> None:
    """`litgpt pretrain`, with its own loop, optimiser and torch.compile."""
    import litgpt.pretrain
    from litgpt import Config
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.data import DataModule
    from torch.utils.data import DataLoader, Dataset

    shape, rows = work["shape"], Rows(work)

    class Ids(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return FOREVER

        def __getitem__(self, number: int) -> Any:
            import torch

            return torch.from_numpy(rows.ids[number % len(rows.ids)])

    class Data(DataModule):
        def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None: ...
        def prepare_data(self) -> None: ...
        def setup(self, stage: str = "") -> None: ...
        def train_dataloader(self) -> Any:
            return DataLoader(Ids(), batch_size=work["batch"])

        val_dataloader = train_dataloader

    initialize, cross_entropy = litgpt.pretrain.initialize_weights, litgpt.pretrain.chunked_cross_entropy

    def initialize_like_ours(fabric: Any, model: Any, **given: Any) -> None:
        initialize(fabric, model, **given)
        _load_into_litgpt(model, work)

    def noted_cross_entropy(*given: Any, **named: Any) -> Any:
        import torch

        loss = cross_entropy(*given, **named)
        if torch.is_grad_enabled() and not loss.is_meta:  # it counts FLOPs on meta tensors first
            events.loss(loss.detach())
        return loss

    litgpt.pretrain.initialize_weights = initialize_like_ours
    litgpt.pretrain.chunked_cross_entropy = noted_cross_entropy
    events.after_each_optimizer_step()
    litgpt.pretrain.setup(
        "bench",
        model_config=Config(
            name="bench",
            block_size=work["sequence_len"],
            vocab_size=shape["vocab_size"],
            padded_vocab_size=shape["vocab_size"],
            n_layer=shape["num_hidden_layers"],
            n_head=shape["num_attention_heads"],
            n_query_groups=shape["num_key_value_heads"],
            n_embd=shape["hidden_size"],
            intermediate_size=shape["intermediate_size"],
            rotary_percentage=1.0,
            rope_base=int(shape["rope_theta"]),
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            norm_eps=shape["rms_norm_eps"],
            mlp_class_name="LLaMAMLP",
        ),
        out_dir=Path(work["folder"]) / "litgpt",
        precision="bf16-mixed" if work["dtype"] == "bfloat16" else "32-true",
        data=Data(),
        train=TrainArgs(
            save_interval=None,
            log_interval=1,
            global_batch_size=work["batch"],
            micro_batch_size=work["batch"],
            max_tokens=FOREVER * work["batch"] * work["sequence_len"],
            max_norm=1.0,
            max_seq_length=work["sequence_len"],
            lr_warmup_steps=1,
            tie_embeddings=True,
        ),
        eval=EvalArgs(interval=FOREVER, max_iters=1, final_validation=False),
        devices=1,
        logger_name="csv",
    )


def _load_into_litgpt(model: Any, work: dict[str, Any]) -> None:
    """Our initial weights, so that the first loss must come out equal."""
    import torch
    from safetensors.torch import load_file

    ours, theirs = load_file(Path(work["model"]) / "model.safetensors"), model.state_dict()
    renamed = {
        "transformer.wte.weight": ours["model.embed_tokens.weight"],
        "lm_head.weight": ours["model.embed_tokens.weight"],
        "transformer.ln_f.weight": ours["model.norm.weight"],
    }
    for layer in range(work["shape"]["num_hidden_layers"]):
        old, new = f"model.layers.{layer}", f"transformer.h.{layer}"
        qkv = [ours[f"{old}.self_attn.{name}_proj.weight"] for name in "qkv"]
        renamed |= {
            f"{new}.norm_1.weight": ours[f"{old}.input_layernorm.weight"],
            f"{new}.norm_2.weight": ours[f"{old}.post_attention_layernorm.weight"],
            f"{new}.attn.qkv.weight": torch.cat(qkv),
            f"{new}.attn.proj.weight": ours[f"{old}.self_attn.o_proj.weight"],
            f"{new}.mlp.fc_1.weight": ours[f"{old}.mlp.gate_proj.weight"],
            f"{new}.mlp.fc_2.weight": ours[f"{old}.mlp.up_proj.weight"],
            f"{new}.mlp.proj.weight": ours[f"{old}.mlp.down_proj.weight"],
        }
    if missing := theirs.keys() - renamed.keys():
        raise KeyError(f"litgpt has parameters that were not filled: {sorted(missing)}")
    model.load_state_dict(renamed)


# ---------------------------------------------------------------- nanoGPT and nanochat, by path


def run_nanogpt(work: dict[str, Any], events: Events) -> None:
    """nanoGPT's train.py with `--device=cpu --compile=False`, as its README says for CPUs. It computes in fp32.

    GPT-2's layers: as many parameters in its matrices as ours (a GELU MLP of 4 d against SwiGLU of 8/3 d).
    """
    import numpy as np

    shape, folder = work["shape"], Path(work["folder"]) / "nanogpt"
    (folder / "data/bench").mkdir(parents=True, exist_ok=True)
    for name in ("train.py", "model.py", "configurator.py"):
        shutil.copy(Path(work["source"]) / name, folder)
    for name in ("train.bin", "val.bin"):
        np.load(work["rows"]).astype(np.uint16).tofile(folder / "data/bench" / name)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    import model  # nanoGPT's

    forward = model.GPT.forward

    def noted_forward(self: Any, *given: Any, **named: Any) -> Any:
        import torch

        logits, loss = forward(self, *given, **named)
        if loss is not None and torch.is_grad_enabled():
            events.loss(loss.detach())
        return logits, loss

    model.GPT.forward = noted_forward
    events.after_each_optimizer_step()
    options = {
        "device": "cpu", "compile": False, "dtype": "float32", "dataset": "bench", "out_dir": "out", "eval_iters": 1,
        "eval_interval": FOREVER, "gradient_accumulation_steps": 1, "batch_size": work["batch"],
        "block_size": work["sequence_len"], "n_layer": shape["num_hidden_layers"],
        "n_head": shape["num_attention_heads"], "n_embd": shape["hidden_size"], "max_iters": FOREVER,
    }  # fmt: skip
    with open("data/bench/meta.pkl", "wb") as file:
        import pickle

        pickle.dump({"vocab_size": shape["vocab_size"]}, file)
    sys.argv = ["train.py", *(f"--{name}={value}" for name, value in options.items())]
    runpy.run_path("train.py", run_name="__main__")


def run_nanochat(work: dict[str, Any], events: Events) -> None:
    """nanochat's scripts/base_train.py: its own model (value embeddings come on top), Muon, and torch.compile."""
    shape = work["shape"]
    os.environ["NANOCHAT_DTYPE"] = work["dtype"]
    os.environ["NANOCHAT_BASE_DIR"] = str(Path(work["folder"]) / "nanochat")
    for name in ("wandb", "rustbpe", "tiktoken", "requests"):  # imported, not used here
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.path.insert(0, work["source"])
    os.chdir(work["source"])
    import nanochat.dataloader
    import nanochat.gpt
    import nanochat.tokenizer
    import torch

    def batches(*_: Any, **__: Any) -> Iterator[Any]:
        for inputs, targets in Rows(work).batches(work["batch"]):
            yield inputs, targets, {"epoch": 0, "pq_idx": 0, "rg_idx": 0}

    nanochat.dataloader.tokenizing_distributed_data_loader_with_state_bos_bestfit = batches
    nanochat.tokenizer.get_tokenizer = lambda: types.SimpleNamespace(get_vocab_size=lambda: shape["vocab_size"])
    nanochat.tokenizer.get_token_bytes = lambda **_: torch.ones(shape["vocab_size"], dtype=torch.int32)
    events.after_each_optimizer_step()
    heads, depth = shape["num_attention_heads"], shape["num_hidden_layers"]
    options = {
        "device-type": "cpu", "depth": depth, "aspect-ratio": shape["hidden_size"] // depth,
        "head-dim": shape["hidden_size"] // heads, "window-pattern": "L", "max-seq-len": work["sequence_len"],
        "device-batch-size": work["batch"], "total-batch-size": work["batch"] * work["sequence_len"],
        "num-iterations": FOREVER, "eval-every": -1, "core-metric-every": -1, "sample-every": -1,
    }  # fmt: skip
    sys.argv = ["base_train.py", *(f"--{name}={value}" for name, value in options.items())]
    runpy.run_module("scripts.base_train", run_name="__main__")


# ---------------------------------------------------------------- ours without the engine, and the machine itself


def run_bare(work: dict[str, Any], events: Events) -> None:
    """The least loop around our model and objective: what the engine adds is measured against this."""
    import torch

    from groundup.model.files import load_model
    from groundup.tokens.batches import TokenBatches
    from groundup.train.optim import build_optimizers, set_learning_rate
    from groundup.train.precision import autocast, prepare_processor
    from groundup.train.pretrain import NextToken

    prepare_processor()
    model = load_model(Path(work["model"])).train()
    batches = TokenBatches(work["tokens"], work["sequence_len"], work["batch"], work["seed"])
    objective = NextToken(batches, work["batch"], document_mask=False)
    optimizers = build_optimizers(model, optimizer="adamw", weight_decay=0.0)
    set_learning_rate(optimizers, LEARNING_RATE)
    for step in range(FOREVER):
        (batch,) = objective.micro_batches(step, model)
        with autocast(work["dtype"]):
            parts = objective.loss(model, batch)
        loss = parts.loss_sum / parts.weight
        loss.backward()  # type: ignore[no-untyped-call]
        events.loss(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        events.step()


# rows, inner, columns: those of guides/performance.md A (whose 4096^3 takes too long in fp32)
GEMM_SHAPES = ((2048, 2048, 2048), (4096, 384, 1536), (4096, 1536, 384), (4096, 576, 2304), (512, 768, 3072))


def run_gemm(work: dict[str, Any], events: Events) -> None:
    """Rates of plain matrix products, FLOP/s by shape: what the model's rate is measured against."""
    import torch

    from groundup.train.precision import prepare_processor

    prepare_processor()
    dtype = getattr(torch, work["dtype"])
    pairs = [(torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)) for m, k, n in GEMM_SHAPES]
    while True:
        rates = []
        for a, b in pairs:
            repeats = max(1, int(4e10 / (2 * a.numel() * b.shape[1])))
            torch.mm(a, b)
            started = time.perf_counter()
            for _ in range(repeats):
                torch.mm(a, b)
            rates.append(2 * a.numel() * b.shape[1] * repeats / (time.perf_counter() - started))
        events.step(rates=rates)


RUNS: dict[str, Callable[[dict[str, Any], Events], None]] = {
    "trainer": run_trainer,
    "litgpt": run_litgpt,
    "nanogpt": run_nanogpt,
    "nanochat": run_nanochat,
    "bare": run_bare,
    "gemm": run_gemm,
}

if __name__ == "__main__":
    RUNS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()), Events())
