"""Mailing lists and newsgroups: mbox files, rnews batches and folders of messages -> a document per thread."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from groundup.artifacts import fingerprint_of
from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import MailSource
from groundup.corpus.sources.files import Input, file_pieces, local_files, open_members
from groundup.corpus.sources.grouped import Grouped
from groundup.corpus.sources.mail_text import Message, message_of, split_messages, without_quotes
from groundup.corpus.sources.packed import UNPACK_ERRORS
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.remote import is_remote
from groundup.packages import is_package

_MANY = (".mbox", ".mbx", ".txt", ".news", ".rnews", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z")
_FOLDER = "\n"  # ends the `where` of a piece that is a folder of messages


def pieces(source: MailSource, cache: Path) -> list[Piece]:
    """A piece per mailbox or archive; files without such a name are messages, and a folder of them is one piece.

    Threads are rebuilt within a piece.
    """
    if is_package(source.path) or is_remote(source.path) or not Path(source.path).expanduser().is_dir():
        return file_pieces(source.path, cache)
    root = Path(source.path).expanduser()
    found: list[Piece] = []
    folders: dict[str, list[Piece]] = {}
    for piece in file_pieces(source.path, cache):
        if _is_many(piece.name):
            found.append(piece)
        else:
            folder = PurePosixPath(piece.name).parent
            # a Maildir keeps its messages in cur/ and new/
            folder = folder.parent if folder.name in ("cur", "new") else folder
            folders.setdefault(folder.as_posix(), []).append(piece)
    for name, files in folders.items():
        identity = fingerprint_of([[one.name, one.identity] for one in files])
        where = f"{root if name == '.' else root / name}{_FOLDER}"
        found.append(Piece(name, identity, sum(one.bytes for one in files), where))
    return sorted(found, key=lambda piece: piece.name)


def _is_many(name: str) -> bool:
    return name.lower().endswith(_MANY)


def read(source: MailSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Threads by References and In-Reply-To, else by subject; rebuilt with an index on disk.

    Messages without words of their own are drops.
    """
    links = Links()
    spool = Grouped(piece.bytes)  # every message by itself, until all are known that a thread may hold
    number = 0
    for file in _inputs(piece):
        if isinstance(file, Drop):
            yield file
            continue
        notes["files"] += 1
        seen = 0
        try:
            with file.open_unpacked() as stream:
                for raw in split_messages(stream):
                    seen, number = seen + 1, number + 1
                    message = message_of(raw, notes)
                    if message is None:
                        start = raw[:300].decode("utf-8", "replace")
                        yield Drop(f"{file.name}:{seen}", "read", "message without text", start, len(raw))
                        continue
                    key = message.id or f"{file.name}:{seen}"
                    if not links.add(key, message):
                        yield Drop(f"{file.name}:{seen}", "read", "message that was there before", key, len(raw))
                        continue
                    spool.add(key, [number, *message])
        except UNPACK_ERRORS as error:
            reason = "damaged file: the rest of it could not be read" if seen else "unreadable file"
            yield Drop(f"{file.name}:{seen + 1}", "read", reason, f"{file.where}: {error}")
    threads = Grouped(piece.bytes)
    for key, [[place, *fields]] in spool.groups():
        threads.add(links.root(key), [place, key, *fields])
    for root, rows in threads.groups():
        rows.sort()
        yield _thread(source, piece, root, [(row[1], Message(*row[2:])) for row in rows], notes)
    links.close()


def _inputs(piece: Piece) -> Iterator[Input | Drop]:
    if not piece.where.endswith(_FOLDER):
        yield from open_members(piece)
        return
    folder = Path(piece.where.removesuffix(_FOLDER))
    prefix = "" if piece.name == "." else f"{piece.name}/"
    for path in local_files(str(folder)):
        name = path.relative_to(folder).as_posix()
        parent = PurePosixPath(name).parent.as_posix()
        if parent in (".", "cur", "new") and not _is_many(name):
            yield Input(f"{prefix}{name}", path=path)


class Links:
    """Which message answers which, in a database that lies on disk where it grows and vanishes with the process."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)  # "": a file without a name
        self._base.execute("PRAGMA journal_mode=OFF")
        self._base.execute("BEGIN")
        self._base.execute(
            "CREATE TABLE answers (message INTEGER PRIMARY KEY, parent INTEGER, name TEXT, seen INTEGER)"
        )
        self._base.execute("CREATE TABLE subjects (subject INTEGER PRIMARY KEY, message INTEGER)")

    def add(self, key: str, message: Message) -> bool:
        """Take in a message. False where one of its id is there already."""
        own = _hash(key)
        if self._base.execute("SELECT 1 FROM answers WHERE message = ? AND seen = 1", (own,)).fetchone():
            return False
        chain_of = [_hash(one) for one in message.references if one != key]
        names = [one for one in message.references if one != key]
        # what stands in References is older to younger; an older link that we have is not overwritten
        for place, one in enumerate(chain_of):
            parent = chain_of[place - 1] if place else None
            self._base.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, 0)", (one, parent, names[place]))
        parent = chain_of[-1] if chain_of else None
        subject = _hash(f"subject {message.subject.lower()}")
        if parent is None and message.is_answer:
            row = self._base.execute("SELECT message FROM subjects WHERE subject = ?", (subject,)).fetchone()
            parent = row[0] if row and row[0] != own else None
        self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, 1)", (own, parent, key))
        if message.subject:
            self._base.execute("INSERT OR IGNORE INTO subjects VALUES (?, ?)", (subject, own))
        return True

    def root(self, key: str) -> str:
        """The name of the oldest message that a message goes back to, whether that one is here or not."""
        message, name, seen = _hash(key), key, {_hash(key)}
        while row := self._base.execute("SELECT parent, name FROM answers WHERE message = ?", (message,)).fetchone():
            parent, name = row
            if parent is None or parent in seen:  # two that answer each other: a forged or broken header
                return str(name) if parent is None else str(min(self._names(seen)))
            seen.add(parent)
            message = parent
        return name

    def _names(self, messages: set[int]) -> list[str]:
        marks = ",".join("?" * len(messages))
        return [
            row[0] for row in self._base.execute(f"SELECT name FROM answers WHERE message IN ({marks})", [*messages])
        ]

    def close(self) -> None:
        self._base.close()


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) - 2**63


def _thread(
    source: MailSource, piece: Piece, root: str, messages: list[tuple[str, Message]], notes: Counter[str]
) -> Document | Drop:
    by_id = dict(messages)
    ordered = _in_order(root, by_id)
    subject = next((one.subject for _, _, one in ordered if one.subject), "")
    parts: list[str] = []
    posts: list[dict[str, Any]] = []
    for depth, key, message in ordered:
        parent = message.references[-1] if message.references else ""
        body = without_quotes(message.body, source.quotes, is_parent_here=parent in by_id)
        if not body:
            notes["messages of which only quotations were left"] += 1
            continue
        if parts:
            parts.append(f"{'#' * min(depth + 1, 6) if depth else '##'} {'Reply' if depth else 'Message'}")
        parts.append(body)
        posts.append({"id": key, "parent": parent, "depth": depth, "date": message.date})
    id = f"{piece.name}:{root}" if root not in by_id or "@" in root else root
    if len(posts) < source.min_messages:
        found, wanted = float(len(posts)), float(source.min_messages)
        return Drop(id, "read", "fewer messages than min_messages", subject, 0, found, wanted)
    if not posts:
        return Drop(id, "read", "message without text", subject)
    first = ordered[0][2]
    text = "\n\n".join([f"# {subject}"] * bool(subject) + parts)
    groups = list(dict.fromkeys(chain.from_iterable(one.groups for one in by_id.values())))
    metadata: dict[str, Any] = {"title": subject, "groups": groups, "posts": posts}
    return Document(id, f"mid:{root}", source.license or "unknown", text, "prose", "", first.date, metadata)


def _in_order(root: str, by_id: dict[str, Message]) -> list[tuple[int, str, Message]]:
    """(depth, id, message), depth first, answers to one message by date. By the nearest ancestor that is here."""
    children: dict[str, list[str]] = {}
    first = next(iter(by_id))
    for key, message in by_id.items():
        parent = next((one for one in reversed(message.references) if one in by_id and one != key), "")
        if not parent and message.is_answer and key not in (root, first):
            parent = root if root in by_id else first  # an answer by its subject alone
        children.setdefault(parent, []).append(key)
    out: list[tuple[int, str, Message]] = []
    waiting: list[tuple[int, str]] = []
    while waiting or children:
        if not waiting:  # at the start; and then only for messages that answer each other in a circle
            top = children.pop("" if "" in children else min(children))
            waiting = [(0, one) for one in sorted(top, key=lambda one: (by_id[one].date, one), reverse=True)]
        depth, key = waiting.pop()
        out.append((depth, key, by_id[key]))
        below = sorted(children.pop(key, []), key=lambda one: (by_id[one].date, one), reverse=True)
        waiting += [(depth + 1, one) for one in below]
    return out
