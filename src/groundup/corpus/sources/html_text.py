"""HTML of posts, messages and book chapters as plain text in which structure can still be read.

For fragments that are all content: nothing is taken for boilerplate. Paragraphs stay apart, headings and lists keep
Markdown's marks, code stands in fences, quotations behind `>`, tables in lines; TeX between dollars is left alone.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from lxml import etree, html

_SKIPPED = {
    "script", "style", "noscript", "template", "head", "title", "meta", "link", "iframe", "object", "svg", "button",
    "form", "nav", "audio", "video", "img",
}  # fmt: skip
_BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "center", "dd", "details", "div", "dl", "dt", "figcaption",
    "figure", "footer", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p", "pre", "section",
    "summary", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_BREAK = "\x02"
_NOT_TEXT = re.compile(r"<!--.*?(?:-->|$)|<(script|style|head|nav|svg|form|button|title)\b.*?</\1\s*>", re.S | re.I)
_SPACE = re.compile(r"[ \t\r\n\f\v]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def text_of_html(fragment: str | bytes) -> str:
    """The text of an HTML or XHTML fragment or page; bytes are decoded as they say themselves."""
    if not fragment.strip():
        return ""
    if isinstance(fragment, str):
        # its own statement of an encoding no longer holds, and lxml would refuse it
        fragment = re.sub(r"^\s*<\?xml[^>]*\?>", "", _CONTROL.sub("", fragment)).encode("utf-8", "replace")
        parser = html.HTMLParser(encoding="utf-8", huge_tree=True)
    else:
        parser = html.HTMLParser(huge_tree=True)
    try:
        root = html.document_fromstring(fragment, parser=parser, ensure_head_body=False)
        text = "\n\n".join(_blocks(root))
    except (etree.ParserError, etree.XMLSyntaxError, ValueError, RecursionError):
        text = ""  # nothing in it, or nested deeper than the parser goes
    return text or _without_tags(fragment)


def _without_tags(fragment: bytes) -> str:
    """The last resort: what is left without anything that looks like a tag."""
    marked = _NOT_TEXT.sub(" ", fragment.decode("utf-8", "replace"))
    return _SPACE.sub(" ", unescape(re.sub(r"<[^<>]*>", " ", marked))).strip()


def _blocks(element: Any) -> list[str]:
    """The blocks of an element, in order; what stands between block elements is a block of its own."""
    blocks: list[str] = []
    line: list[str] = [element.text or ""]

    def flush() -> None:
        if text := _collapsed("".join(line)):
            blocks.append(text)
        line.clear()

    for child in element:
        tag = child.tag if isinstance(child.tag, str) else ""
        if tag and tag not in _SKIPPED:
            if tag in _BLOCKS or any(one.tag in _BLOCKS for one in child.iterdescendants()):
                flush()
                blocks.extend(_block(child, tag))
            else:
                line.append(_inline(child, tag))
        line.append(child.tail or "")
    flush()
    return blocks


def _block(element: Any, tag: str) -> list[str]:
    if tag == "pre":
        code = element.text_content().strip("\n")
        return [_fenced(code)] if code.strip() else []
    if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
        title = " ".join(_blocks(element)).replace("\n", " ")
        return [f"{'#' * int(tag[1])} {title}"] if title else []
    if tag in ("ul", "ol"):
        return _list(element, tag == "ol")
    if tag == "blockquote":
        inner = "\n\n".join(_blocks(element))
        return ["\n".join(f"> {line}".rstrip() for line in inner.split("\n"))] if inner else []
    if tag == "table":
        return _table(element)
    return _blocks(element)


def _list(element: Any, numbered: bool) -> list[str]:
    items = []
    for item in element:
        if item.tag != "li":
            items.extend(_block(item, item.tag) if item.tag in ("ul", "ol") else [])
            continue
        if text := "\n".join(_blocks(item)):
            mark = f"{len(items) + 1}. " if numbered else "- "
            items.append(mark + text.replace("\n", "\n" + " " * len(mark)))
    return ["\n".join(items)] if items else []


def _table(element: Any) -> list[str]:
    """A line per row, ` | ` between cells. A table with blocks in its cells is there for the layout: its blocks."""
    rows = []
    for row in element.iter("tr"):
        if any(cell.find(f".//{tag}") is not None for cell in row for tag in ("p", "table", "ul", "pre", "h1", "h2")):
            return _blocks(element)
        cells = [" ".join(_blocks(cell)).replace("\n", " ") for cell in row if cell.tag in ("td", "th")]
        if any(cells):
            rows.append(" | ".join(cells).strip())
    return ["\n".join(rows)] if rows else []


def _inline(element: Any, tag: str) -> str:
    if tag in ("br", "wbr"):
        return _BREAK if tag == "br" else ""
    inner = (element.text or "") + "".join(
        (_inline(child, child.tag) if isinstance(child.tag, str) and child.tag not in _SKIPPED else "")
        + (child.tail or "")
        for child in element
    )
    stripped = inner.strip()
    if not stripped:
        return inner
    if tag in ("code", "tt", "kbd", "samp"):
        return f"`{stripped}`" if "`" not in stripped else stripped
    if tag in ("sup", "sub"):
        if element.find(".//a") is not None:  # the number of a footnote
            return ""
        mark = "^" if tag == "sup" else "_"
        return mark + (stripped if len(stripped) == 1 or stripped.isalnum() else f"({stripped})")
    return inner


def _collapsed(text: str) -> str:
    lines = (_SPACE.sub(" ", line.replace("\xa0", " ")).strip() for line in text.split(_BREAK))
    return "\n".join(lines).strip("\n")


def _fenced(code: str) -> str:
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{code}\n{fence}"
