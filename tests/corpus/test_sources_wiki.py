"""Wikipedia dumps: every page is an article or named as something else; wikitext becomes readable text."""

from __future__ import annotations

import bz2
import gzip
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import WikipediaSource
from groundup.corpus.sources import Piece, read_piece
from groundup.corpus.sources.wikitables import tables_as_text
from groundup.corpus.sources.wikitext import packed, prose_of

REST_UNREADABLE = "damaged dump: the rest of the file could not be read"
PART_UNREADABLE = "damaged dump: a part of the file could not be read"


def dump(path: Path | str, **settings: str) -> WikipediaSource:
    return WikipediaSource(type="wikipedia", path=str(path), **settings)  # type: ignore[arg-type]


def reasons(drops: list[Drop]) -> dict[str, int]:
    return dict(Counter(drop.reason for drop in drops))


def page_of(title: str, text: str = "Some text.", more: str = "<ns>0</ns>") -> str:
    return f"<page><title>{title}</title>{more}<revision><text>{text}</text></revision></page>\n"


def prose(wikitext: str, title: str = "T", *, with_tables: bool = True) -> str:
    text = prose_of(packed(title, wikitext, ["kategorie", "datei"], with_tables=with_tables))
    return text.removeprefix(title).strip()


# ---------------------------------------------------------------- the dumps we have

# file: articles, drops (README of shared/data), how the first article's text begins
DUMPS: dict[str, tuple[int, dict[str, int], str]] = {
    "enwiki-pages-articles-shortened.xml.bz2": (106, {"redirect": 100}, "Anarchism is a political philosophy"),
    "bgwiki-pages-articles-shortened.xml.bz2": (1, {"not an article (namespace 4)": 2}, "Григорианският календар"),
    "dewiki-mini.xml.bz2": (2, {}, "Arthur Schopenhauer (* 22. Februar 1788"),
    "frwiki-mini.xml.bz2": (3, {}, "Paul Jules Antoine Meillet"),
    "eswiki-mini.xml.bz2": (1, {}, "Berlín"),
    "ruwiki-mini.xml.bz2": (1, {}, "Берли́н"),
    "arwiki-mini.xml.bz2": (3, {}, "برلين"),
    "zhwiki-mini.xml.bz2": (1, {}, "柏林"),
    "jawiki-mini.xml.bz2": (1, {}, "ベルリン"),
    "hiwiki-mini.xml.bz2": (1, {}, "बर्लिन"),
    "swwiki-mini.xml.bz2": (1, {}, "Berlin"),
    "trwiki-mini.xml.bz2": (1, {}, "Berlin"),
    "ukwiki-mini.xml.bz2": (1, {}, "Берлі́н"),
    "viwiki-mini.xml.bz2": (1, {}, "Berlin"),
}
MARKUP = ("{|", "|}", "<ref", "[[", "]]", "'''", "<table", "style=", "colspan=", "\x00", "\x01", "\x02")
NAMESPACES = ("Kategorie:", "Datei:", "Catégorie:", "Fichier:", "Категория:", "Категорія:", "Categoría:", "mini|")


@pytest.mark.parametrize("name", DUMPS)
def test_every_page_of_every_dump_is_an_article_or_named(read, shared_data: Path, name: str) -> None:
    count, expected, beginning = DUMPS[name]
    path = shared_data / "wikipedia" / name
    articles, drops, _ = read(dump(path))
    assert (len(articles), reasons(drops)) == (count, expected)
    xml = bz2.decompress(path.read_bytes())
    pages = xml.decode("utf-16" if xml[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8").count("<page>")
    assert len(articles) + len(drops) == pages
    language = name[:2]
    for article in articles:
        text = prose_of(article.text)
        assert len(text) > 200
        assert not [mark for mark in (*MARKUP, *NAMESPACES) if mark in text], article.id
        without_formulas = re.sub(r"\$[^$\n]*\$", "", text)
        assert "{{" not in without_formulas, article.id
        assert "}}" not in without_formulas, article.id
        assert article.id.startswith(f"{language}wiki:")
        assert article.url.startswith(f"https://{language}.wikipedia.org/wiki/")
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", article.date)
        assert article.license == "CC-BY-SA"
    title = articles[0].metadata["title"]
    assert prose_of(articles[0].text).removeprefix(title).strip().startswith(beginning)


def test_no_dump_is_missing_from_the_table(shared_data: Path) -> None:
    assert {path.name for path in (shared_data / "wikipedia").iterdir()} == set(DUMPS)


def test_a_folder_of_dumps_tells_its_wikis_apart(read, shared_data: Path) -> None:
    articles, _, notes = read(dump(shared_data / "wikipedia"))
    repeated = [id for id, count in Counter(article.id for article in articles).items() if count > 1]
    assert len(articles) == 124
    assert repeated == ["arwiki:Berlin"], "a page that stands twice in its dump"
    assert notes["files"] == 14


def test_the_english_text_is_about_what_another_stripper_leaves(read, shared_data: Path) -> None:
    """mwparserfromhell's own strip_code leaves 3.4 M characters of which some are references and captions."""
    articles, _, _ = read(dump(shared_data / "wikipedia/enwiki-pages-articles-shortened.xml.bz2"))
    whole = [prose_of(article.text) for article in articles]
    assert 2.8e6 < sum(map(len, whole)) < 3.4e6
    assert "\n\nEtymology and terminology\n\n" in whole[0], "headings stay"
    tables = sum(line.count(" | ") > 0 for text in whole for line in text.split("\n"))
    assert tables > 1_000, "tables are read"
    [alaska] = [text for text in whole if text.startswith("Alaska\n")]
    assert "\nAnchorage | 65/51 | 18/10 | 22/11 | –5/–11\n" in alaska


# ---------------------------------------------------------------- wikitext

WIKITEXT = """{{Infobox|name=x|text=gone}}
'''Ada''' (born {{birth|1815}}) was a [[mathematician|maths person]] from [[London]].<ref>gone</ref>
[[Datei:bild.png|thumb|gone [[too]]]] It rained {{convert|3|km|mi}}&nbsp;far. {{lang|fr|mot}} <!-- gone -->

== Works ==
{{gone}}

=== Letters ===
* One [http://x.org letter]
* Two
# Three

== Empty ==
{{reflist}}

== Last ==
Text<br/>here, <math>x^2 \\over {{y}}</math>.
[[Kategorie:gone]] [[de:gone]]
"""


def test_wikitext_becomes_prose() -> None:
    assert prose(WIKITEXT, "Ada") == (
        "Ada (born ) was a maths person from London.\nIt rained 3 km far. mot\n\n"
        "Letters\n\n* One letter\n* Two\n* Three\n\nLast\n\nText\nhere, $x^2 \\over {{y}}$."
    ).replace(" (born )", " (born )")


def test_code_keeps_its_lines() -> None:
    code = "def f(x):\n    if x:\n        return {{}}\n    return [[x]] | '''y'''"
    text = prose(f'Look:\n<syntaxhighlight lang="python">\n{code}\n</syntaxhighlight>\nDone.')
    assert text == f"Look:\n\n{code}\n\nDone."


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("{{nowrap|5 apples}} and {{lang-de|Äpfel}}", "5 apples and Äpfel"),
        ("built {{circa|1200}}, {{frac|3|4}} of it {{as of|2010|lc=y}}", "built c. 1200, 3/4 of it As of 2010"),
        ("{{cite web|title=x}}{{unknown thing|y}}kept", "kept"),
        ("{{quote|To [[be]] or not}}", "To be or not"),
        ("1914{{ndash}}1918", "1914–1918"),
    ],
)
def test_templates_that_stand_for_words_are_read(wikitext: str, expected: str) -> None:
    assert prose(wikitext) == expected


TABLE = """Before.
{| class="wikitable" style="x"
|+ style="y" | Caption
! scope="col" | Name !! Year
|-
| [[Ada Lovelace|Ada]] || {{nowrap|1815}}<ref>gone</ref>
|-
| rowspan=2 | Charles<br/>Babbage
| 1791
{| class="inner"
| a || b
|-
| c
|}
|-
|  ||
|}
After."""


def test_a_table_is_lines_of_text() -> None:
    assert prose(TABLE) == ("Before.\n\nCaption\nName | Year\nAda | 1815\nCharles Babbage | 1791 a, b; c\n\nAfter.")
    assert prose(TABLE, with_tables=False) == "Before.\n\nAfter."


def test_tables_that_are_no_content_go() -> None:
    assert prose('Text.\n{| class="navbox"\n| a || b\n|}') == "Text."
    assert prose("Text.\n{{Infobox\n| a = {{{x|}}}\n|}}\nMore.") == "Text.\n\nMore.", "a template's bars are no table's"
    cell = "{|\n| {{Unknown\n| name = x\n|}} kept || two\n|}"
    assert prose(f"Text.\n{cell}") == "Text.\n\nkept | two"


def test_a_table_that_is_never_closed_keeps_its_rows() -> None:
    assert tables_as_text("a\n{|\n| b || c", keep=True).split("\n") == ["a", "", "b | c", ""]


@given(st.lists(st.sampled_from(["{|", "|}", "|-", "| a", "! b", "||", "{{", "}}", "[[", "]]", "x", "'''", "<ref>"])))
def test_broken_markup_is_never_fatal(parts: list[str]) -> None:
    assert isinstance(prose("\n".join(parts)), str)
    assert isinstance(prose("".join(parts)), str)


@given(st.lists(st.text("abc xyz", min_size=1), min_size=1, max_size=6).filter(lambda row: any(map(str.strip, row))))
def test_a_row_of_plain_cells_is_its_cells(row: list[str]) -> None:
    [_, line, _] = tables_as_text("{|\n| " + " || ".join(row) + "\n|}", keep=True).split("\n")
    assert [cell.strip() for cell in line.split("|")] == [" ".join(cell.split()) for cell in row]


# ---------------------------------------------------------------- dumps made here


def test_the_dump_says_how_its_namespaces_are_called(read, tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_text(
        '<mediawiki xml:lang="xx"><siteinfo><sitename>W</sitename><dbname>xxwiki</dbname>'
        "<base>https://xx.wikipedia.org/wiki/Main</base>"
        '<namespaces><namespace key="6">Ficheru</namespace><namespace key="14">Rhestr</namespace></namespaces>'
        "</siteinfo>" + page_of("A b", "Kept [[Ficheru:x.png|thumb|gone]] text. [[Rhestr:gone]]") + "</mediawiki>"
    )
    [article], _, _ = read(dump(tmp_path / "d.xml"))
    assert prose_of(article.text) == "A b\n\nKept text."
    assert (article.id, article.url) == ("xxwiki:A b", "https://xx.wikipedia.org/wiki/A_b")


def test_what_is_no_article_is_named(read, tmp_path: Path) -> None:
    pages = [
        page_of("A", "#REDIRECT [[B]]"),
        page_of("B", "#WEITERLEITUNG [[C]]"),
        page_of("C", "#перенаправление [[D]]"),
        page_of("D", "x", '<ns>0</ns><redirect title="E" />'),
        page_of("Talk:E", "x", "<ns>1</ns>"),
        page_of("F", ""),
        page_of("G", "{}", "<ns>0</ns><model>json</model>"),
        page_of("H", "# one item of a list [[x]]"),
    ]
    (tmp_path / "d.xml").write_text("<mediawiki>" + "".join(pages) + "</mediawiki>")
    articles, drops, _ = read(dump(tmp_path / "d.xml"))
    assert [one.metadata["title"] for one in articles] == ["H"]
    assert reasons(drops) == {
        "redirect": 4,
        "not an article (namespace 1)": 1,
        "empty page": 1,
        "not wikitext (json)": 1,
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "windows-1251"])
def test_the_declared_encoding_is_honoured(read, tmp_path: Path, encoding: str) -> None:
    xml = (
        f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n<mediawiki>{page_of("Юг", "Тёплый край.")}'
    )
    for name, pack in (("a.xml", bytes), ("b.xml.gz", gzip.compress), ("c.xml.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(pack(xml.encode(encoding)))
    articles, drops, _ = read(dump(tmp_path / "*.xml*"))
    assert [prose_of(one.text) for one in articles] == ["Юг\n\nТёплый край."] * 3
    assert not drops


def test_of_a_history_the_last_revision_is_read(read, tmp_path: Path) -> None:
    revision = "<revision><timestamp>20{}-01-01T00:00:00Z</timestamp><text>Version {}.</text></revision>"
    revisions = "".join(revision.format(year, year) for year in (10, 11, 12))
    (tmp_path / "d.xml").write_text(f"<mediawiki><page><title>A</title><ns>0</ns>{revisions}</page></mediawiki>")
    [article], _, _ = read(dump(tmp_path / "d.xml"))
    assert prose_of(article.text) == "A\n\nVersion 12."
    assert article.date == "2012-01-01T00:00:00Z"


def test_a_damaged_page_costs_itself_only(read, tmp_path: Path) -> None:
    pages = [page_of(f"P{n}") for n in range(6)]
    pages[1] = pages[1].replace("<text>", "<te<xt>")
    pages[2] = pages[2].replace("Some", "So\x05me")  # no XML may hold it, and dumps do
    pages[3] = pages[3].replace("</page>", "")
    (tmp_path / "d.xml").write_text("<mediawiki>" + "".join(pages) + "<page><title>half")
    articles, drops, _ = read(dump(tmp_path / "d.xml"))
    assert [one.metadata["title"] for one in articles] == ["P0", "P2", "P4", "P5"]
    assert reasons(drops) == {"damaged page": 3}


def test_a_cut_off_dump_says_so(read, tmp_path: Path) -> None:
    xml = "<mediawiki>" + "".join(page_of(f"P{n}", f"{n * n} " * 3000) for n in range(400))
    (tmp_path / "a.xml.gz").write_bytes(gzip.compress(xml.encode())[:-2000])
    articles, drops, _ = read(dump(tmp_path / "a.xml.gz"))
    assert len(articles) > 300
    assert reasons(drops)[REST_UNREADABLE] == 1
    (tmp_path / "cut.bz2").write_bytes(bz2.compress(xml.encode())[:60])
    _, drops, _ = read(dump(tmp_path / "cut.bz2"))
    assert reasons(drops) == {"not a readable XML dump": 1}
    (tmp_path / "text.xml").write_text("hello")
    _, drops, _ = read(dump(tmp_path / "text.xml"))
    assert reasons(drops) == {"not a readable XML dump": 1}


def test_a_broken_stream_of_a_multistream_dump_leaves_the_others_whole(read, tmp_path: Path) -> None:
    """As Wikipedia's `multistream` dumps: a bzip2 stream for each hundred pages."""
    streams = [
        bz2.compress("".join(page_of(f"P{s}-{n}", f"{n * n} " * 300) for n in range(100)).encode()) for s in range(5)
    ]
    broken = bytearray(streams[2])
    for place in range(200, 220):
        broken[place] ^= 0x5A
    (tmp_path / "d.bz2").write_bytes(
        b"".join([bz2.compress(b"<mediawiki>"), *streams[:2], bytes(broken), *streams[3:]])
    )
    articles, drops, _ = read(dump(tmp_path / "d.bz2"))
    assert Counter(one.metadata["title"][1] for one in articles) == {"0": 100, "1": 100, "3": 100, "4": 100}
    assert reasons(drops) == {PART_UNREADABLE: 1}


@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=30)), max_size=4), st.booleans())
def test_no_damage_ends_the_reading(tmp_path_factory, faults: list[tuple[int, bytes]], packed_up: bool) -> None:
    xml = "<mediawiki>" + "".join(page_of(f"P{n}", f"{n * n} " * 100) for n in range(20))
    data = bytearray(bz2.compress(xml.encode()) if packed_up else xml.encode())
    for place, junk in faults:
        place %= max(1, len(data) - len(junk))
        data[place : place + len(junk)] = junk
    path = tmp_path_factory.mktemp("w") / "d.xml"
    path.write_bytes(bytes(data))
    fates = list(read_piece(dump(path), Piece("d.xml", "", len(data), str(path)), Counter()))
    assert fates
    assert faults or sum(isinstance(one, Document) for one in fates) == 20
