"""Personal data, secrets and toxicity: how much is found, how much is wrongly found, how fast, and beside whom.

    python benchmarks/scrub.py [--json] [--quick] [--peers PYTHON]

Peers (presidio's patterns, datatrove's formatter, detect-secrets, scikit-learn, alt-profanity-check) live in an
environment of their own: `python benchmarks/setup.py` makes `.bench-venv-scrub` of peers-scrub.txt. Each system runs in
a process of its own, in turns (A B A B); CPU seconds are told, as wall time means little on a shared machine. The
labelled sets come from shared/data (pii, toxicity), which a clone lacks: then those parts are named under `absent`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import scrub_data
from common import ROOT, machine

from groundup.corpus.quality import toxicity

HERE = Path(__file__).resolve().parent
SHARED = next((p for p in (ROOT / "shared/data", ROOT.parent / "shared/data") if p.is_dir()), ROOT / "shared/data")
PRESIDIO_TYPES = {"EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "IP_ADDRESS": "ip", "IBAN_CODE": "iban",
                  "CREDIT_CARD": "card", "US_SSN": "ssn"}  # fmt: skip
SEEDS = (20261123, 20261124, 20261125)


class Bench:
    """The systems that are there, and the report as it grows."""

    def __init__(self, peers: Path, turns: int) -> None:
        self.peers, self.turns = peers, turns
        self.results: list[dict[str, Any]] = []
        self.targets: list[dict[str, Any]] = []
        self.absent: list[str] = []

    def ask(self, system: str, task: dict[str, Any]) -> dict[str, Any] | None:
        """The system's answer, or None where it is absent (named once)."""
        python = sys.executable if system.startswith("groundup") else str(self.peers)
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(task, file)
            file.flush()
            try:
                command = [python, str(HERE / "scrub_peer.py"), system, file.name]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", "") or str(error)
                reason = f"{system} ({said.strip().splitlines()[-1][:120]})"
                if reason not in self.absent:
                    self.absent.append(reason)
                return None
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def target(self, name: str, ours: float, asked: float, *, peer: float | None = None, at_most: bool = False) -> None:
        holds = ours <= asked if at_most else ours >= asked
        ratio = None if not peer else ours / peer
        self.targets.append({"name": name, "ours": ours, "peer": peer, "ratio": ratio, "target": asked, "holds": holds})


# ---------------------------------------------------------------- personal data


def judge(lines: list[scrub_data.Line], found: list[list[Any]], share: float) -> dict[str, Any]:
    """Precision, recall, F1: a find counts where its type fits and the two spans overlap by `share` of their union."""
    hits = misses = false = 0
    by_type: dict[str, list[int]] = {}
    for line, spans in zip(lines, found, strict=True):
        matched = set()
        for type, start, end in line.truth:
            right = [
                place
                for place, (other, a, b) in enumerate(spans)
                if other == type
                and a < end
                and start < b
                and min(b, end) - max(a, start) >= share * (max(b, end) - min(a, start))
            ]
            matched |= set(right)
            hits, misses = hits + bool(right), misses + (not right)
            count = by_type.setdefault(type, [0, 0])
            count[0] += bool(right)
            count[1] += 1
        false += len(spans) - len(matched)
    return {
        "precision": hits / max(1, hits + false),
        "recall": hits / max(1, hits + misses),
        "f1": 2 * hits / max(1, 2 * hits + misses + false),
        "identifiers": hits + misses,
        "lines": len(lines),
        "false": false,
        "recall_by_type": {type: round(right / all, 4) for type, (right, all) in sorted(by_type.items())},
    }


def labelled_set() -> list[scrub_data.Line]:
    rows = json.loads((SHARED / "pii/presidio-synth-v2.json").read_text())
    return [
        scrub_data.Line(
            row["full_text"],
            tuple(
                (PRESIDIO_TYPES[s["entity_type"]], s["start_position"], s["end_position"])
                for s in row["spans"]
                if s["entity_type"] in PRESIDIO_TYPES
            ),
        )
        for row in rows
    ]


def prose() -> list[str]:
    """Real pages and articles for the speed: as they come, with the numbers that prose has."""
    texts: list[str] = []
    if (SHARED / "web/c4-300.jsonl.gz").exists():
        with gzip.open(SHARED / "web/c4-300.jsonl.gz", "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["text"] for line in file]
    if (SHARED / "eval/wikitext-2-test.txt").exists():
        whole = (SHARED / "eval/wikitext-2-test.txt").read_text(encoding="utf-8")
        texts += [whole[at : at + 8000] for at in range(0, len(whole), 8000)]
    if not texts:  # a clone without the shared data: Python's own documentation
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in stdlib_files()[::10]]
    return texts


def personal_data(bench: Bench, quick: bool) -> None:
    count = 1000 if quick else 4000
    generated = [line for seed in SEEDS[: 1 if quick else 3] for line in scrub_data.positives(count // 3, seed)]
    generated += scrub_data.hard_negatives(count * 3 // 4, SEEDS[0])
    sets = {"generated, 12 countries, hard negatives": (generated, 0.8)}
    if (SHARED / "pii/presidio-synth-v2.json").exists():
        sets["presidio-synth-v2, structured types"] = (labelled_set(), 0.0)
    else:
        bench.absent.append("shared/data/pii: the labelled set")
    lines = [line.text for one, _ in sets.values() for line in one]
    texts = prose()
    systems = ("groundup", "presidio", "datatrove")
    given = {
        system: texts[::8] if system == "presidio" else texts for system in systems
    }  # at 0.1 MB/s an eighth is enough
    megabytes = {system: sum(len(text.encode()) for text in given[system]) / 1e6 for system in systems}
    seconds: dict[str, list[float]] = {system: [] for system in systems}
    f1: dict[tuple[str, str], float] = {}
    for turn in range(bench.turns):
        for system in systems:
            answer = bench.ask(system, {"lines": lines, "texts": given[system], "speed_only": turn > 0})
            if answer is None:
                continue
            seconds[system].append(answer["seconds"])
            if turn == 0:
                at = 0
                for name, (one, share) in sets.items():
                    figures = judge(one, answer["found"][at : at + len(one)], share)
                    at += len(one)
                    f1[system, name] = figures["f1"]
                    bench.results.append({"name": f"{system}: {name}", **figures})
    rates = _rates(bench, "scrubs prose", seconds, megabytes)
    for name, asked in zip(sets, (0.98, 0.95), strict=False):
        bench.target(f"personal data F1, {name}", f1["groundup", name], asked, peer=f1.get(("presidio", name)))
    bench.target("personal data, MB/s", rates["groundup"], 25.0, peer=rates.get("datatrove"))


def _rates(bench: Bench, what: str, seconds: dict[str, list[float]], megabytes: dict[str, float]) -> dict[str, float]:
    rates = {}
    for system, taken in seconds.items():
        if taken:
            rates[system] = megabytes[system] / statistics.median(taken)
            bench.results.append(
                {
                    "name": f"{system}: {what}",
                    "megabytes": megabytes[system],
                    "cpu_seconds": statistics.median(taken),
                    "spread": [min(taken), max(taken)],
                    "mb_per_second": rates[system],
                    "repetitions": len(taken),
                }
            )
    return rates


# ---------------------------------------------------------------- secrets


def stdlib_files() -> list[Path]:
    """Python's own library without its tests, which hold passwords made up for them."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = ("test", "tests", "idle_test", "site-packages", "__pycache__")
    return sorted(path for path in root.rglob("*.py") if not set(path.relative_to(root).parts) & set(skipped))


def secrets(bench: Bench, quick: bool) -> None:
    lines = scrub_data.secret_lines(500 if quick else 3000, SEEDS[0])
    files = stdlib_files()
    some = files[:: 40 if quick else 10]  # the peer needs minutes for all of them
    megabytes = {len(one): sum(path.stat().st_size for path in one) / 1e6 for one in (files, some)}
    seconds: dict[str, list[float]] = {"groundup-secrets": [], "detect-secrets": []}
    recall, alarms = {}, {}
    for turn in range(bench.turns):
        for system in seconds:
            task = {
                "lines": [line.text for line in lines],
                "files": [str(path) for path in some],
                "speed_only": turn > 0,
            }
            answer = bench.ask(system, task)
            if answer is None:
                continue
            seconds[system].append(answer["seconds"])
            if turn == 0:
                figures = judge(lines, answer["found"], 0.8 if system == "groundup-secrets" else 0.0)
                recall[system] = figures["recall"]
                alarms[system] = answer["alarms"] / megabytes[len(some)]
                bench.results.append({"name": f"{system}: secrets in {len(lines)} lines", "recall": figures["recall"]})
    whole = bench.ask("groundup-secrets", {"lines": [], "files": [str(path) for path in files], "speed_only": True})
    assert whole is not None
    alarms["groundup-secrets"] = whole["alarms"] / megabytes[len(files)]
    for system, rate in alarms.items():
        checked = megabytes[len(files if system == "groundup-secrets" else some)]
        bench.results.append(
            {"name": f"{system}: false alarms per MB of stdlib", "alarms_per_mb": rate, "megabytes": checked}
        )
    rates = _rates(bench, "searches code for secrets", seconds, dict.fromkeys(seconds, megabytes[len(some)]))
    bench.target("secrets, recall", recall["groundup-secrets"], 0.98, peer=recall.get("detect-secrets"))
    peer = alarms.get("detect-secrets")
    bench.target("secrets, false alarms per MB of stdlib", alarms["groundup-secrets"], 0.5, peer=peer, at_most=True)
    bench.target("secrets, MB/s", rates["groundup-secrets"], 2.5, peer=rates.get("detect-secrets"))


# ---------------------------------------------------------------- toxicity


def toxicity_of(bench: Bench) -> None:
    """Trained on 4 of 5 tweets; tested on the fifth, in turns, and on HateCheck, of which it saw nothing."""
    if not (SHARED / "toxicity/hatecheck.csv").exists():
        bench.absent.append("shared/data/toxicity: tweets and HateCheck")
        return
    with gzip.open(SHARED / "toxicity/davidson-tweets.csv.gz", "rt", encoding="utf-8") as file:
        tweets = [(row["tweet"], int(row["class"])) for row in csv.DictReader(file)]
    with open(SHARED / "toxicity/hatecheck.csv", encoding="utf-8") as file:
        checks = [(row["test_case"], row["label_gold"] == "hateful") for row in csv.DictReader(file)]
    texts = [text for text, _ in tweets]
    labels = {
        "hate": np.array([label == 0 for _, label in tweets]),
        "toxic": np.array([label != 2 for _, label in tweets]),
    }
    check_texts, check_labels = [text for text, _ in checks], np.array([label for _, label in checks])
    fold = np.random.default_rng(SEEDS[0]).permutation(len(tweets)) % 5
    ours = {name: np.zeros(len(tweets)) for name in labels}
    plain = {name: np.zeros(len(tweets)) for name in labels}
    on_checks: dict[str, Any] = {}
    for number in range(5):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        sets = {"tweets": [texts[place] for place in test], "HateCheck": check_texts}
        with tempfile.TemporaryDirectory() as folder:
            rows = [{"text": texts[place]} | {name: int(labels[name][place]) for name in labels} for place in train]
            toxicity.train(rows, Path(folder), folds=2)
            model = toxicity.load(Path(folder))
        scores = {where: model.score(some) for where, some in sets.items()}
        task = {"train": [texts[place] for place in train], "tests": sets}
        answer = bench.ask("sklearn", task | {"labels": {name: labels[name][train].tolist() for name in labels}})
        for name in labels:
            ours[name][test] = scores["tweets"][name]
            if answer is not None:
                plain[name][test] = answer["scores"][name]["tweets"]
        if number == 0:  # trained on four fifths of the tweets, as each of the five
            on_checks = {"ours": scores["HateCheck"]["hate"], "list": scores["HateCheck"]["word_list"]}
            on_checks["plain"] = None if answer is None else answer["scores"]["hate"]["HateCheck"]
    tasks: list[tuple[str, Any, Any, Any]] = [
        (f"{name}, tweets, five-fold", labels[name], ours[name], plain[name] if plain[name].any() else None)
        for name in labels
    ]
    tasks.append(("hate, HateCheck, unseen", check_labels, on_checks["ours"], on_checks["plain"]))
    for name, truth, values, baseline in tasks:
        found = toxicity.auc(truth, values)
        interval = list(toxicity.auc_interval(truth, values))
        bench.results.append({"name": f"groundup: {name}", "rows": len(truth), "auc": found, "interval": interval})
        if baseline is None:
            continue
        theirs = toxicity.auc(truth, baseline)
        bench.results.append(
            {"name": f"bag of words (scikit-learn): {name}", "rows": len(truth), "auc": theirs}
            | {"interval": list(toxicity.auc_interval(truth, baseline))}
            | {"our_lead_interval": list(toxicity.auc_interval(truth, values, minus=baseline))}
        )
        bench.target(f"toxicity AUC, {name}, above the bag of words", found, theirs, peer=theirs)
    listed = toxicity.auc(check_labels, on_checks["list"])
    bench.results.append({"name": "word list alone: hate, HateCheck", "rows": len(checks), "auc": listed})
    other = bench.ask("alt-profanity-check", {"tests": {"HateCheck": check_texts}})
    if other is not None:
        theirs = toxicity.auc(check_labels, other["scores"]["HateCheck"])
        bench.results.append({"name": "alt-profanity-check: hate, HateCheck", "rows": len(checks), "auc": theirs})


# ---------------------------------------------------------------- what is told


def table(report: dict[str, Any]) -> str:
    facts = report["machine"]
    lines = [f"{facts['processor']}, {facts['cores']} cores, load {facts['load_before']}, commit {facts['commit']}", ""]
    for result in report["results"]:
        shown = {
            k: v for k, v in result.items() if k not in ("name", "recall_by_type", "spread", "repetitions") and v != ""
        }
        figures = ", ".join(f"{key} {_shown(value)}" for key, value in shown.items())
        lines.append(f"{result['name']}: {figures}")
    lines.append("")
    for row in report["targets"]:
        peer = "" if row["peer"] is None else f", peer {row['peer']:.4g}"
        verdict = "holds " if row["holds"] else "MISSED"
        lines.append(f"{verdict} {row['name']}: {row['ours']:.4g} (target {row['target']:.4g}{peer})")
    return "\n".join(lines + [f"absent: {name}" for name in report["absent"]])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "[" + ", ".join(map(_shown, value)) + "]" if isinstance(value, list) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--quick", action="store_true", help="fewer lines and turns")
    parser.add_argument("--peers", type=Path, default=ROOT / ".bench-venv-scrub/bin/python", help="the peers' Python")
    options = parser.parse_args()
    facts = machine(("groundup", "numpy"))
    bench = Bench(options.peers, 1 if options.quick else 3)
    personal_data(bench, options.quick)
    secrets(bench, options.quick)
    toxicity_of(bench)
    work = {"seeds": SEEDS, "turns": bench.turns, "unit": "CPU seconds of the system's own process"}
    report = {
        "machine": facts,
        "work": work,
        "results": bench.results,
        "targets": bench.targets,
        "absent": bench.absent,
    }
    print(json.dumps(report, indent=2) if options.json else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
