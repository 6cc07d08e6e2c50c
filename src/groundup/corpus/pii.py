"""Personal data -> placeholders: <EMAIL>, <PHONE>, <IP>, <IBAN>, <CARD>, <SSN>.

Anchored: cheap signs (an `@`, a run of digits, the head of an IBAN) say where to look, and only a small window around
each is validated - by check digits, number plans and the words in front of it. Versions, hashes, dates, and the
addresses that documentation uses as examples (RFC 2606, 5737, 3849) are left alone: they belong to nobody.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from groundup.corpus.settings import PiiType


@dataclass(frozen=True)
class Found:
    type: PiiType
    start: int
    end: int


def scrub(text: str, types: Collection[PiiType]) -> tuple[str, dict[str, int]]:
    """The text with placeholders in place of personal data, and how many of each type."""
    found = find(text, types)
    if not found:
        return text, {}
    out: list[str] = []
    counts: dict[str, int] = {}
    end = 0
    for one in found:
        name = one.type.upper()
        out += (text[end : one.start], f"<{name}>")
        counts[name] = counts.get(name, 0) + 1
        end = one.end
    return "".join((*out, text[end:])), counts


def find(text: str, types: Collection[PiiType]) -> list[Found]:
    """Personal data in the text, in order and without overlaps; the more certain type wins (check digits first)."""
    finders = (("email", _emails), ("iban", _ibans), ("card", _cards), ("ssn", _ssns), ("ip", _ips), ("phone", _phones))
    taken: list[Found] = []
    for type, finder in finders:
        if type in types:
            taken += [
                Found(type, start, end)  # type: ignore[arg-type]
                for start, end in finder(text)
                if not any(start < other.end and other.start < end for other in taken)
            ]
    return sorted(taken, key=lambda one: one.start)


# ---------------------------------------------------------------- e-mail

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9](?:[\w.%+-]{0,62}\w)?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w@-])"
)
# Names that RFC 2606 and 6761 give to documentation, and forms that only look like an address.
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:example|invalid|test|localhost|local)$|(?:^|\.)example\.(?:com|org|net|edu)$", re.I
)
_NOT_PEOPLE = {"git", "svn", "hg"}  # git@github.com:owner/name is a place
_FILE_ENDINGS = {
    "py",
    "png",
    "jpg",
    "jpeg",
    "gif",
    "svg",
    "js",
    "css",
    "json",
    "txt",
    "html",
    "md",
    "xml",
    "yaml",
    "yml",
}


def _emails(text: str) -> Iterator[tuple[int, int]]:
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        local, _, domain = match[0].partition("@")
        is_place = local.lower() in _NOT_PEOPLE and text[match.end() : match.end() + 1] in (":", "/")
        if is_place or _EXAMPLE_DOMAIN.search(domain) or domain.rpartition(".")[2].lower() in _FILE_ENDINGS:
            continue
        yield match.span()


# ---------------------------------------------------------------- IBAN (ISO 13616)

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?(?![A-Za-z0-9])")
_IBAN_COUNTRIES = {  # length -> countries
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_IBAN_CHARS = {country: length for length, countries in _IBAN_COUNTRIES.items() for country in countries.split()}


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        # What follows an IBAN after a blank may look like one more group: try the shorter readings too.
        end = match.end()
        while end > match.start() + 14:
            compact = re.sub(r"[ -]", "", text[match.start() : end])
            if len(compact) == _IBAN_CHARS.get(compact[:2], 0) and _mod_97(compact):
                yield match.start(), end
                break
            end = max(text.rfind(" ", match.start(), end), text.rfind("-", match.start(), end))


def _mod_97(iban: str) -> bool:
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


# ---------------------------------------------------------------- cards (ISO 7812)

_CARD = re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){11,18}(?![\w-]|\.\d)")
_CARD_WORD = re.compile(r"(?:\bcard|\bcc\b|\bcredit|\bvisa|\bmastercard|\bmaestro|\bamex)[^\n]{0,30}$", re.I)
_CARD_HEAD = re.compile(
    r"4|5[0-8]|6(?:011|4[4-9]|5|[0379])|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720|014|149|131)|3[045678]|1800|62"
)


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if len(set(digits)) < 2 or not luhn(digits) or not _is_grouped(match[0]):
            continue
        # One number in ten passes Luhn's check: it takes a card's first digits and length too, or a word in front.
        is_announced = _CARD_WORD.search(text[max(0, match.start() - 40) : match.start()]) is not None
        if is_announced or (len(digits) > 12 and _CARD_HEAD.match(digits)):
            yield match.span()


def _is_grouped(number: str) -> bool:
    """One run of digits, or groups as cards print them; a table of numbers has groups of one or two digits."""
    groups = re.split(r"[ -]", number)
    return len(groups) == 1 or (len(groups) <= 5 and all(3 <= len(group) <= 7 for group in groups))


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO 7812-1)."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(value - 9 if value > 9 else value for value in doubled)) % 10 == 0


# ---------------------------------------------------------------- US social security numbers

_SSN = re.compile(r"(?<![\w.+/-])(\d{3})([- ])(\d{2})\2(\d{4})(?![\w-]|\.\d)")
_SSN_WORD = re.compile(r"(?:\bssn\b|social\s+security)[^\n]{0,30}$", re.I)


def _ssns(text: str) -> Iterator[tuple[int, int]]:
    for match in _SSN.finditer(text):
        area, separator, group, serial = match.groups()
        if area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000":
            continue
        if separator == "-" or _SSN_WORD.search(text[max(0, match.start() - 60) : match.start()]):
            yield match.span()


# ---------------------------------------------------------------- IP addresses

_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*:)[0-9A-Fa-f]{1,4}:[0-9A-Fa-f:]{3,36}[0-9A-Fa-f](?![\w:])"
)
_VERSION_WORD = re.compile(
    r"(?:\bversions?|\bver\.?|\brelease|\bv\.?|\bbuild|\bsection|\bchapter|[=<>~^]=?|§|\boid)\s*[:=]?\s*$", re.I
)


def _ips(text: str) -> Iterator[tuple[int, int]]:
    for match in _IPV4.finditer(text):
        before = text[max(0, match.start() - 16) : match.start()]
        if _is_public(match[0]) and not _VERSION_WORD.search(before):
            yield match.span()
    if text.count(":") < 3:
        return
    for match in _IPV6.finditer(text):
        if _is_public(match[0]):
            yield match.span()


def _is_public(address: str) -> bool:
    """An address that may belong to a person: not private, loopback, multicast, reserved or for documentation."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 4:
        # 1.2.3.4 and the like are versions or section numbers far more often than hosts.
        return parsed.is_global and not parsed.is_multicast and max(parsed.packed) > 31
    return parsed.is_global and 0x20 <= parsed.packed[0] <= 0x3F


# ---------------------------------------------------------------- telephone numbers

_PHONE = re.compile(
    r"(?<![\w.@#/$€£%-])(?:\+|\(?\+?\d)[\d()./ \t\u00a0-]{5,22}\d(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?![\w%@]|[.,:/-]\d)"
)
_PHONE_WORD = re.compile(
    r"(?:\bphones?|\btel(?:e(?:phone|fon|fono))?\b|\bmobile|\bcell|\bfax|\bcall(?:ing)?\b|\bdial|\bring\b|\btext\b|\bwhatsapp|\bcontact|"
    r"\bhandy\b|\breach\b|\banswering\b|\bdesk\b|\boffice\b|\bhome\s*:|\bwork\s*:)[^\n\d]{0,40}$",
    re.I,
)
_DATE = re.compile(r"\(?(?:(?:19|20)\d\d[-/. ][01]?\d[-/. ][0-3]?\d|[0-3]?\d[-/. ][0-3]?\d[-/. ](?:19|20)\d\d)\b")
_NORTH_AMERICAN = re.compile(r"(?:\+?1[-. ]?)?(?:\([2-9]\d{2}\)[-. ]?|[2-9]\d{2}([-./ ]))[2-9]\d{2}[-./ ]\d{4}")
_TRUNK = re.compile(r"\(?0[1-9]\d{0,4}\)?(?:[ ./-]\(?\d{2,8}\)?){1,5}")
_TRUNK_LONG = re.compile(r"0\d{1,4}[ -/]\d{6,8}")


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for match in _PHONE.finditer(text):
        start, end = match.span()
        number = re.split(r"\s?(?:x|ext)", match[0])[0]
        if number.count("(") != number.count(")"):
            continue
        digits = re.sub(r"\D", "", number)
        if not 7 <= len(digits) <= 15 or len(set(digits)) <= 2 or _DATE.match(number.strip()):
            continue
        before = text[max(0, start - 60) : start]
        if _is_phone(number.strip(), digits, is_announced=_PHONE_WORD.search(before) is not None):
            yield start, end


def _is_phone(number: str, digits: str, *, is_announced: bool) -> bool:
    if re.match(r"\(?\+", number):  # E.164: a country code never begins with 0
        return 8 <= len(digits) <= 15 and digits[0] != "0"
    if is_announced:
        return re.search(r"\d\.\d{1,2}$", number) is None or number.count(".") > 1
    if number.startswith("00") and len(digits) >= 10 and re.match(r"00[1-9]", digits):
        return bool(re.search(r"[ ./()-]", number)) or len(digits) >= 11
    if _NORTH_AMERICAN.fullmatch(number):
        return True
    is_grouped = _TRUNK.fullmatch(number) is not None or _TRUNK_LONG.fullmatch(number) is not None
    return is_grouped and 9 <= len(digits) <= 12
