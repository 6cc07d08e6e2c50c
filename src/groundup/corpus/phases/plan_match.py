"""Phase D of a build: who is like whom, found in rounds over groups of keys, and what becomes of whom for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundup.corpus.dedup.near import bands_for
from groundup.corpus.phases.alike import semantic_rounds, span_rounds
from groundup.corpus.phases.plan import (
    HELD_OUT_SIMILARITY,
    input_files,
    least_similarity,
    written,
)
from groundup.corpus.runner import Runner
from groundup.corpus.settings import CorpusSettings
from groundup.corpus.tasks import Done, Input, Task, make_task

KEYS_IN_GROUP = 4_000_000  # a group's table: about 100 MB
PAIRS_IN_GROUP = 2_000_000
_MATCH = "groundup.corpus.phases.match"


def match(settings: CorpusSettings, filtered: Sequence[Done], keys: Sequence[Done], runner: Runner) -> Done:
    """All of phase D: several rounds of tasks, each over what the one before it found. Returns the verdicts."""
    plan = _plan_file(runner.root, filtered, keys)

    def tasks(function: str, groups: int, inputs: Sequence[Input], entries: int, **options: Any) -> list[Task]:
        """One task for each of the groups of keys."""
        return [
            make_task(
                "match",
                f"{function} {group + 1} of {groups}",
                f"{_MATCH}:{function}",
                runner.root,
                options={**options, "group": group, "groups": groups},
                inputs=[plan, *inputs],
                bytes=max(1, entries // groups),
            )
            for group in range(groups)
        ]

    documents = sum(done.stats["documents"] for done in keys)
    groups = _groups(documents, KEYS_IN_GROUP)
    found: dict[str, list[Done]] = {}
    dropped: list[Input] = []
    for role, table, is_wanted in (
        ("exact", "exact.npy", settings.exact_duplicates),
        ("url", "urls.npy", settings.duplicate_urls),
    ):
        if is_wanted:
            what = "matching texts" if role == "exact" else "matching addresses"
            found[role] = runner.phase(what, tasks("exact", groups, dropped, documents, table=table))
            dropped = [*dropped, *input_files(found[role], "repeats.npy")]
    least = least_similarity(settings)
    if least is not None:
        entries = documents * bands_for(least).bands
        round_ = tasks("candidates", _groups(entries, KEYS_IN_GROUP), dropped, entries)
        pairs = runner.phase("finding candidates", round_)
        count = sum(done.stats["candidates"] for done in pairs)
        files = input_files(pairs, "pairs.npy")
        for role, similarity in (("near", settings.near_duplicate_threshold), ("cluster", _apart(settings))):
            if similarity is not None:
                round_ = tasks("edges", _groups(count, PAIRS_IN_GROUP), files, count, threshold=similarity)
                edges = runner.phase("comparing candidates", round_)
                last = tasks(
                    "clusters", 1, input_files(edges, "edges.npy"), count, role=role, sources=list(settings.sources)
                )
                found[role] = runner.phase("clustering", last)
    gone = [*dropped, *input_files(found.get("near", []), "repeats.npy")]
    if settings.semantic_threshold is not None:
        found["semantic"] = semantic_rounds(
            runner, filtered, gone, settings.semantic_threshold, settings.semantic_embedding
        )
        gone += input_files(found["semantic"], "repeats.npy")
    if settings.duplicate_spans is not None:
        found["span"] = span_rounds(runner, filtered, gone, settings.duplicate_spans)
    if settings.duplicate_paragraphs:
        found["cut"] = runner.phase("matching paragraphs", tasks("paragraphs", groups, gone, documents))
    inputs: list[Input] = []
    roles: list[str] = []
    for role, own in found.items():
        files = input_files(own, "cuts.npy" if role in ("cut", "span") else "repeats.npy")
        inputs += files
        roles += [role] * len(files)
    return runner.phase("deciding", tasks("verdicts", 1, inputs, documents, roles=roles))[0]


def _groups(entries: int, in_group: int) -> int:
    return max(1, -(-entries // in_group))


def _apart(settings: CorpusSettings) -> float | None:
    """What held-out documents are kept apart by, where duplicates that much alike are not dropped anyway."""
    threshold = settings.near_duplicate_threshold
    wanted = settings.held_out is not None and (threshold is None or threshold > HELD_OUT_SIMILARITY)
    return HELD_OUT_SIMILARITY if wanted else None


def _plan_file(root: Path, filtered: Sequence[Done], keys: Sequence[Done]) -> Input:
    """The list of all shards as a file, which every task of phase D reads."""
    shards = [
        {
            "source": kept.task.hints["source"],
            "documents": kept.stats["kept"],
            "kept": kept.input("kept.parquet")[0],
            "keys": f"{own.task.step}/{own.task.folder.name}",
            "digests": [kept.outputs["kept.parquet"]["sha256"], *(one["sha256"] for one in own.outputs.values())],
        }
        for kept, own in zip(filtered, keys, strict=True)
    ]
    return written(root, "shards", json.dumps({"shards": shards}, indent=1))
