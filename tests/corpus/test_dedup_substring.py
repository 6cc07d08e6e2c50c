"""Repeated spans: groups and shards give what one machine gives, and that is what a plain search gives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.corpus.dedup.keytable import CUTS, REPEATS, Group, read_documents, write_table
from groundup.corpus.dedup.substring import (
    SpanFiles,
    cut_words,
    find_repeated_spans,
    merge_cuts,
    write_anchors,
    write_span_cuts,
)
from groundup.corpus.words import words_in

Cut = set[tuple[int, int]]  # (document, word)


def searched(texts: Sequence[str], span: int) -> Cut:
    """Every word in a window of `span` words that stands earlier, but for the words of that earlier one itself."""
    first: dict[tuple[str, ...], tuple[int, int]] = {}
    cut: Cut = set()
    for document, text in enumerate(texts):
        words = text.split()
        for start in range(len(words) - span + 1):
            where, place = first.setdefault(tuple(words[start : start + span]), (document, start))
            if (where, place) != (document, start):
                begin = max(start, place + span) if where == document else start
                cut |= {(document, word) for word in range(begin, start + span)}
    return cut


def words_cut(table: np.ndarray) -> Cut:
    return {(int(row["document"]), word) for row in table for word in range(int(row["start"]), int(row["end"]))}


def in_groups(texts: Sequence[str], span: int, shards: int, groups: int, dropped: Sequence[int] = ()) -> np.ndarray:
    with TemporaryDirectory() as name:
        folder = Path(name)
        cuts = [len(texts) * shard // shards for shard in range(shards + 1)]
        files = [SpanFiles(folder, str(shard)) for shard in range(shards)]
        for own, first, last in zip(files, cuts[:-1], cuts[1:], strict=True):
            write_anchors(texts[first:last], own, span)
        write_table(folder / "dropped.npy", np.array([(document, 0, 1.0) for document in dropped], REPEATS))
        outs = [folder / f"cuts-{number}.npy" for number in range(groups)]
        for number in reversed(range(groups)):
            write_span_cuts(files, cuts[:-1], [folder / "dropped.npy"], Group(number, groups), outs[number], span)
        return merge_cuts(read_documents(outs, 0, len(texts), CUTS))


# few words, so that runs repeat, overlap with themselves and stand in several texts
texts_of_few_words = st.lists(st.lists(st.sampled_from("abc"), max_size=30).map(" ".join), max_size=5)


@settings(max_examples=60, deadline=None)
@given(texts_of_few_words, st.integers(4, 9), st.integers(1, 3), st.integers(1, 3))
def test_spans_are_those_of_a_plain_search(texts: list[str], span: int, shards: int, groups: int) -> None:
    expected = searched(texts, span)
    assert words_cut(find_repeated_spans(texts, span)) == expected
    assert words_cut(in_groups(texts, span, shards, groups)) == expected


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([20, 50, 51]))
def test_planted_spans_are_found_to_the_word(rng: random.Random, span: int) -> None:
    vocabulary = [f"w{number}" for number in range(500)]
    passages = [rng.choices(vocabulary, k=rng.randint(span - 3, span * 3)) for _ in range(4)]
    texts = []
    for _ in range(12):
        words = rng.choices(vocabulary, k=rng.randint(0, 120))
        for passage in rng.sample(passages, rng.randint(0, 2)):
            words += passage + rng.choices(vocabulary, k=rng.randint(0, 60))
        texts.append(" ".join(words))
    expected = searched(texts, span)
    assert words_cut(find_repeated_spans(texts, span)) == expected
    found = in_groups(texts, span, 4, 3)
    assert words_cut(found) == expected
    texts_after = [
        cut_words(text, [(row["start"], row["end"]) for row in found[found["document"] == place]])
        for place, text in enumerate(texts)
    ]
    gone = sum(len(text.split()) for text in texts) - sum(len(text.split()) for text in texts_after)
    assert gone == len(expected)


def test_the_earliest_copy_stays_unless_its_document_was_dropped() -> None:
    passage = " ".join(f"p{number}" for number in range(60))
    texts = [f"one {passage}", f"two {passage} two", f"three {passage}"]
    assert [row.tolist() for row in in_groups(texts, 50, 2, 2)] == [(1, 1, 61), (2, 1, 61)]
    assert [row.tolist() for row in in_groups(texts, 50, 2, 2, dropped=[0])] == [(2, 1, 61)]


def test_a_text_that_repeats_itself_keeps_the_first_of_it() -> None:
    text = " ".join(["la"] * 300)
    assert [row.tolist() for row in find_repeated_spans([text], 50)] == [(0, 50, 300)]
    assert [row.tolist() for row in in_groups([text], 50, 1, 2)] == [(0, 50, 300)]


@pytest.mark.parametrize(
    ("cuts", "left"),
    [
        ([], "One, two; three.\n\nFour five!\n"),
        ([(1, 2)], "One, three.\n\nFour five!\n"),
        ([(1, 3)], "One, \n\nFour five!\n"),
        ([(0, 1), (4, 5)], "two; three.\n\nFour \n"),
        ([(0, 5)], ""),
        ([(2, 4), (1, 3), (2, 3)], "One, \n\nfive!\n"),
        ([(3, 99)], "One, two; three.\n\n"),
        ([(5, 6)], "One, two; three.\n\nFour five!\n"),
    ],
)
def test_words_are_cut_with_what_follows_them_and_paragraphs_stay_apart(cuts: list[tuple[int, int]], left: str) -> None:
    assert cut_words("One, two; three.\n\nFour five!\n", cuts) == left


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=4))
def test_the_words_that_are_cut_are_gone_and_the_others_stay(text: str, cuts: list[tuple[int, int]]) -> None:
    words = words_in(text)
    gone = {word for first, last in cuts for word in range(first, last)}
    expected = [text[words.starts[n] : words.ends[n]] for n in range(len(words)) if n not in gone]
    place = 0
    left = cut_words(text, cuts)
    for word in expected:  # in order; a cut may join what stood on both sides of it
        place = left.index(word, place) + len(word)
    if not gone & set(range(len(words))):
        assert left == text


def test_cuts_that_overlap_or_touch_become_one() -> None:
    table = np.array([(1, 5, 9), (0, 3, 6), (0, 6, 8), (1, 0, 7), (0, 20, 22), (2, 0, 1)], CUTS)
    assert [row.tolist() for row in merge_cuts(table)] == [(0, 3, 8), (0, 20, 22), (1, 0, 9), (2, 0, 1)]
