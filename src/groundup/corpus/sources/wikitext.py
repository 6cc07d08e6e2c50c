"""Wikitext -> prose: links as their words, tables as lines, code and formulas as written; templates and references go.

A pure function of the text, run by the extraction step. mwparserfromhell parses what is left once tables, code and
formulas are taken out, which is what costs it most.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mwparserfromhell
from mwparserfromhell import nodes as wiki

from groundup.corpus.sources.wikitables import tables_as_text

# Names of the file and category namespaces in the larger Wikipedias, for dumps that do not say them.
_NAMES = """
    file image category datei bild kategorie fichier catégorie archivo imagen categoría файл изображение категория
    категорія зображення ファイル 画像 dosya resim kategori kategoria plik grafika ficheiro imagem categoria immagine
    bestand afbeelding categorie fil tiedosto kuva luokka soubor kép fájl kategória slika kategorija ملف صورة تصنيف
    پرونده رده 文件 图像 分类 檔案 圖像 分類 파일 그림 분류 चित्र श्रेणी hình jamii picha αρχείο εικόνα κατηγορία קובץ
    תמונה קטגוריה berkas gambar датотека категорија"""
_KNOWN_NAMESPACES = frozenset(_NAMES.split()) | {"tập tin", "thể loại"}
_MARK = "\x00namespaces="

_DROPPED_TAGS = {
    "ref", "references", "gallery", "timeline", "imagemap", "score", "chem", "ce", "hiero", "templatestyles",
    "maplink", "graph", "section", "indicator", "inputbox", "categorytree", "style", "script", "mapframe",
}  # fmt: skip
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_VERBATIM = re.compile(r"<(syntaxhighlight|source|pre|math)\b[^>/]*>(.*?)</\1\s*>", re.DOTALL | re.IGNORECASE)
_EMPTY_BRACKETS = re.compile(r"\s*[(\[][\s,;:/–-]*[)\]]")
_INTERWIKI = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?")
_LEFT_OVER = re.compile(r"(?:[*:;#]+|__[A-Z]+__|\{\{|\}\}|\|\}?|\{\||[|\s]+)")
_HEADING, _KEPT = "\x01", "\x02"  # mark heading lines until empty sections are gone; stand around a kept block's number


@dataclass(frozen=True)
class _Wiki:
    namespaces: frozenset[str]
    with_tables: bool


def packed(title: str, wikitext: str, namespaces: Iterable[str], *, with_tables: bool = True) -> str:
    """What `prose_of` needs in one text: the extraction step runs in another process and sees the document only."""
    tables = "tables" if with_tables else ""
    return f"{_MARK}{'|'.join(sorted(namespaces))}\x00{tables}\x00{title}\x00{wikitext}"


def prose_of(content: str) -> str:
    """Prose of an article as `packed` made it: no templates, references, files, categories; headings stay.

    Sections that are empty without those go too.
    """
    namespaces, tables, title, wikitext = content.removeprefix(_MARK).split("\x00", 3)
    site = _Wiki(_KNOWN_NAMESPACES.union(namespaces.split("|")), tables == "tables")
    blocks: list[str] = []

    def keep(match: re.Match[str]) -> str:
        if match[1].lower() == "math":
            formula = " ".join(match[2].split())
            blocks.append(f"${formula}$")
            return f"{_KEPT}{len(blocks) - 1}{_KEPT}" if formula else ""
        blocks.append(match[2].strip("\n").rstrip())
        return f"\n\n{_KEPT}{len(blocks) - 1}{_KEPT}\n\n"

    wikitext = _COMMENT.sub("", wikitext.replace(_KEPT, "").replace(_HEADING, ""))
    wikitext = tables_as_text(_VERBATIM.sub(keep, wikitext), keep=site.with_tables)
    out: list[str] = []
    _walk(mwparserfromhell.parse(wikitext, skip_style_tags=True).nodes, site, out)
    text = _tidy(f"{title}\n\n{''.join(out)}")
    return re.sub(f"{_KEPT}(\\d+){_KEPT}", lambda match: blocks[int(match[1])], text)


def _walk(nodes: Iterable[Any], site: _Wiki, out: list[str]) -> None:
    for node in nodes:
        if isinstance(node, wiki.Text):
            out.append(node.value)
        elif isinstance(node, wiki.Wikilink):
            _link(node, site, out)
        elif isinstance(node, wiki.Tag):
            _tag(node, site, out)
        elif isinstance(node, wiki.Heading):
            out.append(f"\n\n{_HEADING}{node.title.strip_code().strip()}\n\n")
        elif isinstance(node, wiki.ExternalLink):
            if node.title is not None:
                _walk(node.title.nodes, site, out)
        elif isinstance(node, wiki.HTMLEntity):
            out.append(_entity(node))
        elif isinstance(node, wiki.Template):
            _template(node, site, out)
        # comments and template arguments: nothing to read


def _link(node: wiki.Wikilink, site: _Wiki, out: list[str]) -> None:
    title = str(node.title).strip()
    prefix, colon, _ = title.partition(":")
    if colon and (prefix.lower() in site.namespaces or _INTERWIKI.fullmatch(prefix)):
        return
    if node.text is not None:
        _walk(node.text.nodes, site, out)
    else:
        out.append(title.removeprefix(":"))


def _tag(node: wiki.Tag, site: _Wiki, out: list[str]) -> None:
    name = str(node.tag).strip().lower()
    if name in _DROPPED_TAGS or (name == "table" and (node.wiki_markup or not site.with_tables)):
        return
    if name == "br":
        out.append("\n")
    elif name == "li" and node.wiki_markup:
        out.append("* ")
    elif node.contents is not None and not node.self_closing:
        if name in ("td", "th"):
            inner: list[str] = []
            _walk(node.contents.nodes, site, inner)
            out.append(" ".join("".join(inner).split()) + " | ")
            return
        _walk(node.contents.nodes, site, out)
        if name in ("tr", "table", "p", "div"):
            out.append("\n")


_FIRST = {
    "nowrap", "nobr", "nobold", "small", "big", "smallcaps", "smaller", "larger", "em", "strong", "abbr", "ill",
    "interlanguage link", "quote", "blockquote", "cquote", "quotation", "zitat", "citation bloc", "cita", "formatnum",
    "plainlist", "unbulleted list", "mvar", "math", "sup", "sub", "center", "noitalic", "visible anchor", "nihongo",
    "as written", "not a typo", "sic", "tooltip", "gloss", "kbd", "code", "tt", "var", "samp",
}  # fmt: skip
_LAST = {"transl", "lang", "langx"}
_WORDS = {
    "mdash": "—", "ndash": "–", "snd": " – ", "spaced ndash": " – ", "spnd": " – ", "emdash": "—", "dash": "–",
    "circa": "c. ", "c.": "c. ", "=": "=", "!": "|", "'": "'", "pi": "π", "times": "×", "nbsp": " ", "sp": " ",
    "·": " · ", "•": " • ", "dot": " · ", "bull": " • ", "middot": " · ",
}  # fmt: skip


def _template(node: wiki.Template, site: _Wiki, out: list[str]) -> None:
    """Some templates stand for words inside a sentence; all others are dropped."""
    name = str(node.name).strip().lower().replace("_", " ")
    values = [param.value for param in node.params if not param.showkey]
    if name in ("convert", "cvt") and len(values) >= 2:
        out.append(f"{str(values[0]).strip()} {str(values[1]).strip()}")
    elif name in ("frac", "sfrac", "bruch") and values:
        numbers = [str(value).strip() for value in values]
        out.append("/".join(numbers) if len(numbers) < 3 else f"{numbers[0]} {numbers[1]}/{numbers[2]}")
    elif name == "as of" and values:
        out.append("As of " + "-".join(str(value).strip() for value in values))
    elif name in ("val", "num") and values:
        out.append(str(values[0]).strip())
    elif name in _WORDS:
        out.append(_WORDS[name])
        if name in ("circa", "c.") and values:
            _walk(values[0].nodes, site, out)
    elif (name in _LAST or name.startswith("lang-")) and values:
        _walk(values[-1 if name != "lang" else min(1, len(values) - 1)].nodes, site, out)
    elif name in _FIRST and values:
        _walk(values[0].nodes, site, out)


def _entity(node: wiki.HTMLEntity) -> str:
    try:
        text = str(node.normalize())
    except (ValueError, OverflowError):
        return ""
    return " " if text == "\xa0" else text


def _tidy(text: str) -> str:
    text = _EMPTY_BRACKETS.sub("", text.replace("'''", "").replace("''", ""))
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.split("\n")]
    lines = [re.sub(r"(?: \|)+$", "", line) for line in lines if not line or not _LEFT_OVER.fullmatch(line)]
    kept: list[str] = []
    for place, line in enumerate(lines):
        if line.startswith(_HEADING):
            following = next((other for other in lines[place + 1 :] if other), _HEADING)
            # A heading with nothing but another heading below it had only templates. (A heading directly above a
            # sub-heading goes as well: the sub-heading says what the text is about.)
            if following.startswith(_HEADING):
                continue
            line = line.removeprefix(_HEADING)
        kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
