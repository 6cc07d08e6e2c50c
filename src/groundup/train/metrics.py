"""metrics.jsonl: one flushed line per logged step, never two for one step."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

from groundup.artifacts import disk_error, write_atomic


class MetricsFile:
    """Append-only; on opening it is cut back to `step`, the step that training goes on from."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._file: TextIO | None = None
        self.cut(step)

    def cut(self, step: int) -> list[dict[str, Any]]:
        """Forget the lines after `step`; returns the others."""
        self.close()
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        self.last: dict[str, Any] = rows[-1] if rows else {}
        write_atomic(self.path, "".join(_line(row) for row in rows))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        return rows

    def write(self, row: dict[str, Any]) -> None:
        assert self._file is not None
        self.last = json.loads(_line(row))  # as a later attempt will read it
        try:
            self._file.write(_line(row))
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self.path) from error

    def sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; half a line at the end (a kill) is left out."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps({key: _rounded(value) for key, value in row.items()}) + "\n"


def _rounded(value: Any) -> Any:
    """Seven significant digits are what fp32 has; JSON has no infinity."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None
