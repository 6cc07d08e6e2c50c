"""Files of rows as people have them: JSON lines, a JSON list, parquet, also gzipped. A row knows its place."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.errors import Problem, UserError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
UNREADABLE = "unreadable line"
NOT_AN_OBJECT = "row is not an object"


@dataclass(frozen=True)
class Row:
    """One row. `where` is `file:line` for JSON lines and `file:row` (from 1) elsewhere."""

    values: dict[str, Any]
    where: str


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be used. `reason` is what the counts are grouped by."""

    reason: str
    problem: Problem


def read_rows(path: Path) -> tuple[list[Row], list[BadRow]]:
    """All rows of a file, a folder or a glob, in a fixed order, and the rows that could not be read."""
    rows: list[Row] = []
    bad: list[BadRow] = []
    for file in row_files(path):
        for row in _read_file(file):
            if isinstance(row, Row):
                rows.append(row)
            else:
                bad.append(row)
    if not rows and not bad:
        raise UserError("there is not one row", where=str(path), fix="give a file with at least one row")
    return rows, bad


def row_files(path: Path) -> list[Path]:
    """The files that a path means; raises UserError where there is none."""
    if path.is_file():
        if not _kind(path):
            raise UserError(
                f"cannot read rows from a {''.join(path.suffixes) or 'nameless'} file",
                where=str(path),
                fix=f"give {', '.join(SUFFIXES)}, also with .gz",
            )
        return [path]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file))
    elif any(character in path.name for character in "*?["):
        found = sorted(file for file in path.parent.glob(path.name) if file.is_file() and _kind(file))
    else:
        near = _near_names(path)
        raise UserError(
            "there is no such file or folder",
            where=str(path),
            fix=f"did you mean {near}?" if near else "give a path that exists, relative to where you run groundup",
        )
    if not found:
        raise UserError("no file of rows in here", where=str(path), fix=f"rows are read from {', '.join(SUFFIXES)}")
    return found


def _near_names(path: Path) -> str:
    from difflib import get_close_matches

    if not path.parent.is_dir():
        return ""
    near = get_close_matches(path.name, [file.name for file in path.parent.iterdir()], n=1)
    return str(path.parent / near[0]) if near else ""


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def _read_file(path: Path) -> Iterator[Row | BadRow]:
    if _kind(path) == ".parquet":
        yield from _parquet_rows(path)
        return
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.name.lower().endswith(".gz") else data
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read this file: {error}", where=str(path), fix="copy or download it again") from error
    if _kind(path) == ".json" and data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _json_list_rows(path, data)
    else:
        yield from _json_line_rows(path, data)


def _json_line_rows(path: Path, data: bytes) -> Iterator[Row | BadRow]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except UnicodeDecodeError as error:
            yield BadRow(UNREADABLE, Problem(f"not UTF-8 (byte {error.start})", where, "save the file as UTF-8"))
            continue
        except json.JSONDecodeError as error:
            fix = "each line must be one whole JSON object"
            yield BadRow(UNREADABLE, Problem(f"not JSON: {error.msg} (column {error.colno})", where, fix))
            continue
        yield _row(value, where)


def _json_list_rows(path: Path, data: bytes) -> Iterator[Row | BadRow]:
    try:
        values = json.loads(data)
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start})", where=str(path), fix="save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"not JSON: {error.msg}", where=f"{path}:{error.lineno}:{error.colno}", fix="mend the file at this place"
        ) from error
    for number, value in enumerate(values, start=1):
        yield _row(value, f"{path}:{number}")


def _parquet_rows(path: Path) -> Iterator[Row | BadRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield _row(values, f"{path}:{number}")
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"not a readable parquet file: {error}", where=str(path), fix="write it again") from error


def _row(value: Any, where: str) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(value, where)
    fix = 'each row must be an object such as {"messages": [...]}'
    return BadRow(NOT_AN_OBJECT, Problem(f"expected an object, found {type_name(value)}", where, fix))


def type_name(value: Any) -> str:
    """What JSON calls the type of a value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list | tuple) else "an object" if isinstance(value, dict) else "another type"
