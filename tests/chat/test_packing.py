"""Packing loses nothing, splits nothing and fills rows tightly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.chat.masks import Encoded
from groundup.chat.packing import PADDING, batch_rows, join, pack


def samples_of(lengths: list[int]) -> list[Encoded]:
    """Sample n of length L holds the ids n*100, n*100+1, ...: every token can be told from every other."""
    return [
        Encoded([n * 100 + i for i in range(length)], [i % 3 == 1 for i in range(length)])
        for n, length in enumerate(lengths)
    ]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 32), min_size=1, max_size=40))
def test_every_sample_is_in_one_row_whole(lengths: list[int]) -> None:
    samples = samples_of(lengths)
    rows = pack(samples, 32)
    found = []
    for row in rows:
        assert len(row.ids) == len(row.trained) == len(row.document_ids) <= 32
        for document in range(max(row.document_ids) + 1):
            inside = [at for at, d in enumerate(row.document_ids) if d == document]
            assert inside == list(range(inside[0], inside[-1] + 1))
            found.append([row.ids[at] for at in inside])
    assert sorted(found) == sorted(sample.ids for sample in samples)
    assert sum(map(sum, (row.trained for row in rows))) == sum(sum(sample.trained[1:]) for sample in samples)
    filled = sorted(len(row.ids) for row in rows)
    assert len(rows) == 1 or filled[0] + filled[1] > 32  # no two rows could be one


def test_best_fit_fills_the_tightest_hole() -> None:
    def contents(lengths: list[int]) -> list[list[int]]:
        return sorted(sorted({token // 100 for token in row.ids}) for row in pack(samples_of(lengths), 10))

    assert contents([6, 7, 3, 4]) == [[0, 3], [1, 2]]
    assert contents([6, 5, 4]) == [[0, 2], [1]]  # 4 goes beside 6, where no room is left, and not beside 5


def test_sample_longer_than_a_row_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="33 tokens does not fit into rows of 32"):
        pack(samples_of([33]), 32)


def test_batch_predicts_the_next_token_of_the_same_sample_only() -> None:
    first, second = Encoded([5, 6, 7], [True, True, True]), Encoded([8, 9], [True, True])
    batch = batch_rows([join([first, second]), join([second])], pad_id=9)
    np.testing.assert_array_equal(batch.input_ids, [[5, 6, 7, 8, 9], [8, 9, 9, 9, 9]])
    np.testing.assert_array_equal(batch.targets[0], [6, 7, 8, 9, 0])
    np.testing.assert_array_equal(batch.weights, [[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]])  # 7 -> 8 crosses samples
    np.testing.assert_array_equal(batch.document_ids, [[0, 0, 0, 1, 1], [0, 0, PADDING, PADDING, PADDING]])
    assert batch.trained_tokens == 4
