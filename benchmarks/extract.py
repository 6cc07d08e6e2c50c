"""Main text of annotated pages: precision, recall, F1 and speed, ours beside Trafilatura, Resiliparse, and others.

    python benchmarks/extract.py [--json] [--quick] [--pages FOLDER] [--peers .bench-venv-extract]

The pages are Trafilatura's evaluation set: `git clone https://github.com/adbar/trafilatura`, FOLDER is its tests/. Each
of the 990 pages names up to six pieces of text that must be found and up to six that must not; a piece counts as found
where it stands in the text, whitespace aside. Each system works in a process of its own on the same decoded pages, 30
at a time in turn. Speed is megabytes of HTML per CPU second. `groundup cascade for en` is told which language will be
kept, as a corpus is: its F1 is that on the pages whose text (by the best extractor) is in that language; how much
faster it is depends on how many pages are not.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("extract_worker.py")
LANGUAGES = ("en", "de")  # the two of most pages
OURS = ("groundup fast", "groundup cascade", "groundup best", *(f"groundup cascade for {code}" for code in LANGUAGES))
PEERS = ("trafilatura", "trafilatura fast", "resiliparse", "readability", "justext")
CHUNK = 30
LEAST_F1, LEAST_SPEED, MOST_LOST = 0.92, 1.3, 0.015
MOST_OWN = 0.5  # the target of speed is for crawls of which half is in other languages


@dataclass
class Page:
    path: Path
    bytes: int
    wanted: list[str]
    unwanted: list[str]


@dataclass
class Worker:
    """One system, its process, and what it made of the pages."""

    name: str
    process: subprocess.Popen[str]
    version: str = ""
    absent: str = ""
    texts: list[str] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    failed: int = 0
    peak_memory_bytes: int = 0

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}: its process ended with code {self.process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def extract(self, pages: list[Page]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(page.path) for page in pages]) + "\n")
        self.process.stdin.flush()
        told = self.answer()
        self.texts += told["texts"]
        self.cpu_seconds.append(told["cpu_seconds"])
        self.failed += told["failed"]
        self.peak_memory_bytes = told["peak_memory_bytes"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="every sixth page")
    parser.add_argument(
        "--pages", type=Path, default=ROOT.parent / "dl/trafilatura-eval", help="evaldata.json's folder"
    )
    parser.add_argument("--peers", type=Path, default=ROOT / ".bench-venv-extract", help="made by benchmarks/setup.py")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        pages = read_pages(arguments.pages, Path(name))[:: 6 if arguments.quick else 1]
        workers = [start(system, arguments.peers) for system in (*OURS, *PEERS)]
        present = [worker for worker in workers if not worker.absent]
        for first in range(0, len(pages), CHUNK):
            for worker in present:
                worker.extract(pages[first : first + CHUNK])
        report = report_of(present, pages)
    for worker in workers:
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        worker.process.wait()
    report["absent"] = [f"{worker.name}: {worker.absent}" for worker in workers if worker.absent]
    print(json.dumps(report, indent=2) if arguments.json else table(report))
    return 0


def read_pages(folder: Path, decoded: Path) -> list[Page]:
    """The annotated pages, written to `decoded` as UTF-8 so that every system reads the same characters."""
    from trafilatura.utils import decode_file

    annotations = folder / "evaldata.json"
    if not annotations.is_file():
        sys.exit(f"no {annotations}: git clone https://github.com/adbar/trafilatura and say --pages trafilatura/tests")
    pages = []
    for number, (_, note) in enumerate(sorted(json.loads(annotations.read_text(encoding="utf-8")).items())):
        raw = next(path for part in ("cache", "eval") if (path := folder / part / note["file"]).is_file())
        path = decoded / f"{number}.html"
        path.write_text(decode_file(raw.read_bytes()), encoding="utf-8", errors="replace")
        pages.append(Page(path, path.stat().st_size, note["with"], note["without"]))
    return pages


def start(system: str, peers: Path) -> Worker:
    python = Path(sys.executable)
    if system == "readability" and (peers / "bin/python").exists():
        python = peers / "bin/python"
    command = [str(python), str(WORKER), system]
    worker = Worker(system, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    told = worker.answer()
    worker.version, worker.absent = told.get("version", ""), told.get("absent", "")
    return worker


# ---------------------------------------------------------------- what is told


def report_of(workers: list[Worker], pages: list[Page]) -> dict[str, Any]:
    from groundup.corpus.quality.language import detect

    texts = {worker.name: worker.texts for worker in workers}
    languages = [detect(text)[0] for text in texts["groundup best"]]
    results = []
    for worker in workers:
        code = worker.name.partition(" for ")[2]
        places = [place for place in range(len(pages)) if not code or languages[place] == code]
        results.append(result_of(worker, pages, places))
    by_name = {result["name"]: result for result in results}
    peer, cascade = by_name["trafilatura"], by_name["groundup cascade"]
    targets = [target("F1 of cascade", cascade["f1"], peer["f1"], LEAST_F1, cascade["f1"] >= LEAST_F1)]
    for code in LANGUAGES:
        gated = by_name[f"groundup cascade for {code}"]
        own = [place for place, language in enumerate(languages) if language == code]
        fast, kept = texts["groundup fast"], texts[gated["name"]]
        lost = sum(kept[place] == fast[place] != texts["groundup cascade"][place] for place in own)
        gated["pages_left_to_fast_in_its_language"] = lost
        speed = gated["megabytes_per_cpu_second"] / peer["megabytes_per_cpu_second"]
        name = f"speed of cascade for {code} beside Trafilatura ({len(own)} of {len(pages)} pages are in {code})"
        asked = LEAST_SPEED if len(own) < MOST_OWN * len(pages) else None
        targets.append(target(name, speed, 1.0, asked, None if asked is None else speed >= asked))
        share = lost / max(1, len(own))
        name = f"pages in {code} that cascade for {code} takes for foreign"
        targets.append(target(name, share, None, MOST_LOST, share <= MOST_LOST))
    return {
        "machine": common.machine(["groundup", "trafilatura", "resiliparse", "justext", "lxml"]),
        "work": {
            "pages": len(pages),
            "megabytes": sum(page.bytes for page in pages) / 1e6,
            "pieces": [sum(len(page.wanted) for page in pages), sum(len(page.unwanted) for page in pages)],
            "languages": {code: languages.count(code) for code in LANGUAGES},
        },
        "results": results,
        "targets": targets,
    }


def result_of(worker: Worker, pages: list[Page], places: list[int]) -> dict[str, Any]:
    found = unfound = mistaken = 0
    for place in places:
        text = squeezed(worker.texts[place])
        hits = sum(squeezed(piece) in text for piece in pages[place].wanted)
        found += hits
        unfound += len(pages[place].wanted) - hits
        mistaken += sum(squeezed(piece) in text for piece in pages[place].unwanted)
    return {
        "name": worker.name,
        "version": worker.version,
        "pages": len(places),
        "precision": found / max(1, found + mistaken),
        "recall": found / max(1, found + unfound),
        "f1": 2 * found / max(1, 2 * found + mistaken + unfound),
        "cpu_seconds": sum(worker.cpu_seconds),
        "megabytes_per_cpu_second": sum(page.bytes for page in pages) / 1e6 / max(1e-9, sum(worker.cpu_seconds)),
        "failed": worker.failed,
        "peak_memory_bytes": worker.peak_memory_bytes,
    }


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def target(name: str, ours: float, peer: float | None, bound: float | None, holds: bool | None) -> dict[str, Any]:
    ratio = None if not peer else ours / peer
    return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "target": bound, "holds": holds}


def table(report: dict[str, Any]) -> str:
    work = report["work"]
    lines = [f"{work['pages']} pages, {work['megabytes']:.0f} MB; commit {report['machine']['commit']}", ""]
    lines.append(f"{'':28}{'P':>7}{'R':>7}{'F1':>7}{'MB/CPU s':>10}{'peak MB':>9}")
    for one in report["results"]:
        lines.append(
            f"{one['name']:28}{one['precision']:7.3f}{one['recall']:7.3f}{one['f1']:7.3f}"
            f"{one['megabytes_per_cpu_second']:10.1f}{one['peak_memory_bytes'] / 1e6:9.0f}"
        )
    lines.append("")
    for one in report["targets"]:
        lines.append(
            f"{one['name']}: {one['ours']:.3f}, target {one['target']} {'holds' if one['holds'] else 'missed'}"
        )
    return "\n".join(lines + [f"absent: {name}" for name in report["absent"]])


if __name__ == "__main__":
    sys.exit(main())
