"""Personal data: found with its check digits, left alone with a wrong one; what is replaced comes back."""

from __future__ import annotations

import random
import stat
import string
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from groundup.corpus.pii import find, luhn, replaced, scrub
from groundup.corpus.pii import national_checks as checks
from groundup.corpus.pii.audit import audit_row, is_sampled, read_audit, restore, write_audit
from groundup.corpus.pii.check_digits import verhoeff
from groundup.corpus.pii.names import load_names, read_iob2, train_names
from groundup.corpus.settings import PII_TYPES, PiiType
from groundup.errors import UserError


def types_in(text: str, *types: PiiType) -> list[tuple[str, str]]:
    return [(one.type, text[one.start : one.end]) for one in find(text, types or PII_TYPES)]


# ---------------------------------------------------------------- check digits


@given(st.text(string.digits, min_size=11, max_size=11), st.integers(0, 15), st.integers(1, 9))
def test_a_card_is_found_and_with_one_wrong_digit_it_is_not(body: str, place: int, more: int) -> None:
    number = "4539" + body
    number += next(digit for digit in string.digits if luhn(number + digit))
    assume(len(set(number)) > 2)
    assert types_in(f"paid with {number} yesterday", "card") == [("card", number)]
    wrong = number[:place] + str((int(number[place]) + more) % 10) + number[place + 1 :]
    assert types_in(f"paid with {wrong} yesterday", "card") == []


@given(st.text(string.digits, min_size=18, max_size=18), st.integers(4, 21), st.integers(1, 9), st.booleans())
def test_an_iban_is_found_and_with_one_wrong_digit_it_is_not(
    account: str, place: int, more: int, in_groups: bool
) -> None:
    number = f"DE{98 - int(account + '131400') % 97:02d}{account}"  # D = 13, E = 14
    wrong = number[:place] + str((int(number[place]) + more) % 10) + number[place + 1 :]
    if in_groups:
        number, wrong = (" ".join(one[at : at + 4] for at in range(0, 22, 4)) for one in (number, wrong))
    assert types_in(f"to {number}, thanks", "iban") == [("iban", number)]
    assert types_in(f"to {wrong}, thanks", "iban") == []


@given(st.text(string.digits, min_size=11, max_size=11), st.integers(0, 11), st.integers(1, 9))
def test_verhoeff_sees_every_wrong_digit_and_every_swap_of_neighbours(body: str, place: int, more: int) -> None:
    number = next(body + digit for digit in string.digits if verhoeff(body + digit))
    assert not verhoeff(number[:place] + str((int(number[place]) + more) % 10) + number[place + 1 :])
    if place < 11 and number[place] != number[place + 1]:
        assert not verhoeff(number[:place] + number[place + 1] + number[place] + number[place + 2 :])


# Numbers that authorities, encyclopaedias or the makers of validators publish as examples.
EXAMPLES = [
    ("86095742719", "DE tax number", ""),
    ("1 51 02 46102 043 25".replace("46102", "46 102"), "FR NIR", ""),
    ("12345678Z", "ES DNI", ""),
    ("X-1234567-L", "ES NIE", ""),
    ("RCCMNL83S18D969H", "IT codice fiscale", ""),
    ("111222333", "NL BSN", "BSN "),
    ("44051401359", "PL PESEL", ""),
    ("85.07.30-033.28", "BE register number", ""),
    ("811228-9874", "SE person number", ""),
    ("15108695088", "NO birth number", ""),
    ("131052-308T", "FI identity code", ""),
    ("1237 010180", "AT insurance number", ""),
    ("756.9217.0769.85", "CH AHV", ""),
    ("710319/2745", "CZ/SK birth number", ""),
    ("7523169263", "BG EGN", "ЕГН "),
    ("1234567FA", "IE PPS", ""),
    ("17291716060", "TR identity number", "TC kimlik no "),
    ("390.533.447-05", "BR CPF", ""),
    ("12.531.909-2", "CL RUT", ""),
    ("943 476 5919", "UK NHS number", "NHS number "),
    ("AB 12 34 56 C", "UK NINO", ""),
    ("123 456 782", "CA SIN", "social insurance number "),
    ("123 456 782", "AU TFN", "TFN "),
    ("7503305044089", "ZA identity number", ""),
    ("11010519491231002X", "CN resident number", ""),
    ("2341 2341 2346", "IN Aadhaar", ""),
    ("S1234567D", "SG NRIC", ""),
    ("A123456(3)", "HK identity card", ""),
    ("A123456789", "TW identity number", ""),
    ("BOXW310820HNERXN09", "MX CURP", ""),
    ("912-70-1234", "US ITIN", ""),
]


@pytest.mark.parametrize(("number", "scheme", "before"), EXAMPLES, ids=[scheme for _, scheme, _ in EXAMPLES])
def test_national_numbers_are_found_by_their_own_rule(number: str, scheme: str, before: str) -> None:
    text = f"Noted: {before}{number} for the file."
    found = find(text, ("national_id",))
    assert [(one.detail, text[one.start : one.end]) for one in found] == [(scheme, number)]
    if before:  # without the word it could be any number
        assert find(f"Noted: {number} for the file.", ("national_id",)) == []


@pytest.mark.parametrize(
    ("check", "number"),
    [
        (checks.fr_nir, "151024610204325"),
        (checks.es_dni, "12345678Z"),
        (checks.it_cf, "RCCMNL83S18D969H"),
        (checks.nl_bsn, "111222333"),
        (checks.be_register, "85073003328"),
        (checks.no_birth, "15108695088"),
        (checks.fi_hetu, "131052-308T"),
        (checks.ch_ahv, "7569217076985"),
        (checks.tr_kimlik, "17291716060"),
        (checks.cl_rut, "125319092"),
        (checks.uk_nhs, "9434765919"),
        (checks.za_id, "7503305044089"),
        (checks.cn_resident, "11010519491231002X"),
        (checks.sg_nric, "S1234567D"),
        (checks.hk_id, "A1234563"),
    ],
)
def test_every_wrong_digit_breaks_the_check_where_the_scheme_promises_it(check: object, number: str) -> None:
    assert callable(check)
    assert check(number)
    wrong = [
        number[:place] + digit + number[place + 1 :]
        for place in range(len(number))
        if number[place].isdigit()
        for digit in string.digits
        if digit != number[place]
    ]
    passed = [one for one in wrong if check(one)]
    assert passed == [], f"{len(passed)} of {len(wrong)} wrong numbers pass"


# ---------------------------------------------------------------- telephones, addresses of machines


@pytest.mark.parametrize(
    "number",
    ["(212) 664-7665", "+1-984-182-0190", "020 7946 0018", "+44 (0)161 496 0000", "030 12345678", "089/12345678",
     "01 23 45 67 89", "06.12.34.56.78", "91 123 45 67", "612 34 56 78", "333 123 4567", "02 1234 5678", "020-1234567",
     "22 123 45 67", "070-123 45 67", "(11) 91234-5678", "98765 43210", "03-1234-5678", "138 1234 5678",
     "8 (495) 123-45-67", "+49\u00a030\u202f1234\u20115678"],
)  # fmt: skip
def test_telephones_of_many_countries_are_found_without_a_word(number: str) -> None:
    assert types_in(f"I noted {number} in the book.", "phone") == [("phone", number)]


def test_digits_of_other_scripts_are_digits() -> None:
    assert scrub("फोन: +९१ ९८७६५ ४३२१० पर", ("phone",)) == ("फोन: <PHONE> पर", {"PHONE": 1})
    assert scrub("ＴＥＬ ０３－１２３４－５６７８".replace("－", "-"), ("phone",))[1] == {"PHONE": 1}


def test_private_addresses_are_replaced_only_when_asked_for() -> None:
    text = "192.168.1.20, 10.0.0.7, fd12:3456:789a::1 and 93.184.216.34; not 127.0.0.1 nor 192.0.2.1 nor 2001:db8::1"
    assert scrub(text, ("ip",))[1] == {"IP": 1}
    assert scrub(text, ("ip",), private_ips=True)[1] == {"IP": 4}


def test_the_groups_of_an_account_with_a_wrong_check_digit_are_nothing_else() -> None:
    assert types_in("Reference PL03 6970 0855 1968 1949 1216 9645 was rejected.") == []
    assert types_in("The sample number 2221 3325 3678 9025 fails the check.") == []


def test_emails_in_any_script_and_after_any_number_of_at_signs() -> None:
    text = "an @-@ b, jörg@müller.de, " + "@" * 500 + ", a@b@c.de and иван@почта.рф!"
    assert [found for _, found in types_in(text, "email")] == ["jörg@müller.de", "b@c.de", "иван@почта.рф"]


@pytest.mark.parametrize(
    "address",
    ["742 Evergreen Terrace, Springfield, IL 62704", "221B Baker Street, London NW1 6XE",
     "Hauptstraße 12, 10115 Berlin",
     "12 rue de la Paix, 75002 Paris", "Calle de Alcalá 45, 28014 Madrid", "Via Garibaldi 7, 20121 Milano",
     "Keizersgracht 123, 1015 CJ Amsterdam", "P.O. Box 1234", "ul. Marszałkowska 10, 00-590 Warszawa"],
)  # fmt: skip
def test_addresses_are_found_by_rule(address: str) -> None:
    text = f"She lives at {address}."
    found = find(text, ("address",))
    assert len(found) == 1
    covered = found[0].end - found[0].start
    assert covered >= 0.6 * len(address)
    assert find("During 1990 the 3 wise men took 12 good steps, in Spring 2004 too.", ("address",)) == []


# ---------------------------------------------------------------- the text with placeholders


PIECES = ["a@firm.de", "+49 30 1234567", "93.184.216.34", " ", "x", "\n", "4111111111111111", "é", "@", ":", "::"]


@given(st.lists(st.sampled_from(PIECES)))
@example(["\udc80", "a@firm.de", "\u0660"])
def test_what_was_replaced_can_be_put_back(parts: list[str]) -> None:
    text = "".join(parts)
    found = find(text, PII_TYPES)
    assert all(one.end <= other.start for one, other in pairwise(found))
    scrubbed, counts = replaced(text, found)
    assert sum(counts.values()) == len(found)
    assert restore(scrubbed, audit_row("d", text, found)) == text


@given(st.text(max_size=200))
def test_any_text_is_scrubbed_without_an_error_and_twice_is_once(text: str) -> None:
    once, _ = scrub(text, (*PII_TYPES, "secret", "address"))
    assert scrub(once, PII_TYPES)[0] == once


def test_the_audit_is_for_its_owner_only_and_of_the_same_documents_everywhere(tmp_path: Path) -> None:
    text = "write to a@firm.de"
    row = audit_row("d1", text, find(text, PII_TYPES))
    path = tmp_path / "audit.jsonl"
    assert write_audit(path, [row]) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert restore("write to <EMAIL>", read_audit(path)[0]) == text
    with pytest.raises(UserError, match="no <EMAIL> at character 9"):
        restore("another text", row)
    sampled = [id for id in map(str, range(10_000)) if is_sampled(id, 0.1)]
    assert 900 < len(sampled) < 1100
    assert not any(is_sampled(id, 0.0) for id in sampled)
    assert set(sampled) <= {id for id in map(str, range(10_000)) if is_sampled(id, 0.2)}


def test_overlapping_finds_are_settled_quickly_however_many() -> None:
    text = "call 030 1234567, " * 3000
    assert scrub(text, PII_TYPES)[1] == {"PHONE": 3000}


# ---------------------------------------------------------------- names


def test_names_need_a_tagger() -> None:
    with pytest.raises(UserError, match="needs a trained tagger"):
        find("Anna", ("name",))


def test_a_tagger_trained_on_labelled_sentences_finds_people(shared_data: Path, tmp_path: Path) -> None:
    report = train_names(read_iob2(shared_data / "pii/uner-ewt-dev.iob2.gz"), tmp_path / "names")
    assert report["precision"] >= 0.8
    assert report["recall"] >= 0.4  # half of the names of informal web text: what so few sentences teach
    tagger = load_names(tmp_path / "names")
    text = "Dear Mr. Jonathan Smith, please tell Maria that Google is in Paris."
    assert [text[start:end] for start, end in tagger.people(text)] == ["Jonathan Smith", "Maria"]
    found = [one for one in find(text, ("name", "email"), names=tagger) if one.type == "name"]
    assert replaced(text, found)[0] == "Dear Mr. <NAME>, please tell <NAME> that Google is in Paris."


def test_a_damaged_tagger_or_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no name tagger"):
        load_names(tmp_path)
    (tmp_path / "x.iob2").write_text("1\tAnna\n")
    with pytest.raises(UserError, match="has no tag"):
        read_iob2(tmp_path / "x.iob2")


def test_random_numbers_are_seldom_taken_for_national_ones() -> None:
    """Without a word in front, one random number in fifty at most passes any scheme of its length."""
    rng = random.Random(3)
    for size in (8, 9, 10, 11, 12, 13, 15, 18):
        numbers = ["".join(rng.choice(string.digits) for _ in range(size)) for _ in range(2000)]
        taken = sum(bool(find(f"no. {number} is", ("national_id",))) for number in numbers)
        assert taken <= 40, size
