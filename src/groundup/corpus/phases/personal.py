"""Personal data in the step `finish`: replaced and counted, and of a sample of the documents written down as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from groundup.artifacts import write_atomic
from groundup.corpus.dedup.keytable import map_array
from groundup.corpus.document import Document
from groundup.corpus.phases.select import BEYOND
from groundup.corpus.pii import find, replaced
from groundup.corpus.pii.audit import AUDIT, audit_row, is_sampled, read_audit, write_audit
from groundup.corpus.pii.names import NameTagger, load_names
from groundup.corpus.report.stats import SourceStats

# Numbers in code are seldom anybody's telephone: what has an anchor or a check digit is looked for, the rest is not.
PII_IN_CODE = frozenset(("email", "ip", "iban", "card", "secret"))
_TOLD = """What was replaced as personal data in a sample of this corpus' documents, to check the scrubber by.
It holds personal data: do not share, upload or commit this folder. Delete it when you have looked.
"""


@dataclass
class Scrubber:
    """What a shard's documents are scrubbed by, and what is to be kept of it. `options`: those of the task."""

    options: Mapping[str, Any]
    names: NameTagger | None = None
    scrubbed: int = 0  # documents so far
    audit: list[dict[str, Any]] = field(default_factory=list)  # a row for each that is sampled, with its place

    def scrub(self, document: Document, stats: SourceStats) -> Document:
        """The document with placeholders; each is counted by its type."""
        types = [one for one in self.options["types"] if document.media != "code" or one in PII_IN_CODE]
        if document.language not in ("", self.options["names_language"] or document.language) and "name" in types:
            types.remove("name")  # a tagger of English takes every German noun for a name
        found = find(document.text, types, private_ips=self.options["private_ips"], names=self.names)
        if is_sampled(document.id, self.options["audit_share"]):
            self.audit.append({"row": self.scrubbed, **audit_row(document.id, document.text, found)})
        self.scrubbed += 1
        text, placeholders = replaced(document.text, found)
        for name, number in placeholders.items():
            stats.add("personal data", name, number)
        return replace(document, text=text) if placeholders else document


def scrubber_of(options: Mapping[str, Any], inputs: Sequence[Path]) -> Scrubber:
    """`inputs`: of the task; a trained tagger's `names.json` may be among them."""
    folder = next((path.parent for path in inputs if path.name == "names.json"), None)
    return Scrubber(options, _tagger(folder) if folder is not None else None)


@lru_cache(maxsize=1)
def _tagger(folder: Path) -> NameTagger:
    return load_names(folder)


def write_private(folder: Path, parts: Iterable[tuple[Path, Path]]) -> int:
    """The audits of all shards, each with the selection of its documents, as one file below `folder`, the corpus.

    Returns how many documents are in it: those that are kept.
    """
    path = folder / AUDIT
    place = path.parent
    place.mkdir(mode=0o700, exist_ok=True)
    place.chmod(0o700)
    write_atomic(place / "README.txt", _TOLD)
    write_atomic(place / ".gitignore", "*\n")
    # The Hub's upload asks the .gitignore of the folder that is uploaded, and only that one.
    write_atomic(folder / ".gitignore", f"{place.name}/\n")
    return write_audit(path, _of_the_corpus(parts))


def _of_the_corpus(parts: Iterable[tuple[Path, Path]]) -> Iterator[dict[str, Any]]:
    for audit, selection in parts:
        flags = map_array(selection)
        for row in read_audit(audit):
            if flags[row.pop("row")] != BEYOND:
                yield row
