"""Postal addresses by rule: a house number beside a street's name, and the town that follows.

Off by default, and no more than rules can be: a street without a word for "street" in it (Greek, Turkish, Finnish
streets in a text of another language, `the corner of ...`) is not seen. benchmarks/scrub.py says how many are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from groundup.corpus.pii.network import Span

_NUMBER = r"[0-9]{1,5}(?:[ ]?[A-Da-d](?![a-z]))?(?:[-/][0-9]{1,4}[A-Za-z]?)?"
_WORD = r"[A-ZÀ-ÞŁŚŻŠČŘΑ-ΩА-Я][\w.'\u2019-]*"
_STREET = (
    "Street|St|Avenue|Ave|Av|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Terrace|Ter|Place|Pl|Way|Close|"
    "Crescent|Cres|Parkway|Pkwy|Highway|Hwy|Circle|Cir|Trail|Trl|Alley|Row|Mews|Gardens|Grove|Hill|Walk|Quay|Plaza|Loop|"
    "Turnpike|Pike|Route|Crossing|Point|Ridge|Streets|Avenues|Roads|Squares"
)
_INSIDE = r"(?:[,\n ]{1,3}(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Fl|Room|Box|#)\.?[ ]?#?[0-9A-Z][\w-]{0,5})?"
# A town with its code before or behind it, and perhaps a state or a country.
_TOWN = (
    rf"(?:[,\n ]{{1,4}}(?:[A-Z]{{1,2}}-)?"
    rf"(?:[0-9]{{4,6}}(?:-[0-9]{{3}})?|[0-9]{{2}}-[0-9]{{3}})(?: [A-Z]{{2}}\b)? {_WORD}(?:[ -]{_WORD}){{0,2}}"
    rf"|[,\n ]{{1,4}}{_WORD}(?:[ -]{_WORD}){{0,2}}[,\n ]{{1,4}}(?:[A-Z]{{2,3}}[,\n ]{{1,4}})?(?:{_WORD}[ \n]{{1,4}})?"
    r"(?:[0-9]{5}(?:-[0-9]{4})?|[A-Z]{1,2}[0-9][0-9A-Z]? [0-9][A-Z]{2}|[A-Z][0-9][A-Z] [0-9][A-Z][0-9])\b)?"
)

_ENGLISH = re.compile(
    rf"(?<![\w.,:/$€£-]){_NUMBER},? (?:[NSEW]{{1,2}}\.? |[0-9]{{1,5}} )?"
    rf"(?:{_WORD} |[0-9]{{1,3}}(?:st|nd|rd|th) ){{1,4}}"
    rf"(?:{_STREET})\b\.?{_INSIDE}{_TOWN}"
)
_FRENCH = re.compile(
    r"(?<![\w.,:/$€£-])[0-9]{1,4}(?: ?(?:bis|ter|quater))?,? (?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Bb]d|[Pp]lace|"
    r"[Aa]llée|"
    r"[Cc]hemin|[Ii]mpasse|[Qq]uai|[Cc]ours|[Rr]oute|[Ss]quare|[Pp]assage) "
    rf"(?:(?:de|du|des|la|le|les|à|aux?|l['\u2019]|d['\u2019]) ?){{0,3}}"
    rf"{_WORD}(?:[ -](?:(?:de|du|des|la|et) )?{_WORD}){{0,4}}{_INSIDE}{_TOWN}"
)
_COMPOUND = re.compile(  # one word that ends in "street", as Germanic, Nordic, Baltic and Hungarian languages have it
    rf"(?<![\w-])(?:{_WORD}[ -]){{0,2}}(?!During|Spring|String|Offering)"
    r"[A-ZÄÖÜÅØÆ][\w.-]*(?:stra(?:ß|ss)e|str\.|weg|gasse|allee|platz|ufer|damm|ring|steig|"
    r"straat|laan|plein|gracht|kade|dijk|singel|vägen|gatan|gränd|stigen|gata|gate|gaten|veien|vegen|vej|gade|vænget|"
    r"tie|katu|kuja|polku|utca|körút| út| u\.| tér| ter)(?: út)? "
    rf"{_NUMBER}(?![\w.])\.?{_INSIDE}{_TOWN}"
)
_LED = re.compile(  # "Calle", "Via", "Rua", "ulica" first
    r"(?<![\w-])(?:Calle|C/|Avenida|Avda\.?|Paseo|Plaza|Camino|Carrera|Ronda|"
    r"Via|Viale|Piazza|Corso|Vicolo|Largo|Rua|Av\.|"
    r"Travessa|Estrada|Praça|Alameda|Rue|ul\.|ulica|aleja|al\.|pl\.|Strada|Bulevardul|улица|ул\.|проспект|пр\.) "
    rf"(?:(?:de|del|della|dei|da|do|dos|das|la|las|los|el|il) ){{0,2}}"
    rf"{_WORD}(?:[ -](?:(?:de|del|della|da|do|dos|la|y|e) )?{_WORD}){{0,4}}"
    rf",? (?:[nN][º°.]? ?)?{_NUMBER}(?![\w.]){_INSIDE}{_TOWN}"
)
_FLAT = re.compile(  # any street, where a flat or a suite is named behind it
    rf"(?<![\w.,:/$€£-])(?:{_NUMBER} )?(?:{_WORD}[ ]|{_NUMBER} ){{1,5}}(?:{_NUMBER} ?)?"
    rf"(?:Apt|Apartment|Suite|Ste)\.? #?[0-9A-Z][\w-]{{0,5}}{_TOWN}"
)
_BOX = re.compile(
    r"(?<!\w)(?:P\.? ?O\.? Box|Post(?:fach|bus|boks) |Apartado(?: de Correos)?|Casilla|"
    r"(?:PSC|Unit|CMR) [0-9]{1,5},? Box) ?"
    r"[0-9]{1,6}(?:[,\n ]{1,3}(?:APO|FPO|DPO) A[AEP] [0-9]{5})?",
    re.I,
)
_JAPANESE = re.compile(r"〒 ?[0-9]{3}-[0-9]{4}[^\n]{0,60}?(?=[\n。、]|  |\Z)")


def addresses(text: str) -> Iterator[Span]:
    """Street addresses and boxes; a street and its town are one. May give overlapping spans."""
    for pattern in (_ENGLISH, _FRENCH, _COMPOUND, _LED, _FLAT, _BOX, _JAPANESE):
        for match in pattern.finditer(text):
            yield match.span()
