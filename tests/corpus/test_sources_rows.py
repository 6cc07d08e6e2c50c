"""Rows and text of one's own: every format and packing gives the same documents, and every bad row is named."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus.document import Drop
from groundup.corpus.source_settings import RowsSource, TextSource
from groundup.corpus.sources import row_formats
from groundup.corpus.sources.row_formats import BadRow, json_list
from groundup.corpus.sources.rows import field_of, iso_date
from groundup.errors import UserError


def rows(path: Path | str, **settings: Any) -> RowsSource:
    return RowsSource(**({"type": "rows", "path": str(path)} | settings))


def text(path: Path | str, **settings: Any) -> TextSource:
    return TextSource(type="text", path=str(path), **settings)


def reasons(drops: list[Drop]) -> dict[str, int]:
    return dict(Counter(drop.reason for drop in drops))


ROWS = [
    {"text": "Erster,\nzweiter", "url": "u1", "license": "MIT", "date": "2024-05-01", "title": "Ä"},
    {"text": 'Says "hello"', "url": "u2", "license": "", "date": "2024", "title": ""},
    {"text": "第三", "url": "", "license": "CC0-1.0", "date": "", "title": "三"},
]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"a.{kind}"
    jsonl = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    if kind.startswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind.startswith(("csv", "tsv")):
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(ROWS[0]), delimiter="\t" if kind == "tsv" else ";")
        writer.writeheader()
        writer.writerows(ROWS)
        path.write_bytes(
            gzip.compress(buffer.getvalue().encode()) if kind.endswith("gz") else buffer.getvalue().encode()
        )
    elif kind.startswith("json.") or kind == "json":
        path.write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    elif kind == "utf16.jsonl":
        path.write_bytes(jsonl.encode("utf-16"))
    else:
        pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(kind.rpartition(".")[2], bytes)
        if kind.endswith("zst"):
            path.write_bytes(
                b"".join(pa.compress(line.encode() + b"\n", "zstd", asbytes=True) for line in jsonl.split("\n"))
            )
        else:
            path.write_bytes(pack(jsonl.encode()))
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "jsonl",
        "jsonl.gz",
        "jsonl.bz2",
        "jsonl.xz",
        "jsonl.zst",
        "utf16.jsonl",
        "json",
        "csv",
        "csv.gz",
        "tsv",
        "parquet",
    ],
)
def test_every_format_gives_the_same_documents(read, tmp_path: Path, kind: str) -> None:
    documents, drops, notes = read(rows(written(tmp_path, kind)))
    assert not drops
    assert [(one.text.replace("\r\n", "\n"), one.url, one.license, one.date, one.metadata) for one in documents] == [
        ("Erster,\nzweiter", "u1", "MIT", "2024-05-01", {"title": "Ä"}),
        ('Says "hello"', "u2", "unknown", "2024", {}),
        ("第三", "", "CC0-1.0", "", {"title": "三"}),
    ]
    assert [one.id for one in documents] == [f"a.{kind}:{n}" for n in (1, 2, 3)]
    assert notes == {"files": 1}


def test_rows_of_real_corpora(read, shared_data: Path) -> None:
    documents, drops, _ = read(rows(shared_data / "web/c4-300.jsonl.gz"))
    assert (len(documents), len(drops)) == (300, 0)
    dolma, drops, _ = read(rows(shared_data / "web/ccnet-head-documents.jsonl.gz"))
    assert (len(dolma), len(drops)) == (10, 0)
    assert all(one.url.startswith("http") and one.metadata["title"] for one in dolma), "found inside `metadata`"
    assert dolma[0].date == "2020-03-29T09:04:10Z"
    source = rows(shared_data / "code/stack-sample.jsonl.gz", text_field="content", media="code", url_field="path")
    code, _, _ = read(source)
    assert len(code) == 227
    assert {one.media for one in code} == {"code"}
    assert "GPL" in " ".join(one.license for one in code), "each row brings its own"


def test_parallel_sentences_in_nine_languages(read, shared_data: Path) -> None:
    documents, drops, _ = read(rows(shared_data / "languages/pud-parallel-9.jsonl.gz", language_field="lang"))
    assert not drops
    languages = ("en", "de", "fr", "es", "ru", "zh", "hi", "ar", "tr")
    assert Counter(one.language for one in documents) == dict.fromkeys(languages, 1000)
    assert len({one.id for one in documents}) == 9000


def test_388_languages_in_an_archive(read, shared_data: Path) -> None:
    documents, drops, notes = read(text(shared_data / "languages/udhr2.zip"))
    assert notes["files"] == 388
    assert len(documents) == 387
    assert [(one.id, one.reason) for one in drops] == [("udhr2.zip/udhr2/nku.txt", "empty file")]
    assert not any("\ufffd" in one.text for one in documents)
    [english] = [one for one in documents if one.id.endswith("/eng.txt")]
    assert "All human beings are born free and equal" in english.text


def test_exam_files_are_rows_too(read, shared_data: Path) -> None:
    """Other people's files: a .json list of 999, quoted CSV, tweets with line ends in them."""
    found, drops, _ = read(rows(shared_data / "sft/alpaca-en-1000.json", template="{instruction}\n\n{output}"))
    assert (len(found), len(drops)) == (999, 0)
    found, drops, _ = read(rows(shared_data / "eval/TruthfulQA.csv", text_field="Question"))
    assert (len(found), len(drops)) == (615, 0)
    found, drops, _ = read(rows(shared_data / "toxicity/davidson-tweets.csv.gz", text_field="tweet"))
    assert (len(found), len(drops)) == (12368, 0)


# ---------------------------------------------------------------- fields


def test_fields_are_mapped(read, tmp_path: Path) -> None:
    row = {
        "doc": {"body": "Text.", "head": "Head"}, "uid": 7, "lang": "DE", "meta": {"when": 1577934245}, "url": None,
        "license": ["MIT", "BSD"], "votes": {"up": 3},
    }  # fmt: skip
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"doc": {"head": "Only a head"}}))
    source = rows(
        tmp_path / "a.jsonl",
        template="{doc.head}\n\n{doc.body}",
        id_field="uid",
        language_field="lang",
        date_field="meta.when",
        metadata_fields=("votes",),
    )
    first, second = read(source)[0]
    assert first.text == "Head\n\nText."
    assert (first.id, first.language, first.date) == ("a.jsonl:7", "de", "2020-01-02T03:04:05Z")
    assert (first.license, first.url, first.metadata) == ("MIT, BSD", "", {"votes": {"up": 3}})
    assert (second.id, second.text) == ("a.jsonl:2", "Only a head")


def test_a_field_is_looked_for_by_name_path_and_in_metadata() -> None:
    assert field_of({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert field_of({"a": {"b": 2}}, "a.b") == 2
    assert field_of({"metadata": {"url": "u"}}, "url") == "u"
    assert field_of({"metadata": "none"}, "url") is None


def test_dates_are_iso() -> None:
    assert iso_date("2024-05-01 12:00:00") == "2024-05-01T12:00:00"
    assert iso_date(1577934245000) == iso_date("1577934245") == "2020-01-02T03:04:05Z"
    assert iso_date("last week") == iso_date(None) == iso_date(True) == iso_date(3) == ""


def test_of_parquet_only_the_columns_in_use_are_read(read, tmp_path: Path, monkeypatch) -> None:
    pq.write_table(pa.table({"text": ["a b"], "blob": [b"x" * 100], "title": ["t"]}), tmp_path / "a.parquet")
    asked = []
    original = pq.ParquetFile.iter_batches

    def spy(self, *args, **kwargs):
        asked.append(kwargs["columns"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    [document], _, _ = read(rows(tmp_path / "a.parquet"))
    assert document.metadata == {"title": "t"}
    assert asked == [["text", "title"]]


def test_a_folder_of_splits(read, tmp_path: Path) -> None:
    for name in ("data/train-00000.jsonl", "data/train-00001.jsonl", "data/test-00000.jsonl", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}))
    assert [one.text for one in read(rows(tmp_path))[0]] == [
        "data/test-00000.jsonl", "data/train-00000.jsonl", "data/train-00001.jsonl"
    ]  # fmt: skip
    assert len(read(rows(tmp_path, split="train"))[0]) == 2
    assert len(read(rows(tmp_path, max_files=1))[0]) == 1
    with pytest.raises(UserError, match="no file's name says it is of the split 'dev'"):
        read(rows(tmp_path, split="dev"))


# ---------------------------------------------------------------- bad rows


def test_rows_that_hold_no_text_are_named_by_file_and_row(read, tmp_path: Path) -> None:
    lines = ['{"text": "good", "license": "MIT", "url": "u"}', "{broken", '{"body": "x"}', "[1]", "", '{"text": " "}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    documents, drops, _ = read(rows(tmp_path / "a.jsonl"))
    assert [(one.id, one.text, one.license, one.url) for one in documents] == [("a.jsonl:1", "good", "MIT", "u")]
    assert [(one.id, one.reason) for one in drops] == [
        ("a.jsonl:2", "row is not JSON"),
        ("a.jsonl:3", "row has no text in 'text'"),
        ("a.jsonl:4", "row is no JSON object"),
        ("a.jsonl:6", "row has no text in 'text'"),
    ]
    assert "fields: body" in drops[1].excerpt


def test_a_line_without_end_is_passed_over(read, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(row_formats, "MAX_ROW_BYTES", 1000)
    long = json.dumps({"text": "x" * 5000})
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n{long}\n{{"text": "b"}}\n')
    documents, drops, _ = read(rows(tmp_path / "a.jsonl"))
    assert [one.text for one in documents] == ["a", "b"]
    assert [one.bytes for one in drops] == [len(long) + 1]


def test_a_json_list_that_breaks_gives_what_came_before(read, tmp_path: Path) -> None:
    good = json.dumps([{"text": f"row {n}"} for n in range(5000)])
    (tmp_path / "a.json").write_text(good[:-1000])
    documents, drops, _ = read(rows(tmp_path / "a.json"))
    assert 4900 < len(documents) < 5000
    assert reasons(drops) == {"row is not JSON": 1}
    assert "the list ends here" in drops[0].excerpt


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.none(), max_size=3), max_size=30))
def test_a_json_list_is_read_as_json_reads_it(items: list[dict[str, Any]]) -> None:
    for indent in (None, 3):
        data = io.BufferedReader(io.BytesIO(json.dumps(items, indent=indent).encode()))  # type: ignore[arg-type]
        assert list(json_list(data)) == items


def test_a_csv_row_of_another_length_is_named(read, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,n\none,1\ntwo\n"three\nlines",3\nfour,4,5\n\nfive,\0 5\n')
    documents, drops, _ = read(rows(tmp_path / "a.csv", metadata_fields=("n",)))
    assert [(one.text, one.metadata["n"]) for one in documents] == [("one", "1"), ("three\nlines", "3"), ("five", " 5")]
    assert [(one.id, one.reason) for one in drops] == [
        ("a.csv:2", "row has another number of fields than the header"),
        ("a.csv:4", "row has another number of fields than the header"),
    ]
    (tmp_path / "b.csv").write_text("one|1\ntwo|2\n")
    documents, _, _ = read(rows(tmp_path / "b.csv", columns=("text", "n")))
    assert [one.text for one in documents] == ["one", "two"]


def test_damaged_parquet(read, tmp_path: Path) -> None:
    """A broken row group is one drop; the others are read. Without its footer nothing can be."""
    table = pa.table({"text": [f"row {n} " + "abc" * (n % 50) for n in range(4000)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=1000, compression="zstd", use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 400] = b"\xff" * 400
    path.write_bytes(bytes(data))
    documents, drops, _ = read(rows(path))
    assert len(documents) == 3000
    assert reasons(drops) == {"damaged row group": 1}
    assert "at most 1,000 rows are lost" in drops[0].excerpt
    path.write_bytes(bytes(data[:-500]))
    documents, drops, _ = read(rows(path))
    assert (len(documents), reasons(drops)) == (0, {"unreadable file": 1})


def test_cut_off_and_corrupt_packings_are_told(read, tmp_path: Path) -> None:
    # different rows, so that what is packed is long enough to be cut in the middle
    lines = "".join(json.dumps({"text": f"row {n * n * 7919}"}) + "\n" for n in range(20_000)).encode()
    packed = {"a.gz": gzip.compress(lines), "b.bz2": bz2.compress(lines), "c.xz": lzma.compress(lines)}
    packed["d.zst"] = pa.compress(lines, "zstd", asbytes=True)
    for name, data in packed.items():
        half = len(data) // 2
        cut, corrupt = data[:half], data[:half] + b"\xff" * 40 + data[half + 40 :]
        # zstd has no checksum unless it is asked for: what it cannot see, the rows show
        for damaged in (cut,) if name == "d.zst" else (cut, corrupt):
            (tmp_path / name).write_bytes(damaged)
            documents, drops, _ = read(rows(tmp_path / name))
            assert len(documents) < 20_000, name
            assert reasons(drops).get("unreadable file") == 1, name


# ---------------------------------------------------------------- text


def test_a_folder_of_ones_own_text(read, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Plain text.")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.md").write_bytes("Grüße".encode("latin-1") * 20)
    (tmp_path / "c.html").write_text("<html><body>Page</body></html>")
    (tmp_path / "d.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "e.txt").write_bytes(b"\0\1\2" * 100)
    (tmp_path / "f.txt").write_text("  \n")
    (tmp_path / "g.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "h.txt.gz").write_bytes(gzip.compress(b"packed" * 99)[:-12])
    documents, drops, _ = read(text(tmp_path))
    assert {one.id: one.media for one in documents} == {
        "a.txt": "prose",
        "sub/b.md": "prose",
        "c.html": "html",
        "g.txt.gz": "prose",
    }
    assert "Grüße" in next(one.text for one in documents if one.id == "sub/b.md")
    expected = {"not a text file (.png)": 1, "binary file": 1, "empty file": 1, "unreadable file": 1}
    assert reasons(drops) == expected


def test_archives_are_folders(read, tmp_path: Path) -> None:
    files = {"x/a.txt": b"Eins.", "x/b.html": b"<p>Zwei</p>", "x/c.bin": b"\0", "d.txt.gz": gzip.compress(b"Drei.")}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    for archive_name in ("a.zip", "a.tar.gz"):
        documents, drops, notes = read(text(tmp_path / archive_name))
        assert {one.id: one.text for one in documents} == {
            f"{archive_name}/x/a.txt": "Eins.",
            f"{archive_name}/x/b.html": "<p>Zwei</p>",
            f"{archive_name}/d.txt.gz": "Drei.",
        }
        assert reasons(drops) == {"not a text file (.bin)": 1}
        assert notes["files"] == 4
    (tmp_path / "cut.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:-40])
    for archive_name in ("cut.zip", "cut.tar.gz"):
        _, drops, _ = read(text(tmp_path / archive_name))
        assert reasons(drops)["unreadable file"] == 1, archive_name


def test_a_document_per_line(read, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Grüße\r\n\r\nzwei\n".encode("utf-16"))
    documents, _, _ = read(text(tmp_path / "a.txt", one_per="line"))
    assert [(one.id, one.text) for one in documents] == [("a.txt:1", "Grüße"), ("a.txt:3", "zwei")]


@pytest.mark.parametrize("size", [3_000, 9_000_000])
def test_a_long_file_becomes_parts_and_nothing_is_lost(read, tmp_path: Path, size: int) -> None:
    paragraph = "Ein Satz über etwas. " * 9 + "\n\n"
    whole = (paragraph * (size // len(paragraph) + 1))[:size]
    (tmp_path / "a.txt").write_text(whole, encoding="utf-8")
    parts, _, _ = read(text(tmp_path / "a.txt", part_chars=size // 6))
    assert "".join(part.text for part in parts) == whole
    assert 6 <= len(parts) <= 9
    assert all(len(part.text) <= size // 6 * 5 // 4 for part in parts)
    assert all(part.text.endswith("\n\n") for part in parts[:-1]), "cut between paragraphs"
    assert [part.id for part in parts] == [f"a.txt#{n}" for n in range(1, len(parts) + 1)]


def test_markdown_says_who_wrote_it(read, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        '---\ntitle: "On ice"\ndate: 2024-05-01\nlicense: CC-BY-4.0\ntags: [x]\n---\n# Ice\n\nCold.\n'
    )
    [document], _, _ = read(text(tmp_path / "a.md", license="MIT"))
    assert document.text == "# Ice\n\nCold.\n"
    assert (document.license, document.date, document.metadata) == ("CC-BY-4.0", "2024-05-01", {"title": "On ice"})


def test_a_bad_row_of_json_says_where() -> None:
    [row] = list(row_formats.json_lines(io.BufferedReader(io.BytesIO(b'{"a": 1,}'))))  # type: ignore[arg-type]
    assert isinstance(row, BadRow)
    assert "at column 9" in row.why


@pytest.mark.extra
def test_sevenzip_archives(read, tmp_path: Path) -> None:
    py7zr = pytest.importorskip("py7zr", reason=".7z needs the extra `sevenzip`")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writestr("Eins.", "x/a.txt")
        archive.writestr("Zwei.", "b.txt")
    documents, _, _ = read(text(tmp_path / "a.7z"))
    assert {one.id: one.text for one in documents} == {"a.7z/x/a.txt": "Eins.", "a.7z/b.txt": "Zwei."}
    damaged = bytearray((tmp_path / "a.7z").read_bytes())
    damaged[36] ^= 0xFF
    (tmp_path / "b.7z").write_bytes(bytes(damaged))
    _, drops, _ = read(text(tmp_path / "b.7z"))
    assert reasons(drops) == {"damaged place in an archive: on to what follows": 2}, "both are in the broken block"


def test_without_its_package_sevenzip_is_one_clear_message(read, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "py7zr", None)
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + b"\0" * 40)
    with pytest.raises(UserError, match=r"pip install 'groundup\[sevenzip\]'"):
        read(text(tmp_path / "a.7z"))
