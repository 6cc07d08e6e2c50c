"""Long texts in parts, wherever they come from: a file, a line of one, a field of a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from groundup.corpus.document import Document

PART_CHARS = 2_000_000
CUT = "long texts cut into parts"  # in the source's notes


def in_parts(whole: Document, read: Callable[[int], str], chars: int, notes: Counter[str]) -> Iterator[Document]:
    """The document with the text that `read` gives (so many characters at most, "" at its end), in parts.

    They have about `chars` characters and end with a paragraph, a line or a word where they can; a text up to a quarter
    longer stays whole. Parts are `id#1`, `id#2` ..., with their number as `part` in the metadata; blank ones are left
    out. Memory is that of one part.
    """
    most = chars * 5 // 4
    buffer, number = read(most + 1), 0
    while buffer:
        cut = len(buffer) if len(buffer) <= most else _cut(buffer, chars)
        part, buffer = buffer[:cut], buffer[cut:]
        buffer += read(most + 1 - len(buffer))
        number += 1
        if part.strip():
            is_whole = number == 1 and not buffer
            about = whole.metadata if is_whole else {**whole.metadata, "part": number}
            yield replace(whole, id=whole.id if is_whole else f"{whole.id}#{number}", text=part, metadata=about)
    notes.update({CUT: 1} if number > 1 else {})


def text_in_parts(document: Document, chars: int, notes: Counter[str]) -> Iterator[Document]:
    """As `in_parts`, of a text that is in memory; the document itself where it is short."""
    text, place = document.text, 0
    if len(text) <= chars * 5 // 4:
        yield document
        return

    def read(size: int) -> str:
        nonlocal place
        place += size
        return text[place - size : place]

    yield from in_parts(document, read, chars, notes)


def _cut(text: str, chars: int) -> int:
    """Where a part ends: behind the last paragraph, line or word before `chars`, if that is not too early."""
    for end in ("\n\n", "\n", " "):
        if (place := text.rfind(end, chars // 2, chars)) >= 0:
            return place + len(end)
    return chars
