"""Books: Project Gutenberg's frames and encodings, EPUBs by their spine, and damaged ones that cost themselves only."""

from __future__ import annotations

import gzip
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus.source_settings import BooksSource
from groundup.corpus.sources import pieces
from groundup.corpus.sources.gutenberg import decode_book, header_of, iso_date, strip_gutenberg


def books(path: Path, **settings: object) -> BooksSource:
    return BooksSource(type="books", path=str(path), **settings)  # type: ignore[arg-type]


def reasons(drops: list) -> dict[str, int]:
    return dict(Counter(drop.reason for drop in drops))


# ---------------------------------------------------------------- Project Gutenberg

HEAD = (
    "The Project Gutenberg EBook of A Book, by A. Writer\n\nThis eBook is for the use of anyone anywhere.\n\n"
    "Title: A Book\n       and its Second Line\n\nAuthor: A. Writer\n\nRelease Date: August 21, 2007 [EBook #22367]\n\n"
    "Language: German\n\nCharacter set encoding: ISO-8859-1\n\n"
)
BODY = "CHAPTER I\n\nEs war einmal. " + "Und so weiter. " * 40 + "\n\nEnde gut."
FRAMES = [
    ("*** START OF THIS PROJECT GUTENBERG EBOOK A BOOK ***\n", "*** END OF THIS PROJECT GUTENBERG EBOOK A BOOK ***\n"),
    ("***START OF THE PROJECT GUTENBERG EBOOK A BOOK***\n", "***END OF THE PROJECT GUTENBERG EBOOK A BOOK***\n"),
    (
        "*** START OF THE PROJECT GUTENBERG EBOOK A BOOK AND ITS LONG\nNAME ***\n\nProduced by A, B and\nC.\n",
        "End of the Project Gutenberg EBook of A Book\n\n*** END OF THE PROJECT GUTENBERG EBOOK ***\n",
    ),
    (
        "*** START OF THIS PROJECT GUTENBERG EBOOK A BOOK ***\n\n\nE-text prepared by A\n\n\n\nTranscriber's note:"
        "\nx\n",
        "End of Project Gutenberg's A Book, by A. Writer\n",
    ),
    (
        "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy is this here? Lawyers.\n"
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
        "End of The Project Gutenberg Etext of A Book\n",
    ),
    ("  *** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n", "  *** START: FULL LICENSE ***\n"),
]


@pytest.mark.parametrize(("start", "end"), FRAMES)
def test_every_frame_that_gutenberg_used_is_cut_off(start: str, end: str) -> None:
    assert strip_gutenberg(f"{HEAD}{start}\n\n\n{BODY}\n\n\n{end}\nThe licence follows.") == BODY


def test_the_licence_between_the_plays_of_the_collected_shakespeare_goes() -> None:
    notice = "<<THIS ELECTRONIC VERSION OF THE COMPLETE WORKS OF WILLIAM\nSHAKESPEARE IS COPYRIGHT>>"
    assert strip_gutenberg(f"One play.\n\n{notice}\n\nAnother.") == "One play.\n\n\n\nAnother."


def test_the_header_says_what_the_book_is() -> None:
    header = header_of(HEAD + FRAMES[0][0] + BODY)
    assert header.title == "A Book and its Second Line"
    assert header.authors == ["A. Writer"]
    assert (header.language, header.date) == ("de", "2007-08-21")
    assert (header.url, header.license) == ("https://www.gutenberg.org/ebooks/22367", "public domain in the USA")
    owned = "** This is a COPYRIGHTED Project Gutenberg eBook, Details Below **\n" + HEAD
    assert header_of(owned).license == "copyrighted, Project Gutenberg License"
    assert header_of(HEAD.replace("German", "English and French")).language == ""
    assert not header_of("Title: Not one of theirs\n\n" + BODY).is_gutenberg


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("August 21, 2007 [EBook #22367]", "2007-08-21"),
        ("June, 1998", "1998-06"),
        ("2005", "2005"),
        ("[EBook #1998]", ""),
        ("soon", ""),
    ],
)
def test_dates(text: str, date: str) -> None:
    assert iso_date(text) == date


@pytest.mark.parametrize(
    ("declared", "encoding", "said"),
    [
        ("ISO-8859-1", "iso-8859-1", "Träume über Öl: à ç"),
        ("ISO-8859-1", "cp1252", "“Träume” – über"),
        ("ISO Latin-1", "iso-8859-1", "Träume"),
        ("ISO-8859-1", "utf-8", "Träume, obwohl der Kopf lügt"),
        ("ISO-8859-7", "iso-8859-7", "Καλημέρα κόσμε"),
        ("Windows-1251", "cp1251", "Доброе утро"),
        ("Big5", "big5", "紅樓夢曹雪芹"),
        ("UTF-8", "utf-8-sig", "Träume ✓"),
        ("Unicode UTF-8", "utf-8", "Träume ✓"),
        ("ISO-8859-1", "utf-16", "Träume ✓"),
        ("NO-SUCH-THING", "iso-8859-1", "Es wäre schön, über Bücher zu träumen, für alle Zeiten größer"),
    ],
)
def test_books_are_decoded_as_their_header_says_where_they_are_not_utf8(
    declared: str, encoding: str, said: str
) -> None:
    text = f"Project Gutenberg\nCharacter set encoding: {declared}\n\n{said}\n"
    assert decode_book(text.replace("\n", "\r\n").encode(encoding)) == text


def test_real_books_keep_their_provenance(read, shared_data: Path) -> None:
    documents, drops, notes = read(books(shared_data / "books"))
    assert drops == []
    assert notes == {"files": 4}
    about = {
        one.id.split("#")[0]: (
            one.metadata.get("title"),
            one.metadata.get("authors"),
            one.language,
            one.date,
            one.license,
        )
        for one in documents
    }
    free = "public domain in the USA"
    assert about == {
        "austen-pride-and-prejudice.utf8.txt": ("Pride and Prejudice", ["Jane Austen"], "en", "1998-06", free),
        "bierce-devils-dictionary.ascii.txt": ("The Devil's Dictionary", ["Ambrose Bierce"], "en", "2008-07-26", free),
        "kafka-die-verwandlung.latin1.txt": ("Die Verwandlung", ["Franz Kafka"], "de", "2007-08-21", free),
        "tinyshakespeare.txt": (None, None, "", "", "unknown"),
    }
    austen = [one for one in documents if one.id.startswith("austen")]
    assert sum("\nChapter " in f"\n{one.text}" for one in austen) == 61, "a part per chapter of the book"
    assert {one.url for one in austen} == {"https://www.gutenberg.org/ebooks/1342"}
    assert [one.metadata["part"] for one in austen] == list(range(1, len(austen) + 1))
    whole = "".join("".join(one.text for one in documents if one.id.startswith("tiny")).split())
    assert whole == "".join((shared_data / "books/tinyshakespeare.txt").read_text().split()), "nothing is lost"


def test_packed_books_and_other_files(read, tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress((HEAD + FRAMES[0][0] + BODY).encode("latin-1")))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("b/b.txt", BODY)
        archive.writestr("b/cover.jpg", b"\xff\xd8")
    (tmp_path / "c.html").write_text(f"<html><head><title>x</title></head><body><h1>H</h1><p>{BODY}</p></body></html>")
    (tmp_path / "d.txt").write_bytes(b"\0\1" * 500)
    (tmp_path / "e.txt").write_text("\n")
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    documents, drops, notes = read(books(tmp_path, license="mine"))
    assert {one.id: one.license for one in documents} == {
        "a.txt.gz#1": "public domain in the USA",
        "b.zip/b/b.txt#1": "mine",
        "c.html#1": "mine",
    }
    assert reasons(drops) == {"binary file": 1, "empty file": 1, "unreadable file": 1}
    assert notes["files that are no books"] == 1
    assert len(pieces(books(tmp_path), tmp_path)) == 6, "every file can be read by itself"


# ---------------------------------------------------------------- EPUB

CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
OPF = """<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/" version="3.0">
<metadata><dc:title>Zwei &amp; Eins</dc:title><dc:creator>A. Writer</dc:creator><dc:creator>B. Other</dc:creator>
<dc:language>de-AT</dc:language><dc:date>2019-03-04T00:00:00Z</dc:date><dc:rights>CC BY 4.0</dc:rights>
<dc:identifier>urn:isbn:1</dc:identifier></metadata>
<manifest>
<item id="one" href="text/one.xhtml" media-type="application/xhtml+xml"/>
<item id="two" href="text/two%20b.xhtml" media-type="application/xhtml+xml"/>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="cover" href="cover.xhtml" media-type="application/xhtml+xml"/>
<item id="gone" href="gone.xhtml" media-type="application/xhtml+xml"/>
<item id="css" href="a.css" media-type="text/css"/>
</manifest>
<spine><itemref idref="cover" linear="no"/><itemref idref="nav"/><itemref idref="two"/><itemref idref="gone"/>
<itemref idref="one"/><itemref idref="css"/><itemref idref="unknown"/></spine></package>"""
PAGE = (
    '<?xml version="1.0" encoding="{1}"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/>'
    '<link rel="stylesheet" href="a.css"/><script src="x.js"/></head><body><a id="top"/><h1>{0}</h1>'
    "<p>Text von {0}.</p><p>Gr\u00fc\u00dfe &#8212; Ende.</p></body></html>"
)


def epub_of(path: Path, **changes: bytes | str | None) -> Path:
    members: dict[str, bytes | str] = {
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": OPF,
        "OEBPS/text/one.xhtml": PAGE.format("Eins", "utf-8").encode(),
        "OEBPS/text/two b.xhtml": PAGE.format("Zwei", "iso-8859-1").encode("iso-8859-1"),
        "OEBPS/nav.xhtml": PAGE.format("Inhalt", "utf-8"),
        "OEBPS/cover.xhtml": PAGE.format("Umschlag", "utf-8"),
    }
    members |= {name: one for name, one in changes.items() if one is not None}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        for name, content in members.items():
            if changes.get(name, "") is not None:
                archive.writestr(name, content)
    return path


def test_an_epub_is_read_in_the_order_of_its_spine(read, tmp_path: Path) -> None:
    documents, drops, notes = read(books(epub_of(tmp_path / "a.epub")))
    [book] = documents
    assert book.text == "# Zwei\n\nText von Zwei.\n\nGrüße — Ende.\n\n# Eins\n\nText von Eins.\n\nGrüße — Ende."
    assert (book.id, book.license, book.language, book.date) == ("a.epub#1", "CC BY 4.0", "de", "2019-03-04")
    assert book.metadata["title"] == "Zwei & Eins"
    assert book.metadata["authors"] == ["A. Writer", "B. Other"]
    assert drops == []
    assert notes["parts of EPUBs that are no chapters (covers, contents)"] == 2
    assert notes["chapters of EPUBs that are missing or damaged"] == 1


def test_an_epub_becomes_parts_at_its_chapters_and_loses_gutenbergs_frame(read, tmp_path: Path) -> None:
    words = "<p>" + "Wort und Wort. " * 60 + "</p>"
    one = f"<html><body><p>*** START OF THE PROJECT GUTENBERG EBOOK X ***</p><h2>Kapitel 2</h2>{words}</body></html>"
    end = "<p>*** END OF THE PROJECT GUTENBERG EBOOK X ***</p><p>L</p>"
    two = f"<html><body><h2>Kapitel 1</h2>{words}{end}</body></html>"
    spine = OPF.replace('<itemref idref="two"/>', "").replace("</spine>", '<itemref idref="two"/></spine>')
    path = epub_of(
        tmp_path / "a.epub",
        **{"OEBPS/text/one.xhtml": one, "OEBPS/text/two b.xhtml": two, "OEBPS/book.opf": spine},
    )
    parts, _, _ = read(books(path, part_chars=800))
    assert [part.text[:12] for part in parts] == ["## Kapitel 2", "## Kapitel 1"]
    assert not [part for part in parts if "GUTENBERG" in part.text]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"META-INF/container.xml": None, "OEBPS/book.opf": None}, "not a readable EPUB: no package file"),
        ({"OEBPS/text/one.xhtml": "<p></p>", "OEBPS/text/two b.xhtml": None}, "empty file"),
        (
            {
                "META-INF/encryption.xml": "<encryption><EncryptedData><EncryptionMethod Algorithm='aes'/>"
                "<CipherData><CipherReference URI='OEBPS/text/one.xhtml'/></CipherData></EncryptedData></encryption>"
            },
            "encrypted EPUB (DRM)",
        ),
    ],
)
def test_why_an_epub_cannot_be_read(read, tmp_path: Path, changes: dict[str, str | None], reason: str) -> None:
    documents, drops, _ = read(books(epub_of(tmp_path / "a.epub", **changes)))
    assert (documents, reasons(drops)) == ([], {reason: 1})


def test_a_lost_container_and_scrambled_fonts_do_not_keep_us_from_the_text(read, tmp_path: Path) -> None:
    fonts = (
        "<encryption><EncryptedData><EncryptionMethod Algorithm='http://www.idpf.org/2008/embedding'/>"
        "<CipherReference URI='OEBPS/text/one.xhtml'/></EncryptedData></encryption>"
    )
    path = epub_of(tmp_path / "a.epub", **{"META-INF/container.xml": None, "META-INF/encryption.xml": fonts})
    [book], drops, _ = read(books(path))
    assert "Text von Eins." in book.text
    assert drops == []


def test_entities_of_a_package_are_not_followed(read, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("SECRET")
    evil = OPF.replace(
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<?xml version="1.0"?><!DOCTYPE package [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>',
    ).replace("Zwei &amp; Eins", "&x;")
    [book], _, _ = read(books(epub_of(tmp_path / "a.epub", **{"OEBPS/book.opf": evil})))
    assert "SECRET" not in str(book.metadata)


@given(st.binary(max_size=300), st.integers(0, 2_000))
def test_a_damaged_epub_is_a_reason_never_an_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    from groundup.corpus.sources import read_source

    folder = tmp_path_factory.mktemp("epub")
    whole = epub_of(folder / "a.epub").read_bytes()
    place = at % len(whole)
    (folder / "a.epub").write_bytes(whole[:place] + noise + whole[place + len(noise) :])
    assert list(read_source(books(folder / "a.epub"), folder, None, Counter()))
