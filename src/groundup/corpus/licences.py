"""Licence families of code: from a distribution's metadata and from a file's own header.

A family is what a recipe names (`MIT`, `Apache`, `GPL` ...). `A OR B` may be used under either; `A AND B` needs both.
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
    (r"\bMPL|mozilla public", "MPL"),
    (r"\bPSF|python software foundation|^python(?:-2\.0|\s+licen[sc]e|$)|CNRI", "PSF"),
    (r"\bapache\b", "Apache"),
    (r"\bBSD\b|\b0BSD|3-clause|2-clause", "BSD"),
    (r"\bMIT\b|\bMIT-0|expat", "MIT"),
    (r"\bISC\b|ISCL", "ISC"),
    (r"\bunlicen[sc]e\b", "Unlicense"),
    (r"\bCC0|public domain", "CC0"),
    (r"\bCC-BY|creative commons", "CC-BY"),
    (r"\bzlib\b", "Zlib"),
    (r"\bZPL|zope", "ZPL"),
    (r"\bHPND|historical permission|MIT-CMU", "HPND"),
    (r"\bEPL|eclipse", "EPL"),
    (r"\bBSL-1|boost software", "BSL"),
    (r"proprietary|all rights reserved|\bother/|NVIDIA|commercial", "proprietary"),
)
_COMPILED = [(re.compile(pattern, re.I), family) for pattern, family in _FAMILIES]
_HEADER_CHARS = 3_000


def family_of(name: str) -> str:
    """The family of one licence name, SPDX id or classifier; `unknown` where it is none that we know."""
    return next((family for pattern, family in _COMPILED if pattern.search(name)), UNKNOWN)


def families_of(expression: str) -> str:
    """A licence expression in families: `Apache-2.0 OR BSD-2-Clause` -> `Apache OR BSD`."""
    expression = re.sub(r"\s+WITH\s+[\w.-]+", "", expression.replace("(", " ").replace(")", " "))
    alternatives = []
    for alternative in re.split(r"\s+OR\s+|\s*/\s*", expression):
        families = dict.fromkeys(family_of(part) for part in re.split(r"\s+AND\s+", alternative))
        alternatives.append(" AND ".join(families))
    return " OR ".join(dict.fromkeys(alternatives))


def is_permitted(families: str, permitted: Collection[str]) -> bool:
    """Whether one alternative consists of permitted families only. Nothing permitted named: everything is."""
    wanted = {family.lower() for family in permitted}
    if not wanted:
        return True
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
    """A source file's own licence where its header states one, else its distribution's."""
    head = text[:_HEADER_CHARS]
    if found := re.search(r"SPDX-License-Identifier:\s*([^\n*#]+)", head):
        return families_of(found[1].strip())
    comment = "\n".join(line for line in head.split("\n")[:40] if line.lstrip().startswith("#"))
    if re.search(r"GNU (?:Affero |Lesser |Library )?General Public Licen[sc]e", comment, re.I):
        return family_of(comment)
    return otherwise
