"""Generation against transformers' `generate` and llama.cpp: SmolLM2-135M's shape at batch 1, 8 and 32; the demo's 5M.

    python benchmarks/generate.py [--json] [--quick]

All systems read the same folder of weights (random, from a seed; matrices of the layers made larger, or a tied model
would only repeat itself) and continue the same prompts greedily. First the ids of fp32 have to be equal; llama.cpp's
(in Q4_1 it is timed, in F32 it is checked) the first few, as it adds up in another order.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.util import find_spec
from typing import Any

import common
import numpy as np
from common import Samples, System
from llama_cpp import LlamaCpp

SEED = 1337
LAYER_SCALE = 2
SMOLLM2_135M: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "rope_theta": 100_000.0,
}
FIRST_IDS_EQUAL = 0.75  # share of prompts whose first token in our bf16 has to be fp32's; later ones follow from it
OURS = ("bfloat16", "int8", "float32")
THEIRS = ("bfloat16", "float32")
LLAMA_CPP_IDS_EQUAL = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a little of everything, to try the script out")
    arguments = parser.parse_args()
    has_peer = find_spec("transformers") is not None
    has_llama_cpp = find_spec("xllamacpp") is not None and find_spec("gguf") is not None
    report: dict[str, Any] = {
        "machine": common.machine(["groundup", "torch", "transformers"]),
        "quick": arguments.quick,
        "work": {},
        "results": [],
        "targets": [],
        "absent": [*([] if has_peer else ["transformers"]), *([] if has_llama_cpp else ["xllamacpp and gguf"])],
    }
    turns, new_tokens = (1, 8) if arguments.quick else (3, 64)
    for shape, config, works in (
        ("135M", SMOLLM2_135M, [(1, 2.5), (8, 2.0), (32, 2.0)]),
        ("demo 5M", "tiny", [(64, 2.0)]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            weights = System("weights", Weights, folder, config)
            vocab = weights.ask("write")
            weights.close()
            systems = [System(f"groundup {dtype}", Ours, folder, dtype) for dtype in OURS]
            systems += [System(f"transformers {dtype}", Theirs, folder, dtype) for dtype in THEIRS if has_peer]
            for batch, at_least in works:
                is_demo = shape != "135M"
                prompts = prompts_of(batch, vocab, is_ragged=is_demo)
                more = []
                if batch == 1 and has_llama_cpp:
                    threads = len(os.sched_getaffinity(0))
                    more = [System(f"llama.cpp {kind}", LlamaCpp, folder, kind, threads) for kind in ("Q4_1", "F32")]
                name, new = f"{shape}, batch {batch}", 16 if is_demo else new_tokens
                compare(report, name, [*systems, *more], prompts, new, turns, at_least)
                for system in more:
                    system.close()
            for system in systems:
                system.close()
    print(json.dumps(report, indent=2) if arguments.json else common.table(report))
    return 0 if all(work["same"] for work in report["work"].values()) else 1


def prompts_of(batch: int, vocab: int, *, is_ragged: bool) -> list[list[int]]:
    generator = np.random.default_rng([SEED, batch])
    lengths = generator.integers(8, 65, batch) if is_ragged else [64] * batch
    rows: list[list[int]] = [generator.integers(4, vocab, n).tolist() for n in lengths]
    return rows


def compare(
    report: dict[str, Any],
    name: str,
    systems: list[System],
    prompts: list[list[int]],
    new_tokens: int,
    turns: int,
    at_least: float,
) -> None:
    """Equal ids first; then the systems take turns."""
    given = {system.name: system.ask("answer", prompts, new_tokens) for system in systems}
    exact = [ids for system, ids in given.items() if system.endswith("float32")]
    theirs = given.pop("llama.cpp F32", None)
    has_llama_cpp = given.pop("llama.cpp Q4_1", None) is not None
    is_same_start = theirs is None or theirs[0][:LLAMA_CPP_IDS_EQUAL] == exact[0][0][:LLAMA_CPP_IDS_EQUAL]
    first = {
        system: round(sum(a[0] == b[0] for a, b in zip(ids, exact[0], strict=True)) / len(prompts), 3)
        for system, ids in given.items()
        if not system.endswith("float32")
    }
    is_close = len(prompts) < 8 or first["groundup bfloat16"] >= FIRST_IDS_EQUAL
    is_same = all(ids == exact[0] for ids in exact) and is_close and is_same_start
    report["work"][name] = {
        "what": f"{len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, {new_tokens} "
        "new tokens each, greedy, prompts read included",
        "checked": {
            "ids_fp32_equal": all(ids == exact[0] for ids in exact),
            "distinct_ids": len({token for ids in exact[0] for token in ids}),
            "first_ids_as_fp32": first,
            **({"llama_cpp_first_ids_equal": is_same_start} if has_llama_cpp else {}),
        },
        "same": is_same,
    }
    if not is_same:
        return
    systems = [system for system in systems if system.name != "llama.cpp F32"]
    samples = {system.name: Samples() for system in systems}
    for _ in range(turns):
        for system in systems:
            system.time(samples[system.name], "answer", prompts, new_tokens)
    results = {system: own.result(f"{name}: {system}") for system, own in samples.items()}
    for result in results.values():
        result["tokens_per_second"] = len(prompts) * new_tokens / result["median"]
    report["results"] += results.values()
    for dtype in OURS:
        peer = f"transformers {'float32' if dtype == 'float32' else 'bfloat16'}"
        if peer in results:
            wanted = at_least if dtype == "bfloat16" else None
            report["targets"].append(
                common.target(f"{name}, {dtype}", results[f"groundup {dtype}"], [results[peer]], wanted)
            )
    if has_llama_cpp:
        four_bits = results["llama.cpp Q4_1"]
        report["targets"].append(common.target(f"{name}, int8", results["groundup int8"], [four_bits], 1.0))


class Weights:
    def __init__(self, folder: str, config: Any) -> None:
        self.folder, self.config = folder, config

    def write(self) -> int:
        import torch

        from groundup.model.config import model_config
        from groundup.model.decoder import Decoder
        from groundup.model.files import save_model
        from groundup.model.init import init_weights

        model = Decoder(model_config(self.config))
        init_weights(model, SEED)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "layers" in name and parameter.dim() == 2:
                    parameter *= LAYER_SCALE
        save_model(model, self.folder)
        return model.config.vocab_size


class Ours:
    """As the exam and chat generate: weights packed once."""

    def __init__(self, folder: str, dtype: str) -> None:
        from pathlib import Path

        from groundup.model.files import load_model
        from groundup.model.generate import Sampling, generate, prepare

        self.engine = prepare(load_model(Path(folder)), dtype)
        self.generate, self.sampling = generate, Sampling

    def answer(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        done = self.generate(self.engine, prompts, self.sampling(max_new_tokens=new_tokens, temperature=0))
        return [completion.ids for completion in done]


class Theirs:
    def __init__(self, folder: str, dtype: str) -> None:
        import torch
        import transformers

        transformers.logging.disable_progress_bar()
        self.model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def answer(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        import torch

        longest = max(map(len, prompts))
        left = [longest - len(prompt) for prompt in prompts]
        out = self.model.generate(
            input_ids=torch.tensor([[0] * n + prompt for n, prompt in zip(left, prompts, strict=True)]),
            attention_mask=torch.tensor([[0] * n + [1] * (longest - n) for n in left]),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        rows: list[list[int]] = out[:, longest:].tolist()
        return rows


if __name__ == "__main__":
    sys.exit(main())
