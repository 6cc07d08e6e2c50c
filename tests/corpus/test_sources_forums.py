"""Forums, Q&A and mail: threads rebuilt, votes kept beside the text, damaged rows named and never fatal."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus.source_settings import MailSource, RedditSource, StackExchangeSource
from groundup.corpus.sources import grouped, pieces
from groundup.corpus.sources.grouped import Grouped
from groundup.corpus.sources.html_text import text_of_html
from groundup.corpus.sources.mail_text import without_quotes
from groundup.corpus.sources.reddit import dump_name
from groundup.corpus.sources.stackexchange import licence_of_post, site_of


def reasons(drops: list) -> dict[str, int]:
    return dict(Counter(drop.reason for drop in drops))


# ---------------------------------------------------------------- HTML of posts


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One <b>bold</b> word.</p><p>Two<br>lines</p>", "One bold word.\n\nTwo\nlines"),
        ("<pre><code>if a &lt; b:\n    pass\n</code></pre>", "```\nif a < b:\n    pass\n```"),
        ("<p>Use <code>x = 1</code> here</p>", "Use `x = 1` here"),
        ("<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>", "- a\n- b\n  - c"),
        ("<ol><li>a</li><li><p>b</p><p>c</p></li></ol>", "1. a\n2. b\n   c"),
        ("<blockquote><p>Said.</p><p>More.</p></blockquote><p>No.</p>", "> Said.\n>\n> More.\n\nNo."),
        ("<h2>Title <i>x</i></h2>text", "## Title x\n\ntext"),
        ("<p>$a < b$ and $$\\frac{1}{2}$$</p>", "$a < b$ and $$\\frac{1}{2}$$"),
        ("<p>10<sup>6</sup> H<sub>2</sub>O word<sup><a href='#f'>3</a></sup></p>", "10^6 H_2O word"),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>", "a | b\n1 | 2"),
        ("<script>x</script><!-- c --><p>Kept&nbsp;&amp; seen</p>", "Kept & seen"),
        ("plain text", "plain text"),
        ("<div>" * 3000 + "deep", "deep"),
        ("", ""),
        ("<!-- only -->", ""),
    ],
)
def test_html_of_posts_stays_readable(html: str, text: str) -> None:
    assert text_of_html(html) == text


@given(st.text(alphabet="<>/ab \"'=p&;!-liuo", max_size=60))
def test_no_html_however_broken_is_an_error(html: str) -> None:
    assert isinstance(text_of_html(html), str)


# ---------------------------------------------------------------- bringing together


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers()), max_size=60), st.integers(0, 3))
def test_groups_are_the_rows_of_each_key_in_the_order_of_adding(rows: list[tuple[str, int]], buckets: int) -> None:
    groups = Grouped(buckets * grouped.BUCKET_BYTES)
    for key, row in rows:
        groups.add(key, row)
    expected: dict[str, list[int]] = {}
    for key, row in rows:
        expected.setdefault(key, []).append(row)
    found = list(groups.groups())
    assert dict(found) == expected
    assert len(found) == len(expected)


def test_a_bucket_that_grew_too_large_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "BUCKET_BYTES", 2_000)
    largest = 0
    in_memory = grouped._in_memory

    def measured(file):
        nonlocal largest
        largest = max(largest, file.seek(0, 2))
        file.seek(0)
        return in_memory(file)

    monkeypatch.setattr(grouped, "_in_memory", measured)
    groups = Grouped(0)
    for n in range(5_000):
        groups.add(str(n % 700), n)
    found = dict(groups.groups())
    assert {key: sorted(rows) for key, rows in found.items()} == {
        str(key): [n for n in range(5_000) if n % 700 == key] for key in range(700)
    }
    assert largest <= 8_000, "memory is that of a bucket"


# ---------------------------------------------------------------- Stack Exchange


def posts_of(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    root = ElementTree.fromstring(gzip.decompress(data) if path.suffix == ".gz" else data)
    return [row.attrib for row in root]


@pytest.mark.parametrize(
    ("name", "rows", "site"),
    [
        ("coffee.stackexchange-Posts.xml", 592, "coffee.stackexchange.com"),
        ("matheducators.stackexchange-Posts.xml.gz", 2061, "matheducators.stackexchange.com"),
    ],
)
def test_real_dumps_are_the_threads_that_an_xml_parser_finds(
    read, shared_data: Path, name: str, rows: int, site: str
) -> None:
    path = shared_data / "forum_qa" / name
    posts = posts_of(path)
    assert len(posts) == rows
    questions = {row["Id"]: row for row in posts if row["PostTypeId"] == "1"}
    answers = [row for row in posts if row["PostTypeId"] == "2"]
    source = StackExchangeSource(type="stackexchange", path=str(path), min_score=None, min_answers=0)
    documents, drops, _ = read(source)
    orphans = [row for row in answers if row["ParentId"] not in questions]
    assert len(documents) == len(questions)
    assert reasons(drops).get("answer without its question", 0) == len(orphans)
    assert len(drops) == rows - len(questions) - (len(answers) - len(orphans))
    for document in documents:
        key = document.id.removeprefix(f"{site}:")
        said = document.metadata["posts"]
        own = {row["Id"]: int(row["Score"]) for row in answers if row["ParentId"] == key}
        assert {post["id"]: post["score"] for post in said[1:]} == own, "every answer, with its votes"
        accepted = questions[key].get("AcceptedAnswerId")
        assert [post["id"] for post in said if post.get("accepted")] == ([accepted] if accepted in own else [])
        scores = [post["score"] for post in said[1:] if not post.get("accepted")]
        assert scores == sorted(scores, reverse=True)
        assert document.text.startswith(f"# {questions[key]['Title']}\n\n")
        assert document.text.count("\n\n## Answer\n\n") >= len(own)
        assert (document.url, document.date) == (f"https://{site}/questions/{key}", questions[key]["CreationDate"])
        assert document.license == "CC-BY-SA-3.0"
        assert "<p>" not in document.text
    kept, drops, _ = read(StackExchangeSource(type="stackexchange", path=str(path), min_score=1, min_answers=1))
    assert len(kept) < len(documents)
    low = [drop for drop in drops if drop.reason == "answer below min_score"]
    assert low
    assert all(drop.value < drop.threshold == 1 for drop in low)


def row_xml(**attributes: object) -> str:
    return "  <row " + " ".join(f"{name}={quoteattr(str(value))}" for name, value in attributes.items()) + " />\n"


QUESTION = {"Id": 7, "PostTypeId": 1, "Score": 3, "CreationDate": "2010-01-02", "Title": "Q?", "Tags": "<a><b>"}


def test_answers_may_come_before_their_question_and_a_broken_row_costs_itself(read, tmp_path: Path) -> None:
    xml = '\ufeff<?xml version="1.0"?>\n<posts>\n'
    xml += row_xml(Id=9, PostTypeId=2, ParentId=7, Score=5, Body="<p>Nine</p>", CreationDate="2019-01-01")
    xml += '  <row Id="8" PostTypeId="2" ParentId="7" Body="&bad; <p>" />\n'
    xml += row_xml(Id=10, PostTypeId=2, ParentId=7, Score=-2, Body="<p>Ten</p>", CreationDate="2019-01-01")
    xml += (
        '  <row Id="12" PostTypeId="2"\n    ParentId="7" Score="1" Body="over&#xA;lines" CreationDate="2019-01-01"/>\n'
    )
    xml += row_xml(**QUESTION, AcceptedAnswerId=10, Body="<p>Why?</p>")
    xml += row_xml(Id=20, PostTypeId=2, ParentId=99, Body="lost") + "</posts>\n"
    folder = tmp_path / "stackoverflow.com"
    folder.mkdir()
    (folder / "Posts.xml").write_text(xml)
    (folder / "Users.xml").write_text("<users></users>")
    source = StackExchangeSource(type="stackexchange", path=str(tmp_path))
    [document], drops, _ = read(source)
    assert document.text == "# Q?\n\nWhy?\n\n## Answer\n\nTen\n\n## Answer\n\nNine\n\n## Answer\n\nover lines"
    assert document.license == "CC-BY-SA-2.5 AND CC-BY-SA-4.0", "each post has that of its day"
    assert document.metadata["tags"] == ["a", "b"]
    assert document.url == "https://stackoverflow.com/questions/7"
    assert reasons(drops) == {"damaged row": 1, "answer without its question": 1}
    [best], _, _ = read(source.model_copy(update={"max_answers": 1}))
    assert best.text == "# Q?\n\nWhy?\n\n## Answer\n\nTen"


def test_a_dump_that_is_cut_off_or_none_at_all_says_so(read, tmp_path: Path) -> None:
    rng = random.Random(1)
    body = " ".join(str(rng.random()) for _ in range(400))
    rows = "".join(row_xml(**(QUESTION | {"Id": n, "Body": body[n:]})) for n in range(200))
    data = gzip.compress(f"<posts>\n{rows}</posts>".encode())
    (tmp_path / "Posts.xml.gz").write_bytes(data[: len(data) // 2])
    documents, drops, _ = read(StackExchangeSource(type="stackexchange", path=str(tmp_path), min_answers=0))
    assert 10 < len(documents) < 200
    assert reasons(drops)["damaged dump: the rest of the file could not be read"] == 1
    (tmp_path / "Posts.xml.gz").write_bytes(b"no dump")
    _, drops, _ = read(StackExchangeSource(type="stackexchange", path=str(tmp_path)))
    assert reasons(drops) == {"not a readable dump": 1}


def test_sites_and_licences_are_told_by_name_and_day() -> None:
    assert site_of("/x/coffee.stackexchange.com/Posts.xml") == "coffee.stackexchange.com"
    assert site_of("meta.stackoverflow.com.7z") == "meta.stackoverflow.com"
    assert site_of("mathoverflow.net/Posts.xml") == "mathoverflow.net"
    assert site_of("Posts.xml") == ""
    assert licence_of_post({"ContentLicense": "CC BY-SA 4.0"}) == "CC-BY-SA-4.0"
    assert licence_of_post({"CreationDate": "2011-04-08T00:00:00"}) == "CC-BY-SA-3.0"


# ---------------------------------------------------------------- Reddit


def comment(id: str, parent: str, body: str, score: int = 1, **more: object) -> dict[str, object]:
    own = {"id": id, "link_id": "t3_s1", "parent_id": parent, "body": body, "score": score, "author": "u"}
    return own | {"created_utc": 1_700_000_000, "subreddit": "Ask"} | more


SUBMISSION = {
    "id": "s1", "title": "Why &amp; how?", "selftext": "Tell me.", "score": 40, "created_utc": "1700000000",
    "subreddit": "Ask", "permalink": "/r/Ask/comments/s1/why/", "over_18": False, "author": "someone", "is_self": True,
}  # fmt: skip
COMMENTS = [
    comment("c2", "t3_s1", "Second best.", 2),
    comment("c1", "t3_s1", "Best.", 9, created_utc=1_700_000_500.0),
    comment("c4", "t1_c3", "I answer what is gone.", 3),
    comment("c3", "t1_c1", "[deleted]", 5),
    comment("c5", "t3_s1", "I am a bot.", 1, author="AutoModerator"),
    comment("c6", "t3_s1", "Bad.", -4),
    comment("c7", "t1_nowhere", "My parent is lost."),
]
THREAD = (
    "# Why & how?\n\nTell me.\n\n## Comment\n\nBest.\n\n#### Reply\n\nI answer what is gone.\n\n"
    "## Comment\n\nSecond best.\n\n## Comment\n\nMy parent is lost."
)


def lines(rows: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def zstd(data: bytes) -> bytes:
    import pyarrow as pa

    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def test_a_reddit_thread_is_rebuilt_with_its_votes(read, tmp_path: Path) -> None:
    (tmp_path / "RS_2023-11.zst").write_bytes(zstd(lines([SUBMISSION])))
    (tmp_path / "RC_2023-11.zst").write_bytes(zstd(b"{broken\n[]\n" + lines(COMMENTS)))
    source = RedditSource(type="reddit", path=str(tmp_path))
    assert [piece.name for piece in pieces(source, tmp_path)] == ["2023-11"], "one piece for both files of a month"
    [document], drops, notes = read(source)
    assert document.text == THREAD
    assert (document.id, document.date) == ("reddit:s1", "2023-11-14T22:13:20Z")
    assert document.url == "https://www.reddit.com/r/Ask/comments/s1/why/"
    posts = document.metadata["posts"]
    assert [(post["id"], post["parent"], post["depth"], post["score"]) for post in posts] == [
        ("s1", "", 0, 40), ("c1", "s1", 1, 9), ("c4", "c3", 3, 3), ("c2", "s1", 1, 2), ("c7", "nowhere", 1, 1),
    ]  # fmt: skip
    assert reasons(drops) == {"row is not a submission or comment": 2}
    assert notes["deleted or empty comments"] == 2
    assert notes["posts by AutoModerator"] == 1
    assert notes["comments below min_score"] == 1


def test_what_a_reddit_recipe_may_leave_out(read, tmp_path: Path) -> None:
    rows = [
        SUBMISSION,
        SUBMISSION | {"id": "s2", "over_18": True},
        SUBMISSION | {"id": "s3", "score": -3},
        SUBMISSION | {"id": "s4", "subreddit": "Other"},
        SUBMISSION | {"id": "s5", "selftext": "[removed]", "is_self": False, "url": "https://x"},
        comment("d1", "t3_gone", "Alone.", link_id="t3_gone"),
        *COMMENTS,
    ]
    (tmp_path / "dump.ndjson").write_bytes(lines(rows))
    source = RedditSource(type="reddit", path=str(tmp_path), subreddits=("r/ask",))
    [document], drops, notes = read(source)
    assert document.text == THREAD
    assert reasons(drops) == {
        "marked as not safe for work": 1,
        "submission below min_score": 1,
        "fewer comments than min_comments": 1,
        "comment without its thread": 1,
    }
    assert notes["rows of other subreddits"] == 1
    documents, drops, _ = read(source.model_copy(update={"min_comments": 0, "nsfw": True, "min_score": None}))
    assert {one.id for one in documents} == {"reddit:s1", "reddit:s2", "reddit:s3"}
    assert reasons(drops) == {"a link without a word about it": 1, "comment without its thread": 1}


def test_the_order_of_a_reddit_dump_does_not_matter_and_circles_end(read, tmp_path: Path) -> None:
    circle = [comment("x", "t1_y", "I answer y.", 1), comment("y", "t1_x", "I answer x.", 1)]
    texts = set()
    for seed in range(4):
        rows = [SUBMISSION, *COMMENTS, *circle]
        random.Random(seed).shuffle(rows)
        (tmp_path / "dump.ndjson").write_bytes(lines(rows))
        [document], _, _ = read(RedditSource(type="reddit", path=str(tmp_path)))
        texts.add(document.text)
    [text] = texts
    assert "I answer x." in text
    assert "I answer y." in text


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("comments/RC_2023-01.zst", "2023-01"),
        ("submissions/RS_2023-01.zst", "2023-01"),
        ("AskHistorians_comments.zst", "AskHistorians"),
        ("AskHistorians_submissions.ndjson.gz", "AskHistorians"),
        ("all.jsonl", "all"),
    ],
)
def test_the_files_of_one_reddit_dump_go_together(file: str, name: str) -> None:
    assert dump_name(file) == name


# ---------------------------------------------------------------- mail and news


def mail(id: str, subject: str, body: str, *, refs: str = "", day: int = 1, extra: str = "") -> str:
    references = f"References: {' '.join(f'<{one}>' for one in refs.split())}\n" if refs else ""
    return (
        f"From somebody@example.org Mon Jan {day:02d} 10:00:00 2001\n"
        f"From: Some Body <somebody@example.org>\nDate: Mon, {day:02d} Jan 2001 10:00:00 +0100\n"
        f"Subject: {subject}\nMessage-ID: <{id}>\n{references}{extra}\n{body}\n\n"
    )


BOX = (
    mail("b@x", "Re: Plan",
         "On Mon, Some Body wrote:\n> We meet.\n> At noon.\n\nAt noon is fine.\n\n-- \nB. Body\n555-1234",
         refs="a@x", day=2)
    + mail("a@x", "Plan", "We meet.\nAt noon.\n\n>From here on it rains.")
    + mail("c@x", "RE: Re: Plan", "> At noon is fine.\n\nGood.", refs="a@x b@x", day=3)
    + mail("d@x", "AW: Plan", "I come too.", day=4)
    + mail("e@x", "Other", "> quoted from elsewhere\nStays, as what it quotes is not here.", refs="gone@x", day=5)
    + mail("f@x", "Empty", "> only a quotation", refs="a@x", day=6)
    + mail("a@x", "Plan", "The same message again.")
)  # fmt: skip
PLAN = (
    "# Plan\n\nWe meet.\nAt noon.\n\nFrom here on it rains.\n\n"
    "## Reply\n\n> We meet.\n> At noon.\n\nAt noon is fine.\n\n"
    "### Reply\n\n> At noon is fine.\n\nGood.\n\n"
    "## Reply\n\nI come too."
)


def test_a_mailbox_becomes_threads(read, tmp_path: Path) -> None:
    (tmp_path / "list.mbox").write_text(BOX)
    documents, drops, notes = read(MailSource(type="mail", path=str(tmp_path)))
    plan, other = sorted(documents, key=lambda one: one.date)
    assert plan.text == PLAN
    assert (plan.id, plan.date) == ("list.mbox:a@x", "2001-01-01T09:00:00Z")
    assert [(post["id"], post["depth"]) for post in plan.metadata["posts"]] == [
        ("a@x", 0), ("b@x", 1), ("c@x", 2), ("d@x", 1),
    ]  # fmt: skip
    assert other.text == "# Other\n\n> quoted from elsewhere\nStays, as what it quotes is not here."
    assert reasons(drops) == {"message that was there before": 1}
    assert notes["messages of which only quotations were left"] == 1
    assert "555-1234" not in plan.text, "signatures go"


def test_newsgroup_files_rnews_and_packed_boxes_are_the_same_threads(read, tmp_path: Path) -> None:
    messages = [part.split("\n", 1)[1] for part in BOX.split("From somebody@example.org")[1:]]
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
    (tmp_path / "one" / "box.mbox.gz").write_bytes(gzip.compress(BOX.encode()))
    batch = b"".join(b"#! rnews %d\n%s" % (len(text.encode()), text.encode()) for text in messages)
    (tmp_path / "two" / "news.rnews").write_bytes(batch)
    for number, text in enumerate(messages):
        (tmp_path / "three" / str(10_000 + number)).write_text(text)
    found = {}
    for folder in ("one", "two", "three"):
        documents, drops, _ = read(MailSource(type="mail", path=str(tmp_path / folder)))
        found[folder] = sorted(one.text.replace(">From here", "From here") for one in documents)
        assert reasons(drops) == {"message that was there before": 1}, folder
    assert found["one"] == found["two"] == found["three"]
    [piece] = pieces(MailSource(type="mail", path=str(tmp_path / "three")), tmp_path)
    assert piece.name == ".", "a folder of messages is one piece, as its threads run through it"


def test_mime_is_undone(read, tmp_path: Path) -> None:
    qp = mail(
        "q@x",
        "=?utf-8?q?Gr=C3=BC=C3=9Fe?=",
        "Sch=F6n=\ner Tag.",
        extra="Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n",
    )
    both = mail(
        "m@x",
        "Both",
        "--B\nContent-Type: text/plain\n\nPlain words.\n--B\nContent-Type: text/html\n\n<p>Marked</p>\n"
        "--B\nContent-Type: image/png\n\nAAAA\n--B--",
        extra='Content-Type: multipart/alternative; boundary="B"\n',
    )
    html = mail("h@x", "Html", "<p>Only <b>marked</b></p>", extra="Content-Type: text/html\n")
    flowed = mail("w@x", "Flow", "One line \ngoes on.\n\nTwo.", extra="Content-Type: text/plain; format=flowed\n")
    coded = mail("u@x", "File", "See:\n\nbegin 644 a.txt\n#86)C\n`\nend\n\nThat was it.")
    odd = mail("o@x", "Odd", "Still text.", extra="Content-Type: text/plain; charset=no-such-thing\n")
    (tmp_path / "a.mbox").write_text("".join((qp, both, html, flowed, coded, odd)), encoding="latin-1")
    documents, drops, notes = read(MailSource(type="mail", path=str(tmp_path)))
    assert drops == []
    assert sorted(one.text for one in documents) == sorted([
        "# Grüße\n\nSchöner Tag.", "# Both\n\nPlain words.", "# Html\n\nOnly marked",
        "# Flow\n\nOne line goes on.\n\nTwo.",
        "# File\n\nSee:\n\nThat was it.", "# Odd\n\nStill text.",
    ])  # fmt: skip
    assert notes["attachments left out"] == 2


QUOTED = "On Mon, 1 Jan 2001, A. Body\n<a@x> wrote:\n> one\n>> older\n> two\n> three\n> four\n\nYes.\n\n> five\n\n> six"


@pytest.mark.parametrize(
    ("mode", "parent", "text"),
    [
        ("context", True, "> two\n> three\n> four\n\nYes."),
        ("context", False, QUOTED),
        ("drop", True, "Yes."),
        ("keep", True, QUOTED),
    ],
)
def test_quotations(mode: str, parent: bool, text: str) -> None:
    assert without_quotes(QUOTED, mode, parent) == text  # type: ignore[arg-type]


def test_the_message_below_an_answer_is_cut_off() -> None:
    body = "I agree.\n\n-----Original Message-----\nFrom: A\nAll of it again."
    assert without_quotes(body, "context", True) == "I agree."


@given(st.binary(max_size=400))
def test_no_mailbox_however_broken_is_an_error(data: bytes) -> None:
    from io import BytesIO

    from groundup.corpus.sources.mail_text import message_of, split_messages

    head = b"From x Mon Jan 01 10:00:00 2001\nSubject: =?utf-8?q?\xff?=\nReferences: <a\nDate: never\nContent-Type: "
    for raw in split_messages(BytesIO(head + data)):
        message = message_of(raw, Counter())
        assert message is None or message.body.strip()
