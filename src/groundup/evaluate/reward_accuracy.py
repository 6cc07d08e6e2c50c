"""How often a reward model prefers the better of two replies, on pairs that its training never saw.

Equal rewards count half and are told. Beside it stands what a rule would reach that only looks at length: a reward
model that is no better has learned to count characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from groundup.chat.formats import Preference, convert_rows, to_preference
from groundup.chat.masks import UnusableConversationError, encode_answer
from groundup.chat.rows import read_rows
from groundup.chat.scoring import load_reward_model, score_texts
from groundup.errors import Problem, UserError
from groundup.evaluate.stats import wilson
from groundup.tokens.tokenizer import Tokenizer

PAIRS_AT_ONCE = 64
PROBLEMS_SHOWN = 20


def held_out_pairs(path: Path) -> list[Preference]:
    """The pairs of a `pairs` stage that were held out, or those of any file of pairs. Every bad row is named."""
    file = path / "held_out.jsonl" if (path / "held_out.jsonl").is_file() else path
    is_empty = file.is_file() and file.stat().st_size == 0  # a `pairs` stage with `held_out: 0`
    rows, unreadable = ([], []) if is_empty else read_rows(file)
    pairs, malformed = convert_rows(rows, to_preference)
    bad = [*unreadable, *malformed]
    if bad:
        problems = [row.problem for row in bad[:PROBLEMS_SHOWN]]
        more = [Problem(f"and {len(bad) - PROBLEMS_SHOWN:,} rows more")] if len(bad) > PROBLEMS_SHOWN else []
        raise UserError([*problems, *more])
    if not pairs:
        raise UserError(
            "no pairs were held out, so the reward model cannot be examined",
            where=str(file),
            fix="ask for more prompts, or hold out a larger share, in the `pairs` stage",
        )
    return pairs


def score_pairs(
    folder: Path, pairs: Sequence[Preference], *, progress: Callable[[int], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Rewards of both replies of each pair, and `correct`: 1, 0, or 0.5 for a tie; or `left_out`: why it has none."""
    reward, tokenizer = load_reward_model(folder), Tokenizer.from_folder(folder)
    items: list[dict[str, Any]] = []
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = []
        for pair in pairs[start : start + PAIRS_AT_ONCE]:
            if (reason := unusable(tokenizer, pair)) is None:
                part.append(pair)
            else:
                items.append({"prompt": _text(pair.prompt), "where": pair.where, "left_out": reason})
        texts = [[*pair.prompt, *reply] for pair in part for reply in (pair.chosen, pair.rejected)]
        scores = score_texts(reward, tokenizer, texts) if texts else []
        for pair, chosen, rejected in zip(part, scores[::2], scores[1::2], strict=True):
            items.append(
                {
                    "prompt": _text(pair.prompt),
                    "chosen": _text(pair.chosen),
                    "rejected": _text(pair.rejected),
                    "chosen_reward": chosen,
                    "rejected_reward": rejected,
                    "correct": preference(chosen, rejected),
                    "longer_is_better": preference(len(_text(pair.chosen)), len(_text(pair.rejected))),
                }
            )
        progress(len(items))
    return items


def unusable(tokenizer: Tokenizer, pair: Preference) -> str | None:
    """Why a pair cannot be put to a model, as training counts it; None where it can."""
    try:
        for reply in (pair.chosen, pair.rejected):
            encode_answer(tokenizer, pair.prompt, reply)
    except UnusableConversationError as error:
        return error.reason
    return None


def preference(chosen: float, rejected: float) -> float:
    """1 where the chosen one is higher, 0.5 for a tie."""
    return 1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0


def judge_pairs(items: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """`{value, low, high, n, correct, ties, left_out, length_only}`.

    `left_out` counts the pairs that could not be scored, by reason; `length_only` is the better of "longer wins" and
    "shorter wins".
    """
    left_out = Counter(item["left_out"] for item in items if "left_out" in item)
    items = [item for item in items if "left_out" not in item]
    if not items:
        raise UserError(f"not one held-out pair can be scored: {dict(left_out)}", fix="mend the pairs")
    n, correct = len(items), sum(item["correct"] for item in items)
    longer = sum(item["longer_is_better"] for item in items)
    interval = wilson(correct, n, confidence)
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": n,
        "correct": correct,
        "ties": sum(item["correct"] == 0.5 for item in items),
        "left_out": dict(left_out),
        "length_only": {"value": max(longer, n - longer) / n, "rule": "longer" if longer >= n - longer else "shorter"},
    }


def _text(messages: Sequence[Any]) -> str:
    return str(messages[-1].get("content") or "")
