"""Deduplication from files to files: whatever the shards and groups, it gives what the one-machine form gives."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.corpus.dedup.exact import cut_paragraphs, cut_seen_paragraphs, exact_duplicates, paragraph_keys, text_key
from groundup.corpus.dedup.exact_groups import (
    write_document_keys,
    write_paragraph_cuts,
    write_paragraph_keys,
    write_repeats,
)
from groundup.corpus.dedup.keytable import (
    BAND_KEYS,
    CUTS,
    EDGES,
    REPEATS,
    Group,
    map_array,
    read_documents,
    read_group,
    table_of,
    write_array,
    write_table,
)
from groundup.corpus.dedup.near import bands_for, find_near_duplicates
from groundup.corpus.dedup.near_groups import (
    Clusters,
    NearFiles,
    clusters_of,
    write_candidates,
    write_edges,
    write_near_keys,
)


def split(items: Sequence[str], shards: int) -> tuple[list[Sequence[str]], list[int]]:
    """Shards of nearly equal size in order, some of them empty where there are few items; and their bases."""
    cuts = [len(items) * shard // shards for shard in range(shards + 1)]
    return [items[first:last] for first, last in pairwise(cuts)], cuts[:-1]


def near(
    texts: Sequence[str],
    threshold: float,
    folder: Path,
    shards: int,
    groups: int,
    dropped: Sequence[Path] = (),
    priority: Sequence[int] = (),
    size: Sequence[int] = (),
    names: Sequence[str] = (),
) -> Clusters:
    """All tasks in the order of the phases; those of one phase in an order that does not matter."""
    parts, bases = split(texts, shards)
    files = [NearFiles(folder, f"{shard:05d}") for shard in range(shards)]
    for part, own in reversed(list(zip(parts, files, strict=True))):
        assert write_near_keys(part, own, bands_for(threshold))["documents"] == len(part)
    ranges = [Group(number, groups) for number in range(groups)]
    candidates = [folder / f"candidates-{group.number}.npy" for group in ranges]
    edges = [folder / f"edges-{group.number}.npy" for group in ranges]
    for group in reversed(ranges):
        write_candidates(files, bases, dropped, group, candidates[group.number])
    for group in reversed(ranges):
        write_edges(candidates, files, bases, threshold, group, edges[group.number])
    priority, size = priority or [0] * len(texts), size or [0] * len(texts)
    names = names or [f"{place:09d}" for place in range(len(texts))]
    return clusters_of(
        edges,
        lambda documents: (np.array(priority)[documents], np.array(size)[documents]),
        lambda documents: [names[place] for place in documents],
    )


def family(rng: random.Random, edits: list[float], words: int = 80) -> list[str]:
    base = [rng.choice("abcdefghijklmnopqrstuvwxyz") * rng.randint(1, 4) for _ in range(words)]
    copies = []
    for share in edits:
        copy = list(base)
        for place in rng.sample(range(words), round(share * words)):
            copy[place] = f"x{rng.randint(0, 10**6)}"
        copies.append(" ".join(copy))
    return copies


# ---------------------------------------------------------------- tables of keys


@given(st.integers(1, 40))
def test_groups_divide_all_keys_without_gap_or_overlap(count: int) -> None:
    groups = [Group(number, count) for number in range(count)]
    assert groups[0].low == 0
    assert groups[-1].high == 1 << 64
    assert all(one.high == other.low for one, other in pairwise(groups))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.integers(1, 7), st.integers(1, 4))
def test_every_record_is_in_exactly_one_group(keys: list[int], groups: int, shards: int) -> None:
    with TemporaryDirectory() as name:
        paths = []
        for shard in range(shards):
            own = np.array(keys[shard::shards], np.uint64)
            paths.append(Path(name) / f"{shard}.npy")
            write_table(paths[-1], table_of(BAND_KEYS, key=own, row=np.arange(len(own))))
        found = []
        for number in range(groups):
            group = Group(number, groups)
            for part in read_group(paths, group):
                assert all(group.low <= int(key) < group.high for key in part["key"])
                found += part["key"].tolist()
    assert sorted(found) == sorted(keys)


def test_a_table_that_cannot_be_written_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_array(tmp_path / "table.npy", np.arange(3))
    before = (tmp_path / "table.npy").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_array(tmp_path / "table.npy", np.arange(9))
    with pytest.raises(OSError, match="No space left"):
        write_array(tmp_path / "other.npy", np.arange(9))
    assert (tmp_path / "table.npy").read_bytes() == before
    assert not (tmp_path / "other.npy").exists()


# ---------------------------------------------------------------- near-duplicates


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(1, 5))
def test_shards_and_groups_give_the_clusters_of_the_one_machine_form(
    rng: random.Random, shards: int, groups: int
) -> None:
    texts = [
        text for _ in range(rng.randint(0, 6)) for text in family(rng, [0.0, 0.01, 0.02, 0.1][: rng.randint(1, 4)])
    ]
    texts += ["", "one two", "one two"]
    rng.shuffle(texts)
    expected = find_near_duplicates(texts, 0.8).cluster
    with TemporaryDirectory() as name:
        found = near(texts, 0.8, Path(name), shards, groups)
    cluster = np.arange(len(texts))
    cluster[found.documents] = found.kept
    assert cluster.tolist() == expected.tolist()


def test_the_novel_s_editions_in_shards_and_groups(shared_data: Path, tmp_path: Path) -> None:
    with gzip.open(shared_data / "neardup/pride-editions.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    found = near([row["text"] for row in rows], 0.7, tmp_path, 7, 5)
    stands = np.arange(len(rows))
    stands[found.documents] = found.kept
    ours = {(a, b) for a, b in combinations(range(len(rows)), 2) if stands[a] == stands[b]}
    truth = {(a, b) for a, b in combinations(range(len(rows)), 2) if rows[a]["cluster"] == rows[b]["cluster"]}
    assert len(truth) == 330
    assert ours == truth
    assert sum(size * count for size, count in found.sizes().items()) == len(found.documents)
    assert len(found.repeats()) == len(rows) - 61
    assert found.similarity.min() >= 0.7


def test_files_are_the_same_bytes_whatever_the_order_of_the_tasks(tmp_path: Path) -> None:
    rng = random.Random(5)
    texts = [text for _ in range(8) for text in family(rng, [0.0, 0.01, 0.02])]
    digests = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        clusters = near(texts, 0.8, folder, 3, 4)
        write_table(folder / "repeats.npy", clusters.repeats())
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3 * 3 + 4 + 4 + 1


def test_who_stays_is_told_by_source_then_length_then_id(tmp_path: Path) -> None:
    texts = family(random.Random(2), [0.0] * 5)
    order = {"priority": [1, 0, 0, 0, 1], "size": [9, 5, 7, 7, 9], "names": ["a", "b", "d", "c", "e"]}
    found = near(texts, 0.8, tmp_path, 2, 2, **order)
    assert found.documents.tolist() == [0, 1, 2, 3, 4]
    assert set(found.kept.tolist()) == {3}
    assert found.repeats()["document"].tolist() == [0, 1, 2, 4]
    assert found.sizes() == {5: 1}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.sampled_from("abc")), max_size=12)
)
def test_the_best_of_each_cluster_is_the_smallest_by_source_length_and_id(
    rows: list[tuple[int, int, int, str]],
) -> None:
    """Chains of documents by their first number; names are made different by their place."""
    names = [f"{name}{place}" for place, (*_, name) in enumerate(rows)]
    members: dict[int, list[int]] = {}
    for place, (cluster, *_) in enumerate(rows):
        members.setdefault(cluster, []).append(place)
    edges = [(a, b, 0.9) for own in members.values() for a, b in pairwise(own)]
    with TemporaryDirectory() as name:
        write_table(Path(name) / "edges.npy", np.array(edges, EDGES))
        found = clusters_of(
            [Path(name) / "edges.npy"],
            lambda documents: (np.array([rows[n][1] for n in documents]), np.array([rows[n][2] for n in documents])),
            lambda documents: [names[place] for place in documents],
        )
    best = {
        place: min(own, key=lambda n: (rows[n][1], -rows[n][2], names[n])) for own in members.values() for place in own
    }
    expected = {place: best[place] for own in members.values() if len(own) > 1 for place in own}
    assert dict(zip(found.documents.tolist(), found.kept.tolist(), strict=True)) == expected


def test_documents_dropped_before_are_not_compared_again(tmp_path: Path) -> None:
    texts = family(random.Random(2), [0.0] * 4)
    write_table(tmp_path / "exact.npy", np.array([(1, 0, 1.0), (3, 0, 1.0)], REPEATS))
    found = near(texts, 0.8, tmp_path, 2, 3, dropped=[tmp_path / "exact.npy"])
    assert found.documents.tolist() == [0, 2]
    assert map_array(tmp_path / "candidates-0.npy").dtype.names == ("key", "left", "right")


def test_a_verification_reads_the_shingles_of_its_own_pairs_only(tmp_path: Path) -> None:
    """The shard without candidates is not there any more: nobody asks for it."""
    texts = [*family(random.Random(1), [0.0, 0.01]), *family(random.Random(2), [0.0, 0.3])]
    parts, bases = split(texts, 2)
    files = [NearFiles(tmp_path, str(shard)) for shard in range(2)]
    for part, own in zip(parts, files, strict=True):
        write_near_keys(part, own, bands_for(0.8))
    write_candidates(files, bases, [], Group(0, 1), tmp_path / "candidates.npy")
    files[1].shingles.unlink()
    files[1].offsets.unlink()
    assert write_edges([tmp_path / "candidates.npy"], files, bases, 0.8, Group(0, 1), tmp_path / "edges.npy") == {
        "pairs": 1,
        "compared": 1,
        "edges": 1,
    }


# ---------------------------------------------------------------- exact duplicates


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), max_size=20), st.integers(1, 5), st.integers(1, 4))
def test_exact_repeats_of_groups_are_those_of_the_one_machine_form(
    letters: list[str | None], shards: int, groups: int
) -> None:
    keys = [None if letter is None else text_key(letter) for letter in letters]
    expected = {place: first for place, first in enumerate(exact_duplicates(keys)) if first is not None}
    with TemporaryDirectory() as name:
        folder = Path(name)
        cuts = [len(keys) * shard // shards for shard in range(shards + 1)]
        tables = [folder / f"{shard}.npy" for shard in range(shards)]
        for table, first, last in zip(tables, cuts[:-1], cuts[1:], strict=True):
            write_document_keys(keys[first:last], table)
        outs = [folder / f"repeats-{number}.npy" for number in range(groups)]
        for number, out in enumerate(outs):
            write_repeats(tables, cuts[:-1], [], Group(number, groups), out)
        found = {
            int(row["document"]): int(row["first"])
            for first, last in pairwise(cuts)
            for row in read_documents(outs, first, last - first)
        }
    assert found == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=8), st.integers(1, 4), st.integers(1, 3))
def test_paragraphs_cut_by_groups_are_those_cut_one_text_after_the_other(
    numbers: list[list[int]], shards: int, groups: int
) -> None:
    texts = ["\n\n".join(f"paragraph {n} " + "long enough to count " * (6 if n else 1) for n in own) for own in numbers]
    seen: set[int] = set()
    expected = [cut_seen_paragraphs(text, seen)[0] for text in texts]
    with TemporaryDirectory() as name:
        folder = Path(name)
        parts, bases = split(texts, shards)
        tables = [folder / f"{shard}.npy" for shard in range(shards)]
        for part, table in zip(parts, tables, strict=True):
            write_paragraph_keys([paragraph_keys(text) for text in part], table)
        outs = [folder / f"cuts-{number}.npy" for number in range(groups)]
        for number, out in enumerate(outs):
            write_paragraph_cuts(tables, bases, [], Group(number, groups), out)
        cuts = read_documents(outs, 0, len(texts), CUTS)
    found = [
        cut_paragraphs(text, set(cuts["start"][cuts["document"] == place].tolist())) for place, text in enumerate(texts)
    ]
    assert found == expected


def test_a_paragraph_is_not_cut_for_the_sake_of_a_document_that_goes_too(tmp_path: Path) -> None:
    paragraph = "A paragraph that is long enough to be counted as one, " * 3
    write_paragraph_keys([paragraph_keys(paragraph), paragraph_keys(paragraph)], tmp_path / "keys.npy")
    write_table(tmp_path / "near.npy", np.array([(0, 1, 0.9)], REPEATS))
    found = write_paragraph_cuts([tmp_path / "keys.npy"], [0], [tmp_path / "near.npy"], Group(0, 1), tmp_path / "cuts")
    assert found == {"keys": 1, "cuts": 0}
