"""How much of a leaked benchmark is found, and what is dropped for nothing: by runs of words, and told again.

    python benchmarks/decontamination.py [--json] [--quick] [--data ../shared/data]

Leaks: GSM8K's 1,319 test questions and HumanEval's 164 tasks as an LLM rephrased them (Yang et al. 2023), each between
two stretches of ordinary pages, and word for word. Clean text: other questions of the same kind (GSM8K's training set),
instructions and answers, web pages, a novel, code. The index holds both benchmarks, or with MMLU, ARC, HellaSwag and
TruthfulQA six of them. The rephrasing model was fitted on the items of even number: recall is that of the odd ones.
A leaked item counts as found where a hit names the very item. Precision counts texts: leaked ones that were dropped,
of all that were dropped.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

import common

from groundup.corpus.exams.index import ExamIndex, exam_items
from groundup.corpus.settings import ExamFiles

RULES: dict[str, dict[str, Any]] = {
    "13 words in a row (GPT-3)": {"ngram": 13, "coverage": 0.0, "rephrased": None},
    "8 words, half of the item (Tulu 3)": {"ngram": 8, "coverage": 0.5, "rephrased": None},
    "10 words, 80 % of the item (Llama 2)": {"ngram": 10, "coverage": 0.8, "rephrased": None},
    "13 words, or told again (ours)": {"ngram": 13, "coverage": 0.0, "rephrased": 0.8},
}
RECALL = {"gsm8k": 0.8, "humaneval": 0.4}  # targets on the rephrased items
PRECISION = 0.98


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to try the script out")
    parser.add_argument("--data", type=Path, default=common.ROOT.parent / "shared" / "data")
    arguments = parser.parse_args()
    if not (arguments.data / "decontamination").is_dir():
        print(f"no {arguments.data}/decontamination: name the folder of shared data with --data", file=sys.stderr)
        return 2
    report: dict[str, Any] = {
        "machine": common.machine(["groundup"]),
        "quick": arguments.quick,
        "work": {"rules": "share of leaked items that a hit names; clean texts dropped; MB per CPU second"},
        "results": [],
        "targets": [],
        "absent": [],
    }
    leaks, clean = texts_of(arguments.data, 10 if arguments.quick else 1)
    for exams, what in ((SMALL, "two benchmarks"), (SMALL + LARGE, "six benchmarks")):
        items = list(exam_items([_exam(arguments.data, *exam) for exam in exams], 1, Path("/nowhere"), None))
        for rule, given in RULES.items():
            report["results"].append(measured(f"{rule}; {what}", ExamIndex(items, **given), leaks, clean))
    ours = next(one for one in report["results"] if "ours" in one["name"])
    for name, least in RECALL.items():
        found = ours["recall"][f"{name}, told again"]
        report["targets"].append(
            {"name": f"recall, {name} told again", "ours": found, "target": least, "holds": found >= least}
        )
    precise = ours["precision"]
    report["targets"].append({"name": "precision", "ours": precise, "target": PRECISION, "holds": precise >= PRECISION})
    print(json.dumps(report, indent=2) if arguments.json else table(report))
    return 0 if arguments.quick or all(row["holds"] for row in report["targets"]) else 1


SMALL: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gsm8k-test.jsonl", ()),
    ("HumanEval.jsonl.gz", ("prompt", "canonical_solution")),
)
LARGE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mmlu/test", ()),
    ("arc-challenge-test.jsonl", ()),
    ("hellaswag-val-700.jsonl", ()),
    ("TruthfulQA.csv", ("2", "3")),
)


def _exam(data: Path, name: str, fields: tuple[str, ...]) -> ExamFiles:
    return ExamFiles(path=str(data / "eval" / name), fields=fields)


def measured(
    name: str, index: ExamIndex, leaks: dict[str, list[tuple[str, str]]], clean: dict[str, list[str]]
) -> dict[str, Any]:
    recall, dropped_leaks = {}, 0
    size, started = 0, time.process_time()
    for leak, pairs in leaks.items():
        hits = [index.hits(text) for _, text in pairs]
        recall[leak] = sum(
            any(hit.item == item for hit in own) for own, (item, _) in zip(hits, pairs, strict=True)
        ) / len(pairs)
        dropped_leaks += sum(bool(own) for own in hits)
        size += sum(len(text.encode()) for _, text in pairs)
    dropped = {}
    for kind, texts in clean.items():
        dropped[kind] = sum(index.hit(text) is not None for text in texts)
        size += sum(len(text.encode()) for text in texts)
    seconds = time.process_time() - started
    return {
        "name": name,
        "items": index.items,
        "recall": recall,
        "clean_dropped": dropped,
        "clean_texts": {kind: len(texts) for kind, texts in clean.items()},
        "precision": dropped_leaks / max(dropped_leaks + sum(dropped.values()), 1),
        "megabytes_per_cpu_second": size / 1e6 / seconds,
    }


def texts_of(data: Path, every: int) -> tuple[dict[str, list[tuple[str, str]]], dict[str, list[str]]]:
    pages = [row["text"] for row in _rows(data / "web/c4-300.jsonl.gz")]
    code = [row["content"] for row in _rows(data / "code/stack-sample.jsonl.gz")]

    def inside(text: str, around: list[str], number: int) -> str:
        before, after = around[number % len(around)], around[(number + 1) % len(around)]
        return f"{before[:1500]}\n\n{text}\n\n{after[:1500]}"

    def leaked(texts: list[str], around: list[str], name: str) -> list[tuple[str, str]]:
        chosen = range(1, len(texts), 2 * every)
        return [(name.format(number, number + 1), inside(texts[number], around, number)) for number in chosen]

    questions = [row["question"] for row in _rows(data / "eval/gsm8k-test.jsonl")]
    tasks = [row["prompt"] + row["canonical_solution"] for row in _rows(data / "eval/HumanEval.jsonl.gz")]
    retold = [row["text"] for row in _rows(data / "decontamination/rephrase_gsm8k.jsonl")]
    rewritten = [row["text"] for row in _rows(data / "decontamination/humaneval_python.jsonl")]
    leaks = {
        "gsm8k, word for word": leaked(questions, pages, "gsm8k-test.jsonl:{1}"),
        "gsm8k, told again": leaked(retold, pages, "gsm8k-test.jsonl:{1}"),
        "humaneval, word for word": leaked(tasks, code, "HumanEval/{0}"),
        "humaneval, told again": leaked(rewritten, code, "HumanEval/{0}"),
    }
    novel = (data / "books/austen-pride-and-prejudice.utf8.txt").read_text(encoding="utf-8")
    instructions = json.loads(gzip.decompress((data / "sft/alpaca-2000.json.gz").read_bytes()))
    clean = {
        "other questions": [row["question"] for row in _rows(data / "eval/gsm8k-train-1000.jsonl")],
        "instructions": ["\n".join(str(value) for value in row.values()) for row in instructions],
        "web pages": pages,
        "code": code,
        "a novel": [novel[place : place + 10_000] for place in range(0, len(novel), 10_000)],
    }
    return leaks, {kind: texts[::every] for kind, texts in clean.items()}


def _rows(path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]


def table(report: dict[str, Any]) -> str:
    lines = []
    for result in report["results"]:
        lines.append(
            f"{result['name']}: precision {result['precision']:.3f}, {result['megabytes_per_cpu_second']:.1f} MB/s"
        )
        lines.append("  found: " + ", ".join(f"{name} {share:.3f}" for name, share in result["recall"].items()))
        counts = result["clean_texts"]
        shown = ", ".join(f"{kind} {count} of {counts[kind]}" for kind, count in result["clean_dropped"].items())
        lines.append(f"  clean texts dropped: {shown}")
    lines += [
        f"{row['name']}: {row['ours']:.3f}, target {row['target']}: {'holds' if row['holds'] else 'missed'}"
        for row in report["targets"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
