"""Semantic duplicates: vectors that are the same everywhere, the greedy choice beside a plain one, centres, groups."""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.corpus.dedup.keytable import REPEATS, write_array, write_table
from groundup.corpus.dedup.semantic import (
    centres_of,
    document_frequencies,
    embed,
    find_semantic_duplicates,
    greedy_repeats,
    products,
    quantise,
    user_embedding,
    write_assigned,
    write_semantic_repeats,
)
from groundup.errors import UserError

VOCABULARY = [f"word{number}" for number in range(3000)]


def article(rng: random.Random, words: int = 200) -> list[str]:
    topic = rng.sample(VOCABULARY, 60)
    return [rng.choice(topic if rng.random() < 0.7 else VOCABULARY[:50]) for _ in range(words)]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(float), b.astype(float)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) if a.any() and b.any() else 0.0


def drawn(seed: int, count: int, dimensions: int = 32, spread: float = 0.4, directions: int = 6) -> np.ndarray:
    """Vectors around a few directions, so that some are alike."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(directions, dimensions))
    return quantise(centres[rng.integers(0, directions, count)] + spread * rng.normal(size=(count, dimensions)))


# ---------------------------------------------------------------- vectors


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([8, 512, 1040, 1041, 4096]))
def test_cosines_are_exact_whatever_the_dimensions_and_the_order(seed: int, dimensions: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-127, 128, (5, dimensions)).astype(np.int8)
    vectors[3] = 127  # the largest sums there can be
    order = rng.permutation(dimensions)
    found = products(vectors, vectors)
    assert np.array_equal(found, products(vectors[:, order], vectors[:, order]))
    for a in range(5):
        for b in range(5):
            assert found[a, b] == pytest.approx(cosine(vectors[a], vectors[b]), abs=1e-12)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([32, 384, 768]))
def test_rounding_to_int8_changes_a_cosine_by_less_than_a_hundredth(seed: int, dimensions: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(1, dimensions))
    b = a + rng.uniform(0, 1) * rng.normal(size=(1, dimensions))
    assert products(quantise(a), quantise(b))[0, 0] == pytest.approx(cosine(a[0], b[0]), abs=0.01)


def test_a_text_without_words_is_alike_nothing() -> None:
    found = find_semantic_duplicates(["", "!!", "", "one two", "one two"], 0.5)
    assert found["document"].tolist() == [4]


def test_frequencies_of_shards_add_up() -> None:
    texts = ["a b a", "b c", "", "c c d"]
    total = document_frequencies(texts)
    assert np.array_equal(total, document_frequencies(texts[:1]) + document_frequencies(texts[1:]))
    assert sorted(total[total > 0].tolist()) == [1, 1, 2, 2]


def test_vectors_do_not_depend_on_what_is_embedded_beside_them() -> None:
    rng = random.Random(1)
    texts = [" ".join(article(rng, rng.choice([5, 3000, 40_000]))) for _ in range(9)]
    frequencies = document_frequencies(texts)
    together = embed(texts, frequencies, len(texts))
    for place, text in enumerate(texts):
        assert np.array_equal(together[place], embed([text], frequencies, len(texts))[0])


def test_reordered_and_partly_rewritten_copies_are_found_and_other_texts_are_not() -> None:
    rng = random.Random(4)
    articles = [article(rng) for _ in range(120)]
    copies = []
    for own in articles[:40]:
        reordered = rng.sample(own, len(own))
        rewritten = [rng.choice(VOCABULARY) if rng.random() < 0.12 else word for word in own]
        copies += [reordered, rewritten]
    found = find_semantic_duplicates([" ".join(words) for words in articles + copies], 0.8)
    assert found["document"].tolist() == list(range(120, 200))
    assert found["first"].tolist() == [place // 2 for place in range(80)]
    assert found["similarity"][::2] == pytest.approx(1.0)


# ---------------------------------------------------------------- the choice


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 600), st.sampled_from([0.7, 0.85, 0.95]))
def test_the_greedy_choice_is_the_plain_one(seed: int, count: int, threshold: float) -> None:
    vectors = drawn(seed, count)
    similar = products(vectors, vectors)
    staying: list[int] = []
    gone: dict[int, float] = {}
    for place in range(count):
        best = max((similar[place, other] for other in staying), default=-1.0)
        if best >= threshold:
            gone[place] = best
        else:
            staying.append(place)
    found = greedy_repeats(vectors, threshold)
    assert found["document"].tolist() == list(gone)
    assert found["similarity"] == pytest.approx(list(gone.values()))
    assert set(found["first"].tolist()) <= set(staying)


def test_centres_are_found_again_and_do_not_depend_on_the_order_of_threads() -> None:
    vectors = drawn(3, 900, spread=0.2, directions=5)
    centres = centres_of(vectors, 12)
    assert np.array_equal(centres, centres_of(vectors.copy(), 12))
    assert products(vectors, centres).max(axis=1).min() > 0.8
    assert centres_of(np.zeros((4, 8), np.int8), 3).shape == (1, 8)


def groups(vectors: np.ndarray, centre_count: int, ranges: list[range], threshold: float, folder: Path) -> np.ndarray:
    """Three shards; each range of centres a task. Returns the rows of all tasks, each document once."""
    centres = centres_of(vectors, centre_count)
    cuts = [len(vectors) * shard // 3 for shard in range(4)]
    files = [folder / f"vectors-{shard}.npy" for shard in range(3)]
    assigned = [folder / f"assigned-{shard}.npy" for shard in range(3)]
    for shard, (first, last) in enumerate(itertools.pairwise(cuts)):
        write_array(files[shard], vectors[first:last])
        write_assigned(vectors[first:last], centres, assigned[shard])
    found = []
    for number, own in enumerate(ranges):
        out = folder / f"repeats-{number}.npy"
        write_semantic_repeats(files, assigned, cuts[:-1], [], own, threshold, out)
        found.append(np.load(out))
    return np.unique(np.concatenate(found)["document"])


def test_one_centre_gives_what_the_one_machine_form_gives(tmp_path: Path) -> None:
    vectors = drawn(7, 500)
    found = groups(vectors, 1, [range(1)], 0.85, tmp_path)
    assert found.tolist() == greedy_repeats(vectors, 0.85)["document"].tolist()


def test_many_centres_find_nearly_all_and_drop_none_without_one_alike(tmp_path: Path) -> None:
    vectors = drawn(8, 2000, directions=400, spread=0.15)
    whole = greedy_repeats(vectors, 0.9)["document"]
    found = groups(vectors, 16, [range(16)], 0.9, tmp_path)
    assert len(np.intersect1d(found, whole)) >= 0.98 * len(whole) > 900
    similar = products(vectors, vectors)
    for document in found.tolist():
        assert similar[document, :document].max() >= 0.9, "for an earlier one, so never in a circle"


def test_the_groups_of_centres_do_not_matter(tmp_path: Path) -> None:
    vectors = drawn(9, 400, directions=40)
    results = []
    for number, ranges in enumerate(([range(8)], [range(3), range(3, 8)], [range(n, n + 1) for n in range(8)])):
        folder = tmp_path / str(number)
        folder.mkdir()
        results.append(groups(vectors, 8, ranges, 0.9, folder).tolist())
    assert results[0] == results[1] == results[2] != []


def test_documents_dropped_before_are_not_looked_at(tmp_path: Path) -> None:
    vectors = np.ones((3, 4), np.int8)
    write_array(tmp_path / "vectors.npy", vectors)
    write_assigned(vectors, vectors[:1], tmp_path / "assigned.npy")
    write_table(tmp_path / "dropped.npy", np.array([(0, 2, 1.0)], REPEATS))
    out = tmp_path / "repeats.npy"
    counts = write_semantic_repeats(
        [tmp_path / "vectors.npy"],
        [tmp_path / "assigned.npy"],
        [0],
        [tmp_path / "dropped.npy"],
        range(1),
        0.9,
        out,
    )
    assert counts == {"documents": 2, "repeats": 1}
    assert np.load(out).tolist() == [(2, 1, 1.0)]


# ---------------------------------------------------------------- a user's function


def test_a_user_s_embedding_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("their_embedding")
    module.embed = lambda texts: [[text.count("a"), text.count("b"), 1.0] for text in texts]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_embedding", module)
    found = find_semantic_duplicates(["aaab", "b", "baaa", ""], 0.99, user_embedding("their_embedding:embed"))
    assert found.tolist() == [(2, 0, 1.0)]


@pytest.mark.parametrize("spec", ["no_such_module_anywhere:embed", "math:no_such_function", "math", ""])
def test_an_embedding_that_is_not_there_is_said(spec: str) -> None:
    with pytest.raises(UserError, match="cannot be had"):
        user_embedding(spec)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [([[1.0]], r"\(1, 1\) for 2 texts"), ([1.0, 2.0], "for 2 texts"), ([[1.0], [float("nan")]], "not finite")],
)
def test_an_embedding_of_the_wrong_shape_is_refused(
    rows: list[object], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("their_embedding")
    module.embed = lambda _: rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_embedding", module)
    with pytest.raises(UserError, match=complaint):
        user_embedding("their_embedding:embed")(["a", "b"])
