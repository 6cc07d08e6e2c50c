"""A task is done again if, and only if, code that its function can reach has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from groundup.corpus import reach


def reached(function: str) -> set[str]:
    return {name.removeprefix("groundup.corpus.") for name in reach.modules_reached(f"groundup.corpus.{function}")}


def test_each_phase_reaches_what_decides_its_result_and_not_what_decides_others() -> None:
    extract = reached("phases.extract:extract")
    assert {"extract", "texts", "quality.language", "quality.signals", "sources.wikitext", "words"} <= extract
    assert not extract & {"quality.rules", "quality.toxicity", "dedup.near", "pii.search", "exams.index"}
    judged = reached("phases.documents:filter")
    assert "quality.rules" in judged and not judged & {"extract", "quality.language", "dedup.exact"}
    finish = reached("phases.write:finish")
    assert {"pii.search", "pii.national_checks", "exams.rephrased", "dedup.substring"} <= finish
    assert not finish & {"extract", "quality.rules", "dedup.semantic"}
    assert "quality.toxicity_words" in reached("phases.models:score")
    assert {"dedup.near", "dedup.near_groups"} <= reached("phases.match:edges")


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A room of a few modules, read in place of the real one."""
    caches = (reach.modules_reached, reach._file_of, reach._names, reach._used_by)
    monkeypatch.setattr(reach, "_ROOT", tmp_path)
    for cached in caches:
        cached.cache_clear()
    yield tmp_path
    for cached in caches:
        cached.cache_clear()


def test_names_are_followed_through_imports_of_every_form(room: Path) -> None:
    (room / "inner").mkdir()
    (room / "inner" / "__init__.py").write_text("from groundup.corpus.inner.deep import told_again\n")
    (room / "inner" / "deep.py").write_text(
        "import groundup.corpus.whole\n\ndef told_again():\n    return LIMIT\n\nLIMIT = 3\n"
    )
    (room / "whole.py").write_text("from groundup.corpus.rest import ANY\n\ndef used():\n    return ANY\n")
    (room / "rest.py").write_text("ANY = 1\n")
    (room / "idle.py").write_text("NEVER = 1\n")
    (room / "main.py").write_text(
        "from groundup.corpus import whole\n"
        "from groundup.corpus.idle import NEVER\n"
        "from groundup.corpus.inner import told_again\n"
        "TABLE = {}\n"
        "TABLE.update(a=told_again)\n"
        "def by_table():\n    return TABLE['a']()\n"
        "def by_module():\n    return whole.used()\n"
        "def later():\n    from groundup.corpus.inner.deep import LIMIT\n    return LIMIT\n"
        "def apart():\n    return NEVER\n"
        "class Thing:\n    def method(self):\n        return by_module()\n"
        "def by_class():\n    return Thing().method()\n"
    )
    assert reached("main:by_table") == {"main", "inner", "inner.deep"}
    assert reached("main:by_module") == reached("main:by_class") == {"main", "whole", "rest"}
    assert reached("main:later") == {"main", "inner.deep"}
    assert reached("main:apart") == {"main", "idle"}


def test_a_function_from_elsewhere_is_its_own_module() -> None:
    assert reach.modules_reached("somewhere.else:function") == ("somewhere.else",)
