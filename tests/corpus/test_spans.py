"""Large files of lines, cut into spans: the same documents wherever the cuts are, once each."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from groundup.corpus.document import Document
from groundup.corpus.settings import Source
from groundup.corpus.sources import pieces, read_piece, spans

from .conftest import Built


def read(path: Path, span_bytes: int, **more: Any) -> tuple[list[Document], list[str], int]:
    """Documents, reasons of drops, and how many pieces there are, with spans of so many bytes."""
    kind = "text" if path.suffix == ".txt" else "jsonl"
    source = TypeAdapter(Source).validate_python({"type": kind, "path": str(path), **more})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "SPAN_BYTES", span_bytes)
        own = pieces(source, path.parent)
        assert len({piece.name for piece in own}) == len({piece.identity for piece in own}) == len(own)
        assert sum(piece.bytes for piece in own) == path.stat().st_size
        found = [one for piece in own for one in read_piece(source, piece, Counter())]
    documents = [one for one in found if isinstance(one, Document)]
    return documents, [one.reason for one in found if not isinstance(one, Document)], len(own)


lines = st.lists(
    st.one_of(
        st.text(max_size=40).map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode()),
        st.sampled_from([b"", b"  ", b"{broken", b"[1, 2]", b'{"text": "' + b"long " * 60 + b'"}', b'{"no": "text"}']),
    ),
    max_size=25,
)


@given(
    rows=lines, end=st.sampled_from([b"\n", b"\r\n"]), last=st.booleans(), bom=st.booleans(), size=st.integers(1, 300)
)
@settings(max_examples=150)
def test_rows_are_read_once_wherever_the_file_is_cut(
    rows: list[bytes], end: bytes, last: bool, bom: bool, size: int
) -> None:
    data = b"\xef\xbb\xbf" * bom + end.join([b'{"text": "the first"}', *rows]) + end * last
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(data)
        whole, whole_drops, count = read(path, len(data))
        assert count == 1
        cut, cut_drops, _ = read(path, min(size, len(data) - 1))
        halves, halves_drops, count = read(path, len(data) - 1)
        assert count == 2
    assert [one.text for one in cut] == [one.text for one in whole]
    assert cut_drops == whole_drops == halves_drops
    assert cut == halves, "ids too do not depend on the cuts"
    assert len({one.id for one in cut}) == len(cut)
    for one in cut:
        place = int(one.id.rpartition("@")[2])
        assert json.loads(data[place:].splitlines()[0].removeprefix(b"\xef\xbb\xbf"))["text"] == one.text


@given(
    text=st.text(st.sampled_from("ab é\r\n中"), min_size=2, max_size=200),
    size=st.integers(1, 100),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
)
@settings(max_examples=150)
def test_lines_of_text_are_read_once_wherever_the_file_is_cut(text: str, size: int, encoding: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.txt"
        path.write_bytes(text.encode(encoding))
        total = path.stat().st_size
        whole, _, _ = read(path, total, one_per="line")
        cut, _, _ = read(path, min(size, total - 1), one_per="line")
        halves, _, _ = read(path, total - 1, one_per="line")
    assert [one.text for one in cut] == [one.text for one in whole]
    assert cut == halves
    assert len({one.id for one in cut}) == len(cut)


def test_what_cannot_be_cut_stays_whole(tmp_path: Path) -> None:
    rows = b'{"text": "A row of text."}\n' * 40
    files = {
        "packed.jsonl": gzip.compress(rows, compresslevel=0),
        "utf16.jsonl": rows.decode().encode("utf-16"),
        "list.ndjson": b"[" + b",".join([b'{"text": "A row of text."}'] * 40) + b"]",
        "table.csv": b"text\n" + b"A row of text.\n" * 40,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        documents, drops, count = read(tmp_path / name, 100)
        assert (len(documents), drops, count) == (40, [], 1), name
    (tmp_path / "whole.txt").write_bytes(b"One document of many lines.\n" * 40)
    assert len(read(tmp_path / "whole.txt", 100)[0]) == 1


def test_a_build_of_a_cut_file_does_not_depend_on_workers(
    build: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"Row {n} tells of the number {n * 7919} and of what came before it. " * 5} for n in range(300)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given_settings: dict[str, Any] = {
        "sources": {"rows": {"type": "jsonl", "path": str(path)}},
        "quality": None,
        "near_duplicate_threshold": None,
        "held_out": None,
        "shard_bytes": 20_000,
    }
    monkeypatch.setattr(spans, "SPAN_BYTES", 10_000)
    alone = build("alone", **given_settings)
    assert build("pair", workers=2, **given_settings).files() == alone.files()
    reads = list((tmp_path / "runs" / ".shards" / "alone" / "read").iterdir())
    assert len(reads) > 5, "one file, several tasks"
    monkeypatch.setattr(spans, "SPAN_BYTES", 33_333)
    other = build("other", **given_settings)
    assert other.rows("documents", "rows") == alone.rows("documents", "rows")
    assert [row["text"] for row in alone.rows("documents", "rows")] == [row["text"].strip() for row in rows]
