"""From what a source gives to plain text in a known language: which extractor for which kind of document."""

from __future__ import annotations

import re
from collections.abc import Sequence

from groundup.corpus.document import Document
from groundup.corpus.extract import Method, main_text, tidy
from groundup.corpus.quality.language import detect

# Fenced and indented code, prompts, directives: a page of documentation is told by its sentences.
_CODE_IN_DOCS = re.compile(r"^```.*?^```|^(?: {3,}|\t|>>>|\.\. |:)[^\n]*$|`[^`\n]*`|\|[^|\n]*\|", re.M | re.S)


def raw_to_text(document: Document, method: Method, languages: Sequence[str]) -> str:
    """Plain text of a document of any kind, "" where there is none. `languages`: those that will be kept (none: all).

    The document's text is `sound`, as a shard's are: no parser takes lone surrogates. Raises what the extractors raise
    on pages that they cannot take.
    """
    text = document.text
    if document.media == "wikitext":
        from groundup.corpus.sources.wikipedia import prose_of

        return tidy(prose_of(text))
    if document.media != "html":
        return tidy(text, is_code=document.media == "code")
    if method == "cascade" and languages and document.language and document.language not in languages:
        method = "fast"  # it says itself that nobody wants it
    return main_text(text, method, languages)


def language_of(document: Document) -> tuple[str, float]:
    """(ISO 639-1 code or "", how sure); what the source says stands. Code is not asked."""
    if document.language or document.media == "code":
        return document.language, 1.0
    text = _CODE_IN_DOCS.sub("", document.text) if document.media == "docs" else document.text
    return detect(text)
