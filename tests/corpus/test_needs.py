"""`groundup check` says which optional packages are missing, before anything is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from groundup.corpus.check import check
from groundup.corpus.needs import ARROW_WINDOW_BYTES, zstd_window
from groundup.corpus.settings import CorpusSettings
from groundup.errors import Problem

from .conftest import context_in

ZSTD = b"\x28\xb5\x2f\xfd"


def problems(folder: Path, sources: dict[str, Any], **settings: Any) -> list[Problem]:
    return check(CorpusSettings(sources=sources, **settings), context_in(folder / "run")).problems


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch):
    """Make packages be absent."""
    return lambda *names: [monkeypatch.setitem(sys.modules, name, None) for name in names]


def empty(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_papers_as_pdf_need_pypdfium2(tmp_path: Path, hide) -> None:
    papers = {"p": {"type": "papers", "path": str(empty(tmp_path / "papers", "a.pdf", "b.PDF", "c.xml"))}}
    assert not problems(tmp_path, papers)
    hide("pypdfium2")
    [problem] = problems(tmp_path, papers)
    assert problem.what == "reading PDF needs the package pypdfium2, which is not installed (2 such files)"
    assert problem.where == str(tmp_path / "papers" / "a.pdf")
    assert problem.fix == "pip install 'groundup[pdf]', or leave them out"
    papers["p"]["path"] = str(tmp_path / "papers" / "c.xml")
    assert not problems(tmp_path, papers), "JATS needs nothing"


def test_every_problem_is_told_at_once(tmp_path: Path, hide) -> None:
    hide("pypdfium2", "py7zr", "aiohttp", "s3fs", "ray")
    crawl = tmp_path / "warc.paths"
    crawl.write_text("crawl-data/CC-MAIN-2026-01/a.warc.gz\ns3://bucket/b.warc.gz\ncrawl-data/c.warc.gz\n")
    sources = {
        "papers": {"type": "papers", "path": str(empty(tmp_path / "papers", "a.pdf"))},
        "wiki": {"type": "wikipedia", "path": str(empty(tmp_path / "wiki", "dump.xml.7z"))},
        "crawl": {"type": "warc", "path": str(crawl)},
        "far": {"type": "jsonl", "path": "https://example.org/rows.jsonl"},
    }
    found = problems(tmp_path, sources, engine="ray")
    assert [(one.what.split(",")[0], one.fix.split(",")[0]) for one in found] == [
        ("engine `ray` needs the package ray", "pip install 'groundup[ray]'"),
        ("reading https:// needs a package that is not installed", "pip install aiohttp"),
        ("reading s3:// needs a package that is not installed", "pip install s3fs"),
        ("reading PDF needs the package pypdfium2", "pip install 'groundup[pdf]'"),
        ("reading .7z needs the package py7zr", "pip install 'groundup[sevenzip]'"),
    ]
    assert all("groundup[remote]" in one.fix for one in found[1:3])


@pytest.mark.parametrize(("engine", "package", "extra"), [("ray", "ray", "ray"), ("dask", "distributed", "dask")])
def test_engines_need_their_package_unless_they_are_not_used(
    tmp_path: Path, hide, engine: str, package: str, extra: str
) -> None:
    text = {"t": {"type": "text", "path": str(empty(tmp_path / "t", "a.txt"))}}
    hide(package)
    [problem] = problems(tmp_path, text, engine=engine)
    assert problem == Problem(
        f"engine `{engine}` needs the package {package}, which is not installed here",
        "engine",
        f"pip install 'groundup[{extra}]', or engine: local",
    )
    assert not problems(tmp_path, text, engine=engine, workers=0), "then all is done in this process"
    assert not problems(tmp_path, text)


def test_what_models_learn_from_is_looked_at_too(tmp_path: Path, hide) -> None:
    hide("py7zr")
    text = {"t": {"type": "text", "path": str(empty(tmp_path / "t", "a.txt"))}}
    good = {"type": "wikipedia", "path": str(empty(tmp_path / "w", "dump.7z"))}
    reference = {"type": "text", "path": str(tmp_path / "nothing")}
    found = problems(tmp_path, text, classifier={"good": good}, perplexity={"reference": reference})
    assert [one.what.split(",")[0] for one in found] == [
        "no such file or folder",
        "reading .7z needs the package py7zr",
    ]


def test_a_list_is_counted_by_what_it_names(tmp_path: Path) -> None:
    empty(tmp_path / "a", "1.warc.gz", "2.warc.gz")
    (tmp_path / "warc.paths").write_text("a/1.warc.gz\na/2.warc.gz\na/3.warc.gz\n")
    [problem] = problems(tmp_path, {"w": {"type": "warc", "path": str(tmp_path / "warc.paths")}})
    assert problem.what.startswith("1 of the 3 files it names are not there")


# ---------------------------------------------------------------- zstd


def test_long_windows_of_zstd_need_zstandard(tmp_path: Path, hide) -> None:
    hide("zstandard")
    short, long = tmp_path / "RC_short.zst", tmp_path / "RC_long.zst"
    with pa.CompressedOutputStream(pa.OSFile(str(short), "wb"), "zstd") as out:
        out.write(b'{"id": "a"}\n' * 1_000)
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    long.write_bytes(skippable + ZSTD + bytes([0x00, (31 - 10) << 3]) + bytes(20))
    assert 0 < zstd_window(short) <= ARROW_WINDOW_BYTES
    assert zstd_window(long) == 1 << 31
    assert not problems(tmp_path, {"r": {"type": "reddit", "path": str(short)}})
    [problem] = problems(tmp_path, {"r": {"type": "reddit", "path": str(long)}})
    assert problem.what == "reading zstd with a window above 128 MB needs the package zstandard, which is not installed"
    assert problem.fix.startswith("pip install 'groundup[zstd]'")


@pytest.mark.parametrize(
    ("head", "window"),
    [
        (bytes([0x00, 0x51]), (1 << 20) + (1 << 17)),  # window log 20 and an eighth
        (bytes([0xA0]) + (200_000_000).to_bytes(4, "little"), 200_000_000),  # a single segment: its content
        (bytes([0x60]) + (1_000).to_bytes(2, "little"), 1_256),
        (bytes([0xE1, 7]) + (1 << 33).to_bytes(8, "little"), 1 << 33),  # with a dictionary's id
    ],
)
def test_windows_stand_in_the_head_of_a_frame(tmp_path: Path, head: bytes, window: int) -> None:
    (tmp_path / "a.zst").write_bytes(ZSTD + head + bytes(20))
    assert zstd_window(tmp_path / "a.zst") == window


def test_what_is_no_zstd_has_no_window(tmp_path: Path) -> None:
    for data in (b"", b"short", b"\x50\x2a\x4d\x18", ZSTD):
        (tmp_path / "a.zst").write_bytes(data)
        assert zstd_window(tmp_path / "a.zst") == 0
