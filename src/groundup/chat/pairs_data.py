"""Preference pairs as token sequences, and what is about to be compared: the audit of `reward` and `dpo`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from groundup.chat.audit import coloured, pieces
from groundup.chat.datasets import Loaded
from groundup.chat.formats import Preference
from groundup.chat.masks import Encoded, UnusableConversationError, encode_answer
from groundup.chat.template import ChatTokenizer
from groundup.errors import UserError

PAIRS_SHOWN = 3


@dataclass(frozen=True)
class EncodedPair:
    """Two samples with the same prompt; `trained` marks the answer, whose last token is the end of turn."""

    chosen: Encoded
    rejected: Encoded
    margin: float = 0.0
    where: str = ""


@dataclass(frozen=True)
class EncodedPairs:
    pairs: list[EncodedPair] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> pairs


def encode_pairs(
    tokenizer: ChatTokenizer, preferences: Sequence[Preference], weights: Sequence[float], sequence_len: int
) -> EncodedPairs:
    """Every pair whose two answers both fit. None is truncated: that would compare other texts than people did."""
    made, dropped = EncodedPairs(), Counter[str]()
    for preference, weight in zip(preferences, weights, strict=True):
        try:
            chosen, rejected = (
                encode_answer(tokenizer, preference.prompt, answer, where=preference.where)
                for answer in (preference.chosen, preference.rejected)
            )
        except UnusableConversationError as error:
            dropped[error.reason] += 1
            continue
        if max(len(chosen.ids), len(rejected.ids)) > sequence_len:
            dropped["too long"] += 1
        elif chosen.ids == rejected.ids:
            dropped["both answers are the same tokens"] += 1
        else:
            made.pairs.append(EncodedPair(chosen, rejected, preference.margin, preference.where))
            made.weights.append(weight)
    return EncodedPairs(made.pairs, made.weights, dict(dropped))


def audit_pairs(
    tokenizer: ChatTokenizer, encoded: EncodedPairs, loaded: Loaded[Preference], held_out: Sequence[Preference]
) -> dict[str, Any]:
    """Counts, lengths and overlaps of the pairs; raises UserError where there is not one pair to compare."""
    pairs = encoded.pairs
    if not pairs:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in encoded.dropped.items()) or "no pairs"
        raise UserError(
            f"there is not one pair to compare ({reasons})", fix="raise sequence_len, or add pairs that fit"
        )
    prompts = Counter(_key(preference.prompt) for preference in loaded.rows)
    held_out_prompts = {_key(preference.prompt) for preference in held_out}
    chosen, rejected = ([p.chosen.trained_tokens for p in pairs], [p.rejected.trained_tokens for p in pairs])
    longer = sum(c > r for c, r in zip(chosen, rejected, strict=True))
    return {
        "rows": len(loaded.rows),
        "pairs": len(pairs),
        "trained_tokens": sum(chosen) + sum(rejected),
        "tokens": sum(len(p.chosen.ids) + len(p.rejected.ids) for p in pairs),
        "chosen_tokens_mean": round(sum(chosen) / len(pairs), 2),
        "rejected_tokens_mean": round(sum(rejected) / len(pairs), 2),
        "chosen_is_longer": round(longer / len(pairs), 4),
        "eos_trained": sum(len(p.chosen.ends[-1:]) + len(p.rejected.ends[-1:]) for p in pairs),
        "dropped": encoded.dropped,
        "bad_rows": loaded.bad,
        "unreachable": loaded.unreachable,
        "duplicate_prompts": sum(count - 1 for count in prompts.values()),
        "held_out_rows": len(held_out),
        "prompts_also_held_out": sum(count for key, count in prompts.items() if key in held_out_prompts),
        "sources": loaded.used,
        "examples": [
            {
                "where": pair.where,
                "chosen": pieces(tokenizer, pair.chosen),
                "rejected": pieces(tokenizer, pair.rejected),
            }
            for pair in pairs[:PAIRS_SHOWN]
        ],
    }


def audit_pairs_text(report: dict[str, Any], *, colour: bool) -> str:
    """The audit for a terminal."""
    lines = [
        f"  {report['pairs']:,} pairs; answers of {report['chosen_tokens_mean']:,.1f} (chosen) and "
        f"{report['rejected_tokens_mean']:,.1f} tokens (rejected) in the mean; the chosen one is the longer in "
        f"{report['chosen_is_longer']:.0%}",
        f"  end of turn seen in {report['eos_trained']:,} of {2 * report['pairs']:,} answers",
    ]
    losses = [f"{reason}: {count:,}" for reason, count in report["dropped"].items()]
    losses += [f"{reason}: {n:,} ({source})" for source, why in report["bad_rows"].items() for reason, n in why.items()]
    if losses:
        lines.append(f"  left out: {'; '.join(losses)}")
    if report["prompts_also_held_out"]:
        lines.append(f"  {report['prompts_also_held_out']:,} prompts are also held out: their scores will flatter")
    for example in report["examples"]:
        lines.append(f"  {example['where']}")
        for name in ("chosen", "rejected"):
            shown = coloured(example[name], colour=colour).splitlines()
            lines += [f"    {name}: {shown[0]}", *("      " + line for line in shown[1:])]
    return "\n".join(lines)


def _key(messages: Sequence[dict[str, Any]]) -> str:
    return "\0".join(f"{message['role']}\0{' '.join(str(message['content']).split())}" for message in messages)
