"""What the settings of a stage are made of, and the marks that make a string an edge of the graph or a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of every group of settings: unknown keys are errors, values never change, docstrings are the help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class StageSettings(Settings):
    """Base of the settings of every stage kind; each kind narrows `stage` to `Literal["its name"]`."""

    stage: str
    """What this stage does: corpus, tokenizer, tokens, pretrain, sft, reward, dpo, ppo, pairs, evaluate, gate."""
    seed: int | None = None
    """Seed of this stage alone. Without it, the recipe's seed."""


class MistakesError(ValueError):
    """What a validator of a whole stage found wrong, all at once: each with the keys that lead to it."""

    def __init__(self, found: Sequence[tuple[tuple[str, ...], str]]) -> None:
        super().__init__("; ".join(what for _, what in found))
        self.found = tuple(found)


@dataclass(frozen=True)
class Reads:
    """Marks a string that names a stage of one of these kinds, or is a path or `hf://owner/name`.

    Without kinds it is a file or folder only. `package:NAME/...` and addresses are left to the stage itself.
    """

    kinds: tuple[str, ...] = ()

    def __init__(self, *kinds: str) -> None:
        object.__setattr__(self, "kinds", kinds)


@dataclass(frozen=True)
class Presentation:
    """Marks a setting that changes what is shown or how often is saved, never the result: not in the fingerprint."""


@dataclass(frozen=True)
class MayChange:
    """Marks a setting of which an unfinished stage may go on with another value. A finished one is built anew."""


CorpusRef = Annotated[str, Reads("corpus")]
TokenizerRef = Annotated[str, Reads("tokenizer")]
TokensRef = Annotated[str, Reads("tokens")]
ModelRef = Annotated[str, Reads("pretrain", "sft", "dpo", "ppo")]
RewardRef = Annotated[str, Reads("reward")]
PairsRef = Annotated[str, Reads("pairs")]
ScoresRef = Annotated[str, Reads("evaluate")]
FileRef = Annotated[str, Reads()]
