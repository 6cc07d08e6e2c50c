"""MediaWiki XML dumps, in any language and encoding: pages are cut out of the stream one by one, redirects counted.

A page is looked for by its tags and parsed alone: one that is damaged costs itself only, and memory stays that of one
page. What a dump says of itself (`siteinfo`) stands in front of the first page; cut-down dumps often have none.
"""

from __future__ import annotations

import codecs
import io
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import WikipediaSource
from groundup.corpus.sources.bzip2 import BZIP2, Block, blocks, has_streams
from groundup.corpus.sources.files import Input, file_pieces, is_path_list, open_piece, sample
from groundup.corpus.sources.packed import UNPACK_ERRORS, unpack
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.spans import Span, cut_into_spans, span_of
from groundup.corpus.sources.wikitext import packed
from groundup.corpus.sources.wikitext import prose_of as prose_of  # where the extraction step looks for it

LICENCE = "CC-BY-SA"
MAX_PAGE_CHARS = 50_000_000  # the largest article has 2 million; a "page" beyond this is a history or damaged
SPAN_BYTES = 64_000_000  # of a packed dump that one task reads: some 300 MB of XML
_LOOK_BYTES = 1 << 24  # where the second of many streams begins, and much before
_CHUNK = 1 << 18
_TAG_CHARS = 200  # no tag of a page is longer
_INDEX = re.compile(r"-multistream-index\d*\.txt")  # lies beside a dump and holds no page
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
    """One piece per dump file; of a large one that has many bzip2 streams, one for each span of them."""
    most = source.max_files if is_path_list(source.path, lists=True) else None  # what it leaves out need not be there
    found = file_pieces(source.path, cache, lists=True, root=source.path_root, max_files=most)
    dumps = [piece for piece in found if not _INDEX.search(piece.name)] or found
    return cut_into_spans(sample(dumps, source.max_files), _can_be_cut, SPAN_BYTES)


def _can_be_cut(piece: Piece, head: bytes) -> bool:
    """Whether it is a dump in streams, and in UTF-8: behind a cut through a character, that is told from the next."""
    if not head.startswith(BZIP2):
        return False
    with open(piece.where, "rb") as file:
        if not has_streams(file, _LOOK_BYTES):
            return False
        file.seek(0)
        start = b""
        for block in blocks(file):
            start += block.data
            if b"<page" in start:
                return _encoding(start).startswith("utf-8")
            if len(start) > 10 * _CHUNK:
                return False
    return False


def read(source: WikipediaSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Articles (namespace 0) as wikitext documents; redirects, other namespaces and damaged pages are drops.

    A span of a file gives, to the byte, what its streams give when the whole file is read: a page belongs to the stream
    in which it begins, wherever it ends.
    """
    span = span_of(piece)
    for file in open_piece(piece) if span is None else [Input(span.name, path=span.path)]:
        notes["files"] += span is None or span.start == 0
        place = span.start if span else 0
        number, begun = 0, span is not None
        damage: list[Block] = []
        site, why = Site(), ""
        try:
            for one in _parts(file, span):
                if isinstance(one, Site):
                    site = _named(one, file.name)
                elif isinstance(one, Block):
                    damage.append(one)
                else:
                    yield from _lost(file, damage, one.place)
                    number, place, begun = number + 1 if one.place == place else 1, one.place, True
                    yield _fate(one.xml, _id(file, place, number), file, source, site)
        except UNPACK_ERRORS as error:
            why = str(error) or type(error).__name__
        if not begun:
            told = "; ".join([one.why for one in damage[:5]] + [why] * bool(why)) or "it holds no <page>"
            yield Drop(f"{file.name}#1", "read", "not a readable XML dump", f"{file.where}: {told}")
            continue
        yield from _lost(file, damage)
        if why:
            reason = "damaged dump: the rest of the file could not be read"
            yield Drop(_id(file, place, number + 1), "read", reason, f"{file.where}: {why}")


def _id(file: Input, place: int, number: int) -> str:
    """A page by the stream in which it begins: the same whether all of the file is read or a span of it."""
    return f"{file.name}:@{place}#{number}" if place else f"{file.name}#{number}"


def _lost(file: Input, damage: list[Block], before: int | None = None) -> Iterator[Drop]:
    """A drop for each damaged stream that begins `before` a place of the file; they are taken out of `damage`."""
    while damage and (before is None or damage[0].place < before):
        one = damage.pop(0)
        reason = "damaged dump: a part of the file could not be read"
        yield Drop(f"{file.name}:@{one.place}", "read", reason, f"{file.where}: {one.why}")


def _parts(file: Input, span: Span | None) -> Iterator[Site | Block | Page]:
    """What `_pages` makes of a file, or of a span of it with what the file says of itself in front."""
    raw: Any = file.open()
    with raw if hasattr(raw, "peek") else io.BufferedReader(raw) as raw:  # type: ignore[type-var]
        if span is None and bytes(raw.peek(3)[:3]) != BZIP2:
            with unpack(raw, file.where) as stream:
                yield from _pages(Block(0, data) for data in iter(lambda: stream.read(_CHUNK), b""))
            return
        if span is None or span.start == 0:
            yield from _pages(blocks(raw), end=span.end if span else None)
            return
        site = next((one for one in _pages(blocks(raw)) if isinstance(one, Site)), Site())
        yield site
        raw.seek(span.start)
        yield from _pages(blocks(raw, span.start), site, span.end)


@dataclass(frozen=True)
class Site:
    """What a dump says of itself, as far as documents need it."""

    language: str = ""
    database: str = ""
    base: str = ""  # of page addresses
    namespaces: tuple[str, ...] = ()  # how files and categories are called
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Page:
    xml: str
    place: int  # of the stream in which it begins


def _pages(stream: Iterator[Block], site: Site | None = None, end: int | None = None) -> Iterator[Site | Block | Page]:
    """The dump's `Site` (unless it is known), then page after page; blocks that say what was damaged come as they are.

    A page reaches from its tag to its end, or to the next one's tag. Pages that begin in a stream at `end` or behind it
    are somebody else's. What lies between two pages is no page's.
    """
    is_first, at_end = site is None, False
    encoding = site.encoding if site else ""
    decoder: codecs.IncrementalDecoder | None = None
    text, gone = "", 0  # characters that wait, and how many were before them
    starts = [(0, 0)]  # (character, place of the stream that begins with it)

    def place_of(at: int) -> int:
        while len(starts) > 1 and starts[1][0] <= gone:
            del starts[0]
        return starts[bisect_right(starts, gone + at, key=itemgetter(0)) - 1][1]

    while True:
        opening = _PAGE.search(text)
        if opening is None:
            is_over = end is not None and starts[-1][1] >= end and gone + len(text) >= starts[-1][0] + _TAG_CHARS
            if at_end or is_over:
                return
            # siteinfo has a few kB; of anything else only what may be the beginning of a tag is still needed
            used = 0 if is_first and len(text) < 10 * _CHUNK else max(0, len(text) - _TAG_CHARS)
        else:
            if is_first:
                yield replace(_site(text[: opening.start()]), encoding=encoding)
                is_first = False
            start, place = opening.start(), place_of(opening.start())
            if end is not None and place >= end:
                return
            closing = text.find("</page>", opening.end())
            # A page that begins before the last one ended: that one was cut off.
            another = _PAGE.search(text, opening.end(), closing if closing >= 0 else len(text))
            used = 0
            if another is not None:
                used = another.start()
            elif closing >= 0:
                used = closing + len("</page>")
            elif at_end:
                used = len(text)
            if used:
                yield Page(text[start : min(used, start + MAX_PAGE_CHARS + 1)], place)
            elif len(text) - start > MAX_PAGE_CHARS:
                yield Page(text[start : start + MAX_PAGE_CHARS + 1], place)
                used = len(text) - _TAG_CHARS
        text, gone = text[used:], gone + used
        if opening is not None and used:
            continue
        block = next(stream, None)
        if block is not None and block.why:
            if end is None or block.place < end:
                yield block
            continue
        at_end = block is None
        if block is not None and decoder is None:
            encoding = encoding or _encoding(block.data)
            decoder = codecs.getincrementaldecoder(encoding)("replace")
        if block is not None and block.place != starts[-1][1]:
            starts.append((gone + len(text), block.place))
        text += decoder.decode(block.data if block else b"", at_end) if decoder else ""


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
