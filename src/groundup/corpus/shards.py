"""Documents and drops as parquet: written under a temporary name, fsynced, renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groundup.artifacts import disk_error
from groundup.corpus.document import Document, Drop, sound

_FIELDS = ("id", "url", "license", "text", "media", "language", "date", "metadata")  # metadata as JSON text
_REPEATED = ("source", "license", "media", "language", "reason", "step")
DOCUMENTS = pa.schema([(name, pa.string()) for name in ("id", "source", *_FIELDS[1:])])
DROPPED = pa.schema(
    [(name, pa.string()) for name in ("id", "reason", "step", "excerpt")]
    + [("value", pa.float64()), ("threshold", pa.float64())]
)
RAW = pa.schema([(name, pa.string()) for name in _FIELDS])  # text may be HTML or wikitext
TEXT = pa.schema([*RAW, ("language_score", pa.float64()), ("signals", pa.string())])  # signals as JSON text

GROUP_BYTES = 8_000_000  # a row group: what a writer holds in memory, and a reader decodes at once
BATCH_ROWS = 64  # rows as Python objects at a time


class ShardWriter:
    """Rows to one parquet file that appears, whole, when the `with` block ends without an error.

    The folder is not synced: a task's is as a whole, when its sidecar is written.
    """

    def __init__(self, path: Path, schema: pa.Schema, group_bytes: int = GROUP_BYTES) -> None:
        self.path = path
        self.schema = schema
        self.group_bytes = group_bytes
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._rows: list[Mapping[str, Any]] = []
        self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ShardWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        repeated = [name for name in _REPEATED if name in self.schema.names]  # a dictionary of texts is no gain
        self._writer = pq.ParquetWriter(self._temporary, self.schema, compression="zstd", use_dictionary=repeated)
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += sum(len(value) for value in row.values() if isinstance(value, str))
        if self._bytes >= self.group_bytes:
            self._flush()

    def _flush(self) -> None:
        if self._rows and self._writer is not None:
            try:
                self._writer.write_table(self._table())
            except OSError as error:
                raise disk_error(error, self.path) from error
            self._rows, self._bytes = [], 0

    def _table(self) -> pa.Table:
        try:
            return pa.Table.from_pylist(self._rows, self.schema)
        except UnicodeEncodeError:
            rows = [
                {name: sound(one) if isinstance(one, str) else one for name, one in row.items()} for row in self._rows
            ]
            return pa.Table.from_pylist(rows, self.schema)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
            if self._writer is not None:
                self._writer.close()
            if kind is None:
                _sync_file(self._temporary)
                self._temporary.replace(self.path)
        except OSError as problem:
            raise disk_error(problem, self.path) from problem
        finally:
            self._temporary.unlink(missing_ok=True)


def _sound(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: sound(value) if isinstance(value, str) else value for name, value in row.items()}


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_row(dropped: Drop) -> dict[str, Any]:
    return {name: getattr(dropped, name) for name in DROPPED.names}


def document_row(document: Document) -> dict[str, Any]:
    metadata = json.dumps(document.metadata, ensure_ascii=False, sort_keys=True) if document.metadata else ""
    return {**{name: getattr(document, name) for name in _FIELDS[:-1]}, "metadata": metadata}


def document_of(row: Mapping[str, Any]) -> Document:
    """The document in a row of any of the schemas."""
    metadata = json.loads(row["metadata"]) if row["metadata"] else {}
    return Document(**{name: row[name] for name in _FIELDS[:-1]}, metadata=metadata)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, a few at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns) if columns else None):
            yield from batch.to_pylist()


def read_column(path: Path, name: str) -> list[Any]:
    return pq.read_table(path, columns=[name]).column(0).to_pylist()  # type: ignore[no-any-return]


def text_sizes(path: Path) -> list[int]:
    """Bytes of the text of each row, without making Python strings of them."""
    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=["text"])
        return [size for batch in batches for size in pc.binary_length(batch.column(0)).to_pylist()]


def row_count(path: Path) -> int:
    with pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)
