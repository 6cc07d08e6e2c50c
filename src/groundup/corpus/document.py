"""One text with its provenance, as it flows through the corpus steps; and what is said about one that was dropped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Media = Literal["html", "wikitext", "prose", "docs", "dialogue", "code"]
EXCERPT_CHARS = 300

# A run of Han, kana or Hangul is split into characters: those scripts put no spaces between words.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")


@dataclass(frozen=True)
class Document:
    """`text` holds HTML or wikitext until the extraction step, plain text afterwards (`media` says which)."""

    id: str  # stable over runs and machines: the origin's own name, never a counter over what was kept
    url: str
    license: str
    text: str
    media: Media
    language: str = ""  # ISO 639-1 where known
    date: str = ""  # ISO 8601, as exact as the origin says it: "2024", "2024-05-01", "2024-05-01T12:00:00Z"
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)  # JSON-able: votes, thread, title ...

    @cached_property
    def bytes(self) -> int:
        text = self.text  # of ASCII alone, Python knows it without looking
        return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Drop:
    """One document that did not go on: at which step, why, and how it begins. `bytes` is its size at that step.

    Where a number decided, `value` is what was measured and `threshold` what it was held to.
    """

    id: str
    step: str
    reason: str
    excerpt: str = ""
    bytes: int = 0
    value: float | None = None
    threshold: float | None = None


def sound(text: str) -> str:
    """The text with a replacement character for each lone surrogate (from broken charsets): UTF-8 cannot hold them."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


def drop(
    document: Document,
    step: str,
    reason: str,
    excerpt: str = "",
    *,
    value: float | None = None,
    threshold: float | None = None,
) -> Drop:
    start = (excerpt or document.text)[:EXCERPT_CHARS]
    return Drop(document.id, step, reason, start, document.bytes, value, threshold)


def words_of(text: str) -> list[str]:
    """Lower-case words; every CJK character counts as one."""
    return _WORD.findall(text.lower())
