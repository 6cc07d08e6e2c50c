"""Settings of the tokenizer and tokens stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from groundup.recipe import CorpusRef, Presentation, StageSettings, TokenizerRef


class TokenizerSettings(StageSettings):
    """Train a byte-level BPE tokenizer on a corpus."""

    stage: Literal["tokenizer"] = "tokenizer"
    corpus: CorpusRef
    """The documents to train on."""
    vocab_size: int = Field(8192, ge=260)
    """Ids in all: 256 bytes, 4 special tokens, the rest merges."""
    max_bytes: int = Field(64_000_000, ge=1)
    """Most text that merges are counted on, drawn from the sources by the corpus' mixture."""
    min_frequency: int = Field(2, ge=1)
    """A pair seen less often is never merged."""


class TokensSettings(StageSettings):
    """Turn a corpus into shards of token ids."""

    stage: Literal["tokens"] = "tokens"
    corpus: CorpusRef
    """The documents."""
    tokenizer: TokenizerRef
    """The tokenizer."""
    shard_tokens: int = Field(100_000_000, ge=1)
    """Most tokens in one file."""
    workers: Annotated[int, Field(ge=1), Presentation()] | None = None
    """Processes that turn text into ids. Without it: one per core. The result does not depend on it."""
