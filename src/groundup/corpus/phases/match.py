"""Phase D: which documents of the whole corpus are each other's duplicates. Hashes and document numbers only, no text.

A document's number is the count of documents in the shards before its own, plus its row. Each task looks at one range
of the keys of all shards; the last, `verdicts`, writes for each shard what became of its documents, so that a shard is
finished again only if something about it changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from groundup.artifacts import read_json
from groundup.corpus.dedup.exact_groups import write_paragraph_cuts, write_repeats
from groundup.corpus.dedup.keytable import CUTS, Group, map_array, most_alike, read_documents, write_table
from groundup.corpus.dedup.near_groups import NearFiles, clusters_of, write_candidates, write_edges
from groundup.corpus.dedup.substring import merge_cuts
from groundup.corpus.shards import ShardWriter, read_column
from groundup.corpus.tasks import Task

VERDICTS = pa.schema(
    [
        ("row", pa.int64()),
        ("what", pa.string()),  # exact, url, near, semantic: dropped for `other`; cluster: alike `other`; cut, span
        ("other", pa.string()),
        ("other_source", pa.string()),
        ("similarity", pa.float64()),
        ("number", pa.int64()),  # of the first paragraph (cut) or word (span) that goes
        ("end", pa.int64()),  # of the first one behind it that stays
    ]
)


@dataclass(frozen=True)
class Shards:
    """What plan/*.json says of all filtered shards, in the order of the recipe."""

    root: Path
    rows: list[dict[str, Any]]  # kept, keys: folders; source; documents
    bases: list[int]

    @staticmethod
    def of(task: Task) -> Shards:
        rows = read_json(task.paths()[0])["shards"]
        bases = np.concatenate(([0], np.cumsum([row["documents"] for row in rows]))).astype(int).tolist()
        return Shards(Path(task.root), rows, bases)

    def keys(self, name: str) -> list[Path]:
        return [self.root / row["keys"] / name for row in self.rows]

    def near(self) -> list[NearFiles]:
        return [NearFiles(self.root / row["keys"], "near") for row in self.rows]

    def shard_of(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(np.asarray(self.bases), documents, side="right") - 1

    def look_up(self, documents: NDArray[np.int64]) -> dict[int, tuple[str, int]]:
        """document -> (id, shard), for sorted documents; each shard's ids are read once."""
        found: dict[int, tuple[str, int]] = {}
        owners = self.shard_of(documents)
        for shard in np.unique(owners).tolist():
            ids = read_column(self.root / self.rows[shard]["kept"], "id")
            for document in documents[owners == shard].tolist():
                found[document] = (ids[document - self.bases[shard]], shard)
        return found


def _group(task: Task) -> Group:
    return Group(task.options["group"], task.options["groups"])


def _dropped(task: Task) -> list[Path]:
    """Tables of what an earlier task dropped: every input but the plan."""
    return task.paths()[1:]


def exact(task: Task, out: Path) -> dict[str, Any]:
    """Repeated texts or addresses of one range of their keys."""
    shards = Shards.of(task)
    tables = shards.keys(task.options["table"])
    stats = write_repeats(tables, shards.bases[:-1], _dropped(task), _group(task), out / "repeats.npy")
    _, copies = np.unique(map_array(out / "repeats.npy")["first"], return_counts=True)
    sizes, clusters = np.unique(copies + 1, return_counts=True)  # and the one that stays
    by_size = {str(size): count for size, count in zip(sizes.tolist(), clusters.tolist(), strict=True)}
    return {**stats, "clusters": {"exact duplicates": by_size}}


def candidates(task: Task, out: Path) -> dict[str, Any]:
    """Pairs of documents that share a band of one range of the keys."""
    shards = Shards.of(task)
    return write_candidates(shards.near(), shards.bases[:-1], _dropped(task), _group(task), out / "pairs.npy")


def edges(task: Task, out: Path) -> dict[str, Any]:
    """The pairs of one range that really are as alike as the threshold asks."""
    shards = Shards.of(task)
    threshold, pairs = task.options["threshold"], task.paths()[1:]
    return write_edges(pairs, shards.near(), shards.bases[:-1], threshold, _group(task), out / "edges.npy")


def clusters(task: Task, out: Path) -> dict[str, Any]:
    """Who stays of each cluster: the one of the earliest source, of these the longest. Edges only are in memory."""
    shards = Shards.of(task)
    ranks = {name: rank for rank, name in enumerate(task.options["sources"])}

    def rank(documents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        owners = shards.shard_of(documents)
        priorities = np.array([ranks[row["source"]] for row in shards.rows], np.int64)[owners]
        sizes = np.zeros(len(documents), np.int64)
        for shard in np.unique(owners).tolist():
            own = np.asarray(read_json(shards.root / shards.rows[shard]["keys"] / "sizes.json"), np.int64)
            sizes[owners == shard] = own[documents[owners == shard] - shards.bases[shard]]
        return priorities, sizes

    def names(documents: NDArray[np.int64]) -> list[str]:
        about = shards.look_up(documents)
        return [about[document][0] for document in documents.tolist()]

    found = clusters_of(task.paths()[1:], rank, names)
    write_table(out / "repeats.npy", found.repeats())
    if task.options["role"] != "near":
        return {}
    return {"clusters": {"near duplicates": {str(size): count for size, count in sorted(found.sizes().items())}}}


def paragraphs(task: Task, out: Path) -> dict[str, Any]:
    """Paragraphs of one range of keys that stand earlier in the corpus, in documents that stay."""
    shards = Shards.of(task)
    tables = shards.keys("paragraphs.npy")
    return write_paragraph_cuts(tables, shards.bases[:-1], _dropped(task), _group(task), out / "cuts.npy")


def verdicts(task: Task, out: Path) -> dict[str, Any]:
    """verdicts-00000.parquet and on, one per shard: who is dropped for whom, who is like whom, which paragraphs go."""
    shards = Shards.of(task)
    roles: Sequence[str] = task.options["roles"]  # what each input after the plan is
    tables = {role: [path for path, own in zip(task.paths()[1:], roles, strict=True) if own == role] for role in roles}
    counts: dict[str, int] = {}
    for number in range(len(shards.rows)):
        first, size = shards.bases[number], shards.rows[number]["documents"]
        with ShardWriter(out / f"verdicts-{number:05d}.parquet", VERDICTS) as writer:
            for what in ("exact", "url", "near", "semantic", "cluster"):
                _write_repeats(shards, tables.get(what, []), what, first, size, writer.write, counts)
            for what in ("cut", "span"):
                for cut in merge_cuts(read_documents(tables.get(what, []), first, size, CUTS)):
                    row = {"row": int(cut["document"]) - first, "what": what}
                    row |= {"number": int(cut["start"]), "end": int(cut["end"])}
                    writer.write({"other": "", "other_source": "", "similarity": None, **row})
                    counts[what] = counts.get(what, 0) + 1
    return {"verdicts": counts}


def _write_repeats(
    shards: Shards,
    paths: Sequence[Path],
    what: str,
    first: int,
    size: int,
    write: Callable[[dict[str, Any]], None],
    counts: dict[str, int],
) -> None:
    table = most_alike(read_documents(paths, first, size))  # semantic: several groups may say so
    if not len(table):
        return
    about = shards.look_up(np.unique(table["first"]).astype(np.int64))
    for entry in table:
        other, shard = about[int(entry["first"])]
        write(
            {
                "row": int(entry["document"]) - first,
                "what": what,
                "other": other,
                "other_source": shards.rows[shard]["source"],
                "similarity": round(float(entry["similarity"]), 6),
                "number": None,
                "end": None,
            }
        )
        counts[what] = counts.get(what, 0) + 1


def entries_in(paths: Sequence[Path]) -> int:
    """Rows of tables, without reading them."""
    return sum(len(map_array(path)) for path in paths)
