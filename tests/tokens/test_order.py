"""The order of the data: a bijection, a pure function, exact counts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.tokens.order import BLOCK_ROWS, Mixture, key_of, permuted


@settings(deadline=None, max_examples=150)
@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_every_index_is_reached_exactly_once(n: int, key: int) -> None:
    assert sorted(permuted(np.arange(n), n, key).tolist()) == list(range(n))


@pytest.mark.parametrize("n", [2**16 - 1, 2**16, 2**16 + 1])
def test_bijection_around_a_power_of_two(n: int) -> None:
    assert len(np.unique(permuted(np.arange(n), n, key_of(n)))) == n


@given(n=st.integers(1, 10**12), index=st.integers(0, 10**12 - 1), key=st.integers(0, 2**64 - 1))
def test_any_index_alone_gives_what_it_gives_among_others(n: int, index: int, key: int) -> None:
    index %= n
    alone = permuted(np.array([index]), n, key)
    among = permuted(np.array([0, index, n - 1]), n, key)
    assert alone[0] == among[1]
    assert 0 <= alone[0] < n


def test_order_looks_random_and_changes_with_the_key() -> None:
    n = 20_000
    first, second = permuted(np.arange(n), n, 1), permuted(np.arange(n), n, 2)
    assert abs(np.corrcoef(np.arange(n), first)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.03
    assert (first == second).mean() < 0.001


def test_all_orders_of_three_things_are_equally_likely() -> None:
    counts = Counter(tuple(permuted(np.arange(3), 3, key_of(i)).tolist()) for i in range(3000))
    assert len(counts) == 6
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 20.5  # chi squared, 5 degrees, p = 0.001


shares = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.001, 1.0), min_size=1)


@settings(deadline=None, max_examples=40)
@given(shares=shares, seed=st.integers(0, 1000), block=st.integers(0, 50))
def test_each_block_holds_exactly_the_planned_counts(shares: dict[str, float], seed: int, block: int) -> None:
    mixture = Mixture({name: 17 + len(name) for name in shares}, shares, seed)
    sources, _ = mixture.at(np.arange(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS))
    counts = np.bincount(sources, minlength=len(shares))
    assert counts.tolist() == mixture.counts.tolist()
    assert counts.sum() == BLOCK_ROWS
    total = sum(shares.values())
    for name, count in zip(shares, counts, strict=True):
        assert count >= 1
        assert abs(count - shares[name] / total * BLOCK_ROWS) <= 1 + len(shares)


def test_each_source_is_gone_through_once_per_epoch_and_differently_each_time() -> None:
    mixture = Mixture({"a": 50, "b": 1024}, {"a": 0.5, "b": 0.5}, seed=3)  # 512 rows of each in a block
    sources, rows = mixture.at(np.arange(25 * BLOCK_ROWS))
    a, b = rows[sources == 0], rows[sources == 1]
    assert np.bincount(a).tolist() == [256] * 50  # 25 * 512 draws are 256 epochs of 50 rows
    epochs = b[: 24 * 512].reshape(12, 1024)  # two blocks are one epoch
    assert all(sorted(epoch.tolist()) == list(range(1024)) for epoch in epochs)
    assert all((epochs[0] == later).mean() < 0.02 for later in epochs[1:])


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_slices_of_a_step_are_the_same_rows_however_many_processes_share_it(world: int) -> None:
    mixture = Mixture({"a": 50, "b": 400}, {"a": 0.2, "b": 0.8}, seed=3)
    batch, steps = 24, range(40, 45)
    whole = [mixture.at(np.arange(step * batch, (step + 1) * batch)) for step in steps]
    for step, (sources, rows) in zip(steps, whole, strict=True):
        parts = [mixture.at(np.arange(step * batch, (step + 1) * batch)[rank::world]) for rank in range(world)]
        for rank, (part_sources, part_rows) in enumerate(parts):
            assert part_sources.tolist() == sources[rank::world].tolist()
            assert part_rows.tolist() == rows[rank::world].tolist()


def test_a_source_of_share_zero_is_never_drawn() -> None:
    mixture = Mixture({"a": 5, "b": 5}, {"a": 0.0, "b": 1.0}, seed=1)
    sources, _ = mixture.at(np.arange(2 * BLOCK_ROWS))
    assert set(sources.tolist()) == {1}


def test_the_next_epoch_brings_other_rows_together() -> None:
    mixture = Mixture({"a": 2 * BLOCK_ROWS}, {"a": 1.0}, seed=3)
    _, rows = mixture.at(np.arange(4 * BLOCK_ROWS))
    first_block, same_block_next_epoch = set(rows[:BLOCK_ROWS]), set(rows[2 * BLOCK_ROWS : 3 * BLOCK_ROWS])
    assert 0.4 < len(first_block & same_block_next_epoch) / BLOCK_ROWS < 0.6
