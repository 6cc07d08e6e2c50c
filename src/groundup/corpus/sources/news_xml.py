"""One article out of the XML of RSS 0.9-2.0, Atom, NITF, NewsML-G2 or Reuters' NewsML (RCV1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from lxml import etree

from groundup.corpus.sources.rows import iso_date

_CREATIVE_COMMONS = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)/(\d\.\d)|publicdomain/zero/(\d\.\d))")


@dataclass(frozen=True)
class Article:
    """What the formats have in common. `license` is what the source says of rights, a licence or a copyright line."""

    title: str
    body: str
    date: str
    url: str
    author: str
    section: str
    license: str
    is_html: bool = False


def article_of(element: Any) -> Article | None:
    """The article of an element of one of the formats; None where it only looks like one (an `item` of another XML)."""
    name = etree.QName(element).localname
    if name == "item":
        return _rss(element)
    if name == "entry":
        return _atom(element)
    if name == "nitf":
        return _nitf(element)
    return _newsml(element) if name == "newsItem" else _reuters(element)


def _children(element: Any, *names: str) -> Iterator[Any]:
    """Children of any of the names, in any namespace; in the order of the names."""
    for name in names:
        for child in element:
            if isinstance(child.tag, str) and etree.QName(child).localname == name:
                yield child


def _below(element: Any, name: str) -> Iterator[Any]:
    for one in element.iter():
        if isinstance(one.tag, str) and etree.QName(one).localname == name:
            yield one


def _text(element: Any, *names: str) -> str:
    """The text of the first child of one of the names that has any."""
    return next((text for child in _children(element, *names) if (text := "".join(child.itertext()).strip())), "")


def _line(element: Any | None) -> str:
    return " ".join("".join(element.itertext()).split()) if element is not None else ""


def _markup(element: Any | None) -> str:
    """An element's inside as markup, for the reader of HTML; namespaces taken off."""
    if element is None:
        return ""
    raw = etree.tostring(element, encoding="unicode", with_tail=False)
    return re.sub(r"(</?)\w+:", r"\1", re.sub(r"\sxmlns(?::\w+)?=\"[^\"]*\"", "", raw))


def date_of(text: str) -> str:
    """ISO 8601 from what feeds write: RFC 822 (`Tue, 10 Jun 2003 04:00:00 GMT`), ISO, or `20030610T040000Z`."""
    text = text.strip()
    if found := re.match(r"(\d{4})(\d\d)(\d\d)(?:T?(\d\d)(\d\d)(\d\d)(Z|[+-]\d\d:?\d\d)?)?$", text):
        day = "-".join(found.group(1, 2, 3))
        return f"{day}T{':'.join(found.group(4, 5, 6))}{found[7] or ''}" if found[4] else day
    if iso := iso_date(text):
        return iso.replace("+00:00", "Z")
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return ""
    return (when.astimezone(UTC) if when.tzinfo else when).isoformat().replace("+00:00", "Z")


def rights_of(text: str) -> str:
    """A Creative Commons address as its SPDX id; other words as they are."""
    found = _CREATIVE_COMMONS.search(text)
    if found is None:
        return " ".join(text.split())[:200]
    return f"CC-{found[1].upper()}-{found[2]}" if found[1] else f"CC0-{found[3]}"


def _rss(item: Any) -> Article | None:
    if next(_children(item, "title", "description", "encoded"), None) is None:
        return None
    channel = next(item.iterancestors(), None)
    if channel is not None and etree.QName(channel).localname == "RDF":
        channel = next(_children(channel, "channel"), None)
    rights = _text(item, "license", "rights", "copyright")
    if not rights and channel is not None:
        rights = _text(channel, "license", "rights", "copyright")
    guid = _text(item, "guid")
    sections = ", ".join(filter(None, (_line(one) for one in _children(item, "category", "subject"))))
    return Article(
        _text(item, "title"),
        _text(item, "encoded", "content", "description"),
        date_of(_text(item, "pubDate", "date", "published")),
        _text(item, "link") or (guid if "://" in guid else ""),
        _text(item, "creator", "author"),
        sections,
        rights_of(rights),
        is_html=True,
    )


def _atom(entry: Any) -> Article | None:
    if next(_children(entry, "title", "content", "summary"), None) is None:
        return None
    feed = next(entry.iterancestors(), None)
    links = [link for link in _children(entry, "link") if link.get("rel", "alternate") == "alternate"]
    license_links = [link.get("href", "") for link in _children(entry, "link") if link.get("rel") == "license"]
    rights = next(iter(license_links), "") or _text(entry, "rights")
    if not rights and feed is not None:
        rights = next((link.get("href", "") for link in _children(feed, "link") if link.get("rel") == "license"), "")
        rights = rights or _text(feed, "rights")
    content = next((one for one in _children(entry, "content", "summary") if _line(one)), None)
    kind = content.get("type", "text") if content is not None else "text"
    author = next(_children(entry, "author"), None)
    return Article(
        _text(entry, "title"),
        _markup(content) if kind == "xhtml" else _text_of(content),
        date_of(_text(entry, "published", "updated", "issued", "modified")),
        links[0].get("href", "") if links else "",
        _text(author, "name") if author is not None else "",
        ", ".join(filter(None, (one.get("term", "") for one in _children(entry, "category")))),
        rights_of(rights),
        is_html=kind != "text",
    )


def _text_of(element: Any | None) -> str:
    return "".join(element.itertext()).strip() if element is not None else ""


def _nitf(nitf: Any) -> Article:
    first = lambda name: next(_below(nitf, name), None)  # noqa: E731
    attribute = lambda name, key: one.get(key, "") if (one := first(name)) is not None else ""  # noqa: E731
    title = _line(first("hl1")) or _line(first("title"))
    copyright = first("doc.copyright")
    rights = ""
    if copyright is not None:
        rights = f"(c) {copyright.get('year', '')} {copyright.get('holder', '')}".replace("  ", " ").strip()
    return Article(
        title,
        _markup(first("body.content")),
        date_of(attribute("date.issue", "norm") or attribute("pubdata", "date.publication")),
        attribute("doc-id", "id-string") if "://" in attribute("doc-id", "id-string") else "",
        re.sub(r"^by\s+", "", _line(first("byline")), flags=re.IGNORECASE),
        attribute("pubdata", "position.section") or attribute("tobject", "tobject.type"),
        rights,
        is_html=True,
    )


def _newsml(item: Any) -> Article:
    inline = next(_below(item, "inlineXML"), None)
    nitf = next(_below(inline, "nitf"), None) if inline is not None else None
    inner = _nitf(nitf) if nitf is not None else None
    data = next(_below(item, "inlineData"), None)
    body = inner.body if inner else _markup(next(_below(inline, "body"), inline)) if inline is not None else ""
    first = lambda name: _line(next(_below(item, name), None))  # noqa: E731
    author = next((_line(name) for by in _below(item, "creator") for name in _below(by, "name")), "") or first("by")
    guid = item.get("guid", "")
    return Article(
        first("headline") or (inner.title if inner else ""),
        body or _text_of(data),
        date_of(first("contentCreated") or first("firstCreated") or first("versionCreated")),
        guid if "://" in guid or guid.startswith("urn:") else "",
        author or (inner.author if inner else ""),
        ", ".join(filter(None, (_line(next(_below(one, "name"), None)) for one in _below(item, "subject")))),
        rights_of(first("usageTerms") if "creativecommons" in first("usageTerms") else first("copyrightNotice")),
        is_html=bool(body),
    )


def _reuters(item: Any) -> Article | None:
    text = next(_children(item, "text"), None)
    if text is None:
        return None
    return Article(
        _text(item, "headline", "title"),
        _markup(text),
        date_of(item.get("date", "")),
        "",
        re.sub(r"^by\s+", "", _text(item, "byline"), flags=re.IGNORECASE),
        "",
        rights_of(_text(item, "copyright")),
        is_html=True,
    )
