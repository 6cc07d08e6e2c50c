"""What a run says while it works: calm lines in a pipe, bars on a terminal, no time left that nobody can know."""

from __future__ import annotations

import io

import pytest

from groundup import console as room
from groundup.console import Console, rough_duration


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room.time, "monotonic", clock.monotonic)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_at_most_every_ten_seconds_and_tell_what_is_left(clock: Clock) -> None:
    said = io.StringIO()
    with Console(said).progress("base", 600, "steps") as update:
        for step in range(0, 601, 5):
            update(step, "loss 3.412")
            clock.pass_by(0.5)
    lines = said.getvalue().splitlines()
    assert lines[0] == "  base: 100 of 600 steps, loss 3.412, about 50 s left"
    assert lines[1:3] == [
        "  base: 200 of 600 steps, loss 3.412, about 40 s left",
        "  base: 300 of 600 steps, loss 3.412, about 30 s left",
    ]
    assert lines[-1] == "  base: 600 of 600 steps, loss 3.412"


def test_what_was_done_before_a_resume_is_not_counted_as_speed(clock: Clock) -> None:
    said = io.StringIO()
    with Console(said).progress("base", 600, "steps") as update:
        update(500)
        clock.pass_by(10)
        update(510)
    assert said.getvalue() == "  base: 510 of 600 steps, about 90 s left\n"


def test_no_time_left_is_told_where_the_units_differ_in_size(clock: Clock) -> None:
    said = io.StringIO()
    with Console(said).progress("sources", 6, "done", is_even=False) as update:
        update(0, "now web")
        clock.pass_by(30)
        update(3, "now docs")
    assert said.getvalue() == "  sources: 3 of 6 done, now docs\n"


@pytest.mark.parametrize(
    ("unit", "line"),
    [("s", "  x: 1 min 00 s of 3 min 00 s"), ("bytes", "  x: 60 B of 180 B"), ("", "  x: 60 of 180")],
)
def test_amounts_are_told_in_words_of_their_unit(clock: Clock, unit: str, line: str) -> None:
    said = io.StringIO()
    with Console(said).progress("x", 180, unit) as update:
        clock.pass_by(20)
        update(60)
    assert said.getvalue().rstrip() == line


def test_quiet_says_only_warnings_and_how_a_run_ended() -> None:
    said = io.StringIO()
    console = Console(said, quiet=True)
    console.info("one")
    console.warn("two")
    console.tell("three")
    with console.progress("four", 1) as update:
        update(1)
    assert said.getvalue() == "warning: two\nthree\n"


@pytest.mark.parametrize("is_even", [True, False])
def test_a_terminal_gets_a_bar_and_text_in_brackets_is_no_markup(is_even: bool) -> None:
    said = Terminal()
    with Console(said).progress("half [b]", 10, "steps", is_even=is_even) as update:
        update(5, "loss [red]")
    assert "half [b]" in said.getvalue() and "50%" in said.getvalue() and "loss [red]" in said.getvalue()
    assert (" left " in said.getvalue()) == is_even


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (8.4, "8 s"), (43, "45 s"), (119, "2 min"), (2657, "44 min"), (3590, "1 h 00 min"),
     (7560, "2 h 05 min"), (7150, "2 h 00 min")],
)  # fmt: skip
def test_an_estimate_is_told_no_more_exactly_than_it_is_known(seconds: float, text: str) -> None:
    assert rough_duration(seconds) == text
