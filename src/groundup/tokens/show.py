"""What was in a batch: source, place and text of every row, exactly as training saw it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundup.tokens.batches import TokenBatches
from groundup.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Document:
    """A stretch of a row in which tokens see each other, where the run masks documents."""

    start: int  # of the row's tokens
    tokens: int
    text: str


@dataclass(frozen=True)
class Row:
    """One row. It has one token more than it trains: the last is only a target."""

    row: int  # of the step, from 0
    micro_batch: int  # of the step, from 0
    source: str
    source_row: int  # of the source, from 0: tokens `source_row * sequence_len` on
    tokens: int
    documents: list[Document]


def rows_of_batch(
    folder: Path, *, sequence_len: int, rows_per_step: int, micro_batch_size: int, seed: int, batch: int
) -> list[Row]:
    """The rows of batch number `batch`, from 1, of the shards in `folder`. It does not matter who trained them."""
    batches = TokenBatches(folder, sequence_len, rows_per_step, seed)
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    numbers, places = batches.rows_of(batch - 1)
    trained = batches.windows(numbers, places)
    rows = []
    for row, (number, place) in enumerate(zip(numbers.tolist(), places.tolist(), strict=True)):
        ids = np.append(trained.input_ids[row], trained.targets[row, -1])
        cuts = np.flatnonzero(np.diff(trained.document_ids[row])) + 1
        starts, ends = [0, *cuts.tolist()], [*cuts.tolist(), len(ids)]
        documents = [
            Document(start, end - start, tokenizer.decode(ids[start:end].tolist()))
            for start, end in zip(starts, ends, strict=True)
        ]
        source = batches.mixture.sources[number]
        rows.append(Row(row, row // micro_batch_size, source, place, len(ids), documents))
    return rows


def rows_text(rows: list[Row]) -> str:
    """For people: a line for each row, and its text with a line between documents."""
    parts = []
    for row in rows:
        documents = "1 document" if len(row.documents) == 1 else f"{len(row.documents)} documents"
        head = f"row {row.row}  {row.source}, row {row.source_row:,} of it  {row.tokens:,} tokens, {documents}"
        texts = [f"  --- token {one.start:,}, {one.tokens:,} tokens\n{one.text}" for one in row.documents]
        parts.append("\n".join([f"{head}  (micro-batch {row.micro_batch})", *texts]))
    return "\n\n".join(parts)


def rows_data(rows: list[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
