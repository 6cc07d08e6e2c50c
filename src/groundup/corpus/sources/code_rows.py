"""Rows of source files, as The Stack and its kin publish them: parquet or JSON lines, one file's content per row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from groundup.corpus.document import Document, Drop
from groundup.corpus.licences import UNKNOWN, licence_of_header
from groundup.corpus.source_settings import CodeSource
from groundup.corpus.sources.code_files import reason_by_name
from groundup.corpus.sources.files import Input
from groundup.corpus.sources.packed import UNPACK_ERRORS
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.row_formats import batch_rows

# The same thing under its several names: The Stack v1 and v2, github-code, StarCoder's data, our own.
_CONTENT = ("content", "code", "text", "source")
_PATH = ("path", "max_stars_repo_path", "file_path", "file_name", "filename", "rel_path")
_LICENCE = ("license", "licenses", "max_stars_repo_licenses", "detected_licenses", "license_type")
_LANGUAGE = ("lang", "language", "programming_language")
_REPOSITORY = ("repo_name", "repo", "max_stars_repo_name", "repository_name", "package")
_DATE = ("date", "committer_date", "revision_date", "visit_date", "last_modified")
_STARS = ("stars", "max_stars_count", "star_events_count", "stargazers_count")
_FIELDS = _CONTENT + _PATH + _LICENCE + _LANGUAGE + _REPOSITORY + _DATE + _STARS + ("ext", "version", "registry")
_LANGUAGE_SPELLINGS = {
    "c-sharp": "C#", "csharp": "C#", "cpp": "C++", "c++": "C++", "golang": "Go", "jupyter notebook": "Jupyter",
    "jupyter-notebook": "Jupyter", "restructuredtext": "reStructuredText",
}  # fmt: skip
ROWS_AT_ONCE = 64
_SUFFIXES = tuple(f"{kind}{packed}" for kind in (".jsonl", ".ndjson") for packed in ("", ".gz", ".bz2", ".xz", ".zst"))

MakeDocument = Callable[..., Document | Drop]


def is_rows_name(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) or is_parquet(name)


def is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def read_rows(
    source: CodeSource, piece: Piece, file: Input, notes: Counter[str], make: MakeDocument
) -> Iterator[Document | Drop]:
    """A document per row. Rows that hold no content are drops named `file:row`; a damaged file ends where it breaks."""
    row = 0
    try:
        for row, one in enumerate(_parquet(file) if is_parquet(file.name) else _lines(file), 1):
            id = f"{piece.name}:{row}"
            if not isinstance(one, Mapping):
                yield Drop(id, "read", "row is not JSON", f"{id}: {one}", len(str(one)))
                continue
            yield _row(source, one, id, notes, make)
    except (*UNPACK_ERRORS, ValueError) as error:
        notes["damaged files of rows"] += 1
        reason = "damaged file: the rest of it could not be read" if row else "unreadable file"
        yield Drop(f"{piece.name}:{row + 1}", "read", reason, f"{file.where}: {error}")
    else:
        if not row:
            yield Drop(f"{piece.name}:1", "read", "empty file", file.where)


def _lines(file: Input) -> Iterator[Any]:
    with file.open_unpacked() as stream:
        for line in stream:
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                yield row if isinstance(row, dict) else line[:200].decode("utf-8", "replace")


def _parquet(input: Input) -> Iterator[Any]:
    import pyarrow.parquet as pq  # its errors are ValueErrors and OSErrors

    with input.open() as raw, pq.ParquetFile(raw) as file:
        columns = [name for name in file.schema_arrow.names if name in _FIELDS]
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(batch_rows(file, group, ROWS_AT_ONCE), row_groups=[group], columns=columns):
                yield from batch.to_pylist()


def _row(
    source: CodeSource, row: Mapping[str, Any], id: str, notes: Counter[str], make: MakeDocument
) -> Document | Drop:
    notes["files"] += 1
    content = _first(row, _CONTENT)
    if not isinstance(content, str) or not content:
        return Drop(id, "read", "row has no content", f"{id}: fields: {', '.join(row)}")
    path = str(_first(row, _PATH) or "")
    if not path and isinstance(row.get("ext"), str):
        path = f"{id}.{row['ext']}"
    if len(content) > source.max_file_bytes:
        size, most = float(len(content)), float(source.max_file_bytes)
        return Drop(id, "read", "larger than max_file_bytes", content[:200], len(content), size, most)
    if path and (reason := reason_by_name(path)):
        return Drop(id, "read", reason, content[:200], len(content.encode("utf-8", "surrogatepass")))
    stated = licence_of_row(_first(row, _LICENCE))
    repository = str(_first(row, _REPOSITORY) or "")
    language = str(_first(row, _LANGUAGE) or "")
    metadata: dict[str, object] = {"language": _LANGUAGE_SPELLINGS.get(language.lower(), language)}
    for name, value in (("repository", repository), ("stars", _first(row, _STARS)), ("version", row.get("version"))):
        if value not in (None, ""):
            metadata[name] = value
    url = f"{repository}/{path}" if repository and not path.startswith(f"{repository}/") else path or id
    date = str(_first(row, _DATE) or "")

    def licence(text: str) -> str:
        return licence_of_header(text) or stated

    return make(source, content, id, path, url, date, licence, metadata)


def licence_of_row(stated: object) -> str:
    """A row's licence. A list (The Stack's) is what a detector found in the repository: all of them are needed."""
    if isinstance(stated, str):
        return stated.strip() or UNKNOWN
    if isinstance(stated, list | tuple):
        return " AND ".join(f"({one})" if " " in str(one) else str(one) for one in stated if one) or UNKNOWN
    return UNKNOWN


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "", [])), None)
