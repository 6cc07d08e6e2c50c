"""Exact duplicates: of documents by their normalised text, of addresses by their normalised URL, and of paragraphs.

Keys are 128 bits of xxh3. exact_groups.py has the same from files to files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import xxhash

MIN_PARAGRAPH_CHARS = 100
_PARAGRAPH_BREAK = re.compile(r"(?<=\n)\n+")
_ASCII_WORDS = {code: " " for code in range(128) if not chr(code).isalnum()}

# Parameters that tell who came from where, or which visit it is, never which page.
_VISIT_PARAMETERS = re.compile(
    r"(?i)(utm_\w+|mc_[ce]id|[gf]bclid|gclid|gclsrc|dclid|msclkid|yclid|igshid|_ga|_gl|ref_src"
    r"|phpsessid|jsessionid|aspsessionid\w*|sessionid|sid)"
)
_SESSION_IN_PATH = re.compile(r"(?i);jsessionid=[^/?]*")
_INDEX_PAGE = re.compile(r"(?i)/(index|default)\.(html?|php|aspx?|jsp)$")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def normalise(text: str) -> str:
    """What two texts must share to count as one: letters and digits, whatever their case, punctuation and spacing."""
    if text.isascii():  # the same result, several times as fast
        return " ".join(text.lower().translate(_ASCII_WORDS).split())
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).lower()).strip()


def text_key(text: str, *, is_code: bool = False) -> int:
    """128-bit key of a text. In code punctuation is meaning, so only white space is evened out there."""
    evened = " ".join(text.split()) if is_code else normalise(text)
    # A text of punctuation alone has nothing left: it must not equal every other such text.
    return xxhash.xxh3_128_intdigest((evened or text).encode("utf-8", "surrogatepass"))


def normalise_url(url: str) -> str:
    """The address without what does not tell pages apart, or "" for what is no http(s) address.

    http and https, `www.`, upper case and default ports in the host, fragments, session and campaign parameters, the
    order of the others, `index.html`, a slash at the end, and needless percent-encoding make no difference (RFC 3986,
    6.2, and beyond).
    A fragment that begins with `!` names a page on sites of one page, so it stays.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return ""
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    if scheme not in _DEFAULT_PORTS or not host:
        return ""
    host = host.removeprefix("www.")
    if port and port not in _DEFAULT_PORTS.values():
        host = f"{host}:{port}"
    path = quote(_SESSION_IN_PATH.sub("", parts.path), "/%:@!$&'()*+,;=", errors="surrogateescape")
    path = _ESCAPE.sub(_plain_where_unreserved, path)
    path = _INDEX_PAGE.sub("/", path).rstrip("/")
    pairs = parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape")
    kept = sorted((name, value) for name, value in pairs if not _VISIT_PARAMETERS.fullmatch(name))
    query = f"?{urlencode(kept, errors='surrogateescape')}" if kept else ""
    fragment = f"#{parts.fragment}" if parts.fragment.startswith("!") else ""
    return f"{host}{path}{query}{fragment}"


def _plain_where_unreserved(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character.isascii() and (character.isalnum() or character in "-._~") else escape[0].upper()


def url_key(url: str) -> int | None:
    """128-bit key of an address, None for what is no http(s) address (and so no duplicate of anything)."""
    address = normalise_url(url)
    return xxhash.xxh3_128_intdigest(address.encode("utf-8", "surrogatepass")) if address else None


def exact_duplicates(keys: Iterable[int | None]) -> list[int | None]:
    """For each document, the place of the first one with the same key, or None for a first one and for key None."""
    first: dict[int, int] = {}
    result: list[int | None] = []
    for place, key in enumerate(keys):
        earlier = place if key is None else first.setdefault(key, place)
        result.append(None if earlier == place else earlier)
    return result


# ---------------------------------------------------------------- paragraphs


def paragraph_keys(text: str) -> list[tuple[int, int]]:
    """(number of the paragraph, its key) of each paragraph of at least MIN_PARAGRAPH_CHARS characters."""
    paragraphs = _PARAGRAPH_BREAK.split(text)
    return [
        (place, text_key(paragraph))
        for place, paragraph in enumerate(paragraphs)
        if len(paragraph) >= MIN_PARAGRAPH_CHARS
    ]


def cut_paragraphs(text: str, numbers: set[int]) -> str:
    """The text without the paragraphs of these numbers (as `paragraph_keys` counts them)."""
    if not numbers:
        return text
    paragraphs = _PARAGRAPH_BREAK.split(text)
    return "\n\n".join(one.rstrip("\n") for place, one in enumerate(paragraphs) if place not in numbers)


def cut_seen_paragraphs(text: str, seen: set[int]) -> tuple[str, int]:
    """The text without long paragraphs that are in `seen` (which grows), and how many were cut."""
    cut: set[int] = set()
    for place, key in paragraph_keys(text):
        if key in seen:
            cut.add(place)
        seen.add(key)
    return cut_paragraphs(text, cut), len(cut)
