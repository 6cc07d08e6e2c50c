"""Which batch an update trains when some are left out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.tokens.skips import batch_of, count, joined, ranges_of, steps_text, up_to

ranges = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=6
)


@given(ranges)
def test_update_n_trains_the_nth_batch_that_is_not_left_out(pairs: list[tuple[int, int]]) -> None:
    gone = {batch for first, last in pairs for batch in range(first, last + 1)}
    trained = [batch for batch in range(1, 200) if batch not in gone]
    left_out = joined(pairs)
    assert [batch_of(update, left_out) for update in range(1, 81)] == trained[:80]
    assert count(left_out) == len(gone)
    assert batch_of(0, left_out) == 0


@given(ranges, ranges)
def test_joined_ranges_are_the_union_and_are_written_as_they_are_read(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    gone = {batch for first, last in one + other for batch in range(first, last + 1)}
    together = joined(one, other)
    assert {batch for first, last in together for batch in range(first, last + 1)} == gone
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(together))
    assert ranges_of(steps_text(together).split(",") if together else []) == together


@given(ranges, st.integers(0, 80))
def test_the_part_up_to_a_batch(pairs: list[tuple[int, int]], batch: int) -> None:
    left_out = joined(pairs)
    expected = {b for first, last in left_out for b in range(first, last + 1) if b <= batch}
    assert {b for first, last in up_to(batch, left_out) for b in range(first, last + 1)} == expected


def test_steps_as_a_recipe_writes_them() -> None:
    assert ranges_of(["1200-1210", 1300, "1211"]) == ((1200, 1211), (1300, 1300))
    assert ranges_of([]) == ()


@pytest.mark.parametrize("wrong", ["0", "12-3", "x", "-4", "1.5", "0-3", ""])
def test_what_is_no_step_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no step and no range of steps; write 1300 or 1200-1210"):
        ranges_of([wrong])
