"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]

# How fast this machine is says nothing about what is tested. In CI the same examples every time: whether a change lands
# must not be a matter of luck; everywhere else new ones, which is how mistakes are found.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data files that lie beside the checkout (or in it) on the project's machines, and nowhere else."""
    folders = [parent / "shared" / "data" for parent in (REPOSITORY.parent, REPOSITORY)]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        pytest.skip(f"real data files are not on this machine ({folders[0]})")
    return found


@pytest.fixture(scope="session")
def same_as_golden() -> Callable[[str, str], None]:
    """Compares a text with tests/golden/NAME.txt; with UPDATE_GOLDEN=1 it writes the file anew."""

    def compare(name: str, text: str) -> None:
        path = REPOSITORY / "tests" / "golden" / f"{name}.txt"
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text.rstrip() + "\n", encoding="utf-8")
        assert text.rstrip() + "\n" == path.read_text(encoding="utf-8")

    return compare
