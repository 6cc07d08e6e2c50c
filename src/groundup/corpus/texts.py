"""From what a source gives to plain text in a known language: which extractor for which kind of document."""

from __future__ import annotations

import re
from collections.abc import Sequence

from groundup.corpus.document import Document
from groundup.corpus.extract import extract_best, extract_fast, tidy
from groundup.corpus.language import detect

# Fenced and indented code, prompts, directives: a page of documentation is told by its sentences.
_CODE_IN_DOCS = re.compile(r"^```.*?^```|^(?: {3,}|\t|>>>|\.\. |:)[^\n]*$|`[^`\n]*`|\|[^|\n]*\|", re.M | re.S)


def raw_to_text(document: Document, method: str, languages: Sequence[str]) -> tuple[str, bool]:
    """(plain text, whether it is what the method promises).

    `cascade` lets the fast extractor tell the language first: a page in a language that nobody wants is not worth the
    slow one, and goes on with the fast one's text, to be dropped.
    """
    # Broken charsets leave lone surrogates, which no parser and no file takes: they become the replacement character.
    text = document.text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if document.media == "wikitext":
        from groundup.corpus.sources.wikipedia import prose_of

        return tidy(prose_of(text)), True
    if document.media != "html":
        return tidy(text, is_code=document.media == "code"), True
    if method == "fast":
        return extract_fast(text), True
    fast = ""
    if method == "cascade" and languages:
        fast = extract_fast(text)
        code = document.language or (detect(fast)[0] if fast else "")
        if code and code not in languages:
            return fast, False
    return extract_best(text) or fast, True


def language_of(document: Document) -> tuple[str, float]:
    """(ISO 639-1 code or "", how sure); what the source says stands. Code is not asked."""
    if document.language or document.media == "code":
        return document.language, 1.0
    text = _CODE_IN_DOCS.sub("", document.text) if document.media == "docs" else document.text
    return detect(text)
