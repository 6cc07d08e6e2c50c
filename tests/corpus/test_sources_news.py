"""News: every format's articles with headline, date, author and rights; what is none is named."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from groundup.corpus.source_settings import NewsSource
from groundup.corpus.sources.news_xml import date_of, rights_of


def news(path: Path, **settings: object) -> NewsSource:
    return NewsSource(type="news", path=str(path), **settings)  # type: ignore[arg-type]


RSS = """<?xml version="1.0" encoding="{encoding}"?>
<rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/" xmlns:dc="http://purl.org/dc/elements/1.1/">
<channel><title>Town Gazette</title><language>en</language><copyright>(c) 2024 Town Gazette</copyright>
<item><title>Bridge opens &amp; closes</title><link>https://gazette.example/bridge</link>
 <pubDate>Tue, 10 Jun 2003 04:00:00 +0200</pubDate><dc:creator>Ann Öz</dc:creator><category>Local</category>
 <description>Short.</description>
 <content:encoded><![CDATA[<p>The bridge <b>opened</b> on Monday.</p><ul><li>It is long.</li></ul>]]></content:encoded>
</item>
<item><title>No text</title><link>https://gazette.example/none</link></item>
<item><title>Second</title><guid>https://gazette.example/2</guid>
 <description>Plain words, &lt;i&gt;set&lt;/i&gt;.</description>
 <category>World</category></item>
</channel></rss>"""

ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><title>F</title>
<link rel="license" href="https://creativecommons.org/licenses/by/4.0/"/>
<entry><title>On ice</title><link rel="self" href="https://f.example/self"/><link href="https://f.example/ice"/>
 <published>2024-05-01T10:00:00Z</published><author><name>Bo</name></author>
 <content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>Ice is <em>cold</em>.</p></div></content></entry>
<entry><title>Plain</title><updated>2024-05-02</updated><summary>Only a summary.</summary></entry></feed>"""

NITF = """<!DOCTYPE nitf SYSTEM "http://127.0.0.1:9/never-fetched.dtd"><nitf><head><title>Head title</title>
<docdata><date.issue norm="20070619T080000Z"/><doc.copyright year="2007" holder="The Wire"/></docdata>
<pubdata position.section="Sports"/></head><body><body.head><hedline><hl1>Team wins</hl1></hedline>
<byline>By Cy Doe</byline></body.head><body.content><block><p>They won 3:1.</p><p>It rained.</p></block></body.content>
</body></nitf>"""

NEWSML = f"""<newsItem xmlns="http://iptc.org/std/nar/2006-10-01/" guid="urn:newsml:wire:1" xml:lang="en">
<rightsInfo><copyrightNotice>(c) Wire</copyrightNotice></rightsInfo>
<contentMeta><headline>G2 headline</headline><contentCreated>2012-01-02T03:04:05+00:00</contentCreated>
<creator><name>Di Fu</name></creator><subject><name>economy</name></subject></contentMeta>
<contentSet><inlineXML>{NITF.partition('dtd">')[2]}</inlineXML></contentSet></newsItem>"""

REUTERS = """<newsitem itemid="2286" date="1996-08-20"><title>MEXICO: Recovery</title>
<headline>Recovery excitement</headline><byline>Henry Tricks</byline>
<text><p>Emerging evidence.</p><p>More of it.</p></text>
<copyright>(c) R</copyright></newsitem>"""


def test_the_rows_we_have(read, shared_data: Path) -> None:
    path = shared_data / "news/gum-wikinews-academic-travel.jsonl"
    articles, drops, _ = read(news(path))
    assert (len(articles), len(drops)) == (60, 0)
    assert Counter(one.metadata["section"] for one in articles) == {
        "news": 14, "interview": 12, "bio": 12, "voyage": 11, "academic": 8, "court": 3,
    }  # fmt: skip
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for article, row in zip(articles, rows, strict=True):
        assert (article.license, article.url, article.date) == (row["license"], row["url"], row["date"])
        assert (article.metadata["title"], article.metadata["author"]) == (row["title"].strip(), row["author"].strip())
        assert article.text.endswith(row["text"].strip())
        assert row["title"].strip() in article.text
    only, drops, _ = read(news(path, sections=("news", "interview")))
    assert (len(only), {one.reason for one in drops}) == (26, {"of another section"})
    assert {one.license for one in only} == {"CC BY 2.5 (Wikinews)"}


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1", "utf-16"])
def test_a_feed(read, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "f.xml").write_bytes(RSS.format(encoding=encoding).encode(encoding))
    articles, drops, _ = read(news(tmp_path / "f.xml"))
    first, second = articles
    assert first.text == "Bridge opens & closes\n\nThe bridge opened on Monday.\n\n- It is long."
    assert (first.id, first.url, first.date) == ("f.xml#1", "https://gazette.example/bridge", "2003-06-10T02:00:00Z")
    assert first.license == "(c) 2024 Town Gazette"
    assert first.metadata == {"title": "Bridge opens & closes", "author": "Ann Öz", "section": "Local"}
    assert (second.text, second.url) == ("Second\n\nPlain words, set.", "https://gazette.example/2")
    assert [(one.id, one.reason) for one in drops] == [("f.xml#2", "article without text")]
    only, _, _ = read(news(tmp_path / "f.xml", sections=("world",)))
    assert [one.id for one in only] == ["f.xml#3"]


def test_an_atom_feed_with_a_licence(read, tmp_path: Path) -> None:
    (tmp_path / "f.atom").write_text(ATOM)
    first, second = read(news(tmp_path / "f.atom"))[0]
    assert (first.text, first.url, first.date) == (
        "On ice\n\nIce is cold.",
        "https://f.example/ice",
        "2024-05-01T10:00:00Z",
    )
    assert first.license == second.license == "CC-BY-4.0"
    assert (second.text, second.date) == ("Plain\n\nOnly a summary.", "2024-05-02")


def test_wire_formats(read, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wire.zip", "w") as archive:
        for name, text in (("a.xml", NITF), ("b.xml", NEWSML), ("c.xml", REUTERS)):
            archive.writestr(name, text)
    nitf, newsml, reuters = read(news(tmp_path / "wire.zip"))[0]
    assert nitf.id == "wire.zip/a.xml#1"
    assert nitf.text == "Team wins\n\nThey won 3:1.\n\nIt rained."
    assert (nitf.date, nitf.license) == ("2007-06-19T08:00:00Z", "(c) 2007 The Wire")
    assert nitf.metadata == {"title": "Team wins", "author": "Cy Doe", "section": "Sports"}
    assert newsml.text == "G2 headline\n\nThey won 3:1.\n\nIt rained."
    assert (newsml.url, newsml.license, newsml.date) == ("urn:newsml:wire:1", "(c) Wire", "2012-01-02T03:04:05Z")
    assert newsml.metadata == {"title": "G2 headline", "author": "Di Fu", "section": "economy"}
    assert (reuters.text, reuters.date) == ("Recovery excitement\n\nEmerging evidence.\n\nMore of it.", "1996-08-20")


def test_articles_as_json(read, tmp_path: Path) -> None:
    article = {
        "headline": "H", "articleBody": "<p>Body one.</p>", "datePublished": "2020-01-02",
        "author": [{"name": "A"}, "B"], "url": "https://x.example/1",
    }  # fmt: skip
    plain = {"title": "T", "text": "T is how it begins.", "pubDate": 1577934245}
    (tmp_path / "a.json").write_text(json.dumps(article, indent=1))
    (tmp_path / "b.json").write_text(json.dumps({"status": "ok", "articles": [article, plain]}, indent=1))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(f"{json.dumps(plain)}\n{{broken\n".encode()))
    (tmp_path / "d.json").write_text(json.dumps([plain, 7]))
    articles, drops, _ = read(news(tmp_path))
    assert [(one.id, one.text) for one in articles] == [
        ("a.json#1", "H\n\nBody one."),
        ("b.json#1", "H\n\nBody one."),
        ("b.json#2", "T is how it begins."),
        ("c.jsonl.gz#1", "T is how it begins."),
        ("d.json#1", "T is how it begins."),
    ]
    assert articles[0].metadata["author"] == "A, B"
    assert [one.date for one in articles[:3]] == ["2020-01-02", "2020-01-02", "2020-01-02T03:04:05Z"]
    assert [(one.id, one.reason) for one in drops] == [
        ("c.jsonl.gz#2", "row is not JSON"),
        ("d.json#2", "row is no JSON object"),
    ]


def test_damaged_feeds_give_what_they_can(read, tmp_path: Path) -> None:
    item = "<item><title>N{}</title><description>Words of {}.</description></item>"
    items = [item.format(n, n) for n in range(50)]
    items[20] = items[20].replace("</description>", "</desc&nope;>")
    (tmp_path / "f.rss").write_text("<rss><channel>" + "".join(items) + "<item><title>cut")
    articles, _, notes = read(news(tmp_path / "f.rss"))
    titles = {one.metadata["title"] for one in articles}
    assert {f"N{n}" for n in range(50) if n not in (20, 21)} <= titles
    assert notes["XML faults mended"] >= 1
    (tmp_path / "f.rss").write_text("just words")
    _, drops, _ = read(news(tmp_path / "f.rss"))
    assert [one.reason for one in drops] == ["no article in it (RSS, Atom, NITF, NewsML, JSON)"]


def test_entities_of_a_feed_are_not_expanded(read, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("SECRET")
    (tmp_path / "f.rss").write_text(
        f'<!DOCTYPE rss [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
        "<rss><channel><item><title>T</title><description>Words &x; more.</description></item></channel></rss>"
    )
    [article], _, _ = read(news(tmp_path / "f.rss"))
    assert "SECRET" not in article.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tue, 10 Jun 2003 04:00:00 GMT", "2003-06-10T04:00:00Z"),
        ("20030610T040000Z", "2003-06-10T04:00:00Z"),
        ("20030610", "2003-06-10"),
        ("2003-06-10 04:00:00", "2003-06-10T04:00:00"),
        ("2003", "2003"),
        ("yesterday", ""),
    ],
)
def test_dates_of_feeds_become_iso(text: str, expected: str) -> None:
    assert date_of(text) == expected


def test_rights_are_named() -> None:
    assert rights_of("See http://creativecommons.org/licenses/by-sa/3.0/deed.en") == "CC-BY-SA-3.0"
    assert rights_of("https://creativecommons.org/publicdomain/zero/1.0/") == "CC0-1.0"
    assert rights_of(" All  rights\nreserved ") == "All rights reserved"
