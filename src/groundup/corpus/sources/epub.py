"""EPUB books (2 and 3): the chapters in the order of the spine, as text, and what the package says about the book."""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections import Counter
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import unquote

from lxml import etree

from groundup.corpus.sources.files import decode
from groundup.corpus.sources.html_text import text_of_html
from groundup.corpus.sources.packed import ARCHIVE_ERRORS

MIMETYPE = b"mimetypeapplication/epub+zip"
_MOST_MEMBER_BYTES = 64 << 20  # a chapter is text; what is larger was made to fill a disk
_FONT_OBFUSCATION = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
_VOID = rb"br|hr|img|meta|link|input|col|area|base|wbr|embed|source|track|param"
_SELF_CLOSED = re.compile(rb"<(?!(?:" + _VOID + rb")\b)([a-zA-Z][\w:-]*)((?:\s[^<>]*?)?)\s*/>")
_DECLARED = re.compile(rb"^\s*<\?xml[^>]*encoding=[\"']([\w.-]+)")


class EpubError(ValueError):
    """Why a file cannot be read as an EPUB; the message is the reason of its drop."""


@dataclass(frozen=True)
class Epub:
    title: str
    authors: list[str]
    language: str
    date: str
    rights: str
    identifier: str
    chapters: list[str]


def is_epub(head: bytes) -> bool:
    """Whether a file that begins so is an EPUB: its first member, uncompressed, is called mimetype (OCF 3.3, 4.2)."""
    return head[:4] == b"PK\x03\x04" and MIMETYPE in head[:100]


def read_epub(stream: IO[bytes], notes: Counter[str]) -> Epub:
    """The book. Chapters that are missing or damaged are left out and counted.

    Raises EpubError where it is no EPUB or its text is encrypted, one of ARCHIVE_ERRORS where the zip is broken.
    """
    with zipfile.ZipFile(stream) as archive:
        names = {info.filename: info for info in archive.infolist()}
        package_name = _package_name(archive, names)
        package = _xml(archive, names, package_name)
        folder = posixpath.dirname(package_name)
        items = {item.get("id"): item for item in _all(package, "item")}
        spine = [(items.get(ref.get("idref")), ref.get("linear") != "no") for ref in _all(package, "itemref")]
        if not spine:
            spine = [(item, True) for item in items.values()]
        encrypted = _encrypted(archive, names)
        chapters = []
        for item, is_linear in spine:
            if item is None or item.get("media-type") not in (
                "application/xhtml+xml",
                "text/html",
                "text/x-oeb1-document",
            ):
                continue
            if not is_linear or "nav" in (item.get("properties") or "").split():
                notes["parts of EPUBs that are no chapters (covers, contents)"] += 1
                continue
            path = posixpath.normpath(posixpath.join(folder, unquote(item.get("href", "")).partition("#")[0]))
            if path in encrypted:
                raise EpubError("encrypted EPUB (DRM)")
            try:
                text = text_of_html(_decoded(_member(archive, names, path)))
            except (*ARCHIVE_ERRORS, NotImplementedError):
                notes["chapters of EPUBs that are missing or damaged"] += 1
                continue
            if text:
                chapters.append(text)
    return Epub(
        _one(package, "title"),
        [_plain(one) for one in _all(package, "creator") if _plain(one)],
        _one(package, "language").lower().replace("_", "-").partition("-")[0],
        _one(package, "date")[:10],
        _one(package, "rights"),
        _one(package, "identifier"),
        chapters,
    )


def _package_name(archive: zipfile.ZipFile, names: dict[str, zipfile.ZipInfo]) -> str:
    try:
        container = _xml(archive, names, "META-INF/container.xml")
        found = next((one.get("full-path") for one in _all(container, "rootfile") if one.get("full-path")), None)
    except (EpubError, KeyError):
        found = None
    found = found if found in names else next((name for name in sorted(names) if name.endswith(".opf")), None)
    if not found:
        raise EpubError("not a readable EPUB: no package file")
    return str(found)


def _member(archive: zipfile.ZipFile, names: dict[str, zipfile.ZipInfo], path: str) -> bytes:
    info = names.get(path) or next((one for name, one in names.items() if name.lower() == path.lower()), None)
    if info is None:
        raise OSError(f"{path} is not in the archive")
    if info.file_size > _MOST_MEMBER_BYTES:
        raise OSError(f"{path} has {info.file_size:,} bytes")
    return archive.read(info)


def _xml(archive: zipfile.ZipFile, names: dict[str, zipfile.ZipInfo], path: str) -> Any:
    # entities and addresses in the file are not followed
    parser = etree.XMLParser(recover=True, resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(_member(archive, names, path), parser=parser)
    except etree.XMLSyntaxError as error:
        raise EpubError(f"not a readable EPUB: {path}") from error
    except OSError as error:
        raise EpubError(f"not a readable EPUB: no {path}") from error
    if root is None:
        raise EpubError(f"not a readable EPUB: {path}")
    return root


def _encrypted(archive: zipfile.ZipFile, names: dict[str, zipfile.ZipInfo]) -> set[str]:
    """Members whose content is encrypted; fonts may be scrambled without that keeping anybody from the text."""
    if "META-INF/encryption.xml" not in names:
        return set()
    root = _xml(archive, names, "META-INF/encryption.xml")
    found = set()
    for data in _all(root, "EncryptedData"):
        methods = [one.get("Algorithm") for one in _all(data, "EncryptionMethod")]
        if not any(method in _FONT_OBFUSCATION for method in methods):
            found |= {unquote(one.get("URI", "")) for one in _all(data, "CipherReference")}
    return found


def _all(root: Any, name: str) -> list[Any]:
    return [one for one in root.iter() if isinstance(one.tag, str) and one.tag.rpartition("}")[2] == name]


def _plain(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def _one(root: Any, name: str) -> str:
    return next((text for one in _all(root, name) if (text := _plain(one))), "")


def _decoded(data: bytes) -> str:
    """XHTML as the HTML parser takes it: an element that is closed in its own tag would stay open there."""
    if declared := _DECLARED.match(data):
        try:
            return _SELF_CLOSED.sub(rb"<\1\2></\1>", data.decode(declared[1].decode()).encode()).decode()
        except (LookupError, UnicodeDecodeError):
            pass
    return _SELF_CLOSED.sub(rb"<\1\2></\1>", decode(data).encode("utf-8", "replace")).decode()
