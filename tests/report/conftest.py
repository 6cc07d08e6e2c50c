"""A synthetic run folder, and the page made of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load_synthetic() -> ModuleType:
    """`synthetic.py` beside this file; tests have no package to import it from."""
    path = Path(__file__).with_name("synthetic.py")
    spec = importlib.util.spec_from_file_location("synthetic_run", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    if not hasattr(module, "write_run"):
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    return load_synthetic()


@pytest.fixture(scope="session")
def finished_run(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="session")
def finished_page(finished_run: Path) -> str:
    from groundup.report.build import build_report

    return build_report(finished_run).read_text(encoding="utf-8")
