"""Where personal data stands in a text, and the text with placeholders in its place.

Anchored: cheap signs (an `@`, a stretch of digits, capitals that lead digits, a colon between hex digits) say where to
look, and only a small window around each is validated - by check digits, number plans and the words in front of it.
Versions, hashes, dates, and the addresses that documentation uses as examples (RFC 2606, 5737, 3849) are left alone:
they belong to nobody.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from groundup.corpus.pii.accounts import cards, ibans, ssns
from groundup.corpus.pii.national import national_ids
from groundup.corpus.pii.network import Span, emails, ipv4_addresses, ipv6_addresses
from groundup.corpus.pii.phones import phones
from groundup.corpus.settings import PiiType
from groundup.errors import UserError

if TYPE_CHECKING:
    from groundup.corpus.pii.names import NameTagger

# The more certain type wins where two overlap: check digits before shapes, shapes before words.
CERTAINTY: tuple[PiiType, ...] = (
    "secret", "email", "iban", "card", "national_id", "ssn", "ip", "phone", "address", "name",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Characters start..end of the text; `detail` says what exactly it is (`IT codice fiscale`), if known."""

    type: PiiType
    start: int
    end: int
    detail: str = ""


# `(` and `+` are in the first class for speed as well: with them, Python compiles it to a bitmap (2x faster).
_NUMBERS = re.compile(r"[0-9(+][0-9 ()./\u00a0\u2009\u202f\u2010\u2011\u2013\-]{5,}[0-9]")
_LETTERED = re.compile(r"[A-Z+(][A-Z]{0,2} ?[A-Z]{0,3}[ -]?[0-9][0-9A-Z \u00a0-]{3,}[0-9A-Z(]")
_MARGIN = (
    24  # characters around a stretch of digits that belong to it: a country's letters, an extension, a check letter
)
_OTHER_DIGITS = re.compile("[\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\u09e6-\u09ef\uff10-\uff19]")
_TO_ASCII = {
    zero + value: str(value) for zero in (0x660, 0x6F0, 0x966, 0x9E6, 0xFF10) for value in range(10)
}  # Arabic, Persian, Devanagari, Bengali, full width


def find(
    text: str, types: Collection[PiiType], *, private_ips: bool = False, names: NameTagger | None = None
) -> list[Found]:
    """Personal data of these types, in order and without overlaps.

    `private_ips`: also RFC 1918 and unique local addresses. `names`: the tagger that the type `name` needs.
    Raises UserError where `name` is asked for without one.
    """
    plain = text
    if not text.isascii() and _OTHER_DIGITS.search(text):
        plain = text.translate(_TO_ASCII)  # one character for one: places stay
    candidates = sorted(_candidates(plain, frozenset(types), private_ips), key=_rank)
    if "address" in types:
        from groundup.corpus.pii.addresses import addresses

        candidates += (Found("address", *span) for span in addresses(plain))
    if "name" in types:
        if names is None:
            raise UserError(
                "the type `name` needs a trained tagger", fix="train one (pii/names.py), or leave `name` out"
            )
        candidates += (Found("name", *span) for span in names.people(text))
    return _without_overlaps(candidates)


def scrub(text: str, types: Collection[PiiType], *, private_ips: bool = False) -> tuple[str, dict[str, int]]:
    """The text with placeholders such as <EMAIL> in place of personal data, and how many of each type."""
    return replaced(text, find(text, types, private_ips=private_ips))


def replaced(text: str, found: Iterable[Found]) -> tuple[str, dict[str, int]]:
    """The text with a placeholder for each of `found` (as `find` gives them), and how many of each type."""
    out: list[str] = []
    counts: dict[str, int] = {}
    end = 0
    for one in found:
        name = one.type.upper()
        out += (text[end : one.start], f"<{name}>")
        counts[name] = counts.get(name, 0) + 1
        end = one.end
    return ("".join((*out, text[end:])), counts) if out else (text, counts)


def _rank(one: Found) -> tuple[int, int, int]:
    return CERTAINTY.index(one.type), one.start, one.end


def _without_overlaps(candidates: Iterable[Found]) -> list[Found]:
    """Those that stand where none before them stands, in the order of the text."""
    taken: list[Found] = []
    starts: list[int] = []
    for one in candidates:
        place = bisect_left(starts, one.start)
        is_free_before = place == 0 or taken[place - 1].end <= one.start
        if is_free_before and (place == len(taken) or one.end <= starts[place]):
            taken.insert(place, one)
            starts.insert(place, one.start)
    return taken


def _candidates(text: str, types: frozenset[PiiType], private_ips: bool) -> Iterator[Found]:
    if "secret" in types:
        from groundup.corpus.pii.secrets import find_secrets

        for secret in find_secrets(text):
            yield Found("secret", secret.start, secret.end, secret.kind)
    if "email" in types:
        yield from (Found("email", *span) for span in emails(text))
    if "ip" in types:
        yield from (Found("ip", *span) for span in ipv6_addresses(text, private=private_ips))
    if types & {"card", "ssn", "ip", "phone", "national_id"}:
        for start, end in _windows(_NUMBERS, text):
            yield from _in_numbers(text, start, end, types, private_ips)
    if types & {"iban", "national_id"}:
        for start, end in _windows(_LETTERED, text):
            if "iban" in types:
                yield from (Found("iban", *span) for span in ibans(text, start, end))
            if "national_id" in types:
                yield from (Found("national_id", a, b, name) for a, b, name in national_ids(text, start, end))


def _windows(anchor: re.Pattern[str], text: str) -> Iterator[Span]:
    """Stretches to look at, apart from each other."""
    start = end = -1
    for match in anchor.finditer(text):
        left, right = max(0, match.start() - _MARGIN), match.end() + _MARGIN
        if left > end:
            if end >= 0:
                yield start, end
            start = left
        end = right
    if end >= 0:
        yield start, end


def _in_numbers(text: str, start: int, end: int, types: frozenset[PiiType], private_ips: bool) -> Iterator[Found]:
    if "card" in types:
        yield from (Found("card", *span) for span in cards(text, start, end))
    if "ssn" in types:
        yield from (Found("ssn", *span) for span in ssns(text, start, end))
    if "ip" in types:
        yield from (Found("ip", *span) for span in ipv4_addresses(text, start, end, private=private_ips))
    if "national_id" in types:
        yield from (Found("national_id", a, b, name) for a, b, name in national_ids(text, start, end))
    if "phone" in types:
        yield from (Found("phone", *span) for span in phones(text, start, end))
