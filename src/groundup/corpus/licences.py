"""Licences of code and texts: from package metadata, from licence files, from a file's own header.

Two spellings. An SPDX expression (`Apache-2.0`, `MIT OR GPL-2.0-only`) says exactly what was found. A family (`MIT`,
`Apache`, `GPL` ...) is what a recipe names. `A OR B` may be used under either; `A AND B` needs both.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.metadata import Distribution

UNKNOWN = "unknown"

# First match wins, so the stricter name stands before the looser one it contains (LGPL and AGPL before GPL).
_FAMILIES: tuple[tuple[str, str], ...] = (
    (r"\bAGPL|affero", "AGPL"),
    (r"\bLGPL|lesser general public|library general public", "LGPL"),
    (r"\bGPL|general public licen[sc]e", "GPL"),
    (r"\bBUSL|business source|\bSSPL|server side public|\bElastic-|commons[ -]clause|PolyForm", "proprietary"),
    (r"\bMPL|mozilla public", "MPL"),
    (r"\bPSF|python software foundation|^python(?:-2\.0|\s+licen[sc]e|$)|CNRI", "PSF"),
    (r"\bapache\b", "Apache"),
    (r"\bBSD\b|\b0BSD|3-clause|2-clause", "BSD"),
    (r"\bMIT\b|\bMIT-0|expat", "MIT"),
    (r"\bISC\b|ISCL", "ISC"),
    (r"\bunlicen[sc]e\b", "Unlicense"),
    (r"\bCC0|public domain", "CC0"),
    # a licence that forbids something is not in the family of the one that does not
    (r"\bCC[- ]BY[-\w ]*[- ]NC|non-?commercial", "CC-BY-NC"),
    (r"\bCC[- ]BY[-\w ]*[- ]ND|no-?deriv", "CC-BY-ND"),
    (r"\bCC[- ]BY[- ]SA|share-?alike", "CC-BY-SA"),
    (r"\bCC[- ]BY|creative commons", "CC-BY"),
    (r"\bzlib\b", "Zlib"),
    (r"\bZPL|zope", "ZPL"),
    (r"\bHPND|historical permission|MIT-CMU", "HPND"),
    (r"\bEPL|eclipse", "EPL"),
    (r"\bBSL-1|boost software", "BSL"),
    (r"\bWTFPL", "WTFPL"),
    (r"\bartistic", "Artistic"),
    (r"\bEUPL", "EUPL"),
    (r"\bOFL|open font", "OFL"),
    (r"\bCDDL|common development and distribution", "CDDL"),
    (r"proprietary|all rights reserved|\bother/|NVIDIA|commercial|\bUNLICENSED\b", "proprietary"),
)
_COMPILED = [(re.compile(pattern, re.I), family) for pattern, family in _FAMILIES]
PERMISSIVE = frozenset(
    ("MIT", "Apache", "BSD", "ISC", "PSF", "Zlib", "BSL", "Unlicense", "CC0", "HPND", "ZPL", "WTFPL")
)
"""What `permissive` stands for in a recipe: use, change and pass on, on no condition but the notice."""
_HEADER_CHARS = 3_000
_TITLE_CHARS = 1_500  # a licence file names itself at its head; the GPL's end speaks of the LGPL


def family_of(name: str) -> str:
    """The family of one licence name, SPDX id or classifier; `unknown` where it is none that we know."""
    return next((family for pattern, family in _COMPILED if pattern.search(name)), UNKNOWN)


def families_of(expression: str) -> str:
    """A licence expression in families: `Apache-2.0 OR BSD-2-Clause` -> `Apache OR BSD`."""
    expression = re.sub(r"\s+WITH\s+[\w.-]+", "", expression)
    alternatives = _alternatives(re.split(r"\s*([()])\s*|\s+(AND|OR)\s+|\s*(/)\s*", expression))
    names = [" AND ".join(dict.fromkeys(family_of(part) for part in parts)) for parts in alternatives]
    return " OR ".join(dict.fromkeys(names)) or UNKNOWN


def _alternatives(tokens: list[str | None]) -> list[tuple[str, ...]]:
    """The alternatives of an expression, each the licences that it needs: `A AND (B OR C)` -> (A, B), (A, C).

    AND binds closer than OR, as SPDX 2.3 (annex D) has it; brackets that do not match are read as if they did.
    """
    waiting = [token.strip() for token in tokens if token and token.strip()]

    def either() -> list[tuple[str, ...]]:
        found = both()
        while waiting and waiting[0] in ("OR", "/"):
            waiting.pop(0)
            found = found + both()
        return found

    def both() -> list[tuple[str, ...]]:
        found = one()
        while waiting and waiting[0] not in ("OR", "/", ")"):
            if waiting[0] == "AND":
                waiting.pop(0)
            right = one()
            found = [left + more for left in found for more in right]
        return found

    def one() -> list[tuple[str, ...]]:
        if not waiting:
            return [()]
        token = waiting.pop(0)
        if token != "(":
            return [(token,)] if token not in (")", "AND", "OR", "/") else [()]
        inside = either()
        if waiting and waiting[0] == ")":
            waiting.pop(0)
        return inside

    found = either()
    while waiting:  # a stray bracket: what follows is needed too
        waiting.pop(0)
        found = [left + more for left in found for more in either()]
    return [parts for parts in found if parts]


def is_permitted(families: str, permitted: Collection[str]) -> bool:
    """Whether one alternative consists of permitted families only. Nothing permitted named: everything is.

    `permissive` among the permitted stands for PERMISSIVE.
    """
    wanted = {family.lower() for family in permitted}
    if not wanted:
        return True
    if "permissive" in wanted:
        wanted |= {family.lower() for family in PERMISSIVE}
    return any(
        all(family.lower() in wanted for family in alternative.split(" AND ")) for alternative in families.split(" OR ")
    )


def metadata_field(distribution: Distribution, name: str) -> str:
    """A field of a distribution's metadata, or an empty string."""
    return str((distribution.metadata.get_all(name) or [""])[0] or "")


def licence_of_distribution(distribution: Distribution) -> str:
    """Families of an installed distribution: `License-Expression`, else its classifiers, else the `License` field."""
    if expression := metadata_field(distribution, "License-Expression"):
        return families_of(expression)
    classifiers = [
        line.rpartition("::")[2].strip()
        for line in distribution.metadata.get_all("Classifier") or []
        if line.startswith("License ::") and not line.endswith("OSI Approved")
    ]
    if classifiers:
        # Several classifiers may mean "either" or "both"; the careful reading is both.
        return " AND ".join(dict.fromkeys(family_of(name) for name in sorted(classifiers)))
    first_line = metadata_field(distribution, "License").strip().split("\n")[0]
    return families_of(first_line) if first_line else UNKNOWN


def licence_of_file(text: str, otherwise: str) -> str:
    """A source file's own licence family where its header states one, else its distribution's."""
    found = licence_of_header(text)
    return families_of(found) if found else otherwise


# ---------------------------------------------------------------- what a text says about itself

_SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+() -]+)")
_COMMENT = re.compile(r"\s*(?:#|//|/\*|\*|--|;|%|<!--|\"\"\"|'''|!|\.\.|REM\b|@rem\b|dnl\b|\(\*|\{-)")
_BLOCKS = (("/*", "*/"), ('"""', '"""'), ("'''", "'''"), ("<!--", "-->"), ("(*", "*)"), ("{-", "-}"))
# Where a header is prose in a comment: (what it says, SPDX id), the stricter first.
_HEADER_SENTENCES: tuple[tuple[str, str], ...] = (
    (r"GNU Affero General Public Licen[sc]e", "AGPL"),
    (r"GNU (?:Lesser|Library) General Public Licen[sc]e", "LGPL"),
    (r"GNU General Public Licen[sc]e|\bunder (?:the )?(?:terms of (?:the )?)?(?:GNU )?GPL", "GPL"),
    (r"Mozilla Public Licen[sc]e,? (?:v\.? ?|version )?2", "MPL-2.0"),
    (r"Licensed under the Apache Licen[sc]e,? Version 2|apache\.org/licenses/LICENSE-2\.0", "Apache-2.0"),
    (r"Boost Software Licen[sc]e", "BSL-1.0"),
    (r"Eclipse Public Licen[sc]e", "EPL-2.0"),
    (r"Permission is hereby granted, free of charge, to any person obtaining", "MIT"),
    (r"Permission to use, copy, modify,? (?:and/or |and )?distribute", "ISC"),
    (r"Redistribution and use in source and binary forms", "BSD-3-Clause"),
    (r"governed by a BSD-style licen[sc]e", "BSD-3-Clause"),
    (r"(?:licensed|released|distributed|available) under (?:the )?(?:terms of )?(?:the )?\"?(?:MIT|Expat)\b", "MIT"),
    (r"(?:released|dedicated|placed|is) (?:in|in ?to) the public domain", "CC0-1.0"),
)
_HEADER_PATTERNS = [(re.compile(pattern, re.I), name) for pattern, name in _HEADER_SENTENCES]


def licence_of_header(text: str) -> str:
    """The SPDX expression that a source file's head states (a tag, or a licence's sentence in a comment), else ''.

    GNU licences without a tag carry the version that the sentence names, with "or any later version" as `-or-later`.
    """
    lines = _comment_lines(text[:_HEADER_CHARS])
    if found := _SPDX.search("\n".join(lines)):
        return found[1].strip(" -")
    comment = " ".join(lines)
    for pattern, name in _HEADER_PATTERNS:
        if pattern.search(comment):
            return _gnu(name, comment) if name.endswith("GPL") else name
    return ""


def _comment_lines(head: str) -> list[str]:
    """The words of the first 60 lines' comments. Inside a block comment or docstring, plain lines count too."""
    lines, inside = [], ""
    for line in head.split("\n")[:60]:
        stripped = line.strip()
        if inside:
            inside = "" if inside in stripped else inside
        elif match := _COMMENT.match(line):
            for start, end in (
                ("/*", "*/"),
                ('"""', '"""'),
                ("'''", "'''"),
                ("<!--", "-->"),
                ("(*", "*)"),
                ("{-", "-}"),
            ):
                if match[0].strip() == start and end not in stripped[len(start) :]:
                    inside = end
        else:
            continue
        lines.append(stripped.strip("#/*-;%!\"' \t"))
    return lines


def _gnu(name: str, text: str) -> str:
    version = re.search(r"\bversions? (\d(?:\.\d)?)|GPL[- ]?v?(\d(?:\.\d)?)\b", text, re.I)
    if not version:
        return name
    number = version[1] or version[2]
    number += "" if "." in number else ".0"
    later = re.search(r"\bany later version|or later|or newer", text, re.I)
    return f"{name}-{number}-{'or-later' if later else 'only'}"


_CREATIVE_COMMONS = re.compile(
    r"creativecommons\.org/(?:licen[cs]es/(by(?:-(?:nc|nd|sa))*)/(\d\.\d)|publicdomain/(zero|mark)/(\d\.\d))", re.I
)


def licence_of_url(text: str) -> str:
    """The SPDX name of the Creative Commons licence whose address stands in a text, '' where none does."""
    found = _CREATIVE_COMMONS.search(text)
    if not found:
        return ""
    if found[3]:
        return "CC0-1.0" if found[3].lower() == "zero" else "public domain"
    return f"CC-{found[1].upper()}-{found[2]}"


_TITLES: tuple[tuple[str, str], ...] = (
    (r"business source licen[sc]e", "BUSL-1.1"),
    (r"server side public licen[sc]e", "SSPL-1.0"),
    (r"elastic licen[sc]e 2", "Elastic-2.0"),
    (r"gnu affero general public licen[sc]e", "AGPL"),
    (r"gnu (?:lesser|library) general public licen[sc]e", "LGPL"),
    (r"gnu general public licen[sc]e", "GPL"),
    (r"apache licen[sc]e,?\s+version 2\.0", "Apache-2.0"),
    (r"mozilla public licen[sc]e,?\s+(?:version |v\.? ?)?2\.0", "MPL-2.0"),
    (r"mozilla public licen[sc]e", "MPL-1.1"),
    (r"eclipse public licen[sc]e\s*-?\s*v(?:ersion)? ?1", "EPL-1.0"),
    (r"eclipse public licen[sc]e", "EPL-2.0"),
    (r"boost software licen[sc]e", "BSL-1.0"),
    (r"python software foundation licen[sc]e", "PSF-2.0"),
    (r"free and unencumbered software released into the public domain", "Unlicense"),
    (r"cc0 1\.0 universal", "CC0-1.0"),
    (r"attribution-noncommercial-sharealike 4\.0", "CC-BY-NC-SA-4.0"),
    (r"attribution-noncommercial-noderiv\w* 4\.0", "CC-BY-NC-ND-4.0"),
    (r"attribution-noncommercial 4\.0", "CC-BY-NC-4.0"),
    (r"attribution-sharealike 4\.0", "CC-BY-SA-4.0"),
    (r"attribution-sharealike 3\.0", "CC-BY-SA-3.0"),
    (r"attribution-noderiv\w* 4\.0", "CC-BY-ND-4.0"),
    (r"attribution 4\.0 international", "CC-BY-4.0"),
    (r"sil open font licen[sc]e", "OFL-1.1"),
    (r"the artistic licen[sc]e 2\.0", "Artistic-2.0"),
    (r"european union public licen[sc]e", "EUPL-1.2"),
    (r"common development and distribution licen[sc]e", "CDDL-1.0"),
    (r"do what the fuck you want to public licen[sc]e", "WTFPL"),
    (r"zope public licen[sc]e", "ZPL-2.1"),
)
_TITLE_PATTERNS = [(re.compile(pattern), name) for pattern, name in _TITLES]


def licence_of_licence_file(text: str) -> str:
    """The SPDX expression of a LICENSE or COPYING file's text, '' where it is none that we know.

    By title for licences that have one, by their characteristic sentences for MIT, BSD, ISC and zlib. A further
    licence's full text in the same file (`AND`) is seen where it is one of the latter.
    """
    plain = " ".join(text.split()).lower()
    if tag := _SPDX.search(text[:_TITLE_CHARS]):
        return tag[1].strip()
    if "commons clause" in plain:
        return "LicenseRef-Commons-Clause"
    title = next((name for pattern, name in _TITLE_PATTERNS if pattern.search(plain[:_TITLE_CHARS])), "")
    if title.endswith("GPL"):
        return _gnu_text(title, plain)
    found = [name for name in (title, *_by_sentence(plain)) if name]
    return " AND ".join(dict.fromkeys(found))


def _gnu_text(name: str, plain: str) -> str:
    version = re.search(r"version (\d(?:\.\d)?)", plain[:_TITLE_CHARS])
    number = version[1] + ("" if "." in version[1] else ".0") if version else ""
    return f"{name}-{number}" if number else name


def _by_sentence(plain: str) -> list[str]:
    found = []
    if "permission is hereby granted, free of charge, to any person obtaining a copy" in plain:
        found.append("MIT" if "permission notice shall be included" in plain else "MIT-0")
    if "redistribution and use in source and binary forms" in plain:
        advertising = "all advertising materials mentioning" in plain
        named = re.search(r"neither the names? of|name of the (?:author|copyright holder)s? may not be used", plain)
        found.append("BSD-4-Clause" if advertising else "BSD-3-Clause" if named else "BSD-2-Clause")
    if grant := re.search(r"permission to use, copy, modify,? (?:and/or |and )?distribute this software", plain):
        found.append("ISC" if "provided that" in plain[grant.start() : grant.start() + 300] else "0BSD")
    if "altered source versions must be plainly marked" in plain:
        found.append("Zlib")
    return found
