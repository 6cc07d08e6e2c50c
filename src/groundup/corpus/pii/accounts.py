"""Bank accounts (IBAN), payment cards and US social security numbers: fixed shapes, most of them with check digits."""

from __future__ import annotations

import re
from collections.abc import Iterator

from groundup.corpus.pii.check_digits import luhn, mod_97
from groundup.corpus.pii.network import Span

# ---------------------------------------------------------------- IBAN (ISO 13616)

_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ \u00a0-]?[A-Z0-9]{4}){2,7}(?:[ \u00a0-]?[A-Z0-9]{1,4})?(?![A-Za-z0-9])"
)
_IBAN_COUNTRIES = {  # length -> countries, from the registry of SWIFT
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL SD FK",
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


def ibans(text: str, start: int, end: int) -> Iterator[Span]:
    """IBANs with right length and check digits, compact or in groups of four."""
    for match in _IBAN.finditer(text, start, end):
        # What follows an IBAN after a blank may look like one more group: try the shorter readings too.
        stop = match.end()
        while stop > match.start() + 14:
            compact = re.sub(r"[ \u00a0-]", "", text[match.start() : stop])
            if len(compact) == _IBAN_CHARS.get(compact[:2], 0) and mod_97(compact):
                yield match.start(), stop
                break
            stop = max(text.rfind(separator, match.start(), stop) for separator in " \u00a0-")


# ---------------------------------------------------------------- cards (ISO/IEC 7812)

_CARD = re.compile(r"(?<![\w.+-])[0-9](?:[ \u00a0-]?[0-9]){11,18}(?![\w-]|\.[0-9])")
_GROUP_BEFORE = re.compile(r"\b[A-Z]{2}[0-9]{2}[ -]$")
_CARD_WORD = re.compile(
    r"(?:card|carte|karte|tarjeta|cart[ãa]o|carta\b|kaart|kort\b|\bkart|カード|卡|\bcc\b|\bcredit|\bvisa|\bmastercard|\bmaestro|"
    r"\bamex)[^\n]{0,30}$",
    re.I,
)
# What issuers' numbers begin with, and how long they are.
_CARD_HEADS = tuple(
    (re.compile(head), sizes)
    for head, sizes in (
        ("4", (13, 16, 19)),  # Visa
        ("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),  # Mastercard
        ("3[47]|2014|2149|2131|1800", (15,)),  # American Express, enRoute, the old JCB
        ("30[0-5]|309|3[689]", (14, 16, 17, 18, 19)),  # Diners Club
        ("35|6011|64[4-9]|65|62|60|81|82", (16, 17, 18, 19)),  # JCB, Discover, UnionPay, RuPay
        ("50|5[6-8]|6[0379]", (13, 14, 15, 16, 17, 18, 19)),  # Maestro
    )
)


def cards(text: str, start: int, end: int) -> Iterator[Span]:
    """Card numbers: Luhn's check, an issuer's first digits and length, or a word in front."""
    for match in _CARD.finditer(text, start, end):
        digits = re.sub(r"\D", "", match[0])
        if len(set(digits)) < 2 or not luhn(digits) or not _is_grouped(match[0]):
            continue
        if _GROUP_BEFORE.search(text, max(0, match.start() - 6), match.start()):
            continue  # the groups of an account number
        # One number in ten passes Luhn's check: it takes a card's first digits and length too, or a word in front.
        is_announced = _CARD_WORD.search(text[max(0, match.start() - 40) : match.start()]) is not None
        if is_announced or any(len(digits) in sizes and head.match(digits) for head, sizes in _CARD_HEADS):
            yield match.span()


def _is_grouped(number: str) -> bool:
    """One run of digits, or groups as cards print them; a table of numbers has groups of one or two digits."""
    groups = re.split(r"[ \u00a0-]", number)
    return len(groups) == 1 or (len(groups) <= 5 and all(3 <= len(group) <= 7 for group in groups))


# ---------------------------------------------------------------- US social security numbers (no check digit)

_SSN = re.compile(r"(?<![\w.+/-])([0-9]{3})([- ])([0-9]{2})\2([0-9]{4})(?![\w-]|\.[0-9])")
_SSN_COMPACT = re.compile(r"(?<![\w.+/-])([0-9]{3})()([0-9]{2})([0-9]{4})(?![\w-]|\.[0-9])")
_SSN_WORD = re.compile(r"(?:\bssn\b|social\s+security)[^\n]{0,30}$", re.I)


def ssns(text: str, start: int, end: int) -> Iterator[Span]:
    """Numbers that the administration may have given out: dashed, or with blanks or compact after the word."""
    for pattern in (_SSN, _SSN_COMPACT):
        for match in pattern.finditer(text, start, end):
            area, separator, group, serial = match.groups()
            if area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000":
                continue
            if separator == "-" or _SSN_WORD.search(text[max(0, match.start() - 60) : match.start()]):
                yield match.span()
