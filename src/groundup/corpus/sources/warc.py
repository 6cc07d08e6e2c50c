"""Web archives (WARC, ARC): every HTML page that was answered with 200, and extracted text (conversion records).

Archives lie in many ways: payloads are called chunked and are not, lengths are wrong, files are cut off. What can be
read is read; what cannot is a drop with its reason, never an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from resiliparse.parse.encoding import bytes_to_str

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import WarcSource, WetSource
from groundup.corpus.sources.archives import Gap, Record, records
from groundup.corpus.sources.files import Input, file_pieces, open_piece
from groundup.corpus.sources.pages import (
    HTML_TYPES,
    MAX_PAGE_BYTES,
    TOO_LARGE,
    DamagedError,
    Head,
    decode_page,
    http_head,
    looks_like_html,
    mime_of,
    page_license,
    payload_of,
)
from groundup.corpus.sources.piece import Piece

_HEAD_BYTES = 1 << 16  # the longest HTTP head that is looked for
_PAGES = ("response", "resource", "conversion")
_OTHERS = ("warcinfo", "request", "metadata", "continuation")
_UNSAID_TYPES = ("", "application/octet-stream", "text/plain", "unknown", "unk", "no-type")
_NO_DOCUMENTS = "records that are no documents (warcinfo, request, metadata)"


def pieces(source: WarcSource | WetSource, cache: Path) -> list[Piece]:
    """One piece per archive."""
    return file_pieces(source.path, cache, lists=True, root=source.path_root, max_files=source.max_files)


def read(source: WarcSource | WetSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Pages in archive order. Records that hold no page, damaged ones and damaged places are drops."""
    for file in open_piece(piece):
        notes["files"] += 1
        place, last_damaged = 0, False
        try:
            for record in records(file):
                place += 1
                id = f"{file.name}#{place}"
                if isinstance(record, Record):
                    fate = _document(record, id, source, file, notes)
                    last_damaged = isinstance(fate, Drop) and fate.reason == "damaged record"
                    if fate is not None:
                        yield fate
                elif last_damaged:
                    # the archive broke inside the record that is a drop already
                    notes["damaged places in archives, passed over"] += 1
                    place, last_damaged = place - 1, False
                else:
                    yield Drop(id, "read", _reason(record, place), f"{file.where}: {record.why}")
        except OSError as error:
            yield Drop(f"{file.name}#{place + 1}", "read", "unreadable file", f"{file.where}: {error}")


def _reason(gap: Gap, place: int) -> str:
    if gap.goes_on:
        return "damaged place in an archive: on to the next record"
    return "damaged archive: the rest of the file could not be read" if place > 1 else "not a readable WARC file"


def _document(
    record: Record, id: str, source: WarcSource | WetSource, file: Input, notes: Counter[str]
) -> Document | Drop | None:
    kind, url = record.kind, record.headers.get("warc-target-uri", "").strip("<> ")
    if kind == "revisit":
        return Drop(id, "read", "revisit: the same payload was captured before", url)
    if kind in _OTHERS:
        notes[_NO_DOCUMENTS] += 1
        return None
    if record.length_mended:
        notes["records whose stated length was wrong, read up to the next record"] += 1
    try:
        if record.damaged:
            raise DamagedError(record.damaged)
        if kind not in _PAGES:
            raise DamagedError("its type is not one of the standard's")
        text, media = _text(record, source.type == "wet")
    except _Passed as passed:
        if passed.note:
            notes[passed.note] += 1
            return None
        return Drop(id, "read", passed.reason, f"{url} {passed.excerpt}".strip(), record.length)
    except (DamagedError, OSError, EOFError, ValueError) as error:
        return Drop(id, "read", "damaged record", f"{url}: {error}")
    metadata = {}
    if name := record.headers.get("warc-record-id", "").strip("<> "):
        metadata["record"] = name
    if cut := record.headers.get("warc-truncated"):
        notes[f"pages that the crawler cut off ({cut})"] += 1
        metadata["truncated"] = cut
    if language := record.headers.get("warc-identified-content-language"):
        metadata["languages_by_crawler"] = language  # CLD2's word for it, often wrong: the language step looks anew
    license = (media == "html" and page_license(text)) or source.license or file.license or "unknown"
    return Document(id, url, license, text, media, "", record.headers.get("warc-date", ""), metadata)  # type: ignore[arg-type]


class _Passed(Exception):  # noqa: N818 - not an error: a record that holds no page; never leaves this file
    def __init__(self, reason: str = "", excerpt: str = "", note: str = "") -> None:
        self.reason, self.excerpt, self.note = reason, excerpt, note


def _text(record: Record, only_text: bool) -> tuple[str, str]:
    """(text, media). _Passed where the record holds no page, DamagedError where it cannot be read."""
    start = record.block.read(_HEAD_BYTES)
    head = Head(200, {"content-type": record.headers.get("content-type", "")}, 0)
    if only_text and record.kind != "conversion":
        raise _Passed("not extracted text")
    if record.kind == "response":
        found = http_head(start)
        if found is None:
            raise _Passed(note="records that are no documents (DNS and other responses without HTTP)")
        head = found
    if head.status != 200:
        raise _Passed(f"HTTP status {head.status}")
    is_text = record.kind == "conversion" and head.mime == "text/plain"
    identified = mime_of(record.headers.get("warc-identified-payload-type", ""))
    if not is_text and head.mime not in HTML_TYPES:
        said_html = identified in HTML_TYPES or (not head.mime and looks_like_html(start[head.end :]))
        if head.mime not in _UNSAID_TYPES or not said_html:
            raise _Passed("not HTML", f"is {head.mime or 'of no stated type'}")
    if record.length > MAX_PAGE_BYTES:
        raise _Passed(TOO_LARGE, f"has {record.length:,} bytes")
    block = start
    while more := record.block.read(1 << 20):
        block += more
    if len(block) < record.length:
        raise DamagedError(f"cut off after {len(block):,} of {record.length:,} bytes")
    body = block[head.end :]
    if is_text:
        return bytes_to_str(body, "utf-8"), "prose"
    return decode_page(payload_of(body, head.headers), head.charset), "html"
