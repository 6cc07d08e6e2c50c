"""What a build takes is foretold by what is behind compression, told from a sample of the files themselves."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundup.corpus.check import check
from groundup.corpus.report import inputs
from groundup.corpus.report.inputs import USUAL, bytes_behind, bytes_of_pieces, expansion
from groundup.corpus.report.rates import FILE, SHIPPED, rate_of_kind
from groundup.corpus.settings import CorpusSettings
from groundup.corpus.source_settings import WikipediaSource
from groundup.corpus.sources import pieces, wikipedia

from .conftest import Built, context_in

WORDS = [f"{n * 7919:x}" for n in range(3_000)]


def text_of(words: int, seed: int = 1) -> bytes:
    random_ = random.Random(seed)
    return " ".join(random_.choice(WORDS) for _ in range(words)).encode()


def dump_of(pages: int) -> bytes:
    page = "<page><title>P{0}</title><ns>0</ns><revision><text>{1}</text></revision></page>\n"
    return ("<mediawiki>" + "".join(page.format(n, text_of(400, n).decode()) for n in range(pages))).encode()


@pytest.mark.parametrize("kind", ["gz", "members.gz", "bz2", "streams.bz2", "xz", "zst", "zip", "parquet", "txt"])
def test_the_expansion_is_that_of_the_whole_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "SAMPLE_BYTES", 300_000)
    data = text_of(600_000)
    parts = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.txt", data)
    elif kind == "parquet":
        pq.write_table(pa.table({"text": [part.decode() for part in parts]}), path, compression="zstd")
    elif kind == "zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(data)
    else:
        pack: dict[str, Callable[[], bytes]] = {
            "gz": lambda: gzip.compress(data),
            "members.gz": lambda: b"".join(map(gzip.compress, parts)),
            "bz2": lambda: bz2.compress(data),
            "streams.bz2": lambda: b"".join(map(bz2.compress, parts)),
            "xz": lambda: lzma.compress(data),
            "txt": lambda: data,
        }
        path.write_bytes(pack[kind]())
    assert expansion(path) * path.stat().st_size == pytest.approx(len(data), rel=0.05)


def test_dumps_and_archives_that_are_there(shared_data: Path) -> None:
    paths = [*(shared_data / "wikipedia").glob("*.bz2"), *(shared_data / "forum_qa").glob("*.gz")]
    assert len(paths) > 10
    for path in paths:
        unpack = bz2.decompress if path.suffix == ".bz2" else gzip.decompress
        size = len(unpack(path.read_bytes()))
        assert expansion(path) * path.stat().st_size == pytest.approx(size, rel=0.05), path.name


def test_where_nothing_can_be_unpacked_it_is_taken_as_usual(tmp_path: Path) -> None:
    (tmp_path / "broken.bz2").write_bytes(b"BZh91AY&SY" + bytes(3_000))
    assert expansion(tmp_path / "broken.bz2") == USUAL[".bz2"]
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(3_000))
    assert expansion(tmp_path / "broken.zip") == USUAL[".zip"]
    assert bytes_behind([("https://x.org/a.warc.gz?b", 1e9), ("s3://x/b.jsonl", 1e9)]) == 1e9 * USUAL[".gz"] + 1e9
    assert bytes_behind([(str(tmp_path / "gone.xml"), 5.0)]) == 5.0
    with pytest.raises(FileNotFoundError):
        expansion(tmp_path / "gone.xml")


def test_what_packs_without_end_is_not_unpacked_without_end(tmp_path: Path) -> None:
    (tmp_path / "zeros.bz2").write_bytes(bz2.compress(bytes(100_000_000)) * 20)
    assert expansion(tmp_path / "zeros.bz2") > 10_000


def test_check_foretells_a_dump_whatever_it_is_packed_by(tmp_path: Path) -> None:
    xml = dump_of(400)
    told = {}
    for name, pack in (("a.xml", bytes), ("b.xml.bz2", bz2.compress), ("c.xml.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(xml))
        settings = CorpusSettings(sources={"w": {"type": "wikipedia", "path": str(tmp_path / name)}}, workers=1)
        told[name] = check(settings, context_in(tmp_path / "run")).facts
    rate = SHIPPED["wikipedia"]
    for name, facts in told.items():
        assert facts["disk_bytes"] == pytest.approx((rate.disk + rate.text) * len(xml), rel=0.06), name
        assert facts["seconds"] == pytest.approx(rate.cpu_seconds * len(xml), abs=0.2), name


def test_a_finished_build_speaks_of_what_was_behind_compression(
    build: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groundup.corpus.report.rates.FEWEST_BYTES", 100_000)
    monkeypatch.setattr(wikipedia, "SPAN_BYTES", 100_000)
    xml = dump_of(200)
    given_settings: dict[str, Any] = {"quality": None, "held_out": None, "near_duplicate_threshold": None}
    streams = [xml[at : at + 50_000] for at in range(0, len(xml), 50_000)]
    rates = []
    for name, data in (("a.xml", xml), ("b.xml.bz2", b"".join(map(bz2.compress, streams)))):
        path = tmp_path / name
        path.write_bytes(data)
        build(name, sources={"w": {"type": "wikipedia", "path": str(path)}}, **given_settings)
        rates.append(rate_of_kind("wikipedia", tmp_path / "runs" / "cache"))
    own = pieces(WikipediaSource(type="wikipedia", path=str(tmp_path / "b.xml.bz2")), tmp_path)
    assert len(own) > 2, "read in spans"
    assert bytes_of_pieces(own) == pytest.approx(len(xml), rel=0.05)
    plain, packed = rates
    assert packed.disk == pytest.approx(plain.disk, rel=0.15)
    assert packed.text == pytest.approx(plain.text, rel=0.06)


def test_rates_that_earlier_versions_kept_by_stored_bytes_are_not_taken(tmp_path: Path) -> None:
    old = {"wikipedia": {"bytes_in": 1e9, "cpu_seconds": 5.0, "text_bytes": 7, "disk_bytes": 7}}
    (tmp_path / FILE).write_text(json.dumps(old))
    assert rate_of_kind("wikipedia", tmp_path) == SHIPPED["wikipedia"]
