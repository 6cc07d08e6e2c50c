"""Token ids on disk: flat little-endian `.bin` files, an index of documents, and a manifest written last.

    train-00000.bin ...   uint16 where the vocabulary fits, else uint32; each document ends with `<|endoftext|>`
    train-index.npy       int64, one row per document: where it starts in the stream, and the number of its source
    held_out-00000.bin, held_out-index.npy
    tokenizer/            the tokenizer that made them
    manifest.json         its fingerprint, dtype, sources with their counts and shares, sha256 of every file

The `.bin` files are those of nanoGPT, OLMo-core and Megatron. A split is one stream; a source is a stretch of it.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.artifacts import disk_error, fingerprint_file, fingerprint_of, read_json, write_json
from groundup.errors import EXIT_FAILED, UserError

FORMAT = 1
MANIFEST = "manifest.json"
VERIFIED_BYTES = 4 * 2**30  # about 3 s; a terabyte would take ten minutes at every start


@dataclass(frozen=True)
class SourceTokens:
    """One source's stretch of a split's stream."""

    name: str
    start: int
    tokens: int
    documents: int
    bytes: int  # of UTF-8 text
    share: float  # of the training stream, as the corpus' mixture wants it


@dataclass(frozen=True)
class Split:
    tokens: int
    files: list[str]
    file_tokens: list[int]
    sources: list[SourceTokens]


@dataclass(frozen=True)
class Manifest:
    dtype: str
    vocab_size: int
    document_end_id: int
    tokenizer_fingerprint: str
    splits: dict[str, Split]
    sha256: dict[str, str]
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(asdict(self))


class SplitWriter:
    """Writes one split. `add` documents source by source, then `finish`."""

    def __init__(self, folder: Path, name: str, dtype: str, shard_tokens: int) -> None:
        self.folder, self.name, self.dtype, self.shard_tokens = folder, name, np.dtype(dtype), shard_tokens
        self.tokens = 0
        self.files: list[str] = []
        self.file_tokens: list[int] = []
        self.sha256: dict[str, str] = {}
        self._index: list[tuple[int, int]] = []
        self._file: Any = None
        self._digest = hashlib.sha256()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, ids: Sequence[int], source_number: int) -> None:
        """One document, its end-of-text id included."""
        self._index.append((self.tokens, source_number))
        values = np.asarray(ids, dtype=self.dtype)
        while len(values):
            if self._file is None:
                self._open()
            part = values[: self.shard_tokens - self.file_tokens[-1]]
            data = part.astype(self.dtype.newbyteorder("<")).tobytes()
            try:
                self._file.write(data)
            except OSError as error:
                raise disk_error(error, self.folder / self.files[-1]) from error
            self._digest.update(data)
            self.tokens += len(part)
            self.file_tokens[-1] += len(part)
            values = values[len(part) :]
            if self.file_tokens[-1] >= self.shard_tokens:
                self._close()

    def finish(self, sources: list[SourceTokens]) -> Split:
        self._close()
        index_name = f"{self.name}-index.npy"
        np.save(self.folder / index_name, np.array(self._index, dtype=np.int64).reshape(-1, 2))
        self.sha256[index_name] = hashlib.sha256((self.folder / index_name).read_bytes()).hexdigest()
        return Split(tokens=self.tokens, files=self.files, file_tokens=self.file_tokens, sources=sources)

    def _open(self) -> None:
        self.files.append(f"{self.name}-{len(self.files):05d}.bin")
        self.file_tokens.append(0)
        self._digest = hashlib.sha256()
        self._file = (self.folder / self.files[-1]).open("wb")

    def _close(self) -> None:
        if self._file is not None:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
            except OSError as error:
                raise disk_error(error, self.folder / self.files[-1]) from error
            self.sha256[self.files[-1]] = self._digest.hexdigest()
            self._file = None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """UserError where there is none, or where the files do not have the sizes it names."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            "no token shards here: manifest.json is missing",
            where=str(folder),
            fix="name the artifact of a `tokens` stage",
        )
    record = read_json(path)
    if record.get("format") != FORMAT:
        raise UserError("these shards were written in another format", where=str(path), fix="build them again")
    record["splits"] = {
        name: Split(**{**split, "sources": [SourceTokens(**source) for source in split["sources"]]})
        for name, split in record["splits"].items()
    }
    manifest = Manifest(**record)
    itemsize = np.dtype(manifest.dtype).itemsize
    for split in manifest.splits.values():
        for name, tokens in zip(split.files, split.file_tokens, strict=True):
            file = folder / name
            size = file.stat().st_size if file.is_file() else None
            if size != tokens * itemsize:
                found = "is missing" if size is None else f"has {size:,} bytes instead of {tokens * itemsize:,}"
                raise UserError(f"the shard {name} {found}", where=str(folder), fix="build the tokens again")
    return manifest


def verify_shards(folder: Path, manifest: Manifest, most_bytes: int = VERIFIED_BYTES) -> None:
    """UserError that names every file whose bytes are not those that were written. `most_bytes`: above so many in all,
    nothing is read; ids that the vocabulary does not have are still found when they are trained (batches.py)."""
    files = [folder / name for name in manifest.sha256 if (folder / name).is_file()]
    if sum(file.stat().st_size for file in files) > most_bytes:
        return
    damaged = [file.name for file in files if fingerprint_file(file) != manifest.sha256[file.name]]
    if damaged:
        raise UserError(
            f"these shards are damaged (their sha256 is not that of what was written): {', '.join(damaged)}",
            where=str(folder),
            fix="bring back a copy, or build the tokens again (`groundup run RECIPE TOKENS --fresh`)",
        )


class TokenStream:
    """A split's ids as one long array, read as needed; reading past the end goes on at the start.

    Through open files and not through a memory map, which costs as much (2 us for 257 ids): a disk that fails or a file
    that is cut off under a map kills the process by SIGBUS, here it is told. UserError then.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        self.split = manifest.splits[split]
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._paths = [folder / name for name in self.split.files]
        self._files = [os.open(path, os.O_RDONLY) for path in self._paths]
        weakref.finalize(self, _close, self._files)
        self._ends = np.cumsum(self.split.file_tokens).tolist()

    def __len__(self) -> int:
        return self.split.tokens

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` ids from `start` on."""
        out = np.empty(length, dtype=np.int64)
        done = 0
        while done < length:
            place = (start + done) % len(self)
            file = bisect.bisect_right(self._ends, place)
            wanted = min(length - done, self._ends[file] - place)
            part = self._part(file, place - (self._ends[file - 1] if file else 0), wanted)
            out[done : done + len(part)] = part
            done += len(part)
        return out

    def place_of(self, place: int) -> tuple[Path, int]:
        """The shard that an id of the stream lies in, and its number there, from 0."""
        place %= len(self)
        file = bisect.bisect_right(self._ends, place)
        return self._paths[file], place - (self._ends[file - 1] if file else 0)

    def _part(self, file: int, start: int, length: int) -> NDArray[Any]:
        size = self._dtype.itemsize
        try:
            data = os.pread(self._files[file], length * size, start * size)
        except OSError as error:
            raise self._lost(file, f"cannot be read any more: {error.strerror}") from error
        if len(data) != length * size:
            raise self._lost(
                file, f"ends at byte {os.fstat(self._files[file]).st_size:,}: it was longer when it was opened"
            )
        return np.frombuffer(data, dtype=self._dtype)

    def _lost(self, file: int, what: str) -> UserError:
        return UserError(
            f"the shard {self._paths[file].name} {what}",
            where=str(self._paths[file].parent),
            fix="bring the data back, then run the same command to go on",
            exit_code=EXIT_FAILED,
        )


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)
