"""The same command again: nothing that is done is done again; a changed setting runs what follows from it, no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import REFUSED, SMALL, STAGES, Demo, Home

pytestmark = pytest.mark.slow


def run_again(home: Home, *changes: str) -> set[str]:
    """The stages that ran."""
    before = home.artifacts()
    ended = home.groundup("demo", *SMALL, *changes)
    assert ended.exit_code in (0, REFUSED), ended.said
    after = home.artifacts()
    assert set(after) == set(STAGES)
    ran = {stage for stage in STAGES if f"] {stage}  " in ended.said}
    assert ran == {stage for stage in STAGES if before.get(stage) != after[stage]}
    return ran


def test_what_is_done_is_not_done_again(demo: Demo, tmp_path: Path) -> None:
    home = demo.copy(tmp_path)
    assert run_again(home) == set()
    again = home.groundup("demo", *SMALL)
    assert again.exit_code == demo.ended.exit_code, "the gate's word is kept"
    assert again.seconds < 0.2 * demo.ended.seconds  # 2 s against 60 to 120; a busy machine slows both
    assert run_again(home, "release.require.accuracy.at_least=0.01") == {"release"}
    assert run_again(home, "base.save_steps=7", "release.require.accuracy.at_least=0.01") == set(), "presentation only"
    changed = ("preferred.beta=0.3", "release.require.accuracy.at_least=0.01")
    assert run_again(home, *changed) == {"preferred", "exam", "release"}
    config = {f"{row['stage']}.{row['key']}": row for row in Demo(home, demo.ended).report()["config"]["values"]}
    assert config["preferred.beta"]["value"] == 0.3
    assert "command line" in config["preferred.beta"]["origin"]
