"""MediaWiki XML dumps, in any language and encoding: pages are cut out of the stream one by one, redirects counted.

A page is looked for by its tags and parsed alone: one that is damaged costs itself only, and memory stays that of one
page. What a dump says of itself (`siteinfo`) stands in front of the first page; cut-down dumps often have none.
"""

from __future__ import annotations

import codecs
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from xml.etree import ElementTree

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import WikipediaSource
from groundup.corpus.sources.files import Input, file_pieces, open_piece
from groundup.corpus.sources.packed import UNPACK_ERRORS, Bzip2Streams, unpack
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.wikitext import packed
from groundup.corpus.sources.wikitext import prose_of as prose_of  # where the extraction step looks for it

LICENCE = "CC-BY-SA"
MAX_PAGE_CHARS = 50_000_000  # the largest article has 2 million; a "page" beyond this is a history or damaged
_CHUNK = 1 << 18
_FILE_AND_CATEGORY = ("6", "14")  # namespace keys; the same in every MediaWiki
_ARTICLES = ("0", "")
_PAGE = re.compile(r"<page(?:\s[^>]*)?>")
_OLD_REVISIONS = re.compile(r"<revision>.*</revision>\s*(?=<revision>)", re.DOTALL)
_DATABASE = re.compile(r"(([a-z_]+)(wik[a-z]+))-")  # dewiki-20240501-pages-articles.xml.bz2
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

# Modern dumps mark redirects with an element; in older ones the text says it, in the wiki's own language.
_REDIRECT_WORDS = """
    redirect weiterleitung redirection redirección redireccion redirecionamento redirecionar rinvia
    rinvio doorverwijzing omdirigering omdiriger ohjaus uudelleenohjaus patrz przekieruj tam
    перенаправление перенапр перенаправлення пренасочване виж преусмери 重定向 転送 リダイレクト
    넘겨주기 تحويل تغییر_مسیر تغییرمسیر הפניה yönlendirme yönlendir átirányítás přesměruj presmeruj
    preusmjeri alih đổi अनुप्रेषित पुनर्प्रेषित"""
_REDIRECT = re.compile(rf"\s*#\s*(?:{'|'.join(_REDIRECT_WORDS.split())})\b", re.IGNORECASE)


def pieces(source: WikipediaSource, cache: Path) -> list[Piece]:
    """One piece per dump file."""
    return file_pieces(source.path, cache, lists=True, root=source.path_root, max_files=source.max_files)


def read(source: WikipediaSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Articles (namespace 0) as wikitext documents; redirects, other namespaces and damaged pages are drops."""
    for file in open_piece(piece):
        notes["files"] += 1
        found, why = 0, ""
        damaged: list[str] = []
        try:
            with _open(file, damaged) as stream:
                site = Site()
                for page in _pages(stream):
                    if isinstance(page, Site):
                        site = _named(page, file.name)
                        continue
                    found += 1
                    yield _fate(page, f"{file.name}#{found}", file, source, site)
        except UNPACK_ERRORS as error:
            why = str(error) or type(error).__name__
        if why or damaged or not found:
            reason = "damaged dump: the rest of the file could not be read" if found else "not a readable XML dump"
            if damaged and not why and found:
                reason = "damaged dump: a part of the file could not be read"
            told = "; ".join([*damaged[:5], *([why] if why else [])]) or "it holds no <page>"
            yield Drop(f"{file.name}#{found + 1}", "read", reason, f"{file.where}: {told}")


def _open(file: Input, damaged: list[str]) -> IO[bytes]:
    """The dump's XML. bzip2 is unpacked stream by stream, so that one that is broken leaves the others whole."""
    raw: Any = file.open()
    if not hasattr(raw, "peek"):
        raw = io.BufferedReader(raw)
    if bytes(raw.peek(3)[:3]) == b"BZh":
        return io.BufferedReader(Bzip2Streams(raw, damaged), _CHUNK)  # type: ignore[type-var]
    return unpack(raw, file.where)


@dataclass(frozen=True)
class Site:
    """What a dump says of itself, as far as documents need it."""

    language: str = ""
    database: str = ""
    base: str = ""  # of page addresses
    namespaces: tuple[str, ...] = ()  # how files and categories are called


def _pages(stream: Any) -> Iterator[str | Site]:
    """The dump's `Site`, and then the XML of page after page; what lies between two pages is no page's."""
    start = stream.read(_CHUNK)
    decoder = codecs.getincrementaldecoder(_encoding(start))("replace")
    text, is_first, at_end = decoder.decode(start), True, False
    while True:
        opening = _PAGE.search(text)
        if opening is None:
            if at_end:
                return
            # siteinfo has a few kB; of anything else only what may be the beginning of a tag is still needed
            text = text if is_first and len(text) < 10 * _CHUNK else text[-200:]
        else:
            if is_first:
                yield _site(text[: opening.start()])
                is_first = False
            end = text.find("</page>", opening.end())
            # A page that begins before the last one ended: that one was cut off.
            another = _PAGE.search(text, opening.end(), end if end >= 0 else len(text))
            if another is not None:
                yield text[opening.start() : another.start()]
                text = text[another.start() :]
                continue
            if end >= 0:
                yield text[opening.start() : end + len("</page>")]
                text = text[end + len("</page>") :]
                continue
            if at_end or len(text) > MAX_PAGE_CHARS:
                yield text[opening.start() :]
                if at_end:
                    return
                text = ""
        block = stream.read(_CHUNK)
        at_end = not block
        text += decoder.decode(block, at_end)


def _encoding(start: bytes) -> str:
    """XML's rules: a byte order mark, else what the declaration says, else UTF-8."""
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if start.startswith((b"<\0", b"\0<")):
        return "utf-16-le" if start[:1] == b"<" else "utf-16-be"
    declared = re.match(rb"\s*<\?xml[^>]*encoding\s*=\s*[\"']([\w.-]+)", start[:200])
    try:
        return codecs.lookup(declared[1].decode()).name if declared else "utf-8"
    except LookupError:
        return "utf-8"


def _site(header: str) -> Site:
    find = lambda pattern: (re.search(pattern, header) or ["", ""])[1]  # noqa: E731
    names = re.findall(r'<namespace key="(-?\d+)"[^>]*>([^<]+)</namespace>', header)
    return Site(
        find(r'<mediawiki[^>]*xml:lang="([a-z]{2,3})'),
        find(r"<dbname>([^<]*)</dbname>"),
        find(r"<base>([^<]*)</base>").rpartition("/")[0],
        tuple(sorted(name.lower() for key, name in names if key in _FILE_AND_CATEGORY)),
    )


def _named(site: Site, file_name: str) -> Site:
    """The file's name knows better of which wiki a dump is: what was cut out of one often has another's head."""
    found = _DATABASE.match(file_name.rpartition("/")[2])
    if found is None or found[1] == site.database:
        return site
    base = f"https://{found[2].replace('_', '-')}.wikipedia.org/wiki" if found[3] == "wiki" else site.base
    return replace(site, database=found[1], base=base)


def _fate(xml: str, place: str, file: Input, source: WikipediaSource, site: Site) -> Document | Drop:
    if len(xml) > MAX_PAGE_CHARS:
        return Drop(place, "read", "larger than a page can be (50 million characters)", xml[:300], len(xml))
    try:
        page = ElementTree.fromstring(_OLD_REVISIONS.sub("", xml))
    except ElementTree.ParseError as error:
        try:
            page = ElementTree.fromstring(_NO_XML.sub("", xml))  # control characters, which no XML may hold
        except ElementTree.ParseError:
            return Drop(place, "read", "damaged page", f"{file.where}: {error}: {xml[:150]}", len(xml))
    fields = {element.tag.rpartition("}")[2]: element for element in page.iter()}
    get = lambda name: (fields[name].text or "") if name in fields else ""  # noqa: E731
    title, text = get("title"), get("text")
    id = f"{site.database or 'wiki'}:{title}"
    size = len(text.encode("utf-8", "surrogatepass"))
    if "redirect" in fields or _REDIRECT.match(text):
        return Drop(id, "read", "redirect", text[:200], size)
    if (namespace := get("ns")) not in _ARTICLES:
        return Drop(id, "read", f"not an article (namespace {namespace})", text[:200], size)
    if (model := get("model")) not in ("", "wikitext"):
        return Drop(id, "read", f"not wikitext ({model})", text[:200], size)
    if not text.strip():
        return Drop(id, "read", "empty page", title)
    url = f"{site.base}/{quote(title.replace(' ', '_'))}" if site.base else ""
    license = source.license or file.license or LICENCE
    content = packed(title, text, site.namespaces, with_tables=source.tables == "text")
    metadata = {"title": title} | ({"wiki": site.database} if site.database else {})
    # The language is left to its step: articles quote others, and small wikis hold pages in larger languages.
    return Document(id, url, license, content, "wikitext", "", get("timestamp"), metadata)
