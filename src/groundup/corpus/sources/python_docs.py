"""Prose documentation that every Python brings: the help topics, and installed distributions' long descriptions."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from groundup.artifacts import fingerprint_of
from groundup.corpus.document import Document, Drop
from groundup.corpus.licences import is_permitted, licence_of_distribution, metadata_field
from groundup.corpus.source_settings import PythonDocsSource
from groundup.corpus.sources.piece import Piece

_TAG = re.compile(
    r"</?(?:a|p|div|img|br|h[1-6]|picture|source|table|t[rdh]|tbody|thead|center|b|i|sup|sub|kbd|details|summary|span|em|"
    r"strong|ul|ol|li|hr|code|pre)\b[^>]*>",
    re.I,
)


def pieces(source: PythonDocsSource, cache: Path) -> list[Piece]:
    """One piece: there is so little."""
    del source, cache
    return [Piece("python_docs", installed_identity(), 2_000_000)]


def installed_identity() -> str:
    """What tells one state of this Python and its distributions from another."""
    return fingerprint_of([sys.version, *(f"{distribution_name(one)} {one.version}" for one in installed())])


def read(source: PythonDocsSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Help topics by name, then descriptions by distribution name. Distributions without one are drops."""
    del piece, notes
    from pydoc_data.topics import topics

    if is_permitted("PSF", source.licenses):
        for name in sorted(topics):
            yield Document(f"pydoc:{name}", f"pydoc:{name}", "PSF", clean_topic(topics[name]), "docs")
    for distribution in installed():
        name = distribution_name(distribution)
        description = _description(distribution)
        license = licence_of_distribution(distribution)
        id = f"description:{name}"
        if not description.strip():
            yield Drop(id, "read", "no description", name)
        elif not is_permitted(license, source.licenses):
            yield Drop(id, "read", f"licence: {license}", description[:200], len(description.encode()))
        else:
            yield Document(id, f"https://pypi.org/project/{name}/", license, clean_readme(description), "docs")


def installed() -> list[Distribution]:
    """Installed distributions, each once, sorted by name: the order of sys.path and of folders does not matter."""
    by_name: dict[str, Distribution] = {}
    for distribution in distributions():
        by_name.setdefault(distribution_name(distribution), distribution)
    return [by_name[name] for name in sorted(by_name) if name and name != "groundup"]


def distribution_name(distribution: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", metadata_field(distribution, "Name")).lower()


def _description(distribution: Distribution) -> str:
    body = metadata_field(distribution, "Description") or distribution.metadata.get_payload()  # type: ignore[attr-defined]
    return body if isinstance(body, str) and body.strip() != "UNKNOWN" else ""


def clean_topic(text: str) -> str:
    """A help topic without the underlines of its headings and the stars of its emphasis."""
    text = re.sub(r"^[*=~\-^\"]{3,}$\n?", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def clean_readme(text: str) -> str:
    """A description without badges, images, HTML tags and link targets; code blocks and headings stay."""
    text = text.replace("\r\n", "\n")
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)|!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"^\s*\.\. (?:\|[^|]+\| )?(?:image|figure)::.*(?:\n[ \t]+\S.*)*$", "", text, flags=re.M)
    text = re.sub(r"^\s*(?:\|[\w -]*\|[ \t]*)+\w*\|?$", "", text, flags=re.M)
    text = _TAG.sub("", text)
    text = re.sub(r"(?<!!)\[([^\]\[]+)\]\((?:[^()]|\([^)]*\))*\)", r"\1", text)
    text = re.sub(r"^\s*\[[^\]]+\]:\s*\S+.*$", "", text, flags=re.M)
    text = re.sub(r"^[ \t]+$", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
