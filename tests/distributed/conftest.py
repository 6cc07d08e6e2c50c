"""Real processes for tests: `two` and `four` run a function in so many of them (processes.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .processes import Processes


def _some(size: int) -> Iterator[Processes]:
    processes = Processes(size)
    yield processes
    processes.stop()


@pytest.fixture(scope="session")
def two() -> Iterator[Processes]:
    yield from _some(2)


@pytest.fixture(scope="session")
def four() -> Iterator[Processes]:
    yield from _some(4)
