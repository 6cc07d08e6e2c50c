"""The steps that need one document only: extraction, language, quality. A pure function, so any process may run it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from groundup.corpus.document import Document, Drop, Media, drop
from groundup.corpus.extract import Method, extract_best, extract_fast, tidy
from groundup.corpus.language import detect
from groundup.corpus.quality import cut_boilerplate, signals_of
from groundup.corpus.quality_rules import failures
from groundup.corpus.settings import CorpusSettings, QualityRules

# Fenced and indented code, prompts, directives: a page of documentation is told by its sentences.
_CODE_IN_DOCS = re.compile(r"^```.*?^```|^(?: {3,}|\t|>>>|\.\. |:)[^\n]*$|`[^`\n]*`|\|[^|\n]*\|", re.M | re.S)


@dataclass(frozen=True)
class CleanOptions:
    """What the workers need to know of the stage's settings."""

    extract: Method
    languages: tuple[str, ...]
    min_language_score: float
    quality: QualityRules | None

    @staticmethod
    def of(settings: CorpusSettings) -> CleanOptions:
        return CleanOptions(settings.extract, tuple(settings.languages), settings.min_language_score, settings.quality)


@dataclass(frozen=True)
class Cleaned:
    """What became of one document: the clean one or a drop, and its size after each step it passed."""

    result: Document | Drop
    sizes: tuple[tuple[str, int], ...]  # (step, bytes after it)
    note: str = ""


def clean(document: Document, options: CleanOptions) -> Cleaned:
    """One document through extraction, language and quality."""
    sizes: list[tuple[str, int]] = []
    gated = None
    # Broken charsets leave lone surrogates, which no parser and no file takes: they become the replacement character.
    document = replace(document, text=document.text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
    if document.media == "html" and options.extract == "cascade" and options.languages:
        # The fast text is good enough to tell the language; only pages that stay are worth the slow extractor.
        fast = replace(document, text=extract_fast(document.text))
        if fast.text and (reason := _language_reason(fast, options)[0]):
            return Cleaned(drop(fast, "language", reason), (("extract", fast.bytes),))
        gated = fast.text
    text = _extracted(document, options.extract, gated)
    if not text.strip():
        return Cleaned(replace(drop(document, "extract", "no text in it"), excerpt=document.url), ())
    document = replace(document, text=text)
    sizes.append(("extract", document.bytes))

    reason, note = _language_reason(document, options)
    if reason:
        return Cleaned(drop(document, "language", reason), tuple(sizes))
    sizes.append(("language", document.bytes))

    if options.quality is not None:
        if document.media == "html" and options.quality.boilerplate:
            before = document
            document = replace(document, text=cut_boilerplate(document.text))
            if not document.text.strip():
                return Cleaned(drop(before, "quality", "nothing but boilerplate"), tuple(sizes), note)
        language = document.language or (options.languages[0] if len(options.languages) == 1 else "")
        signals = signals_of(document.text, document.media, language)
        if failed := failures(signals, document.media, language, options.quality):
            first = failed[0]
            dropped = drop(document, "quality", first.rule, value=first.value, threshold=first.threshold)
            return Cleaned(dropped, tuple(sizes), note)
    sizes.append(("quality", document.bytes))
    return Cleaned(document, tuple(sizes), note)


def clean_batch(documents: list[Document], options: CleanOptions) -> list[Cleaned]:
    return [clean(document, options) for document in documents]


def crashed(document: Document) -> Cleaned:
    """What stands for a document that took its process down with it."""
    return Cleaned(replace(drop(document, "extract", "crashed the extractor"), excerpt=document.url or document.id), ())


def _extracted(document: Document, method: Method, fast: str | None) -> str:
    media: Media = document.media
    if media == "html":
        if method == "fast":
            return extract_fast(document.text)
        return extract_best(document.text) or fast or ""
    if media == "wikitext":
        from groundup.corpus.sources.wikipedia import prose_of

        return tidy(prose_of(document.text))
    return tidy(document.text, is_code=media == "code")


def _language_reason(document: Document, options: CleanOptions) -> tuple[str, str]:
    """(why it is dropped, or ""; a note to count, or "")."""
    if document.media == "code" or not options.languages:
        return "", ""
    text = _CODE_IN_DOCS.sub("", document.text) if document.media == "docs" else document.text
    code, score = (document.language, 1.0) if document.language else detect(text)
    if not code:
        return "", "too short to tell the language: kept"
    if code not in options.languages:
        return f"language: {code}", ""
    return (f"language: unsure ({code})" if score < options.min_language_score else ""), ""
