"""What each kind of source may be told. Light: read by every `groundup check` and `groundup --help`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from groundup.recipe import FileRef, Settings


class SourceSettings(Settings):
    """What every source may be told."""

    max_bytes: PositiveInt | None = None
    """Take at most this many bytes; which documents is decided by a hash of their ids, not by their order."""
    license: str | None = None
    """The licence to write beside each document where the source itself does not say."""


class PathSource(SourceSettings):
    path: FileRef
    """A file, a folder, a glob, or `package:NAME/GLOB` for a pinned registry package."""


class WarcSource(PathSource):
    """Web archives (.warc, .warc.gz): every HTML page that was answered with 200."""

    type: Literal["warc"]


class WikipediaSource(PathSource):
    """A MediaWiki XML dump (plain, .bz2 or .gz) in any language: its articles as prose."""

    type: Literal["wikipedia"]


class BooksSource(PathSource):
    """Plain-text books; Project Gutenberg's header and licence are cut off, long books are split at their headings."""

    type: Literal["books"]
    part_chars: PositiveInt = 16_000
    """Aim at parts of this many characters, cut at headings (acts, scenes, chapters) or between paragraphs."""


class PythonDocsSource(SourceSettings):
    """Documentation that is on the machine already: Python's help topics and installed packages' descriptions."""

    type: Literal["python_docs"]
    licenses: tuple[str, ...] = ()
    """Take only distributions under these licence families (PSF, MIT, BSD, Apache, ...). Empty: all."""


class PythonCodeSource(SourceSettings):
    """Python code that is on the machine already, filtered by licence: the standard library, installed packages."""

    type: Literal["python_code"]
    licenses: tuple[str, ...] = ("PSF", "MIT", "BSD", "Apache")
    """The licence families that may be used; what has another, or none that can be told, is dropped and counted."""
    distributions: tuple[str, ...] | None = None
    """Only these installed distributions; `python` is the standard library. Without it: all of them."""


class DialogueSource(PathSource):
    """Conversations in ChatterBot's YAML format, one document each."""

    type: Literal["dialogue"]
    folders: tuple[str, ...] = ("english",)
    """Which languages' folders to read (`english`, `german`, ...)."""


class TextSource(PathSource):
    """Your own text: .txt, .md, .html files, one document each."""

    type: Literal["text"]


class JsonlSource(PathSource):
    """Your own rows: .jsonl (also .gz) with the text in one field."""

    type: Literal["jsonl"]
    text_field: str = "text"
    """The field that holds the text."""
    url_field: str = "url"
    """The field that holds the address or any other origin; may be absent."""
    license_field: str = "license"
    """The field that holds a row's licence; may be absent."""
    code: bool = False
    """The rows are source code: the rules for code apply, not those for prose."""


Source = Annotated[
    WarcSource
    | WikipediaSource
    | BooksSource
    | PythonDocsSource
    | PythonCodeSource
    | DialogueSource
    | TextSource
    | JsonlSource,
    Field(discriminator="type"),
]
