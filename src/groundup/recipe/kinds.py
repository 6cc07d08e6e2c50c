"""The kinds of stages. `KINDS` is the only place that knows them all.

It names them by import path, so that nothing heavy is imported before a stage runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from groundup.errors import Problem
from groundup.recipe.settings import StageSettings


@dataclass(frozen=True)
class CheckReport:
    """What a stage's `check` finds before anything runs.

    `facts` that are understood everywhere: trained_tokens, disk_bytes, memory_bytes, flops, seconds. Others are shown
    as they are.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """One kind of stage, by import path. A higher `version` makes artifacts of older code stale."""

    name: str
    settings: str | type[StageSettings]
    run: str | Callable[..., Any]
    summary: str
    version: int = 1
    check: str | Callable[..., Any] | None = None  # without it: `check` beside `run`, where that module has one

    def settings_class(self) -> type[StageSettings]:
        return cast(type[StageSettings], _load(self.settings))

    def run_function(self) -> Callable[..., Any]:
        return cast(Callable[..., Any], _load(self.run))

    def check_function(self) -> Callable[..., CheckReport] | None:
        if self.check is not None:
            return cast(Callable[..., CheckReport], _load(self.check))
        if isinstance(self.run, str):
            module = importlib.import_module(self.run.partition(":")[0])
            return cast("Callable[..., CheckReport] | None", getattr(module, "check", None))
        return None


@cache
def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _load(target: Any) -> Any:
    return _import(target) if isinstance(target, str) else target


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "corpus",
            "groundup.corpus.settings:CorpusSettings",
            "groundup.corpus.build:run",
            "raw sources -> clean, deduplicated, mixed documents",
        ),
        Kind(
            "tokenizer",
            "groundup.tokens.settings:TokenizerSettings",
            "groundup.tokens.train_tokenizer:run",
            "train a byte-level BPE tokenizer on a corpus",
        ),
        Kind(
            "tokens",
            "groundup.tokens.settings:TokensSettings",
            "groundup.tokens.tokenize:run",
            "a corpus as shards of token ids",
        ),
        Kind(
            "pretrain",
            "groundup.train.settings:PretrainSettings",
            "groundup.train.pretrain:run",
            "train a decoder from scratch to predict the next token",
        ),
        Kind(
            "sft",
            "groundup.train.settings:SftSettings",
            "groundup.train.sft:run",
            "fine-tune a model on conversations",
        ),
        Kind(
            "reward",
            "groundup.train.settings:RewardSettings",
            "groundup.train.reward:run",
            "train a reward model on preference pairs",
        ),
        Kind(
            "dpo",
            "groundup.train.settings:DpoSettings",
            "groundup.train.dpo:run",
            "align a model directly on preference pairs",
        ),
        Kind(
            "ppo",
            "groundup.train.settings:PpoSettings",
            "groundup.train.ppo:run",
            "align a model by reinforcement learning against a reward model or an exact verifier",
        ),
        Kind(
            "pairs",
            "groundup.chat.settings:PairsSettings",
            "groundup.chat.pairs:run",
            "let a model answer and pair right answers with wrong ones",
            version=2,
        ),
        Kind(
            "evaluate",
            "groundup.evaluate.settings:EvaluateSettings",
            "groundup.evaluate.exam:run",
            "measure models: bits per byte, exact tasks, reward accuracy, health of training",
        ),
        Kind(
            "gate",
            "groundup.evaluate.settings:GateSettings",
            "groundup.evaluate.gate:run",
            "decide on release from evidence",
        ),
    )
}
