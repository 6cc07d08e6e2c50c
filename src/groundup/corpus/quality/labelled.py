"""Labelled rows that a toxicity model learns from, and what is wrong with them. Light: `groundup check` asks."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.errors import UserError

FEWEST = 10  # rows of a category with 1, and as many with 0
_EXAMPLE = '{"text": "...", "toxic": 1}'
_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}  # as spreadsheets write them


def labelled_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of .jsonl or .csv (also .gz): `text`, and 0 or 1 for each category; None where nobody judged it.

    UserError with the row and the field for what is none.
    """
    name = path.name.removesuffix(".gz")
    if not name.endswith((".csv", ".jsonl", ".ndjson")):
        raise UserError("labelled rows are read from .jsonl and .csv", where=str(path), fix="give one of these")
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            f"the labelled rows cannot be read: {error}", where=str(path), fix="give text in UTF-8"
        ) from error
    rows: list[dict[str, Any]] = []
    if name.endswith(".csv"):
        for row in csv.DictReader(io.StringIO(text)):
            labels = {key: _label(value) for key, value in row.items() if key not in (None, "text")}
            rows.append({"text": row["text"], **labels} if "text" in row else labels)
        return rows
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found = json.loads(line)
            except ValueError as error:
                raise UserError(f"row {number} is no JSON: {error}", where=str(path), fix=_EXAMPLE) from error
            if not isinstance(found, dict):
                raise UserError(f"row {number} is no JSON object", where=str(path), fix=_EXAMPLE)
            rows.append(found)
    return rows


def _label(value: str | list[str] | None) -> Any:
    if not isinstance(value, str) or not value.strip():
        return None
    return _LABELS.get(value.strip().lower(), value)


def categories_of(rows: Sequence[Mapping[str, Any]], where: str = "") -> tuple[str, ...]:
    """The categories of rows. UserError where one has no text, a label that is neither 0 nor 1, or a category lacks
    rows of both kinds. `where`: the file, for messages."""
    place = f"{where}: " if where else ""
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("text"), str):
            has = ", ".join(repr(str(name)) for name in row) or "nothing"
            what = f"a labelled row needs a `text`; this one has {has}"
            raise UserError(what, where=f"{place}row {number}", fix=f"name the fields so: {_EXAMPLE}")
        for name, label in row.items():
            if name != "text" and label is not None and label not in (0, 1):
                fix = "label with 0 or 1, or leave it out; only `text` and categories may be there"
                shown = repr(label[:60] if isinstance(label, str) else label)
                raise UserError(f"{name} is {shown}", where=f"{place}row {number}", fix=fix)
    names = sorted({name for row in rows for name in row if name != "text"})
    if not names:
        raise UserError("no row has a label", where=where, fix=_EXAMPLE)
    for name in names:
        labels = [row[name] for row in rows if row.get(name) is not None]
        if min(labels.count(0), labels.count(1)) < FEWEST:
            what = f"{name}: {labels.count(1)} rows are labelled 1 and {labels.count(0)} are labelled 0"
            raise UserError(what, where=where, fix="give at least ten of each, better some thousands")
    return tuple(names)
