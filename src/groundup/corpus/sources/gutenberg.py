"""Project Gutenberg's files: the frame of header, licence and credits around a book, and what the header says."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from groundup.corpus.sources.files import decode

# "*** START OF THIS PROJECT GUTENBERG EBOOK ...", "*END*THE SMALL PRINT! ..." (before 2004) and their ends.
_START = re.compile(
    r"^[ \t]*(?:\*{3}\s*START OF (?:THE|THIS) PROJECT GUTENBERG.*?\*{3}|\*END\*?\s*THE SMALL PRINT.*?)[ \t]*$",
    re.M | re.S | re.I,
)
_END = re.compile(
    r"^[ \t]*(?:\*{3}\s*END OF (?:THE|THIS) PROJECT|\*{3}\s*START: FULL LICENSE|"
    r"(?:This is the )?End of (?:the |this )?Project Gutenberg)",
    re.M | re.I,
)
_CREDIT = re.compile(
    r"\A\s*(?:\[?(?:Produced|Prepared|Scanned|Digitized|Created|Transcribed) (?:by|from)|"
    r"E-?text (?:prepared|produced|scanned)|HTML version by|This e-?(?:text|book) was|"
    r"\[?Transcriber'?s? note|Updated editions will).*?\n\s*\n",
    re.I | re.S,
)
# Inside the collected Shakespeare (etext 100): a licence between any two plays.
_INNER_NOTICE = re.compile(r"<<THIS ELECTRONIC VERSION OF THE COMPLETE WORKS.*?>>", re.S)
_FIELD = re.compile(
    r"^(Title|Author|Translator|Editor|Illustrator|Language|Release Date|Posting Date):[ \t]*", re.M | re.I
)
_NUMBER = re.compile(r"\[?E(?:Book|text)[- ]?#\s?(\d+)\]?", re.I)
_ENCODING = re.compile(rb"Character set(?: encoding)?:\s*([\w .-]+)", re.I)
_HEADER_BYTES = 20_000

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LANGUAGES = dict(
    pair.split(":")
    for pair in """
    english:en german:de french:fr spanish:es italian:it portuguese:pt dutch:nl latin:la greek:el finnish:fi swedish:sv
    danish:da norwegian:no hungarian:hu polish:pl czech:cs russian:ru chinese:zh japanese:ja esperanto:eo catalan:ca
    tagalog:tl welsh:cy irish:ga icelandic:is hebrew:he arabic:ar romanian:ro bulgarian:bg serbian:sr afrikaans:af
    frisian:fy galician:gl breton:br
    """.split()  # noqa: SIM905 - a table to read
)


class Header(NamedTuple):
    """What Project Gutenberg says about a book. Empty where it does not, or where the file is not one of theirs."""

    is_gutenberg: bool
    title: str
    authors: list[str]
    language: str  # ISO 639-1, where one alone is named
    date: str  # of the release as an ebook
    url: str
    license: str


def header_of(text: str) -> Header:
    """The header's fields; lines that go on in the next one are joined."""
    start = _START.search(text[:_HEADER_BYTES])
    head = text[: start.start() if start else _HEADER_BYTES]
    if not re.search(r"Project\s+Gutenberg", head[:5_000] + (start[0] if start else ""), re.I):
        return Header(False, "", [], "", "", "", "")
    fields: dict[str, str] = {}
    for match in _FIELD.finditer(head):
        rest = head[match.end() :]
        value = re.split(r"\n[ \t]*\n|\n(?=\S)", rest, maxsplit=1)[0]
        fields.setdefault(match[1].lower(), " ".join(value.split()))
    number = _NUMBER.search(head)
    copyrighted = re.search(r"\bcopyrighted Project Gutenberg", head, re.I)
    return Header(
        True,
        fields.get("title", ""),
        [fields["author"]] if fields.get("author") else [],
        _LANGUAGES.get(fields.get("language", "").lower(), ""),
        iso_date(fields.get("release date", "") or fields.get("posting date", "")),
        f"https://www.gutenberg.org/ebooks/{number[1]}" if number else "",
        "copyrighted, Project Gutenberg License" if copyrighted else "public domain in the USA",
    )


def iso_date(text: str) -> str:
    """`August 21, 2007 [EBook #22367]` -> 2007-08-21, `June, 1998` -> 1998-06; '' where no year is in it."""
    text = re.sub(r"\[.*", "", text)
    year = re.search(r"\b(1[5-9]\d\d|20\d\d)\b", text)
    if not year:
        return ""
    month = next((place for place, name in enumerate(_MONTHS, 1) if re.search(rf"\b{name}", text, re.I)), 0)
    day = re.search(r"\b(\d{1,2})\b", text)
    if not month:
        return year[1]
    return f"{year[1]}-{month:02d}" + (f"-{int(day[1]):02d}" if day and 1 <= int(day[1]) <= 31 else "")


def decode_book(data: bytes) -> str:
    """Text of a book: as UTF-8 or with a mark where it is, else as its header says, else as the bytes look."""
    declared = _ENCODING.search(data[:_HEADER_BYTES])
    if declared and not data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = _codec(declared[1].decode("ascii", "replace"))
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            if name and name != "utf-8":
                return data.decode(name, "replace").replace("\r\n", "\n").replace("\r", "\n")
    return decode(data)


def _codec(name: str) -> str:
    """Python's name of an encoding as Gutenberg's headers spell it; '' where it is none, or says nothing."""
    plain = name.strip().lower().replace("iso latin-1", "iso-8859-1").replace("latin1", "iso-8859-1").replace(" ", "-")
    plain = plain.removeprefix("unicode-")
    if plain in ("ascii", "us-ascii"):
        return ""  # and yet it has other bytes: they say more than the header
    try:
        found = codecs.lookup(plain).name
    except LookupError:
        return ""
    # what calls itself Latin-1 may hold Windows' quotation marks, where Latin-1 itself has only control characters
    return "cp1252" if found == "iso8859-1" else found


def strip_gutenberg(text: str) -> str:
    """The book without Project Gutenberg's header, licence and credits; unchanged where it has none."""
    starts = list(_START.finditer(text[: len(text) // 2 + 20_000]))
    if starts:
        text = text[starts[-1].end() :]
    if end := _END.search(text, len(text) // 2):
        text = text[: end.start()]
    text = _INNER_NOTICE.sub("", text)
    if starts:
        for _ in range(3):  # who produced, who transcribed, a note
            text = _CREDIT.sub("", text)
    return text.strip()
