"""A tree of files wherever it lies: a folder, a git repository (also bare), a zip or tar archive.

Each is read without unpacking anything to disk, and a file's bytes only when they are asked for.
"""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.corpus.sources.files import Input
from groundup.corpus.sources.packed import ARCHIVE_ERRORS, unpack
from groundup.corpus.sources.tars import tar_members
from groundup.errors import UserError

_ZIP_SUFFIXES = (".zip", ".whl", ".jar", ".egg", ".nupkg")
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".crate")
_TAR_READ_LIMIT = 64 << 20


@dataclass(frozen=True)
class TreeFile:
    path: str  # relative to the tree, with forward slashes
    size: int  # bytes
    read: Callable[[], bytes] = field(repr=False)  # raises one of ARCHIVE_ERRORS where the file is damaged
    date: str = ""


class DamagedTreeError(OSError):
    """The rest of the archive or repository cannot be read."""


class DamagedPlacesError(DamagedTreeError):
    """Places of an archive that has been read to its end were passed over."""


def is_archive_name(name: str) -> bool:
    return name.lower().endswith(_ZIP_SUFFIXES + _TAR_SUFFIXES)


def archive_stem(name: str) -> str:
    """`flask-3.1.0.tar.gz` -> `flask-3.1.0`."""
    suffix = max((one for one in _ZIP_SUFFIXES + _TAR_SUFFIXES if name.lower().endswith(one)), key=len, default="")
    return name[: len(name) - len(suffix)]


# ---------------------------------------------------------------- folders


def folder_files(root: Path, top: str | None = None) -> Iterator[TreeFile]:
    """Every file, sorted by path; what git keeps for itself and links are passed over.

    `top`: only that immediate sub-folder; "" for the files that lie in the root itself.
    """
    start = root if not top else root / top
    for folder, folders, names in os.walk(start):
        folders[:] = [] if top == "" else sorted(one for one in folders if one != ".git")
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_symlink() or not path.is_file():
                continue
            yield TreeFile(path.relative_to(root).as_posix(), path.stat().st_size, path.read_bytes)


# ---------------------------------------------------------------- archives


def _any(name: str) -> bool:
    return bool(name)


def archive_files(archive: Input, wanted: Callable[[str], bool] = _any) -> Iterator[TreeFile]:
    """The wanted files of a zip (by path) or a tar, compressed or not (in its own order).

    Raises one of ARCHIVE_ERRORS where the archive ends badly; what came before it has been yielded.
    """
    with archive.open() as raw:
        head = raw.read(4)
        raw.seek(0)
        if head == b"PK\x03\x04" or archive.name.lower().endswith(_ZIP_SUFFIXES):
            yield from _zip_files(raw, wanted)
        else:
            yield from _tar_files(unpack(raw, archive.where), wanted)


def _zip_files(raw: Any, wanted: Callable[[str], bool]) -> Iterator[TreeFile]:
    with zipfile.ZipFile(raw) as archive:
        for info in sorted(archive.infolist(), key=lambda one: one.filename):
            if not info.is_dir() and wanted(info.filename):
                date = "{:04d}-{:02d}-{:02d}".format(*info.date_time[:3]) if info.date_time[0] > 1980 else ""
                yield TreeFile(info.filename, info.file_size, lambda info=info: archive.read(info), date)  # type: ignore[misc]


def _tar_files(stream: Any, wanted: Callable[[str], bool]) -> Iterator[TreeFile]:
    lost: list[str] = []
    for member, content in tar_members(stream, lost):
        name = member.name.removeprefix("./")
        if not wanted(name):
            continue
        # forwards only: the bytes are there now or never, so they are taken at once where the size allows
        data = content.read() if member.size <= _TAR_READ_LIMIT else b""
        yield TreeFile(name, member.size, lambda data=data: data)  # type: ignore[misc]
    if lost:
        raise DamagedPlacesError(f"{'; '.join(lost[:3])}{f'; and {len(lost) - 3} more' if len(lost) > 3 else ''}")


# ---------------------------------------------------------------- git

# Nothing that a foreign repository's own configuration names may be run, and nothing fetched.
_GIT = ("git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-pager")
_GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_ALLOW_PROTOCOL": "none",
}


@dataclass(frozen=True)
class Commit:
    """What a repository was read at. `origin` is its remote's address as a web page, where it has one."""

    hash: str
    date: str
    origin: str


def is_checkout(path: Path) -> bool:
    """A work tree: `.git` is a folder, or a file in a submodule or a further work tree."""
    return (path / ".git").exists()


def is_bare(path: Path) -> bool:
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()


def git(repository: Path, *arguments: str) -> str:
    """What git says, without its last newline. OSError where it refuses, or is not there (FileNotFoundError)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        [*_GIT, "-C", str(repository), *arguments],
        env=environment | _GIT_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise DamagedTreeError(done.stderr.decode("utf-8", "replace").strip() or f"git exit code {done.returncode}")
    return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")


def commit_of(repository: Path, revision: str) -> Commit:
    """The commit that `revision` names. UserError where there is none."""
    try:
        hash, date = git(repository, "log", "-1", "--format=%H %cI", "--end-of-options", revision).split(" ")
    except FileNotFoundError as error:
        raise UserError(
            "reading a git repository needs git, which is not installed",
            where=str(repository),
            fix="install git, or name a folder or an archive of the files",
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"no commit {revision!r}: {error}",
            where=str(repository),
            fix="name a branch, tag or commit that is there under `revision`; an empty repository has none",
        ) from error
    try:
        origin = git(repository, "config", "--local", "--get", "remote.origin.url")
    except DamagedTreeError:
        origin = ""
    return Commit(hash, date, web_address(origin))


def web_address(origin: str) -> str:
    """`git@github.com:owner/name.git` -> `https://github.com/owner/name`; empty for a local path."""
    if origin.startswith("git@") and ":" in origin:
        host, _, path = origin.removeprefix("git@").partition(":")
        origin = f"https://{host}/{path}"
    if not origin.startswith(("https://", "http://", "ssh://", "git://")):
        return ""
    scheme, _, rest = origin.partition("://")
    host, slash, path = rest.partition("/")
    host = host.rpartition("@")[2]  # never a name or a token into a document
    return f"{'http' if scheme == 'http' else 'https'}://{host}{slash}{path}".removesuffix(".git")


def git_files(repository: Path, commit: Commit) -> Iterator[TreeFile]:
    """Every file of the commit, sorted by path, out of the object store. Links and submodules are passed over."""
    listing = git(repository, "ls-tree", "-r", "-z", "--long", commit.hash)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with subprocess.Popen(
        [*_GIT, "-C", str(repository), "cat-file", "--batch"],
        env=environment | _GIT_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            for entry in listing.split("\0"):
                if not entry:
                    continue
                head, _, path = entry.partition("\t")
                mode, kind, hash, size = head.split()
                if kind != "blob" or mode == "120000":
                    continue
                yield TreeFile(path, int(size) if size.isdigit() else 0, lambda hash=hash: _blob(process, hash))  # type: ignore[misc]
        finally:
            process.stdin.close()  # type: ignore[union-attr]
            process.kill()


def _blob(process: Any, hash: str) -> bytes:
    process.stdin.write(hash.encode() + b"\n")
    process.stdin.flush()
    head = process.stdout.readline().split()
    if len(head) != 3:
        raise DamagedTreeError(f"object {hash} is missing or damaged")
    size = int(head[2])
    data: bytes = process.stdout.read(size)
    process.stdout.read(1)  # the newline after it
    if len(data) != size:
        raise DamagedTreeError(f"object {hash} was cut off")
    return data


READ_ERRORS = (*ARCHIVE_ERRORS, NotImplementedError)  # the last: a zip's unknown compression method
