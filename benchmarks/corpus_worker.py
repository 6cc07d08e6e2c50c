"""One system of benchmarks/corpus.py, in processes of its own: `corpus_worker.py SYSTEM ARCHIVES OUT WORKERS`.

Prints one JSON line: documents read, passed by the rules, kept, CPU seconds of this process and all it started.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.time()
DEDUP_TASKS = 20


def main() -> None:
    system, archives, out, workers = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    out.mkdir(parents=True)
    found = datatrove(archives, out, workers) if system == "datatrove" else groundup(system, archives, out, workers)
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found["cpu_seconds"] = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    found["shared_bytes"] = _shared_bytes()
    print(json.dumps(found))


def _shared_bytes() -> int:
    """Pages of libraries, which all processes of a system have in common."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    return 0


# ---------------------------------------------------------------- ours


def groundup(system: str, archives: Path, out: Path, workers: int) -> dict[str, Any]:
    from groundup.artifacts import StageContext, read_json
    from groundup.console import Console
    from groundup.corpus.build import run
    from groundup.corpus.settings import CorpusSettings, QualityRules
    from groundup.stopping import StopRequest

    kind = "text" if system == "one" else "warc"
    settings = CorpusSettings(
        sources={"web": {"type": kind, "path": str(archives)}},
        languages=["en"],
        extract="fast" if system == "one" else system,
        quality=None if system == "one" else QualityRules(),
        held_out=None,
        workers=workers,
        shard_bytes=16_000_000,
    )
    folder = out / "corpus"
    folder.mkdir()
    console = Console(io.StringIO())
    run(settings, StageContext("corpus", folder, {}, 1, out / "cache", console, StopRequest(), out))
    steps = {step["step"]: step for step in read_json(folder / "funnel.json")["sources"]["web"]["steps"]}
    first = min(path.stat().st_mtime for path in (out / ".shards").glob("*/*/*/task.json"))
    return {
        "documents": steps["read"]["out"]["documents"],
        "passed": steps["quality"]["out"]["documents"],
        "kept": steps["personal data"]["out"]["documents"],
        "first_task_seconds": first - STARTED,
    }


# ---------------------------------------------------------------- datatrove


def datatrove(archives: Path, out: Path, workers: int) -> dict[str, Any]:
    """Its reader, executor, writers and MinHash (FineWeb's setting); in between our functions, as a step of its own."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers import JsonlWriter, ParquetWriter
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(hash_config=HashConfig(precision=64), num_buckets=14, hashes_per_bucket=8)
    files = len(list(archives.iterdir()))
    logs = out / "logs"

    def execute(name: str, tasks: int, *pipeline: Any) -> None:
        LocalPipelineExecutor(pipeline=list(pipeline), tasks=tasks, workers=workers, logging_dir=str(logs / name)).run()

    folders = {name: str(out / name) for name in ("text", "signatures", "buckets", "remove", "final")}
    execute("1", files, WarcReader(str(archives)), clean_pages, JsonlWriter(folders["text"]))
    reader = JsonlReader(folders["text"])
    execute("2", files, reader, MinhashDedupSignature(folders["signatures"], config=config))
    execute("3", config.num_buckets, MinhashDedupBuckets(folders["signatures"], folders["buckets"], config=config))
    execute("4", 1, MinhashDedupCluster(folders["buckets"], folders["remove"], config=config))
    execute("5", files, reader, MinhashDedupFilter(folders["remove"]), scrub_pages, ParquetWriter(folders["final"]))
    first = json.loads((logs / "1" / "stats.json").read_text())
    last = json.loads((logs / "5" / "stats.json").read_text())
    return {
        "documents": _total(first[0]["stats"]["documents"]),
        "passed": _total(first[-1]["stats"]["total"]),
        "kept": _total(last[-1]["stats"]["total"]),
    }


def _total(value: Any) -> int:
    return int(value["total"] if isinstance(value, dict) else value)


def clean_pages(pages: Any, *_rank_and_world_size: int) -> Any:
    """The per-document steps of ours, with their functions: main text, language, boilerplate, signals, rules."""
    from groundup.corpus.extract import main_text
    from groundup.corpus.quality.language import detect
    from groundup.corpus.quality.rules import failures
    from groundup.corpus.quality.signals import cut_boilerplate, signals_of
    from groundup.corpus.settings import QualityRules

    rules = QualityRules()
    for page in pages:
        text = main_text(page.text, "fast", ("en",))
        if not text.strip():
            continue
        text = cut_boilerplate(text)
        language, score = detect(text)
        if language and (language != "en" or score < 0.5):
            continue
        if not failures(signals_of(text, "html", language), "html", language, rules):
            page.text = text
            yield page


def scrub_pages(pages: Any, *_rank_and_world_size: int) -> Any:
    from groundup.corpus.pii import scrub
    from groundup.corpus.settings import PII_TYPES

    for page in pages:
        page.text, _ = scrub(page.text, PII_TYPES)
        yield page


if __name__ == "__main__":
    main()
