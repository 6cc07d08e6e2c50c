"""MediaWiki XML dumps, in any language and encoding: pages are streamed, redirects counted, wikitext turned into prose.

A dump says itself how its file and category namespaces are called (`siteinfo`); cut-down dumps often do not, so the
names of the larger Wikipedias are known here as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import mwparserfromhell
from mwparserfromhell import nodes as wiki

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import WikipediaSource
from groundup.corpus.sources.files import Input, file_pieces, open_piece
from groundup.corpus.sources.piece import Piece

LICENCE = "CC-BY-SA"
_FILE_AND_CATEGORY = ("6", "14")  # namespace keys; the same in every MediaWiki
_NAMES = """
    file image category datei bild kategorie fichier catégorie archivo imagen categoría файл изображение категория
    категорія зображення ファイル 画像 dosya resim kategori kategoria plik grafika ficheiro imagem categoria immagine
    bestand afbeelding categorie fil tiedosto kuva luokka soubor kép fájl kategória slika kategorija ملف صورة تصنيف
    پرونده رده 文件 图像 分类 檔案 圖像 分類 파일 그림 분류 चित्र श्रेणी hình jamii picha αρχείο εικόνα κατηγορία קובץ
    תמונה קטגוריה berkas gambar датотека категорија"""
_KNOWN_NAMESPACES = frozenset(_NAMES.split()) | {"tập tin", "thể loại"}
_NAMESPACES_MARK = "\x00namespaces="


def pieces(source: WikipediaSource, cache: Path) -> list[Piece]:
    """One piece per file."""
    return file_pieces(source.path, cache)


def read(source: WikipediaSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Articles (namespace 0) as wikitext documents; redirects and other namespaces are drops."""
    for file in open_piece(piece):
        notes["files"] += 1
        pages = 0
        try:
            with file.open_unpacked() as stream:
                for page in _pages(stream, file, source):
                    pages += 1
                    yield page
        except (ElementTree.ParseError, OSError, EOFError) as error:
            reason = "damaged dump: the rest of the file could not be read" if pages else "not a readable XML dump"
            yield Drop(f"{file.name}#{pages + 1}", "read", reason, f"{file.where}: {error}")
        else:
            if not pages:
                yield Drop(f"{file.name}#1", "read", "not a readable XML dump", f"{file.where}: it holds no <page>")


def _pages(stream: Any, file: Input, source: WikipediaSource) -> Iterator[Document | Drop]:
    base, database = "", ""
    dropped_namespaces: set[str] = set()
    root: ElementTree.Element | None = None
    for event, element in ElementTree.iterparse(stream, events=("start", "end")):
        if event == "start":
            root = element if root is None else root
            continue
        tag = element.tag.rpartition("}")[2]
        if tag == "base":
            base = (element.text or "").rpartition("/")[0]
        elif tag == "dbname":
            database = element.text or ""
        elif tag == "namespace" and element.get("key") in _FILE_AND_CATEGORY and element.text:
            dropped_namespaces.add(element.text.lower())
        elif tag == "page":
            yield _page(element, file, source, base, database, dropped_namespaces)
            if root is not None:
                root.clear()  # what was read is forgotten: memory stays that of one page


def _page(
    page: ElementTree.Element, file: Input, source: WikipediaSource, base: str, database: str, dropped: set[str]
) -> Document | Drop:
    fields = {element.tag.rpartition("}")[2]: element for element in page.iter()}
    get = lambda name: (fields[name].text or "") if name in fields else ""  # noqa: E731
    title, text = get("title"), get("text")
    id = f"{database or 'wiki'}:{title}"
    if "redirect" in fields or re.match(r"\s*#\s*redirect\b", text, re.IGNORECASE):
        return Drop(id, "read", "redirect", text[:200], len(text.encode()))
    if (namespace := get("ns")) not in ("0", ""):
        return Drop(id, "read", f"not an article (namespace {namespace})", text[:200], len(text.encode()))
    if not text.strip():
        return Drop(id, "read", "empty page", title)
    url = f"{base}/{quote(title.replace(' ', '_'))}" if base else ""
    license = source.license or file.license or LICENCE
    # The extraction step runs in another process and sees the document only: the namespace names travel in front.
    content = f"{_NAMESPACES_MARK}{'|'.join(sorted(dropped))}\x00{title}\x00{text}"
    return Document(id, url, license, content, "wikitext")


# ---------------------------------------------------------------- wikitext -> prose (runs in the workers)

_DROPPED_TAGS = {
    "ref", "references", "gallery", "table", "math", "timeline", "imagemap", "score", "chem", "hiero", "templatestyles",
    "mapframe", "graph", "section", "indicator", "inputbox", "categorytree", "style", "script",
}  # fmt: skip
_TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*?\|\}", re.DOTALL)
_EMPTY_BRACKETS = re.compile(r"\s*[(\[][\s,;:/–-]*[)\]]")
_INTERWIKI = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?")


def prose_of(content: str) -> str:
    """Prose of an article as `read` packed it: no templates, tables, references, files, categories; headings stay.

    Sections that are empty without them go too.
    """
    namespaces, title, wikitext = content.removeprefix(_NAMESPACES_MARK).split("\x00", 2)
    out: list[str] = []
    # Innermost tables first: tables are the most expensive thing for the parser, and nothing of them is kept.
    while (shorter := _TABLE.sub("", wikitext)) != wikitext:
        wikitext = shorter
    _walk(
        mwparserfromhell.parse(wikitext, skip_style_tags=True).nodes,
        _KNOWN_NAMESPACES.union(namespaces.split("|")),
        out,
    )
    return _tidy(f"{title}\n\n{''.join(out)}")


def _walk(nodes: Iterable[Any], namespaces: frozenset[str], out: list[str]) -> None:
    for node in nodes:
        if isinstance(node, wiki.Text):
            out.append(node.value)
        elif isinstance(node, wiki.Wikilink):
            _link(node, namespaces, out)
        elif isinstance(node, wiki.Tag):
            _tag(node, namespaces, out)
        elif isinstance(node, wiki.Heading):
            out.append(f"\n\n{_HEADING}{node.title.strip_code().strip()}\n\n")
        elif isinstance(node, wiki.ExternalLink):
            if node.title is not None:
                _walk(node.title.nodes, namespaces, out)
        elif isinstance(node, wiki.HTMLEntity):
            out.append(_entity(node))
        elif isinstance(node, wiki.Template):
            _template(node, namespaces, out)
        # comments and template arguments: nothing to read


def _link(node: wiki.Wikilink, namespaces: frozenset[str], out: list[str]) -> None:
    title = str(node.title).strip()
    prefix, colon, _ = title.partition(":")
    if colon and (prefix.lower() in namespaces or _INTERWIKI.fullmatch(prefix)):
        return
    if node.text is not None:
        _walk(node.text.nodes, namespaces, out)
    else:
        out.append(title.removeprefix(":"))


def _tag(node: wiki.Tag, namespaces: frozenset[str], out: list[str]) -> None:
    name = str(node.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return
    if name == "br":
        out.append("\n")
    elif name == "li" and node.wiki_markup:
        out.append("* ")
    elif node.contents is not None and not node.self_closing:
        _walk(node.contents.nodes, namespaces, out)


def _template(node: wiki.Template, namespaces: frozenset[str], out: list[str]) -> None:
    """A few templates stand for words inside a sentence; all others are dropped."""
    name = str(node.name).strip().lower()
    values = [param.value for param in node.params if not param.showkey]
    if name == "lang" and len(values) >= 2:
        _walk(values[1].nodes, namespaces, out)
    elif (name.startswith("lang-") or name in ("nowrap", "transl", "nobold")) and values:
        _walk(values[-1].nodes, namespaces, out)
    elif name in ("convert", "cvt") and len(values) >= 2:
        out.append(f"{str(values[0]).strip()} {str(values[1]).strip()}")


def _entity(node: wiki.HTMLEntity) -> str:
    try:
        text = str(node.normalize())
    except (ValueError, OverflowError):
        return ""
    return " " if text == "\xa0" else text


_HEADING = "\x01"  # marks heading lines until empty sections are gone


def _tidy(text: str) -> str:
    text = _EMPTY_BRACKETS.sub("", text.replace("'''", "").replace("''", ""))
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.split("\n")]
    lines = [line for line in lines if not re.fullmatch(r"(?:[*:;#]+|__[A-Z]+__|\{\{|\}\}|\|\}?)", line)]
    kept: list[str] = []
    for place, line in enumerate(lines):
        if line.startswith(_HEADING):
            following = next((other for other in lines[place + 1 :] if other), _HEADING)
            # A heading with nothing but another heading below it had only templates or tables. (A heading directly
            # above a sub-heading goes as well: the sub-heading says what the text is about.)
            if following.startswith(_HEADING):
                continue
            line = line.removeprefix(_HEADING)
        kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
