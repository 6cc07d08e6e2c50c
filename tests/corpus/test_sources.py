"""Readers: what is in a source comes out, what does not is named, and damaged input is never fatal."""

from __future__ import annotations

import bz2
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from groundup.corpus.extract import extract_best, extract_fast
from groundup.corpus.settings import (
    BooksSource,
    DialogueSource,
    JsonlSource,
    PythonCodeSource,
    PythonDocsSource,
    TextSource,
    WarcSource,
    WikipediaSource,
)
from groundup.corpus.sources.books import split_book, strip_gutenberg
from groundup.corpus.sources.files import decode
from groundup.corpus.sources.python_code import CodeFile, is_generated, reason_to_drop
from groundup.corpus.sources.python_docs import clean_readme
from groundup.corpus.sources.warc import decode_page, decompress, unchunk
from groundup.corpus.sources.wikipedia import prose_of
from groundup.errors import UserError
from groundup.recipe import load_recipe


def reasons(drops: list) -> dict[str, int]:
    return dict(Counter(drop.reason for drop in drops))


# ---------------------------------------------------------------- WARC


def warc_of(*pages: tuple[str, str, bytes]) -> bytes:
    """A WARC of (url, HTTP head, payload) responses, as ISO 28500 lays it out."""
    out = b""
    for url, head, payload in pages:
        block = head.encode() + b"\r\n\r\n" + payload
        out += (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
        ).encode()
        out += block + b"\r\n\r\n"
    return out


OK = "HTTP/1.1 200 OK\r\nContent-Type: text/html"


def test_the_iana_archive_gives_its_16_pages_and_names_the_rest(read, shared_data: Path) -> None:
    pages, drops, notes = read(WarcSource(type="warc", path=str(shared_data / "web/iana-revisits.warc.gz")))
    assert len(pages) == 16
    assert reasons(drops)["revisit: the same payload was captured before"] == 123
    assert len(pages) + len(drops) + notes["records that are no documents (warcinfo, request, metadata)"] == 343
    assert all(page.text.lstrip().startswith("<") for page in pages), "chunked or compressed payload was not undone"


def test_every_archive_we_have_is_read_without_an_error(read, shared_data: Path) -> None:
    found = {}
    for file in sorted((shared_data / "web").rglob("*")):
        if file.is_file() and (".warc" in file.name or (file.suffix in (".wet", ".gz") and "arc" in file.name)):
            pages, drops, _ = read(WarcSource(type="warc", path=str(file)))
            found[file.name] = (len(pages), reasons(drops))
    assert found["archive-org-2008.warc.gz"][0] == 94
    assert found["ai2-cc-2024.warc.gz"][0] == 15
    assert found["commoncrawl-junk.warc.gz"][0] == 12
    assert found["derived.warc.wet.gz"][0] == 136
    assert found["whirlwind.warc.gz"][0] == found["whirlwind.warc.wet.gz"][0] == 1
    assert found["example.arc.gz"] == (0, {"not a readable WARC file": 1})
    for name in ("example-trunc.warc", "example-wrong-chunks.warc.gz", "example-iana.org-chunked.warc"):
        assert found[name][0] == 1, name


def test_chunked_and_compressed_pages_come_out_as_html(read, shared_data: Path) -> None:
    for name in ("example-iana.org-chunked.warc", "example-trunc.warc", "example-wrong-chunks.warc.gz"):
        [page], _, _ = read(WarcSource(type="warc", path=str(shared_data / "web/edge" / name)))
        assert page.text.lower().startswith("<!doctype html>"), name
        assert "\r\n0\r\n" not in page.text


def test_a_broken_record_costs_itself_only(read, tmp_path: Path) -> None:
    page = b"<html><body><p>Hello there.</p></body></html>"
    broken = gzip.compress(page)[:10] + b"\xff" * 30
    archive = tmp_path / "a.warc"
    archive.write_bytes(
        warc_of(
            ("http://a/", OK, page),
            ("http://b/", OK + "\r\nContent-Encoding: gzip", broken),
            ("http://c/", "HTTP/1.1 404 Not Found\r\nContent-Type: text/html", page),
            ("http://d/", OK + "\r\nContent-Encoding: gzip", gzip.compress(page)),
        )
    )
    pages, drops, _ = read(WarcSource(type="warc", path=str(archive)))
    assert [(one.url, one.text) for one in pages] == [("http://a/", page.decode()), ("http://d/", page.decode())]
    assert reasons(drops) == {"damaged record": 1, "HTTP status 404": 1}


def test_a_cut_off_archive_keeps_what_came_before(read, tmp_path: Path) -> None:
    page = "".join(f"<p>Paragraph {n * n * n % 9973}.</p>" for n in range(500)).encode()
    members = [gzip.compress(warc_of((f"http://{n}/", OK, page))) for n in range(3)]
    archive = tmp_path / "cut.warc.gz"
    archive.write_bytes(b"".join(members)[: len(members[0]) + len(members[1]) + len(members[2]) // 2])
    pages, drops, _ = read(WarcSource(type="warc", path=str(archive)))
    assert [one.url for one in pages] == ["http://0/", "http://1/"]
    assert len(drops) == 1
    assert drops[0].reason.startswith("damaged")


def test_a_corrupt_archive_ends_where_it_is_corrupt_and_says_so(read, tmp_path: Path) -> None:
    page = "".join(f"<p>Paragraph {n * n * n % 9973}.</p>" for n in range(500)).encode()
    first, second, third = (gzip.compress(warc_of((f"http://{n}/", OK, page))) for n in range(3))
    archive = tmp_path / "corrupt.warc.gz"
    archive.write_bytes(first + b"garbage" * 50 + second + third)
    pages, drops, _ = read(WarcSource(type="warc", path=str(archive)))
    assert [one.url for one in pages] == ["http://0/"]
    assert reasons(drops) == {"damaged archive: the rest of the file could not be read": 1}
    assert str(archive) in drops[0].excerpt


def test_chunks_are_joined_unless_the_crawler_had_joined_them() -> None:
    assert unchunk(b"4\r\nWiki\r\n6;x=1\r\npedia \r\n0\r\n\r\n") == b"Wikipedia "
    assert unchunk(b"<!doctype html><html>") == b"<!doctype html><html>"
    page = b"add\r\n<p>A page whose first line looks like the head of a chunk.</p>\r\nand so on" + b"." * 3000
    assert unchunk(page) == page
    assert unchunk(b"4\r\nWiki\r\n6\r\npedi") == b"Wikipedi", "cut off in the last chunk"


def test_compression_is_told_by_the_bytes() -> None:
    import zlib

    page = b"<html>" + b"x" * 1000
    assert decompress(gzip.compress(page), "") == page
    assert decompress(zlib.compress(page), "deflate") == page
    assert decompress(zlib.compress(page)[2:-4], "deflate") == page
    assert decompress(page, "gzip") == page, "called gzip, is not"


@pytest.mark.parametrize(
    ("payload", "charset", "expected"),
    [
        ("Grüße".encode("latin-1"), "iso-8859-1", "Grüße"),
        ("Grüße".encode(), "utf-8", "Grüße"),
        ('<meta charset="windows-1251">Привет'.encode("cp1251"), None, '<meta charset="windows-1251">Привет'),
        ('<meta charset="gbk">你好'.encode("gbk"), "no-such-charset", '<meta charset="gbk">你好'),
    ],
)
def test_pages_are_decoded_as_they_were_written(payload: bytes, charset: str | None, expected: str) -> None:
    assert decode_page(payload, charset) == expected


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


# ---------------------------------------------------------------- Wikipedia


def test_the_english_dump_has_106_articles_and_100_redirects(read, shared_data: Path) -> None:
    path = shared_data / "wikipedia/enwiki-pages-articles-shortened.xml.bz2"
    articles, drops, _ = read(WikipediaSource(type="wikipedia", path=str(path)))
    assert len(articles) == 106
    assert reasons(drops) == {"redirect": 100}
    prose = [prose_of(article.text) for article in articles[:8]]
    assert prose[0].startswith("Anarchism\n\nAnarchism is a political philosophy")
    for text in prose:
        for mark in ("{{", "}}", "{|", "|}", "<ref", "[[", "]]", "'''", "[[File:", "[[Category:"):
            assert mark not in text, f"{mark} in {text[:30]}"
    assert "\n\nEtymology and terminology\n\n" in prose[0], "headings stay"


def test_a_utf16_dump_and_fifteen_languages_are_read(read, shared_data: Path) -> None:
    for path in sorted((shared_data / "wikipedia").glob("*wiki*.bz2")):
        articles, _, _ = read(WikipediaSource(type="wikipedia", path=str(path)))
        assert articles, path.name
        text = prose_of(articles[0].text)
        assert len(text) > 200, path.name
        names = ("Kategorie:", "Datei:", "Catégorie:", "Fichier:", "Категория:", "Категорія:", "Categoría:", "mini|")
        assert not [name for name in names if name in text], path.name
    [article], drops, _ = read(WikipediaSource(type="wikipedia", path=str(shared_data / "wikipedia/bgwiki*")))
    assert prose_of(article.text).startswith("Григориански календар\n\nГригорианският календар")
    assert reasons(drops) == {"not an article (namespace 4)": 2}


WIKITEXT = """{{Infobox|name=x|text=gone}}
'''Ada''' (born {{birth|1815}}) was a [[mathematician|maths person]] from [[London]].<ref>gone</ref>
[[Datei:bild.png|thumb|gone [[too]]]] It rained {{convert|3|km|mi}}&nbsp;far. {{lang|fr|mot}} <!-- gone -->

== Works ==
{| class="wikitable"
| gone || {| nested
| gone
|}
|}

=== Letters ===
* One [http://x.org letter]
* Two
# Three

== Empty ==
{{reflist}}

== Last ==
Text<br/>here<math>x^2</math>.
[[Kategorie:gone]] [[de:gone]]
"""


def test_wikitext_becomes_prose() -> None:
    expected = (
        "Ada\n\nAda (born ) was a maths person from London.\n It rained 3 km far. mot \n\n"
        "Letters\n\n* One letter\n* Two\n* Three\n\nLast\n\nText\nhere."
    )
    text = prose_of(f"\x00namespaces=category|datei|file|image|kategorie\x00Ada\x00{WIKITEXT}")
    assert text == expected.replace("\n It", "\nIt").replace("mot \n", "mot\n").replace(" (born )", " (born )")


def test_the_dump_says_how_its_namespaces_are_called(read, tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_text(
        "<mediawiki><siteinfo><sitename>W</sitename><base>https://xx.wikipedia.org/wiki/Main</base>"
        '<namespaces><namespace key="6">Ficheru</namespace><namespace key="14">Rhestr</namespace></namespaces>'
        "</siteinfo><page><title>A b</title><ns>0</ns><revision><text>"
        "Kept [[Ficheru:x.png|thumb|gone]] text. [[Rhestr:gone]]</text></revision></page></mediawiki>"
    )
    [article], _, _ = read(WikipediaSource(type="wikipedia", path=str(tmp_path / "d.xml")))
    assert prose_of(article.text) == "A b\n\nKept text."
    assert article.url == "https://xx.wikipedia.org/wiki/A_b"


def test_a_damaged_dump_keeps_what_came_before_and_says_so(read, tmp_path: Path) -> None:
    page = "<page><title>P{}</title><ns>0</ns><revision><text>Some text.</text></revision></page>"
    xml = "<mediawiki>" + "".join(page.format(n) for n in range(3)) + "<page><title>half"
    (tmp_path / "d.xml").write_text(xml)
    articles, drops, _ = read(WikipediaSource(type="wikipedia", path=str(tmp_path / "d.xml")))
    assert [one.id for one in articles] == ["wiki:P0", "wiki:P1", "wiki:P2"]
    assert reasons(drops) == {"damaged dump: the rest of the file could not be read": 1}
    (tmp_path / "cut.bz2").write_bytes(bz2.compress(xml.encode() * 50)[:60])
    _, drops, _ = read(WikipediaSource(type="wikipedia", path=str(tmp_path / "cut.bz2")))
    assert reasons(drops) == {"not a readable XML dump": 1}


# ---------------------------------------------------------------- books


@pytest.mark.parametrize(
    ("file", "first", "last"),
    [
        ("austen-pride-and-prejudice.utf8.txt", "PRIDE AND PREJUDICE", "uniting them"),
        ("bierce-devils-dictionary.ascii.txt", "THE DEVIL'S DICTIONARY", ""),
        ("kafka-die-verwandlung.latin1.txt", "", "dehnte."),
    ],
)
def test_gutenberg_frames_are_cut_off(read, shared_data: Path, file: str, first: str, last: str) -> None:
    parts, _, _ = read(BooksSource(type="books", path=str(shared_data / "books" / file)))
    whole = "\n".join(part.text for part in parts)
    assert "gutenberg" not in whole.lower().replace("gutenberg-tm", "gutenberg")[:3000]
    assert "subscribe to our email newsletter" not in whole
    assert "*** START" not in whole
    assert "*** END" not in whole
    assert first.lower() in parts[0].text[:3000].lower()
    assert last in parts[-1].text[-400:]


def test_latin1_books_are_decoded(read, shared_data: Path) -> None:
    path = shared_data / "books/kafka-die-verwandlung.latin1.txt"
    parts, _, _ = read(BooksSource(type="books", path=str(path)))
    assert any("Träumen erwachte" in part.text for part in parts)


def test_the_parts_of_a_book_are_the_book() -> None:
    book = "PREFACE\n\n" + "\n\n".join(
        f"CHAPTER {n}\n\n" + "\n\n".join(f"Paragraph {n}.{i} " + "word " * 80 for i in range(40)) for n in range(1, 6)
    )
    parts = split_book(book, 8_000)
    assert "".join("".join(parts).split()) == "".join(book.split()), "nothing is lost"
    assert max(map(len, parts)) <= 12_000 + 500
    assert sum(part.startswith("CHAPTER") for part in parts) >= 4


def test_a_book_without_a_frame_is_left_alone() -> None:
    assert strip_gutenberg("Just a story.\n\nThe end of it.") == "Just a story.\n\nThe end of it."


# ---------------------------------------------------------------- what Python brings


def test_the_documentation_on_this_machine_is_prose_with_licences(read) -> None:
    documents, _, _ = read(PythonDocsSource(type="python_docs", licenses=("PSF", "MIT")))
    ids = [one.id for one in documents]
    assert "pydoc:assert" in ids
    assert any(id.startswith("description:") for id in ids)
    assert all("PSF" in one.license or "MIT" in one.license for one in documents)
    topics = [id for id in ids if id.startswith("pydoc:")]
    assert topics == sorted(topics)


def test_a_readme_loses_its_badges_and_markup() -> None:
    text = clean_readme(
        "[![CI](https://x/b.svg)](https://x)\n\n# Name\n\n.. image:: https://x/y.png\n   :target: https://x\n\n"
        "<p align='center'>Hello</p>\n\nSee [the docs](https://docs.x) for more.\n\n[ref]: https://x\n"
    )
    assert text == "# Name\n\nHello\n\nSee the docs for more."


def test_code_is_filtered_by_licence_name_and_head(read) -> None:
    source = PythonCodeSource(type="python_code", licenses=("PSF",), distributions=("python",), max_bytes=300_000)
    files, drops, _ = read(source)
    assert sum(one.bytes for one in files) <= 310_000
    assert files
    assert all(one.license == "PSF" and one.id.startswith("python/") for one in files)
    found = reasons(drops)
    assert found["beyond max_bytes"] > 100
    assert found["test file"] > 10
    again, _, _ = read(source)
    assert [one.id for one in files] == [one.id for one in again]


@pytest.mark.parametrize(
    ("id", "license", "reason"),
    [
        ("x/x/_vendor/y.py", "MIT", "vendored copy"),
        ("x/x/tests/y.py", "MIT", "test file"),
        ("x/x/test_y.py", "MIT", "test file"),
        ("x/x/y_pb2.py", "MIT", "generated file"),
        ("x/x/y.py", "GPL", "licence: GPL"),
        ("x/x/y.py", "unknown", "licence: unknown"),
        ("x/x/y.py", "MIT", ""),
        ("test/x/contest.py", "MIT", ""),
    ],
)
def test_why_a_code_file_is_not_used(id: str, license: str, reason: str) -> None:
    assert reason_to_drop(CodeFile(id, Path(id), license, 10), ["MIT", "BSD"]) == reason


def test_generated_files_say_so_in_their_head() -> None:
    assert is_generated("# Generated by the protocol buffer compiler.  DO NOT EDIT!\nx = 1\n")
    assert is_generated("#!/bin/python\n# This file is automatically generated\n")
    assert not is_generated("import x\n" * 12 + "# do not edit\n")
    assert not is_generated("class Generated:\n    pass\n")


# ---------------------------------------------------------------- dialogue, text, rows


def test_a_dialogue_is_a_document_per_conversation(read, tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(
        "categories: [x]\nconversations:\n- - Hi?\n  - Hello.\n- - Alone\n- - One\n  - |\n    Two\n      lines\n  - 3\n"
    )
    (tmp_path / "bad.yml").write_text("conversations: [[[\n")
    (tmp_path / "other.yml").write_text("- just\n- a list\n")
    documents, drops, _ = read(DialogueSource(type="dialogue", path=str(tmp_path)))
    assert [one.text for one in documents] == [
        "User: Hi?\nAssistant: Hello.",
        "User: One\nAssistant: Two\n  lines\nUser: 3",
    ]
    assert reasons(drops) == {"conversation with fewer than two turns": 1, "unreadable file": 2}


def test_a_folder_of_ones_own_text(read, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Plain text.")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.md").write_bytes("Grüße".encode("latin-1") * 20)
    (tmp_path / "c.html").write_text("<html><body>Page</body></html>")
    (tmp_path / "d.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "e.txt").write_bytes(b"\0\1\2" * 100)
    (tmp_path / "f.txt").write_text("  \n")
    (tmp_path / "g.txt.gz").write_bytes(gzip.compress(b"packed"))
    documents, drops, _ = read(TextSource(type="text", path=str(tmp_path)))
    assert {one.id: one.media for one in documents} == {
        "a.txt": "prose",
        "sub/b.md": "prose",
        "c.html": "html",
        "g.txt.gz": "prose",
    }
    assert "Grüße" in next(one.text for one in documents if one.id == "sub/b.md")
    assert reasons(drops) == {"not a text file (.png)": 1, "binary file": 1, "empty file": 1}


def test_rows_that_hold_no_text_are_named_by_file_and_row(read, tmp_path: Path) -> None:
    rows = ['{"text": "good", "license": "MIT", "url": "u"}', "{broken", '{"body": "x"}', "[1]", "", '{"text": " "}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    documents, drops, _ = read(JsonlSource(type="jsonl", path=str(tmp_path / "a.jsonl")))
    assert [(one.id, one.text, one.license, one.url) for one in documents] == [("a.jsonl:1", "good", "MIT", "u")]
    assert [(one.id, one.reason) for one in drops] == [
        ("a.jsonl:2", "row is not JSON"),
        ("a.jsonl:3", "row has no text in 'text'"),
        ("a.jsonl:4", "row has no text in 'text'"),
        ("a.jsonl:6", "row has no text in 'text'"),
    ]


def test_gz_rows_of_real_corpora_are_read(read, shared_data: Path) -> None:
    documents, drops, _ = read(JsonlSource(type="jsonl", path=str(shared_data / "web/c4-300.jsonl.gz")))
    assert (len(documents), len(drops)) == (300, 0)
    code = JsonlSource(
        type="jsonl",
        path=str(shared_data / "code/stack-sample.jsonl.gz"),
        text_field="content",
        license_field="license",
        code=True,
    )
    documents, _, _ = read(code)
    assert len(documents) == 227
    assert {one.media for one in documents} == {"code"}


def test_a_path_that_is_not_there_is_one_clear_message(read, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(TextSource(type="text", path=str(tmp_path / "nothing")))
    assert str(caught.value) == (
        f"{tmp_path}/nothing: no such file or folder\n"
        "  -> check the path; relative paths start where groundup was called"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the folder holds no files"):
        read(TextSource(type="text", path=str(tmp_path / "empty")))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_of_any_encoding_is_decoded(encoding: str) -> None:
    text = "Grüße aus Köln – „schön“, sagte sie.\nZweite Zeile\n" * 5
    assert decode(text.replace("\n", "\r\n").encode(encoding)) == text


def test_ids_do_not_depend_on_where_the_data_lies(read, tmp_path: Path) -> None:
    for place in ("here", "there/deeper"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.jsonl").write_text(json.dumps({"text": "x"}))
    ids = [read(JsonlSource(type="jsonl", path=str(tmp_path / place)))[0][0].id for place in ("here", "there/deeper")]
    assert ids == ["a.jsonl:1", "a.jsonl:1"]


def test_the_british_spelling_of_a_key_is_answered_with_ours(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("stages:\n  c: {stage: corpus, sources: {a: {type: books, path: x, licence: MIT}}}\n")
    with pytest.raises(UserError, match=r"unknown key 'sources\.a\.licence': here it is called 'license'"):
        load_recipe(path)
