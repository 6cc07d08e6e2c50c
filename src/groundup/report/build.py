"""report.html: one file that opens from disk, with no request to the outside and nothing that script is needed for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import groundup
from groundup.artifacts import write_atomic
from groundup.report import scales
from groundup.report.data import report_data
from groundup.report.view import view

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 1_000_000


def build_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, finished or not, and return its path.

    Raises UserError where the run folder is not there.
    """
    target = Path(run_folder) / "report.html"
    write_atomic(target, render(report_data(Path(run_folder))))
    return target


def render(data: Mapping[str, Any]) -> str:
    """The page of `report_data`'s dict. Every text of the run is escaped; only our own charts go in as they are."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "integer": scales.integer,
        "duration": scales.duration,
        "size": scales.size,
        "short": scales.short_number,
        "words": lambda name: str(name).replace("_", " "),
    }
    template = environment.get_template("report.html.j2")
    return template.render(
        **view(data),
        svg=Markup,  # only ever given what figures.py and lineage.py made, which escape every text
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        version=groundup.__version__,
        made_at=_now(),
    )


def _now() -> str:
    """UTC; SOURCE_DATE_EPOCH (reproducible-builds.org) fixes it."""
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
