"""Charts as SVG text, drawn on the server: lines, bars, intervals. No script, no library, no outside request.

Colours come from CSS variables of the page (`--series-1` ...), so a chart follows light, dark and print. Every series
differs by dash pattern or marker as well as by colour. Each chart carries a title and a description for readers who
cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape

from groundup.report.scales import Point, Scale, finite, log_ticks, nice_ticks, padded, short_number, smooth, thin

WIDTH = 480  # of the viewBox; the page scales it
DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "1 4")
LEVELS = {"good": "●", "note": "◆", "warning": "▲", "bad": "✕"}


@dataclass(frozen=True)
class Series:
    """One line: its name, its points in data units, whether a smoothed line is drawn over the faint raw one."""

    name: str
    points: Sequence[Point]
    smooth_over: int = 0  # points; 0: as measured
    axis_note: str = ""
    markers: bool = False


@dataclass(frozen=True)
class Mark:
    """Something that happened at `x`: a spike, a resume. `level` is good, note, warning or bad."""

    x: float
    label: str
    level: str = "note"


@dataclass(frozen=True)
class Interval:
    """One row of a forest plot: an estimate with its interval, in data units."""

    label: str
    value: float
    low: float
    high: float
    note: str = ""
    colour: int = 1  # which --series-N


@dataclass(frozen=True)
class Bar:
    """One bar: `parts` are (value, class) from the left; `note` stands right of it."""

    label: str
    parts: Sequence[tuple[float, str]]
    note: str = ""
    tick: float | None = None  # a small upright line, for a target or a plan
    span: tuple[float, float] | None = None  # a whisker, for the interval of a plan


@dataclass
class Canvas:
    """Collects the elements of one picture."""

    width: float
    height: float
    title: str
    description: str
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def text(self, x: float, y: float, words: str, kind: str, anchor: str = "start", extra: str = "") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'
        )

    def rect(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" class="{kind}"/>'
        )

    def path(self, points: Sequence[Point], kind: str, dash: str = "") -> None:
        if points:
            steps = " ".join(f"{'M' if index == 0 else 'L'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
            dashes = f' stroke-dasharray="{dash}"' if dash else ""
            self.parts.append(f'<path d="{steps}" class="{kind}"{dashes}/>')

    def svg(self) -> str:
        # named by what it says, so that the same data gives the same page
        name = f"chart-{sha256(f'{self.title}/{self.description}'.encode()).hexdigest()[:10]}"
        return (
            f'<svg class="chart" viewBox="0 0 {self.width:.0f} {self.height:.0f}" role="img" '
            f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{escape(self.title)}</title>'
            f'<desc id="{name}-d">{escape(self.description)}</desc>{"".join(self.parts)}</svg>'
        )


# ---------------------------------------------------------------- lines


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_title: str,
    y_title: str,
    log_y: bool = False,
    marks: Sequence[Mark] = (),
    level_line: tuple[float, str] | None = None,
    height: float = 250,
) -> str:
    """Lines over a common x. Points that are not finite are left out; with `log_y`, so are those not above 0.

    `level_line` is a horizontal line with a label, such as a target.
    """
    drawn = [(one, finite(one.points)) for one in series]
    if log_y:
        drawn = [(one, [point for point in points if point[1] > 0]) for one, points in drawn]
    drawn = [(one, points) for one, points in drawn if points]
    canvas = Canvas(WIDTH, height, title, _describe_lines(drawn, x_title, y_title, marks))
    if not drawn:
        canvas.text(WIDTH / 2, height / 2, "no finite values were logged", "tick", "middle")
        return canvas.svg()
    has_top_line = len(drawn) > 1 or bool(marks) or level_line is not None
    right, top, bottom = WIDTH - 14.0, 34.0 if has_top_line else 10.0, height - 40.0
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points] + ([level_line[0]] if level_line else [])
    low, high = (min(ys) / 1.05, max(ys) * 1.05) if log_y else padded(min(ys), max(ys))
    y_scale = Scale(low, high, bottom, top, is_log=log_y)
    y_ticks = _y_ticks(y_scale)
    left = 34.0 + 6.4 * max(len(short_number(tick)) for tick in y_ticks)
    x_scale = Scale(min(xs), max(xs), left, right)
    _axes(canvas, x_scale, y_scale, y_ticks, x_title, y_title)
    if level_line:
        canvas.line(left, y_scale(level_line[0]), right, y_scale(level_line[0]), "level")
        canvas.text(right, y_scale(level_line[0]) - 4, level_line[1], "tick", "end")
    for number, (one, points) in enumerate(drawn, start=1):
        raw = [(x_scale(x), y_scale(y)) for x, y in thin(points)]
        if one.smooth_over > 1 and len(points) > 3:
            canvas.path(raw, f"raw s{number}")
            lines = thin(smooth(points, one.smooth_over), 200)
            canvas.path([(x_scale(x), y_scale(y)) for x, y in lines], f"line s{number}", DASHES[(number - 1) % 6])
        else:
            canvas.path(raw, f"line s{number}", DASHES[(number - 1) % 6])
        if one.markers or len(points) == 1:
            for x, y in raw:
                canvas.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="dot s{number}"/>')
    for mark in marks:
        if x_scale.low <= mark.x <= x_scale.high:
            x = x_scale(mark.x)
            canvas.line(x, top, x, bottom, f"mark {mark.level}")
            symbol = LEVELS.get(mark.level, "◆")
            canvas.text(x, top - 3, symbol, f"symbol {mark.level}", "middle")
            canvas.parts[-1] = canvas.parts[-1].replace("</text>", f"<title>{escape(mark.label)}</title></text>")
    _legend(canvas, [one.name for one, _ in drawn], left)
    return canvas.svg()


def _y_ticks(scale: Scale) -> list[float]:
    ticks = log_ticks(scale.low, scale.high) if scale.is_log else nice_ticks(scale.low, scale.high)
    if scale.is_log and len(ticks) < 3:  # less than a decade: round linear numbers say more
        ticks = nice_ticks(scale.low, scale.high, 4)
    return ticks


def _axes(canvas: Canvas, x_scale: Scale, y_scale: Scale, y_ticks: Sequence[float], x_title: str, y_title: str) -> None:
    left, right, top, bottom = x_scale.start, x_scale.end, y_scale.end, y_scale.start
    for tick in y_ticks:
        canvas.line(left, y_scale(tick), right, y_scale(tick), "grid")
        canvas.text(left - 6, y_scale(tick) + 4, short_number(tick), "tick", "end")
    for tick in nice_ticks(x_scale.low, x_scale.high):
        canvas.line(x_scale(tick), bottom, x_scale(tick), bottom + 4, "axis")
        canvas.text(x_scale(tick), bottom + 17, short_number(tick), "tick", "middle")
    canvas.line(left, bottom, right, bottom, "axis")
    canvas.text((left + right) / 2, bottom + 34, x_title, "axis-title", "middle")
    middle = (top + bottom) / 2
    canvas.text(13, middle, y_title, "axis-title", "middle", f' transform="rotate(-90 13 {middle:.1f})"')


def _legend(canvas: Canvas, names: Sequence[str], left: float) -> None:
    """Names with their line, above the chart, spread by their length."""
    if len(names) < 2:
        return
    x = left
    for number, name in enumerate(names, start=1):
        dash = DASHES[(number - 1) % 6]
        canvas.path([(x, 12), (x + 24, 12)], f"line s{number}", dash)
        canvas.text(x + 29, 16, name, "legend")
        x += 29 + 6.6 * len(name) + 16


def _describe_lines(
    drawn: Sequence[tuple[Series, Sequence[Point]]], x_title: str, y_title: str, marks: Sequence[Mark]
) -> str:
    sentences = [
        f"{one.name}: {y_title} goes from {short_number(points[0][1])} at {x_title} {short_number(points[0][0])} "
        f"to {short_number(points[-1][1])} at {short_number(points[-1][0])}, "
        f"lowest {short_number(min(points, key=_y)[1])}, highest {short_number(max(points, key=_y)[1])}."
        for one, points in drawn
    ]
    sentences += [f"Mark at {short_number(mark.x)}: {mark.label}." for mark in marks[:12]]
    return " ".join(sentences) or "No data."


def _y(point: Point) -> float:
    return point[1]


# ---------------------------------------------------------------- intervals


def forest_plot(
    rows: Sequence[Interval],
    *,
    title: str,
    x_title: str,
    domain: tuple[float, float] | None = None,
    level_line: tuple[float, str] | None = None,
    as_percent: bool = False,
    log_x: bool = False,
) -> str:
    """Estimates with their intervals, one a row, on one axis; `level_line` is a reference such as 0 or a bound."""
    written = (lambda value: f"{100 * value:.0f} %") if as_percent else short_number
    said = [
        f"{row.label}: {written(row.value)} (95 % interval {written(row.low)} to {written(row.high)}) {row.note}"
        for row in rows
    ]
    row_height = 26.0
    label_width = min(190.0, 14.0 + 7.4 * max((len(row.label) for row in rows), default=4))
    note_width = min(170.0, 10.0 + 6.6 * max((len(row.note) for row in rows), default=0))
    top = 22.0 if level_line else 8.0
    height = top + row_height * max(len(rows), 1) + 42
    canvas = Canvas(WIDTH, height, title, "; ".join(said) or "No data.")
    left, right, bottom = label_width, WIDTH - 16.0 - note_width, height - 40.0
    values = [value for row in rows for value in (row.low, row.value, row.high)]
    values += [level_line[0]] if level_line else []
    low, high = domain or padded(min(values, default=0.0), max(values, default=1.0))
    scale = Scale(low, high, left, right, is_log=log_x)
    for tick in log_ticks(low, high) if log_x else nice_ticks(low, high, 5):
        canvas.line(scale(tick), top, scale(tick), bottom, "grid")
        canvas.text(scale(tick), bottom + 17, written(tick), "tick", "middle")
    canvas.line(left, bottom, right, bottom, "axis")
    canvas.text((left + right) / 2, bottom + 34, x_title, "axis-title", "middle")
    if level_line:
        canvas.line(scale(level_line[0]), top - 4, scale(level_line[0]), bottom, "level")
        canvas.text(scale(level_line[0]), top - 8, level_line[1], "tick", "middle")
    for index, row in enumerate(rows):
        y = top + row_height * (index + 0.5)
        canvas.text(0, y + 4, row.label, "label")
        canvas.line(scale(row.low), y, scale(row.high), y, f"whisker s{row.colour}")
        for end in (row.low, row.high):
            canvas.line(scale(end), y - 4, scale(end), y + 4, f"whisker s{row.colour}")
        canvas.rect(scale(row.value) - 4, y - 4, 8, 8, f"dot s{row.colour}")
        canvas.text(right + 12, y + 4, row.note, "value")
    return canvas.svg()


# ---------------------------------------------------------------- bars


def bar_chart(rows: Sequence[Bar], *, title: str, x_title: str, row_height: float = 24, log_x: bool = False) -> str:
    """Horizontal bars of stacked parts, with an optional tick (a target) and whisker (an interval) on each.

    With `log_x` the axis starts at the power of ten below the smallest value, and bars should have one part only.
    """
    ends = [sum(value for value, _ in row.parts) for row in rows]
    ends += [row.tick for row in rows if row.tick is not None]
    ends += [row.span[1] for row in rows if row.span]
    highest = max([*ends, 0.0]) or 1.0
    positive = [value for value in ends + [row.span[0] for row in rows if row.span] if value > 0]
    lowest = 10.0 ** _floor_log10(min(positive, default=1.0)) if log_x else 0.0
    label_width = min(170.0, 14.0 + 7.4 * max((len(row.label) for row in rows), default=4))
    note_width = min(190.0, 10.0 + 6.6 * max((len(row.note) for row in rows), default=0))
    height = row_height * max(len(rows), 1) + 44
    said = "; ".join(f"{row.label}: {row.note or short_number(end)}" for row, end in zip(rows, ends, strict=False))
    canvas = Canvas(WIDTH, height, title, said or "No data.")
    left, right, bottom = label_width, WIDTH - 12.0 - note_width, height - 40.0
    scale = Scale(lowest, max(highest, lowest * 10), left, right, is_log=log_x)
    for tick in log_ticks(scale.low, scale.high) if log_x else nice_ticks(0, highest, 4):
        canvas.line(scale(tick), 0, scale(tick), bottom, "grid")
        canvas.text(scale(tick), bottom + 17, short_number(tick), "tick", "middle")
    canvas.line(left, 0, left, bottom, "axis")
    canvas.text((left + right) / 2, bottom + 34, x_title, "axis-title", "middle")
    for index, row in enumerate(rows):
        y, start = row_height * index + 4, scale.low
        canvas.text(0, y + row_height / 2, row.label, "label")
        for value, kind in row.parts:
            end = max(start + value if not log_x else value, scale.low)
            canvas.rect(scale(start), y, scale(end) - scale(start), row_height - 8, f"bar {kind}")
            start = end
        middle = y + (row_height - 8) / 2
        if row.span:
            low, high = (max(value, scale.low) for value in row.span)
            canvas.line(scale(low), middle, scale(high), middle, "span")
            for end in (low, high):
                canvas.line(scale(end), middle - 4, scale(end), middle + 4, "span")
        if row.tick is not None:
            canvas.line(
                scale(max(row.tick, scale.low)), y - 2, scale(max(row.tick, scale.low)), y + row_height - 6, "target"
            )
        canvas.text(right + 10, y + row_height / 2, row.note, "value")
    return canvas.svg()


def _floor_log10(value: float) -> int:
    return math.floor(math.log10(value))
