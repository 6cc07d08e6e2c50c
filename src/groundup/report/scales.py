"""From numbers to places and words: axis scales, ticks, smoothing, and how quantities are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Maps the interval `low..high` of the data onto `start..end` of the picture, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The place of `value`. Values outside the interval fall outside the picture: callers clip."""
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        share = 0.5 if high == low else (at - low) / (high - low)
        return self.start + share * (self.end - self.start)


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that divide `low..high` into about `about` parts, inside the interval.

    Steps are 1, 2 or 5 times a power of ten (Heckbert, "Nice numbers for graph labels", Graphics Gems, 1990).
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten inside `low..high`; powers of ten alone where that would be too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    dense = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [tick for tick in dense if low * 0.999 <= tick <= high * 1.001]
    if len(inside) <= 7:
        return inside or [low]
    return [tick for tick in inside if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]


def padded(low: float, high: float, share: float = 0.05) -> tuple[float, float]:
    """The interval with a little room on both sides; a single value gets room too."""
    if high == low:
        room = abs(high) * 0.1 or 1.0
        return low - room, high + room
    return low - share * (high - low), high + share * (high - low)


def finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def smooth(points: Sequence[Point], window: int) -> list[Point]:
    """Mean over the `window` points around each one (fewer at the ends), so that the line does not lag behind."""
    half = window // 2
    if half < 1:
        return list(points)
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    smoothed = []
    for index, (x, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)  # the same on both sides, so a slope stays a slope
        low, high = index - reach, index + reach + 1
        smoothed.append((x, (sums[high] - sums[low]) / (high - low)))
    return smoothed


def thin(points: Sequence[Point], most: int = 300) -> list[Point]:
    """About `most` points: the ends, and the lowest and highest of each stretch, so that no spike disappears."""
    if len(points) <= most:
        return list(points)
    stretches = max((most - 2) // 2, 1)
    ends, points = (points[0], points[-1]), points[1:-1]
    kept: list[Point] = [ends[0]]
    for index in range(stretches):
        stretch = points[len(points) * index // stretches : len(points) * (index + 1) // stretches]
        low = min(stretch, key=lambda point: point[1])
        high = max(stretch, key=lambda point: point[1])
        kept += sorted({low, high})
    return [*kept, ends[1]]


# ---------------------------------------------------------------- words


def short_number(value: float | None) -> str:
    """1234567 -> 1.23M, 0.00042 -> 4.2e-4: three figures, for axes and tables."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit * 0.9995:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{_figures(scaled)}{unit}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return _figures(value)


def _figures(value: float) -> str:
    """Three figures without trailing zeros after the point: 0.25, 12.5, 137."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def integer(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def percent(share: float | None, decimals: int = 1) -> str:
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.{decimals}f} %"


def duration(seconds: float | None) -> str:
    """0.42 s, 12.3 s, 3 min 20 s, 2 h 05 min, 3.1 days."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    if seconds < 2 * 86400:
        return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"
    return f"{seconds / 86400:.1f} days"


def size(num_bytes: float | None) -> str:
    """Bytes in decimal units: 12.3 MB."""
    if num_bytes is None:
        return "–"
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit:
            return f"{_figures(num_bytes / limit)} {unit}"
    return f"{num_bytes:.0f} B"


def p_value(value: float | None) -> str:
    """As papers write it: p = 0.031, p < 0.0001."""
    if value is None or not math.isfinite(value):
        return "–"
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"
