"""The licence of each file of a source tree: its header, else the nearest licence file or package metadata."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import PurePosixPath
from typing import Any

from groundup.corpus.licences import UNKNOWN, families_of, licence_of_header, licence_of_licence_file

_LICENCE_FILE = re.compile(
    r"(?:licen[sc]es?|copying|unlicen[sc]e|mit-licen[sc]e)(?:[._-].*)?|.*[._-]licen[sc]e(?:\.(?:txt|md))?", re.I
)
_METADATA = frozenset(
    ("package.json", "pyproject.toml", "cargo.toml", "setup.cfg", "setup.py", "composer.json", "pkg-info", "metadata",
     "description", "pom.xml")
)  # fmt: skip
MOST_LICENCE_BYTES = 200_000


def tells_licence(path: str) -> bool:
    """Whether a file's name says that it holds a licence or a package's metadata."""
    name = PurePosixPath(path).name.lower()
    return name in _METADATA or name.endswith((".gemspec", ".cabal")) or is_licence_file(path)


def is_licence_file(path: str) -> bool:
    pure = PurePosixPath(path)
    if pure.suffix.lower() in (".py", ".js", ".ts", ".go", ".rs", ".java", ".c", ".h", ".cc", ".cpp", ".rb", ".html"):
        return False  # licenses.py is about licences
    return bool(_LICENCE_FILE.fullmatch(pure.name)) or (
        pure.parent.name.lower() in ("licenses", "licences") and pure.suffix.lower() in ("", ".txt", ".md")
    )


class LicencesOfTree:
    """What the licence files and metadata of a tree say, by folder; small even for large trees."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, str]] = {}  # folder -> licence file's name -> SPDX
        self._metadata: dict[str, str] = {}

    def add(self, path: str, text: str) -> None:
        """Take in one file that `tells_licence`."""
        pure = PurePosixPath(path)
        folder = pure.parent
        if is_licence_file(path):
            if folder.name.lower() in ("licenses", "licences"):
                folder = folder.parent
            elif pure.name.lower().endswith(".license") and (spdx := licence_of_header(text)):
                self._files.setdefault(f"{pure.parent.as_posix()}/{pure.stem}".removeprefix("./"), {})[pure.name] = spdx
                return  # REUSE: x.png.license speaks for x.png alone
            if spdx := licence_of_licence_file(text):
                self._files.setdefault(folder.as_posix(), {})[pure.name.lower()] = spdx
        elif stated := licence_in_metadata(pure.name, text):
            self._metadata.setdefault(folder.as_posix(), stated)

    def of(self, path: str, text: str) -> str:
        """The SPDX expression of a file, `unknown` where nothing at all says one."""
        return licence_of_header(text) or self.above(path)

    def above(self, path: str) -> str:
        """What the file's own companion, or the nearest folder that says anything, says."""
        if path in self._files:
            return _together(self._files[path])
        for parent in PurePosixPath(path).parents:
            folder = parent.as_posix()
            stated = self._metadata.get(folder, "")
            if folder in self._files:
                texts = _together(self._files[folder])
                # metadata says whether several licence texts mean "either" or "both", and whether "or later"
                return stated if stated and _same_licences(stated, texts) else texts
            if stated:
                return stated
        return UNKNOWN


def _same_licences(stated: str, texts: str) -> bool:
    def split(expression: str) -> set[str]:
        return set(re.split(r" (?:AND|OR) ", families_of(expression)))

    return split(stated) == split(texts)


def _together(files: dict[str, str]) -> str:
    """One expression of the licence files of one folder."""
    found = sorted(set(files.values()))
    if len(found) == 1:
        return found[0]
    families = {families_of(spdx) for spdx in found}
    if families == {"LGPL", "GPL"}:  # the LGPL is written as an addition to the GPL: both texts, one licence
        return next(spdx for spdx in found if families_of(spdx) == "LGPL")
    named = [name for name in files if re.fullmatch(r"(?:licen[sc]e|copying)[-_.](?!md$|txt$|rst$).+", name)]
    # LICENSE-MIT beside LICENSE-APACHE is the choice that Rust's packages give; anything else may need all of them
    return (" OR " if len(named) == len(files) else " AND ").join(found)


def licence_in_metadata(name: str, text: str) -> str:
    """The licence that a package's metadata file states, '' where it states none or is broken."""
    name = name.lower()
    try:
        if name in ("package.json", "composer.json"):
            return _json_licence(json.loads(text))
        if name in ("pyproject.toml", "cargo.toml"):
            return _toml_licence(tomllib.loads(text))
    except (ValueError, RecursionError):
        return ""
    if name in ("pkg-info", "metadata"):
        found = re.search(r"^License-Expression:\s*(.+)$", text, re.M) or re.search(r"^License:\s*(\S.*)$", text, re.M)
    elif name == "setup.py":
        found = re.search(r"\blicense\s*=\s*[\"']([^\"'\n]+)", text)
    elif name == "pom.xml":
        found = re.search(r"<license>\s*<name>\s*([^<]+?)\s*</name>", text)
    elif name.endswith(".gemspec"):
        found = re.search(r"\.licen[sc]es?\s*=\s*\[?\s*[\"']([^\"']+)", text)
    elif name in ("setup.cfg", "description") or name.endswith(".cabal"):
        found = re.search(r"^licen[sc]e\s*[:=]\s*(\S.*)$", text, re.M | re.I)
    else:
        found = None
    return _known(found[1].strip()) if found else ""


def _json_licence(content: Any) -> str:
    stated = content.get("license", content.get("licenses")) if isinstance(content, dict) else None
    many = stated if isinstance(stated, list) else [stated]
    names = [one.get("type") if isinstance(one, dict) else one for one in many]
    return _known(" OR ".join(str(one) for one in names if one))


def _toml_licence(content: dict[str, Any]) -> str:
    project = content.get("project") or content.get("package") or {}
    if not isinstance(project, dict):
        return ""
    stated = project.get("license")
    if isinstance(stated, dict):
        stated = stated.get("text", "")
    if isinstance(stated, str) and (known := _known(stated.split("\n")[0])):
        return known
    classifiers = project.get("classifiers")
    names = [
        one.rpartition("::")[2].strip()
        for one in (classifiers if isinstance(classifiers, list) else [])
        if isinstance(one, str) and one.startswith("License ::") and not one.endswith("OSI Approved")
    ]
    return " AND ".join(name for name in sorted(names) if _known(name))


def _known(stated: str) -> str:
    return stated if stated and families_of(stated) != UNKNOWN else ""
