"""Files elsewhere: https with and without ranges, flaky servers, s3, the Hub, lists of paths. All on this machine."""

from __future__ import annotations

import gzip
import http.server
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest

from groundup.corpus.source_settings import RowsSource, TextSource, WarcSource
from groundup.corpus.sources import files, pieces, remote
from groundup.corpus.sources.files import file_pieces, open_piece
from groundup.corpus.sources.remote import RemoteUnreachableError
from groundup.errors import UserError

pytestmark = pytest.mark.extra
pytest.importorskip("aiohttp", reason="https:// needs the extra `remote`")


@dataclass
class Server:
    """What a local web server holds, how it behaves, and what was asked of it."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    fail_every: int = 0  # every n-th answer is 503
    cut_after: int = 0  # bytes after which a body ends, once per file
    asked: Counter[str] = field(default_factory=Counter)
    url: str = ""
    cut: set[str] = field(default_factory=set)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0].lstrip("/")
            state.asked[path] += 1
            if state.fail_every and sum(state.asked.values()) % state.fail_every == 0:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = state.files.get(path)
            if data is None:
                self.send_response(403 if "secret" in path else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, end = 0, len(data)
            asked = self.headers.get("Range", "")
            if state.ranges and asked.startswith("bytes="):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, end = int(first), min(len(data), int(last) + 1 if last else len(data))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            else:
                self.send_response(200)
            if state.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", '"v1"')
            self.end_headers()
            if not body:
                return
            if state.cut_after and path not in state.cut and end - start > state.cut_after:
                state.cut.add(path)
                self.wfile.write(data[start : start + state.cut_after])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(data[start:end])

        def log_message(self, *_: Any) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(remote, "STALL_SECONDS", 5)
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def lines(count: int, tag: str = "row") -> bytes:
    return b"".join(json.dumps({"text": f"{tag} {n * n}"}).encode() + b"\n" for n in range(count))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("trouble", ["none", "flaky", "cut"])
def test_a_file_is_read_from_a_web_server(read, server: Server, monkeypatch, ranges: bool, trouble: str) -> None:
    monkeypatch.setattr(remote, "BLOCK_BYTES", 60_000)
    server.ranges = ranges
    server.files["data/a.jsonl"] = lines(20_000)
    server.fail_every = 3 if trouble == "flaky" else 0
    server.cut_after = 30_000 if trouble == "cut" else 0
    documents, drops, _ = read(RowsSource(type="rows", path=f"{server.url}/data/a.jsonl"))
    assert [one.text for one in documents] == [f"row {n * n}" for n in range(20_000)]
    assert not drops
    assert documents[0].id == "a.jsonl:1"
    if ranges:
        assert server.asked["data/a.jsonl"] > len(server.files["data/a.jsonl"]) // 60_000, "block by block"


def test_memory_is_that_of_a_block(server: Server, tmp_path: Path, monkeypatch) -> None:
    """What is asked for in one request is never more than a block, even from a gzip file of 400 kB."""
    monkeypatch.setattr(remote, "BLOCK_BYTES", 10_000)
    server.files["a.jsonl.gz"] = gzip.compress(lines(100_000))
    [piece] = file_pieces(f"{server.url}/a.jsonl.gz", tmp_path)
    assert piece.bytes == len(server.files["a.jsonl.gz"])
    largest = 0
    original = remote._Blocks.readinto

    def spy(self, buffer) -> int:
        nonlocal largest
        largest = max(largest, len(buffer))
        return original(self, buffer)

    monkeypatch.setattr(remote._Blocks, "readinto", spy)
    [file] = open_piece(piece)
    with file.open_unpacked() as stream:
        assert sum(1 for _ in stream) == 100_000
    assert largest <= 200_000


def test_a_web_archive_is_read_from_a_web_server(read, server: Server, shared_data: Path) -> None:
    server.files["iana.warc.gz"] = (shared_data / "web/iana-revisits.warc.gz").read_bytes()
    local = read(WarcSource(type="warc", path=str(shared_data / "web/iana-revisits.warc.gz")))
    there = read(WarcSource(type="warc", path=f"{server.url}/iana.warc.gz"))
    assert [one.text for one in there[0]] == [one.text for one in local[0]]
    assert [one.reason for one in there[1]] == [one.reason for one in local[1]]


def test_an_identity_changes_with_the_content(server: Server, tmp_path: Path) -> None:
    server.files["a.txt"] = b"one"
    [before] = file_pieces(f"{server.url}/a.txt", tmp_path)
    [same] = file_pieces(f"{server.url}/a.txt", tmp_path)
    server.files["a.txt"] = b"another"
    [after] = file_pieces(f"{server.url}/a.txt", tmp_path)
    assert before.identity == same.identity != after.identity


def test_what_is_not_there_is_one_clear_message(server: Server, tmp_path: Path) -> None:
    for path in ("gone.jsonl", "secret.jsonl"):
        with pytest.raises(UserError, match="no such file or folder") as caught:
            pieces(RowsSource(type="rows", path=f"{server.url}/{path}"), tmp_path)
        assert f"{server.url}/{path}" in str(caught.value)
    with pytest.raises(UserError, match=r"no way is known to read nope://"):
        pieces(TextSource(type="text", path="nope://x/y"), tmp_path)


def test_a_server_that_stays_away_ends_the_run(read, server: Server) -> None:
    """Nothing is dropped for a network's sake: the same command goes on when it is back."""
    server.files["a.jsonl"] = lines(10)
    server.fail_every = 1
    with pytest.raises(RemoteUnreachableError, match="could not be read in 5 tries"):
        read(RowsSource(type="rows", path=f"{server.url}/a.jsonl"))
    assert sum(server.asked.values()) >= 5


# ---------------------------------------------------------------- lists of paths


def test_a_list_of_paths_as_common_crawl_publishes_it(read, server: Server, shared_data: Path) -> None:
    """Relative paths start from what stands before their first part in the list's own address."""
    warc = (shared_data / "web/whirlwind.warc.gz").read_bytes()
    names = [f"crawl-data/CC-MAIN-2024-22/segments/{n}/warc/a.warc.gz" for n in range(3)]
    server.files |= {f"mirror/{name}": warc for name in names[:2]}
    listed = "\n".join([*names, "", "# a comment", names[0]])
    server.files["mirror/crawl-data/CC-MAIN-2024-22/warc.paths.gz"] = gzip.compress(listed.encode())
    source = WarcSource(type="warc", path=f"{server.url}/mirror/crawl-data/CC-MAIN-2024-22/warc.paths.gz")
    documents, drops, _ = read(source)
    assert [one.id.rpartition("#")[0] for one in documents] == names[:2]
    assert [(one.id, one.reason) for one in drops] == [(f"{names[2]}#1", "unreadable file")]
    assert "404" in drops[0].excerpt or "FileNotFound" in drops[0].excerpt or names[2] in drops[0].excerpt


def test_a_list_on_this_machine(read, tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "w").mkdir()
    for name in ("a.warc.gz", "b.warc.gz", "c.warc.gz"):
        (tmp_path / "w" / name).write_bytes((shared_data / "web/whirlwind.warc.gz").read_bytes())
    (tmp_path / "list.txt").write_text("w/b.warc.gz\nw/a.warc.gz\n")
    documents, _, notes = read(WarcSource(type="warc", path=str(tmp_path / "list.txt")))
    assert [one.id for one in documents] == ["w/b.warc.gz#3", "w/a.warc.gz#3"]
    assert notes["files"] == 2
    (tmp_path / "list.paths").write_text("b.warc.gz\n")
    source = WarcSource(type="warc", path=str(tmp_path / "list.paths"), path_root=str(tmp_path / "w"))
    assert [one.id for one in read(source)[0]] == ["b.warc.gz#3"]
    (tmp_path / "list.paths").write_text("w/b.warc.gz\nw/x.warc.gz\nw/y.warc.gz\n")
    with pytest.raises(UserError, match=r"2 of the 3 files it names are not there: .*x\.warc\.gz"):
        read(WarcSource(type="warc", path=str(tmp_path / "list.paths")))
    (tmp_path / "list.paths").write_text("\n")
    with pytest.raises(UserError, match="the list names no path"):
        read(WarcSource(type="warc", path=str(tmp_path / "list.paths")))


def test_common_crawls_paths_start_from_its_server(tmp_path: Path) -> None:
    names = [f"crawl-data/CC-MAIN-2024-22/segments/{n}/wet/x.warc.wet.gz" for n in range(100)]
    (tmp_path / "wet.paths.gz").write_bytes(gzip.compress("\n".join(names).encode()))
    listed = file_pieces(str(tmp_path / "wet.paths.gz"), tmp_path)
    assert [one.name for one in listed] == names, "and nothing was asked of the network"
    assert listed[0].where == f"https://data.commoncrawl.org/{names[0]}"
    from_s3 = file_pieces(str(tmp_path / "wet.paths.gz"), tmp_path, root="s3://commoncrawl")
    assert from_s3[0].where == f"s3://commoncrawl/{names[0]}"
    assert [one.name for one in from_s3] == names, "names do not depend on where the data lies"
    few = file_pieces(str(tmp_path / "wet.paths.gz"), tmp_path, max_files=10)
    assert len(few) == 10
    assert {one.name for one in few} <= set(names)
    assert few == file_pieces(str(tmp_path / "wet.paths.gz"), tmp_path, max_files=10)
    assert [one.name for one in few] != names[:10], "not simply the first"


# ---------------------------------------------------------------- s3 and the Hub, by stand-ins


@contextmanager
def registered(scheme: str, system: type) -> Iterator[None]:
    """fsspec opens addresses of a scheme with this file system, for a while."""
    from fsspec.registry import _registry

    before = dict(_registry)
    fsspec.register_implementation(scheme, system, clobber=True)
    yield
    _registry.clear()
    _registry.update(before)


@pytest.fixture
def bucket() -> Iterator[Any]:
    """fsspec's in-memory file system in place of s3fs."""
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        protocol = "s3"
        store: dict[str, Any] = {}  # noqa: RUF012 - as its base has it
        pseudo_dirs = [""]  # noqa: RUF012

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.removeprefix("s3://").strip("/")

        def unstrip_protocol(self, name: str) -> str:
            return f"s3://{name.lstrip('/')}"

    with registered("s3", Bucket):
        yield Bucket()


def test_files_folders_and_globs_of_a_bucket(read, bucket) -> None:
    for name in ("d/a.jsonl", "d/sub/b.jsonl", "d/sub/c.txt", "e/f.jsonl"):
        bucket.pipe(f"s3://mine/{name}", json.dumps({"text": name}).encode())
    ids = lambda path: [one.id for one in read(RowsSource(type="rows", path=path))[0]]  # noqa: E731
    assert ids("s3://mine/d/a.jsonl") == ["a.jsonl:1"]
    assert ids("s3://mine/d") == ["a.jsonl:1", "sub/b.jsonl:1"]
    assert ids("s3://mine/d/**/*.jsonl") == ["a.jsonl:1", "sub/b.jsonl:1"]
    with pytest.raises(UserError, match="no file matches"):
        ids("s3://mine/d/*.parquet")
    with pytest.raises(UserError, match="no such file or folder"):
        ids("s3://mine/nothing")


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "get_filesystem_class", refuse)
    with pytest.raises(UserError, match=r"pip install s3fs, or pip install 'groundup\[remote\]'"):
        file_pieces("s3://mine/a", tmp_path)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """A folder in place of the Hub's `datasets/`: fsspec's view of a directory under the Hub's scheme."""
    from fsspec.implementations.local import LocalFileSystem

    root = tmp_path / "hub"

    class Hub(LocalFileSystem):
        protocol = "hf"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return f"{root}/{path.removeprefix('hf://').removeprefix(str(root)).strip('/')}"

        def unstrip_protocol(self, name: str) -> str:
            return f"hf://{name.removeprefix(str(root)).lstrip('/')}"

    files._hub_license.cache_clear()
    with registered("hf", Hub):
        yield root
    files._hub_license.cache_clear()


def test_a_data_set_of_the_hub(read, hub: Path) -> None:
    folder = hub / "datasets/owner/name"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlanguage:\n- en\nlicense:\n- odc-by\n---\n# Card\n")
    for split in ("train", "test"):
        (folder / f"data/{split}-00000.jsonl").write_bytes(lines(3, split))
    for path in ("hf://owner/name", "hf://datasets/owner/name", "hf://owner/name/data/*.jsonl"):
        documents, drops, _ = read(RowsSource(type="hf", path=path, split="train"))
        assert [one.text for one in documents] == ["train 0", "train 1", "train 4"], path
        assert {one.license for one in documents} == {"odc-by"}, "the card's"
        assert not drops
    assert len(read(RowsSource(type="rows", path="hf://owner/name"))[0]) == 6
