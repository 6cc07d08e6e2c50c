"""Which tokens of a conversation are trained: found by rendering and character offsets, for any chat template.

The whole conversation is rendered and tokenised once. Where an assistant turn begins in that text is the length of the
rendering of everything before it with the generation prompt; where it ends is the first control token after its
content. No marker strings, no template patches, never the pad id: a token is trained because of where its characters
lie. A token that straddles the beginning of an answer belongs to the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from groundup.chat.template import ChatTokenizer, Message, control_tokens, render_chat
from groundup.errors import UserError

Tools = Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True)
class Encoded:
    """One training sample: `trained[i]` says whether token i is learned from the tokens before it."""

    ids: list[int]
    trained: list[bool]
    turns: int = 0  # assistant turns (or texts) that are trained
    ends: tuple[int, ...] = ()  # where the trained end-of-turn tokens stand: as many as `turns`, unless truncated
    where: str = ""
    source: str = ""
    is_truncated: bool = False

    @property
    def trained_tokens(self) -> int:
        return sum(self.trained)


class NotPrefixPreservingError(Exception):
    """The template renders earlier turns differently once later ones follow; says where first."""


class UnusableConversationError(Exception):
    """This row cannot be turned into a sample. `reason` is what it is counted under."""

    def __init__(self, reason: str, what: str) -> None:
        self.reason = reason
        super().__init__(what)


# ---------------------------------------------------------------- conversations -> samples


def encode_conversation(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    *,
    tools: Tools = None,
    train_on_inputs: bool = False,
    where: str = "",
    source: str = "",
) -> Encoded:
    """The conversation as ids (equal to `apply_chat_template`'s) with its assistant turns trained, one EOT each.

    A turn with `train: false` is context only. `train_on_inputs` trains everything but the first token. Raises
    NotPrefixPreservingError (see `encode_samples`), UnusableConversationError, and UserError where the template never
    ends an assistant turn.
    """
    _require_no_control_text(tokenizer, messages)
    text = render_chat(tokenizer, messages, tools=tools)
    ids, offsets = tokenizer.encode_with_offsets(text)
    controls = control_tokens(tokenizer.folder)
    trained = [False] * len(ids)
    ends = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant" or not message.get("train", True):
            continue
        start, stop = _turn(
            text, messages, number, lambda part, prompt: render_chat(tokenizer, part, prompt, tools=tools)
        )
        first = next((at for at, (_, end) in enumerate(offsets) if end > start), len(ids))
        end = _end_of_turn(text, str(message.get("content") or ""), start, stop, first, ids, offsets, controls)
        if end is None and number < len(messages) - 1:
            raise NotPrefixPreservingError(f"turn {number} has no end-of-turn token before the next turn")
        if end is None:
            raise UserError(
                "the chat template ends an assistant turn without a control token: a model would never learn to stop",
                where=str(tokenizer.folder / "chat_template.jinja"),
                fix="end the assistant's turn with the EOS token in the template, as the model's own template does",
            )
        ends.append(end)
        trained[first : end + 1] = [True] * (end + 1 - first)
    if train_on_inputs:
        trained = [True] * len(ids)
    trained[:1] = [False]  # nothing stands before the first token that could predict it
    return Encoded(ids, trained, len(ends), tuple(ends), where, source)


def encode_samples(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    *,
    tools: Tools = None,
    train_on_inputs: bool = False,
    where: str = "",
    source: str = "",
) -> list[Encoded]:
    """One sample where the template preserves prefixes, else one per trained assistant turn (as at inference).

    Templates that strip the reasoning of earlier turns are of the second kind: in training, as in use, the model then
    sees each turn behind the others' stripped forms. The caller tells people when more than one sample comes back.
    """
    options: dict[str, Any] = {"tools": tools, "train_on_inputs": train_on_inputs, "where": where, "source": source}
    try:
        return [encode_conversation(tokenizer, messages, **options)]
    except NotPrefixPreservingError:
        trained_turns = [n for n, m in enumerate(messages) if m["role"] == "assistant" and m.get("train", True)]
        return [_encode_last_turn(tokenizer, messages[: number + 1], options) for number in trained_turns]


def encode_text(tokenizer: ChatTokenizer, text: str, *, where: str = "", source: str = "") -> Encoded:
    """Plain text, trained whole, with one EOS behind it."""
    ids = list(tokenizer.encode(text))
    if not ids or ids[-1] != tokenizer.eos_id:
        ids.append(tokenizer.eos_id)
    return Encoded(ids, [False] + [True] * (len(ids) - 1), 1, (len(ids) - 1,), where, source)


def encode_answer(
    tokenizer: ChatTokenizer, prompt: Sequence[Message], answer: Sequence[Message], *, where: str = ""
) -> Encoded:
    """A prompt and one answer to compare with another: only the answer is trained, and its EOT is the last token."""
    context = [{**m, "train": False} if m["role"] == "assistant" else m for m in prompt]
    samples = encode_samples(tokenizer, [*context, *answer], where=where)
    if len(samples) != 1:
        raise UnusableConversationError(
            "template changes earlier turns", "an answer of several turns cannot be one text under this template"
        )
    sample = samples[0]
    stop = sample.ends[-1] + 1
    return replace(sample, ids=sample.ids[:stop], trained=sample.trained[:stop])


def truncate(sample: Encoded, sequence_len: int) -> Encoded:
    """The first `sequence_len` tokens. A turn that is cut off keeps no end-of-turn token: it has not ended."""
    if len(sample.ids) <= sequence_len:
        return sample
    ends = tuple(end for end in sample.ends if end < sequence_len)
    return replace(
        sample, ids=sample.ids[:sequence_len], trained=sample.trained[:sequence_len], ends=ends, is_truncated=True
    )


# ---------------------------------------------------------------- where a turn lies


def _turn(
    text: str, messages: Sequence[Message], number: int, render: Callable[[Sequence[Message], bool], str]
) -> tuple[int, int]:
    """Characters [start, stop) of assistant turn `number` in the rendering `text` of all messages."""
    before = _render_before(messages, number, render)
    if not text.startswith(before):
        at = _common_length(text, before)
        raise NotPrefixPreservingError(
            f"turn {number}: the conversation has {text[at : at + 30]!r} at character {at}, "
            f"the generation prompt before that turn {before[at : at + 30]!r}"
        )
    if number == len(messages) - 1:
        return len(before), len(text)
    return len(before), max(len(before), _common_length(text, render(messages[: number + 1], False)))


def _render_before(messages: Sequence[Message], number: int, render: Callable[[Sequence[Message], bool], str]) -> str:
    if number > 0:
        return render(messages[:number], True)
    # The assistant speaks first, and many templates cannot render an empty list: what two different openings have in
    # common is what stands before both.
    one, other = ({**messages[0], "content": content} for content in ("0", "1"))
    one_text, other_text = render([one], False), render([other], False)
    return one_text[: _common_length(one_text, other_text)]


def _end_of_turn(
    text: str,
    content: str,
    start: int,
    stop: int,
    first: int,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    controls: Mapping[int, str],
) -> int | None:
    """Index of the token that ends the turn: the first control token after the content, wherever that stands."""
    candidates = []
    for at in range(first, len(ids)):
        if offsets[at][0] >= stop:
            break
        if ids[at] in controls and offsets[at][1] <= stop:
            candidates.append(at)
    content_start = text.find(content.strip(), start, stop)
    if content.strip() and content_start >= 0:
        content_end = content_start + len(content.strip())
        return next((at for at in candidates if offsets[at][0] >= content_end), None)
    return candidates[-1] if candidates else None  # a tool call, or content that the template rewrote


def _common_length(a: str, b: str) -> int:
    low, high = 0, min(len(a), len(b))
    while low < high:  # longest common prefix by bisection: comparing slices is fast, comparing characters is not
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _encode_last_turn(tokenizer: ChatTokenizer, messages: Sequence[Message], options: dict[str, Any]) -> Encoded:
    earlier = [{**m, "train": False} if m["role"] == "assistant" else m for m in messages[:-1]]
    try:
        return encode_conversation(tokenizer, [*earlier, messages[-1]], **options)
    except NotPrefixPreservingError as error:
        raise UserError(
            f"the chat template contradicts itself: its generation prompt is not how it begins an answer ({error})",
            where=str(tokenizer.folder / "chat_template.jinja"),
            fix="mend the template's add_generation_prompt branch, or use another chat_template.jinja",
        ) from error


# ---------------------------------------------------------------- control tokens written out in a message


def _require_no_control_text(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> None:
    """A message that spells a control token would end its own turn, or open another."""
    pattern = _pattern_of(tuple(control_tokens(tokenizer.folder).values()))
    for number, message in enumerate(messages):
        found = pattern.search(str(message.get("content") or ""))
        if found:
            raise UnusableConversationError(
                "control token in content", f"messages[{number}].content contains the control token {found.group()!r}"
            )


@lru_cache(maxsize=64)
def _pattern_of(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in texts if text) or r"(?!)")
