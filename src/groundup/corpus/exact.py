"""Exact duplicates: of documents by their normalised text, and, where wanted, of paragraphs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import xxhash

MIN_PARAGRAPH_CHARS = 100


def normalise(text: str) -> str:
    """What two texts must share to count as one: letters and digits, whatever their case, punctuation and spacing."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).lower()).strip()


def text_key(text: str, *, is_code: bool = False) -> int:
    """128-bit key of a text. In code punctuation is meaning, so only white space is evened out there."""
    evened = " ".join(text.split()) if is_code else normalise(text)
    # A text of punctuation alone has nothing left: it must not equal every other such text.
    return xxhash.xxh3_128_intdigest((evened or text).encode("utf-8", "surrogatepass"))


def exact_duplicates(keys: Iterable[int]) -> list[int | None]:
    """For each document, the place of the first one with the same key, or None for a first one."""
    first: dict[int, int] = {}
    result: list[int | None] = []
    for place, key in enumerate(keys):
        earlier = first.setdefault(key, place)
        result.append(None if earlier == place else earlier)
    return result


def cut_seen_paragraphs(text: str, seen: set[int]) -> tuple[str, int]:
    """The text without long paragraphs that are in `seen` (which grows), and how many were cut."""
    kept: list[str] = []
    cut = 0
    for paragraph in re.split(r"(?<=\n)\n+", text):
        if len(paragraph) >= MIN_PARAGRAPH_CHARS:
            key = text_key(paragraph)
            if key in seen:
                cut += 1
                continue
            seen.add(key)
        kept.append(paragraph.rstrip("\n"))
    return ("\n\n".join(kept) if cut else text), cut
