"""One near-deduplication of benchmarks/dedup.py, in a process of its own: ours or a peer's, run by that one's Python.

    python benchmarks/dedup_worker.py SYSTEM TEXTS.jsonl RESULT.json

The clock runs from texts in memory to the set of documents that go. Each peer has the setting that is published for
this work: 112 hash functions in 14 bands of 8 rows on word 5-grams (FineWeb's), and what it ships after the bands.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

BANDS, ROWS, WORDS = 14, 8, 5
THRESHOLD = 0.8
SHARDS, GROUPS = 4, 4
_WORD = re.compile(r"\w+")


def main() -> int:
    system, texts_file, result_file = sys.argv[1:4]
    with open(texts_file, encoding="utf-8") as file:
        texts: list[str] = [json.loads(line) for line in file]
    load, run = SYSTEMS[system]
    for name in load:  # imported before the clock runs
        importlib.import_module(name)
    stages: dict[str, float] = {}
    started, cpu_started = time.perf_counter(), cpu_seconds()
    removed = run(texts, stages)
    result = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": cpu_seconds() - cpu_started,
        "stages": stages,
        "removed": sorted(removed),
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": {name: version(name) for name in VERSIONS[system]},
    }
    Path(result_file).write_text(json.dumps(result))
    return 0


def cpu_seconds() -> float:
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_memory_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


# ---------------------------------------------------------------- ours


def groundup_files(texts: list[str], stages: dict[str, float]) -> set[int]:
    """As a large corpus runs: shards and groups, everything through files."""
    import numpy as np

    from groundup.corpus.dedup.keytable import Group
    from groundup.corpus.dedup.near import bands_for
    from groundup.corpus.dedup.near_groups import (
        NearFiles,
        clusters_of,
        write_candidates,
        write_edges,
        write_near_keys,
    )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cuts = [len(texts) * shard // SHARDS for shard in range(SHARDS + 1)]
        files = [NearFiles(folder, str(shard)) for shard in range(SHARDS)]
        before = cpu_seconds()
        for own, first, last in zip(files, cuts[:-1], cuts[1:], strict=True):
            write_near_keys(texts[first:last], own, bands_for(THRESHOLD))
        stages["signatures"] = cpu_seconds() - before
        groups = [Group(number, GROUPS) for number in range(GROUPS)]
        candidates = [folder / f"candidates-{group.number}" for group in groups]
        edges = [folder / f"edges-{group.number}" for group in groups]
        before = cpu_seconds()
        for group, out in zip(groups, candidates, strict=True):
            write_candidates(files, cuts[:-1], [], group, out)
        stages["candidates"] = cpu_seconds() - before
        before = cpu_seconds()
        counts = [
            write_edges(candidates, files, cuts[:-1], THRESHOLD, group, out)
            for group, out in zip(groups, edges, strict=True)
        ]
        stages["verification"] = cpu_seconds() - before
        stages["compared"] = sum(count["compared"] for count in counts)

        def rank(documents: Any) -> tuple[Any, Any]:
            sizes = [len(texts[place]) for place in documents.tolist()]
            return documents * 0, np.array(sizes)

        def names(documents: Any) -> list[str]:
            return [f"{place:09d}" for place in documents.tolist()]

        return set(clusters_of(edges, rank, names).repeats()["document"].tolist())


def groundup_memory(texts: list[str], stages: dict[str, float]) -> set[int]:
    """`find_near_duplicates`, the one-machine form."""
    from groundup.corpus.dedup.near import find_near_duplicates

    found = find_near_duplicates(texts, THRESHOLD)
    stages["compared"] = found.candidates
    return {place for place, cluster in enumerate(found.cluster.tolist()) if cluster != place}


# ---------------------------------------------------------------- peers


def datatrove(texts: list[str], stages: dict[str, float]) -> set[int]:
    from datatrove.data import Document  # type: ignore[import-not-found]
    from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
    from datatrove.pipeline.dedup.minhash import (  # type: ignore[import-not-found]
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )

    config = MinhashConfig(n_grams=WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)
    documents = [Document(text=text, id=str(place)) for place, text in enumerate(texts)]
    kept: set[int] = set()

    def collect(data: Any, *_: int) -> Any:
        for document in data:
            kept.add(int(document.id))
            yield document

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        signed, buckets, removed = (str(folder / part) for part in ("signatures", "buckets", "removed"))
        steps: list[tuple[str, list[Any], int]] = [
            ("signatures", [documents, MinhashDedupSignature(output_folder=signed, config=config)], 1),
            ("buckets", [MinhashDedupBuckets(input_folder=signed, output_folder=buckets, config=config)], BANDS),
            ("clusters", [MinhashDedupCluster(input_folder=buckets, output_folder=removed, config=config)], 1),
            ("filter", [documents, MinhashDedupFilter(input_folder=removed), collect], 1),
        ]
        for step, pipeline, tasks in steps:
            before = cpu_seconds()
            LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=str(folder / step)).run()
            stages[step] = cpu_seconds() - before
    return set(range(len(texts))) - kept


def shingles(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    return [" ".join(words[start : start + WORDS]) for start in range(max(1, len(words) - WORDS + 1))]


def datasketch(texts: list[str], _: dict[str, float]) -> set[int]:
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-not-found]

    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    return greedy_union(texts, lambda text: datasketch_signature(MinHash, text), index.query, index.insert)


def datasketch_signature(kind: Any, text: str) -> Any:
    signature = kind(num_perm=BANDS * ROWS)
    signature.update_batch([one.encode() for one in set(shingles(text))])
    return signature


def rensa(texts: list[str], _: dict[str, float]) -> set[int]:
    from rensa import RMinHash, RMinHashLSH  # type: ignore[import-not-found]

    index = RMinHashLSH(threshold=THRESHOLD, num_perm=BANDS * ROWS, num_bands=BANDS)

    def signature(text: str) -> Any:
        made = RMinHash(num_perm=BANDS * ROWS, seed=1)
        made.update(shingles(text))
        return made

    return greedy_union(texts, signature, index.query, index.insert)


def greedy_union(
    texts: list[str],
    signature: Callable[[str], Any],
    query: Callable[[Any], list[int]],
    insert: Callable[[int, Any], None],
) -> set[int]:
    """What a library without clusters of its own is used for: connected components of what its index proposes."""
    parent = list(range(len(texts)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for place, text in enumerate(texts):
        made = signature(text)
        for other in query(made):
            a, b = root(place), root(other)
            parent[max(a, b)] = min(a, b)
        insert(place, made)
    return {place for place in range(len(texts)) if root(place) != place}


Runner = Callable[[list[str], dict[str, float]], set[int]]
SYSTEMS: dict[str, tuple[list[str], Runner]] = {
    "groundup": (["groundup.corpus.dedup.near_groups"], groundup_files),
    "groundup in memory": (["groundup.corpus.dedup.near"], groundup_memory),
    "datatrove": (["datatrove.executor", "datatrove.pipeline.dedup.minhash", "spacy"], datatrove),
    "datasketch": (["datasketch"], datasketch),
    "rensa": (["rensa"], rensa),
}
VERSIONS = {
    "groundup": ["groundup", "numpy"],
    "groundup in memory": ["groundup", "numpy"],
    "datatrove": ["datatrove", "spacy"],
    "datasketch": ["datasketch", "numpy"],
    "rensa": ["rensa"],
}

if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
