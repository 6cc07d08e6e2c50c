"""From what an HTTP server sent to a page's HTML: transfer and content encoding undone, charset told, licence found."""

from __future__ import annotations

import codecs
import contextlib
import re
import zlib
from dataclasses import dataclass

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

MAX_PAGE_BYTES = 20_000_000  # a "page" beyond this is a download in disguise
TOO_LARGE = "larger than a page can be (20 MB)"
HTML_TYPES = ("text/html", "application/xhtml+xml")
_STATUS = re.compile(rb"\s*(?:HTTP|ICY)(?:/\d(?:\.\d)?)?[ \t]+(\d{3})")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_ONE_BYTE = ("windows-125", "cp125", "iso-8859", "iso8859", "latin", "macintosh", "x-mac")
_LOOKS_LIKE_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


class DamagedError(Exception):
    """A payload that cannot be turned into text, and why."""


@dataclass(frozen=True)
class Head:
    """What stands above an HTTP payload. `end` is where the payload begins."""

    status: int
    headers: dict[str, str]  # names in lower case
    end: int

    @property
    def mime(self) -> str:
        return mime_of(self.headers.get("content-type", ""))

    @property
    def charset(self) -> str | None:
        found = _CHARSET.search(self.headers.get("content-type", ""))
        return found[1] if found else None


def mime_of(content_type: str) -> str:
    return content_type.split(";")[0].strip().lower()


def http_head(block: bytes) -> Head | None:
    """The head of an HTTP response; None where the block is none (DNS and other protocols)."""
    status = _STATUS.match(block)
    if status is None:
        return None
    end = _HEAD_END.search(block)
    lines = block[: end.start() if end else len(block)].decode("latin-1").splitlines()
    pairs = (line.partition(":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return Head(int(status[1]), headers, end.end() if end else len(block))


def looks_like_html(payload: bytes) -> bool:
    return _LOOKS_LIKE_HTML.match(payload[:2000]) is not None


def payload_of(body: bytes, headers: dict[str, str]) -> bytes:
    """The page behind transfer and content encoding. DamagedError where that cannot be undone."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = unchunk(body)
    return decompress(body, headers.get("content-encoding", "").lower())


_CHUNK_HEAD = re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]{0,200}\r?\n")


def unchunk(payload: bytes) -> bytes:
    """The content of an HTTP chunked body; the payload as it is where the crawler had already joined the chunks."""
    out: list[bytes] = []
    place = 0
    while head := _CHUNK_HEAD.match(payload, place):
        size = int(head[1], 16)
        if size == 0:
            return b"".join(out)
        out.append(payload[head.end() : head.end() + size])
        place = head.end() + size
        place += 2 if payload[place : place + 2] == b"\r\n" else 0
    # Chunks to the last byte, without the closing one: cut off but whole. Anything else was never chunked.
    return b"".join(out) if out and place >= len(payload) else payload


def decompress(payload: bytes, encoding: str) -> bytes:
    """The page behind gzip, deflate, zstd or brotli, told by the bytes first. DamagedError where it is broken."""
    if payload[:2] == b"\x1f\x8b":
        return _inflate(payload, 31)
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        return _unzstd(payload)
    if "deflate" in encoding and payload[:1] != b"<":
        return _inflate(payload, 15 if payload[:1] == b"\x78" else -15)
    if encoding.strip() == "br" and payload.lstrip()[:1] != b"<":
        try:
            import brotli  # type: ignore[import-untyped]
        except ImportError as error:
            raise DamagedError("compressed with brotli, and the brotli package is not installed") from error
        try:
            return bytes(brotli.decompress(payload))
        except brotli.error as error:
            raise DamagedError(f"broken brotli: {error}") from error
    return payload


def _inflate(payload: bytes, window_bits: int) -> bytes:
    try:
        return zlib.decompressobj(window_bits).decompress(payload, MAX_PAGE_BYTES)
    except zlib.error as error:
        raise DamagedError(f"broken compression: {error}") from error


def _unzstd(payload: bytes) -> bytes:
    import pyarrow as pa

    try:
        return bytes(pa.CompressedInputStream(pa.BufferReader(payload), "zstd").read(MAX_PAGE_BYTES))
    except OSError as error:
        raise DamagedError(f"broken zstd: {error}") from error


def decode_page(payload: bytes, charset: str | None) -> str:
    """HTML bytes to text: by a byte order mark, by the server's charset if it works, else the page's own `meta`, else
    by the bytes' look. Servers often lie: bytes that are UTF-8 are no text of a one-byte charset by chance."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if payload.startswith(mark):
            return payload.decode(encoding, "replace")
    if charset:
        named = map_encoding_to_html5(charset, fallback_utf8=False) or charset
        if named.lower().startswith(_ONE_BYTE) and not payload.isascii():
            with contextlib.suppress(UnicodeDecodeError):
                return payload.decode("utf-8")
        with contextlib.suppress(LookupError, UnicodeDecodeError):
            return payload.decode(named)
    return bytes_to_str(payload, detect_encoding(payload, from_html_meta=True) or "utf-8")


_LICENSE_LINK = re.compile(r"<(?:a|link)\b[^>]*\brel\s*=\s*[\"']?[^\"'>]*\blicense\b[^>]*>", re.IGNORECASE)
_HREF = re.compile(r"\bhref\s*=\s*[\"']?([^\"'\s>]+)", re.IGNORECASE)
_CREATIVE_COMMONS = re.compile(
    r"creativecommons\.org/(?:licenses/([a-z]+(?:-[a-z]+)*)/(\d\.\d)|publicdomain/(zero|mark)/(\d\.\d))", re.IGNORECASE
)


def page_license(html: str) -> str:
    """The Creative Commons licence that a page's `rel=license` links name (SPDX id); empty where there is none, or
    more than one: then a page holds parts under different ones."""
    if "creativecommons.org" not in html:
        return ""
    names = set()
    for link in _LICENSE_LINK.finditer(html):
        href = _HREF.search(link[0])
        found = _CREATIVE_COMMONS.search(href[1]) if href else None
        if found and found[1]:
            names.add(f"CC-{found[1].upper()}-{found[2]}")
        elif found:
            names.add("CC0-1.0" if found[3].lower() == "zero" else "CC-PDM-1.0")
    return names.pop() if len(names) == 1 else ""
