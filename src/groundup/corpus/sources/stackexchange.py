"""Stack Exchange data dumps: Posts.xml -> one document per question with its answers; votes stay in the metadata."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import StackExchangeSource
from groundup.corpus.sources.files import Input, file_pieces, open_members
from groundup.corpus.sources.grouped import Grouped
from groundup.corpus.sources.html_text import text_of_html
from groundup.corpus.sources.packed import UNPACK_ERRORS
from groundup.corpus.sources.piece import Piece

_OTHER_FILES = re.compile(
    r"(?:^|[-_/])(?:badges|comments|posthistory|postlinks|tags|users|votes)\.xml(?:\.\w+)?$", re.IGNORECASE
)
_SITE = re.compile(
    r"((?:[\w-]+\.)?(?:meta\.)?(?:stackexchange|stackoverflow|superuser|serverfault|askubuntu|stackapps|mathoverflow))"
    r"(\.com|\.net)?",
    re.IGNORECASE,
)
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".7z", ".zip")
_MOST_ROW_CHARS = 4_000_000
_UNPACKED_TIMES = 6  # about how much larger a dump is behind its compression


def pieces(source: StackExchangeSource, cache: Path) -> list[Piece]:
    """One piece per Posts.xml (also packed) or archive; the dump's other tables are passed over."""
    return [piece for piece in file_pieces(source.path, cache) if not _OTHER_FILES.search(piece.name)]


def read(source: StackExchangeSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Questions with their answers, rebuilt by a pass over the dump and an index on disk.

    Rows that are damaged, and posts that are neither question nor answer, are drops; so are threads that have fewer
    answers or votes than asked for.
    """
    for file in open_members(piece):
        if isinstance(file, Drop):
            yield file
        elif _OTHER_FILES.search(file.name):
            notes["other tables of the dump"] += 1
        else:
            yield from _read_posts(source, piece, file, notes)


def _read_posts(
    source: StackExchangeSource, piece: Piece, file: Input, notes: Counter[str]
) -> Iterator[Document | Drop]:
    notes["files"] += 1
    site = site_of(file.name) or site_of(file.where)
    prefix = site or file.name
    posts = Grouped(piece.bytes * (_UNPACKED_TIMES if piece.name.endswith(_PACKED) else 1))
    rows = 0
    try:
        with file.open_unpacked() as stream:
            for rows, line in enumerate(_rows(stream), 1):
                row = _attributes(line)
                if row is None or not row.get("Id"):
                    yield Drop(f"{prefix}:row-{rows}", "read", "damaged row", line[:300], len(line))
                elif row.get("PostTypeId") == "1":
                    posts.add(row["Id"], row)
                elif row.get("PostTypeId") == "2":
                    posts.add(row.get("ParentId", ""), row)
                else:
                    reason = f"not a question or answer (post type {row.get('PostTypeId', 'missing')})"
                    yield Drop(f"{prefix}:{row['Id']}", "read", reason, row.get("Body", "")[:300], len(line))
    except UNPACK_ERRORS as error:
        reason = "damaged dump: the rest of the file could not be read" if rows else "not a readable dump"
        yield Drop(f"{prefix}:row-{rows + 1}", "read", reason, f"{file.where}: {error}")
    else:
        if not rows:
            yield Drop(f"{prefix}:row-1", "read", "not a readable dump", f"{file.where}: it holds no <row>")
    for key, thread in posts.groups():
        yield from _thread(source, file, prefix, site, key, thread)


def _rows(stream: IO[bytes]) -> Iterator[str]:
    """Each `<row ... />` as text. Dumps hold one a line, so that a broken one costs itself only."""
    head = bytes(stream.peek(4)[:4])  # type: ignore[attr-defined]
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    held = ""
    for line in io.TextIOWrapper(stream, encoding=encoding, errors="replace"):
        stripped = line.strip()
        if stripped.startswith("<row"):
            if held:
                yield held  # it never ended
            held = stripped
        elif held:
            held += line.rstrip("\n")
        if held and (held.endswith("/>") or len(held) > _MOST_ROW_CHARS):
            yield held
            held = ""
    if held and not held.endswith("</posts>"):
        yield held


def _attributes(row: str) -> dict[str, str] | None:
    try:
        return ElementTree.fromstring(row).attrib  # one element: no entities can be declared in it
    except ElementTree.ParseError:
        return None


def _number(row: dict[str, str], name: str) -> int:
    value = row.get(name, "")
    return int(value) if re.fullmatch(r"-?\d{1,18}", value) else 0


def _thread(
    source: StackExchangeSource, file: Input, prefix: str, site: str, key: str, rows: list[dict[str, str]]
) -> Iterator[Document | Drop]:
    question = next((row for row in rows if row.get("PostTypeId") == "1"), None)
    by_id = {row["Id"]: row for row in rows if row.get("PostTypeId") == "2"}
    if question is None:
        for row in by_id.values():
            yield Drop(f"{prefix}:{row['Id']}", "read", "answer without its question", row.get("Body", "")[:300])
        return
    id = f"{prefix}:{key}"
    body = text_of_html(question.get("Body", ""))
    size = sum(len(row.get("Body", "")) for row in rows)
    accepted = question.get("AcceptedAnswerId", "")
    score = _number(question, "Score")
    if source.min_score is not None and score < source.min_score:
        yield Drop(id, "read", "question below min_score", body[:300], size, float(score), float(source.min_score))
        return
    answers = []
    for row in sorted(
        by_id.values(), key=lambda row: (row["Id"] != accepted, -_number(row, "Score"), int_or(row["Id"]))
    ):
        votes = _number(row, "Score")
        if source.min_score is not None and votes < source.min_score and row["Id"] != accepted:
            start = row.get("Body", "")[:300]
            bound = float(source.min_score)
            yield Drop(
                f"{prefix}:{row['Id']}", "read", "answer below min_score", start, len(start), float(votes), bound
            )
        else:
            answers.append(row)
    if len(answers) < source.min_answers:
        found, wanted = float(len(answers)), float(source.min_answers)
        yield Drop(id, "read", "fewer answers than min_answers", body[:300], size, found, wanted)
        return
    answers = answers[: source.max_answers]
    title = question.get("Title", "").strip()
    parts = [f"# {title}\n\n{body}" if title else body]
    parts += [f"## Answer\n\n{text_of_html(row.get('Body', ''))}" for row in answers]
    posts = [_about(row, row["Id"] == accepted) for row in [question, *answers]]
    metadata: dict[str, Any] = {
        "title": title,
        "tags": re.findall(r"[^<>|]+", question.get("Tags", "")),
        "score": score,
        "views": _number(question, "ViewCount"),
        "closed": "ClosedDate" in question,
        "posts": posts,
    }
    licences = sorted({licence_of_post(row) for row in [question, *answers]})
    license = source.license or " AND ".join(licences)
    url = f"https://{site}/questions/{key}" if site else f"{file.name}#{key}"
    yield Document(id, url, license, "\n\n".join(parts), "docs", "", question.get("CreationDate", ""), metadata)


def int_or(value: str) -> int:
    return int(value) if value.isascii() and value.isdigit() else 0


def _about(row: dict[str, str], is_accepted: bool) -> dict[str, Any]:
    """A post's standing, in the order of the text: what preference pairs are made of."""
    about: dict[str, Any] = {"id": row["Id"], "score": _number(row, "Score"), "date": row.get("CreationDate", "")}
    if is_accepted:
        about["accepted"] = True
    if owner := row.get("OwnerUserId"):
        about["user"] = owner
    return about


def licence_of_post(row: dict[str, str]) -> str:
    """What the row says, else what stackoverflow.com/help/licensing states for the day it was written."""
    if stated := row.get("ContentLicense"):
        return stated.replace(" ", "-")
    day = row.get("CreationDate", "")[:10]
    return f"CC-BY-SA-{'2.5' if day < '2011-04-08' else '3.0' if day < '2018-05-02' else '4.0'}"


def site_of(path: str) -> str:
    """`.../coffee.stackexchange-Posts.xml` or `.../coffee.stackexchange.com/Posts.xml` -> coffee.stackexchange.com."""
    found = list(_SITE.finditer(path))
    if not found:
        return ""
    name = found[-1][1].lower()
    return name + (found[-1][2] or (".net" if name.endswith("mathoverflow") else ".com"))
