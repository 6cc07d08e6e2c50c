"""Personal data -> placeholders: <EMAIL>, <PHONE>, <IP>, <IBAN>, <CARD>, <SSN>, <NATIONAL_ID>, <SECRET> ..."""

from groundup.corpus.pii.check_digits import luhn
from groundup.corpus.pii.search import Found, find, replaced, scrub

__all__ = ["Found", "find", "luhn", "replaced", "scrub"]
