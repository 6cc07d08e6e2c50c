"""Source code: folders, git repositories (also bare), zip and tar archives, and rows as The Stack has them.

Every file gets its own licence. Generated, minified, vendored, binary and data files, and licences that are not
permitted, are drops with their reason; notebooks become readable text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path, PurePosixPath

from groundup.artifacts import fingerprint_of
from groundup.corpus.document import EXCERPT_CHARS, Document, Drop, Media
from groundup.corpus.licences import UNKNOWN, families_of, is_permitted
from groundup.corpus.source_settings import CodeSource
from groundup.corpus.sources.code_files import (
    DOCUMENTATION,
    is_binary,
    is_test,
    language_of,
    reason_by_content,
    reason_by_name,
)
from groundup.corpus.sources.code_licences import MOST_LICENCE_BYTES, LicencesOfTree, tells_licence
from groundup.corpus.sources.code_rows import is_rows_name, read_rows
from groundup.corpus.sources.files import Input, decode, file_pieces, local_files, open_piece
from groundup.corpus.sources.notebooks import text_of_notebook
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.remote import is_remote
from groundup.corpus.sources.trees import (
    READ_ERRORS,
    Commit,
    DamagedPlacesError,
    TreeFile,
    archive_files,
    archive_stem,
    commit_of,
    folder_files,
    git_files,
    is_archive_name,
    is_bare,
    is_checkout,
)
from groundup.packages import is_package

_REPOSITORY_DEPTH = 3  # a folder of checkouts, also as host/owner/name
_ROOT = "\n"  # in a piece's `where`: the folder, then which part of it


def pieces(source: CodeSource, cache: Path) -> list[Piece]:
    """One piece per repository, archive, file of rows, and immediate sub-folder of a folder of loose files."""
    if is_package(source.path) or is_remote(source.path):
        return file_pieces(source.path, cache)
    root = Path(source.path).expanduser()
    if not root.is_dir():
        return [_file_piece(path) for path in local_files(source.path)]
    if is_checkout(root) or is_bare(root):
        return [_repository_piece(root, root.resolve().name, source.revision)]
    repositories = sorted(_repositories(root, _REPOSITORY_DEPTH))
    found = [_repository_piece(path, path.relative_to(root).as_posix(), source.revision) for path in repositories]
    loose: dict[str, list[tuple[str, int, int]]] = {}
    for path in local_files(source.path):
        if any(repository in path.parents for repository in repositories):
            continue
        name = path.relative_to(root).as_posix()
        if is_archive_name(name) or is_rows_name(name):
            found.append(_file_piece(path, name))
        else:
            stat = path.stat()
            loose.setdefault(name.partition("/")[0] if "/" in name else "", []).append(
                (name, stat.st_size, stat.st_mtime_ns)
            )
    for top, files in loose.items():
        size = sum(one[1] for one in files)
        found.append(Piece(top or ".", fingerprint_of(files), size, f"{root}{_ROOT}{top}"))
    return sorted(found, key=lambda piece: piece.name)


def _repositories(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name != ".git":
            if is_checkout(path) or is_bare(path):
                yield path
            elif depth > 1:
                yield from _repositories(path, depth - 1)


def _repository_piece(path: Path, name: str, revision: str) -> Piece:
    commit = commit_of(path, revision)
    objects = path / ".git" / "objects" if is_checkout(path) else path / "objects"
    size = sum(one.stat().st_size for one in objects.rglob("*") if one.is_file()) if objects.is_dir() else 0
    return Piece(name.removesuffix(".git"), commit.hash, size, str(path))


def _file_piece(path: Path, name: str = "") -> Piece:
    stat = path.stat()
    return Piece(name or path.name, f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_size, str(path))


# ---------------------------------------------------------------- reading


def read(source: CodeSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Every file of the piece, by path (a tar's in its own order); each a document or a drop with its reason."""
    if _ROOT in piece.where:
        folder, _, top = piece.where.partition(_ROOT)
        loose = lambda: _loose(Path(folder), top)  # noqa: E731
        yield from _read_tree(source, piece, notes, loose, chain(_above(Path(folder), top), loose()), top=top)
    elif Path(piece.where).is_dir():
        commit = commit_of(Path(piece.where), source.revision)
        committed = lambda: git_files(Path(piece.where), commit)  # noqa: E731
        yield from _read_tree(source, piece, notes, committed, committed(), commit=commit)
    elif is_package(piece.where):
        yield from _read_package(source, piece, notes)
    else:
        for file in open_piece(piece):
            if is_rows_name(file.name):
                yield from read_rows(source, piece, file, notes, document_of)
            elif is_archive_name(file.name):
                yield from _read_tree(source, piece, notes, _archive(file), archive_files(file, tells_licence))
            else:
                yield from _read_one(source, piece, file, notes)


def _archive(file: Input) -> Callable[[], Iterable[TreeFile]]:
    return lambda: archive_files(file)


def _read_one(source: CodeSource, piece: Piece, file: Input, notes: Counter[str]) -> Iterator[Document | Drop]:
    """One file on its own: what says its licence lies around it."""
    try:
        with file.open() as stream:
            data = stream.read()
    except READ_ERRORS as error:
        yield Drop(piece.name, "read", "unreadable file", f"{file.where}: {error}")
        return
    around = list(folder_files(file.path.parent, "")) if file.path else []
    one = TreeFile(PurePosixPath(piece.name).name, len(data), lambda: data)
    yield from _read_tree(source, Piece(".", "", 0), notes, lambda: [one], around)


def _loose(root: Path, top: str) -> Iterator[TreeFile]:
    for file in folder_files(root, top):
        if not (is_archive_name(file.path) or is_rows_name(file.path)) and not _in_repository(root, file.path):
            yield file


def _in_repository(root: Path, path: str) -> bool:
    parents = list(PurePosixPath(path).parents)[:-1]
    return any(is_checkout(root / parent) or is_bare(root / parent) for parent in parents)


def _above(root: Path, top: str) -> list[TreeFile]:
    """The licence files that lie in the root, for the piece that is one of its sub-folders."""
    return [one for one in folder_files(root, "") if tells_licence(one.path)] if top else []


def _survive(files: Iterable[TreeFile], piece: Piece, notes: Counter[str]) -> Iterator[TreeFile | Drop]:
    """The files, as far as the archive or repository can be read, and a drop that says what could not."""
    seen = 0
    try:
        for file in files:
            seen += 1
            yield file
    except READ_ERRORS as error:
        notes["damaged archives"] += 1
        reason = "damaged archive: the rest of it could not be read" if seen else "not a readable archive"
        if isinstance(error, DamagedPlacesError):
            reason = "damaged places in an archive: passed over"
        yield Drop(f"{piece.name}#{seen + 1}", "read", reason, f"{piece.where}: {error}")


def _read_tree(
    source: CodeSource,
    piece: Piece,
    notes: Counter[str],
    files: Callable[[], Iterable[TreeFile]],
    licence_files: Iterable[TreeFile],
    *,
    top: str = "",
    commit: Commit | None = None,
) -> Iterator[Document | Drop]:
    """Twice over the tree: first what says licences (of `licence_files`), as it may lie behind what it is for."""
    licences = LicencesOfTree()
    for one in _survive(licence_files, piece, Counter()):
        if isinstance(one, TreeFile) and one.size <= MOST_LICENCE_BYTES and tells_licence(one.path):
            try:
                licences.add(one.path, decode(one.read()))
            except READ_ERRORS:
                notes["licence files that could not be read"] += 1
    name = archive_stem(piece.name)
    prefix = "" if top or name == "." else f"{name}/"
    for file in _survive(files(), piece, notes):
        if isinstance(file, Drop):
            yield file
            continue
        path = file.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        url = f"{commit.origin}/blob/{commit.hash}/{path}" if commit and commit.origin else f"{prefix}{path}"
        date = commit.date if commit else file.date
        yield _file(source, file, f"{prefix}{path}", url, date, licences, notes)


def _file(
    source: CodeSource, file: TreeFile, id: str, url: str, date: str, licences: LicencesOfTree, notes: Counter[str]
) -> Document | Drop:
    notes["files"] += 1
    if reason := reason_by_name(file.path):
        return Drop(id, "read", reason, id, file.size)
    if file.size > source.max_file_bytes:
        size, most = float(file.size), float(source.max_file_bytes)
        return Drop(id, "read", "larger than max_file_bytes", id, file.size, size, most)
    try:
        data = file.read()
    except READ_ERRORS as error:
        return Drop(id, "read", "unreadable file", f"{id}: {error}", file.size)
    return document_of(source, data, id, file.path, url, date, lambda text: licences.of(file.path, text), {})


def document_of(
    source: CodeSource,
    data: bytes | str,
    id: str,
    path: str,
    url: str,
    date: str,
    licence: Callable[[str], str],
    metadata: dict[str, object],
) -> Document | Drop:
    """One file's text as a document, or why it is none. `licence` is asked with the text, '' or `unknown` for none."""
    if isinstance(data, bytes) and is_binary(data):
        return Drop(id, "read", "binary file", id, len(data))
    text = decode(data) if isinstance(data, bytes) else data
    size = len(data) if isinstance(data, bytes) else len(data.encode("utf-8", "surrogatepass"))
    language = str(metadata.get("language") or "") or language_of(path, text[:2_000])
    if not language:
        return Drop(id, "read", "unknown kind of file", text[:EXCERPT_CHARS], size)
    if source.programming_languages and language.lower() not in {one.lower() for one in source.programming_languages}:
        return Drop(id, "read", f"language: {language}", text[:EXCERPT_CHARS], size)
    if not source.tests and is_test(path):
        return Drop(id, "read", "test file", text[:EXCERPT_CHARS], size)
    reason, value, bound = reason_by_content(text, language)
    if reason:
        return Drop(id, "read", reason, text[:EXCERPT_CHARS], size, value, bound)
    license = licence(text) or UNKNOWN
    if license == UNKNOWN and source.license:
        license = source.license  # whoever states it answers for it
    elif not is_permitted(families_of(license), source.licenses):
        return Drop(id, "read", f"licence: {families_of(license)}", text[:EXCERPT_CHARS], size)
    media: Media = "docs" if language in DOCUMENTATION else "code"
    if language == "Jupyter":
        try:
            text, kernel = text_of_notebook(text)
        except ValueError as error:
            return Drop(id, "read", "not a readable notebook", f"{id}: {error}", size)
        if not text:
            return Drop(id, "read", "empty file", id, size)
        metadata = metadata | {"kernel": kernel}
    return Document(id, url, license, text, media, "", date, metadata | {"language": language, "path": path})


def _read_package(source: CodeSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    for one in open_piece(piece):
        content = one.content or b""
        file = TreeFile(one.name, len(content), lambda content=content: content)  # type: ignore[misc]
        found = _file(source, file, one.name, one.name, "", LicencesOfTree(), notes)
        if isinstance(found, Document) and found.license == UNKNOWN:
            found = Document(found.id, found.url, one.license, found.text, found.media, "", "", found.metadata)
        yield found
