"""News: RSS and Atom feeds, NITF, NewsML-G2 and Reuters' NewsML, and articles as JSON; also in archives.

Formats are told by their content. XML is streamed article by article with a parser that goes on behind damage; what
it had to mend is counted.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lxml import etree

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import NewsSource
from groundup.corpus.sources.files import Input, file_pieces, open_members
from groundup.corpus.sources.html_text import text_of_html
from groundup.corpus.sources.news_xml import Article, article_of
from groundup.corpus.sources.packed import UNPACK_ERRORS
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.row_formats import MAX_ROW_BYTES, BadRow, json_lines, json_list
from groundup.corpus.sources.rows import field_of, iso_date

_ARTICLE_TAGS = ("item", "entry", "nitf", "newsItem", "newsitem")
_LISTS = ("articles", "items", "entries", "results", "data", "rows", "documents")
_FIELDS = {
    "text": ("text", "body", "maintext", "articleBody", "article", "content", "content_text", "content_html"),
    "title": ("title", "headline", "name"),
    "date": ("date", "published", "date_publish", "date_published", "datePublished", "publish_date", "pubDate",
             "created"),
    "url": ("url", "link", "canonical", "id"),
    "author": ("author", "authors", "byline"),
    "section": ("section", "genre", "category", "categories", "topic", "topics", "tags"),
    "license": ("license", "rights", "copyright"),
}  # fmt: skip
_LOOKS_LIKE_HTML = re.compile(r"<(?:p|br|div|a|span|h\d|ul|li|em|strong|img)\b[^>]*>", re.IGNORECASE)
_START = b"\xef\xbb\xbf \t\r\n"


def pieces(source: NewsSource, cache: Path) -> list[Piece]:
    """One piece per file (an archive is one file)."""
    return file_pieces(source.path, cache, lists=True, root=source.path_root, max_files=source.max_files)


def read(source: NewsSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """One document per article, its headline on top; articles without text and unreadable files are drops."""
    for file in open_members(piece):
        if isinstance(file, Drop):
            yield file
            continue
        notes["files"] += 1
        place = 0
        try:
            for place, article in enumerate(_articles(file, notes), 1):
                if article is not None:
                    yield _fate(article, f"{file.name}#{place}", source, file)
        except (*UNPACK_ERRORS, etree.LxmlError) as error:
            yield Drop(f"{file.name}#{place + 1}", "read", "unreadable file", f"{file.where}: {error}")
            continue
        if not place:
            what = "no article in it (RSS, Atom, NITF, NewsML, JSON)"
            yield Drop(f"{file.name}#1", "read", what, file.where)


def _articles(file: Input, notes: Counter[str]) -> Iterator[Article | BadRow | None]:
    with file.open_unpacked() as stream:
        head = bytes(stream.peek(4096)[:4096])  # type: ignore[attr-defined]
        start = head.replace(b"\0", b"").lstrip(b"\xff\xfe" + _START)[:1]
        if start == b"<":
            yield from _xml(stream, notes)
        elif start in (b"{", b"["):
            for row in _json_rows(stream, file.name, start):
                yield _of_json(row) if isinstance(row, dict) else row


# ---------------------------------------------------------------- XML


def _xml(stream: Any, notes: Counter[str]) -> Iterator[Article]:
    # No entity of the file's own is expanded and nothing is fetched: feeds come from anywhere.
    parser = etree.iterparse(
        stream, events=("end",), recover=True, huge_tree=True, no_network=True, resolve_entities=False, load_dtd=False
    )
    try:
        for _, element in parser:
            if not isinstance(element.tag, str) or etree.QName(element).localname not in _ARTICLE_TAGS:
                continue
            parents = [etree.QName(parent).localname for parent in element.iterancestors()]
            if any(parent in _ARTICLE_TAGS for parent in parents):
                continue  # a NITF article inside a NewsML item is read with that
            article = article_of(element)
            if article is not None:
                yield article
            # What was read is forgotten, so that memory stays that of one article; the feed's own head stays.
            element.clear(keep_tail=False)
            before = element.getprevious()
            if before is not None and isinstance(before.tag, str) and before.tag == element.tag:
                before.getparent().remove(before)
    finally:
        if parser.error_log:
            notes["XML faults mended"] += len(parser.error_log)


# ---------------------------------------------------------------- JSON


def _json_rows(stream: Any, name: str, start: bytes) -> Iterator[Any]:
    if start == b"[":
        yield from json_list(stream)
        return
    if re.search(r"\.(?:jsonl|ndjson)(?:\.\w+)?$", name):
        yield from json_lines(stream)
        return
    data = stream.read(MAX_ROW_BYTES)
    try:
        whole = json.loads(data)  # one article, or a list of them under a key, laid out over lines
    except (ValueError, RecursionError):
        if len(data) == MAX_ROW_BYTES:
            raise OSError(f"a JSON object of more than {MAX_ROW_BYTES // 1_000_000} MB") from None
        yield from json_lines(io.BufferedReader(io.BytesIO(data)))  # type: ignore[arg-type]
        return
    inner = next((whole[key] for key in _LISTS if isinstance(whole.get(key), list)), None)
    yield from inner if inner is not None else [whole]


def _of_json(row: dict[str, Any]) -> Article:
    found = {
        name: next((value for key in keys if (value := _words(field_of(row, key)))), "")
        for name, keys in _FIELDS.items()
    }
    dates = (iso_date(field_of(row, key)) for key in _FIELDS["date"])
    url = found["url"] if "://" in found["url"] or found["url"].startswith("urn:") else ""
    return Article(
        found["title"],
        found["text"],
        next(filter(None, dates), ""),
        url,
        found["author"],
        found["section"],
        found["license"],
        is_html=_LOOKS_LIKE_HTML.search(found["text"]) is not None,
    )


def _words(value: Any) -> str:
    """Text of a field: names of authors may stand in lists or under `name`, texts under `value`."""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_words, value)))
    if isinstance(value, dict):
        return _words(value.get("name") or value.get("value") or "")
    return str(value).strip() if isinstance(value, str | int | float) else ""


# ---------------------------------------------------------------- the document


def _fate(article: Article | BadRow, id: str, source: NewsSource, file: Input) -> Document | Drop:
    if isinstance(article, BadRow):
        return Drop(id, "read", article.reason, f"{id}: {article.why}: {article.start}"[:300], article.bytes)
    if source.sections and not _in_sections(article.section, source.sections):
        return Drop(id, "read", "of another section", f"{article.section or 'no section'}: {article.title}")
    body = text_of_html(article.body) if article.is_html else article.body.strip()
    if not body:
        return Drop(id, "read", "article without text", f"{article.title} {article.url}".strip())
    title = " ".join((text_of_html(article.title) if "<" in article.title else article.title).split())
    text = body if not title or body[: len(title) + 20].find(title) >= 0 else f"{title}\n\n{body}"
    named = {"title": title, "author": article.author, "section": article.section}
    license = article.license or source.license or file.license or "unknown"
    metadata = {name: value for name, value in named.items() if value}
    return Document(id, article.url, license, text, "prose", "", article.date, metadata)


def _in_sections(section: str, wanted: tuple[str, ...]) -> bool:
    own = {one.strip().lower() for one in section.split(",")}
    return any(one.lower() in own for one in wanted)
