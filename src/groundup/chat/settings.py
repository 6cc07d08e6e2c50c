"""Where conversations and preferences come from. No torch, no pyarrow: `groundup check` reads this in a moment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from groundup.recipe import ModelRef, PairsRef, Settings, StageSettings

RowFormat = Literal["auto", "messages", "prompt_completion", "text", "alpaca", "sharegpt", "preference", "prompt"]


class Dataset(Settings):
    """One source of rows: a file, a folder of files, a `pairs` stage, a pinned package, or made tasks."""

    path: PairsRef | None = None
    """A .jsonl, .json or .parquet file (also .gz), a folder of them, a `pairs` stage, `package:chatterbot-corpus`."""
    tasks: list[str] | None = None
    """Families of questions with one right answer, instead of a path."""
    split: Literal["train", "held_out"] = "train"
    """Which part of a `pairs` stage or of the tasks."""
    rows: int | None = Field(None, ge=1)
    """How many tasks to make (1000 when not given); of a file, the first so many rows."""
    type: RowFormat = "auto"
    """The rows' format. auto: seen from the column names."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Columns with other names than the format's: `{completion: response}` reads `response` as `completion`."""
    categories: list[str] | None = None
    """Of chatterbot-corpus: which files (`humor`, `science`, ...). Without it, all."""
    multi_turn: bool = True
    """Of chatterbot-corpus: keep whole dialogues. false: each question with its answer alone."""
    weight: float = Field(1.0, gt=0)
    """How often each row is seen in an epoch. 2: twice; 0.5: every other row."""
    on_bad_row: Literal["error", "skip"] = "error"
    """What a malformed row does: fail with a list of what is wrong, or be left out and counted."""
    max_bad_share: float = Field(0.05, ge=0, le=1)
    """With `on_bad_row: skip`: more bad rows than this share fail all the same."""

    @model_validator(mode="after")
    def one_source(self) -> Dataset:
        if (self.path is None) == (self.tasks is None):
            raise ValueError("a dataset needs either `path` or `tasks`, and not both")
        return self

    @property
    def name(self) -> str:
        """How the audit calls this source."""
        return self.path if self.path is not None else f"tasks: {', '.join(self.tasks or ())}"


class PairsSettings(StageSettings):
    """Collect preferences: a model answers each prompt several times, the exact verifier tells right from wrong."""

    stage: Literal["pairs"] = "pairs"
    model: ModelRef
    """Whose answers are compared. Pairs of its own answers teach it more than pairs of somebody else's."""
    tasks: list[str] = Field(min_length=1)
    """Families of questions with one right answer."""
    prompts: int = Field(1000, ge=1)
    """Questions to ask; each that is answered both rightly and wrongly gives one pair."""
    samples: int = Field(4, ge=2)
    """Answers to each question."""
    temperature: float = Field(1.0, gt=0)
    """Of sampling: higher gives more different answers."""
    response_length: int = Field(16, ge=1)
    """Most tokens in an answer."""
    held_out: float = Field(0.15, ge=0, lt=1)
    """Share of the pairs that no stage trains on, for measuring a reward model. Whole questions go one way."""
