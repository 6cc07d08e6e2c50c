"""`batch(step)`: what is trained at a step, as a pure function. Resume and "what was in step 1203?" are one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from groundup.errors import EXIT_FAILED, UserError
from groundup.tokens.order import Mixture
from groundup.tokens.shards import Manifest, TokenStream, read_manifest

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class TokenBatch:
    """Rows of one step, each array `B, T`. The document id counts up at `<|endoftext|>`, which starts a document."""

    input_ids: Int64
    targets: Int64
    document_ids: Int64


class TokenBatches:
    """Windows of `sequence_len + 1` ids over the stream of each source, in the order that `seed` names.

    Windows do not overlap (but for the one token that is last a target and then an input), and the last one of a source
    runs on into what follows, so no token is left out. `batch_size` is rows per optimiser step, over all micro-batches.
    """

    def __init__(
        self, folder: Path | str, sequence_len: int, batch_size: int, seed: int, *, split: str = "train"
    ) -> None:
        folder = Path(folder)
        self.manifest: Manifest = read_manifest(folder)
        self.stream = TokenStream(folder, self.manifest, split)
        self.sequence_len, self.batch_size = sequence_len, batch_size
        if len(self.stream) < sequence_len + 1:
            raise UserError(
                f"the {split} split has {len(self.stream):,} tokens, less than one row of {sequence_len + 1:,}",
                where=str(folder),
                fix="use a smaller sequence_len or more text",
            )
        sources = [source for source in self.stream.split.sources if source.tokens]
        self.starts = np.array([source.start for source in sources], dtype=np.int64)
        self.mixture = Mixture(
            rows={source.name: -(-source.tokens // sequence_len) for source in sources},
            shares={source.name: source.share for source in sources},
            seed=seed,
        )

    @property
    def rows(self) -> int:
        """Rows in one pass over every source."""
        return sum(self.mixture.rows.values())

    @property
    def steps_per_epoch(self) -> float:
        """Steps until as many rows were trained as there are (large shares are seen more than once by then)."""
        return self.rows / self.batch_size

    def batch(self, step: int) -> TokenBatch:
        """Rows `step * B` to `(step + 1) * B` of the stream of rows; `step` counts from 0."""
        return self.windows(*self.rows_of(step))

    def rows_of(self, step: int) -> tuple[Int64, Int64]:
        """Source numbers and rows that make up a step."""
        return self.mixture.at(np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64))

    def windows(self, sources: Int64, rows: Int64) -> TokenBatch:
        starts = self.starts[sources] + rows * self.sequence_len
        ids = np.stack([self.stream.read(int(start), self.sequence_len + 1) for start in starts])  # B, T + 1
        if ids.max() >= self.manifest.vocab_size:
            self._tell_damage(ids, starts)
        ends = ids[:, :-1] == self.manifest.document_end_id
        return TokenBatch(
            input_ids=np.ascontiguousarray(ids[:, :-1]),
            targets=np.ascontiguousarray(ids[:, 1:]),
            document_ids=np.cumsum(ends, axis=1, dtype=np.int64),
        )

    def _tell_damage(self, ids: Int64, starts: Int64) -> NoReturn:
        row, column = np.argwhere(ids >= self.manifest.vocab_size)[0].tolist()
        shard, place = self.stream.place_of(int(starts[row]) + column)
        raise UserError(
            f"the shard {shard.name} is damaged: id {ids[row, column]:,} at place {place:,}, of a vocabulary of "
            f"{self.manifest.vocab_size:,}",
            where=str(shard.parent),
            fix="bring back a copy, or build the tokens again; every checkpoint is kept",
            exit_code=EXIT_FAILED,
        )

    def spread_rows(self, most: int) -> tuple[Int64, Int64]:
        """At most `most` rows, evenly spread over the whole split and without any weights: for held-out loss."""
        counts = np.array(list(self.mixture.rows.values()), dtype=np.int64)
        sources = np.repeat(np.arange(len(counts)), counts)
        rows = np.concatenate([np.arange(count) for count in counts])
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))
        return sources[chosen].astype(np.int64), rows[chosen].astype(np.int64)
