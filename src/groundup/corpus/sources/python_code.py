"""Python code that is on the machine: the standard library and installed distributions, filtered by licence.

Licence, generated, vendored and test files are decided here, before a file's text is cleaned like any other; where
`max_bytes` is smaller than what is there, a hash of the file's name decides which are taken.
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from groundup.corpus.document import Document, Drop
from groundup.corpus.licences import is_permitted, licence_of_distribution, licence_of_file
from groundup.corpus.source_settings import PythonCodeSource
from groundup.corpus.sources.files import decode
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.python_docs import distribution_name, installed, installed_identity

_VENDORED = {
    "_vendor",
    "vendor",
    "vendored",
    "_vendored",
    "third_party",
    "thirdparty",
    "externals",
    "extern",
    "_external",
}
_TESTS = {"test", "tests", "testing", "idle_test", "_tests"}
_TEST_FILE = re.compile(r"(?:test_.*|.*_tests?|conftest)\.py")
_GENERATED_FILE = re.compile(r".*_pb2(?:_grpc)?\.py|_version\.py|.*_generated\.py|.*_parsetab\.py|_sysconfigdata.*\.py")
_GENERATED_HEAD = re.compile(
    r"(?:auto[- ]?generated|automatically generated|generated (?:by|from|using|with)|do not (?:edit|modify)|"
    r"this file (?:is|was) generated|machine generated)",
    re.I,
)
# Data in the form of code, or text that the documentation source already has.
_DATA_MODULES = {"python/pydoc_data/topics.py"}


@dataclass(frozen=True)
class CodeFile:
    id: str  # distribution/path
    path: Path
    license: str
    bytes: int


def pieces(source: PythonCodeSource, cache: Path) -> list[Piece]:
    """One piece, as `max_bytes` is shared out by the hash of the files' names."""
    del cache
    return [Piece("python_code", installed_identity(), source.max_bytes or 60_000_000)]


def read(source: PythonCodeSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Files by a hash of their name. Everything that is passed over is a drop with its reason."""
    del piece, notes
    taken = 0
    files = sorted(list_files(source.distributions), key=lambda file: sha256(file.id.encode()).digest())
    for file in files:
        if reason := reason_to_drop(file, source.licenses):
            yield Drop(file.id, "read", reason, file.id, file.bytes)
            continue
        if source.max_bytes is not None and taken + file.bytes > source.max_bytes:
            yield Drop(file.id, "read", "beyond max_bytes", file.id, file.bytes)
            continue
        try:
            text = decode(file.path.read_bytes())
        except OSError as error:
            yield Drop(file.id, "read", "unreadable file", str(error), file.bytes)
            continue
        license = licence_of_file(text, file.license)
        if not is_permitted(license, source.licenses):
            yield Drop(file.id, "read", f"licence: {license}", text[:200], file.bytes)
        elif is_generated(text):
            yield Drop(file.id, "read", "generated file", text[:200], file.bytes)
        elif not text.strip():
            yield Drop(file.id, "read", "empty file", file.id, file.bytes)
        else:
            taken += file.bytes
            yield Document(file.id, file.id, license, text, "code")


def list_files(distributions: Sequence[str] | None) -> Iterator[CodeFile]:
    """Every .py file of the standard library (`python/...`) and of installed distributions (`name/...`)."""
    wanted = None if distributions is None else {name.lower().replace("_", "-") for name in distributions}
    if wanted is None or "python" in wanted:
        root = Path(sysconfig.get_path("stdlib"))
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root)
            if relative.parts[0] not in ("site-packages", "dist-packages") and path.is_file():
                yield CodeFile(f"python/{relative.as_posix()}", path, "PSF", path.stat().st_size)
    for distribution in installed():
        name = distribution_name(distribution)
        if wanted is not None and name not in wanted:
            continue
        license = licence_of_distribution(distribution)
        for file in sorted(distribution.files or [], key=str):
            path = Path(str(distribution.locate_file(file)))
            if file.suffix == ".py" and ".." not in file.parts and path.is_file():
                yield CodeFile(f"{name}/{PurePosixPath(file)}", path, license, path.stat().st_size)


def reason_to_drop(file: CodeFile, licenses: Sequence[str]) -> str:
    """Why a file is not used, from its name and its distribution's licence alone; empty where it may be."""
    path = PurePosixPath(file.id)
    parts = {part.lower() for part in path.parts[1:-1]}
    if parts & _VENDORED:
        return "vendored copy"
    if parts & _TESTS or _TEST_FILE.fullmatch(path.name):
        return "test file"
    if _GENERATED_FILE.fullmatch(path.name):
        return "generated file"
    if file.id in _DATA_MODULES:
        return "data in the form of code"
    if file.bytes == 0:
        return "empty file"
    # A file's own header may be stricter than its distribution's licence, never looser: it is looked at later.
    return "" if is_permitted(file.license, licenses) else f"licence: {file.license}"


def is_generated(text: str) -> bool:
    """Whether the first comment lines say that a program wrote this file."""
    head = [line for line in text[:2_000].split("\n")[:10] if line.lstrip().startswith(("#", '"""', "'''"))]
    return any(_GENERATED_HEAD.search(line) for line in head)
