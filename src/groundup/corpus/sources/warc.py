"""Web archives (WARC, ISO 28500): every HTML page that was answered with 200, and Common Crawl's extracted text (WET).

Archives lie in many ways: payloads are called chunked and are not, lengths are wrong, files are cut off. What can be
read is read; what cannot is a drop with its reason, never an error.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import WarcSource
from groundup.corpus.sources.files import Input, file_pieces, open_piece
from groundup.corpus.sources.piece import Piece

MAX_PAGE_BYTES = 20_000_000  # a "page" beyond this is a download in disguise
HTML_TYPES = ("text/html", "application/xhtml+xml")
_PAGES = (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion)
_OTHERS = (WarcRecordType.warcinfo, WarcRecordType.request, WarcRecordType.metadata, WarcRecordType.continuation)


class _Damaged(Exception):  # noqa: N818 - never leaves this file
    pass


def pieces(source: WarcSource, cache: Path) -> list[Piece]:
    """One piece per file."""
    return file_pieces(source.path, cache)


def read(source: WarcSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Pages in archive order. Records that hold no page, and damaged ones, are drops; a broken file ends there."""
    for file in open_piece(piece):
        notes["files"] += 1
        place = 0
        try:
            with file.open() as stream:
                # HTTP is parsed per record: a broken header must cost one record, not the rest of the file.
                for record in ArchiveIterator(stream, parse_http=False, quirks_mode=True):
                    place += 1
                    yield from _document(record, f"{file.name}#{place}", source, file, notes)
        # fastwarc raises OSError for broken gzip and for what is not WARC; the rest of the file cannot be found again.
        except (OSError, EOFError, ValueError) as error:
            reason = "damaged archive: the rest of the file could not be read" if place else "not a readable WARC file"
            yield Drop(f"{file.name}#{place + 1}", "read", reason, f"{file.where}: {error}")
        else:
            if not place:
                yield Drop(f"{file.name}#1", "read", "not a readable WARC file", f"{file.where}: it has no WARC record")


def _document(
    record: WarcRecord, id: str, source: WarcSource, file: Input, notes: Counter[str]
) -> Iterator[Document | Drop]:
    kind = record.record_type
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    license = source.license or file.license or "unknown"
    if kind == WarcRecordType.revisit:
        yield Drop(id, "read", "revisit: the same payload was captured before", url)
        return
    if kind in _OTHERS:
        notes["records that are no documents (warcinfo, request, metadata)"] += 1
        return
    try:
        if kind not in _PAGES:
            raise _Damaged("its type is not one of the standard's")
        if kind == WarcRecordType.response:
            record.parse_http()
            if record.http_headers is None:
                notes["records that are no documents (DNS and other responses without HTTP)"] += 1
                return
            if (status := record.http_headers.status_code) != 200:
                yield Drop(id, "read", f"HTTP status {status}", url)
                return
            content_type, charset = record.http_content_type or "", record.http_charset
        else:
            content_type, charset = record.headers.get("Content-Type") or "", None
        mime = content_type.split(";")[0].strip().lower()
        if kind == WarcRecordType.conversion and mime == "text/plain":
            yield Document(id, url, license, bytes_to_str(_payload(record), "utf-8"), "prose")
        elif mime in HTML_TYPES:
            yield Document(id, url, license, decode_page(_payload(record), charset), "html")
        else:
            yield Drop(id, "read", "not HTML", f"{url} is {mime or 'of no stated type'}", record.content_length)
    except _Damaged as error:
        yield Drop(id, "read", "damaged record", f"{url}: {error}")
    except (OSError, EOFError, ValueError) as error:
        yield Drop(id, "read", "damaged record", f"{url}: {error}")


def _payload(record: WarcRecord) -> bytes:
    """The page's bytes without transfer and content encoding. _Damaged where they are cut off or unreadable."""
    if record.content_length > MAX_PAGE_BYTES:
        raise _Damaged(f"{record.content_length:,} bytes are no page")
    payload: bytes = record.reader.read()
    if len(payload) < record.content_length:
        raise _Damaged(f"cut off after {len(payload):,} of {record.content_length:,} bytes")
    headers = {name.lower(): value.lower() for name, value in (record.http_headers or {}).items()}
    if "chunked" in headers.get("transfer-encoding", ""):
        payload = unchunk(payload)
    return decompress(payload, headers.get("content-encoding", ""))


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
    """The page behind gzip, deflate or brotli. _Damaged where that cannot be undone."""
    if payload[:2] == b"\x1f\x8b":
        return _inflate(payload, 31)
    if "deflate" in encoding and payload[:1] != b"<":
        return _inflate(payload, 15 if payload[:1] == b"\x78" else -15)
    if encoding.strip() == "br" and payload.lstrip()[:1] != b"<":
        try:
            import brotli  # type: ignore[import-untyped]
        except ImportError as error:
            raise _Damaged("compressed with brotli, and the brotli package is not installed") from error
        try:
            return bytes(brotli.decompress(payload))
        except brotli.error as error:
            raise _Damaged(f"broken brotli: {error}") from error
    return payload


def _inflate(payload: bytes, window_bits: int) -> bytes:
    try:
        return zlib.decompressobj(window_bits).decompress(payload, MAX_PAGE_BYTES)
    except zlib.error as error:
        raise _Damaged(f"broken compression: {error}") from error


def decode_page(payload: bytes, charset: str | None) -> str:
    """HTML bytes to text: by the server's charset if it works, else the page's own `meta`, else by the bytes' look."""
    if charset:
        try:
            return payload.decode(map_encoding_to_html5(charset, fallback_utf8=False) or charset)
        except (LookupError, UnicodeDecodeError):
            pass  # servers often lie; the page itself and the bytes are asked next
    return bytes_to_str(payload, detect_encoding(payload, from_html_meta=True) or "utf-8")
