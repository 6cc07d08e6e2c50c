"""Checks of the values inside a row: each says what is wrong, what was expected and what would work."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Any

from groundup.chat.rows import type_name

Messages = tuple[dict[str, Any], ...]
ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
ANSWER_NAMES = ("response", "answer", "reply", "target")  # what people call a completion in files of their own
COLUMNS = (
    *("messages", "prompt", "completion", "text", "instruction", "input", "output", "system", "history"),
    *("conversations", "tools", "chosen", "rejected", "margin"),
)


class BadRowError(Exception):
    """A row that cannot be used. `reason` is what the counts are grouped by."""

    def __init__(self, reason: str, what: str, fix: str = "") -> None:
        self.reason, self.what, self.fix = reason, what, fix
        super().__init__(what)


def check_messages(value: Any, name: str, *, role_key: str = "role", content_key: str = "content") -> Messages:
    """A non-empty list of messages, each checked; `name` is how the column is called in messages to people."""
    if not isinstance(value, list | tuple):
        fix = f'give a list such as [{{"{role_key}": "...", "{content_key}": "..."}}, ...]'
        raise BadRowError("wrong type", f"`{name}` is {type_name(value)}, not a list of messages", fix)
    if not value:
        raise BadRowError("empty messages", f"`{name}` is an empty list", "give at least a user and an assistant turn")
    return tuple(check_message(turn, f"{name}[{at}]", role_key, content_key) for at, turn in enumerate(value))


def check_message(turn: Any, name: str, role_key: str, content_key: str) -> dict[str, Any]:
    """One message as `role` and `content` (sharegpt's words translated), its other keys kept, nulls left out."""
    if not isinstance(turn, dict):
        raise BadRowError(
            "wrong type", f"{name} is {type_name(turn)}", f'give {{"{role_key}": ..., "{content_key}": ...}}'
        )
    for key in (role_key, content_key):
        if key not in turn and not (key == content_key and turn.get("tool_calls")):
            near = get_close_matches(key, [str(k) for k in turn], n=1, cutoff=0.5)
            found = ", ".join(map(str, turn)) or "nothing"
            fix = f"did you mean {key!r} where it says {near[0]!r}?" if near else f"add {key!r}"
            raise BadRowError(f"no {key}", f"{name} has no {key!r}; it has {found}", fix)
    known = SHAREGPT_ROLES if role_key == "from" else dict.fromkeys(ROLES, "")
    role = turn[role_key]
    if not isinstance(role, str) or role not in known:
        near = get_close_matches(str(role).lower(), list(known), n=1, cutoff=0.5)
        fix = (f"did you mean {near[0]!r}? " if near else "") + f"roles: {', '.join(known)}"
        raise BadRowError("unknown role", f"{name}.{role_key} is {role!r}", fix)
    role = known[role] or role
    content = check_content(turn.get(content_key), f"{name}.{content_key}", bool(turn.get("tool_calls")))
    if not content.strip() and role in ("user", "assistant") and not turn.get("tool_calls"):
        reason = "empty completion" if role == "assistant" else "empty prompt"
        raise BadRowError(reason, f"{name}.{content_key} is empty", "give it text, or leave the row out")
    ours = (role_key, content_key, "weight")
    message = {key: item for key, item in turn.items() if key not in ours and item is not None}
    message |= {"role": role, "content": content}
    if "train" in turn and not isinstance(turn["train"], bool):
        raise BadRowError("bad train flag", f"{name}.train is {turn['train']!r}", "give true or false")
    if turn.get("weight") is not None:
        if turn["weight"] not in (0, 1):
            raise BadRowError("bad weight", f"{name}.weight is {turn['weight']!r}", "give 0 (not trained) or 1")
        message["train"] = bool(turn["weight"]) and message.get("train", True)
    return message


def check_content(value: Any, name: str, has_tool_calls: bool) -> str:
    """A text, or OpenAI's list of text parts as one text; null only beside tool calls."""
    if isinstance(value, str):
        return value
    if value is None and has_tool_calls:
        return ""
    if isinstance(value, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
        return "".join(part["text"] for part in value)  # OpenAI's content parts, text ones only
    reason = "content is null" if value is None else "wrong type"
    raise BadRowError(reason, f"{name} is {type_name(value)}, not a text", "give a text, or leave the row out")


def require_trained_turn(messages: Messages, name: str) -> None:
    """At least one assistant turn must be there and be trained."""
    turns = [message for message in messages if message["role"] == "assistant"]
    if not turns:
        raise BadRowError("no assistant turn", f"{name} has no assistant turn: nothing to learn", "add the answer")
    if not any(message.get("train", True) for message in turns):
        fix = "set `train` to true on at least one of them"
        raise BadRowError("no trained turn", f"every assistant turn of {name} has `train` false", fix)


def required(values: dict[str, Any], name: str) -> Any:
    """The value of a column that must be there."""
    if values.get(name) is None:
        raise BadRowError(f"no {name}", f"there is no `{name}`", missing_fix(values, name))
    return values[name]


def filled_text(values: dict[str, Any], name: str, reason_if_empty: str = "") -> str:
    """The value of a column that must be a text with something in it."""
    value = required(values, name)
    if not isinstance(value, str):
        raise BadRowError("wrong type", f"`{name}` is {type_name(value)}, not a text", "give a text")
    if not value.strip():
        raise BadRowError(
            reason_if_empty or f"empty {name}", f"`{name}` is empty", "give it text, or leave the row out"
        )
    return value


def missing_fix(values: dict[str, Any], name: str) -> str:
    """What would work where a column is missing: the column that is probably meant."""
    others = [str(key) for key in values if key not in COLUMNS]
    near = get_close_matches(name, others, n=1, cutoff=0.5)
    if name in ("completion", "output"):
        near = [key for key in others if key in ANSWER_NAMES] or near
    found = ", ".join(map(str, values)) or "none"
    hint = f"if `{near[0]}` is it, say so: `columns: {{{name}: {near[0]}}}`; " if near else ""
    return f"{hint}columns found: {found}"


def missing_answer(values: dict[str, Any]) -> str:
    """Our name for the answer's column in such a row."""
    return "output" if "instruction" in values else "completion"


def check_tools(values: dict[str, Any]) -> tuple[dict[str, Any], ...] | None:
    """The tools of a conversation, given as a list or as its JSON text."""
    tools = values.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise BadRowError("bad tools", f"`tools` is not JSON: {error.msg}", "give a list of tools") from error
    if not tools:
        return None
    if not isinstance(tools, list):
        raise BadRowError("bad tools", f"`tools` is {type_name(tools)}", "give a list of tools")
    return tuple(tools)
