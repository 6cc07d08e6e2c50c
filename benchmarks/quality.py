"""Quality signals and rules, language, classifier and perplexity: megabytes of text per CPU second.

    python benchmarks/quality.py [--json] [--quick] [--data shared/data] [--peers .bench-venv-dedup]

300 pages of C4 (2.5 kB each), and the same in runs of five as pages of 12 kB. The peer is datatrove's Gopher quality
and repetition, C4 and FineWeb filters, the rules that ours holds signals to; all of them are asked of every page.
The classifier learns encyclopedia against shuffled encyclopedia, and is measured on articles it has not seen. Systems
work in processes of their own, in turn, three turns each; medians.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LEAST = {"signals and rules": 4.0, "classifier": 10.0}
LEAST_AUC = 0.95
OURS = ("signals and rules", "language", "classifier", "perplexity")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one turn")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--peers", type=Path, default=ROOT / ".bench-venv-dedup", help="made by benchmarks/setup.py")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.worker)
    import common

    pages = read_pages(arguments.data)
    kinds = {"2.5 kB": pages, "12 kB": ["\n".join(pages[first : first + 5]) for first in range(0, len(pages), 5)]}
    report: dict[str, Any] = {"machine": common.machine(["groundup", "numpy"]), "results": [], "targets": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report["work"] = {"pages": len(pages), "megabytes": megabytes(pages), **train(arguments.data, folder)}
        times: dict[tuple[str, str], list[float]] = {}
        kept: dict[str, int] = {}
        for _ in range(1 if arguments.quick else 3):
            for kind, texts in kinds.items():
                (folder / "texts.json").write_text(json.dumps(texts))
                for system in (*OURS, "datatrove"):
                    told = ask(system, folder, arguments.peers)
                    if told is None:
                        report["absent"] = ["datatrove: say --peers, a folder made by benchmarks/setup.py"]
                        continue
                    times.setdefault((system, kind), []).append(told["cpu_seconds"])
                    if kind == "2.5 kB" and "kept" in told:
                        kept[system] = told["kept"]
    for (system, kind), seconds in times.items():
        speed = megabytes(kinds[kind]) / statistics.median(seconds)
        one = {"name": system, "pages": kind, "megabytes_per_cpu_second": speed, "cpu_seconds": sorted(seconds)}
        report["results"].append(one | ({"kept": kept[system]} if system in kept and kind == "2.5 kB" else {}))
    report["targets"] = targets(report)
    report.setdefault("absent", [])
    print(json.dumps(report, indent=2) if arguments.json else table(report))
    return 0


def read_pages(data: Path) -> list[str]:
    path = data / "web/c4-300.jsonl.gz"
    if not path.is_file():
        sys.exit(f"no {path}: say --data, the folder of the shared data")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def train(data: Path, folder: Path) -> dict[str, Any]:
    """The two models, from three quarters of the articles; what the classifier says of the others."""
    from collections import Counter

    from groundup.corpus.document import Document
    from groundup.corpus.quality import classifier, perplexity
    from groundup.corpus.source_settings import WikipediaSource
    from groundup.corpus.sources import read_source
    from groundup.corpus.texts import raw_to_text

    source = WikipediaSource(type="wikipedia", path=str(data / "wikipedia/enwiki-pages-articles-shortened.xml.bz2"))
    found = read_source(source, folder / "cache", None, Counter())
    articles = [raw_to_text(one, "fast", ()) for one in found if isinstance(one, Document)]
    parts = [[article[at : at + 3_000] for at in range(0, len(article) - 1_000, 3_000)] for article in articles]
    seen = [part for place, own in enumerate(parts) if place % 4 for part in own]
    unseen = [part for place, own in enumerate(parts) if not place % 4 for part in own]
    started = time.process_time()
    model = classifier.train(seen[::2], [shuffled(part) for part in seen[1::2]], folder / "classifier", precision=0.8)
    middle = time.process_time()
    perplexity.train(seen, folder / "perplexity", language="en")
    ended = time.process_time()
    good, bad = model.score(unseen[::2]), model.score([shuffled(part) for part in unseen[1::2]])
    return {
        "training_megabytes": megabytes(seen),
        "classifier_training_megabytes_per_cpu_second": megabytes(seen) / (middle - started),
        "perplexity_training_megabytes_per_cpu_second": megabytes(seen) / (ended - middle),
        "classifier_auc_on_unseen_articles": float((good[:, None] > bad[None]).mean()),
    }


def shuffled(text: str) -> str:
    words = text.split(" ")
    return " ".join(random.Random(len(words)).sample(words, len(words)))


def ask(system: str, folder: Path, peers: Path) -> dict[str, Any] | None:
    python = peers / "bin/python" if system == "datatrove" else Path(sys.executable)
    if not python.exists():
        return None
    command = [str(python), str(Path(__file__).resolve()), "--worker", system]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{system}: its process ended with code {ended.returncode}\n{ended.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


# ---------------------------------------------------------------- in a process of its own


def work(system: str) -> int:
    texts = json.loads(Path("texts.json").read_text())
    run = {"datatrove": datatrove}.get(system, lambda: ours(system))()
    run(texts[:5])  # imports, tables and caches
    started = time.process_time()
    kept = run(texts)
    print(json.dumps({"cpu_seconds": time.process_time() - started, **({} if kept is None else {"kept": kept})}))
    return 0


def ours(system: str) -> Callable[[list[str]], int | None]:
    from groundup.corpus.quality import classifier, perplexity
    from groundup.corpus.quality.language import identify
    from groundup.corpus.quality.rules import failures
    from groundup.corpus.quality.signals import signals_of
    from groundup.corpus.settings import QualityRules

    rules = QualityRules()
    if system == "signals and rules":
        return lambda texts: sum(not failures(signals_of(text, "html", "en"), "html", "en", rules) for text in texts)
    if system == "language":
        return lambda texts: [identify(text) for text in texts] and None  # type: ignore[func-returns-value]
    model: Any = (classifier if system == "classifier" else perplexity).load(Path(system))
    return lambda texts: model.score(texts) is None or None


def datatrove() -> Callable[[list[str]], int | None]:
    from datatrove.data import Document
    from datatrove.pipeline import filters

    own = (
        filters.GopherQualityFilter(),
        filters.GopherRepetitionFilter(),
        filters.C4QualityFilter(filter_no_terminal_punct=False),
        filters.FineWebQualityFilter(),
    )

    def run(texts: list[str]) -> int:
        verdicts = [[one.filter(Document(text=text, id="")) is True for one in own] for text in texts]
        return sum(map(all, verdicts))

    return run


# ---------------------------------------------------------------- what is told


def targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    speeds = {(one["name"], one["pages"]): one["megabytes_per_cpu_second"] for one in report["results"]}
    rows = []
    for (system, kind), speed in speeds.items():
        if system in LEAST:
            peer = speeds.get(("datatrove", kind)) if system == "signals and rules" else None
            ratio = speed / peer if peer else None
            row = {"name": f"{system}, {kind}, MB/s", "ours": speed, "peer": peer, "ratio": ratio}
            rows.append(row | {"target": LEAST[system], "holds": speed >= LEAST[system]})
    auc = report["work"]["classifier_auc_on_unseen_articles"]
    row = {"name": "classifier, AUC on unseen articles", "ours": auc, "peer": None, "ratio": None}
    return [*rows, row | {"target": LEAST_AUC, "holds": auc >= LEAST_AUC}]


def table(report: dict[str, Any]) -> str:
    lines = [f"commit {report['machine']['commit']}", *(f"{key}: {value}" for key, value in report["work"].items()), ""]
    for one in report["results"]:
        kept = f", keeps {one['kept']}" if "kept" in one else ""
        lines.append(f"{one['name']:20}{one['pages']:>8}{one['megabytes_per_cpu_second']:9.2f} MB/s{kept}")
    lines.append("")
    for one in report["targets"]:
        beside = f", {one['ratio']:.0f} times datatrove" if one["ratio"] else ""
        lines.append(
            f"{one['name']}: {one['ours']:.2f}{beside}, target {one['target']} {'holds' if one['holds'] else 'missed'}"
        )
    return "\n".join(lines + [f"absent: {name}" for name in report["absent"]])


if __name__ == "__main__":
    sys.exit(main())
