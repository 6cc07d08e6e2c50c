"""Check digits: the arithmetic that tells a real identifier from a run of digits. Each takes the compact form."""

from __future__ import annotations

from collections.abc import Sequence

# The dihedral group D5 and the permutation of J. Verhoeff, "Error detecting decimal codes" (1969).
_DIHEDRAL = tuple(
    tuple((a + b if a < 5 else a - b) % 5 + 5 * ((a >= 5) != (b >= 5)) for b in range(10)) for a in range(10)
)
_TURN = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(value - 9 if value > 9 else value for value in doubled)) % 10 == 0


def mod_97(iban: str) -> bool:
    """ISO 7064 MOD 97-10 as an IBAN uses it: the first four characters moved to the end, letters as 10..35."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def mod_11_10(digits: str) -> bool:
    """ISO 7064 MOD 11,10: the German tax number, the Croatian OIB."""
    product = 10
    for digit in digits[:-1]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[-1])


def mod_11_2(text: str) -> bool:
    """ISO 7064 MOD 11-2, where the check character may be X: the Chinese resident number."""
    value = 0
    for digit in text[:-1]:
        value = (value + int(digit)) * 2
    return "0123456789X"[(12 - value % 11) % 11] == text[-1]


def verhoeff(digits: str) -> bool:
    """Verhoeff's check, which sees every wrong digit and every swap of neighbours: Aadhaar."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = _TURN[value]
        check = _DIHEDRAL[check][value]
    return check == 0


def weighted(digits: str, weights: Sequence[int]) -> int:
    """Sum of digit times weight, over as many digits as there are weights."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def is_date(year: int | str, month: int | str, day: int | str) -> bool:
    """Whether month and day can be; a two-digit year may be any, so 29 February always can."""
    month, day = int(month), int(day)
    if not 1 <= month <= 12 or not 1 <= day <= (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]:
        return False
    return len(str(year)) < 4 or 1850 <= int(year) <= 2035
