"""HTML -> main text.

Measured on 990 annotated pages (benchmarks/extract.py): Trafilatura F1 .926, Resiliparse .852 at ten times its speed.
`cascade` lets Resiliparse decide on the language, so that pages in other languages never meet the slow extractor; then
Trafilatura without its fallbacks (readability, jusText); and with them only where the first two disagree on how much
there is to say. Asking them of every page gains nothing: F1 .926 both ways.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from groundup.corpus.quality.language import identify

Method = Literal["fast", "cascade", "best"]
By = Literal["resiliparse", "trafilatura-fast", "trafilatura", "nothing"]

_SURELY_FOREIGN = 0.65  # how sure the detector must be of the fast text before a page is spared the slow extractor
_DOUBTFUL_CHARS = 250  # Trafilatura's own least size: below, it looks for more with its fallbacks
_DOUBTFUL_SHARES = (0.4, 1.5)  # of the fast text's length: outside, one of the two went wrong
_FEWEST_MAIN_CHARS = 200  # with less, Resiliparse mistook the main part: its whole visible text is the better guess

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\ufeff]")
_BLANKS = " \t\u00a0"
_EMPTY_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class Extracted:
    """A page's main text ("" where it has none), and which extractor gave it."""

    text: str
    by: By


def main_text(html: str, method: Method, languages: Sequence[str] = ()) -> str:
    """The main text of a page: menus, advertisements and footers left out, tables as `| a | b |`, code indented.

    `languages` are those that a corpus will keep (none: all); only `cascade` looks at them. Raises what lxml and
    Resiliparse raise on pages that they cannot take; the caller counts it, and sets the time limit.
    """
    return extract(html, method, languages).text


def extract(html: str, method: Method, languages: Sequence[str] = ()) -> Extracted:
    """The same, with the name of the extractor."""
    if method == "best":
        text = _by_trafilatura(html, with_fallbacks=True)
        return Extracted(text, "trafilatura") if text else _fast(html)
    fast = _fast(html)
    if method == "fast":
        return fast
    if languages and fast.text and _is_foreign(fast.text, languages):
        return fast
    text = _by_trafilatura(html, with_fallbacks=False)
    least, most = (share * len(fast.text) for share in _DOUBTFUL_SHARES)
    if len(text) >= _DOUBTFUL_CHARS and least <= len(text) <= most:
        return Extracted(text, "trafilatura-fast")
    text = _by_trafilatura(html, with_fallbacks=True)
    return Extracted(text, "trafilatura") if text else fast


def extract_fast(html: str) -> str:
    """Main text by Resiliparse; the whole visible text where it finds no main part."""
    return _fast(html).text


def extract_best(html: str) -> str:
    """Main text by Trafilatura; Resiliparse's where it finds none."""
    return extract(html, "best").text


def _fast(html: str) -> Extracted:
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(html, main_content=True, alt_texts=False, links=False)
    if len(text) < _FEWEST_MAIN_CHARS:
        text = max(text, extract_plain_text(html, main_content=False, alt_texts=False, links=False), key=len)
    text = tidy(text)
    return Extracted(text, "resiliparse" if text else "nothing")


def _is_foreign(text: str, languages: Sequence[str]) -> bool:
    """Surely in another language, and no part of it in one of these: the fast text holds menus and comments too."""
    found = identify(text)
    return found.score >= _SURELY_FOREIGN and not any(code in found.shares for code in languages)


def _by_trafilatura(html: str, *, with_fallbacks: bool) -> str:
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it logs each page it finds nothing in; we count them
    found = trafilatura.extract(html, fast=not with_fallbacks, include_comments=False, include_tables=True)
    return tidy(found or "")


def tidy(text: str, *, is_code: bool = False) -> str:
    """One kind of newline, no control characters, no trailing blanks; prose in Unicode's composed form (NFC) and with
    at most one empty line in a row."""
    text = _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = "\n".join([line.rstrip(_BLANKS) for line in text.split("\n")])
    if not is_code:
        if "\n\n\n" in text:
            text = _EMPTY_LINES.sub("\n\n", text)
        text = unicodedata.normalize("NFC", text)
    return text.strip("\n")
