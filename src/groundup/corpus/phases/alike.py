"""The optional part of phase D: repeated spans of words (substring.py), documents alike in their words (semantic.py).

  spans        filtered shard -> word hashes and anchors        span_cuts   a range of anchors -> CUTS in words
  frequencies  filtered shard -> how many texts have a word     weights     all of them -> their sum
  vectors      filtered shard -> a vector per document          centres     all vectors -> directions to group them by
  assign       vectors        -> their nearest centres          alike       some centres -> REPEATS

The first half of this file is what the tasks do, the second half which tasks there are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np

from groundup.corpus.dedup.keytable import Group, map_array, write_array
from groundup.corpus.dedup.semantic import (
    DIMENSIONS,
    centres_of,
    document_frequencies,
    embed,
    user_embedding,
    write_assigned,
    write_semantic_repeats,
)
from groundup.corpus.dedup.substring import SpanFiles, write_anchors, write_span_cuts
from groundup.corpus.runner import Runner
from groundup.corpus.shards import read_rows
from groundup.corpus.tasks import Done, Input, Task, make_task

DOCUMENTS_PER_CENTRE = 2_000
SAMPLE_PER_CENTRE = 50
CENTRES_IN_GROUP = 16
TEXTS_AT_A_TIME = 256  # given to a user's embedding
WORDS_IN_GROUP = 20_000_000  # a fourteenth of them begin an anchor
_MODULE = "groundup.corpus.phases.alike"


# ---------------------------------------------------------------- what the tasks do


def _texts(path: Path) -> Iterator[str]:
    return (row["text"] for row in read_rows(path, ("text",)))


def spans(task: Task, out: Path) -> dict[str, Any]:
    """Word hashes and anchors of a shard. Code has none: what repeats there, licences and imports, belongs to it."""
    rows = read_rows(task.paths()[0], ("text", "media"))
    texts = ("" if row["media"] == "code" else row["text"] for row in rows)
    return {**write_anchors(texts, SpanFiles(out, "spans"), task.options["span_words"]), "bytes_in": task.bytes}


def span_cuts(task: Task, out: Path) -> dict[str, Any]:
    """Spans of one range of anchors that stand earlier in the corpus, in documents that stay."""
    bases, paths = task.options["bases"], task.paths()
    shards = [SpanFiles(path.parent, "spans") for path in paths[: 3 * len(bases) : 3]]
    group = Group(task.options["group"], task.options["groups"])
    return write_span_cuts(shards, bases, paths[3 * len(bases) :], group, out / "cuts.npy", task.options["span_words"])


def frequencies(task: Task, out: Path) -> dict[str, Any]:
    """In how many texts of a shard each hashed word stands."""
    write_array(out / "frequencies.npy", document_frequencies(_texts(task.paths()[0])))
    return {"bytes_in": task.bytes}


def weights(task: Task, out: Path) -> dict[str, Any]:
    """The sum over all shards."""
    total = np.zeros(0, np.int64)
    for path in task.paths():
        own = map_array(path)
        total = own + total if len(total) else np.array(own)
    write_array(out / "frequencies.npy", total)
    return {}


def vectors(task: Task, out: Path) -> dict[str, Any]:
    """A vector per document of a shard, by the user's function or by ours."""
    path, *known = task.paths()
    if task.options["embedding"] is None:
        found = embed(_texts(path), map_array(known[0]), task.options["documents"])
    else:
        function = user_embedding(task.options["embedding"])
        texts = _texts(path)
        parts = [function(batch) for batch in iter(lambda: list(islice(texts, TEXTS_AT_A_TIME)), [])]
        found = np.concatenate(parts) if parts else np.zeros((0, DIMENSIONS), np.int8)
    write_array(out / "vectors.npy", found)
    return {"bytes_in": task.bytes, "documents": len(found)}


def centres(task: Task, out: Path) -> dict[str, Any]:
    """Directions that the vectors are grouped by, from every n-th of them."""
    step = task.options["step"]
    sample = [part for path in task.paths() if len(part := map_array(path))]
    none = np.zeros((0, sample[0].shape[1] if sample else DIMENSIONS), np.int8)
    found = centres_of(np.concatenate([none, *(part[::step] for part in sample)]), task.options["count"])
    write_array(out / "centres.npy", found)
    return {"centres": len(found)}


def assign(task: Task, out: Path) -> dict[str, Any]:
    """The centres nearest to each document of a shard."""
    own, directions = (np.array(map_array(path)) for path in task.paths())
    return {"entries": write_assigned(own, directions, out / "assigned.npy")}


def alike(task: Task, out: Path) -> dict[str, Any]:
    """Documents of some centres that are as alike an earlier one as the threshold asks."""
    options, paths = task.options, task.paths()
    shards = len(options["bases"])
    return write_semantic_repeats(
        paths[:shards],
        paths[shards : 2 * shards],
        options["bases"],
        paths[2 * shards :],
        range(*options["centres"]),
        options["threshold"],
        out / "repeats.npy",
    )


# ---------------------------------------------------------------- which tasks there are


def span_rounds(runner: Runner, filtered: Sequence[Done], dropped: Sequence[Input], span_words: int) -> list[Done]:
    """Tasks that leave cuts.npy: spans of at least `span_words` words that stand earlier, in documents that stay."""
    own = _shard_tasks(runner, "spans", filtered, [], span_words=span_words)
    found = runner.phase("hashing spans", own)
    files = [one.input(path.name) for one in found for path in _span_files(one)]
    groups = max(1, -(-sum(one.stats["words"] for one in found) // WORDS_IN_GROUP))
    options = {"span_words": span_words, "bases": _bases(filtered), "groups": groups}
    tasks = [
        _match_task(runner, "span_cuts", group, [*files, *dropped], {**options, "group": group})
        for group in range(groups)
    ]
    return runner.phase("matching spans", tasks)


def _span_files(done: Done) -> tuple[Path, Path, Path]:
    files = SpanFiles(done.task.folder, "spans")
    return files.words, files.offsets, files.anchors


def semantic_rounds(
    runner: Runner, filtered: Sequence[Done], dropped: Sequence[Input], threshold: float, embedding: str | None
) -> list[Done]:
    """Tasks that leave repeats.npy: documents alike one that stays. A document may stand in several of them."""
    documents = sum(int(one.stats["kept"]) for one in filtered)
    known: list[Input] = []
    code: tuple[str, ...] = ()
    if embedding is None:
        counted = runner.phase("counting words", _shard_tasks(runner, "frequencies", filtered, []))
        files = [one.input("frequencies.npy") for one in counted]
        summed = runner.phase("weighing words", [_match_task(runner, "weights", 0, files, {})])
        known = [summed[0].input("frequencies.npy")]
    elif importlib.util.find_spec(embedding.partition(":")[0]) is not None:
        code = (embedding.partition(":")[0],)  # a changed function gives other vectors
    told = {"embedding": embedding, "documents": documents if embedding is None else None}
    embedded = runner.phase("embedding", _shard_tasks(runner, "vectors", filtered, known, code, **told))
    files = [one.input("vectors.npy") for one in embedded]
    count = max(1, documents // DOCUMENTS_PER_CENTRE)
    options: dict[str, Any] = {"count": count, "step": max(1, documents // (count * SAMPLE_PER_CENTRE))}
    middle = runner.phase("grouping", [_match_task(runner, "centres", 0, files, options)])[0]
    tasks = [
        _match_task(runner, "assign", number, [one, middle.input("centres.npy")], {})
        for number, one in enumerate(files)
    ]
    assigned = runner.phase("assigning", tasks)
    inputs = [*files, *(one.input("assigned.npy") for one in assigned), *dropped]
    found = int(middle.stats["centres"])
    tasks = []
    for number, first in enumerate(range(0, found, CENTRES_IN_GROUP)):
        options = {"centres": [first, min(first + CENTRES_IN_GROUP, found)], "bases": _bases(filtered)}
        tasks.append(_match_task(runner, "alike", number, inputs, {**options, "threshold": threshold}))
    return runner.phase("comparing meanings", tasks)


def _bases(filtered: Sequence[Done]) -> list[int]:
    """The number of the first document of each shard."""
    return list(accumulate((int(one.stats["kept"]) for one in filtered[:-1]), initial=0))


def _shard_tasks(
    runner: Runner,
    function: str,
    filtered: Sequence[Done],
    inputs: Sequence[Input],
    code: Sequence[str] = (),
    **options: Any,
) -> list[Task]:
    return [
        make_task(
            "alike",
            f"{one.task.name} {function}",
            f"{_MODULE}:{function}",
            runner.root,
            options=options,
            inputs=[one.input("kept.parquet"), *inputs],
            code=code,
            bytes=int(one.stats["bytes_out"]),
            hints={"source": one.task.hints["source"]},
        )
        for one in filtered
    ]


def _match_task(runner: Runner, function: str, number: int, inputs: Sequence[Input], options: dict[str, Any]) -> Task:
    name, where = f"{function} {number + 1}", f"{_MODULE}:{function}"
    return make_task("match", name, where, runner.root, options=options, inputs=inputs, bytes=1)
