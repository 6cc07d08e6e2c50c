"""Rows out of JSON lines, JSON lists, CSV and parquet: streamed, at most one row (or one batch) in memory.

Each yields dictionaries, `BadRow` for what is no row, None for an empty line; what they raise where a file breaks is
one of `packed.UNPACK_ERRORS`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from groundup.corpus.sources.files import encoding_of

MAX_ROW_BYTES = 64_000_000  # a longer line is no row; what is left of it is passed over
BATCH_ROWS = 256
BATCH_BYTES = 16_000_000  # of parquet's rows at a time, as far as rows are smaller
_CHUNK = 1 << 16
_TOO_LONG = f"row longer than {MAX_ROW_BYTES // 1_000_000} MB"
Row = dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """What stands where a row was expected."""

    reason: str
    why: str
    start: str
    bytes: int


def json_lines(stream: Any) -> Iterator[Row | BadRow | None]:
    """One JSON object per line, in UTF-8, or in UTF-16 with a byte order mark (as PowerShell writes them)."""
    head = bytes(stream.peek(2)[:2])
    if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        lines = io.TextIOWrapper(stream, "utf-16", errors="replace")
        while wide := lines.readline(MAX_ROW_BYTES // 2):
            if len(wide) == MAX_ROW_BYTES // 2 and not wide.endswith("\n"):
                size = 2 * len(wide)
                while (rest := lines.readline(MAX_ROW_BYTES // 2)) and not rest.endswith("\n"):
                    size += 2 * len(rest)
                yield BadRow(_TOO_LONG, "passed over", wide[:200], size + 2 * len(rest))
            else:
                yield _json_row(wide.encode("utf-8", "surrogatepass"))
        return
    yield from json_lines_in_utf8(stream)


def json_lines_in_utf8(stream: Any) -> Iterator[Row | BadRow | None]:
    """A line is read when it is asked for, and no further."""
    while line := stream.readline(MAX_ROW_BYTES):
        if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
            size = len(line)
            while rest := stream.readline(MAX_ROW_BYTES):
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield BadRow(_TOO_LONG, "passed over", _start(line), size)
            continue
        row, line = _json_row(line.removeprefix(codecs.BOM_UTF8)), b""  # a long one is in memory once
        yield row


def _json_row(line: bytes) -> Row | BadRow | None:
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = f"{error.msg} at column {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        return BadRow("row is not JSON", why, _start(line), len(line))
    return row if isinstance(row, dict) else _no_object(row, len(line))


def _no_object(row: Any, size: int) -> BadRow:
    return BadRow("row is no JSON object", f"a JSON {type(row).__name__}", str(row)[:200], size)


def _start(line: bytes) -> str:
    return line[:200].decode("utf-8", errors="replace").strip()


def json_list(stream: Any) -> Iterator[Row | BadRow | None]:
    """The items of one JSON list, of any length. Behind a broken item nothing can be told apart: it ends there."""
    decoder = json.JSONDecoder()
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace")
    buffer = text.read(_CHUNK).lstrip()[1:]  # without the opening bracket
    while True:
        buffer = buffer.lstrip(" \t\r\n,")
        while not buffer and (more := text.read(_CHUNK)):
            buffer = more.lstrip(" \t\r\n,")
        if buffer.startswith("]"):
            return
        if not buffer:
            yield BadRow("JSON list without its end", "the file is cut off", "", 0)
            return
        chunk = _CHUNK
        while True:
            try:
                row, end = decoder.raw_decode(buffer)
                # A number or a word may go on in what is not read yet; objects end with their brace.
                if isinstance(row, dict) or end < len(buffer):
                    break
                why = "the file is cut off"
            except (ValueError, RecursionError) as error:
                why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            more = text.read(chunk) if len(buffer) <= MAX_ROW_BYTES else ""
            if not more:
                yield BadRow("row is not JSON", f"{why}; the list ends here", buffer[:200], len(buffer))
                return
            buffer += more
            chunk *= 2  # or a long row would be parsed anew for every piece of it
        yield row if isinstance(row, dict) else _no_object(row, end)
        buffer = buffer[end:]


def csv_rows(stream: Any, delimiter: str | None, columns: tuple[str, ...]) -> Iterator[Row | BadRow | None]:
    """The lines of a CSV file by its header's (or the given) column names; quoted fields may hold line ends."""
    csv.field_size_limit(MAX_ROW_BYTES)
    head = bytes(stream.peek(_CHUNK)[:_CHUNK])
    encoding = encoding_of(head)
    text = io.TextIOWrapper(stream, encoding, errors="replace", newline="")
    first = head.decode(encoding, "replace").partition("\n")[0]
    reader = csv.reader(_without_nul(text), delimiter=delimiter or _delimiter(first), strict=False)
    names: list[str] | None = list(columns) or None
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield BadRow("row is not CSV", str(error), "", 0)
            continue
        if fields is None:
            return
        if names is None:
            names = [name.strip() for name in fields]
        elif not fields:
            yield None
        elif len(fields) != len(names):
            what = f"{len(fields)} fields where the header has {len(names)}"
            yield BadRow("row has another number of fields than the header", what, str(fields)[:200], 0)
        else:
            yield dict(zip(names, fields, strict=True))


def _without_nul(lines: Any) -> Iterator[str]:
    for line in lines:
        yield line.replace("\0", "")


def _delimiter(line: str) -> str:
    """The most frequent of the usual ones in the first line, outside of quotes."""
    outside = "".join(line.split('"')[::2])
    return max(",\t;|", key=outside.count)


def parquet_rows(stream: Any, fields: tuple[str, ...]) -> Iterator[Row | BadRow | None]:
    """Rows of a parquet file, of which only the columns that hold one of `fields` are read.

    A damaged row group is one bad row; a file whose footer is damaged raises OSError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = stream if stream.seekable() else io.BytesIO(stream.read())
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowException, ValueError) as error:
        raise OSError(str(error)) from error
    wanted = {field.split(".")[0] for field in fields}
    columns = [name for name in file.schema_arrow.names if name in fields or name in wanted]
    for group in range(file.num_row_groups):
        try:
            for batch in file.iter_batches(batch_rows(file, group, BATCH_ROWS), row_groups=[group], columns=columns):
                yield from _rows_of(batch)
        except (pa.ArrowException, OSError, ValueError) as error:
            rows = file.metadata.row_group(group).num_rows
            why = " ".join(str(error).split())
            yield BadRow("damaged row group", f"{why}; at most {rows:,} rows are lost", "", 0)


def batch_rows(file: Any, group: int, most: int) -> int:
    """How many rows of a row group to take at a time, so that large ones do not add up."""
    about = file.metadata.row_group(group)
    fit: int = BATCH_BYTES * about.num_rows // max(1, about.total_byte_size)
    return max(1, min(most, fit))


def _rows_of(batch: Any) -> Iterator[Row | BadRow]:
    if batch.nbytes <= BATCH_BYTES:
        yield from batch.to_pylist()
        return
    for number in range(batch.num_rows):  # one that is large among small ones
        row = batch.slice(number, 1)
        yield BadRow(_TOO_LONG, "passed over", "", row.nbytes) if row.nbytes > MAX_ROW_BYTES else row.to_pylist()[0]
