"""What each kind of source may be told. Light: read by every `groundup check` and `groundup --help`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from groundup.recipe import FileRef, Settings


class SourceSettings(Settings):
    """What every source may be told."""

    max_bytes: PositiveInt | None = None
    """Take at most this many bytes; which documents is decided by a hash of their ids, not by their order."""
    license: str | None = None
    """The licence to write beside each document where the source itself does not say."""
    group: str | None = None
    """What it counts as in the mixture: its language, its domain. Without it: itself."""
    by_language: bool = False
    """Route its documents by their language: each language is a part of its own in documents/ and in the mixture,
    together with the same language of other sources that say so."""

    @model_validator(mode="after")
    def _one_route(self) -> SourceSettings:
        if self.by_language and self.group is not None:
            raise ValueError("by_language makes the language the group: leave out `group`")
        if self.by_language and "code" in (getattr(self, "type", "").split("_")[-1], getattr(self, "media", "")):
            raise ValueError("by_language: of code no language is told; leave it out")
        return self


class PathSource(SourceSettings):
    path: FileRef
    """A file, a folder, a glob, an address (`https://`, `s3://`, `gs://`, `hf://owner/name/...`), a list of paths
    (`.paths`, `.paths.gz`), or `package:NAME/GLOB` for a pinned registry package."""


class FilesSource(PathSource):
    """What every source of many files may be told."""

    path_root: str | None = None
    """What relative paths in a list of paths start from. Without it: the list's folder, or Common Crawl's server."""
    max_files: PositiveInt | None = None
    """Read at most this many of the files; which ones is decided by a hash of their names."""


class WarcSource(FilesSource):
    """Web archives (.warc, .warc.gz, .arc.gz; a .txt is a list of them): every HTML page that was answered with 200."""

    type: Literal["warc"]


class WetSource(FilesSource):
    """Common Crawl's extracted text (.wet, .warc.wet.gz): a document per page. A `.txt` is a list of files."""

    type: Literal["wet"]


class WikipediaSource(FilesSource):
    """MediaWiki XML dumps (plain, .bz2, .gz, .7z; a .txt is a list of them) in any language: articles as prose."""

    type: Literal["wikipedia"]
    tables: Literal["text", "drop"] = "text"
    """Tables as lines of text, ` | ` between their cells; or dropped."""


class NewsSource(FilesSource):
    """News: RSS and Atom feeds, NITF, NewsML-G2, and JSON or .jsonl articles; also in zip and tar archives."""

    type: Literal["news"]
    sections: tuple[str, ...] = ()
    """Take only articles of these sections (a feed's category, a row's `section` or `genre`). Empty: all."""


class BooksSource(PathSource):
    """Books: Project Gutenberg's texts (their header and licence cut off), EPUB, plain text, HTML; split into parts."""

    type: Literal["books"]
    part_chars: PositiveInt = 16_000
    """Aim at parts of this many characters, cut at headings (acts, scenes, chapters) or between paragraphs."""


class CodeSource(PathSource):
    """Source code: folders, git repositories (also bare), archives, rows as The Stack has them; a licence per file."""

    type: Literal["code"]
    licenses: tuple[str, ...] = ("permissive",)
    """The licence families that may be used (MIT, GPL ...; `permissive` stands for all that ask for a notice at most).
    Empty: all. A file of which nothing says a licence is used only where `license` states one."""
    programming_languages: tuple[str, ...] = ()
    """Keep these languages only (Python, C++, Markdown ...). Empty: all that are known."""
    tests: bool = True
    """Keep test files too."""
    max_file_bytes: PositiveInt = 1_000_000
    """Larger files are dropped unread: they are data, or were made by a program."""
    revision: str = "HEAD"
    """Of git repositories: the branch, tag or commit to read. Changes that are not committed are not read."""


class PapersSource(PathSource):
    """Papers as PDF (package pypdfium2), JATS XML or LaTeX, alone or in the archives of arXiv and PubMed Central."""

    type: Literal["papers"]
    references: bool = False
    """Keep the lists of references; without it they are cut off."""


class StackExchangeSource(PathSource):
    """Stack Exchange data dumps (Posts.xml, also packed): a document per question with its answers, best first."""

    type: Literal["stackexchange"]
    min_score: int | None = 0
    """Leave out questions, and answers that were not accepted, with fewer votes. `null`: take all."""
    min_answers: NonNegativeInt = 1
    """Drop questions with fewer answers."""
    max_answers: PositiveInt | None = None
    """Keep this many answers of each question, the accepted one first, then by votes. Without it: all."""


class RedditSource(PathSource):
    """Reddit dumps (.zst, .ndjson): a document per submission with its tree of comments, the better voted first."""

    type: Literal["reddit"]
    subreddits: tuple[str, ...] = ()
    """Read only these subreddits. Empty: all."""
    min_score: int | None = 1
    """Leave out submissions and comments with fewer votes. `null`: take all."""
    min_comments: NonNegativeInt = 1
    """Drop submissions with fewer comments left."""
    nsfw: bool = False
    """Also read what is marked as not safe for work."""


class MailSource(PathSource):
    """Mailing lists and newsgroups (mbox, rnews, folders of messages, Maildir): a document per thread."""

    type: Literal["mail"]
    quotes: Literal["context", "drop", "keep"] = "context"
    """Quoted lines: `context` keeps the last three in front of each answer where the quoted message is in the thread,
    and all where it is not; or drop them all; or keep them all."""
    min_messages: PositiveInt = 1
    """Drop threads with fewer messages."""


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


class TextSource(FilesSource):
    """Your own text: .txt, .md, .html files and archives of them; one document each, or one per line."""

    type: Literal["text"]
    one_per: Literal["file", "line"] = "file"
    """What a document is: a file, or a line of one."""
    part_chars: PositiveInt = 2_000_000
    """Longer texts become parts of about this many characters, cut between paragraphs."""


class RowsSource(FilesSource):
    """Your own rows, or a Hub data set's (`hf://owner/name`): .jsonl, .json, .parquet, .csv, .tsv, also packed.

    Fields may be nested (`a.b`); what stands in a row's `metadata` is found without saying so.
    """

    type: Literal["rows", "jsonl", "parquet", "csv", "hf"]
    text_field: str = "text"
    """The field that holds the text."""
    template: str | None = None
    """A text made of several fields, instead of `text_field`: `{title}\\n\\n{body}`."""
    id_field: str | None = None
    """The field that names a row, unique in its file. Without it: the row's number."""
    url_field: str = "url"
    """The field that holds the address or any other origin; may be absent."""
    license_field: str = "license"
    """The field that holds a row's licence; may be absent."""
    date_field: str | None = None
    """The field that holds the date. Without it: the first of date, created, published, timestamp that a row has."""
    language_field: str | None = None
    """The field that holds the language (ISO 639-1), which is then believed. Without it the language is detected."""
    metadata_fields: tuple[str, ...] = ("id", "title", "author", "source")
    """Further fields to keep beside each document; may be absent."""
    media: Literal["prose", "html", "docs", "dialogue", "code"] = "prose"
    """What the text is: HTML is extracted; documentation, dialogue and code have rules of their own."""
    part_chars: PositiveInt = 2_000_000
    """Longer texts become parts of about this many characters, cut between paragraphs (HTML over 20 MB is dropped)."""
    split: str | None = None
    """Only files whose path names this split (`train`). Without it: all files."""
    delimiter: str | None = None
    """What stands between the fields of a .csv. Without it: found in its first line."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a .csv whose first line is data already."""


Source = Annotated[
    WarcSource
    | WetSource
    | WikipediaSource
    | NewsSource
    | BooksSource
    | PythonDocsSource
    | PythonCodeSource
    | CodeSource
    | PapersSource
    | StackExchangeSource
    | RedditSource
    | MailSource
    | DialogueSource
    | TextSource
    | RowsSource,
    Field(discriminator="type"),
]
