"""Web archives: every page comes out, what is none is named, and a damaged place costs itself only."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus.document import Document, Drop
from groundup.corpus.extract import extract_best, extract_fast
from groundup.corpus.source_settings import WarcSource, WetSource
from groundup.corpus.sources import Piece, read_piece
from groundup.corpus.sources.pages import decode_page, decompress, http_head, page_license, unchunk

OK = "HTTP/1.1 200 OK\r\nContent-Type: text/html"
NO_DOCUMENTS = "records that are no documents (warcinfo, request, metadata)"
ON_TO_THE_NEXT = "damaged place in an archive: on to the next record"


def warc(path: Path) -> WarcSource:
    return WarcSource(type="warc", path=str(path))


def reasons(drops: list[Drop]) -> dict[str, int]:
    return dict(Counter(drop.reason for drop in drops))


def record_of(url: str, head: str, payload: bytes, *, length: int = 0, more: str = "") -> bytes:
    """One response record, as ISO 28500 lays it out; `length` makes the stated length a lie."""
    block = head.encode() + b"\r\n\r\n" + payload
    headers = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\n{more}"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {length or len(block)}\r\n\r\n"
    )
    return headers.encode() + block + b"\r\n\r\n"


def page_of(number: int) -> bytes:
    """About 16 kB that do not compress to nothing."""
    words = (f"<p>Paragraph {number} {n * n * n % 9973} {n * 7919 % 104729}.</p>" for n in range(400))
    return "".join(words).encode()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------- the archives we have


# file: pages, records in all (README of shared/data), reasons
ARCHIVES: dict[str, tuple[int, int, dict[str, int]]] = {
    "archive-org-2008.warc.gz": (94, 822, {"not HTML": 120, "HTTP status 404": 40, "HTTP status 302": 5}),
    "ai2-cc-2024.warc.gz": (15, 34, {"not HTML": 2}),
    "commoncrawl-junk.warc.gz": (12, 38, {}),
    "iana-revisits.warc.gz": (16, 343, {"revisit: the same payload was captured before": 123, "not HTML": 28}),
    "whirlwind.warc.gz": (1, 4, {}),
    "whirlwind.warc.wet.gz": (1, 2, {}),
    "whirlwind.warc.wat.gz": (0, 2, {}),
    "ccnet-sample.wet": (3, 4, {}),
    "derived.warc.wet.gz": (136, 137, {}),
    "edge/example-bad.warc.gz.bad": (1, 6, {"revisit: the same payload was captured before": 1, "HTTP status 302": 1}),
    "edge/example-trunc.warc": (1, 4, {}),
    "edge/example-wrong-chunks.warc.gz": (1, 2, {}),
    "edge/example-iana.org-chunked.warc": (1, 3, {}),
    "edge/example.arc.gz": (1, 2, {}),
    "edge/example-resource.warc.gz": (1, 3, {}),
    "edge/example-space-in-target-uri.warc.gz": (0, 2, {"not HTML": 1}),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_record_of_every_archive_is_a_page_a_drop_or_a_note(read, shared_data: Path, name: str) -> None:
    pages, records, expected = ARCHIVES[name]
    documents, drops, notes = read(warc(shared_data / "web" / name))
    no_documents = sum(count for note, count in notes.items() if note.startswith("records that are no documents"))
    assert len(documents) == pages
    assert len(documents) + len(drops) + no_documents == records
    assert expected.items() <= reasons(drops).items()
    assert all(one.date[:2] in ("19", "20") and one.date.endswith("Z") for one in documents), "each says when it was"
    assert all(one.url.startswith(("http", "file:")) for one in documents)


def test_no_archive_is_missing_from_the_table(shared_data: Path) -> None:
    files = [path for path in (shared_data / "web").rglob("*") if path.is_file() and ".jsonl" not in path.name]
    assert {path.relative_to(shared_data / "web").as_posix() for path in files} == set(ARCHIVES)


def test_pages_are_html_and_ids_are_unique(read, shared_data: Path) -> None:
    for name in ("archive-org-2008.warc.gz", "ai2-cc-2024.warc.gz", "iana-revisits.warc.gz", "edge/example.arc.gz"):
        pages, _, _ = read(warc(shared_data / "web" / name))
        assert all(page.text.lstrip("\ufeff \t\r\n").startswith("<") for page in pages), "payload was not undone"
        assert len({page.id for page in pages}) == len(pages)


def test_chunked_pages_come_out_as_html(read, shared_data: Path) -> None:
    for name in ("example-iana.org-chunked.warc", "example-trunc.warc", "example-wrong-chunks.warc.gz"):
        [page], _, _ = read(warc(shared_data / "web/edge" / name))
        assert page.text.lower().startswith("<!doctype html>"), name
        assert page.text.rstrip().lower().endswith("</html>"), name
        assert "\r\n0\r\n" not in page.text


def test_the_genuine_triple_of_common_crawl(read, shared_data: Path) -> None:
    """WARC, WET and WAT of one page: the licence is the page's own, the text Common Crawl's."""
    [page], _, _ = read(warc(shared_data / "web/whirlwind.warc.gz"))
    [text], _, _ = read(WetSource(type="wet", path=str(shared_data / "web/whirlwind.warc.wet.gz")))
    assert page.url == text.url == "https://an.wikipedia.org/wiki/Escopete"
    assert page.date == text.date == "2024-05-18T01:58:10Z"
    assert page.license == "CC-BY-SA-4.0"
    assert (page.media, text.media) == ("html", "prose")
    assert text.text.startswith("Escopete - Biquipedia, a enciclopedia libre\n")
    assert text.language == "", "Common Crawl says Spanish, and it is Aragonese: the language step looks anew"
    assert text.metadata["languages_by_crawler"] == "spa"
    assert text.metadata["record"] == "urn:uuid:ba729a40-ff84-4085-8d48-0a5b2ee0c42d"


def test_wrong_lengths_lose_no_text(read, shared_data: Path) -> None:
    """The cc_net authors edited texts and left the lengths: fastwarc loses one of three and cuts another."""
    texts, drops, notes = read(WetSource(type="wet", path=str(shared_data / "web/ccnet-sample.wet")))
    assert [one.url for one in texts] == [
        "http://sample_english.com",
        "http://sample_chinese.zh",
        "http://sample_russian.ru",
    ]
    assert texts[0].text.startswith("Famous Mark Twain Quotes\n")
    assert texts[0].text.endswith("Truth isn't.")
    assert texts[1].text.endswith("真理不是。")
    assert not drops
    assert notes["records whose stated length was wrong, read up to the next record"] == 3


def test_a_gbk_page_and_cyrillic_pages_are_decoded(read, shared_data: Path) -> None:
    pages, _, _ = read(warc(shared_data / "web/commoncrawl-junk.warc.gz"))
    assert sum("\ufffd" in page.text for page in pages) <= 1
    assert sum(any("\u4e00" <= char <= "\u9fff" for char in page.text) for page in pages) >= 2
    assert sum(any("\u0430" <= char <= "\u044f" for char in page.text) for page in pages) >= 1


def test_wet_reads_extracted_text_only(read, shared_data: Path) -> None:
    documents, drops, _ = read(WetSource(type="wet", path=str(shared_data / "web/iana-revisits.warc.gz")))
    assert not documents
    assert reasons(drops)["not extracted text"] == 48


# ---------------------------------------------------------------- faults made here


def test_a_broken_record_costs_itself_only(read, tmp_path: Path) -> None:
    page = b"<html><body><p>Hello there.</p></body></html>"
    broken = gzip.compress(page)[:10] + b"\xff" * 30
    data = (
        record_of("http://a/", OK, page)
        + record_of("http://b/", OK + "\r\nContent-Encoding: gzip", broken)
        + record_of("http://c/", "HTTP/1.1 404 Not Found\r\nContent-Type: text/html", page)
        + record_of("http://d/", OK + "\r\nContent-Encoding: gzip", gzip.compress(page))
        + record_of("http://e/", "HTTP/1.1 200 OK", page)
        + record_of("http://f/", "HTTP/1.1 200 OK\r\nContent-Type: image/png", b"\x89PNG")
        + record_of("http://g/", OK, page, more="WARC-Truncated: length\r\n")
    )
    pages, drops, notes = read(warc(written(tmp_path / "a.warc", data)))
    assert [(one.url, one.text) for one in pages] == [(f"http://{name}/", page.decode()) for name in "adeg"]
    assert reasons(drops) == {"damaged record": 1, "HTTP status 404": 1, "not HTML": 1}
    assert notes["pages that the crawler cut off (length)"] == 1
    assert pages[-1].metadata == {"truncated": "length"}


def test_a_cut_off_archive_keeps_what_came_before(read, tmp_path: Path) -> None:
    members = [gzip.compress(record_of(f"http://{n}/", OK, page_of(n))) for n in range(3)]
    data = b"".join(members)[: len(members[0]) + len(members[1]) + len(members[2]) // 2]
    pages, drops, _ = read(warc(written(tmp_path / "cut.warc.gz", data)))
    assert [one.url for one in pages] == ["http://0/", "http://1/"]
    assert len(drops) == 1
    assert drops[0].reason.startswith("damaged")


def test_behind_garbage_the_next_record_is_found(read, tmp_path: Path) -> None:
    first, second, third = (gzip.compress(record_of(f"http://{n}/", OK, page_of(n))) for n in range(3))
    archive = written(tmp_path / "corrupt.warc.gz", first + b"garbage" * 50 + second + third)
    pages, drops, _ = read(warc(archive))
    assert [one.url for one in pages] == ["http://0/", "http://1/", "http://2/"]
    assert reasons(drops) == {ON_TO_THE_NEXT: 1}
    assert str(archive) in drops[0].excerpt


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
def test_a_flipped_byte_costs_one_record(read, tmp_path: Path, compress) -> None:
    records = [compress(record_of(f"http://{n}/", OK, page_of(n))) for n in range(9)]
    for victim in (0, 4, 8):
        damaged = bytearray(records[victim])
        for place in range(600, 620):
            damaged[place] ^= 0x5A
        data = b"".join([*records[:victim], bytes(damaged), *records[victim + 1 :]])
        pages, drops, _ = read(warc(written(tmp_path / f"{victim}.warc", data)))
        whole = [f"http://{n}/" for n in range(9) if n != victim]
        assert [one.url for one in pages if one.url != f"http://{victim}/"] == whole
        assert len(drops) <= 1, "and it is told once"
        assert all(one.reason.startswith("damaged") for one in drops)
        if compress is gzip.compress:
            assert len(drops) == 1


@pytest.mark.parametrize("error", [-100, 100, 5_000, 50_000_000])
def test_wrong_lengths_in_an_uncompressed_archive(read, tmp_path: Path, error: int) -> None:
    page = page_of(1)
    lie = len(OK) + 4 + len(page) + error
    data = record_of("http://a/", OK, page, length=lie) + record_of("http://b/", OK, page_of(2))
    pages, drops, notes = read(warc(written(tmp_path / "a.warc", data)))
    assert [(one.url, one.text) for one in pages] == [
        ("http://a/", page.decode()),
        ("http://b/", page_of(2).decode()),
    ]
    assert not drops
    assert notes["records whose stated length was wrong, read up to the next record"] == 1


def test_one_gzip_stream_around_the_whole_archive_is_read(read, tmp_path: Path) -> None:
    data = b"".join(record_of(f"http://{n}/", OK, page_of(n)) for n in range(5))
    for name, packed in (("a.warc.gz", gzip.compress(data)), ("a.warc.zst", pa.compress(data, "zstd", asbytes=True))):
        pages, drops, _ = read(warc(written(tmp_path / name, packed)))
        assert [one.text for one in pages] == [page_of(n).decode() for n in range(5)], name
        assert not drops


def test_what_is_no_archive_is_one_drop(read, tmp_path: Path) -> None:
    for name, data in (("a.warc", b"hello\n" * 90), ("b.warc.gz", gzip.compress(b"hello")), ("c.warc", b"")):
        pages, drops, _ = read(warc(written(tmp_path / name, data)))
        assert not pages
        assert reasons(drops) == {"not a readable WARC file": 1}, name


def test_a_payload_of_gigabytes_is_not_read(read, tmp_path: Path) -> None:
    huge = record_of("http://a/", OK, b"<html>" + b"x" * 21_000_000)
    pages, drops, _ = read(warc(written(tmp_path / "a.warc", huge + record_of("http://b/", OK, page_of(1)))))
    assert [one.url for one in pages] == ["http://b/"]
    assert reasons(drops) == {"larger than a page can be (20 MB)": 1}


@given(st.lists(st.tuples(st.integers(0, 60_000), st.binary(min_size=1, max_size=40)), max_size=4), st.booleans())
def test_no_damage_ends_the_reading(tmp_path_factory, faults: list[tuple[int, bytes]], packed: bool) -> None:
    """Bytes overwritten anywhere: never an exception, and untouched records still come out of gzip members."""
    compress = gzip.compress if packed else bytes
    records = [compress(record_of(f"http://{n}/", OK, page_of(n))) for n in range(4)]
    data = bytearray(b"".join(records))
    starts = [sum(map(len, records[:n])) for n in range(5)]
    touched = set()
    for place, junk in faults:
        place %= len(data) - len(junk)
        touched |= {n for n in range(4) if place < starts[n + 1] and place + len(junk) > starts[n]}
        data[place : place + len(junk)] = junk
    path = written(tmp_path_factory.mktemp("w") / "a.warc.gz", bytes(data))
    piece = Piece("a", "", len(data), str(path))
    found = [one.url for one in read_piece(warc(path), piece, Counter()) if isinstance(one, Document)]
    if packed:
        assert {f"http://{n}/" for n in range(4) if n not in touched} <= set(found)


# ---------------------------------------------------------------- payloads


def test_chunks_are_joined_unless_the_crawler_had_joined_them() -> None:
    assert unchunk(b"4\r\nWiki\r\n6;x=1\r\npedia \r\n0\r\n\r\n") == b"Wikipedia "
    assert unchunk(b"<!doctype html><html>") == b"<!doctype html><html>"
    page = b"add\r\n<p>A page whose first line looks like the head of a chunk.</p>\r\nand so on" + b"." * 3000
    assert unchunk(page) == page
    assert unchunk(b"4\r\nWiki\r\n6\r\npedi") == b"Wikipedi", "cut off in the last chunk"


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8))
def test_chunking_is_undone_exactly(chunks: list[bytes]) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert unchunk(body) == b"".join(chunks)


def test_compression_is_told_by_the_bytes() -> None:
    page = b"<html>" + b"x" * 1000
    assert decompress(gzip.compress(page), "") == page
    assert decompress(zlib.compress(page), "deflate") == page
    assert decompress(zlib.compress(page)[2:-4], "deflate") == page
    assert decompress(pa.compress(page, "zstd", asbytes=True), "zstd") == page
    assert decompress(page, "gzip") == page, "called gzip, is not"


@pytest.mark.parametrize(
    ("payload", "charset", "expected"),
    [
        ("Grüße".encode("latin-1"), "iso-8859-1", "Grüße"),
        ("Grüße".encode(), "utf-8", "Grüße"),
        ("Grüße".encode(), "iso-8859-1", "Grüße"),  # the server lies
        ("Grüße".encode("utf-16"), None, "Grüße"),
        ("\ufeffGrüße".encode(), "windows-1252", "Grüße"),
        ('<meta charset="windows-1251">Привет'.encode("cp1251"), None, '<meta charset="windows-1251">Привет'),
        ('<meta charset="gbk">你好'.encode("gbk"), "no-such-charset", '<meta charset="gbk">你好'),
        ("こんにちは".encode("shift_jis"), "Shift_JIS", "こんにちは"),
    ],
)
def test_pages_are_decoded_as_they_were_written(payload: bytes, charset: str | None, expected: str) -> None:
    assert decode_page(payload, charset) == expected


def test_an_http_head_is_taken_apart() -> None:
    head = http_head(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset='UTF-8'\r\nX: a: b\r\n\r\n<html>")
    assert head is not None
    assert (head.status, head.mime, head.charset, head.headers["x"]) == (200, "text/html", "UTF-8", "a: b")
    assert http_head(b"20140126200624\nwww.iana.org. 600 IN A 192.0.32.8") is None


def test_a_page_says_its_licence_only_where_it_says_so() -> None:
    link = '<a rel="license" href="https://creativecommons.org/licenses/{}/">'
    assert page_license(link.format("by-sa/4.0")) == "CC-BY-SA-4.0"
    assert page_license("<link href=//creativecommons.org/publicdomain/zero/1.0/ rel=license>") == "CC0-1.0"
    assert page_license(link.format("by/2.0") + link.format("by-nc/2.0")) == "", "parts under different ones"
    assert page_license('<a href="https://creativecommons.org/licenses/by/4.0/">CC</a>') == "", "only mentioned"


def test_main_text_is_taken_out_of_a_page() -> None:
    paragraph = "The committee met on Tuesday to discuss the plan, and it agreed on every point of it. " * 4
    html = (
        "<html><head><title>T</title><script>var x = 'hidden';</script></head><body>"
        "<nav><a href='/'>Home</a> <a href='/b'>Products</a></nav>"
        f"<article><h1>Heading</h1><p>{paragraph}</p><p>{paragraph}</p></article>"
        "<footer>Copyright notice</footer></body></html>"
    )
    for extract in (extract_fast, extract_best):
        text = extract(html)
        assert "The committee met on Tuesday" in text
        assert "hidden" not in text
        assert "Products" not in text
