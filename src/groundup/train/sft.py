"""Stage `sft`: fine-tune on conversations. What the assistant says is trained, and the token that ends its turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from groundup.artifacts import StageContext, StageResult, write_json
from groundup.chat.audit import Samples, audit, audit_text, make_samples
from groundup.chat.datasets import Loaded, check_datasets, load_conversations
from groundup.chat.formats import Conversation, to_conversation
from groundup.chat.masks import Encoded
from groundup.chat.packing import PackedRow, batch_rows, join, pack
from groundup.chat.row_checks import Messages
from groundup.chat.template import prompt_ids
from groundup.errors import Problem, UserError
from groundup.model.decoder import Decoder
from groundup.model.files import save_model
from groundup.model.generate import Sampling, generate
from groundup.model.loss import cross_entropy_sum
from groundup.recipe import CheckReport
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.chat_data import (
    CHARACTERS_PER_TOKEN,
    RowOrder,
    check_report,
    data_fingerprint,
    open_tokenizer,
    parts,
    passes,
    repeat_by_weight,
    save_tokenizer,
    tensors_of,
    weights_fingerprint,
)
from groundup.train.device import device_of, to_device
from groundup.train.engine import LossParts, train, train_options
from groundup.train.precision import autocast
from groundup.train.samples import SamplePrompt, write_samples
from groundup.train.settings import SftSettings
from groundup.train.whole import model_to_train, whole_model

SAMPLES_SHOWN = 4
STOP_PROMPTS = 16  # replies that are generated to see whether the model has learned to stop
STOP_TOKENS = 64
TOKENS_AROUND_A_TURN = 5  # of a chat template: role and control tokens


class ChatTurns:
    """The objective: cross entropy of the trained tokens, summed. All is a function of the step: there is no state."""

    is_function_of_step = True

    def __init__(self, rows: Sequence[PackedRow], order: RowOrder, micro_batch_size: int, pad_id: int) -> None:
        self.rows, self.order, self.micro_batch_size, self.pad_id = rows, order, micro_batch_size, pad_id

    def micro_batches(self, step: int, model: Any) -> list[Any]:  # noqa: ARG002 (the batch is not sampled)
        return self.batches([self.rows[index] for index in self.order.at(step)])

    def batches(self, rows: Sequence[PackedRow]) -> list[Any]:
        """Rows of one update as micro-batches; those of like length together, so that little is padded."""
        by_length = sorted(rows, key=lambda row: -len(row.ids))
        return [tensors_of(batch_rows(part, self.pad_id)) for part in parts(by_length, self.micro_batch_size)]

    def weight(self, micro_batch: Any) -> float:
        return float(micro_batch["weights"].sum())

    def loss(self, model: Decoder, micro_batch: Any) -> LossParts:
        document_ids = micro_batch["document_ids"]
        hidden = model(micro_batch["input_ids"], document_ids=document_ids)  # B, T, C
        loss_sum, _ = cross_entropy_sum(hidden, model, micro_batch["targets"], micro_batch["weights"])
        return LossParts(loss_sum, self.weight(micro_batch), tokens=int((document_ids >= 0).sum()))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


# ---------------------------------------------------------------- the stage


def run(settings: SftSettings, context: StageContext) -> StageResult:
    """Audit the data, train, and leave the model in `model/`, `audit.json` and `samples.jsonl`."""
    tokenizer = open_tokenizer(settings, context)
    loaded = load_conversations(settings.datasets, context)
    held_out = load_conversations(settings.held_out, context) if settings.held_out else Loaded[Conversation]()
    samples = _samples(settings, tokenizer, loaded)
    rows = make_rows(settings, samples)
    report = audit(
        tokenizer,
        samples,
        loaded.rows,
        sequence_len=settings.sequence_len,
        packed_rows=len(rows),
        held_out=held_out.rows,
        bad_rows=loaded.bad,
        unreachable=loaded.unreachable,
    )
    write_json(context.folder / "audit.json", report)
    context.console.info(audit_text(report, colour=context.console.is_terminal))

    rows_per_step = settings.micro_batch_size * settings.gradient_accumulation_steps
    order = RowOrder(len(rows), rows_per_step, context.seed)
    objective = ChatTurns(rows, order, settings.micro_batch_size, tokenizer.pad_id)
    options = train_options(
        settings,
        seed=context.seed,
        steps_per_epoch=order.steps_per_epoch,
        tokens_per_step=sum(len(row.ids) for row in rows) / max(1, len(rows)) * rows_per_step,
        data_fingerprint=data_fingerprint(rows),
        batch={"rows": rows_per_step, "base_model": weights_fingerprint(settings, context)},
    )
    held_out_rows = make_rows(settings, _samples(settings, tokenizer, held_out)) if held_out.rows else []

    def evaluate(model: Any) -> dict[str, float]:
        return {"validation_loss": mean_loss(model, objective, held_out_rows, options.dtype)}

    model = model_to_train(context.model_folder(settings.base_model), options, context)
    prompts = sample_prompts(settings, tokenizer, held_out.rows or loaded.rows)
    shown = {"max_new_tokens": settings.sample_tokens}
    write_samples(whole_model(model, context), tokenizer, prompts, context, "before", **shown)
    result = train(model, objective, options, context, evaluate=evaluate if held_out_rows else None)

    end_ids = stop_ids(tokenizer, samples.samples)
    save_tokenizer(settings, context, tokenizer)
    save_model(model, context.shared_folder / "model", generation={"eos_token_id": end_ids})
    seen = whole_model(model, context, context.folder / "model")
    write_samples(seen, tokenizer, prompts, context, "after", **shown)
    asked = held_out.rows or loaded.rows
    stopping = None if seen is None else share_that_stops(seen, tokenizer, asked, end_ids)
    if stopping is not None and stopping < 0.5:
        context.console.warn(
            f"only {stopping:.0%} of {STOP_PROMPTS} greedy replies end within {STOP_TOKENS} tokens: train for longer"
        )
    metrics = {"loss": result.loss, "tokens_per_second": round(result.tokens_per_second, 1)}
    metrics |= {"replies_that_stop": stopping} if stopping is not None else {}
    metrics |= {name: value for name, value in result.metrics.items() if name == "validation_loss"}
    counts = {name: report[name] for name in ("rows", "samples", "trained_tokens", "truncated")}
    counts |= {"steps": result.steps, "left_out": sum(samples.dropped.values()), "eos_trained": report["eos_trained"]}
    return StageResult(counts=counts, metrics=metrics)


def _samples(settings: SftSettings, tokenizer: Tokenizer, loaded: Loaded[Conversation]) -> Samples:
    return make_samples(
        tokenizer,
        loaded.rows,
        loaded.weights,
        settings.sequence_len,
        train_on_inputs=settings.train_on_inputs,
        too_long=settings.excess_length,
    )


def make_rows(settings: SftSettings, samples: Samples) -> list[PackedRow]:
    """The rows of one epoch: packed, or one sample each."""
    epoch = repeat_by_weight(samples.samples, samples.weights)
    if settings.sample_packing:
        return pack(epoch, settings.sequence_len)
    return [join([sample]) for sample in epoch]


def mean_loss(model: Decoder, objective: ChatTurns, rows: Sequence[PackedRow], dtype: str) -> float:
    """Nats per trained token over all rows."""
    total = weight = 0.0
    with torch.no_grad():
        for micro_batch in objective.batches(rows):
            device = device_of(model)
            with autocast(dtype, device):
                loss = objective.loss(model, to_device(micro_batch, device))
            total += float(loss.loss_sum)
            weight += loss.weight
    return total / max(weight, 1.0)


# ---------------------------------------------------------------- what it says, before and after


def sample_prompts(
    settings: SftSettings, tokenizer: Tokenizer, conversations: Sequence[Conversation]
) -> list[SamplePrompt]:
    """The recipe's prompts, else the first questions of the data, one a source while there are any."""
    asked: list[Messages] = [({"role": "user", "content": text},) for text in settings.sample_prompts]
    if not asked:
        seen: dict[str, Messages] = {}
        for conversation in conversations:
            question = tuple(conversation.messages[: _first_answer(conversation.messages)])
            if question and question[-1]["role"] == "user":
                seen.setdefault(f"{conversation.source}/{conversation.where.rsplit(':', 1)[0]}", question)
        asked = list(seen.values())[:SAMPLES_SHOWN]
    room = settings.sequence_len
    prompts = [SamplePrompt(str(messages[-1]["content"]), prompt_ids(tokenizer, messages)) for messages in asked]
    return [prompt for prompt in prompts if len(prompt.ids) < room]


def _first_answer(messages: Messages) -> int:
    return next((at for at, message in enumerate(messages) if message["role"] == "assistant"), 0)


def stop_ids(tokenizer: Tokenizer, samples: Sequence[Encoded]) -> list[int]:
    """Ids that end a reply: every end-of-turn token that was trained, then the tokenizer's own."""
    trained = {sample.ids[end]: None for sample in samples for end in sample.ends}
    return list(dict.fromkeys([*trained, *tokenizer.stop_ids]))


def share_that_stops(
    model: Decoder, tokenizer: Tokenizer, conversations: Sequence[Conversation], end_ids: Sequence[int]
) -> float | None:
    """Share of greedy replies that end by themselves, over some of the questions; None where there are no questions."""
    prompts = []
    for conversation in conversations[:: max(1, len(conversations) // STOP_PROMPTS)][:STOP_PROMPTS]:
        if before := _first_answer(conversation.messages):
            ids = prompt_ids(tokenizer, conversation.messages[:before], tools=conversation.tools)
            if len(ids) + STOP_TOKENS <= model.config.max_position_embeddings:
                prompts.append(ids)
    if not prompts:
        return None
    sampling = Sampling(max_new_tokens=STOP_TOKENS, temperature=0.0, stop_ids=tuple(end_ids))
    model.eval()
    with torch.no_grad():
        completions = generate(model, prompts, sampling)
    return sum(completion.finished for completion in completions) / len(completions)


# ---------------------------------------------------------------- before it starts


def check(settings: SftSettings, context: StageContext) -> CheckReport:
    """Every row read and checked; what would be trained, counted where the tokenizer exists, else estimated."""
    loaded, problems, pending = check_datasets([*settings.datasets], context, to_conversation)
    _, held_out_problems, _ = check_datasets(settings.held_out, context, to_conversation)
    problems += held_out_problems
    facts: dict[str, Any] = {"rows": len(loaded.rows)}
    if pending:
        facts["not_made_yet"] = pending
    tokens = 0.0
    if loaded.rows and (context.model_folder(settings.base_model) / "tokenizer.json").is_file():
        try:
            samples = _samples(settings, open_tokenizer(settings, context), loaded)
        except UserError as error:
            return CheckReport(facts, [*problems, *error.problems])
        per_epoch = sum(sample.trained_tokens * w for sample, w in zip(samples.samples, samples.weights, strict=True))
        tokens = sum(len(sample.ids) * w for sample, w in zip(samples.samples, samples.weights, strict=True))
        times = passes(settings, len(make_rows(settings, samples)))
        tokens *= times
        facts["trained_tokens"] = round(per_epoch * times)
        facts["left_out"] = samples.dropped
        if not per_epoch:
            fix = f"raise sequence_len (now {settings.sequence_len:,}) if prompts are long"
            why = ", ".join(f"{reason}: {rows:,}" for reason, rows in samples.dropped.items()) or "no row"
            where = ", ".join(dataset.name for dataset in settings.datasets)
            problems.append(Problem(f"not one token would be trained ({why})", where, fix))
    elif loaded.rows:
        said = sum(
            len(str(message["content"]))
            for conversation in loaded.rows
            for message in (*conversation.messages, {"role": "assistant", "content": conversation.text or ""})
            if message["role"] == "assistant" and message.get("train", True)
        )
        times = passes(settings, _rows_estimate(settings, loaded.rows))
        facts["trained_tokens"] = round(said / CHARACTERS_PER_TOKEN * times)
        facts["trained_tokens_are"] = f"estimated at {CHARACTERS_PER_TOKEN} characters a token: no tokenizer yet"
    return check_report(settings, context, problems, facts, tokens=tokens)


def _rows_estimate(settings: SftSettings, conversations: Sequence[Conversation]) -> float:
    """Packed rows of one epoch, from characters: there is no tokenizer yet."""
    if not settings.sample_packing:
        return len(conversations)
    messages = [message for conversation in conversations for message in conversation.messages]
    texts = [str(message["content"]) for message in messages] + [c.text for c in conversations if c.text]
    tokens = sum(len(text) for text in texts) / CHARACTERS_PER_TOKEN + TOKENS_AROUND_A_TURN * len(messages)
    return max(1.0, tokens / settings.sequence_len)
