"""Phase F: what is taken of each source, what is held out, and which part of the corpus a document stands in.

A part is what files, the mixture and training know as one: a source, or, of sources that are routed `by_language`, all
their documents in one language. Languages that are too small for a part of their own, and documents whose language
cannot be told, form the part `other` together.

From here on only hashes, sizes and languages are looked at, never text: one task reads the light tables of all shards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from groundup.corpus.dedup.keytable import write_array
from groundup.corpus.settings import HeldOut
from groundup.corpus.shards import read_column, read_rows
from groundup.corpus.tasks import Task
from groundup.corpus.weights import OTHER, language_part, language_parts

LIGHT = pa.schema(
    [("id", pa.string()), ("bytes", pa.int64()), ("cluster", pa.string()), ("language", pa.string())]
)  # what phase E leaves for this one
TRAINING, HELD_OUT, BEYOND = 0, 1, 2

_LIGHT = np.dtype([("id", "<u8"), ("bytes", "<i8"), ("cluster", "<u8")])
Table = NDArray[Any]


def select(task: Task, out: Path) -> dict[str, Any]:
    """flags-00000.npy and on, one per clean shard: TRAINING, HELD_OUT or BEYOND for each of its documents; of routed
    sources also parts-00000.npy: which of `parts`, the languages in the order of their names, it stands in.

    Which documents are taken depends on hashes of their ids and clusters, never on their order. In memory are 25 bytes
    for each document of the corpus (27 where it is routed): two hashes, a size, a flag and a part.
    """
    options, paths = task.options, task.paths()
    wanted = HeldOut.model_validate(options["held_out"]) if options["held_out"] else None
    tables = [_light_table(path) for path in paths]
    flags = [np.full(len(table), TRAINING, np.uint8) for table in tables]
    by_source: dict[str, list[int]] = {}
    for place, source in enumerate(options["sources"]):
        by_source.setdefault(source, []).append(place)
    for source, places in by_source.items():
        for place, taken in zip(places, _within(tables, places, options["max_bytes"].get(source)), strict=True):
            flags[place][~taken] = BEYOND
    routed = [place for place, source in enumerate(options["sources"]) if source in options["by_language"]]
    names, parts = _route(paths, tables, flags, routed, options)
    if wanted is not None:
        chosen = [np.empty(0, np.uint64)]
        for source, places in by_source.items():
            if source not in options["by_language"]:
                chosen.append(_held_out(_taken(tables, flags, places), wanted))
        for number in range(len(names)):
            rows = {place: parts[place] == number for place in routed}
            chosen.append(_held_out(_taken(tables, flags, routed, rows), wanted))
        # a cluster that reaches into another source, or another language, is held out there as well
        held_out = np.unique(np.concatenate(chosen))
        for table, own in zip(tables, flags, strict=True):
            own[(own == TRAINING) & np.isin(table["cluster"], held_out)] = HELD_OUT
    for place, own in enumerate(flags):
        write_array(out / f"flags-{place:05d}.npy", own)
    for place in routed:
        write_array(out / f"parts-{place:05d}.npy", parts[place])
    return {"documents": sum(map(len, tables)), "parts": names}


def _light_table(path: Path) -> Table:
    """Ids and clusters as the first 64 bits of their sha256, by which documents are ordered."""
    rows = [
        (_hash(row["id"]), row["bytes"], _hash(f"held out\0{row['cluster']}"))
        for row in read_rows(path, ("id", "bytes", "cluster"))
    ]
    return np.array(rows, _LIGHT)


def _hash(text: str) -> int:
    return int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


# ---------------------------------------------------------------- by language


def _route(
    paths: Sequence[Path],
    tables: Sequence[Table],
    flags: Sequence[NDArray[np.uint8]],
    routed: Sequence[int],
    options: Mapping[str, Any],
) -> tuple[list[str], dict[int, NDArray[np.uint16]]]:
    """The names of the parts, in their order, and for each routed shard the part that each document stands in."""
    if not routed:
        return [], {}
    spoken: dict[str, int] = {}  # language -> its number, in the order of appearance
    numbers: dict[int, NDArray[np.uint16]] = {}
    taken_names = set(options["sources"])  # a rare code may be the name of a source, whose files are called by it
    for place in routed:
        languages = (language_part(one or "") for one in read_column(paths[place], "language"))
        own = (OTHER if one in taken_names else one for one in languages)
        numbers[place] = np.array([spoken.setdefault(one, len(spoken)) for one in own], np.uint16)
    sizes: Counter[str] = Counter()
    by_number = list(spoken)
    for place in routed:
        taken = flags[place] != BEYOND
        counted = np.bincount(numbers[place][taken], weights=tables[place]["bytes"][taken], minlength=len(spoken))
        for number, size in enumerate(counted.tolist()):
            sizes[by_number[number]] += int(size)
    names = language_parts(sizes, options["min_language_part"], options["named_languages"])
    renumbered = np.array([names.index(one if one in names else OTHER) for one in by_number], np.uint16)
    return names, {place: renumbered[found] if len(found) else found for place, found in numbers.items()}


# ---------------------------------------------------------------- limits and held-out documents


def _within(tables: Sequence[Table], places: Sequence[int], max_bytes: int | None) -> list[NDArray[np.bool_]]:
    """For each shard of one source, which documents are taken: by the hash of their ids, while they fit."""
    table = np.concatenate([tables[place] for place in places])
    taken = np.ones(len(table), bool)
    if max_bytes is not None:
        order = np.argsort(table["id"], kind="stable")
        taken[order] = _fitting(table["bytes"][order], max_bytes)
    return np.split(taken, np.cumsum([len(tables[place]) for place in places])[:-1])


def _taken(
    tables: Sequence[Table],
    flags: Sequence[NDArray[np.uint8]],
    places: Sequence[int],
    rows: Mapping[int, NDArray[np.bool_]] | None = None,
) -> Table:
    """What is not beyond a limit of these shards, or of these rows of them, as one table."""
    own = [tables[place][(flags[place] != BEYOND) & (rows[place] if rows else True)] for place in places]
    return np.concatenate([np.empty(0, _LIGHT), *own])


def _fitting(sizes: NDArray[np.int64], budget: float) -> NDArray[np.bool_]:
    """Of sizes in order, those that fit into what the ones before them have left of the budget."""
    fits = np.zeros(len(sizes), bool)
    total = 0
    for place, size in enumerate(sizes.tolist()):
        if total + size <= budget:
            total += size
            fits[place] = True
    return fits


def _held_out(table: Table, wanted: HeldOut) -> NDArray[np.uint64]:
    """The clusters of one part that are held out: `heldout.choose_held_out`, on arrays."""
    clusters, owner = np.unique(table["cluster"], return_inverse=True)  # sorted: in the order of their hashes
    sizes = np.bincount(owner, weights=table["bytes"], minlength=len(clusters)).astype(np.int64)
    budget = min(wanted.share * int(sizes.sum()), wanted.max_bytes)
    fits = _fitting(sizes, budget)
    if not fits.any() and budget > 0:
        tenth = min(0.1 * int(sizes.sum()), wanted.max_bytes)
        fits = _fitting(sizes, tenth) & (np.cumsum(_fitting(sizes, tenth)) == 1)
    return np.asarray(clusters[fits], np.uint64)
