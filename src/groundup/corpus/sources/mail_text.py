"""One mail or news message: its headers, the words its writer wrote, and what of quotations to keep."""

from __future__ import annotations

import email
import email.policy
import email.utils
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC
from email.header import decode_header
from email.message import Message as EmailMessage
from typing import IO, Literal, NamedTuple

from groundup.corpus.sources.files import decode
from groundup.corpus.sources.html_text import text_of_html

_MOST_MESSAGE_BYTES = 8 << 20
_MESSAGE_ID = re.compile(r"<([^<>\s]+)>")
_ANSWER = re.compile(r"^\s*(?:(?:re|aw|sv|antw|rép|ref|vs|odp|ynt)(?:\[\d+\])?\s*:\s*)+", re.I)
_FROM_LINE = re.compile(rb"From \S.*\d\d:\d\d")
_RNEWS = re.compile(rb"#! rnews (\d{1,9})\s*$")
_UUENCODED = re.compile(r"^begin [0-7]{3,4} [^\n]+\n(?:[\x20-\x60]{1,62}\n)*?end\s*$", re.M)
_YENC = re.compile(r"^=ybegin .*?^=yend [^\n]*$", re.M | re.S)
_PGP_SIGNATURE = re.compile(r"^-----BEGIN PGP (?:SIGNATURE|PUBLIC KEY BLOCK)-----.*?^-----END PGP [^\n]*$", re.M | re.S)
_PGP_HEAD = re.compile(r"^-----BEGIN PGP SIGNED MESSAGE-----\n(?:Hash: [^\n]*\n)?\n?", re.M)
_BASE64 = re.compile(r"(?:^[A-Za-z0-9+/=]{60,80}\n){8,}[A-Za-z0-9+/=]*", re.M)
_ORIGINAL = re.compile(
    r"^\s*(?:-{3,}\s*(?:Original Message|Forwarded by|Ursprüngliche Nachricht).*|_{30,}\s*)$", re.I | re.M
)
_QUOTED = re.compile(r"^\s?(?:[A-Z]{1,3})?[>|](?![:-])")
_ATTRIBUTION = re.compile(
    r"(?:\b(?:wrote|writes|said|schrieb|a écrit|escribió|skrev|scrisse|schreef|napisał)\b[^\n]*[:.>]|"
    r"^In (?:article|message|<)[^\n]*|^On [^\n]{10,120}|^Quoting [^\n]*:|"
    r"^[\"“]?[^\n]{3,80} <[^<>\s]+@[^<>\s]+>[^\n]*:)\s*$",
    re.I,
)
_STARTS_ATTRIBUTION = re.compile(r"\s*(?:On|In|At|Am|Le|El|Il|Op|Den|W dniu|Em|Quoting)\b")
_CONTEXT_LINES = 3


class Message(NamedTuple):
    """What of a message goes on. `references` older to younger, without angle brackets."""

    id: str
    references: list[str]
    subject: str
    is_answer: bool
    date: str
    groups: list[str]
    body: str


def split_messages(stream: IO[bytes]) -> Iterator[bytes]:
    """The messages of an mbox, an rnews batch, or the one message of a file. Of huge ones the first 8 MB."""
    lines: list[bytes] = []
    size, blank, many, started = 0, True, False, False
    rest_of_batch = 0
    for line in stream:
        if not rest_of_batch and (batch := _RNEWS.match(line)):
            if any(part.strip() for part in lines):
                yield b"".join(lines)
            lines, size, rest_of_batch = [], 0, int(batch[1])
            continue
        rest_of_batch = max(0, rest_of_batch - len(line))
        if not rest_of_batch and blank and (many or not started) and _FROM_LINE.match(line):
            if any(part.strip() for part in lines):
                yield b"".join(lines)
            lines, size, many, started = [], 0, True, True
            continue
        started = started or bool(line.strip())
        blank = not line.strip()
        if many and line.startswith(b">") and line.lstrip(b">").startswith(b"From "):
            line = line[1:]  # as mbox writers protect a line that begins so
        size += len(line)
        if size <= _MOST_MESSAGE_BYTES:
            lines.append(line)
    if any(part.strip() for part in lines):
        yield b"".join(lines)


def message_of(raw: bytes, notes: Counter[str]) -> Message | None:
    """The message in `raw`; None where no text is in it."""
    parsed = email.message_from_bytes(raw.lstrip(b"\r\n"), policy=email.policy.compat32)
    body = _cleaned(_body(parsed, notes), notes)
    if not body:
        return None
    subject = " ".join(_header(parsed, "Subject").split())
    plain = _ANSWER.sub("", subject)
    own = _MESSAGE_ID.search(_header(parsed, "Message-ID"))
    references = _MESSAGE_ID.findall(_header(parsed, "References"))
    references += [one for one in _MESSAGE_ID.findall(_header(parsed, "In-Reply-To")) if one not in references][:1]
    groups = [one.strip() for one in _header(parsed, "Newsgroups").split(",") if one.strip()]
    if not groups and (listed := re.search(r"<?([\w.+-]+)[.@][\w.-]+>?\s*$", _header(parsed, "List-Id"))):
        groups = [listed[1]]
    return Message(
        own[1] if own else "", list(dict.fromkeys(references)), plain, plain != subject, _date(parsed), groups, body
    )


def _header(message: EmailMessage, name: str) -> str:
    value = message.get(name)
    if value is None:
        return ""
    text = str(value)
    try:
        parts = decode_header(text)
    except (ValueError, LookupError, email.errors.HeaderParseError):
        return text
    return "".join(
        part if isinstance(part, str) else _decoded(part, charset if isinstance(charset, str) else None)
        for part, charset in parts
    )


def _decoded(data: bytes, charset: str | None) -> str:
    try:
        return data.decode(charset or "ascii").replace("\r\n", "\n")
    except (LookupError, UnicodeDecodeError, ValueError):
        return decode(data)


def _date(message: EmailMessage) -> str:
    try:
        when = email.utils.parsedate_to_datetime(_header(message, "Date"))
        return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if when.year > 1969 else ""
    except (ValueError, TypeError, OverflowError, IndexError):
        return ""


def _body(message: EmailMessage, notes: Counter[str]) -> str:
    """The plain text parts in order; of alternatives the plain one, HTML as text only where there is none."""
    plain: list[str] = []
    marked: list[str] = []
    for part in message.walk():
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        named = part.get_filename() if part.get("Content-Disposition") or part.get("Content-Type") else None
        if named or kind not in ("text/plain", "text/html"):
            notes["attachments left out"] += 1
            continue
        data = part.get_payload(decode=True)
        if not isinstance(data, bytes):
            continue
        charset = part.get_param("charset")
        text = _decoded(data, charset if isinstance(charset, str) else None)
        if kind == "text/html":
            marked.append(text_of_html(text))
        else:
            plain.append(_unflowed(text) if part.get_param("format") == "flowed" else text)
    return "\n\n".join(plain if any(one.strip() for one in plain) else marked)


def _unflowed(text: str) -> str:
    """`format=flowed` (RFC 3676): a line that ends in a space goes on in the next one of the same depth."""
    out: list[str] = []
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip(">"))
        previous = out[-1] if out else ""
        goes_on = previous.endswith(" ") and previous != "-- "
        if goes_on and depth == len(previous) - len(previous.lstrip(">")) and line.strip() and line != "-- ":
            out[-1] = previous + line[depth:].removeprefix(" " if depth else "")
        else:
            out.append(line.removeprefix(" ") if not depth else line)
    return "\n".join(out)


def _cleaned(body: str, notes: Counter[str]) -> str:
    """Without signature, PGP frames and files inside the text."""
    text = body.replace("\r\n", "\n").replace("\r", "\n")
    for pattern in (_UUENCODED, _YENC, _BASE64):
        text, found = pattern.subn("", text)
        notes["attachments left out"] += found
    text = _PGP_HEAD.sub("", _PGP_SIGNATURE.sub("", text))
    lines = text.split("\n")
    for place, line in enumerate(lines):
        if line in ("-- ", "--") and len(lines) - place <= 20:
            lines = lines[:place]
            break
    text = "\n".join(line.rstrip() for line in lines)
    if not +notes["attachments left out"]:
        del notes["attachments left out"]
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n").rstrip()


def without_quotes(body: str, mode: Literal["context", "drop", "keep"], is_parent_here: bool) -> str:
    """A body with its quotations handled as `MailSource.quotes` says; empty where nothing else is in it."""
    if mode == "keep" or (mode == "context" and not is_parent_here):
        own = [line for line in body.split("\n") if line.strip() and not _QUOTED.match(line)]
        return body if own else ""
    if (cut := _ORIGINAL.search(body)) and body[: cut.start()].strip():
        body = body[: cut.start()]  # the whole message that was answered, below the answer
    lines = body.split("\n")
    out: list[str] = []
    place = 0
    while place < len(lines):
        if not _QUOTED.match(lines[place]):
            out.append(lines[place])
            place += 1
            continue
        block = []
        while place < len(lines) and (_QUOTED.match(lines[place]) or not lines[place].strip()):
            block.append(lines[place])
            place += 1
        _drop_attribution(out)
        has_answer = any(line.strip() and not _QUOTED.match(line) for line in lines[place:])
        if mode == "context" and has_answer:
            said = [line for line in block if line.strip() and not re.match(r"\s?\S*[>|]\s*\S*[>|]", line)]
            out += [*(line for line in said if line.strip(" >|"))][-_CONTEXT_LINES:]
        out.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip("\n").rstrip()


def _drop_attribution(out: list[str]) -> None:
    """Take `... wrote:` off the end, where it stands right above a quotation, also over two lines."""
    while out and not out[-1].strip():
        out.pop()
    if len(out) > 1 and _STARTS_ATTRIBUTION.match(out[-2]) and _ATTRIBUTION.search(" ".join(out[-2:]).strip()):
        del out[-2:]
    elif out and _ATTRIBUTION.search(out[-1].strip()):
        del out[-1:]
    if out:
        out.append("")
