"""What a person is told when something is wrong: what, where, and what would work.

`UserError` is for mistakes that the person at the keyboard can mend; it is printed without a traceback. Programming
mistakes stay ordinary exceptions. `Stopped` is not a mistake at all: work was saved and the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3  # the gate said no, or a budget would be passed
EXIT_STOPPED = 75  # EX_TEMPFAIL: saved; run the same command to go on
EXIT_INTERRUPTED = 130  # Ctrl-C: saved


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `where` is `file:line:col`, `file:row`, or a path; `fix` is what would work."""

    what: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.fix}" if self.fix else text


class UserError(Exception):
    """One or more problems that the person can mend, all told at once."""

    def __init__(
        self, what: str | Sequence[Problem], *, where: str = "", fix: str = "", exit_code: int = EXIT_USAGE
    ) -> None:
        self.problems = [Problem(what, where, fix)] if isinstance(what, str) else list(what)
        self.exit_code = exit_code
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Stopped(BaseException):
    """The run was asked to stop (SIGTERM, Ctrl-C, a limit) and everything worth keeping is on disk.

    As KeyboardInterrupt no Exception: whatever is under way when the signal comes, an extractor of which any failure is
    a document's, a library that tries again, must not take it for a failure of its own.
    """

    def __init__(self, why: str, exit_code: int = EXIT_STOPPED) -> None:
        self.exit_code = exit_code
        super().__init__(why)
