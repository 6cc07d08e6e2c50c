"""The arithmetic of national numbers: each takes the compact form (no separators), and says whether it holds."""

from __future__ import annotations

import re
from string import ascii_uppercase, digits

from groundup.corpus.pii.check_digits import is_date, luhn, mod_11_2, mod_11_10, verhoeff, weighted


def de_tax(n: str) -> bool:
    counts = [n[:10].count(digit) for digit in set(n[:10])]
    # One digit stands twice among the first ten, or (since 2016) thrice; every other once.
    return n[0] != "0" and (len(counts), max(counts)) in ((9, 2), (8, 3)) and mod_11_10(n)


def fr_nir(n: str) -> bool:
    number = n[:13].replace("2A", "19").replace("2B", "18")
    month = int(n[3:5])
    is_month = 1 <= month <= 12 or 20 <= month <= 42 or 50 <= month <= 99
    return number.isdigit() and is_month and n[5:7] != "00" and 97 - int(number) % 97 == int(n[13:])


def es_dni(n: str) -> bool:
    number = n[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == n[-1]


_CF_ODD_DIGITS = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21)
_CF_ODD_LETTERS = (*_CF_ODD_DIGITS, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_CF_ODD = dict(zip(ascii_uppercase, _CF_ODD_LETTERS, strict=True)) | dict(zip(digits, _CF_ODD_DIGITS, strict=True))


def it_cf(n: str) -> bool:
    odd = sum(_CF_ODD[character] for character in n[0:15:2])
    even = sum(int(character) if character.isdigit() else ord(character) - 65 for character in n[1:15:2])
    return chr(65 + (odd + even) % 26) == n[15]


def nl_bsn(n: str) -> bool:
    return weighted(n, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0 and int(n) > 0


def pl_pesel(n: str) -> bool:
    century, month = divmod(int(n[2:4]), 20)
    is_born = century in (0, 1) and is_date(n[:2], month, n[4:6])  # 1900-2099
    return is_born and (10 - weighted(n, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10) % 10 == int(n[10])


def be_register(n: str) -> bool:
    month = int(n[2:4]) % 20  # 20 or 40 more where the sex is not known
    remainders = (97 - int(n[:9]) % 97, 97 - int("2" + n[:9]) % 97)
    return month <= 12 and int(n[4:6]) <= 31 and int(n[9:]) in remainders


def se_person(n: str) -> bool:
    n = n[-10:]
    day = int(n[4:6])
    return is_date(n[:2], n[2:4], day - 60 if day > 60 else day) and luhn(n)


def no_birth(n: str) -> bool:
    day = int(n[:2])
    first = weighted(n, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
    second = weighted(n, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0
    return is_date(n[4:6], n[2:4], day - 40 if day > 40 else day) and first and second


def dk_cpr(n: str) -> bool:
    return is_date(n[4:6], n[2:4], n[:2])


def fi_hetu(n: str) -> bool:
    number = re.sub(r"\D", "", n[:-1])
    letters = "0123456789ABCDEFHJKLMNPRSTUVWXY"
    return is_date(n[4:6], n[2:4], n[:2]) and letters[int(number) % 31] == n[-1]


def at_svnr(n: str) -> bool:
    return (
        n[0] != "0"
        and is_date(n[8:10], n[6:8], n[4:6])
        and weighted(n, (3, 7, 9, 0, 5, 8, 4, 2, 1, 6)) % 11 == int(n[3])
    )


def ch_ahv(n: str) -> bool:
    return (10 - weighted(n, (1, 3) * 6) % 10) % 10 == int(n[12])


def cz_birth(n: str) -> bool:
    month = int(n[2:4])
    month -= 70 if month > 70 else 50 if month > 50 else 20 if month > 20 else 0
    is_checked = len(n) == 9 or int(n) % 11 == 0 or (int(n[:9]) % 11 == 10 and n[9] == "0")
    return is_date(n[:2], month, n[4:6]) and is_checked


def ro_cnp(n: str) -> bool:
    county = int(n[7:9])
    is_born = n[0] in "12345678" and is_date(n[1:3], n[3:5], n[5:7])
    is_placed = 1 <= county <= 52 or county == 70 or 80 <= county <= 83
    check = weighted(n, (2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9)) % 11
    return is_born and is_placed and (1 if check == 10 else check) == int(n[12])


def bg_egn(n: str) -> bool:
    month = int(n[2:4]) % 20
    return is_date(n[:2], month, n[4:6]) and weighted(n, (2, 4, 8, 5, 10, 9, 7, 3, 6)) % 11 % 10 == int(n[9])


def baltic(n: str) -> bool:
    check = weighted(n, (1, 2, 3, 4, 5, 6, 7, 8, 9, 1)) % 11
    if check == 10:
        check = weighted(n, (3, 4, 5, 6, 7, 8, 9, 1, 2, 3)) % 11 % 10
    return n[0] in "123456" and is_date(n[1:3], n[3:5], n[5:7]) and check == int(n[10])


def ie_pps(n: str) -> bool:
    second = (ord(n[8]) - 64) % 23 if len(n) == 9 else 0
    return "WABCDEFGHIJKLMNOPQRSTUV"[(weighted(n[:7], (8, 7, 6, 5, 4, 3, 2)) + 9 * second) % 23] == n[7]


def pt_nif(n: str) -> bool:
    check = 11 - weighted(n, (9, 8, 7, 6, 5, 4, 3, 2)) % 11
    return n[0] in "123" and (0 if check >= 10 else check) == int(n[8])


def tr_kimlik(n: str) -> bool:
    d = [int(digit) for digit in n]
    return d[0] > 0 and (sum(d[0:9:2]) * 7 - sum(d[1:8:2])) % 10 == d[9] and sum(d[:10]) % 10 == d[10]


def br_cpf(n: str) -> bool:
    first = weighted(n, range(10, 1, -1)) * 10 % 11 % 10
    second = weighted(n, range(11, 1, -1)) * 10 % 11 % 10
    return len(set(n)) > 1 and (first, second) == (int(n[9]), int(n[10]))


def cl_rut(n: str) -> bool:
    total = sum(int(digit) * (2 + place % 6) for place, digit in enumerate(reversed(n[:-1])))
    return "0K987654321"[total % 11] == n[-1] if total % 11 else n[-1] == "0"


def uk_nhs(n: str) -> bool:
    check = 11 - weighted(n, range(10, 1, -1)) % 11
    return check != 10 and check % 11 == int(n[9])


def ca_sin(n: str) -> bool:
    return n[0] not in "08" and luhn(n)


def au_tfn(n: str) -> bool:
    return weighted(n, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0 and int(n) > 0


def za_id(n: str) -> bool:
    return is_date(n[:2], n[2:4], n[4:6]) and n[10] in "01" and luhn(n)


def kr_rrn(n: str) -> bool:
    check = (11 - weighted(n, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10
    return is_date(n[:2], n[2:4], n[4:6]) and check == int(n[12])


def jp_my_number(n: str) -> bool:
    rest = weighted(n, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return (0 if rest <= 1 else 11 - rest) == int(n[11])


def cn_resident(n: str) -> bool:
    return n[0] in "123456789" and is_date(n[6:10], n[10:12], n[12:14]) and mod_11_2(n)


def ru_snils(n: str) -> bool:
    return weighted(n, range(9, 0, -1)) % 101 % 100 == int(n[9:])


def in_aadhaar(n: str) -> bool:
    return n[0] in "23456789" and n != n[::-1] and verhoeff(n)


def sg_nric(n: str) -> bool:
    total = weighted(n[1:8], (2, 7, 6, 5, 4, 3, 2)) + (4 if n[0] in "TG" else 0)
    return ("JZIHGFEDCBA" if n[0] in "ST" else "XWUTRQPNMLK")[total % 11] == n[8]


def hk_id(n: str) -> bool:
    values = [
        10 if character == "A" and place == len(n) - 1 else int(character, 36) for place, character in enumerate(n)
    ]
    values = [36] * (9 - len(values)) + values
    return sum(value * weight for value, weight in zip(values, range(9, 0, -1), strict=True)) % 11 == 0


def tw_id(n: str) -> bool:
    value = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(n[0]) + 10
    return (value // 10 + value % 10 * 9 + weighted(n[1:], (8, 7, 6, 5, 4, 3, 2, 1, 1))) % 10 == 0


def mx_curp(n: str) -> bool:
    letters = "0123456789ABCDEFGHIJKLMN\u00d1OPQRSTUVWXYZ"
    total = sum(letters.index(character) * (18 - place) for place, character in enumerate(n[:17]))
    return is_date(n[4:6], n[6:8], n[8:10]) and (10 - total % 10) % 10 == int(n[17])


def always(_: str) -> bool:
    return True
