"""Stage `pretrain`: a decoder from scratch, to predict the next token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts import StageContext, StageResult
from groundup.errors import Problem, UserError
from groundup.model.config import ModelConfig, model_config
from groundup.model.decoder import Decoder
from groundup.model.files import copy_tokenizer_files, save_model
from groundup.model.init import new_decoder
from groundup.model.loss import cross_entropy_sum
from groundup.recipe import CheckReport
from groundup.tokens.batches import TokenBatch, TokenBatches
from groundup.tokens.shards import Manifest, read_manifest, verify_shards
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.device import device_of, place, to_device
from groundup.train.engine import LossParts, train, train_options
from groundup.train.layout import layout_of, layout_problems
from groundup.train.options import steps_of_tokens
from groundup.train.precision import autocast
from groundup.train.samples import text_prompts, write_samples
from groundup.train.settings import PretrainSettings
from groundup.train.start import will_shard
from groundup.train.whole import whole_model

SAMPLE_TEMPERATURE = 0.7  # greedy text of a small base model only repeats itself


class NextToken:
    """The objective: every token of every row is a target. All is a function of the step, so there is no state."""

    is_function_of_step = True
    is_next_token = True  # a pipeline may compute its loss (pipeline.py)

    def __init__(self, batches: TokenBatches, micro_batch_size: int, *, document_mask: bool = True) -> None:
        self.batches, self.micro_batch_size, self.document_mask = batches, micro_batch_size, document_mask

    def micro_batches(self, step: int, model: Any) -> list[Any]:  # noqa: ARG002 (the batch is not sampled)
        return split_rows(self.batches.batch(step), self.micro_batch_size)

    def weight(self, micro_batch: Mapping[str, Tensor]) -> float:
        return float(micro_batch["targets"].numel())

    def loss(self, model: Decoder, micro_batch: Mapping[str, Tensor]) -> LossParts:
        document_ids = micro_batch["document_ids"] if self.document_mask else None
        hidden = model(micro_batch["input_ids"], document_ids=document_ids)  # B, T, C
        loss_sum, _ = cross_entropy_sum(hidden, model, micro_batch["targets"])
        return LossParts(loss_sum, self.weight(micro_batch))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def split_rows(batch: TokenBatch, micro_batch_size: int) -> list[Any]:
    """A step's rows as micro-batches of tensors, each `micro_batch_size, T`."""
    tensors = {name: torch.from_numpy(value) for name, value in vars(batch).items()}
    rows = len(batch.input_ids)
    return [
        {name: value[start : start + micro_batch_size] for name, value in tensors.items()}
        for start in range(0, rows, micro_batch_size)
    ]


# ---------------------------------------------------------------- the stage


def run(settings: PretrainSettings, context: StageContext) -> StageResult:
    """Build the model, train it, and leave it in `model/` with its tokenizer."""
    folder = context.input_folder(settings.tokens)
    manifest = read_manifest(folder)
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    if problems := [*_mismatches(manifest, tokenizer, folder), *_shape_problems(settings, manifest)]:
        raise UserError(problems)
    if context.team.rank == 0:
        verify_shards(folder, manifest)
    rows_per_step = settings.micro_batch_size * settings.gradient_accumulation_steps
    batches = TokenBatches(folder, settings.sequence_len, rows_per_step, context.seed)
    options = train_options(
        settings,
        seed=context.seed,
        steps_per_epoch=batches.steps_per_epoch,
        eval_steps=settings.eval_steps,
        tokens_per_step=rows_per_step * settings.sequence_len,
        data_fingerprint=manifest.fingerprint,
        batch={"rows": rows_per_step, "sequence_len": settings.sequence_len, "document_mask": settings.document_mask},
    )
    config = _config(settings, manifest, tokenizer)
    model = new_decoder(config, context.seed, deferred=will_shard(options, context.team))
    place(model, options.device)
    prompts = text_prompts(tokenizer, settings.sample_prompts)
    sampling: dict[str, Any] = {"max_new_tokens": settings.sample_tokens, "temperature": SAMPLE_TEMPERATURE}
    write_samples(whole_model(model, context), tokenizer, prompts, context, "before", **sampling)

    objective = NextToken(batches, settings.micro_batch_size, document_mask=settings.document_mask)
    held_out = _held_out(settings, folder, manifest)

    def evaluate(model: Any) -> dict[str, float]:
        return {"validation_loss": _mean_loss(model, objective, held_out, options.dtype)}

    copy_tokenizer_files(folder / "tokenizer", context.folder / "model")  # while its folder is sure to be there
    result = train(model, objective, options, context, evaluate=evaluate if held_out else None)

    save_model(model, context.shared_folder / "model")
    seen = whole_model(model, context, context.folder / "model")
    write_samples(seen, tokenizer, prompts, context, "after", **sampling)
    metrics = {"loss": result.loss, "tokens_per_second": round(result.tokens_per_second, 1)}
    if "validation_loss" in result.metrics:
        metrics["validation_loss"] = result.metrics["validation_loss"]
    counts = {"parameters": model.config.parameters(), "tokens": result.tokens, "steps": result.steps}
    return StageResult(counts=counts, metrics=metrics)


def _config(settings: PretrainSettings, manifest: Manifest, tokenizer: Tokenizer) -> ModelConfig:
    stop = tuple(tokenizer.stop_ids)
    return model_config(
        settings.model,
        vocab_size=manifest.vocab_size,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=stop if len(stop) > 1 else stop[0],
        pad_token_id=tokenizer.pad_id,
    )


def _held_out(settings: PretrainSettings, folder: Path, manifest: Manifest) -> list[Any]:
    """Micro-batches of held-out rows, or none where too little text was held out."""
    split = manifest.splits.get("held_out")
    if split is None or split.tokens <= settings.sequence_len:
        return []
    batches = TokenBatches(folder, settings.sequence_len, 1, 0, split="held_out")
    return split_rows(batches.windows(*batches.spread_rows(settings.eval_rows)), settings.micro_batch_size)


def _mean_loss(model: Decoder, objective: NextToken, micro_batches: list[Any], dtype: str) -> float:
    """Nats per token over all micro-batches."""
    total, weight = 0.0, 0.0
    for micro_batch in micro_batches:
        device = device_of(model)
        with autocast(dtype, device):
            parts = objective.loss(model, to_device(micro_batch, device))
        total += float(parts.loss_sum)
        weight += parts.weight
    return total / weight


# ---------------------------------------------------------------- what can be said before it starts


def check(settings: PretrainSettings, context: StageContext) -> CheckReport:
    """Tokens, memory, disk and FLOPs, and every mismatch between tokens, tokenizer and model that shows already."""
    problems: list[Problem] = []
    vocab_size = steps_per_epoch = None
    folder = context.input_folder(settings.tokens)
    rows_per_step = settings.micro_batch_size * settings.gradient_accumulation_steps
    try:
        if settings.max_tokens is not None:
            steps_of_tokens(settings.max_tokens, rows_per_step * settings.sequence_len)
        if folder.exists():
            manifest = read_manifest(folder)
            vocab_size = manifest.vocab_size
            problems += _mismatches(manifest, Tokenizer.from_folder(folder / "tokenizer"), folder)
            problems += _shape_problems(settings, manifest)
            steps_per_epoch = TokenBatches(folder, settings.sequence_len, rows_per_step, 0).steps_per_epoch
        else:
            problems += _shape_problems(settings, None)
        config = model_config(settings.model, **({"vocab_size": vocab_size} if vocab_size else {}))
        problems += layout_problems(layout_of(settings), config)
    except UserError as error:
        return CheckReport({}, [*problems, *error.problems])
    facts = _facts(settings, config, steps_per_epoch)
    if vocab_size is None and not (isinstance(settings.model, dict) and "vocab_size" in settings.model):
        for name in ("parameters", "memory_bytes", "flops"):  # the plan knows the tokenizer that is still to be made
            facts.pop(name, None)
    return CheckReport(facts, problems)


def _facts(settings: PretrainSettings, config: ModelConfig, steps_per_epoch: float | None) -> dict[str, Any]:
    parameters, T = config.parameters(), settings.sequence_len
    row_tokens = settings.micro_batch_size * T
    facts: dict[str, Any] = {
        "parameters": parameters,
        # weights, gradients, two moments in fp32; activations kept for the backward pass; one chunk of logits
        "memory_bytes": 16 * parameters
        + row_tokens * config.num_hidden_layers * (30 * config.hidden_size + 6 * config.intermediate_size)
        + 2 * settings.micro_batch_size * config.num_hidden_layers * config.num_attention_heads * T * T
        + 4 * row_tokens * config.vocab_size,
    }
    horizons = [settings.max_steps] if settings.max_steps is not None else []
    if settings.num_epochs is not None and steps_per_epoch is not None:
        horizons.append(max(1, round(settings.num_epochs * steps_per_epoch)))
    if settings.max_tokens is not None:
        horizons.append(settings.max_tokens // (row_tokens * settings.gradient_accumulation_steps))
    if horizons:
        facts["steps"] = min(horizons)
        facts["trained_tokens"] = min(horizons) * row_tokens * settings.gradient_accumulation_steps
        facts["flops"] = facts["trained_tokens"] * config.flops_per_token(T)
    if settings.time_limit is not None:
        facts["seconds"] = settings.time_limit
    return facts


def _mismatches(manifest: Manifest, tokenizer: Tokenizer, folder: Path) -> list[Problem]:
    if manifest.tokenizer_fingerprint == tokenizer.fingerprint:
        return []
    what = "the tokenizer beside these shards is not the one that made them"
    return [Problem(what, str(folder), "run the `tokens` stage again")]


def _shape_problems(settings: PretrainSettings, manifest: Manifest | None) -> list[Problem]:
    problems = []
    wanted = settings.model.get("vocab_size") if isinstance(settings.model, dict) else None
    if manifest is not None and wanted is not None and wanted != manifest.vocab_size:
        problems.append(
            Problem(
                f"the model's vocab_size is {wanted:,}, the tokenizer has {manifest.vocab_size:,} ids",
                fix=f"leave vocab_size out, or write {manifest.vocab_size}",
            )
        )
    limit = model_config(settings.model).max_position_embeddings
    if settings.sequence_len > limit:
        problems.append(
            Problem(
                f"sequence_len is {settings.sequence_len:,}, but the model has {limit:,} positions",
                fix=f"use sequence_len {limit} or less, or set the model's max_position_embeddings",
            )
        )
    return problems
