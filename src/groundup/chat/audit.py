"""What is about to be trained, said before it is: counts, losses of rows by reason, and coloured tokens.

`make_samples` turns conversations into samples and counts what it had to leave out; `audit` describes the samples;
`audit_text` shows it to people. Training refuses to start where nothing is trained.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from groundup.chat.formats import Conversation
from groundup.chat.masks import Encoded, UnusableConversationError, encode_samples, encode_text, truncate
from groundup.chat.row_checks import Messages
from groundup.chat.template import ChatTokenizer
from groundup.errors import UserError

ROWS_SHOWN = 3
DIM, BRIGHT, RESET = "\033[2m", "\033[1;32m", "\033[0m"


@dataclass(frozen=True)
class Samples:
    """Training samples with their weights, and what happened on the way."""

    samples: list[Encoded] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # how often each is seen in an epoch
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> conversations
    truncated: int = 0
    split_conversations: int = 0  # became one sample per turn, because the template rewrites earlier turns


def make_samples(
    tokenizer: ChatTokenizer,
    conversations: Sequence[Conversation],
    weights: Sequence[float],
    sequence_len: int,
    *,
    train_on_inputs: bool = False,
    too_long: Literal["truncate", "drop"] = "truncate",
) -> Samples:
    """Every conversation as samples of at most `sequence_len` tokens that train at least one token each."""
    made, dropped = Samples(), Counter[str]()
    truncated = split = 0
    for conversation, weight in zip(conversations, weights, strict=True):
        options: dict[str, Any] = {"where": conversation.where, "source": conversation.source}
        try:
            if conversation.text is not None:
                samples = [encode_text(tokenizer, conversation.text, **options)]
            else:
                options |= {"tools": conversation.tools, "train_on_inputs": train_on_inputs}
                samples = encode_samples(tokenizer, conversation.messages, **options)
        except UnusableConversationError as error:
            dropped[error.reason] += 1
            continue
        split += len(samples) > 1
        for sample in samples:
            is_long = len(sample.ids) > sequence_len
            if is_long and too_long == "drop":
                dropped["too long"] += 1
                continue
            cut = truncate(sample, sequence_len)
            if not cut.trained_tokens:
                dropped["the prompt alone fills sequence_len" if is_long else "no trained token"] += 1
                continue
            truncated += is_long
            made.samples.append(cut)
            made.weights.append(weight)
    return Samples(made.samples, made.weights, dict(dropped), truncated, split)


def audit(
    tokenizer: ChatTokenizer,
    samples: Samples,
    conversations: Sequence[Conversation],
    *,
    sequence_len: int,
    packed_rows: int,
    held_out: Sequence[Conversation] = (),
    bad_rows: dict[str, dict[str, int]] | None = None,
    unreachable: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Everything worth knowing about the data of one run, as `audit.json` keeps it.

    Raises UserError where not one token is trained: a run on such data would end with a loss of 0 and say nothing.
    """
    all_samples = samples.samples
    trained = [sample.trained_tokens for sample in all_samples]
    if not sum(trained):
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in samples.dropped.items()) or "no samples"
        raise UserError(
            f"not one token would be trained ({reasons})",
            fix=f"raise sequence_len (now {sequence_len:,}) if prompts are long, or check the rows' assistant turns",
        )
    prompts = Counter(_key(_prompt_of(conversation)) for conversation in conversations)
    rows = Counter(_key(_all_of(conversation)) for conversation in conversations)
    held_out_rows = {_key(_all_of(conversation)) for conversation in held_out}
    held_out_prompts = {_key(_prompt_of(conversation)) for conversation in held_out}
    tokens = [len(sample.ids) for sample in all_samples]
    sources: dict[str, dict[str, int]] = {}
    for sample, count in zip(all_samples, trained, strict=True):
        of_source = sources.setdefault(sample.source, {"samples": 0, "tokens": 0, "trained_tokens": 0})
        of_source["samples"] += 1
        of_source["tokens"] += len(sample.ids)
        of_source["trained_tokens"] += count
    return {
        "rows": len(conversations),
        "samples": len(all_samples),
        "packed_rows": packed_rows,
        "sequence_len": sequence_len,
        "fill": sum(tokens) / max(1, packed_rows * sequence_len),
        "tokens": sum(tokens),
        "trained_tokens": sum(trained),
        "trained_per_sample": _spread(trained),
        "tokens_per_sample": _spread(tokens),
        "turns_trained": sum(sample.turns for sample in all_samples),
        "eos_trained": sum(len(sample.ends) for sample in all_samples),
        "truncated": samples.truncated,
        "split_conversations": samples.split_conversations,
        "dropped": samples.dropped,
        "bad_rows": bad_rows or {},
        "unreachable": unreachable or {},
        "duplicate_rows": sum(count - 1 for count in rows.values()),
        "duplicate_prompts": sum(count - 1 for count in prompts.values()),
        "held_out_rows": len(held_out),
        "rows_also_held_out": sum(count for key, count in rows.items() if key in held_out_rows),
        "prompts_also_held_out": sum(count for key, count in prompts.items() if key in held_out_prompts),
        "sources": sources,
        "examples": [
            {"where": sample.where, "pieces": pieces(tokenizer, sample)} for sample in _one_per_source(all_samples)
        ],
    }


def pieces(tokenizer: ChatTokenizer, sample: Encoded) -> list[tuple[str, bool]]:
    """The sample as [(text, is trained), ...], one entry for each unbroken run of tokens."""
    found: list[tuple[str, bool]] = []
    start = 0
    for at in range(1, len(sample.ids) + 1):
        if at == len(sample.ids) or sample.trained[at] != sample.trained[start]:
            found.append((tokenizer.decode(sample.ids[start:at]), sample.trained[start]))
            start = at
    return found


def audit_text(report: dict[str, Any], *, colour: bool) -> str:
    """The audit for a terminal. Trained text is bright where there is colour, and in ⟦brackets⟧ where there is none."""
    lines = [
        f"  {report['samples']:,} samples in {report['packed_rows']:,} rows ({report['fill']:.0%} full), "
        f"{report['trained_tokens']:,} of {report['tokens']:,} tokens trained "
        f"({report['trained_tokens'] / max(1, report['tokens']):.0%})",
        f"  end of turn trained in {report['eos_trained']:,} of {report['turns_trained']:,} turns; "
        f"truncated {report['truncated']:,}",
    ]
    losses = [f"{reason}: {count:,}" for reason, count in report["dropped"].items()]
    losses += [f"{reason}: {n:,} ({source})" for source, why in report["bad_rows"].items() for reason, n in why.items()]
    if losses:
        lines.append(f"  left out: {'; '.join(losses)}")
    if report["split_conversations"]:
        lines.append(
            f"  {report['split_conversations']:,} conversations became one sample per assistant turn: "
            "the chat template rewrites earlier turns"
        )
    if report["prompts_also_held_out"]:
        lines.append(
            f"  {report['prompts_also_held_out']:,} prompts are also held out ({report['rows_also_held_out']:,} with "
            "the same answer): their scores will flatter"
        )
    if report["duplicate_prompts"]:
        lines.append(
            f"  repeated: {report['duplicate_prompts']:,} prompts, "
            f"{report['duplicate_rows']:,} of them with their answer"
        )
    for example in report["examples"]:
        lines.append(f"  {example['where']}")
        lines += ["    " + line for line in coloured(example["pieces"], colour=colour).splitlines()]
    return "\n".join(lines)


def coloured(runs: Iterable[tuple[str, bool]], *, colour: bool) -> str:
    before, after = (BRIGHT, RESET) if colour else ("⟦", "⟧")
    plain_before, plain_after = (DIM, RESET) if colour else ("", "")
    return "".join(
        f"{before}{text}{after}" if is_trained else f"{plain_before}{text}{plain_after}" for text, is_trained in runs
    )


def _one_per_source(samples: Sequence[Encoded]) -> list[Encoded]:
    """The first samples, from different sources where there are several."""
    firsts: dict[str, Encoded] = {}
    for sample in samples:
        firsts.setdefault(sample.source, sample)
    chosen = list(firsts.values())[:ROWS_SHOWN]
    return chosen + [s for s in samples[:ROWS_SHOWN] if not any(s is c for c in chosen)][: ROWS_SHOWN - len(chosen)]


def _spread(values: Sequence[int]) -> dict[str, float]:
    ordered = sorted(values)
    at = {"min": 0, "median": len(ordered) // 2, "p95": int(len(ordered) * 0.95), "max": len(ordered) - 1}
    return {name: ordered[min(index, len(ordered) - 1)] for name, index in at.items()} | {
        "mean": round(sum(ordered) / len(ordered), 2)
    }


def _prompt_of(conversation: Conversation) -> str:
    """All that stands before the first trained answer."""
    if conversation.text is not None:
        return conversation.text
    return _said(_before_first_trained(conversation.messages))


def _before_first_trained(messages: Messages) -> Messages:
    for at, message in enumerate(messages):
        if message["role"] == "assistant" and message.get("train", True):
            return messages[:at]
    return messages


def _all_of(conversation: Conversation) -> str:
    return conversation.text if conversation.text is not None else _said(conversation.messages)


def _said(messages: Messages) -> str:
    return "\0".join(f"{message['role']}\0{' '.join(str(message['content']).split())}" for message in messages)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
