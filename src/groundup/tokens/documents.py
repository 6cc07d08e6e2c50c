"""What the tokenizer and the tokens stage read of a corpus: its documents by source, and how the sources are mixed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from groundup.artifacts import read_json
from groundup.errors import UserError

ROWS_AT_A_TIME = 256


def corpus_files(corpus: Path, split: str = "train") -> dict[str, list[Path]]:
    """Parquet files by source, in the order of names; `split` is `train` or `held_out`. A UserError where none are."""
    folder = corpus / ("documents" if split == "train" else "held_out")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        found.setdefault(re.sub(r"-\d{5}$", "", path.stem), []).append(path)
    if not found and split == "train":
        raise UserError(
            "no documents here: there is no documents/*.parquet",
            where=str(corpus),
            fix="name the artifact of a `corpus` stage",
        )
    return found


def read_texts(files: list[Path]) -> Iterator[list[str]]:
    """Texts of one source, some hundred at a time. A UserError for a file without a `text` column of strings."""
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                if "text" not in file.schema_arrow.names:
                    columns = ", ".join(file.schema_arrow.names)
                    raise UserError(f"no column `text`; there are: {columns}", where=str(path))
                for batch in file.iter_batches(batch_size=ROWS_AT_A_TIME, columns=["text"]):
                    yield [text for text in batch.column(0).to_pylist() if text]
        except (OSError, ValueError) as error:  # pyarrow's errors are one of the two
            raise UserError(f"not a readable parquet file: {error}", where=str(path)) from error


def count_bytes(files: list[Path]) -> int:
    """UTF-8 bytes of all texts."""
    return sum(len(text.encode("utf-8", "replace")) for texts in read_texts(files) for text in texts)


def source_shares(corpus: Path, sizes: Mapping[str, int]) -> dict[str, float]:
    """Share of the training stream for each source, summing to 1. `sizes` are bytes or tokens of each source.

    `mixture.json` holds, per source, how often one pass repeats it (`epochs`), or the share that was realised.
    Without it, each source has the share of its size.
    """
    path = corpus / "mixture.json"
    content = read_json(path) if path.is_file() else {}
    rows: Mapping[str, Any] = content.get("sources", content) if isinstance(content, dict) else {}
    repeats = {name: _number(rows.get(name), "epochs", "repeats") for name in sizes}
    shares = {name: _number({"weight": rows.get(name)}, "weight") for name in sizes}
    if all(value is None for value in shares.values()):
        shares = {name: _number(rows.get(name), "realised_share", "target_share", "share") for name in sizes}
    if all(value is not None for value in repeats.values()):
        wanted = {name: sizes[name] * (repeats[name] or 0.0) for name in sizes}
    elif all(value is not None for value in shares.values()):
        wanted = {name: (shares[name] or 0.0) if sizes[name] else 0.0 for name in sizes}
    else:
        wanted = {name: float(size) for name, size in sizes.items()}
    total = sum(wanted.values())
    if total <= 0:
        raise UserError("the mixture leaves nothing to train on", where=str(path if path.is_file() else corpus))
    return {name: value / total for name, value in wanted.items()}


def _number(row: Any, *names: str) -> float | None:
    if isinstance(row, Mapping):
        return next((float(row[name]) for name in names if isinstance(row.get(name), (int, float))), None)
    return None
