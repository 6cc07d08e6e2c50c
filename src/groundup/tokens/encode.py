"""The two kinds of task of the `tokens` stage: text files to ids, and ids to the shards that training reads.

A task writes its files under temporary names, then a JSON file with its fingerprint and its counts, last of all. Only a
task whose fingerprint fits is not done again, so a killed stage goes on, and what was made of other input never stays.
What a task writes depends on its input alone: the shards are the same whatever the number of processes.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.artifacts import disk_error, fingerprint_file, fingerprint_of, read_json, write_json
from groundup.errors import UserError
from groundup.tokens.documents import read_texts
from groundup.tokens.tokenizer import Tokenizer

VERSION = 1  # raised when the code changes what a task writes
WRITE_BYTES = 8_000_000


@dataclass(frozen=True)
class EncodeTask:
    """One parquet file -> `out`.bin (its documents' ids, each with the end-of-text id) and `out`.npy (lengths)."""

    file: Path
    tokenizer: Path
    tokenizer_fingerprint: str
    dtype: str
    out: Path  # without suffix

    def __str__(self) -> str:
        return str(self.file)


@dataclass(frozen=True)
class ShardTask:
    """Tokens `start` to `end` of a split's stream -> `out`. `plan` holds the order of documents (`DocumentOrder`)."""

    plan: Path
    encoded: tuple[Path, ...]  # without suffix
    fingerprints: tuple[str, ...]  # of what made them
    dtype: str
    start: int
    end: int
    out: Path
    done: Path  # the JSON file

    def __str__(self) -> str:
        return str(self.out)


@dataclass(frozen=True)
class DocumentOrder:
    """Documents in the order in which they are written: the encoded file of each, its first token there, its length,
    and where it starts in the stream. (n,) each; `starts` has the end of the stream as well."""

    files: NDArray[np.int32]
    places: NDArray[np.int64]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]

    def save(self, path: Path) -> None:
        for name, array in vars(self).items():
            np.save(path.with_name(f"{path.name}.{name}.npy"), array)

    @staticmethod
    def load(path: Path) -> DocumentOrder:
        names = ("files", "places", "lengths", "starts")
        return DocumentOrder(*(np.load(path.with_name(f"{path.name}.{name}.npy"), mmap_mode="r") for name in names))


# ---------------------------------------------------------------- text -> ids


def encode(task: EncodeTask) -> dict[str, Any]:
    """Stats of the file: fingerprint, documents, tokens, bytes."""
    wanted = [VERSION, fingerprint_file(task.file), task.tokenizer_fingerprint, task.dtype]
    fingerprint, record = fingerprint_of(wanted), task.out.with_suffix(".json")
    if (done := _finished(record, fingerprint)) is not None:
        return done
    tokenizer = _tokenizer(task.tokenizer)
    end = tokenizer.document_end_id
    lengths: list[int] = []
    size = 0
    task.out.parent.mkdir(parents=True, exist_ok=True)
    with _Output(task.out.with_suffix(".bin")) as output:
        for texts in read_texts([task.file]):
            size += sum(len(text.encode("utf-8", "replace")) for text in texts)
            for ids in tokenizer.encode_documents(texts):
                ids.append(end)
                lengths.append(len(ids))
                output.write(np.array(ids, task.dtype))
    np.save(task.out.with_suffix(".npy"), np.array(lengths, np.int64))
    stats = {"fingerprint": fingerprint, "documents": len(lengths), "tokens": sum(lengths), "bytes": size}
    write_json(record, stats)
    return stats


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


# ---------------------------------------------------------------- ids -> shards


def write_shard(task: ShardTask) -> dict[str, Any]:
    """Stats of the shard: fingerprint, tokens, sha256."""
    wanted = {**asdict(task), "plan": fingerprint_of([VERSION, *task.fingerprints]), "encoded": len(task.encoded)}
    fingerprint = fingerprint_of({key: str(value) for key, value in wanted.items()})
    if (done := _finished(task.done, fingerprint)) is not None and task.out.is_file():
        return done
    order = DocumentOrder.load(task.plan)
    item = np.dtype(task.dtype).itemsize
    files: dict[int, int] = {}
    first = int(np.searchsorted(order.starts, task.start, "right")) - 1
    last = int(np.searchsorted(order.starts, task.end, "left"))
    try:
        with _Output(task.out) as output:
            for begin in range(first, last, 4096):
                rows = slice(begin, min(begin + 4096, last))
                columns = (order.files[rows], order.places[rows], order.starts[rows], order.lengths[rows])
                for file, place, start, length in zip(*(column.tolist() for column in columns), strict=True):
                    skip = max(task.start - start, 0)  # a document may begin in the shard before
                    count = min(start + length, task.end) - start - skip
                    if file not in files:
                        files[file] = os.open(task.encoded[file].with_suffix(".bin"), os.O_RDONLY)
                    output.write_bytes(os.pread(files[file], count * item, (place + skip) * item))
    finally:
        for descriptor in files.values():
            os.close(descriptor)
    tokens = output.bytes // item
    if tokens != task.end - task.start:
        raise UserError(
            f"{task.out.name}: {tokens:,} ids came of {task.end - task.start:,}", where=str(task.plan.parent)
        )
    stats = {"fingerprint": fingerprint, "tokens": tokens, "sha256": output.sha256}
    write_json(task.done, stats)
    return stats


def _finished(record: Path, fingerprint: str) -> dict[str, Any] | None:
    """What a task said when it was finished, if it is what it would do now."""
    found = read_json(record) if record.is_file() else None
    return found if isinstance(found, dict) and found.get("fingerprint") == fingerprint else None


class _Output:
    """A file under a temporary name, on disk and renamed when the block ends without an error. Little-endian."""

    def __init__(self, path: Path) -> None:
        self.path, self.bytes = path, 0
        self._digest = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def __enter__(self) -> _Output:
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file = self._temporary.open("wb")
        return self

    def write(self, ids: NDArray[Any]) -> None:
        self.write_bytes(ids.astype(ids.dtype.newbyteorder("<"), copy=False).tobytes())

    def write_bytes(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        try:
            self._file.write(data)
        except OSError as error:
            raise disk_error(error, self.path) from error
        self._digest.update(data)
        self.bytes += len(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if kind is None:
                self._flush()
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError as full:
            raise disk_error(full, self.path) from full
        finally:
            self._file.close()
            if kind is None:
                os.replace(self._temporary, self.path)
            else:
                self._temporary.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
