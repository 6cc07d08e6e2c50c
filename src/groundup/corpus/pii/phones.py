"""Telephone numbers in the national formats of many countries: a number plan, a grouping, or a word in front."""

from __future__ import annotations

import re
from collections.abc import Iterator

from groundup.corpus.pii.network import Span

_GAP = r" \u00a0\u2009\u202f\u2010\u2011\u2013()./-"  # blanks and dashes as typesetters put them, too
_PHONE = re.compile(
    rf"(?<![\w.@#/$€£¥%+-])(?:\+|\(?\+?[0-9])[0-9{_GAP}]{{5,24}}[0-9](?:\s?(?:x|ext\.?|#)\s?[0-9]{{1,6}})?"
    r"(?![\w%@€£$¥]|[.,:/-][0-9]|\s?(?:%|€|EUR|USD|dollars))"
)
_EXTENSION = re.compile(r"\s?(?:x|ext|#)")
_PHONE_WORD = re.compile(
    r"(?:\bphones?|\bt[ée]l\b|\btel[eé]?[fp][oó]\w+|\btéléphone|\bmobile?|\bmóvil|\bcell|\bcelular|\bportable|\bfax|"
    r"\bcall(?:ing)?\b|\bdial|\bring\b|\btext\b|\bwhatsapp|\bcontact|\bhandy\b|\breach\b|\banswering\b|\bdesk\b|"
    r"\boffice\b|\bhome\s*:|\bwork\s*:|\brufen|\bappel|\bllam|\bchiam|\bligue|\bkomórk|\bzadzwo|\bbel(?:len)?\b|電話|携帯|"
    r"电话|手机|फ़ोन|फोन|\bтел|messages\s+to|\bregistered)[^\n0-9]{0,40}$",
    re.I,
)
_DATE = re.compile(r"\(?(?:(?:19|20)\d\d[-/. ][01]?\d[-/. ][0-3]?\d|[0-3]?\d[-/. ][0-3]?\d[-/. ](?:19|20)\d\d)\b")
_CHAIN = re.compile(r"(?:\b[0-9A-Z]{4}[ \u00a0-]){2}$")  # the groups of an account number go on
_YEARS = re.compile(r"(?:1[5-9]|20)\d\d\s?[-\u2013/]\s?(?:1[5-9]|20)\d\d")

# What a country's numbers look like without a word or a `+`. Blanks, dashes and dots are one class here: the gaps were
# normalised to one blank, the brackets were left. Each is distinct from thousands written in groups of three.
_NATIONAL = re.compile(
    "|".join(
        (
            r"(?:1 )?(?:\([2-9]\d{2}\) ?|[2-9]\d{2} )[2-9]\d{2} \d{4}",  # North America
            r"\(?0[1-9]\d{0,4}\)?(?: ?\(?\d{2,8}\)?){1,5}",  # a trunk prefix: most of Europe, Asia, Australia
            r"0\d{1,4} \d{6,8}",
            r"[6-9]\d{2} \d{2} \d{2} \d{2}|9\d \d{3} \d{2} \d{2}",  # Spain
            r"3[2-9]\d \d{6,7}|3[2-9]\d \d{3} \d{3,4}(?<! 000)",  # Italy, mobile
            r"[1-9]\d \d{3} \d{2} \d{2}",  # Poland, France without the zero
            r"\([1-9]\d\) ?9?\d{4} \d{4}|[1-9]\d 9\d{4} \d{4}",  # Brazil
            r"[6-9]\d{4} \d{5}",  # India, mobile
            r"1[3-9]\d \d{4} \d{4}",  # China, mobile
            r"[78] ?\(\d{3}\) ?\d{3} \d{2} \d{2}|8 \d{3} \d{3} \d{2} \d{2}",  # Russia
            r"\(\d{2,4}\) ?\d{3,4} \d{3,4}",  # an area code in brackets
        )
    )
)
_GAPS = re.compile(r"[ \u00a0\u2009\u202f\u2010\u2011\u2013\t./-]+")


def phones(text: str, start: int, end: int) -> Iterator[Span]:
    """Telephone numbers of 7 to 15 digits between `start` and `end`, with their extensions."""
    for match in _PHONE.finditer(text, start, end):
        number = _EXTENSION.split(match[0])[0].strip()
        if number.count("(") != number.count(")") or number.find(")") < number.find("("):
            continue
        digits = re.sub(r"\D", "", number)
        if not 7 <= len(digits) <= 15 or len(set(digits)) <= 2 or _DATE.match(number) or _YEARS.match(number):
            continue
        before = text[max(0, match.start() - 60) : match.start()]
        if _CHAIN.search(before):
            continue
        if _is_phone(number, digits, is_announced=_PHONE_WORD.search(before) is not None):
            yield match.span()


def _is_phone(number: str, digits: str, *, is_announced: bool) -> bool:
    if number.startswith(("+", "(+")):  # E.164: a country code never begins with 0
        return 8 <= len(digits) <= 15 and digits[0] != "0"
    if is_announced:
        return re.search(r"\d\.\d{1,2}$", number) is None or number.count(".") > 1
    if number.startswith("00"):
        return len(digits) >= 10 and digits[2] != "0" and (len(digits) >= 11 or _GAPS.search(number) is not None)
    spaced = _GAPS.sub(" ", number).replace(" )", ")").replace("( ", "(")
    if _NATIONAL.fullmatch(spaced) is None:
        return False
    is_trunk = digits[0] == "0"
    if number.count(".") > 2 and not is_trunk:
        return False  # four numbers between dots: an address or a version
    return not is_trunk or (9 <= len(digits) <= 12 and spaced != digits)
