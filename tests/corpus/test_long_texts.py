"""A text too long for one document becomes parts by one rule, whether it is a file, a line, or a field of a row."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import RowsSource, TextSource
from groundup.corpus.sources import row_formats
from groundup.corpus.sources.parts import CUT, text_in_parts

from .conftest import Built

SMALL = "A small row of text."
LONG = "".join(f"Paragraph {n} says what no other says: {n * 7919}.\n\n" for n in range(400))


def rows_file(folder: Path, kind: str, texts: list[str]) -> Path:
    path = folder / f"rows.{kind}"
    rows = [{"text": text, "name": f"r{number}"} for number, text in enumerate(texts)]
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "name"])
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv"])
def test_a_long_row_is_cut_as_a_long_file_is(read: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    (tmp_path / "long.txt").write_text(LONG)
    of_file, _, notes = read(TextSource(type="text", path=str(tmp_path / "long.txt"), part_chars=2_000))
    assert notes[CUT] == 1
    path = rows_file(tmp_path, kind, [SMALL, LONG, SMALL])
    documents, drops, notes = read(RowsSource(type="rows", path=str(path), part_chars=2_000, id_field="name"))
    assert not drops
    assert notes[CUT] == 1
    assert [one.text for one in documents] == [SMALL, *(one.text for one in of_file), SMALL]
    assert "".join(one.text for one in of_file) == LONG
    assert [one.id for one in documents] == [
        f"rows.{kind}:r0", *(f"rows.{kind}:r1#{n + 1}" for n in range(len(of_file))), f"rows.{kind}:r2"
    ]  # fmt: skip
    assert all(len(one.text) <= 2_500 and one.text.endswith("\n\n") for one in of_file)


def test_a_long_line_of_text_is_cut_too(read: Callable[..., Any], tmp_path: Path) -> None:
    line = LONG.replace("\n\n", " ")
    (tmp_path / "lines.txt").write_text(f"{SMALL}\n{line}\n{SMALL}\n")
    source = TextSource(type="text", path=str(tmp_path / "lines.txt"), part_chars=2_000, one_per="line")
    documents, _, notes = read(source)
    assert notes[CUT] == 1
    assert len(documents) > 5
    assert "".join(one.text for one in documents[1:-1]) == line
    assert [documents[0].id, documents[1].id, documents[-1].id] == ["lines.txt:1", "lines.txt:2#1", "lines.txt:3"]


def test_a_page_in_a_row_is_never_cut_but_dropped_as_a_file_is(
    read: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = f"<html><body><p>{LONG}</p></body></html>"
    (tmp_path / "page.html").write_text(page)
    path = rows_file(tmp_path, "jsonl", [page])
    source = RowsSource(type="rows", path=str(path), media="html", part_chars=2_000)
    [document], _, notes = read(source)
    assert document.text == page
    assert CUT not in notes
    for module in ("rows", "text"):
        monkeypatch.setattr(f"groundup.corpus.sources.{module}.MAX_PAGE_BYTES", 10_000)
    _, [of_row], _ = read(source)
    _, [of_file], _ = read(TextSource(type="text", path=str(tmp_path / "page.html")))
    assert of_row.reason == of_file.reason == "larger than a page can be (20 MB)"


@given(st.text("ab \n", max_size=300), st.integers(1, 60))
def test_parts_are_the_text_and_none_is_long(text: str, chars: int) -> None:
    notes = Counter[str]()
    whole = Document("x", "", "", text, "prose")
    parts = list(text_in_parts(whole, chars, notes))
    joined, place = [], 0
    for one in parts:
        assert len(one.text) <= chars * 5 // 4
        found = text.index(one.text, place)
        assert not text[place:found].strip(), "only blank parts are left out"
        joined.append(one.text)
        place = found + len(one.text)
    assert not text[place:].strip() or parts == [whole]
    assert notes[CUT] == (len(text) > chars * 5 // 4)


def test_a_large_row_of_parquet_among_small_ones_is_read_alone(
    read: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_formats, "BATCH_BYTES", 5_000)
    monkeypatch.setattr(row_formats, "MAX_ROW_BYTES", 30_000)
    path = rows_file(tmp_path, "parquet", [*[SMALL] * 50, LONG, SMALL, LONG + LONG, SMALL])
    documents, drops, _ = read(RowsSource(type="rows", path=str(path)))
    assert [one.text for one in documents] == [*[SMALL] * 50, LONG, SMALL, SMALL]
    assert [one.reason for one in drops] == ["row longer than 64 MB"]


def test_a_long_line_in_utf_16_is_passed_over_too(
    read: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_formats, "MAX_ROW_BYTES", 4_000)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in (SMALL, LONG, SMALL))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-16")
    documents, drops, _ = read(RowsSource(type="rows", path=str(tmp_path / "a.jsonl")))
    assert [one.text for one in documents] == [SMALL, SMALL]
    [lost] = drops
    assert isinstance(lost, Drop)
    assert lost.reason == "row longer than 64 MB"
    assert lost.bytes == 2 * len(lines.splitlines(keepends=True)[1])


def test_parts_and_their_count_stand_in_the_build(build: Callable[..., Built], tmp_path: Path) -> None:
    path = rows_file(tmp_path, "jsonl", [SMALL, LONG])
    given_settings = {"quality": None, "held_out": None, "near_duplicate_threshold": None, "pii": []}
    built = build(sources={"rows": {"type": "jsonl", "path": str(path), "part_chars": 2_000}}, **given_settings)
    steps = {step["step"]: step for step in built.json("funnel.json")["sources"]["rows"]["steps"]}
    assert steps["read"]["notes"][CUT] == 1
    texts = [row["text"] for row in built.rows("documents", "rows")]
    assert texts[0] == SMALL
    assert re.findall(r"Paragraph (\d+)", "".join(texts)) == [str(n) for n in range(400)]


READ = """
import re, sys
from collections import Counter
from pathlib import Path
from groundup.corpus.source_settings import RowsSource
from groundup.corpus.sources import pieces, read_piece

source = RowsSource(type="rows", path=sys.argv[1])
longest = max(len(one.text) for piece in pieces(source, Path()) for one in read_piece(source, piece, Counter()))
print(longest, re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux' /proc")
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv"])
def test_a_row_of_50_megabytes_takes_a_few_times_its_size(tmp_path: Path, kind: str) -> None:
    text = LONG * (50_000_000 // len(LONG))
    path = rows_file(tmp_path, kind, [SMALL, text, *[SMALL] * 300])
    result = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, check=True, text=True)
    longest, peak = map(int, result.stdout.split())
    assert longest <= 2_500_000
    assert peak < 550_000, f"{peak / 1000:.0f} MB"
