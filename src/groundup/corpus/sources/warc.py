"""Web archives (WARC, ISO 28500): every HTML page that was answered with 200, in the charset it declares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from groundup.corpus.document import Document, Drop
from groundup.corpus.settings import WarcSource
from groundup.corpus.sources.files import Input

MAX_PAGE_BYTES = 20_000_000  # a "page" beyond this is a download in disguise
HTML_TYPES = ("text/html", "application/xhtml+xml")


def read(source: WarcSource, inputs: Iterable[Input], notes: Counter[str]) -> Iterator[Document | Drop]:
    """Pages in archive order. Records that hold no page, and damaged ones, are drops; a broken file ends there."""
    for file in inputs:
        notes["files"] += 1
        place = 0
        try:
            with file.open() as stream:
                for record in ArchiveIterator(stream, parse_http=False, func_filter=_is_well_formed):
                    place += 1
                    yield from _page(record, f"{file.name}#{place}", source, file, notes)
        # fastwarc raises OSError for broken gzip and for what is not WARC; the rest of the file cannot be found again.
        except (OSError, EOFError, ValueError) as error:
            reason = "damaged archive: the rest of the file could not be read" if place else "not a readable WARC file"
            yield Drop(f"{file.name}#{place + 1}", "read", reason, f"{file.name}: {error}")
        else:
            if not place:
                yield Drop(
                    f"{file.name}#1", "read", "not a readable WARC file", f"{file.name}: it holds no WARC record"
                )


def _is_well_formed(record: WarcRecord) -> bool:
    return record.record_type is not None


def _page(
    record: WarcRecord, id: str, source: WarcSource, file: Input, notes: Counter[str]
) -> Iterator[Document | Drop]:
    kind = record.record_type
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    if kind == WarcRecordType.revisit:
        yield Drop(id, "read", "revisit: the same payload was captured before", url)
        return
    if kind not in (WarcRecordType.response, WarcRecordType.resource):
        notes["records that are no documents (warcinfo, request, metadata)"] += 1
        return
    try:
        status, content_type, charset = "200", record.headers.get("Content-Type") or "", None
        if kind == WarcRecordType.response:
            record.parse_http()
            if record.http_headers is None:
                notes["records that are no documents (DNS and other responses without HTTP)"] += 1
                return
            status = str(record.http_headers.status_code)
            content_type, charset = record.http_content_type or "", record.http_charset
        if status != "200":
            yield Drop(id, "read", f"HTTP status {status}", url)
            return
        mime = content_type.split(";")[0].strip().lower()
        if mime not in HTML_TYPES:
            yield Drop(id, "read", "not HTML", f"{url} is {mime or 'of no stated type'}")
            return
        if record.content_length > MAX_PAGE_BYTES:
            yield Drop(
                id, "read", "page too large", f"{url} has {record.content_length:,} bytes", record.content_length
            )
            return
        payload = record.reader.read()
    except (OSError, EOFError, ValueError) as error:
        yield Drop(id, "read", "damaged record", f"{url}: {error}")
        return
    if not payload.strip():
        yield Drop(id, "read", "empty page", url)
        return
    yield Document(id, url, source.licence or file.licence or "unknown", decode_page(payload, charset), "html")


def decode_page(payload: bytes, charset: str | None) -> str:
    """HTML bytes to text: by the server's charset if it works, else the page's own `meta`, else by the bytes' look."""
    if charset:
        try:
            return payload.decode(map_encoding_to_html5(charset, fallback_utf8=False) or charset)
        except (LookupError, UnicodeDecodeError):
            pass  # servers often lie; the page itself and the bytes are asked next
    return bytes_to_str(payload, detect_encoding(payload, from_html_meta=True) or "utf-8")
