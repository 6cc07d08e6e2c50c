"""What a run says while it works: live bars on a terminal, plain lines elsewhere, always on stderr.

Results go to stdout and belong to the verbs; everything here is narration and may be thrown away.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

PLAIN_LINE_EVERY_SECONDS = 10.0


class Console:
    """Narration for one run. `quiet` keeps warnings only; `log`, where set, gets every line with its time (UTC)."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.quiet = quiet
        self.is_terminal = self.stream.isatty()
        self.log: TextIO | None = None

    def info(self, text: str) -> None:
        if not self.quiet:
            self._say(text)
        self.log_only(text)

    def warn(self, text: str) -> None:
        self._say(f"warning: {text}")
        self.log_only(f"warning: {text}")

    def tell(self, text: str) -> None:
        """How a run ended, where it did not end well: said also when quiet."""
        self._say(text)
        self.log_only(text)

    def log_only(self, text: str) -> None:
        """A line for the log that would be too much on the screen: a traceback, a detail."""
        if self.log is not None:
            print(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}", file=self.log, flush=True)

    def _say(self, text: str) -> None:
        # a reader that went away (`groundup run x.yaml 2>&1 | head`) must not end a run that trains
        with contextlib.suppress(BrokenPipeError):
            print(text, file=self.stream, flush=True)

    @contextmanager
    def progress(
        self, what: str, total: float, unit: str = "", *, is_even: bool = True
    ) -> Iterator[Callable[..., None]]:
        """Yields `update(done, note="")`: a bar on a terminal, else a line at most every ten seconds.

        The time left is judged by the speed since the first update, so that a stage which goes on at step 500 is not
        taken for a fast one; where units differ in size (`is_even=False`: sources, steps of a pipeline) none is given.
        """
        if self.quiet:
            yield _nothing
        elif self.is_terminal:
            yield from _bar(self.stream, what, total, is_even)
        else:
            yield from _lines(self._say, what, total, unit, is_even)


def _nothing(done: float, note: str = "") -> None:
    """A progress that nobody sees."""


def _bar(stream: TextIO, what: str, total: float, is_even: bool) -> Iterator[Callable[..., None]]:
    from rich.console import Console as RichConsole
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns: list[ProgressColumn] = [
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        *([TextColumn("left"), TimeRemainingColumn()] if is_even else []),
        TextColumn("{task.fields[note]}"),
    ]
    with Progress(*columns, console=RichConsole(file=stream), transient=True) as bars:
        task = bars.add_task(escape(what), total=total, note="")
        is_first = True

        def update(done: float, note: str = "") -> None:
            nonlocal is_first
            if is_first:
                bars.reset(task, completed=int(done))  # forgets the speed of getting here
                is_first = False
            bars.update(task, completed=done, note=escape(note))

        yield update


def _lines(
    say: Callable[[str], None], what: str, total: float, unit: str, is_even: bool
) -> Iterator[Callable[..., None]]:
    last = time.monotonic()
    first: tuple[float, float] | None = None  # when the first update came, and how much was done then

    def update(done: float, note: str = "") -> None:
        nonlocal last, first
        now = time.monotonic()
        first = first or (now, done)
        if now - last < PLAIN_LINE_EVERY_SECONDS:
            return
        last = now
        parts = [_amount(done, total, unit), note]
        if is_even and first[1] < done < total:
            left = (now - first[0]) / (done - first[1]) * (total - done)
            parts.append(f"about {rough_duration(left)} left")
        say(f"  {what}: {', '.join(part for part in parts if part)}")

    yield update


def _amount(done: float, total: float, unit: str) -> str:
    """`120 of 600 steps`, `2 min 00 s of 3 min 00 s`, `1.2 MB of 3.0 MB`."""
    if unit == "s":
        return f"{duration(done)} of {duration(total)}"
    if unit == "bytes":
        return f"{byte_text(done)} of {byte_text(total)}"
    return f"{done:,.0f} of {total:,.0f} {unit}".rstrip()


# ---------------------------------------------------------------- words and tables for what verbs print


def duration(seconds: float) -> str:
    """`42 s`, `3 min 12 s`, `5 h 02 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rough_duration(seconds: float) -> str:
    """For what is only estimated: `8 s`, `45 s`, `12 min`, `3 h 10 min`."""
    if seconds < 10:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 117.5:
        return f"{round(seconds / 5) * 5} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    minutes = round(minutes / 5) * 5
    return f"{minutes // 60} h {minutes % 60:02d} min"


def byte_text(count: float | None) -> str:
    """`740 kB`, `12 MB`, `3.4 GB` (powers of 1000); an empty text for None."""
    if count is None:
        return ""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{count:,.0f} B"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns with two blanks between them; the columns named in `right` are aligned to the right."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )
