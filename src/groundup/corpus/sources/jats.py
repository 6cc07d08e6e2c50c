"""Journal articles in JATS or NLM XML (PubMed Central, publishers): title, abstract and sections as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from lxml import etree

from groundup.corpus.licences import licence_of_url

_SKIPPED = {
    "ref-list", "fn-group", "back-matter", "supplementary-material", "graphic", "media", "object-id", "inline-graphic",
    "contrib-group", "funding-group", "glossary", "table-wrap-foot", "permissions", "author-notes", "history",
}  # fmt: skip
_BLOCKS = {
    "p", "sec", "title", "list", "list-item", "disp-quote", "disp-formula", "table-wrap", "fig", "boxed-text", "ack",
    "app", "app-group", "def-list", "def-item", "def", "term", "verse-group", "verse-line", "statement", "speech",
    "preformat", "code", "fig-group", "disp-formula-group", "table-wrap-group", "caption", "label",
}  # fmt: skip
_TEX_BODY = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.S)


@dataclass(frozen=True)
class Article:
    title: str
    authors: list[str]
    date: str
    doi: str
    pmc: str
    journal: str
    license: str
    language: str
    text: str  # '' where the file holds neither abstract nor body


def articles(stream: IO[bytes], keep_references: bool = False) -> Iterator[Article]:
    """Every `<article>` of a file, one in memory at a time. Raises etree.XMLSyntaxError where it is no XML at all."""
    events = etree.iterparse(
        stream,
        events=("end",),
        tag=("{*}article", "article"),
        recover=True,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=True,
    )
    for _, element in events:
        if _nearest(element.iterancestors(), "article") is not None:
            continue  # a response or sub-article inside another one
        yield _article(element, keep_references)
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]


def _nearest(elements: Any, name: str) -> Any:
    return next((one for one in elements if _name(one) == name), None)


def _name(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _find(element: Any, path: str) -> Any:
    """The first descendant by a path of local names."""
    for name in path.split("/"):
        element = next((one for one in element.iter() if _name(one) == name), None) if element is not None else None
    return element


def _article(article: Any, keep_references: bool) -> Article:
    meta = _find(article, "article-meta")
    meta = meta if meta is not None else article
    title = _line(_find(meta, "title-group/article-title"))
    parts = [f"# {title}"] if title else []
    for abstract in (one for one in meta.iter() if _name(one) == "abstract" and not one.get("abstract-type")):
        parts += ["## Abstract", *[block for block in _blocks(abstract, 3) if block.lower() != "### abstract"]]
    body = [block for one in article if _name(one) == "body" for block in _blocks(one, 2)]
    back = [block for one in article if _name(one) == "back" for block in _back(one, keep_references)]
    has_text = len(parts) > 1 or bool(body)
    return Article(
        title,
        _authors(meta),
        _date(meta),
        _id(meta, "doi"),
        _id(meta, "pmc", "pmcid").removeprefix("PMC"),
        _line(_find(article, "journal-title")),
        _license(meta),
        (article.get("{http://www.w3.org/XML/1998/namespace}lang") or "").lower()[:2],
        "\n\n".join([*parts, *body, *back]) if has_text else "",
    )


def _id(meta: Any, *kinds: str) -> str:
    found = (one for one in meta.iter() if _name(one) == "article-id" and one.get("pub-id-type") in kinds)
    return next(((one.text or "").strip() for one in found), "")


def _authors(meta: Any) -> list[str]:
    names = []
    for contrib in (
        one for one in meta.iter() if _name(one) == "contrib" and one.get("contrib-type") in (None, "author")
    ):
        name = _find(contrib, "name")
        parts = [_line(_find(name, part)) for part in ("given-names", "surname")] if name is not None else []
        collab = _line(_find(contrib, "collab"))
        if full := " ".join(part for part in parts if part) or collab:
            names.append(full)
    return names


def _date(meta: Any) -> str:
    dates = []
    for one in meta.iter():
        if _name(one) == "pub-date" and (year := _line(_find(one, "year"))).isdigit():
            month, day = (_line(_find(one, part)) for part in ("month", "day"))
            parts = [year, *(f"{int(part):02d}" for part in (month, day) if part.isdigit())]
            dates.append("-".join(parts if month.isdigit() else parts[:1]))
    return min(dates, default="")  # the day it could be read first


def _license(meta: Any) -> str:
    for one in (one for one in meta.iter() if _name(one) == "license"):
        links = [value for part in one.iter() for key, value in part.attrib.items() if str(key).endswith("href")]
        for said in (*links, "".join(one.itertext())):
            if found := licence_of_url(str(said)):
                return found
    return ""


# ---------------------------------------------------------------- text


def _back(back: Any, keep_references: bool) -> list[str]:
    blocks: list[str] = []
    for one in back:
        if _name(one) in ("ack", "app-group", "app", "sec"):
            blocks += _blocks(one, 2)
        elif _name(one) == "ref-list" and keep_references:
            entries = [_line(ref) for ref in one.iter() if _name(ref) == "ref"]
            blocks += ["## References", "\n".join(f"- {entry}" for entry in entries if entry)]
    return blocks


def _blocks(element: Any, level: int) -> list[str]:
    """The blocks of an element; sections get headings of their depth."""
    blocks: list[str] = []
    line: list[str] = [element.text or ""]

    def flush() -> None:
        if text := " ".join("".join(line).split()):
            blocks.append(text)
        line.clear()

    for child in element:
        name = _name(child)
        if name in _BLOCKS or (any(_name(one) in _BLOCKS for one in child.iterdescendants()) and name not in _SKIPPED):
            flush()
            blocks += _block(child, name, level)
        elif name and name not in _SKIPPED:
            line.append(_inline(child, name))
        line.append(child.tail or "")
    flush()
    return blocks


def _block(element: Any, name: str, level: int) -> list[str]:
    if name in _SKIPPED or name == "label":
        return []
    if name == "title":
        label = _line(next((one for one in element.itersiblings(preceding=True) if _name(one) == "label"), None))
        text = " ".join(part for part in (label, _line(element)) if part)
        return [f"{'#' * min(level, 6)} {text}"] if text else []
    if name in ("sec", "app", "ack", "boxed-text"):
        return _blocks(element, level + (_name(element.getparent()) == "sec"))
    if name == "list":
        numbered = element.get("list-type") == "order"
        items = ["\n".join(_blocks(item, level)) for item in element if _name(item) == "list-item"]
        marks = [f"{place}. " if numbered else "- " for place in range(1, len(items) + 1)]
        lines = [mark + item.replace("\n", "\n  ") for mark, item in zip(marks, items, strict=True) if item]
        return ["\n".join(lines)] if lines else []
    if name == "disp-formula":
        return [formula] if (formula := _formula(element, "$$")) else []
    if name in ("fig", "table-wrap"):
        label = _line(next((one for one in element if _name(one) == "label"), None))
        caption = next((one for one in element if _name(one) == "caption"), None)
        said = " ".join(part for part in (label, _line(caption)) if part)
        return [part for part in (said, *_rows(element)) if part]
    if name in ("preformat", "code"):
        return [f"```\n{''.join(element.itertext()).strip(chr(10))}\n```"]
    if name == "disp-quote":
        return ["\n".join(f"> {line}" for block in _blocks(element, level) for line in block.split("\n"))]
    return _blocks(element, level)


def _rows(element: Any) -> list[str]:
    rows = [
        " | ".join(_line(cell) for cell in row if _name(cell) in ("td", "th"))
        for row in element.iter()
        if _name(row) == "tr"
    ]
    return ["\n".join(row for row in rows if row.strip(" |"))] if rows else []


def _inline(element: Any, name: str) -> str:
    if name in ("inline-formula", "tex-math", "math"):
        return _formula(element, "$")
    inner = (element.text or "") + "".join(
        (_inline(child, _name(child)) if _name(child) and _name(child) not in _SKIPPED else "") + (child.tail or "")
        for child in element
    )
    if name == "break":
        return " "
    stripped = inner.strip()
    if name in ("sup", "sub") and stripped:
        if any(_name(one) in ("xref", "ext-link") for one in element):
            return f" [{stripped.replace('[', '').replace(']', '')}]"  # a citation
        mark = "^" if name == "sup" else "_"
        return mark + (stripped if len(stripped) == 1 or stripped.isalnum() else f"({stripped})")
    if name == "monospace" and stripped:
        return f"`{stripped}`"
    if name == "xref" and element.get("ref-type") == "bibr" and stripped.isdigit():
        before = element.getprevious()
        so_far = (before.tail if before is not None else element.getparent().text) or ""
        return stripped if so_far.rstrip().endswith(("[", "(", ",", "-", "–")) else f"[{stripped}]"
    return inner


def _formula(element: Any, mark: str) -> str:
    """TeX as the file has it; of MathML what can be written in a line."""
    tex = element if _name(element) == "tex-math" else _find(element, "tex-math")
    if tex is not None:
        source = "".join(tex.itertext())
        source = (found[1] if (found := _TEX_BODY.search(source)) else source).strip().strip("$").strip()
        return f"{mark}{' '.join(source.split())}{mark}" if source else ""
    math = element if _name(element) == "math" else _find(element, "math")
    text = " ".join((_mathml(math) if math is not None else _inline(element, "")).split())
    return f"{mark}{text}{mark}" if text else ""


def _mathml(element: Any) -> str:
    name = _name(element)
    children = [_mathml(child).strip() for child in element if _name(child)]
    if name in ("msup", "msub", "mfrac") and len(children) == 2:
        first, second = (one if len(one) == 1 or one.isalnum() else f"({one})" for one in children)
        return f"{first}{ {'msup': '^', 'msub': '_', 'mfrac': '/'}[name] }{second}"
    if name == "msubsup" and len(children) == 3:
        return f"{children[0]}_{children[1]}^{children[2]}"
    if name == "msqrt":
        return f"√({''.join(children)})"
    if name == "annotation":
        return ""
    if children:
        return " ".join(child for child in children if child)
    return " ".join((element.text or "").split())


def _line(element: Any) -> str:
    return " ".join(_inline(element, "").split()) if element is not None else ""
