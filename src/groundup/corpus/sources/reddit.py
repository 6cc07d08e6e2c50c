"""Reddit dumps (.zst or plain, one JSON object a line): a document per submission with its tree of comments."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from groundup.artifacts import fingerprint_of
from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import RedditSource
from groundup.corpus.sources.files import Input, file_pieces, open_members
from groundup.corpus.sources.grouped import Grouped
from groundup.corpus.sources.packed import UNPACK_ERRORS
from groundup.corpus.sources.piece import Piece

_GONE = {"[deleted]", "[removed]", "[deleted by user]", "[ removed by reddit ]", ""}
_BOTS = {"automoderator"}
_UNPACKED_TIMES = 10
_KEPT = (
    "id", "link_id", "parent_id", "title", "selftext", "body", "score", "created_utc", "subreddit", "permalink",
    "over_18", "url", "is_self", "num_comments", "edited", "gilded",
)  # fmt: skip


def pieces(source: RedditSource, cache: Path) -> list[Piece]:
    """A piece per month (RS_2023-01 with RC_2023-01) or subreddit (x_submissions with x_comments)."""
    together: dict[str, list[Piece]] = {}
    for piece in file_pieces(source.path, cache):
        together.setdefault(dump_name(piece.name), []).append(piece)
    return [
        Piece(
            name,
            fingerprint_of([[one.name, one.identity] for one in files]),
            sum(one.bytes for one in files),
            json.dumps([[one.name, one.where] for one in files]),
        )
        for name, files in sorted(together.items())
    ]


def dump_name(file: str) -> str:
    """The same for the two files of one dump: `RC_2023-01.zst`, `RS_2023-01.zst` -> `2023-01`."""
    stem = PurePosixPath(file).name.split(".zst")[0].removesuffix(".gz").removesuffix(".xz").removesuffix(".bz2")
    stem = re.sub(r"\.(?:ndjson|jsonl|json)$", "", stem)
    return re.sub(r"^R[SC]_|[_-](?:submissions|comments|posts)$", "", stem) or stem


def read(source: RedditSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Threads, rebuilt by a pass over the dump and an index on disk. Rows that are no JSON are drops.

    What was deleted, and what AutoModerator said, is left out and counted; the replies to it stay.
    """
    posts = Grouped(piece.bytes * _UNPACKED_TIMES)
    for name, where in json.loads(piece.where):
        for file in open_members(Piece(name, "", 0, where)):
            if isinstance(file, Drop):
                yield file
            else:
                yield from _index(source, file, posts, notes)
    for key, rows in posts.groups():
        yield _thread(source, key, rows, notes)


def _index(source: RedditSource, file: Input, posts: Grouped, notes: Counter[str]) -> Iterator[Drop]:
    wanted = {name.lower().removeprefix("r/") for name in source.subreddits}
    number = 0
    notes["files"] += 1
    try:
        with file.open_unpacked() as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                    start = line[:300].decode("utf-8", "replace")
                    yield Drop(f"{file.name}:{number}", "read", "row is not a submission or comment", start, len(line))
                    continue
                if wanted and str(row.get("subreddit", "")).lower() not in wanted:
                    notes["rows of other subreddits"] += 1
                    continue
                posts.add(_thread_of(row), _kept(row, notes))
    except UNPACK_ERRORS as error:
        reason = "damaged dump: the rest of the file could not be read" if number else "not a readable dump"
        yield Drop(f"{file.name}:{number + 1}", "read", reason, f"{file.where}: {error}")


def _thread_of(row: dict[str, Any]) -> str:
    link = row.get("link_id")
    return link.removeprefix("t3_") if isinstance(link, str) and link else str(row["id"])


def _kept(row: dict[str, Any], notes: Counter[str]) -> dict[str, Any]:
    kept = {name: row[name] for name in _KEPT if row.get(name) is not None}
    if str(row.get("author", "")).lower() in _BOTS:
        notes["posts by AutoModerator"] += 1
        kept["body"] = kept["selftext"] = ""
    return kept


def _thread(source: RedditSource, key: str, rows: list[dict[str, Any]], notes: Counter[str]) -> Document | Drop:
    submission = next((row for row in rows if "link_id" not in row), None)
    comments = {str(row["id"]): row for row in rows if "link_id" in row}
    id = f"reddit:{key}"
    first = submission or next(iter(comments.values()))
    subreddit = str(first.get("subreddit", ""))
    title, opening = (_text(submission, "title"), _text(submission, "selftext")) if submission else ("", "")
    excerpt = (title or _text(first, "body"))[:300]
    if submission is None:
        notes["threads whose submission is not in the dump"] += 1
    if first.get("over_18") is True and not source.nsfw:
        return Drop(id, "read", "marked as not safe for work", excerpt)
    score = _number(first.get("score")) if submission else 0
    if submission and source.min_score is not None and score < source.min_score:
        return Drop(id, "read", "submission below min_score", excerpt, 0, float(score), float(source.min_score))
    parts = [part for part in (f"# {title}" if title else "", opening) if part]
    posts = [_about(submission, 0)] if submission else []
    for depth, row in _in_order(key, comments):
        body = _text(row, "body")
        if not body:
            notes["deleted or empty comments"] += 1
        elif source.min_score is not None and _number(row.get("score")) < source.min_score:
            notes["comments below min_score"] += 1
        else:
            parts.append(f"{'#' * min(depth + 2, 6)} {'Reply' if depth else 'Comment'}\n\n{body}")
            posts.append(_about(row, depth + 1))
    said = len(posts) - (submission is not None)
    if said < source.min_comments:
        return Drop(id, "read", "fewer comments than min_comments", excerpt, 0, float(said), float(source.min_comments))
    if not opening and not said:
        return Drop(id, "read", "a link without a word about it", excerpt)
    if submission is None and said < 2:
        return Drop(id, "read", "comment without its thread", excerpt)
    permalink = str(first.get("permalink") or (f"/r/{subreddit}/comments/{key}/" if subreddit else f"/{key}"))
    if submission is None:
        permalink = f"/r/{subreddit}/comments/{key}/"
    metadata: dict[str, Any] = {"subreddit": subreddit, "title": title, "score": score, "posts": posts}
    if isinstance(link := first.get("url"), str) and submission and not submission.get("is_self"):
        metadata["link"] = link
    text, date = "\n\n".join(parts), date_of(first.get("created_utc"))
    return Document(
        id, f"https://www.reddit.com{permalink}", source.license or "unknown", text, "prose", "", date, metadata
    )


def _in_order(key: str, comments: dict[str, dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(depth, comment), depth first, the better voted first. One whose parent is missing stands at the top."""
    children: dict[str, list[dict[str, Any]]] = {}
    for row in comments.values():
        parent = re.sub(r"^t\d_", "", str(row.get("parent_id", "")))
        children.setdefault(parent if parent in comments and parent != row["id"] else key, []).append(row)
    waiting: list[tuple[int, dict[str, Any]]] = []
    while waiting or children:
        if not waiting:  # at the start; and then only where damaged rows answer each other in a circle
            top = children.pop(key if key in children else min(children))
            waiting = [(0, row) for row in sorted(top, key=_standing, reverse=True)]
        depth, row = waiting.pop()
        yield depth, row
        below = children.pop(str(row["id"]), [])
        waiting += [(depth + 1, one) for one in sorted(below, key=_standing, reverse=True)]


def _standing(row: dict[str, Any]) -> tuple[int, float, str]:
    return -_number(row.get("score")), _seconds(row.get("created_utc")), str(row["id"])


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and abs(value) < 2**53 else 0


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return 0.0
    return seconds if 0 <= seconds < 1e11 else 0.0


def date_of(value: Any) -> str:
    """ISO 8601 of a Unix time, '' where it is none."""
    seconds = _seconds(value)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    text = html.unescape(value).strip() if isinstance(value, str) else ""
    return "" if text.lower() in _GONE else text.replace("\r\n", "\n")


def _about(row: dict[str, Any], depth: int) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "parent": re.sub(r"^t\d_", "", str(row.get("parent_id", ""))),
        "depth": depth,
        "score": _number(row.get("score")),
        "date": date_of(row.get("created_utc")),
    }
