"""The row formats people have, turned into conversations, preferences and prompts; every row is checked first.

Accepted (columns): `messages`; `prompt` + `completion`; `text`; alpaca's `instruction` (`input`, `system`, `history`) +
`output`; sharegpt's `conversations`; preferences `chosen` + `rejected` with or without `prompt`, plain, conversational,
alpaca-like, sharegpt-like or as HH-RLHF transcripts; `prompt` alone for reinforcement learning. Names as in TRL,
LLaMA-Factory and Axolotl. A plain `prompt` is a user turn and a plain `completion` the assistant's answer.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeVar

from groundup.chat.row_checks import (
    ANSWER_NAMES,
    COLUMNS,
    BadRowError,
    Messages,
    check_messages,
    check_tools,
    filled_text,
    missing_answer,
    missing_fix,
    require_trained_turn,
    required,
)
from groundup.chat.rows import BadRow, Row, type_name
from groundup.errors import Problem

ACCEPTED = (
    "messages | prompt + completion | text | instruction (input) + output | conversations | "
    "chosen + rejected (prompt) | prompt"
)


@dataclass(frozen=True)
class Conversation:
    """A chat to train on: `messages`, or plain `text` that is trained whole."""

    messages: Messages
    where: str = ""
    source: str = ""
    text: str | None = None
    tools: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the first of which people (or a verifier) preferred."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    where: str = ""
    source: str = ""
    margin: float = 0.0


@dataclass(frozen=True)
class Prompt:
    """Something to answer. `columns` are the row's other values, for whoever scores the answer."""

    messages: Messages
    where: str = ""
    source: str = ""
    columns: dict[str, Any] = field(default_factory=dict)


T = TypeVar("T")


# ---------------------------------------------------------------- rows -> what a stage needs


def to_conversation(row: Row, format: str, source: str = "") -> Conversation:
    """One supervised row. Raises (through `convert_rows`) where it has nothing to train or is malformed."""
    values = row.values
    if format == "text":
        return Conversation((), row.where, source, text=filled_text(values, "text"))
    if format == "preference":
        raise BadRowError(
            "preference row", "this is a preference row (chosen, rejected)", "use it in `reward` or `dpo`"
        )
    if format == "prompt":
        raise BadRowError("no completion", "there is a `prompt` and no `completion`", missing_fix(values, "completion"))
    if isinstance(values.get("label"), bool):
        fix = "keep the rows with label true, without the `label` column"
        raise BadRowError("unpaired preference", "`label` says whether this answer is good", fix)
    messages = {
        "messages": _from_messages,
        "prompt_completion": _from_prompt_completion,
        "alpaca": lambda values: _from_alpaca(values, "output"),
        "sharegpt": _from_sharegpt,
    }[format](values)
    require_trained_turn(messages, "messages" if format == "messages" else "the conversation")
    return Conversation(messages, row.where, source, tools=check_tools(values))


def to_preference(row: Row, format: str = "preference", source: str = "") -> Preference:
    """One pair. Without `prompt` the common beginning of both conversations is the prompt."""
    values = row.values
    if format not in ("preference", "auto"):
        fix = "use it in `sft`, or give rows with `chosen` and `rejected`"
        raise BadRowError("no pair", f"this is a row to imitate ({format}), not a pair to compare", fix)
    for name in ("chosen", "rejected"):
        if values.get(name) is None:
            raise BadRowError(f"no {name}", f"there is no `{name}`", missing_fix(values, name))
    if isinstance(values["chosen"], str) and values["chosen"].startswith("\n\nHuman:") and not values.get("prompt"):
        values = {**values, **{name: _from_transcript(values[name], name) for name in ("chosen", "rejected")}}
    chosen, rejected = _answer(values["chosen"], "chosen"), _answer(values["rejected"], "rejected")
    if "prompt" in values:
        prompt = _prompt_messages(values["prompt"])
    elif "conversations" in values:
        prompt = _from_sharegpt(values)
    elif "instruction" in values:
        prompt = _from_alpaca(values, None)
    else:
        prompt, chosen, rejected = _split_common(chosen, rejected)
    if not prompt:
        fix = "add `prompt`, or make both of them lists of messages that begin with it"
        raise BadRowError("no prompt", "`chosen` and `rejected` have no prompt in common", fix)
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[-1]["role"] != "assistant":
            found = answer[-1]["role"] if answer else "nothing"
            fix = "end both answers with an assistant turn"
            raise BadRowError("no assistant turn", f"`{name}` ends with {found}, not with the assistant", fix)
    if [_said(message) for message in chosen] == [_said(message) for message in rejected]:
        raise BadRowError(
            "chosen equals rejected", "`chosen` and `rejected` are the same", "drop this row: it says nothing"
        )
    margin = values.get("margin")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float)):
        raise BadRowError("bad margin", f"`margin` is {type_name(margin)}", "give a number, or leave it out")
    return Preference(_untrained(prompt), chosen, rejected, row.where, source, float(margin or 0.0))


def to_prompt(row: Row, format: str = "prompt", source: str = "") -> Prompt:
    """One prompt for reinforcement learning, with the row's other columns."""
    values = row.values
    if values.get("prompt") is not None:
        messages = _prompt_messages(values["prompt"])
    elif format == "messages":
        messages = _from_messages(values)
    elif format == "sharegpt":
        messages = _from_sharegpt(values)
    elif format == "alpaca":
        messages = _from_alpaca(values, None)
    else:
        raise BadRowError("no prompt", "there is no `prompt`", missing_fix(values, "prompt"))
    while messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise BadRowError("no prompt", "nothing stands before the assistant's turn", "begin with a user turn")
    others = {name: value for name, value in values.items() if name not in ("prompt", "messages", "conversations")}
    return Prompt(_untrained(messages), row.where, source, others)


# ---------------------------------------------------------------- detection, and converting a whole file


def detect_format(columns: Sequence[str]) -> str | None:
    """The format that a row's column names mean, or None."""
    have = set(columns)
    for name, needed in (
        ("preference", {"chosen", "rejected"}),
        ("messages", {"messages"}),
        ("sharegpt", {"conversations"}),
        ("prompt_completion", {"prompt", "completion"}),
        ("alpaca", {"instruction", "output"}),
        ("text", {"text"}),
        ("preference", {"chosen"}),  # half a pair: the row is told what it lacks
        ("preference", {"rejected"}),
        ("prompt", {"prompt"}),
    ):
        if needed <= have:
            return name
    return None


def convert_rows(
    rows: Sequence[Row],
    convert: Callable[[Row, str, str], T],
    *,
    format: str = "auto",
    columns: dict[str, str] | None = None,
    source: str = "",
) -> tuple[list[T], list[BadRow]]:
    """Every row converted, or named with what is wrong with it.

    The format of a file is the one that most of its rows have; a row with other columns is a bad row, so that one typo
    in the first line does not condemn the rest.
    """
    renamed = [_renamed(row, columns or {}) for row in rows]
    if format == "auto":
        seen = Counter(detect_format(tuple(row.values)) for row in renamed)
        seen.pop(None, None)
        format = seen.most_common(1)[0][0] or "" if seen else ""
    good: list[T] = []
    bad: list[BadRow] = []
    for row in renamed:
        try:
            if not format:
                raise _unknown_columns(row)
            good.append(convert(row, format, source))
        except BadRowError as error:
            bad.append(BadRow(error.reason, Problem(error.what, row.where, error.fix)))
    return good, bad


def _renamed(row: Row, columns: dict[str, str]) -> Row:
    actual_to_ours = {actual: ours for ours, actual in columns.items()}
    return Row({actual_to_ours.get(name, name): value for name, value in row.values.items()}, row.where)


def _unknown_columns(row: Row) -> BadRowError:
    found = ", ".join(row.values) or "none"
    for name in row.values:
        near = get_close_matches(name, COLUMNS, n=1, cutoff=0.75)
        ours = missing_answer(row.values) if name in ANSWER_NAMES else near[0] if near and near[0] != name else ""
        if ours:
            fix = f"if `{name}` is `{ours}`, say so: `columns: {{{ours}: {name}}}`; accepted columns: {ACCEPTED}"
            return BadRowError("unknown columns", f"the columns are {found}, which is no known format", fix)
    return BadRowError("unknown columns", f"the columns are {found}, which is no known format", f"accepted: {ACCEPTED}")


# ---------------------------------------------------------------- one format each


def _from_messages(values: dict[str, Any]) -> Messages:
    return check_messages(required(values, "messages"), "messages")


def _from_prompt_completion(values: dict[str, Any]) -> Messages:
    prompt = _prompt_messages(required(values, "prompt"))
    return _untrained(prompt) + _answer(required(values, "completion"), "completion")


def _from_alpaca(values: dict[str, Any], answer_column: str | None) -> Messages:
    messages: list[dict[str, Any]] = []
    if values.get("system"):
        messages.append({"role": "system", "content": filled_text(values, "system")})
    history = values.get("history") or []
    if not isinstance(history, list | tuple):
        raise BadRowError("bad history", f"`history` is {type_name(history)}", "give [[question, answer], ...]")
    for number, exchange in enumerate(history):
        if not (
            isinstance(exchange, list | tuple) and len(exchange) == 2 and all(isinstance(t, str) for t in exchange)
        ):
            fix = "give `history` as [[question, answer], ...]"
            raise BadRowError("bad history", f"history[{number}] is not a question and an answer", fix)
        messages += [{"role": "user", "content": exchange[0]}, {"role": "assistant", "content": exchange[1]}]
    question = filled_text(values, "instruction")
    addition = values.get("input")
    if addition is not None and not isinstance(addition, str):
        raise BadRowError("wrong type", f"`input` is {type_name(addition)}", "give a text, or leave it out")
    messages.append({"role": "user", "content": f"{question}\n{addition}" if addition else question})
    if answer_column is not None:
        messages.append({"role": "assistant", "content": filled_text(values, answer_column, "empty completion")})
    return tuple(messages)


def _from_sharegpt(values: dict[str, Any]) -> Messages:
    turns = required(values, "conversations")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict) and "role" in turns[0]:
        messages = check_messages(turns, "conversations")
    else:
        messages = check_messages(turns, "conversations", role_key="from", content_key="value")
    if values.get("system"):
        messages = ({"role": "system", "content": filled_text(values, "system")}, *messages)
    return messages


def _from_transcript(text: str, field_name: str) -> list[dict[str, Any]]:
    r"""HH-RLHF's `\n\nHuman: ...\n\nAssistant: ...` as messages."""
    parts = re.split(r"\n\n(Human|Assistant):", text)
    if len(parts) < 3 or parts[0].strip():
        fix = "a transcript is \\n\\nHuman: ...\\n\\nAssistant: ..."
        raise BadRowError("bad transcript", f"`{field_name}` is not a transcript of Human and Assistant", fix)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]


def _prompt_messages(value: Any) -> Messages:
    if isinstance(value, str):
        return ({"role": "user", "content": filled_text({"prompt": value}, "prompt")},)
    return check_messages(value, "prompt")


def _answer(value: Any, name: str) -> Messages:
    """A text, one message or a list of messages as assistant turns."""
    if isinstance(value, str):
        return ({"role": "assistant", "content": filled_text({name: value}, name, "empty completion")},)
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and isinstance(value[0], dict) and "from" in value[0]:
        return check_messages(value, name, role_key="from", content_key="value")
    return check_messages(value, name)


def _split_common(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """The common beginning of two conversations, and what follows; both keep at least their last turn."""
    common = 0
    while common < min(len(chosen), len(rejected)) - 1 and _said(chosen[common]) == _said(rejected[common]):
        common += 1
    return chosen[:common], chosen[common:], rejected[common:]


def _said(message: dict[str, Any]) -> tuple[Any, ...]:
    return message["role"], message["content"], json.dumps(message.get("tool_calls"), default=str)


def _untrained(messages: Messages) -> Messages:
    """Earlier assistant turns are context, not something to learn."""
    return tuple({**m, "train": False} if m["role"] == "assistant" else m for m in messages)
