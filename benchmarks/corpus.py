"""A corpus of real web pages, from archives to deduplicated text: ours, and datatrove's local executor.

    python benchmarks/corpus.py [--json] [--quick] [--scaling] [--pages FOLDER ...] [--peers .bench-venv-corpus]

The corpus: real HTML at hand (folders of pages, Rust's documentation in several languages, the archives of shared/
data), and copies of these pages that are planted: exact ones, copies with 1 to 20 % of their words changed, and pages
that share nothing but their boilerplate; 20 gzipped WARC files.

Every system does the same to each document: main text by Resiliparse, language, quality rules, personal data. datatrove
runs our own functions for that in its pipeline, and its own reading, writing, executor and MinHash. Systems take turns,
each in processes of its own; CPU seconds of all processes count, and the peak of all their memory together. `cascade`
is ours with the slow extractor. --scaling adds one and two workers, and a corpus ten times as large.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import common
import psutil

HERE = Path(__file__).resolve().parent
RUST = Path("/root/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/share/doc/rust/html")
BOOKS = (  # documentation in sentences, some of it in several languages and editions
    *(
        "rust-by-example",
        "book",
        "error_codes",
        "unstable-book",
        "alloc",
        "rustc",
        "edition-guide",
        "reference",
        "cargo",
    ),
    *("nomicon", "embedded-book"),
)
PAGES = (  # what is looked for where --pages names nothing; absent ones are told of
    common.ROOT.parent / "dl" / "trafilatura-eval" / "eval",
    *(RUST / name for name in BOOKS),
    Path("/usr/share/doc"),
)
ARCHIVES = ("ai2-cc-2024.warc.gz", "archive-org-2008.warc.gz", "commoncrawl-junk.warc.gz", "iana-revisits.warc.gz")
FILES = 20
EXACT, EDITED, BOILERPLATE = 400, 300, 300  # planted, as the study of the peers did
EDITS = (0.01, 0.03, 0.05, 0.1, 0.2)
LIMITS = {"ratio": 2.0, "peak_memory_bytes": 700e6, "cold_start_seconds": 1.0, "two_workers": 1.8, "ten_times": 10.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="300 pages, to try the script out")
    parser.add_argument("--scaling", action="store_true", help="also one and two workers, and ten times the pages")
    parser.add_argument("--pages", type=Path, nargs="*", help="folders of .html files")
    parser.add_argument("--peers", type=Path, default=common.ROOT / ".bench-venv-corpus", help="Python with datatrove")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--most", type=int, default=4_700, help="so many real pages; copies come on top")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    facts = common.machine(["groundup", "pyarrow", "resiliparse", "trafilatura", "fastwarc"])
    most = 300 if arguments.quick else arguments.most
    absent: list[str] = []
    with tempfile.TemporaryDirectory(prefix="groundup-corpus-") as name:
        work = Path(name)
        pages = real_pages(arguments.pages or PAGES, most, absent)
        corpus = write_archives(planted(pages), work / "warc")
        runs: dict[str, list[dict[str, Any]]] = {}
        for _ in range(1 if arguments.quick else max(1, arguments.turns)):
            for system in ("fast", "datatrove", "cascade"):
                if result := run(system, work, arguments.peers, absent):
                    runs.setdefault(system, []).append(result)
        report = report_of(facts, corpus, runs, absent)
        report["targets"].append(cold_start(work))
        if arguments.scaling:
            report["targets"] += scaling(work, pages, report)
    print(json.dumps(report, indent=2) if arguments.json else told(report))
    return 0 if all(target["holds"] for target in report["targets"]) else 1


# ---------------------------------------------------------------- the pages


def real_pages(folders: Sequence[Path], most: int, absent: list[str]) -> list[tuple[str, bytes]]:
    """(address, HTML) of up to `most` pages, by a hash of their names so that every folder gives its share."""
    found: list[tuple[str, Path]] = []
    for folder in folders:
        if not folder.is_dir():
            absent.append(f"pages of {folder}")
            continue
        files = (path for path in folder.rglob("*.html") if path.is_file())
        found += [(f"https://{folder.name}.example/{path.relative_to(folder)}", path) for path in files]
    found.sort(key=lambda one: hashlib.sha256(one[0].encode()).digest())
    pages = [(address, path.read_bytes()) for address, path in found[:most] if path.stat().st_size < 2_000_000]
    if len(pages) < 100:
        sys.exit("fewer than 100 pages are here: name folders of .html files with --pages")
    return [(address, data) for address, data in pages if len(data) > 1_000]


def planted(pages: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The pages and their planted copies, shuffled; the share of copies is that of the study (2,200 of 6,979)."""
    rng = random.Random(1)
    scale = len(pages) / 4_700
    every = list(pages)
    for number in range(round(EXACT * scale)):
        address, data = rng.choice(pages)
        every.append((f"{address}?exact={number}", data))
    for share in EDITS:
        for number in range(round(EDITED * scale)):
            address, data = rng.choice(pages)
            every.append((f"{address}?edit={share}-{number}", edited(data, share, rng)))
    for number in range(round(BOILERPLATE * scale)):
        address, data = rng.choice(pages)
        head = re.split(rb"<p[ >]", data)[0]
        words = (f"word{rng.randint(0, 1 << 40):x}" for _ in range(200))
        every.append(
            (f"{address}?boilerplate={number}", head + b"<p>" + " ".join(words).encode() + b"</p></body></html>")
        )
    rng.shuffle(every)
    yield from every


def edited(data: bytes, share: float, rng: random.Random) -> bytes:
    """A page with this share of its words replaced, in its text and not in its tags."""

    def change(match: re.Match[bytes]) -> bytes:
        words = match[0].split(b" ")
        return b" ".join(b"changed%d" % rng.randint(0, 1 << 30) if rng.random() < share else word for word in words)

    return re.sub(rb"(?<=>)[^<>]{20,}(?=<)", change, data)


def write_archives(pages: Iterator[tuple[str, bytes]], folder: Path) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    records: list[list[bytes]] = [[] for _ in range(FILES)]
    count = size = 0
    for number, (address, data) in enumerate(pages):
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + data
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {address}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
            f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012d}>\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
        )
        records[number % FILES].append(gzip.compress(head.encode() + http + b"\r\n\r\n", 6, mtime=0))
        count += 1
        size += len(data)
    for number, own in enumerate(records):
        (folder / f"{number:02d}.warc.gz").write_bytes(b"".join(own))
    archives = common.ROOT.parent / "shared" / "data" / "web"
    for name in ARCHIVES:
        if (archives / name).is_file():
            shutil.copy(archives / name, folder / f"shared-{name}")
    return {"documents": count, "bytes": size, "files": len(list(folder.iterdir()))}


# ---------------------------------------------------------------- one turn of one system


def run(system: str, work: Path, peers: Path, absent: list[str], workers: int = 2, warc: str = "warc") -> Any:
    """One turn in a process tree of its own: {seconds, cpu_seconds, peak_memory_bytes, documents, kept}."""
    python = sys.executable
    if system == "datatrove":
        python = str(peers / "bin" / "python")
        if not Path(python).is_file():
            if "datatrove" not in absent:
                absent.append("datatrove")
            return None
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [python, str(HERE / "corpus_worker.py"), system, str(work / warc), str(out), str(workers)]
    return timed(command)


def timed(command: list[str]) -> dict[str, Any]:
    """Run to the end; wall, CPU of all processes, peak of the memory of all of them together."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak, over = [0], threading.Event()
    cpu: dict[tuple[int, float], float] = {}  # of every process, as last seen: not all are children that one waits for

    def watch() -> None:
        while not over.wait(0.05):
            total = 0
            for one in _family(process.pid):
                try:
                    memory = one.memory_info()
                    total += memory.rss - memory.shared  # pages of libraries are counted once, below
                    cpu[one.pid, one.create_time()] = sum(one.cpu_times()[:2])
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, said = process.communicate()
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{said[-3000:]}")
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return {
        "seconds": seconds,
        "cpu_seconds": max(found.pop("cpu_seconds"), sum(cpu.values())),
        "peak_memory_bytes": peak[0] + found.pop("shared_bytes"),
        **found,
    }


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


def cold_start(work: Path) -> dict[str, Any]:
    """Seconds from the command to a finished corpus of one page: everything but the pages."""
    one = work / "one"
    shutil.rmtree(one, ignore_errors=True)
    one.mkdir()
    (one / "page.txt").write_text(
        "The committee met to talk about the plan for the bridge and what it would cost. " * 20
    )
    results = []
    for _ in range(3):
        shutil.rmtree(work / "out", ignore_errors=True)
        command = [sys.executable, str(HERE / "corpus_worker.py"), "one", str(one), str(work / "out"), "2"]
        results.append(timed(command))
    seconds = min(float(result["first_task_seconds"]) for result in results)
    limit = LIMITS["cold_start_seconds"]
    whole = min(result["seconds"] for result in results)
    return _target("cold start: seconds to the first shard", seconds, limit, seconds <= limit, whole_build=whole)


def scaling(work: Path, pages: list[tuple[str, bytes]], report: dict[str, Any]) -> list[dict[str, Any]]:
    """Wall time at 1 and 2 workers, in turns; CPU time and memory with a tenth of the pages against all of them.

    The first with every archive three times, so that a second of start and end does not decide.
    """
    (work / "thrice").mkdir()
    for path in (work / "warc").iterdir():
        for copy in range(3):
            (work / "thrice" / f"{copy}-{path.name}").hardlink_to(path)
    at: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(2):
        for workers, results in at.items():
            results.append(run("fast", work, work, [], workers, "thrice"))
    one, two = (min(result["seconds"] for result in at[workers]) for workers in (1, 2))
    write_archives(planted(pages[: len(pages) // 10]), work / "tenth")
    small = run("fast", work, work, [], 2, "tenth")
    large = run("fast", work, work, [], 2)
    grown = large["documents"] / small["documents"]
    times = large["cpu_seconds"] / small["cpu_seconds"] / grown * 10
    memory = large["peak_memory_bytes"] / small["peak_memory_bytes"]
    report["scaling"] = {"workers": at, "tenth": small, "whole": large}
    return [
        _target("times as fast with 2 workers as with 1", one / two, LIMITS["two_workers"], one / two >= 1.8),
        _target("CPU time of ten times the pages", times, LIMITS["ten_times"], times <= LIMITS["ten_times"]),
        _target("memory of ten times the pages, times", memory, 1.25, memory <= 1.25),
    ]


# ---------------------------------------------------------------- what is told


def report_of(
    facts: dict[str, Any], corpus: dict[str, Any], runs: dict[str, list[dict[str, Any]]], absent: list[str]
) -> dict[str, Any]:
    results = [_result(name, own) for name, own in runs.items()]
    by_name = {result["name"]: result for result in results}
    fast = by_name["fast"]
    targets = [
        _target(
            "peak memory at 2 workers (MB)",
            fast["peak_memory_bytes"] / 1e6,
            LIMITS["peak_memory_bytes"] / 1e6,
            max(by_name[name]["peak_memory_bytes"] for name in ("fast", "cascade")) <= LIMITS["peak_memory_bytes"],
        )
    ]
    same: dict[str, Any] = {}
    if peer := by_name.get("datatrove"):
        ratio = fast["documents_per_cpu_second"] / peer["documents_per_cpu_second"]
        targets.insert(0, _target("documents per CPU second, times datatrove's", ratio, 2.0, ratio >= LIMITS["ratio"]))
        same = {
            "documents read": [fast["documents"], peer["documents"]],
            "passed the rules": [fast["passed"], peer["passed"]],
            "kept": [fast["kept"], peer["kept"]],
        }
    return {
        "machine": facts,
        "work": {"corpus": corpus, "same": same, "note": "datatrove's MinHash drops what it has not compared"},
        "results": results,
        "targets": targets,
        "absent": absent,
    }


def _result(name: str, own: list[dict[str, Any]]) -> dict[str, Any]:
    cpu = statistics.median(one["cpu_seconds"] for one in own)
    seconds = [one["seconds"] for one in own]
    return {
        "name": name,
        "median": statistics.median(seconds),
        "spread": [min(seconds), max(seconds)],
        "unit": "s",
        "cpu_seconds": cpu,
        "repetitions": len(own),
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in own),
        "documents_per_cpu_second": own[0]["documents"] / cpu,
        **{key: own[0][key] for key in ("documents", "passed", "kept")},
    }


def _target(name: str, ours: float, limit: float, holds: bool, **more: Any) -> dict[str, Any]:
    return {"name": name, "ours": round(ours, 4), "target": limit, "holds": bool(holds), **more}


def told(report: dict[str, Any]) -> str:
    corpus = report["work"]["corpus"]
    lines = [
        f"{corpus['documents']:,} pages, {corpus['bytes'] / 1e6:,.0f} MB of HTML in {corpus['files']} archives",
        "",
    ]
    lines.append(f"{'':12} {'pages/CPU s':>12} {'CPU s':>8} {'wall s':>8} {'peak MB':>8} {'passed':>8} {'kept':>8}")
    for one in report["results"]:
        lines.append(
            f"{one['name']:12} {one['documents_per_cpu_second']:12,.0f} {one['cpu_seconds']:8,.1f} "
            f"{one['median']:8,.1f} {one['peak_memory_bytes'] / 1e6:8,.0f} {one['passed']:8,} {one['kept']:8,}"
        )
    lines.append("")
    lines += [
        f"{one['name']}: {one['ours']:,.2f} (target {one['target']:,}: {'holds' if one['holds'] else 'MISSED'})"
        for one in report["targets"]
    ]
    return "\n".join([*lines, *(f"absent: {name}" for name in report["absent"])])


if __name__ == "__main__":
    sys.exit(main())
