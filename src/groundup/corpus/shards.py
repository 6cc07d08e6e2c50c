"""Documents and drops as parquet: written under a temporary name, fsynced, renamed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from groundup.artifacts import disk_error, sync_folder
from groundup.corpus.document import Document, Drop

DOCUMENTS = pa.schema([(name, pa.string()) for name in ("id", "source", "url", "license", "text")])
DROPPED = pa.schema([("id", pa.string()), ("reason", pa.string()), ("step", pa.string()), ("excerpt", pa.string())])
CLEANED = pa.schema([(name, pa.string()) for name in ("id", "url", "license", "text", "media", "language")])

GROUP_BYTES = 16_000_000  # a row group: what a writer holds in memory
SHARD_BYTES = 256_000_000  # text in one file


class ShardWriter:
    """Rows to one parquet file that appears, whole, when the `with` block ends without an error."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._rows: list[Mapping[str, Any]] = []
        self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ShardWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._temporary, self.schema, compression="zstd")
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += sum(len(value) for value in row.values() if isinstance(value, str))
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows and self._writer is not None:
            try:
                self._writer.write_table(pa.Table.from_pylist([_sound(row) for row in self._rows], self.schema))
            except OSError as error:
                raise disk_error(error, self.path) from error
            self._rows, self._bytes = [], 0

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
                sync_folder(self.path.parent)
        except OSError as problem:
            raise disk_error(problem, self.path) from problem
        finally:
            self._temporary.unlink(missing_ok=True)


def _sound(row: Mapping[str, Any]) -> dict[str, Any]:
    """Lone surrogates (from broken charsets) cannot be written as UTF-8: they become the replacement character."""
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) and not _is_utf8(value) else value
        for name, value in row.items()
    }


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_documents(folder: Path, source: str, documents: Sequence[Document]) -> list[Path]:
    """`documents/<source>-00000.parquet` and on, each with at most SHARD_BYTES of text. At least one file."""
    starts, size = [0], 0
    for place, document in enumerate(documents):
        if size and size + len(document.text) > SHARD_BYTES:
            starts.append(place)
            size = 0
        size += len(document.text)
    paths = []
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(documents)], strict=True)):
        paths.append(folder / f"{source}-{number:05d}.parquet")
        write_document_file(paths[-1], source, documents[start:end])
    return paths


def write_document_file(path: Path, source: str, documents: Iterable[Document]) -> None:
    with ShardWriter(path, DOCUMENTS) as writer:
        for document in documents:
            row = {"id": document.id, "source": source, "url": document.url, "license": document.license}
            writer.write(row | {"text": document.text})


def drop_row(dropped: Drop) -> dict[str, str]:
    return {"id": dropped.id, "reason": dropped.reason, "step": dropped.step, "excerpt": dropped.excerpt}


def document_row(document: Document) -> dict[str, str]:
    return {name: getattr(document, name) for name in CLEANED.names}


def read_cleaned(path: Path) -> Iterator[Document]:
    for row in _rows(path):
        yield Document(**row)


def read_dropped(path: Path) -> Iterator[Drop]:
    for row in _rows(path):
        yield Drop(row["id"], row["step"], row["reason"], row["excerpt"])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()
