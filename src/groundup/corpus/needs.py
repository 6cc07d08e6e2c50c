"""Optional packages that a corpus plainly needs, told before anything is read: by engine, addresses and names of files.

What only the content of an archive says (a PDF in a tar) is not seen here; its reader says it then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from groundup.corpus.settings import CorpusSettings
from groundup.corpus.sources.files import is_path_list, listed_pieces, local_files
from groundup.corpus.sources.remote import file_system, is_remote
from groundup.errors import Problem, UserError

ARROW_WINDOW_BYTES = 1 << 27  # the largest that pyarrow's zstd takes
_EXTRAS = {"pypdfium2": "pdf", "py7zr": "sevenzip", "zstandard": "zstd", "ray": "ray", "distributed": "dask"}
_WHAT = {
    "pypdfium2": "PDF",
    "py7zr": ".7z",
    "zstandard": f"zstd with a window above {ARROW_WINDOW_BYTES >> 20} MB",
}
_LISTS = ("warc", "wet", "wikipedia", "news", "rows", "jsonl", "parquet", "csv", "hf")  # a .txt of theirs is a list
_NO_PACKED = ("code", "dialogue")  # read no .7z


def files_of(kind: str, path: str, root: str | None, most: int | None) -> list[str]:
    """Where the files of a source lie: local ones, addresses of a local list, or the address itself.

    Asks no network. UserError for what is not there.
    """
    if is_remote(path):
        return [path]
    if is_path_list(path, kind in _LISTS):
        return [piece.where for piece in listed_pieces(path, root, most)]
    return [str(file) for file in local_files(path)]


def missing_engine(settings: CorpusSettings) -> list[Problem]:
    """The package of the engine, where it is not installed."""
    package = {"ray": "ray", "dask": "distributed"}.get(settings.engine, "")
    if not package or settings.workers == 0 or _is_there(package):
        return []
    what = f"engine `{settings.engine}` needs the package {package}, which is not installed here"
    return [Problem(what, "engine", f"pip install 'groundup[{_EXTRAS[package]}]', or engine: local")]


def missing_packages(files: Iterable[tuple[str, str]]) -> list[Problem]:
    """A problem for each package that is absent, with how many files need it. `files`: (type of source, where)."""
    needed: dict[str, list[str]] = {}
    schemes: dict[str, str] = {}  # one address of each
    for kind, where in files:
        if is_remote(where):
            schemes.setdefault(where.partition("://")[0].lower(), where)
        for package in _needed_by(kind, where):
            needed.setdefault(package, []).append(where)
    problems: list[Problem] = []
    for address in schemes.values():
        try:
            file_system(address)
        except UserError as error:
            problems += error.problems
    for package, own in needed.items():
        if not _is_there(package):
            count = f" ({len(own):,} such files)" if len(own) > 1 else ""
            what = f"reading {_WHAT[package]} needs the package {package}, which is not installed{count}"
            problems.append(Problem(what, own[0], f"pip install 'groundup[{_EXTRAS[package]}]', or leave them out"))
    return problems


def _needed_by(kind: str, where: str) -> Iterator[str]:
    name = PurePosixPath(where.partition("?")[0] if is_remote(where) else where).name.lower()
    if kind == "papers" and name.endswith((".pdf", ".pdf.gz")):
        yield "pypdfium2"
    if kind not in _NO_PACKED and name.endswith(".7z"):
        yield "py7zr"
    if name.endswith((".zst", ".zstd")) and not is_remote(where) and zstd_window(Path(where)) > ARROW_WINDOW_BYTES:
        yield "zstandard"


def _is_there(package: str) -> bool:
    return find_spec(package) is not None


def zstd_window(path: Path) -> int:
    """The window in bytes that the first frame of a zstd file asks for; 0 where it has none (RFC 8878, 3.1.1.1)."""
    try:
        with open(path, "rb") as file:
            while (magic := file.read(4)) and magic[0] & 0xF0 == 0x50 and magic[1:] == b"\x2a\x4d\x18":
                file.seek(int.from_bytes(file.read(4), "little"), 1)  # a skippable frame
            head = file.read(14)
    except OSError:
        return 0
    if magic != b"\x28\xb5\x2f\xfd" or len(head) < 6:
        return 0
    if not head[0] & 0x20:
        base = 1 << (10 + (head[1] >> 3))
        return base + base // 8 * (head[1] & 7)
    # a single segment: its window is its content, whose size stands behind the dictionary's id
    start = 1 + (0, 1, 2, 4)[head[0] & 3]
    size = (1, 2, 4, 8)[head[0] >> 6]
    return int.from_bytes(head[start : start + size], "little") + (256 if size == 2 else 0)
