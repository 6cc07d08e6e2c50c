"""Readers stream: a file ten times as large takes no more memory. Measured in a process of its own."""

from __future__ import annotations

import bz2
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

READ = """
import re, sys
from collections import Counter
from pathlib import Path
from pydantic import TypeAdapter
from groundup.corpus.source_settings import Source
from groundup.corpus.sources import pieces, read_piece

source = TypeAdapter(Source).validate_python({"type": sys.argv[1], "path": sys.argv[2]})
count = sum(1 for piece in pieces(source, Path()) for _ in read_piece(source, piece, Counter()))
# ru_maxrss would be that of the process which started this one, where that was larger
print(count, re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""
TEXT = " ".join(str(n * n) for n in range(4_000))  # 27 kB
PAGE = f"<html><body><p>{TEXT}</p></body></html>"


def record(number: int) -> bytes:
    block = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{PAGE}".encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://{number}/\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def page(number: int) -> bytes:
    text = f"<ns>0</ns><revision><text>{TEXT}</text></revision>"
    return f"<page><title>{number}</title>{text}</page>\n".encode()


def item(number: int) -> bytes:
    return f"<item><title>{number}</title><description>{TEXT}</description></item>\n".encode()


def line(number: int) -> bytes:
    return json.dumps({"text": TEXT, "n": number}).encode() + b"\n"


def whole(count: int, one, head: bytes = b"", tail: bytes = b"") -> bytes:
    return head + b"".join(one(number) for number in range(count)) + tail


MAKERS = {
    ("warc", "a.warc"): lambda count: whole(count, record),
    ("warc", "a.warc.gz"): lambda count: b"".join(gzip.compress(record(n), 1) for n in range(count)),
    ("wikipedia", "a.xml"): lambda count: whole(count, page, b"<mediawiki>", b"</mediawiki>"),
    ("wikipedia", "a.xml.bz2"): lambda count: bz2.compress(whole(count, page, b"<mediawiki>", b"</mediawiki>"), 1),
    ("news", "a.rss"): lambda count: whole(count, item, b"<rss><channel>", b"</channel></rss>"),
    ("rows", "a.jsonl"): lambda count: whole(count, line),
    ("rows", "a.json"): lambda count: b"[" + b",".join(line(n) for n in range(count)) + b"]",
    ("text", "a.txt"): lambda count: (TEXT.encode() + b"\n\n") * count,
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux' /proc")
@pytest.mark.parametrize(("kind", "name"), MAKERS)
def test_ten_times_the_file_takes_no_more_memory(tmp_path: Path, kind: str, name: str) -> None:
    peaks = []
    for count in (200, 2_000):  # 5 and 50 MB of text
        path = tmp_path / str(count) / name
        path.parent.mkdir()
        path.write_bytes(MAKERS[kind, name](count))
        command = [sys.executable, "-c", READ, kind, str(path)]
        found, peak = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
        assert found >= (count if kind != "text" else 2)
        peaks.append(peak / 1000)
    assert peaks[1] < peaks[0] + 15, f"{peaks[0]:.0f} MB, and of ten times as much {peaks[1]:.0f} MB"
