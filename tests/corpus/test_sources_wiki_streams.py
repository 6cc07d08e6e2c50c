"""Large dumps in many bzip2 streams: several tasks read what one task reads, to the byte, also what is damaged."""

from __future__ import annotations

import bz2
import io
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import WikipediaSource
from groundup.corpus.sources import pieces, read_piece, wikipedia
from groundup.corpus.sources.bzip2 import Block, blocks, has_streams
from groundup.errors import UserError

from .conftest import Built

HEAD = (
    '<mediawiki xml:lang="xx"><siteinfo><dbname>xxwiki</dbname><base>https://xx.wikipedia.org/wiki/Main</base>'
    '<namespaces><namespace key="6">Ficheru</namespace></namespaces></siteinfo>\n'
)
PART_UNREADABLE = "damaged dump: a part of the file could not be read"


def page_of(title: str, text: str) -> str:
    return f"<page><title>{title}</title><ns>0</ns><revision><text>{text}</text></revision></page>\n"


def noise(seed: int, words: int) -> str:
    """Text that does not pack well, with letters of one to three bytes."""
    random_ = random.Random(seed)
    return " ".join("".join(random_.choice("abcdefghéüж中") for _ in range(6)) for _ in range(words))


def read(path: Path, span_bytes: int) -> tuple[list[Document | Drop], int]:
    """Every fate in order, and how many pieces there are, with spans of so many bytes."""
    source = WikipediaSource(type="wikipedia", path=str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wikipedia, "SPAN_BYTES", span_bytes)
        own = pieces(source, path.parent)
        assert len({piece.name for piece in own}) == len({piece.identity for piece in own}) == len(own)
        assert sum(piece.bytes for piece in own) == path.stat().st_size
        notes = Counter[str]()
        found = [one for piece in own for one in read_piece(source, piece, notes)]
    assert notes == {"files": 1}
    return found, len(own)


def multistream(streams: int, pages: int, words: int = 60) -> bytes:
    """As Wikipedia writes them: the head, then a stream for every so many pages, then the end."""
    texts = ["".join(page_of(f"P{s}-{n}", noise(s * pages + n, words)) for n in range(pages)) for s in range(streams)]
    return b"".join(bz2.compress(text.encode()) for text in (HEAD, *texts, "</mediawiki>"))


@given(
    pages=st.lists(st.integers(0, 400), min_size=1, max_size=25),
    cut_at=st.integers(200, 9_000),
    size=st.integers(1, 6_000),
    faults=st.lists(st.tuples(st.floats(0.02, 1, exclude_max=True), st.binary(min_size=1, max_size=20)), max_size=3),
    gaps=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_spans_give_what_the_whole_file_gives(
    pages: list[int], cut_at: int, size: int, faults: list[tuple[float, bytes]], gaps: bool
) -> None:
    """Streams cut anywhere, as by pbzip2: through pages, tags and letters; whole or overwritten in places."""
    xml = (HEAD + "".join(page_of(f"P{n}", noise(n, words)) for n, words in enumerate(pages)) + "</mediawiki>").encode()
    parts = [xml[: len(HEAD) + 50]] + [xml[at : at + cut_at] for at in range(len(HEAD) + 50, len(xml), cut_at)]
    data = bytearray((bz2.compress(b"") * gaps).join(bz2.compress(part) for part in parts))
    for share, junk in faults:
        at = int(share * len(data))
        data[at : at + len(junk)] = junk
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "xxwiki-pages.xml.bz2"
        path.write_bytes(data)
        whole, count = read(path, len(data) + 20)
        assert count == 1
        cut, count = read(path, min(size, len(data)))
        event(f"{min(count, 5)} pieces")
    assert cut == whole
    if not faults:
        assert sum(isinstance(one, Document) for one in whole) == sum(words > 0 for words in pages)
        assert {one.reason for one in whole if isinstance(one, Drop)} <= {"empty page"}


def test_a_large_dump_is_cut_and_knows_its_wiki_in_every_span(tmp_path: Path) -> None:
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(multistream(20, 10))
    found, count = read(path, 8_000)
    assert count > 5
    assert [one.id for one in found] == [f"xxwiki:P{s}-{n}" for s in range(20) for n in range(10)]
    assert {one.url.rpartition("/")[0] for one in found if isinstance(one, Document)} == {
        "https://xx.wikipedia.org/wiki"
    }
    assert found == read(path, 1 << 30)[0]


def test_each_damaged_stream_is_told_once_with_its_place(tmp_path: Path) -> None:
    data = multistream(20, 10)
    starts = [at for at in range(len(data)) if data.startswith(b"BZh91AY&SY", at)]
    assert len(starts) == 22
    broken = bytearray(data)
    for stream in (4, 5, 13):
        broken[starts[stream] + 60 : starts[stream] + 70] = b"0123456789"
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(bytes(broken[: starts[20] + 100]))  # and the twentieth is cut off
    whole, _ = read(path, 1 << 30)
    assert {one.metadata["title"].partition("-")[0] for one in whole if isinstance(one, Document)} == {
        f"P{s}" for s in range(19) if s not in (3, 4, 12)
    }
    lost = [(one.id, one.reason) for one in whole if isinstance(one, Drop)]
    assert lost == [(f"dump.xml.bz2:@{starts[s]}", PART_UNREADABLE) for s in (4, 5, 13, 20)]
    for size in (5_000, 20_000, starts[5], starts[5] + 1, starts[5] + 65):
        assert read(path, size)[0] == whole, size


def test_a_stream_that_lost_its_end_does_not_take_the_next_one_along(tmp_path: Path) -> None:
    streams = [bz2.compress("".join(page_of(f"P{s}-{n}", noise(n, 300)) for n in range(40)).encode()) for s in range(3)]
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(b"".join([bz2.compress(HEAD.encode()), streams[0], streams[1][:-30_000], streams[2]]))
    found, _ = read(path, 1 << 30)
    assert Counter(one.metadata["title"][1] for one in found if isinstance(one, Document))["2"] == 40


def test_what_cannot_be_cut_stays_whole(tmp_path: Path) -> None:
    xml = HEAD + "".join(page_of(f"P{n}", noise(n, 300)) for n in range(60)) + "</mediawiki>"
    wide = xml.encode("utf-16")
    files = {
        "one-stream.xml.bz2": bz2.compress(xml.encode()),
        "plain.xml": xml.encode(),
        "utf-16.xml.bz2": b"".join(bz2.compress(wide[at : at + 30_001]) for at in range(0, len(wide), 30_001)),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        found, count = read(tmp_path / name, 4_000)
        assert (len(found), count) == (60, 1), name
        assert all(isinstance(one, Document) for one in found)
    (tmp_path / "numbers.bz2").write_bytes(b"".join(bz2.compress(noise(n, 200).encode()) for n in range(30)))
    [lost], count = read(tmp_path / "numbers.bz2", 4_000)
    assert (lost.reason, count) == ("not a readable XML dump", 1)


def test_the_index_beside_a_dump_is_no_dump(tmp_path: Path) -> None:
    name = "xxwiki-20240501-pages-articles-multistream"
    (tmp_path / f"{name}.xml.bz2").write_bytes(multistream(2, 2))
    (tmp_path / f"{name}-index.txt.bz2").write_bytes(bz2.compress(b"600:1:P0-0\n600:2:P0-1\n"))
    source = WikipediaSource(type="wikipedia", path=str(tmp_path))
    assert [piece.name for piece in pieces(source, tmp_path)] == [f"{name}.xml.bz2"]


@given(st.lists(st.binary(max_size=3_000), max_size=6), st.integers(0, 3_000), st.sampled_from([1, 7, 64, 1 << 18]))
@settings(deadline=None)
def test_streams_are_unpacked_as_the_standard_library_does(parts: list[bytes], start: int, step: int) -> None:
    packed = [bz2.compress(part) for part in parts]

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:  # noqa: ARG002
            return super().read(step)

    data = b"".join(packed)
    found = list(blocks(Slow(data)))
    assert b"".join(block.data for block in found) == b"".join(parts)
    assert not [block for block in found if block.why]
    late = Slow(data)
    late.seek(start)
    assert list(_joined(blocks(late, start)).items()) == [
        (place, text) for place, text in _joined(blocks(io.BytesIO(data))).items() if place >= start
    ]
    assert has_streams(io.BytesIO(data), len(data)) == (sum(bool(part) for part in parts) > bool(parts and parts[0]))


def _joined(found: Any) -> dict[int, bytes]:
    texts: dict[int, bytes] = {}
    block: Block
    for block in found:
        texts[block.place] = texts.get(block.place, b"") + block.data
    return texts


def test_a_build_of_a_cut_dump_is_that_of_a_whole_one(
    build: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(multistream(30, 6, 90))
    data[30_000:30_010] = b"0123456789"
    path = tmp_path / "xxwiki-pages.xml.bz2"
    path.write_bytes(data)
    given_settings: dict[str, Any] = {
        "sources": {"wiki": {"type": "wikipedia", "path": str(path)}},
        "quality": None,
        "near_duplicate_threshold": None,
        "held_out": None,
        "shard_bytes": 40_000,
    }
    whole = build("whole", **given_settings)
    monkeypatch.setattr(wikipedia, "SPAN_BYTES", 12_000)
    cut = build("cut", **given_settings)
    assert cut.files() == whole.files()
    assert len(list((tmp_path / "runs" / ".shards" / "cut" / "read").iterdir())) > 5, "one file, several tasks"
    assert build("pair", workers=2, **given_settings).files() == whole.files()
    assert PART_UNREADABLE in [row["reason"] for row in whole.rows("dropped", "wiki")]


def test_of_a_list_only_the_dumps_that_are_taken_need_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wikipedia, "SPAN_BYTES", 8_000)
    (tmp_path / "dumps.paths").write_text("a.xml.bz2\nb.xml.bz2\n")
    source = WikipediaSource(type="wikipedia", path=str(tmp_path / "dumps.paths"), max_files=1)
    told = []
    for name in ("a.xml.bz2", "b.xml.bz2"):  # one of them is the one that is taken
        (tmp_path / name).write_bytes(multistream(20, 10))
        try:
            told.append(str(len(pieces(source, tmp_path)) > 5))
        except UserError as error:
            told.append(error.problems[0].what.partition(":")[0])
        (tmp_path / name).unlink()
    assert sorted(told) == ["1 of the 1 files it names are not there", "True"]
