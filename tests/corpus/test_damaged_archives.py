"""Archives that are damaged anywhere: reading never fails, goes on behind the damage, and what is lost is said."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from groundup.corpus.document import Document, Drop
from groundup.corpus.settings import Source
from groundup.corpus.sources import read_source
from groundup.corpus.sources.tars import tar_members

FILES = {f"text {n}.txt": f"Text number {n} has its own words: {n * 7919}. " * (3 + 40 * (n % 4)) for n in range(12)}
PAGE = "<html><body><p>Page {n} is about the number {n} and nothing but the number {n}.</p>{more}</body></html>"


def read(path: Path, kind: str = "text") -> tuple[dict[str, str], list[Drop], Counter[str]]:
    """Texts by the end of their id, drops and notes."""
    notes: Counter[str] = Counter()
    source = TypeAdapter(Source).validate_python({"type": kind, "path": str(path)})
    found = list(read_source(source, path.parent / "cache", None, notes))
    texts = {
        one.url if kind == "warc" else one.id.partition("/")[2]: one.text for one in found if isinstance(one, Document)
    }
    return texts, [one for one in found if isinstance(one, Drop)], notes


@cache
def tar(format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, text in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


@cache
def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in FILES.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def headers(data: bytes) -> dict[str, int]:
    """Where the header of each file of a tar begins."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {one.name: one.offset for one in archive}


# ---------------------------------------------------------------- tar


def write(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def test_behind_a_broken_header_the_other_files_are_read(tmp_path: Path) -> None:
    place = headers(tar())["text 5.txt"]
    broken = tar()[:place] + b"\x07" * 512 + tar()[place + 512 :]
    texts, drops, _ = read(write(tmp_path, "a.tar", broken))
    assert texts == {name: text for name, text in FILES.items() if name != "text 5.txt"}
    size = headers(tar())["text 6.txt"] - place
    assert [one.reason for one in drops] == ["damaged place in an archive: on to what follows"]
    assert drops[0].id == f"a.tar: no header at byte {place:,}; {size:,} bytes passed over"


@pytest.mark.parametrize("damage", [b"\0" * 512, b"\x07" * 512])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_zeros_or_garbage_in_a_packed_tar(tmp_path: Path, damage: bytes, pack: Callable[[bytes], bytes]) -> None:
    place = headers(tar())["text 3.txt"]
    texts, drops, _ = read(write(tmp_path, "a.tar", pack(tar()[:place] + damage + tar()[place + 512 :])))
    assert texts == {name: text for name, text in FILES.items() if name != "text 3.txt"}
    assert len(drops) == 1


def test_a_tar_that_is_cut_off_between_two_files_says_so(tmp_path: Path) -> None:
    texts, drops, _ = read(write(tmp_path, "a.tar", tar()[: headers(tar())["text 4.txt"]]))
    assert list(texts) == list(FILES)[:4]
    assert [one.id for one in drops] == [
        "a.tar: the archive has no end mark: it may be cut off between two of its members"
    ]


def test_two_tars_one_behind_the_other_are_read_to_the_end(tmp_path: Path) -> None:
    second = io.BytesIO()
    with tarfile.open(fileobj=second, mode="w") as archive:
        info = tarfile.TarInfo("last.txt")
        info.size = 9
        archive.addfile(info, io.BytesIO(b"The last."))
    texts, drops, _ = read(write(tmp_path, "a.tar", tar() + second.getvalue()))
    assert texts == FILES | {"last.txt": "The last."}
    assert not drops


def test_long_names_and_their_broken_extensions() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a" * 300, "b.txt"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    lost: list[str] = []
    assert [one.name for one, _ in tar_members(io.BytesIO(out.getvalue()), lost)] == ["a" * 300, "b.txt"]
    assert not lost
    whole = out.getvalue()
    broken = whole[:1024] + b"\x07" * 512 + whole[1536:]  # the header that the long name is for
    assert [one.name for one, _ in tar_members(io.BytesIO(broken), lost)] == ["b.txt"]
    assert lost == ["no header at byte 0; 1,536 bytes passed over"]


def test_what_is_no_tar_is_an_unreadable_file(tmp_path: Path) -> None:
    for data in (b"\x07" * 5_000, b"short"):
        texts, drops, _ = read(write(tmp_path, "a.tar", data))
        assert (texts, [one.reason for one in drops]) == ({}, ["unreadable file"])


# ---------------------------------------------------------------- anywhere


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes turned, zeroed, cut out, put in, or the end cut off; at one to three places."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        place, length = draw(st.integers(0, len(data) - 1)), draw(st.sampled_from([1, 7, 100, 500, 1_000]))
        match draw(st.sampled_from(["turn", "zero", "take", "put", "cut"])):
            case "turn":
                data[place] ^= draw(st.integers(1, 255))
            case "zero":
                data[place : place + length] = bytes(len(data[place : place + length]))
            case "take":
                del data[max(1, place) : place + length]
            case "put":
                data[place:place] = random.Random(place).randbytes(length)
            case "cut":
                del data[max(1, place) :]
    return bytes(data)


def assert_nothing_is_lost_in_silence(data: bytes, name: str, kind: str, whole: dict[str, str], sure: bool) -> None:
    """`sure`: checksums say of every text, and of its name, whether it is the one that was written."""
    with tempfile.TemporaryDirectory() as folder:
        texts, drops, notes = read(write(Path(folder), name, data), kind)
    if len(texts) < len(whole):
        assert drops or notes["damaged places in archives, passed over"], "texts are missing, and nothing says so"
    if sure:
        wrong = {key: text for key, text in texts.items() if whole.get(key) != text}
        assert not wrong, "a damaged text goes as whole"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@given(data=st.data())
@settings(max_examples=120)
def test_a_tar_that_is_damaged_anywhere(pack: Callable[[bytes], bytes], data: st.DataObject) -> None:
    # of a tar that is not packed no checksum covers the content
    assert_nothing_is_lost_in_silence(data.draw(damaged(pack(tar()))), "a.tar", "text", FILES, sure=False)


@given(data=damaged(zipped()))
@settings(max_examples=200)
def test_a_zip_that_is_damaged_anywhere(data: bytes) -> None:
    assert_nothing_is_lost_in_silence(data, "a.zip", "text", FILES, sure=True)


def test_of_a_zip_only_the_damaged_member_is_lost(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(zipped())) as archive:
        local = archive.getinfo("text 5.txt").header_offset
    for place, reason in ((local, "damaged place in an archive: on to what follows"), (local + 60, "unreadable file")):
        data = bytearray(zipped())
        data[place] ^= 0xFF
        texts, drops, _ = read(write(tmp_path, "a.zip", bytes(data)))
        assert texts == {name: text for name, text in FILES.items() if name != "text 5.txt"}
        assert [one.reason for one in drops] == [reason]


# ---------------------------------------------------------------- web archives


def record(n: int, *, length_off: int = 0, more: str = "") -> bytes:
    body = PAGE.format(n=n, more=more).encode()
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.org/{n}\r\nContent-Type: application/http;"
        f" msgtype=response\r\nWARC-Date: 2026-01-01T00:00:00Z\r\nContent-Length: {len(http) + length_off}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


RECORDS = [record(n, more=f"<p>More of {n}.</p>" * (60 * (n % 3))) for n in range(9)]
PAGES = {
    f"http://example.org/{n}": one.partition(b"\r\n\r\n")[2].partition(b"\r\n\r\n")[2][:-4].decode()
    for n, one in enumerate(RECORDS)
}


def batched(data: bytes, size: int) -> list[bytes]:
    return [data[place : place + size] for place in range(0, len(data), size)]


PACKINGS: dict[str, Callable[[list[bytes]], bytes]] = {
    "each record a member": lambda records: b"".join(gzip.compress(one, mtime=0) for one in records),
    "the whole archive a member": lambda records: gzip.compress(b"".join(records), mtime=0),
    "members that end anywhere": lambda records: b"".join(
        gzip.compress(block, mtime=0) for block in batched(b"".join(records), 300)
    ),
    "not packed": b"".join,
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_sound_web_archives_are_read_however_they_are_packed(tmp_path: Path, packing: str) -> None:
    texts, drops, notes = read(write(tmp_path, "a.warc.gz", PACKINGS[packing](RECORDS)), "warc")
    assert texts == PAGES
    assert not drops
    assert notes == {"files": 1}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("off", [-1, -40, -150])
def test_a_stated_length_that_is_too_short_cuts_nothing_off(tmp_path: Path, packing: str, off: int) -> None:
    records = [*RECORDS[:4], record(4, length_off=off, more="<p>More of 4.</p>" * 60), *RECORDS[5:]]
    texts, drops, notes = read(write(tmp_path, "a.warc.gz", PACKINGS[packing](records)), "warc")
    assert texts == PAGES
    assert not drops
    assert notes["records whose stated length was wrong, read up to the next record"] == 1


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_stated_length_that_is_too_long_draws_in_no_other_page(tmp_path: Path, packing: str) -> None:
    records = [*RECORDS[:4], record(4, length_off=90, more="<p>More of 4.</p>" * 60), *RECORDS[5:]]
    texts, drops, notes = read(write(tmp_path, "a.warc.gz", PACKINGS[packing](records)), "warc")
    wrong = "records whose stated length was wrong, read up to the next record"
    if packing == "each record a member":  # nothing but the length says what belongs to the record
        assert texts == {url: text for url, text in PAGES.items() if url != "http://example.org/4"}
        assert [one.reason for one in drops] == ["damaged record"]
    else:
        assert texts == PAGES
        assert notes[wrong] == 1


@pytest.mark.parametrize("packing", list(PACKINGS)[:3])
@given(data=st.data())
@settings(max_examples=120)
def test_a_web_archive_that_is_damaged_anywhere(packing: str, data: st.DataObject) -> None:
    broken = data.draw(damaged(PACKINGS[packing](RECORDS)))
    assume(not any(broken == PACKINGS[packing](RECORDS[first:last]) for first in range(9) for last in range(first, 9)))
    assert_nothing_is_lost_in_silence(broken, "a.warc.gz", "warc", PAGES, sure=packing == "each record a member")


def test_a_page_that_fails_its_checksum_is_no_page(tmp_path: Path) -> None:
    members = [gzip.compress(one) for one in RECORDS]
    members[3] = members[3][:-8] + bytes([members[3][-8] ^ 1]) + members[3][-7:]
    texts, drops, notes = read(write(tmp_path, "a.warc.gz", b"".join(members)), "warc")
    assert texts == {url: text for url, text in PAGES.items() if url != "http://example.org/3"}
    assert [(one.reason, one.excerpt.split(":")[1]) for one in drops] == [("damaged record", "//example.org/3")]
    assert notes["damaged places in archives, passed over"] == 1
