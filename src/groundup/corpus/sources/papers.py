"""Papers: PDF, JATS XML and LaTeX source, alone or in archives as arXiv and PubMed Central give them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from lxml import etree

from groundup.artifacts import fingerprint_of
from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import PapersSource
from groundup.corpus.sources.files import Input, decode, file_pieces, local_files, lost_places, open_piece
from groundup.corpus.sources.jats import articles
from groundup.corpus.sources.latex import LatexError, read_latex
from groundup.corpus.sources.packed import ARCHIVE_ERRORS, is_archive, members
from groundup.corpus.sources.pdf import PdfError, read_pdf
from groundup.corpus.sources.piece import Piece
from groundup.corpus.sources.remote import is_remote
from groundup.packages import is_package

_PROJECT = "\n"  # ends the `where` of a piece that is a folder of LaTeX
_SOURCE = (".tex", ".ltx", ".bbl")
_PAPERS = (".pdf", ".gz", ".tar", ".tgz", ".zip", ".nxml", ".xml", ".bz2", ".xz", ".zst")
_MOST_PAPER_BYTES = 256 << 20
_MOST_SOURCE_BYTES = 16 << 20
_NEW_ID = re.compile(r"(?<!\d)(\d{2})(\d{2})\.\d{4,5}(?:v\d+)?(?!\d)")
_OLD_ID = re.compile(r"(?<![a-z])([a-z]{2,8}(?:-[a-z]{2,4})?)[_/]?(\d{2})(\d{2})(\d{3})(?!\d)")


def pieces(source: PapersSource, cache: Path) -> list[Piece]:
    """One piece per file or archive; a folder that holds .tex files is one piece with all below it."""
    if is_package(source.path) or is_remote(source.path) or not Path(source.path).expanduser().is_dir():
        return file_pieces(source.path, cache)
    root = Path(source.path).expanduser()
    files = file_pieces(source.path, cache)
    folders = {PurePosixPath(piece.name).parent for piece in files if piece.name.endswith((".tex", ".ltx"))}
    if PurePosixPath(".") in folders and not _is_one_project(root):
        folders.remove(PurePosixPath("."))  # papers of one file each
    folders = {folder for folder in folders if not any(parent in folders for parent in folder.parents)}
    found: list[Piece] = []
    projects: dict[PurePosixPath, list[Piece]] = {}
    for piece in files:
        name = PurePosixPath(piece.name)
        project = next((folder for folder in folders if folder in name.parents), None)
        if project is not None:
            projects.setdefault(project, []).append(piece)
        else:
            found.append(piece)
    for folder, own in projects.items():
        identity = fingerprint_of([[one.name, one.identity] for one in own])
        found.append(Piece(folder.as_posix(), identity, sum(one.bytes for one in own), f"{root / folder}{_PROJECT}"))
    return sorted(found, key=lambda piece: piece.name)


def _is_one_project(root: Path) -> bool:
    """Whether the .tex files that lie in the recipe's own folder are one paper's: one of them begins it."""
    texts = [decode(path.read_bytes()) for path in sorted(root.glob("*.tex"))]
    return sum("\\documentclass" in text for text in texts) == 1 < len(texts)


def read(source: PapersSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """Each paper as one document; what is none, or cannot be read, is a drop with its reason."""
    if piece.where.endswith(_PROJECT):
        folder = Path(piece.where.removesuffix(_PROJECT))
        files = {}
        for path in local_files(str(folder)):
            if path.suffix.lower() in _SOURCE and path.stat().st_size <= _MOST_SOURCE_BYTES:
                files[path.relative_to(folder).as_posix()] = decode(path.read_bytes())
        notes["files"] += 1
        yield _latex(source, piece.name, files, notes)
        return
    for file in open_piece(piece):
        yield from _file(source, file, notes)


def _file(source: PapersSource, file: Input, notes: Counter[str]) -> Iterator[Document | Drop]:
    notes["files"] += 1
    seen = 0
    try:
        with file.open_unpacked() as stream:
            head = bytes(stream.peek(512)[:512])  # type: ignore[attr-defined]
            if not is_archive(head, file.name):
                for one in _one(source, file.name, stream, notes):
                    seen += 1
                    yield one
                return
        names = _member_names(file)
        for one in _archive(source, file, names, notes):
            seen += 1
            yield one
    except (*ARCHIVE_ERRORS, NotImplementedError, etree.XMLSyntaxError) as error:
        reason = "damaged file: the rest of it could not be read" if seen else "unreadable file"
        yield Drop(f"{file.name}#{seen + 1}" if seen else file.name, "read", reason, f"{file.where}: {error}")


def _member_names(file: Input) -> list[str]:
    with file.open_unpacked() as stream:
        return [name for name, _ in members(stream, file.where, [])]  # what is lost is told when they are read


def _archive(source: PapersSource, file: Input, names: list[str], notes: Counter[str]) -> Iterator[Document | Drop]:
    """One LaTeX project, or a package of PubMed Central, or a bundle of papers: what it holds says which."""
    lower = [name.lower() for name in names]
    has_tex = any(name.endswith((".tex", ".ltx")) for name in lower)
    has_bundle = any(
        name.endswith((".gz", ".tgz", ".tar")) or (name.endswith(".pdf") and _arxiv_id(name)) for name in lower
    )
    has_xml = any(name.endswith((".nxml", ".xml")) for name in lower)
    if not has_tex and len(names) == 1 and not has_xml and not lower[0].endswith(_PAPERS):
        has_tex = True  # arXiv's sources are sometimes one file without a suffix
    project: dict[str, str] = {}
    lost: list[str] = []
    with file.open_unpacked() as stream:
        for name, content in members(stream, file.where, lost):
            suffix = PurePosixPath(name.lower()).suffix
            if has_tex and not has_bundle:
                if suffix in _SOURCE or len(names) == 1:
                    project[name.removeprefix("./")] = decode(content.read(_MOST_SOURCE_BYTES))
            elif has_xml and suffix not in (".xml", ".nxml"):
                notes["files beside an article"] += 1
            elif suffix in _PAPERS or suffix in _SOURCE:
                # a member's stream may not be sought in, and an archive inside it must be gone through twice
                data = content.read(_MOST_PAPER_BYTES)
                yield from _file(source, Input(f"{file.name}/{name}", content=data, license=file.license), notes)
            else:
                notes["files that are no papers"] += 1
    yield from lost_places(file, lost)
    if has_tex and not has_bundle:
        yield _latex(source, file.name, project, notes)


def _one(source: PapersSource, name: str, stream: IO[bytes], notes: Counter[str]) -> Iterator[Document | Drop]:
    head = bytes(stream.peek(1024)[:1024])  # type: ignore[attr-defined]
    if b"%PDF-" in head:
        yield _pdf(source, name, stream.read(_MOST_PAPER_BYTES), notes)
    elif re.match(rb"\s*(?:\xef\xbb\xbf)?\s*<[?!a-zA-Z]", head):
        yield from _jats(source, name, stream)
    else:
        data = stream.read(_MOST_SOURCE_BYTES)
        if b"\0" in data[:8000]:
            yield Drop(name, "read", "not a paper (neither PDF, JATS nor LaTeX)", name, len(data))
        else:
            yield _latex(source, name, {"main.tex": decode(data)}, notes)


def _pdf(source: PapersSource, name: str, data: bytes, notes: Counter[str]) -> Document | Drop:
    try:
        pdf = read_pdf(data, notes, source.references)
    except PdfError as error:
        return Drop(name, "read", str(error), name, len(data))
    metadata: dict[str, Any] = {"title": pdf.title, "authors": [pdf.authors] if pdf.authors else [], "pages": pdf.pages}
    found = _document(source, name, pdf.text, "pdf", metadata, pdf.date)
    if pdf.arxiv and "arxiv" not in found.metadata:
        about = {**found.metadata, "arxiv": pdf.arxiv}
        found = replace(found, url=f"https://arxiv.org/abs/{pdf.arxiv}", metadata=about)
    return found


def _jats(source: PapersSource, name: str, stream: IO[bytes]) -> Iterator[Document | Drop]:
    place = 0
    for place, article in enumerate(articles(stream, source.references), 1):
        id = f"{name}#{place}" if place > 1 else name
        if not article.text:
            yield Drop(id, "read", "article without abstract or text", article.title)
            continue
        metadata = {"title": article.title, "authors": article.authors, "journal": article.journal}
        metadata |= {key: value for key, value in (("doi", article.doi), ("pmc", article.pmc)) if value}
        found = _document(source, id, article.text, "jats", metadata, article.date)
        url = f"https://doi.org/{article.doi}" if article.doi else found.url
        if article.pmc:
            url = f"https://pmc.ncbi.nlm.nih.gov/articles/PMC{article.pmc}/"
        yield replace(found, url=url, license=article.license or found.license, language=article.language)
    if not place:
        yield Drop(name, "read", "not a paper (neither PDF, JATS nor LaTeX)", name)


def _latex(source: PapersSource, name: str, files: dict[str, str], notes: Counter[str]) -> Document | Drop:
    size = sum(len(text) for text in files.values())
    try:
        paper = read_latex(files, notes, source.references)
    except LatexError as error:
        start = next((text[:300] for text in files.values()), name)
        return Drop(name, "read", str(error), start, size)
    return _document(source, name, paper.text, "latex", {"title": paper.title, "authors": paper.authors}, "")


def _document(source: PapersSource, name: str, text: str, kind: str, metadata: dict[str, Any], date: str) -> Document:
    arxiv = _arxiv_id(name)
    metadata = {"format": kind} | {key: value for key, value in metadata.items() if value}
    url = name
    if arxiv:
        id, month = arxiv
        metadata["arxiv"], url, date = id, f"https://arxiv.org/abs/{id}", month
    return Document(name, url, source.license or "unknown", text, "docs", "", date, metadata)


def _arxiv_id(name: str) -> tuple[str, str] | None:
    """(id, month) by a file's name: `2301.01234v2.tar.gz`, `math0309136.gz`, `hep-th/9901001.gz`."""
    path = PurePosixPath(name.lower())
    stem = f"{path.parent.name}/{path.name}"
    if found := _NEW_ID.search(path.name):
        year, month, id = found[1], found[2], found[0]
    elif found := _OLD_ID.search(path.name) or _OLD_ID.search(stem):
        year, month, id = found[2], found[3], f"{found[1]}/{found[2]}{found[3]}{found[4]}"
    else:
        return None
    if not 1 <= int(month) <= 12:
        return None
    return id, f"{'19' if int(year) > 90 else '20'}{year}-{month}"
