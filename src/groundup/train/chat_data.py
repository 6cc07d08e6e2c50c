"""What fine-tuning, reward and preference training share: opening a model with its tokenizer, and the order of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from groundup.artifacts import StageContext, fingerprint_file, fingerprint_of, write_atomic, write_json
from groundup.chat.datasets import Loaded, check_datasets, load_preferences
from groundup.chat.formats import Preference, to_preference
from groundup.chat.packing import Batch
from groundup.chat.pairs_data import EncodedPair, EncodedPairs, audit_pairs, audit_pairs_text, encode_pairs
from groundup.chat.template import CHATML
from groundup.errors import Problem, UserError
from groundup.model.config import ModelConfig
from groundup.model.files import copy_tokenizer_files, load_config, require_same_vocabulary, weight_files
from groundup.recipe import CheckReport
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.settings import ChatTrainingSettings, DpoSettings, RewardSettings

CHARACTERS_PER_TOKEN = 3.5  # of English under a small vocabulary; only used before there is a tokenizer

Item = TypeVar("Item")


# ---------------------------------------------------------------- order


class RowOrder:
    """Which rows an update sees: pass after pass over all rows, each pass in a new order. A pure function of the step.

    The rows of step s are the positions s * rows_per_step ... of the endless sequence of passes, so no update is
    smaller than the others and none is skipped.
    """

    def __init__(self, rows: int, rows_per_step: int, seed: int) -> None:
        self.rows, self.rows_per_step, self.seed = rows, rows_per_step, seed
        self._orders: dict[int, list[int]] = {}

    @property
    def steps_per_epoch(self) -> float:
        return self.rows / self.rows_per_step

    def at(self, step: int) -> list[int]:
        """Indices of the rows of update `step`, counted from 0."""
        positions = range(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        return [self._order(position // self.rows)[position % self.rows] for position in positions]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            seed = int.from_bytes(hashlib.sha256(f"{self.seed}/{epoch}".encode()).digest()[:8])
            order = np.random.Generator(np.random.PCG64(seed)).permutation(self.rows)
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = [int(row) for row in order]
        return self._orders[epoch]


def repeat_by_weight(items: Sequence[Item], weights: Sequence[float]) -> list[Item]:
    """Each item `weight` times; the fraction of a weight picks that share of the items, always the same ones."""
    repeated: list[Item] = []
    for number, (item, weight) in enumerate(zip(items, weights, strict=True)):
        share = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:4]) / 2**32
        repeated += [item] * (int(weight) + (share < weight % 1))
    return repeated or list(items[:1])  # a small weight on few items must not leave an epoch without rows


@dataclass(frozen=True)
class AuditedPairs:
    """Answers of which one is better, as rows and encoded, after the audit."""

    pairs: list[EncodedPair]  # to train on, repeated by their weights
    encoded: EncodedPairs  # the same, each once
    held_out_pairs: list[EncodedPair]
    rows: list[Preference]
    held_out_rows: list[Preference]


def audited_pairs(settings: DpoSettings | RewardSettings, tokenizer: Tokenizer, context: StageContext) -> AuditedPairs:
    """What a preference stage trains on: read, encoded, and audited, which is told and kept in audit.json."""
    loaded = load_preferences(settings.datasets, context)
    held_out = load_preferences(settings.held_out, context) if settings.held_out else Loaded[Preference]()
    encoded = encode_pairs(tokenizer, loaded.rows, loaded.weights, settings.sequence_len)
    report = audit_pairs(tokenizer, encoded, loaded, held_out.rows)
    write_json(context.folder / "audit.json", report)
    context.console.info(audit_pairs_text(report, colour=context.console.is_terminal))
    held_out_pairs = encode_pairs(tokenizer, held_out.rows, held_out.weights, settings.sequence_len).pairs
    pairs = repeat_by_weight(encoded.pairs, encoded.weights)
    return AuditedPairs(pairs, encoded, held_out_pairs, loaded.rows, held_out.rows)


def parts(items: Sequence[Item], size: int) -> list[list[Item]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in vars(batch).items()}


def data_fingerprint(rows: Sequence[Any]) -> str:
    """Of exactly what the batches are made from: a checkpoint made from other data is not continued."""
    return fingerprint_of([vars(row) for row in rows])


def weights_fingerprint(settings: ChatTrainingSettings, context: StageContext) -> str:
    """Of the start model's weights: a checkpoint that began elsewhere is not continued."""
    return fingerprint_of([fingerprint_file(path) for path in weight_files(context.model_folder(settings.base_model))])


# ---------------------------------------------------------------- model and tokenizer


def open_tokenizer(settings: ChatTrainingSettings, context: StageContext) -> Tokenizer:
    """The base model's own tokenizer, with the recipe's chat template where it names one. Checked against the model."""
    folder = context.model_folder(settings.base_model)
    config = load_config(folder)
    tokenizer = Tokenizer.from_folder(folder)
    if settings.chat_template is not None:
        path = context.input_folder(settings.chat_template)
        if not path.is_file():
            raise UserError("there is no such chat template", where=str(path), fix="name a chat_template.jinja file")
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    problems: list[Problem] = []
    if not tokenizer.chat_template:
        fix = f"put a chat_template.jinja there or name one as `chat_template`; ChatML is:\n     {CHATML}"
        problems.append(Problem("the base model's tokenizer has no chat template", str(folder), fix))
    if settings.sequence_len > config.max_position_embeddings:
        what = (
            f"sequence_len is {settings.sequence_len:,}, but the model has {config.max_position_embeddings:,} positions"
        )
        problems.append(Problem(what, str(folder), f"use sequence_len: {config.max_position_embeddings} or less"))
    try:
        require_same_vocabulary(folder, tokenizer)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    return tokenizer


def save_tokenizer(settings: ChatTrainingSettings, context: StageContext, tokenizer: Tokenizer) -> None:
    """Leave the tokenizer's files, and the template that was trained with, in the stage's `model/` folder."""
    copy_tokenizer_files(context.model_folder(settings.base_model), context.folder / "model")
    if tokenizer.chat_template:
        write_atomic(context.folder / "model" / "chat_template.jinja", tokenizer.chat_template)


# ---------------------------------------------------------------- what check can say


def passes(settings: ChatTrainingSettings, rows: float) -> float:
    """Passes over `rows` rows (packed rows, or pairs) that max_steps and num_epochs allow together."""
    limits = [settings.num_epochs] if settings.num_epochs is not None else []
    if settings.max_steps is not None and rows:
        limits.append(settings.max_steps * settings.micro_batch_size * settings.gradient_accumulation_steps / rows)
    return min(limits, default=1.0)


def check_report(
    settings: ChatTrainingSettings,
    context: StageContext,
    problems: list[Problem],
    facts: dict[str, Any],
    *,
    tokens: float,
) -> CheckReport:
    """Facts that every one of these stages has: steps, memory and FLOPs, where the base model exists already."""
    found = dict(facts)
    if settings.time_limit is not None:
        found["seconds"] = settings.time_limit
    folder = context.model_folder(settings.base_model)
    if (folder / "config.json").is_file():
        config: ModelConfig = load_config(folder)
        parameters = config.parameters()
        row_tokens = settings.micro_batch_size * settings.sequence_len
        activations = config.num_hidden_layers * (30 * config.hidden_size + 6 * config.intermediate_size)
        found["parameters"] = parameters
        found["memory_bytes"] = 16 * parameters + row_tokens * activations
        found["flops"] = int(tokens * config.flops_per_token(settings.sequence_len))
    return CheckReport(found, problems)


def check_pairs(settings: ChatTrainingSettings, context: StageContext) -> CheckReport:
    """What a stage that reads preference pairs can say: every pair read, and counted where the tokenizer exists."""
    loaded, problems, pending = check_datasets(settings.datasets, context, to_preference)
    problems += check_datasets(settings.held_out, context, to_preference)[1]
    facts: dict[str, Any] = {"rows": len(loaded.rows)}
    if pending:
        facts["not_made_yet"] = pending
    tokens = 0.0
    if loaded.rows and (context.model_folder(settings.base_model) / "tokenizer.json").is_file():
        try:
            tokenizer = open_tokenizer(settings, context)
            encoded = encode_pairs(tokenizer, loaded.rows, loaded.weights, settings.sequence_len)
            report = audit_pairs(tokenizer, encoded, loaded, [])
        except UserError as error:
            return CheckReport(facts, [*problems, *error.problems])
        weight = float(np.mean(encoded.weights))
        times = weight * passes(settings, weight * report["pairs"])
        tokens = report["tokens"] * times
        facts |= {"pairs": report["pairs"], "left_out": encoded.dropped}
        facts["trained_tokens"] = round(report["trained_tokens"] * times)
    elif loaded.rows:
        said = sum(len(str(m["content"])) for pair in loaded.rows for m in (*pair.chosen, *pair.rejected))
        facts["trained_tokens"] = round(said / CHARACTERS_PER_TOKEN * passes(settings, len(loaded.rows)))
        facts["trained_tokens_are"] = f"estimated at {CHARACTERS_PER_TOKEN} characters a token: no tokenizer yet"
    return check_report(settings, context, problems, facts, tokens=tokens)
