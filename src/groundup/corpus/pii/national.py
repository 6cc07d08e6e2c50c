"""National identity, tax and insurance numbers of some forty countries, told by their shape and their check digits.

A shape that a random number of its length passes more often than about once in a hundred also needs a word in front
("BSN", "Sozialversicherung", "aadhaar" ...). Numbers without a check digit (passports, driving licences) are not looked
for. The arithmetic is each authority's own; where a country publishes none, as for the new Danish numbers, a date of
birth and the word stand in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from groundup.corpus.pii import national_checks as checks
from groundup.corpus.pii.check_digits import luhn, mod_11_10

Check = Callable[[str], bool]


@dataclass(frozen=True)
class Scheme:
    """One country's number. `check` takes the compact form (no separators); `words` must stand before it, if any."""

    name: str
    check: Check
    words: re.Pattern[str] | None = None


def _scheme(name: str, check: Check, words: str = "") -> Scheme:
    return Scheme(name, check, re.compile(rf"(?<![^\W\d_])(?:{words})", re.I) if words else None)


# ---------------------------------------------------------------- shapes, and who writes numbers that way

_ID = r"|(?:national|personal|identity|citizen)\s+(?:id|identity|identification|code|number)|tax\s+(?:id|number|file)"
_DE = _scheme("DE tax number", checks.de_tax)
_AT = _scheme("AT insurance number", checks.at_svnr)
_NO, _BE = _scheme("NO birth number", checks.no_birth), _scheme("BE register number", checks.be_register)
_SE, _CZ = _scheme("SE person number", checks.se_person), _scheme("CZ/SK birth number", checks.cz_birth)
_DK = _scheme("DK CPR", checks.dk_cpr, "cpr" + _ID)
_IN = _scheme("IN Aadhaar", checks.in_aadhaar)

SHAPES: tuple[tuple[str, tuple[Scheme, ...]], ...] = (
    (r"\d{17}[\dX]", (_scheme("CN resident number", checks.cn_resident),)),
    (
        r"[1-478](?:\d{4}|[ .]\d\d[ .]\d\d[ .]?)(?:\d\d|2[AB])[ .]?\d{3}[ .]?\d{3}[ .-]?\d\d",
        (_scheme("FR NIR", checks.fr_nir),),
    ),
    (r"756\.\d{4}\.\d{4}\.\d\d|756\d{10}", (_scheme("CH AHV", checks.ch_ahv),)),
    (r"\d{6}-[1-8]\d{6}", (_scheme("KR resident number", checks.kr_rrn),)),
    (r"\d{6} ?\d{4} ?\d{2} ?\d", (_scheme("ZA identity number", checks.za_id), _scheme("RO CNP", checks.ro_cnp))),
    (
        r"\d{4}[ -]\d{4}[ -]\d{4}",
        (_IN, _scheme("JP My Number", checks.jp_my_number, r"my\s?number|個人番号|マイナンバー")),
    ),
    (
        r"\d{12}",
        (
            _scheme("IN Aadhaar", checks.in_aadhaar, r"aadh?aar|uidai|uid\b|आधार"),
            _scheme("JP My Number", checks.jp_my_number, r"my\s?number|個人番号|マイナンバー"),
            _SE,
        ),
    ),
    (r"(?:19|20)\d{6}[-+]\d{4}", (_SE,)),
    (r"\d\d[. ]\d\d[. ]\d\d[-. ]\d{3}[. -]\d\d", (_BE,)),
    (r"\d{3}\.\d{3}\.\d{3}-\d\d", (_scheme("BR CPF", checks.br_cpf),)),
    (r"\d{3}-\d{3}-\d{3}[ -]\d\d", (_scheme("RU SNILS", checks.ru_snils),)),
    (r"\d\d \d{3} \d{3} \d{3}", (_DE,)),
    (r"\d{6} \d{5}", (_NO,)),
    (
        r"\d{11}",
        (
            _DE,
            _NO,
            _BE,
            _scheme("PL PESEL", checks.pl_pesel),
            _scheme("EE/LT personal code", checks.baltic),
            _scheme("TR identity number", checks.tr_kimlik, r"t\.?\s?c\.?\b|kimlik" + _ID),
            _scheme("BR CPF", checks.br_cpf, "cpf" + _ID),
            _scheme("HR OIB", mod_11_10, "oib" + _ID),
            _scheme("RU SNILS", checks.ru_snils, "снилс|snils"),
        ),
    ),
    (r"9\d\d-(?:5\d|6[0-5]|7\d|8[0-8]|9[0-24-9])-\d{4}", (_scheme("US ITIN", checks.always),)),
    (r"\d{6}[-+]\d{4}", (_SE, _DK)),
    (r"\d{6}/\d{4}", (_CZ,)),
    (r"\d{6}/\d{3}", (_scheme("CZ/SK birth number", checks.cz_birth, r"rodn|r\.\s?č" + _ID),)),
    (r"\d{4} \d{6}", (_AT,)),
    (r"\d{3}[ -]\d{3}[ -]\d{4}", (_scheme("UK NHS number", checks.uk_nhs, "nhs"),)),
    (
        r"\d{10}",
        (
            _scheme("UK NHS number", checks.uk_nhs, "nhs"),
            _scheme("BG EGN", checks.bg_egn, "егн|egn|единен" + _ID),
            _scheme("AT insurance number", checks.at_svnr, r"sv-?nr|sozialvers|versicherungsn" + _ID),
            _scheme("SE person number", checks.se_person, "person(?:al\\s)?n" + _ID),
            _scheme("CZ/SK birth number", checks.cz_birth, "rodn" + _ID),
            _DK,
        ),
    ),
    (r"\d{1,2}\.\d{3}\.\d{3}-[\dK]", (_scheme("CL RUT", checks.cl_rut),)),
    (r"\d{7,8}-[\dK]", (_scheme("CL RUT", checks.cl_rut, r"rut|run\b"), _scheme("ES DNI", checks.es_dni))),
    (r"\d{2}\.\d{3}\.\d{3}[ -]?[A-Z]|\d{8}[ -]?[A-Z]", (_scheme("ES DNI", checks.es_dni),)),
    (r"\d{7}[A-W][A-IW]?", (_scheme("IE PPS", checks.ie_pps),)),
    (r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]", (_scheme("FI identity code", checks.fi_hetu),)),
    (
        r"\d{3}[ .-]?\d{3}[ .-]?\d{3}",
        (
            _scheme("CA SIN", checks.ca_sin, r"sin\b|social\s+insurance|assurance\s+sociale|nas\b"),
            _scheme("NL BSN", checks.nl_bsn, r"bsn|burgerservice|sofi" + _ID),
            _scheme("PT NIF", checks.pt_nif, r"nif\b|contribuinte|n[úu]mero\s+fiscal"),
            _scheme("AU TFN", checks.au_tfn, r"tfn\b|tax\s+file"),
            _scheme("IL identity number", luhn, r"teudat|ת[\"״.]?ז|israeli\s+id" + _ID),
        ),
    ),
    # led by letters
    (r"[A-Z]{3} ?[A-Z]{3} ?\d\d[A-EHLMPRST]\d\d ?[A-Z]\d{3}[A-Z]", (_scheme("IT codice fiscale", checks.it_cf),)),
    (r"[A-Z][AEIOUX][A-Z]{2}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d", (_scheme("MX CURP", checks.mx_curp),)),
    (r"[XYZ]-?\d{7}-?[A-Z]", (_scheme("ES NIE", checks.es_dni),)),
    (
        r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?:\d{6}| \d\d \d\d \d\d |-\d\d-\d\d-\d\d-)[A-D]",
        (_scheme("UK NINO", checks.always),),
    ),
    (r"[A-Z]{3}P[A-Z]\d{4}[A-Z]", (_scheme("IN PAN", checks.always),)),
    (r"[STFG]\d{7}[A-Z]", (_scheme("SG NRIC", checks.sg_nric),)),
    (r"[A-Z]{1,2}\d{6} ?\([0-9A]\)", (_scheme("HK identity card", checks.hk_id),)),
    (r"[A-Z][12]\d{8}", (_scheme("TW identity number", checks.tw_id),)),
)

# `\d` is ASCII here: other scripts' digits are folded before anything is looked for.
_ANY = re.compile(
    r"(?<![\w.+/@#-])(?:" + "|".join(f"({shape})" for shape, _ in SHAPES) + r")(?![\w@]|[-./+][A-Za-z0-9])", re.A
)
_SCHEMES = tuple(schemes for _, schemes in SHAPES)
# Groups with another group before or behind them are a piece of a card's or an account's number.
_GROUPS = re.compile(r"\d{4}[ -]\d{4}[ -]\d{4}|\d{4} \d{6}")
_YEARS = re.compile(r"(?:(?:1[5-9]|20)\d\d[ -]?){3}")
_GROUP_BEFORE, _GROUP_AFTER = re.compile(r"[0-9A-Z]{4}[ -]$"), re.compile(r"[ -][0-9]{2,4}\b")
_SEPARATORS = str.maketrans("", "", " .-/+()")


def national_ids(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """(start, end, the scheme's name) of every national number between `start` and `end`."""
    for match in _ANY.finditer(text, start, end):
        is_part = _GROUPS.fullmatch(match[0]) and (
            _YEARS.fullmatch(match[0])
            or _GROUP_BEFORE.search(text, max(0, match.start() - 5), match.start())
            or _GROUP_AFTER.match(text, match.end())
        )
        if not is_part and (scheme := _scheme_of(match, text)):
            yield *match.span(), scheme.name


def _scheme_of(match: re.Match[str], text: str) -> Scheme | None:
    compact = match[0].translate(_SEPARATORS)
    before = ""
    for scheme in _SCHEMES[(match.lastindex or 1) - 1]:
        # The finer shapes stand first, so that a number which fits two of them is tried under both by their schemes.
        if not scheme.check(compact):
            continue
        if scheme.words is None:
            return scheme
        before = before or text[max(0, match.start() - 60) : match.start()]
        if scheme.words.search(before):
            return scheme
    return None
