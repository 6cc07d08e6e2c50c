"""recipes/corpus.yaml, as a person uses it: folders of their own under raw/, every kind of source read and kept."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from groundup.cli import app
from groundup.errors import UserError
from groundup.recipe import load_recipe, shipped_recipes

KINDS = ("wikipedia", "books", "papers", "news", "forum", "code", "rows", "web")
PLACES = ("Ardley", "Bexwell", "Colne", "Denby", "Elmswell", "Farndon", "Grafham", "Hadlow")


def prose(kind: str) -> str:
    """Some ordinary sentences, others for each kind, so that no source is a duplicate of another."""
    place = PLACES[KINDS.index(kind)]
    first = [
        f"{place} is a village on a small river, and the people who live there have kept sheep for a long time.",
        "It has a church, two inns and a market, to which farmers from the whole valley come every second Friday.",
        f"The road from {place} to the coast goes over the hills and is closed when there is snow, which is seldom.",
    ]
    second = {
        "wikipedia": "Its name is found in a charter of the abbey that was written when the old bridge was still new.",
        "books": "She had never thought that anybody would come back from the war to so quiet a place as this one.",
        "papers": "We count the animals of each farm in spring and compare the numbers with those of the parish books.",
        "news": "The council decided on Monday that the school will be painted, after a debate of more than an hour.",
        "forum": "You could ask the baker, who knows every path in the woods and is glad to tell visitors about them.",
        "code": "",
        "rows": "Most houses were made of the grey stone from the quarry until the railway brought cheaper bricks.",
        "web": "Our rooms look on the garden, breakfast is served from seven, and dogs are welcome if they behave.",
    }[kind]
    return "\n".join([*first, second])


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `raw` with a little of every kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for kind in KINDS:
        Path("raw", kind).mkdir(parents=True)
    page = "<title>Ardley</title><ns>0</ns><id>1</id><revision><id>2</id><text>{}</text></revision>"
    dump = f"<mediawiki><page>{page.format(prose('wikipedia'))}</page></mediawiki>"
    Path("raw/wikipedia/dump.xml").write_text(dump)
    Path("raw/books/book.txt").write_text(prose("books"))
    tex = "\\documentclass{article}\\title{On sheep}\\begin{document}\\maketitle\n%s\n\\end{document}\n"
    Path("raw/papers/sheep.tex").write_text(tex % prose("papers"))
    item = f"<item><title>News</title><link>https://paper.org/1</link><description>{prose('news')}</description></item>"
    Path("raw/news/feed.xml").write_text(f'<rss version="2.0"><channel><title>P</title>{item}</channel></rss>')
    asked = '<row Id="1" PostTypeId="1" Score="5" AcceptedAnswerId="2" Title="Where to walk?" Body="{}" />\n'
    said = '<row Id="2" PostTypeId="2" ParentId="1" Score="7" Body="{}" />\n'
    question = "Where can I walk for a day near the village, and who could I ask about the paths that are there?"
    posts = asked.format(f"&lt;p&gt;{question}&lt;/p&gt;") + said.format(f"&lt;p&gt;{prose('forum')}&lt;/p&gt;")
    Path("raw/forum/Posts.xml").write_text(f"<?xml version='1.0' encoding='utf-8'?>\n<posts>\n{posts}</posts>\n")
    code = "# SPDX-License-Identifier: MIT\n" + "".join(
        f"def count_{name.lower()}(sheep: list[str]) -> int:\n    return sum(name == '{name}' for name in sheep)\n\n"
        for name in PLACES
    )
    Path("raw/code/sheep.py").write_text(code)
    Path("raw/rows/rows.jsonl").write_text(json.dumps({"text": prose("rows")}) + "\n")
    lines = "".join(f"<p>{line}</p>" for line in prose("web").splitlines())
    html = f"<html><head><title>Inn</title></head><body><main><h1>Inn</h1>{lines}</main></body></html>".encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + html
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://inn.org/\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000001>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(answer)}\r\n\r\n"
    )
    Path("raw/web/crawl.warc.gz").write_bytes(gzip.compress(head.encode() + answer + b"\r\n\r\n"))
    return tmp_path


def test_it_reads_every_kind_of_source_from_folders_of_ones_own(raw: Path) -> None:
    own = ["corpus.workers=0", "corpus.held_out=null", "corpus.decontaminate=[{tasks: [addition], rows: 20}]"]
    assert app._main(["run", "corpus", "corpus", "--quiet", *own]) == 0
    funnel = json.loads((raw / "runs/corpus/corpus/funnel.json").read_text())
    assert {name: one["kept"]["documents"] for name, one in funnel["sources"].items()} == dict.fromkeys(
        ("encyclopedia", "books", "papers", "news", "forum", "code", "rows", "web"), 1
    )


def test_what_stands_in_its_comments_is_valid_too(raw: Path) -> None:
    (raw / "labelled.jsonl").write_text('{"text": "...", "toxic": 0}\n')
    text = shipped_recipes()["corpus"].read_text()
    lines, turned_on = [], []
    for line in text.splitlines():
        if (match := re.match(r"    # ([a-z_]+): [\w{]", line)) and match[1] != "mixture":
            turned_on.append(match[1])
            line = line.replace("# ", "", 1)
        lines.append(line)
    assert {"quality", "classifier", "perplexity", "toxicity", "duplicate_spans", "semantic_threshold"} < set(turned_on)
    Path("all.yaml").write_text("\n".join(lines))
    settings = load_recipe("all.yaml", []).stages["corpus"].settings
    assert all(name in settings.model_fields_set for name in turned_on)


def test_folders_that_are_not_there_are_told_with_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load_recipe("corpus", [])
    assert [problem.what.rpartition("raw/")[2] for problem in error.value.problems] == list(KINDS)
