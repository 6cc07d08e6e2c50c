"""Histograms with the edges that a corpus's stats.json has: bins of equal width on the page, whatever they span."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from groundup.report.figures import Canvas
from groundup.report.scales import Scale, nice_ticks, short_number

FATES = (("passed", "kept"), ("dropped", "lost"))  # in this order from the bottom, with the class of their colour
WIDTH = 360  # three stand beside each other on the page
LABEL_WIDTH = 42


def histogram(
    edges: Sequence[float],
    fates: Mapping[str, Mapping[str, int]],
    *,
    title: str,
    x_title: str,
    thresholds: Sequence[float] = (),
    height: float = 190,
) -> str:
    """Documents by a signal's value: kept ones below, dropped ones above them, a line at each threshold.

    `fates`: fate -> number of a bin -> documents; a value is in bin i where edges[i-1] < value <= edges[i].
    """
    counts = {fate: {int(bin): number for bin, number in bins.items()} for fate, bins in fates.items()}
    filled = [bin for bins in counts.values() for bin in bins]
    canvas = Canvas(WIDTH, height, title, _described(edges, counts, thresholds))
    if not filled:
        canvas.text(WIDTH / 2, height / 2, "no documents", "tick", "middle")
        return canvas.svg()
    first, last = _shown(edges, min(filled), max(filled), thresholds)
    bins = list(range(first, last + 1))
    totals = [sum(counts.get(fate, {}).get(bin, 0) for fate, _ in FATES) for bin in bins]
    left, right, top, bottom = 52.0, WIDTH - 12.0, 14.0, height - 44.0
    y_scale = Scale(0, max(totals) or 1, bottom, top)
    for tick in nice_ticks(0, max(totals) or 1, 3):
        canvas.line(left, y_scale(tick), right, y_scale(tick), "grid")
        canvas.text(left - 6, y_scale(tick) + 4, short_number(tick), "tick", "end")
    width = (right - left) / len(bins)
    for place, bin in enumerate(bins):
        y, x = bottom, left + place * width
        for fate, kind in FATES:
            size = bottom - y_scale(counts.get(fate, {}).get(bin, 0))
            if size > 0:
                canvas.rect(x + 0.5, y - size, max(width - 1, 1), size, f"bar {kind}")
            y -= size
    every = max(1, math.ceil(len(bins) * LABEL_WIDTH / (right - left)))
    if first == 0:  # the bin of 0 (and below) is named by its middle: it reaches nowhere
        canvas.text(left + width / 2, bottom + 16, short_number(edges[0]), "tick", "middle")
    for place in range(1 + every if first == 0 else 0, len(bins) + 1, every):
        edge = first + place - 1  # the edge on the left of that bin; the first of all bins has none
        if edge < len(edges):
            canvas.text(left + place * width, bottom + 16, short_number(edges[edge]), "tick", "middle")
    canvas.line(left, bottom, right, bottom, "axis")
    for threshold in thresholds:
        x = left + (_place(edges, threshold) - first) * width
        if left <= x <= right:
            canvas.line(x, top - 6, x, bottom, "target")
    canvas.text((left + right) / 2, bottom + 36, x_title, "axis-title", "middle")
    return canvas.svg()


def _shown(edges: Sequence[float], first: int, last: int, thresholds: Sequence[float]) -> tuple[int, int]:
    """The first and last bin to draw: all that are filled or hold a threshold, and at least four."""
    places = [int(_place(edges, threshold)) for threshold in thresholds]
    first, last = min([first, *places]), max([last, *places])
    return first, min(max(last, first + 3), len(edges))


def _place(edges: Sequence[float], value: float) -> float:
    """Where a value lies, in bins: the number of its bin and how far into it."""
    bin = bisect_left(edges, value)
    if bin == 0 or bin >= len(edges):
        return float(bin)
    low, high = edges[bin - 1], edges[bin]  # the bin begins, on the page, where its lower edge is
    return bin + (value - low) / (high - low)


def _described(edges: Sequence[float], counts: Mapping[str, Mapping[int, int]], thresholds: Sequence[float]) -> str:
    """For readers who cannot see it: how many, and between which edges the middle half lies."""
    parts = []
    for fate, _ in FATES:
        bins = counts.get(fate) or {}
        total = sum(bins.values())
        if total:
            low, middle, high = (_quantile(edges, bins, share) for share in (0.25, 0.5, 0.75))
            parts.append(f"{total:,} {fate}, a quarter below {low}, half below {middle}, three quarters below {high}")
    parts += [f"threshold {short_number(threshold)}" for threshold in thresholds]
    return "; ".join(parts) or "No data."


def _quantile(edges: Sequence[float], bins: Mapping[int, int], share: float) -> str:
    left = share * sum(bins.values())
    for bin in sorted(bins):
        left -= bins[bin]
        if left <= 0:
            return short_number(edges[min(bin, len(edges) - 1)])
    return short_number(edges[-1])
