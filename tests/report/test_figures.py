"""Charts put data where the axes say it is."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from groundup.report.figures import Bar, Interval, Mark, Series, bar_chart, forest_plot, line_chart
from groundup.report.lineage import layers_of, lineage_svg, without_shortcuts
from groundup.report.scales import (
    Scale,
    duration,
    log_ticks,
    nice_ticks,
    p_value,
    percent,
    short_number,
    size,
    smooth,
    thin,
)


def numbers(path: str) -> list[tuple[float, float]]:
    found = [float(text) for text in re.findall(r"-?[\d.]+", path)]
    return list(zip(found[::2], found[1::2], strict=True))


def paths(svg: str, kind: str) -> list[list[tuple[float, float]]]:
    root = ElementTree.fromstring(svg)
    return [numbers(node.get("d", "")) for node in root.iter("path") if kind in node.get("class", "").split()]


def ticks(svg: str, *, anchor: str) -> dict[str, tuple[float, float]]:
    root = ElementTree.fromstring(svg)
    return {
        node.text or "": (float(node.get("x", 0)), float(node.get("y", 0)))
        for node in root.iter("text")
        if node.get("class") == "tick" and node.get("text-anchor") == anchor
    }


# ---------------------------------------------------------------- scales


def test_a_linear_scale_maps_ends_and_middle() -> None:
    scale = Scale(10, 20, 100, 300)
    assert [scale(10), scale(15), scale(20)] == [100, 200, 300]


def test_a_log_scale_gives_equal_steps_to_equal_factors() -> None:
    scale = Scale(1, 100, 0, 200, is_log=True)
    assert [scale(1), scale(10), scale(100)] == pytest.approx([0, 100, 200])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.13, 0.87, [0.2, 0.4, 0.6, 0.8]), (1, 600, [200, 400, 600]), (-3, 3, [-2, 0, 2])],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_log_ticks_are_one_two_five_or_powers_alone() -> None:
    assert log_ticks(0.9, 11) == pytest.approx([1, 2, 5, 10])
    assert log_ticks(0.1, 1e5) == pytest.approx([0.1, 1, 10, 100, 1e3, 1e4, 1e5])


def test_smoothing_keeps_a_straight_line_straight() -> None:
    line = [(float(x), 3.0 * x + 1) for x in range(50)]
    assert [y for _, y in smooth(line, 9)] == pytest.approx([y for _, y in line])


def test_smoothing_divides_noise() -> None:
    zigzag = [(float(x), float((-1) ** x)) for x in range(101)]
    assert max(abs(y) for _, y in smooth(zigzag, 21)[10:-10]) < 0.06


def test_thinning_keeps_ends_and_extremes() -> None:
    points = [(float(x), math.sin(x / 50)) for x in range(10_000)]
    points[4321] = (4321.0, 9.0)
    kept = thin(points, 200)
    assert len(kept) <= 200
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert (4321.0, 9.0) in kept
    assert kept == sorted(kept)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234, "1,234"), (12_345, "12.3k"), (5_243_136, "5.24M"), (0.25, "0.25"), (0.00042, "4.2e-4"),
     (2.5e12, "2.5T"), (None, "–"), (float("nan"), "–"), (-0.5, "-0.5"), (600, "600")],
)  # fmt: skip
def test_numbers_are_written_with_three_figures(value: float | None, text: str) -> None:
    assert short_number(value) == text


def test_words_for_time_size_share_and_p() -> None:
    assert [duration(0.42), duration(12.34), duration(200), duration(7500)] == [
        "0.42 s", "12.3 s", "3 min 20 s", "2 h 05 min"]  # fmt: skip
    assert [size(999), size(12_300_000)] == ["999 B", "12.3 MB"]
    assert percent(0.4251) == "42.5 %"
    assert [p_value(3e-14), p_value(0.0312)] == ["p < 0.0001", "p = 0.031"]


# ---------------------------------------------------------------- charts


def test_a_line_passes_where_the_ticks_say() -> None:
    svg = line_chart([Series("loss", [(0, 0), (50, 10), (100, 5)])], title="t", x_title="step", y_title="loss (nats)")
    [line] = paths(svg, "line")
    y_ticks, x_ticks = ticks(svg, anchor="end"), ticks(svg, anchor="middle")
    assert line[1][0] == pytest.approx((x_ticks["40"][0] + x_ticks["60"][0]) / 2, abs=0.2)
    assert line[1][1] == pytest.approx(y_ticks["10"][1] - 4, abs=0.2)  # labels stand 4 below their line
    assert line[2][1] == pytest.approx(y_ticks["5"][1] - 4, abs=0.2)


def test_on_a_log_axis_a_decade_is_a_decade() -> None:
    svg = line_chart([Series("a", [(0, 1), (1, 10), (2, 100)])], title="t", x_title="x", y_title="y", log_y=True)
    [line] = paths(svg, "line")
    assert line[0][1] - line[1][1] == pytest.approx(line[1][1] - line[2][1], abs=0.2)


def test_values_that_are_no_numbers_are_left_out_and_said() -> None:
    points = [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)]
    [line] = paths(line_chart([Series("a", points)], title="t", x_title="x", y_title="y"), "line")
    assert len(line) == 2
    assert "no finite values" in line_chart([Series("a", [(0, float("nan"))])], title="t", x_title="x", y_title="y")


def test_a_constant_and_a_single_point_still_make_a_chart() -> None:
    for points in ([(1.0, 5.0)], [(0.0, 0.0), (1.0, 0.0)]):
        svg = line_chart([Series("a", points)], title="t", x_title="x", y_title="y")
        assert "nan" not in svg and ElementTree.fromstring(svg) is not None


def test_series_differ_by_more_than_colour() -> None:
    series = [Series(name, [(0, index), (1, index + 1)]) for index, name in enumerate("abc")]
    root = ElementTree.fromstring(line_chart(series, title="t", x_title="x", y_title="y"))
    lines = [node for node in root.iter("path") if "line" in (node.get("class") or "").split()]
    assert len({node.get("stroke-dasharray") for node in lines}) == 3


def test_marks_stand_at_their_step_and_say_why() -> None:
    svg = line_chart(
        [Series("loss", [(0, 1), (100, 2)])],
        title="t",
        x_title="x",
        y_title="y",
        marks=[Mark(50, "spike <1>", "warning")],
    )
    root = ElementTree.fromstring(svg)
    [mark] = [node for node in root.iter("line") if "mark" in (node.get("class") or "").split()]
    [line] = paths(svg, "line")
    assert float(mark.get("x1", 0)) == pytest.approx((line[0][0] + line[1][0]) / 2, abs=0.2)
    assert "spike <1>" in [node.text for node in root.iter("title")]


def test_the_description_tells_start_end_lowest_and_highest() -> None:
    svg = line_chart([Series("loss", [(0, 8), (10, 1), (20, 2)])], title="t", x_title="step", y_title="loss")
    description = next(ElementTree.fromstring(svg).iter("desc")).text or ""
    assert "loss goes from 8 at step 0 to 2 at 20, lowest 1, highest 8" in description


def test_a_forest_plot_draws_the_interval_around_its_value() -> None:
    svg = forest_plot([Interval("m", 0.5, 0.4, 0.7)], title="t", x_title="share", domain=(0, 1), as_percent=True)
    root = ElementTree.fromstring(svg)
    axis = ticks(svg, anchor="middle")
    left, right = axis["0 %"][0], axis["100 %"][0]
    whisker = next(node for node in root.iter("line") if "whisker" in (node.get("class") or ""))
    assert float(whisker.get("x1", 0)) == pytest.approx(left + 0.4 * (right - left), abs=0.2)
    assert float(whisker.get("x2", 0)) == pytest.approx(left + 0.7 * (right - left), abs=0.2)


def test_bars_are_as_long_as_their_values() -> None:
    svg = bar_chart([Bar("a", [(10, "kept"), (30, "lost")]), Bar("b", [(20, "kept")])], title="t", x_title="documents")
    widths = [float(node.get("width", 0)) for node in ElementTree.fromstring(svg).iter("rect")]
    assert widths[1] == pytest.approx(3 * widths[0], abs=0.3)
    assert widths[2] == pytest.approx(2 * widths[0], abs=0.3)


def test_empty_charts_do_not_break() -> None:
    for svg in (
        bar_chart([], title="t", x_title="x"),
        forest_plot([], title="t", x_title="x"),
        line_chart([], title="t", x_title="x", y_title="y"),
    ):
        assert ElementTree.fromstring(svg).tag.endswith("svg")


# ---------------------------------------------------------------- lineage


EDGES = [{"from": a, "to": b} for a, b in ["ab", "bc", "ac", "cd", "be"]]


def test_layers_follow_the_longest_path() -> None:
    assert layers_of(list("abcde"), EDGES) == [["a"], ["b"], ["c", "e"], ["d"]]


def test_edges_that_a_longer_path_implies_are_not_drawn() -> None:
    assert without_shortcuts(list("abcde"), EDGES) == [("a", "b"), ("b", "c"), ("b", "e"), ("c", "d")]


def test_a_circle_does_not_hang_the_picture() -> None:
    nodes = [{"name": name, "kind": "sft", "status": "done"} for name in "ab"]
    assert "<svg" in lineage_svg({"nodes": nodes, "edges": [{"from": "a", "to": "b"}, {"from": "b", "to": "a"}]})
