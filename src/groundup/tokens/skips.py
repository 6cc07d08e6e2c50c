"""Steps that are left out: which batch an update trains, as a pure function of its number. Nothing heavy in here.

Batches are numbered from 1, as steps are in metrics.jsonl. Without anything left out, update n trains batch n. With
`skip_steps: [3, 5-6]` the batches 3, 5 and 6 are never trained and the later ones move up: update 3 trains batch 4,
update 4 trains batch 7. The learning rate goes by updates, so its schedule has no hole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Ranges = tuple[tuple[int, int], ...]  # first and last, both included; ascending, and neither touching nor overlapping


def ranges_of(steps: Iterable[object]) -> Ranges:
    """`[1200, "1300-1310"]` as ranges. ValueError for what is no step."""
    found = []
    for step in steps:
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", str(step))
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last:
            raise ValueError(f"{step!r} is no step and no range of steps; write 1300 or 1200-1210 (steps count from 1)")
        found.append((first, last))
    return joined(found)


def joined(*ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Everything that is in any of them."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted((first, last) for some in ranges for first, last in some):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def batch_of(update: int, left_out: Ranges) -> int:
    """The number of the batch that an update trains; both count from 1, and 0 (before the first update) stays 0."""
    batch = update
    for first, last in left_out:
        if first > batch:
            break
        batch += last - first + 1
    return batch if update else 0


def up_to(batch: int, ranges: Ranges) -> Ranges:
    """The part of the ranges that lies at or below a batch."""
    return tuple((first, min(last, batch)) for first, last in ranges if first <= batch)


def count(ranges: Ranges) -> int:
    return sum(last - first + 1 for first, last in ranges)


def steps_text(ranges: Ranges) -> str:
    """`3, 5-6`."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
