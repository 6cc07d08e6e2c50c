"""PDF papers as text, through PDFium: columns in reading order, hyphens joined, headers, footers, references gone.

PDFium gives text in the order of the file's content, which LaTeX and word processors write as it is read; only where
it jumps between columns are the lines put in order by where they stand.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from groundup.errors import UserError

MOST_PAGES = 3_000
_MARGIN = 0.09  # of the page's height: where headers and footers stand
_REPEATED_PAGES, _REPEATED_SHARE = 3, 0.3
_PAGE_NUMBER = re.compile(r"\W*(?:page\s*)?(?:\d{1,4}|[ivxlc]{1,6})(?:\s*(?:of|/)\s*\d{1,4})?\W*", re.I)
_STAMP = re.compile(
    r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(v\d+)?(?:\s+\[[\w.-]+\])?(?:\s+\d{1,2} \w{3} \d{4})?"
)
_SOFT_HYPHEN = "\ufffe"  # PDFium's mark for a word that was cut at the end of a line
_LIGATURES = str.maketrans({"ﬁ": "fi", "ﬂ": "fl", "ﬀ": "ff", "ﬃ": "ffi", "ﬄ": "ffl", "\xa0": " ", "\xad": None})
_UNREADABLE = re.compile(r"[\ufffd\ue000-\uf8ff\x00-\x08\x0e-\x1f]")
_REFERENCES = re.compile(
    r"(?:\d{1,2}\.?\s+|[IVX]+\.\s+)?(?:references(?: and notes)?|bibliography|literature cited|works cited|literatur|"
    r"bibliographie|referencias|参考文献)\s*:?",
    re.I,
)
_AFTER_REFERENCES = re.compile(r"(?:appendix|appendices|supplement(?:ary|al)?\b.*|[A-H]\.?\s+[A-Z][a-z].{3,60})", re.I)
_HEADING = re.compile(
    r"(?:\d{1,2}(?:\.\d{1,2}){0,3}\.?|[IVX]{1,5}\.|[A-H]\.)\s+[A-Z][^.!?]{2,70}|Abstract|ABSTRACT|Introduction"
)
_ACCENT = re.compile(r"([¨´ˆ˜ˇ])([A-Za-zı])")
_COMBINING = {"¨": "\u0308", "´": "\u0301", "ˆ": "\u0302", "˜": "\u0303", "ˇ": "\u030c"}
_ENDS_SENTENCE = (".", "!", "?", ":", "。", "”", '."')


class PdfError(ValueError):
    """Why a file cannot be read as a PDF; the message is the reason of its drop."""


@dataclass(frozen=True)
class Line:
    """A line and where it stands, as shares of the page's width and height.

    PDFium joins lines at a cut word: then it begins in one line of the page (`bottom`) and ends in another (`end`).
    """

    text: str
    left: float
    right: float
    bottom: float
    top: float
    end: float  # the bottom of its last character
    last: float  # the right edge of its last character


@dataclass(frozen=True)
class Pdf:
    title: str
    authors: str
    date: str
    arxiv: str
    pages: int
    text: str


def read_pdf(data: bytes, notes: Counter[str], keep_references: bool = False) -> Pdf:
    """The paper's text. Raises PdfError where there is none, UserError where pypdfium2 is not installed."""
    try:
        import pypdfium2
    except ImportError as error:
        raise UserError("reading PDF needs the package pypdfium2", fix="pip install 'groundup[pdf]'") from error
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        reason = "encrypted PDF" if "password" in str(error).lower() else "not a readable PDF"
        raise PdfError(reason) from error
    try:
        count = len(document)
        if count > MOST_PAGES:
            notes[f"PDFs of which only the first {MOST_PAGES:,} pages were read"] += 1
        pages = []
        for number in range(min(count, MOST_PAGES)):
            try:
                pages.append(_page(document[number]))
            except pypdfium2.PdfiumError:
                notes["damaged pages of PDFs"] += 1
        about = document.get_metadata_dict(skip_empty=True)
    finally:
        document.close()
    raw = "".join(line.text for page in pages for line in page)
    if len(raw.strip()) < 20 * max(1, len(pages)):
        raise PdfError("PDF without a text layer (scanned pages)")
    if len(_UNREADABLE.findall(raw)) > 0.1 * len(raw):
        raise PdfError("PDF whose text layer is not readable (fonts without Unicode)")
    stamp = next((found for line in (pages[0] if pages else []) if (found := _stamp(line))), None)
    lines = [line for page in _without_frames(pages) for line in [*page, None]]
    paragraphs = _paragraphs(lines, _known_words(raw))
    if not keep_references:
        paragraphs = without_references(paragraphs, notes)
    text = "\n\n".join(paragraphs)
    title = about.get("Title", "").strip()
    return Pdf(
        title if len(title.split()) > 1 and not title.lower().endswith((".dvi", ".doc", ".docx", ".tex")) else "",
        about.get("Author", "").strip(),
        _date(about.get("CreationDate", "")),
        stamp[1] if stamp else "",
        count,
        text,
    )


def _date(stated: str) -> str:
    found = re.match(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?", stated)
    return "-".join(part for part in found.groups() if part) if found and "1980" < found[1] < "2100" else ""


def _stamp(line: Line) -> re.Match[str] | None:
    """arXiv's stamp, which runs up the left margin of the first page."""
    return _STAMP.match(line.text) if line.left < 0.12 else None


# ---------------------------------------------------------------- one page


def _page(page: Any) -> list[Line]:
    """The lines of a page in reading order, with their places relative to the page's height and width."""
    import pypdfium2

    width, height = page.get_size()
    textpage = page.get_textpage()
    text = textpage.get_text_range()
    count = textpage.count_chars()
    if len(text) != count:  # something that is no character of its own: one by one, so that places and text agree
        codes = (pypdfium2.raw.FPDFText_GetUnicode(textpage, place) for place in range(count))
        text = "".join(chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd" for code in codes)
    whole: list[Line] = []
    parts: list[Line] = []
    start = 0
    for one in re.split(r"(\r?\n)", text):
        if one.strip():
            line, split = _line(textpage, one.translate(_LIGATURES), one, start, width, height)
            whole.append(line)
            parts += split
        start += len(one)
    gutter = _gutter(parts)
    if gutter is None or not _jumps(whole, parts, gutter):
        return whole
    return _by_columns(parts, gutter)


def _line(textpage: Any, text: str, raw: str, start: int, width: float, height: float) -> tuple[Line, list[Line]]:
    """The line, and its parts where wide gaps part it."""

    def box(place: int) -> tuple[float, float, float, float]:
        left, bottom, right, top = textpage.get_charbox(start + place, loose=True)
        return left / width, bottom / height, right / width, top / height

    def piece(first: int, last: int) -> Line:
        begin, end = box(first), box(last)
        content = raw[first : last + 1].translate(_LIGATURES).strip()
        return Line(content, begin[0], max(end[2], begin[2]), begin[1], begin[3], end[1], end[2])

    inked = [place for place, char in enumerate(raw) if not char.isspace()]
    line = replace(piece(inked[0], inked[-1]), text=text.strip())
    cuts = []
    for before, after in itertools.pairwise(inked):
        if after - before > 1:
            end, begin = box(before), box(after)
            if begin[0] - end[2] > 0.02 and abs(begin[1] - end[1]) < 0.01:
                cuts.append((before, after))
    if not cuts:
        return line, [line]
    ends = [before for before, _ in cuts] + [inked[-1]]
    begins = [inked[0]] + [after for _, after in cuts]
    return line, [piece(begin, end) for begin, end in zip(begins, ends, strict=True)]


def _gutter(parts: list[Line]) -> float | None:
    """The place of the white strip between two columns of text, None where the page has one column."""
    best, fewest = None, 0.25 * len(parts)
    for step in range(40, 61):
        place = step / 100
        crossing = sum(part.left < place - 0.005 and part.right > place + 0.005 for part in parts)
        left = [part.right - part.left for part in parts if part.right <= place + 0.005]
        right = [part.right - part.left for part in parts if part.left >= place - 0.005]
        if min(len(left), len(right)) < 8 or min(median(left), median(right)) < 0.2:
            continue  # a table's cells are no column of text
        if crossing < fewest:
            best, fewest = place, crossing
    return best


def _jumps(whole: list[Line], parts: list[Line], gutter: float) -> bool:
    """Whether the order of the file goes to and fro between the columns, or runs through both in one line."""
    sides = [0 if part.right <= gutter + 0.01 else 1 if part.left >= gutter - 0.01 else 2 for part in parts]
    backwards = sum(a == 1 and b == 0 for a, b in itertools.pairwise(sides))
    return backwards > 3 + sides.count(2) or len(parts) > len(whole) + 5


def _by_columns(parts: list[Line], gutter: float) -> list[Line]:
    """From top to bottom; between two lines that run over both columns, the left one first."""
    ordered: list[Line] = []
    columns: tuple[list[Line], list[Line]] = ([], [])
    for part in sorted(parts, key=lambda one: -one.top):
        if part.right <= gutter + 0.005:
            columns[0].append(part)
        elif part.left >= gutter - 0.005:
            columns[1].append(part)
        else:
            ordered += [*columns[0], *columns[1], part]
            columns = ([], [])
    return [*ordered, *columns[0], *columns[1]]


# ---------------------------------------------------------------- the document


def _without_frames(pages: list[list[Line]]) -> list[list[Line]]:
    """Without page numbers, and lines that stand in the margins of many pages with nothing but a number changed."""

    def shape(line: Line) -> str:
        return re.sub(r"\d+", "#", line.text).strip().lower()

    def in_margin(line: Line) -> bool:
        return line.top > 1 - _MARGIN or line.bottom < _MARGIN

    seen = Counter(key for page in pages for key in {shape(line) for line in page if in_margin(line)})
    fewest = max(_REPEATED_PAGES, _REPEATED_SHARE * len(pages))
    repeated = {key for key, count in seen.items() if count >= fewest}
    return [
        [
            line
            for line in page
            if not (in_margin(line) and (shape(line) in repeated or _PAGE_NUMBER.fullmatch(line.text)))
            and not _stamp(line)
        ]
        for page in pages
    ]


def _known_words(text: str) -> Counter[str]:
    """How often words, also hyphenated ones, stand inside lines: what tells a cut word from one with a hyphen."""
    return Counter(re.findall(r"\w+(?:-\w+)*", text.lower()))


def _paragraphs(lines: list[Line | None], known: Counter[str]) -> list[str]:
    """Lines joined to paragraphs; None stands for the end of a page."""
    real = [line for line in lines if line is not None]
    size = median(line.top - line.bottom for line in real) if real else 0.01
    pitches = [a.end - b.bottom for a, b in itertools.pairwise(real) if 0.003 < a.end - b.bottom < 0.05]
    pitch = median(pitches) if pitches else 0.014
    lefts = Counter(round(line.left, 2) for line in real)
    following = iter(real[2:])
    paragraphs: list[str] = []
    previous: Line | None = None
    new_page = False
    for line in lines:
        if line is None:
            new_page = True
            continue
        if previous is None or _begins(
            previous, line, size, pitch, new_page, _is_indented(line, next(following, line), lefts)
        ):
            paragraphs.append(line.text)
        else:
            paragraphs[-1] = _joined(paragraphs[-1], line.text, known)
        previous, new_page = line, False
    return [_marked(one, known).strip() for one in paragraphs if one.strip()]


def _is_indented(line: Line, following: Line, lefts: Counter[float]) -> bool:
    """Whether a line begins to the right of where the next one does, or far more lines of the document do."""
    own, below = lefts[round(line.left, 2)], lefts[round(following.left, 2)]
    return 0.01 < line.left - following.left < 0.06 and below > own


def _begins(previous: Line, line: Line, size: float, pitch: float, new_page: bool, is_indented: bool) -> bool:
    """Whether a line begins a paragraph, by its place beside the one before it."""
    ended = previous.text.rstrip().endswith(_ENDS_SENTENCE)
    step = previous.end - line.bottom
    if new_page or step < -0.05 or line.left - previous.left > 0.3:  # another page or column: the text may go on
        return ended and not line.text[:1].islower()
    if step > 1.55 * pitch or _REFERENCES.fullmatch(line.text) or _REFERENCES.fullmatch(previous.text):
        return True
    if abs((line.top - line.bottom) - (previous.top - previous.bottom)) > 0.15 * size and step > 0.5 * pitch:
        return True  # another size: a heading, or what follows one
    is_indented = is_indented or 0.01 < line.left - previous.left < 0.06
    is_short = previous.last - previous.left < 0.75 * (line.right - previous.left)
    if is_short and (_HEADING.fullmatch(previous.text) or _HEADING.fullmatch(line.text)):
        return True
    return step > 0.5 * pitch and ((is_indented and ended) or (is_short and ended and line.text[:1].isupper()))


def _joined(text: str, more: str, known: Counter[str]) -> str:
    found = re.search(r"(\w+)-$", text)
    following = re.match(r"\w+", more)
    if found and following and more[0].islower():
        return text[: found.start()] + _word(found[1], following[0], known) + more[following.end() :]
    return f"{text} {more}"


def _marked(text: str, known: Counter[str]) -> str:
    """PDFium's own marks of cut words undone."""
    text = re.sub(rf"(\w+){_SOFT_HYPHEN}\s*(\w+)", lambda cut: _word(cut[1], cut[2], known), text)
    text = _ACCENT.sub(_accented, text)
    return re.sub(r"[ \t]{2,}", " ", text.replace(_SOFT_HYPHEN, "-"))


def _accented(found: re.Match[str]) -> str:
    """TeX's old fonts draw an accent as a letter of its own, in front of the one below it."""
    whole = unicodedata.normalize("NFC", found[2].replace("ı", "i") + _COMBINING[found[1]])
    return whole if len(whole) == 1 else found[0]


def _word(first: str, second: str, known: Counter[str]) -> str:
    """A cut word whole again: with its hyphen where it stands so elsewhere, or joins names or numbers."""
    with_hyphen, without = f"{first}-{second}", f"{first}{second}"
    if known[without.lower()] >= known[with_hyphen.lower()] and not first[-1].isdigit() and second[:1].islower():
        return without
    return with_hyphen


def without_references(paragraphs: list[str], notes: Counter[str]) -> list[str]:
    """Without the list of references: from its heading to the end, or to the appendix behind it."""
    starts = [place for place, one in enumerate(paragraphs) if _REFERENCES.match(one) and _is_heading(one)]
    starts = [place for place in starts if place >= 0.3 * len(paragraphs)]
    if not starts:
        return paragraphs
    start = starts[-1]
    end = next(
        (place for place in range(start + 1, len(paragraphs)) if _AFTER_REFERENCES.fullmatch(paragraphs[place])),
        len(paragraphs),
    )
    notes["lists of references cut off"] += 1
    return paragraphs[:start] + paragraphs[end:]


def _is_heading(paragraph: str) -> bool:
    """`References`, alone or with its first entry joined to it."""
    found = _REFERENCES.match(paragraph)
    rest = paragraph[found.end() :].strip() if found else ""
    return not rest or (
        bool(re.match(r"\[?\d|[A-Z][\w'’-]+,? ", rest)) and paragraph[:1].isupper() | paragraph[:1].isdigit()
    )
