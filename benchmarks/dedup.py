"""Near-deduplication against the truth of all pairs: ours, datatrove's MinHash, datasketch, rensa.

    python benchmarks/dedup.py [--json] [--quick] [--peers .bench-venv-dedup] [--texts FILE.jsonl]

The corpus: real files at hand (source code and documentation of the installed packages, shared/data where it is there),
which hold near-duplicates of their own, and planted ones: copies with 0 to 20 % of the words changed or a part cut off,
and families that share nothing but their boilerplate. The truth is the Jaccard similarity of every pair of documents,
from a full inverted index of word 5-grams (a sparse matrix product that shares no code with ours).

Each system decides which documents go at similarity 0.8. Precision: of those that went, how many have a document of
true similarity >= 0.8 (beside it: >= 0.6). Recall: how many of those that should go went; of every true cluster all but
one should. Systems take turns, each in a process of its own; CPU seconds count, from texts in memory to the decision.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import xxhash
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

HERE = Path(__file__).resolve().parent
THRESHOLD = 0.8
PEERS = ("datatrove", "datasketch", "rensa")
OURS, IN_MEMORY = "groundup", "groundup in memory"
SLOW = 20.0  # CPU seconds: a system that takes longer has one turn
LIMITS = {"precision": 0.999, "recall": 0.995, "off_ideal": 0.02, "signatures": 10.0, "verified": 6.0}
EDITS = (0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.05, 0.1, 0.2)
CUTS = (0.05, 0.1, 0.15, 0.25, 0.4)
_WORD = re.compile(r"\w+")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="1 MB and one turn, to try the script out")
    parser.add_argument("--peers", type=Path, default=common.ROOT / ".bench-venv-dedup", help="made by setup.py")
    parser.add_argument("--texts", type=Path, help="JSONL of strings to plant duplicates in, instead of files at hand")
    parser.add_argument("--megabytes", type=float, default=24.0)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    facts = common.machine(["groundup", "numpy"])
    megabytes = 1.0 if arguments.quick else arguments.megabytes
    texts = planted(base_texts(arguments.texts, megabytes * 0.5), megabytes)
    truth = Truth(texts)
    runs: dict[str, list[dict[str, Any]]] = {}
    absent: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "texts.jsonl"
        file.write_text("".join(f"{json.dumps(text)}\n" for text in texts))
        for turn in range(1 if arguments.quick else 3):
            for system in (OURS, *PEERS, IN_MEMORY):
                done = runs.get(system, [])
                if system in absent or (turn and done[0]["cpu_seconds"] > SLOW):
                    continue
                result = run(system, file, arguments.peers)
                if result is None:
                    absent.append(system)
                else:
                    runs.setdefault(system, []).append(result)
    report = report_of(facts, texts, truth, runs, absent, arguments.quick)
    print(json.dumps(report, indent=2) if arguments.json else table(report))
    return 0 if all(target["holds"] for target in report["targets"]) else 1


def run(system: str, texts: Path, peers: Path) -> dict[str, Any] | None:
    """One turn; None where the system is not installed. Ends the benchmark where it is and fails."""
    python = Path(sys.executable) if system.startswith("groundup") else peers / "bin/python"
    if not python.exists() or (
        system in PEERS and subprocess.run([python, "-c", f"import {system}"], capture_output=True).returncode
    ):
        return None
    out = texts.with_name("result.json")
    command = [str(python), str(HERE / "dedup_worker.py"), system, str(texts), str(out)]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{system} failed:\n{finished.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(out.read_text())
    return result


# ---------------------------------------------------------------- the corpus


def base_texts(given: Path | None, megabytes: float) -> list[str]:
    """Different files of 0.5 to 12 kB, in an order by the hash of their names, up to so many megabytes."""
    chosen: dict[str, None] = {}  # a set that keeps its order
    size = 0
    for text in given_texts(given) if given else files_at_hand():
        text = text.encode("utf-8", "replace").decode()
        if text not in chosen:
            chosen[text] = None
            size += len(text.encode())
        if size >= megabytes * 1e6:
            break
    return list(chosen)


def given_texts(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


def files_at_hand() -> Iterator[str]:
    """Source code and documentation of Python and its installed packages, and the texts of shared/data."""
    folders = (Path(np.__file__).parents[1], Path(os.__file__).parent, common.ROOT.parent / "shared" / "data")
    names = {path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.*")}
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
        path = names[name]
        if path.suffix in (".py", ".md", ".rst", ".txt") and path.is_file() and 500 <= path.stat().st_size <= 12_000:
            yield path.read_text(encoding="utf-8", errors="replace")


def planted(base: list[str], megabytes: float) -> list[str]:
    """The base and its near-duplicates, shuffled, up to so many megabytes."""
    rng = random.Random(1337)
    vocabulary = _WORD.findall(" ".join(base[:200]))
    texts = list(base)
    size = sum(len(text.encode()) for text in base)
    boilerplate = [" ".join(rng.choices(vocabulary, k=250)) for _ in range(8)]
    while size < megabytes * 1e6:
        text = rng.choice(base)
        kind = rng.random()
        if kind < 0.7:
            text = edited(text, rng.choice(EDITS), vocabulary, rng)
        elif kind < 0.9:
            lines = text.splitlines(keepends=True)
            text = "".join(lines[: max(1, round(len(lines) * (1 - rng.choice(CUTS))))])
        else:
            own = " ".join(rng.choices(vocabulary, k=rng.randint(60, 400)))
            text = f"{rng.choice(boilerplate)}\n{own}"
        texts.append(text)
        size += len(text.encode())
    rng.shuffle(texts)
    return texts


def edited(text: str, share: float, vocabulary: list[str], rng: random.Random) -> str:
    """The text with this share of its words replaced."""

    def other(word: re.Match[str]) -> str:
        return rng.choice(vocabulary) if rng.random() < share else word[0]

    return _WORD.sub(other, text)


class Truth:
    """Every pair of documents with a Jaccard similarity of at least 0.5, and what follows from those at 0.8."""

    def __init__(self, texts: list[str]) -> None:
        grams = [np.array(sorted(five_grams(text)), np.uint64) for text in texts]
        sizes = np.array([len(own) for own in grams])
        _, columns = np.unique(np.concatenate(grams), return_inverse=True)
        rows = np.repeat(np.arange(len(texts)), sizes)
        index = csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(texts), int(columns.max()) + 1))
        inverted = index.T.tocsr()
        self.pairs: list[tuple[int, int, float]] = []
        for first in range(0, len(texts), 500):
            both = (index[first : first + 500] @ inverted).tocoo()
            left, right = both.row + first, both.col
            similarity = both.data / (sizes[left] + sizes[right] - both.data)
            keep = (left < right) & (similarity >= 0.5)
            self.pairs += zip(left[keep].tolist(), right[keep].tolist(), similarity[keep].tolist(), strict=True)
        similar = np.array([(a, b) for a, b, value in self.pairs if value >= THRESHOLD], np.int64).reshape(-1, 2)
        graph = csr_matrix((np.ones(len(similar)), (similar[:, 0], similar[:, 1])), shape=(len(texts),) * 2)
        _, self.cluster = connected_components(graph, directed=False)
        self.nearest = np.zeros(len(texts))  # similarity of the most similar other document, 0 where below 0.5
        for left, right, value in self.pairs:
            self.nearest[[left, right]] = np.maximum(self.nearest[[left, right]], value)
        self.size_of_cluster = np.bincount(self.cluster)
        self.ideal = int((self.size_of_cluster - 1).sum())

    def judge(self, removed: list[int]) -> dict[str, float]:
        """Document precision and recall, and how far the number removed is from the ideal one."""
        gone = np.array(removed, np.int64)
        went = np.bincount(self.cluster[gone], minlength=len(self.size_of_cluster))
        rightly = int(np.minimum(went, self.size_of_cluster - 1).sum())
        return {
            "removed": len(removed),
            "precision": float((self.nearest[gone] >= THRESHOLD).mean()) if len(gone) else 1.0,
            "precision_at_0.6": float((self.nearest[gone] >= 0.6).mean()) if len(gone) else 1.0,
            "recall": rightly / self.ideal if self.ideal else 1.0,
            "off_ideal": len(removed) / self.ideal - 1 if self.ideal else 0.0,
        }


def five_grams(text: str) -> set[int]:
    words = _WORD.findall(text.lower())
    size = min(5, len(words))
    if not words:
        return set()
    grams = (" ".join(words[start : start + size]) for start in range(len(words) - size + 1))
    return {xxhash.xxh3_64_intdigest(gram.encode()) for gram in grams}


# ---------------------------------------------------------------- the report


def report_of(
    facts: dict[str, Any],
    texts: list[str],
    truth: Truth,
    runs: dict[str, list[dict[str, Any]]],
    absent: list[str],
    is_quick: bool,
) -> dict[str, Any]:
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    results = []
    for system, turns in runs.items():
        assert all(turn["removed"] == turns[0]["removed"] for turn in turns), f"{system} is not deterministic"
        facts["packages"] |= turns[0]["versions"]
        cpu = [turn["cpu_seconds"] for turn in turns]
        wall = [turn["seconds"] for turn in turns]
        stages = {name: statistics.median(turn["stages"][name] for turn in turns) for name in turns[0]["stages"]}
        results.append(
            {
                "name": system,
                "median": statistics.median(wall),
                "spread": [min(wall), max(wall)],
                "unit": "s",
                "cpu_seconds": statistics.median(cpu),
                "repetitions": len(turns),
                "peak_memory_bytes": max(turn["peak_memory_bytes"] for turn in turns),
                "megabytes_per_cpu_second": megabytes / statistics.median(cpu),
                "stages": stages,
                **truth.judge(turns[0]["removed"]),
            }
        )
    counted = {
        f"pairs of {low} to {high}": sum(low <= value < high for *_, value in truth.pairs)
        for low, high in ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.01))
    }
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()[:16]
    return {
        "machine": facts,
        "quick": is_quick,
        "work": {
            "near-duplicates": {
                "what": f"{len(texts):,} documents, {megabytes:.1f} MB: which go at Jaccard {THRESHOLD} (word 5-grams)",
                "same": True,  # one file of texts for all; what each made of it is what is measured
                "checked": {"texts": digest, "should go": truth.ideal, **counted},
            }
        },
        "results": results,
        "targets": targets_of(results, megabytes),
        "absent": absent,
    }


def targets_of(results: list[dict[str, Any]], megabytes: float) -> list[dict[str, Any]]:
    """Ours beside the best peer in each respect."""
    ours = next(result for result in results if result["name"] == OURS)
    peers = [result for result in results if result["name"] in PEERS]

    def row(name: str, value: float, peers_value: Callable[[dict[str, Any]], float], limit: str) -> dict[str, Any]:
        """Beside the peer that is best in this; of everything but the distance from the ideal, more is better."""
        is_least = limit != "off_ideal"
        best = (max if is_least else min)(peers, key=peers_value, default=None)
        peer = None if best is None else peers_value(best)
        bound = LIMITS[limit]
        return {
            "name": name,
            "ours": value,
            "peer": peer,
            "peer_name": best["name"] if best else None,
            "ratio": value / peer if peer else None,
            "target": bound,
            "holds": value >= bound if is_least else value <= bound,
        }

    def speed(one: dict[str, Any]) -> float:
        return float(one["megabytes_per_cpu_second"])

    def off(one: dict[str, Any]) -> float:
        return abs(float(one["off_ideal"]))

    signed = megabytes / ours["stages"]["signatures"]
    return [
        row("signatures, MB per CPU second", signed, speed, "signatures"),
        row("all of it, MB per CPU second", speed(ours), speed, "verified"),
        row("precision", ours["precision"], lambda one: float(one["precision"]), "precision"),
        row("recall", ours["recall"], lambda one: float(one["recall"]), "recall"),
        row("removed beside the ideal", off(ours), off, "off_ideal"),
    ]


def table(report: dict[str, Any]) -> str:
    facts, work = report["machine"], report["work"]["near-duplicates"]
    lines = [
        f"{facts['processor']}, {facts['cores']} cores, load {facts['load_before']}; commit {facts['commit']}",
        ", ".join(f"{name} {version}" for name, version in facts["packages"].items()),
        work["what"],
        "; ".join(f"{name} {value}" for name, value in work["checked"].items()),
        "",
        f"{'':20} {'MB/CPU s':>9} {'CPU s':>7} {'peak MB':>8} {'removed':>8} "
        f"{'off ideal':>9} {'precision':>9} {'at 0.6':>7} {'recall':>7}",
    ]
    for result in sorted(report["results"], key=lambda one: -one["megabytes_per_cpu_second"]):
        lines.append(
            f"{result['name']:20} {result['megabytes_per_cpu_second']:9.2f} {result['cpu_seconds']:7.2f} "
            f"{result['peak_memory_bytes'] / 1e6:8.0f} {result['removed']:8,} {result['off_ideal']:+9.1%} "
            f"{result['precision']:9.4f} {result['precision_at_0.6']:7.4f} {result['recall']:7.4f}"
        )
    lines.append("")
    for target in report["targets"]:
        peer = "" if target["peer"] is None else f", best peer {target['peer']:.4g} ({target['peer_name']})"
        verdict = "holds" if target["holds"] else "MISSED"
        lines.append(f"{target['name']}: {target['ours']:.4g}{peer}, target {target['target']:g}: {verdict}")
    return "\n".join(lines + [f"absent: {name}" for name in report["absent"]])


if __name__ == "__main__":
    sys.exit(main())
