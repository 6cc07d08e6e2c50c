"""The folder that a stage leaves behind: fingerprint, lineage, atomic finish.

A stage works in a folder of its own (`StageContext.folder`). When it is done, `finish_artifact` writes `artifact.json`
last, and only a folder that holds it counts. Two stages never share anything but that folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from groundup.console import Console
from groundup.errors import UserError
from groundup.stopping import StopRequest
from groundup.team import Team

FORMAT_VERSION = 1
MARKER = "artifact.json"
TOKENIZER_FILES = (  # of a model folder: what goes with its tokenizer
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


@dataclass(frozen=True)
class Artifact:
    """A finished stage. `inputs` maps each setting that was read to the output fingerprint of what it read."""

    path: Path
    kind: str
    name: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    fingerprint: str  # of what was asked for: kind, settings, inputs. Decides whether the artifact is fresh
    output_fingerprint: str  # of what was written
    counts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    finished_at: str = ""
    exit_code: int = 0  # what the stage asked the run to end with (3: the gate refused)


@dataclass(frozen=True)
class StageResult:
    """What a stage's `run` returns: whole numbers worth keeping, measured numbers, and an exit code (3: refused)."""

    counts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0


@dataclass(frozen=True)
class StageContext:
    """Everything a stage may touch besides its own settings."""

    name: str  # the stage's name in the recipe
    folder: Path  # where it works; survives a kill, and becomes the artifact
    inputs: Mapping[str, Path]  # value as written in the settings ("corpus", "runs/x/base") -> folder it stands for
    seed: int
    cache: Path  # downloads and other things any run may share
    console: Console
    stop: StopRequest  # set by Ctrl-C or SIGTERM; long loops look at it and save
    run_folder: Path  # runs/NAME
    common_folder: Path | None = None  # where several processes train: the main one's `folder`, the others' is scratch
    team: Team = field(default_factory=Team)  # the processes that run this stage together

    @property
    def shared_folder(self) -> Path:
        """The folder that all processes of the stage see: checkpoints and sharded models belong there."""
        return self.common_folder or self.folder

    def input_folder(self, value: str) -> Path:
        """The folder that a setting's value stands for: an artifact of this recipe, or a path as given."""
        return self.inputs[value] if value in self.inputs else Path(value)

    def model_folder(self, value: str) -> Path:
        """The Hugging Face model folder behind a value: `<artifact>/model`, or the folder itself."""
        folder = self.input_folder(value)
        return folder / "model" if (folder / "model" / "config.json").exists() else folder


# ---------------------------------------------------------------- writing: nothing is ever half there


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write through a temporary name, fsync and rename, so that a reader sees the old file or the whole new one."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a read-only disk refuses this too, and the first reason is the one to tell
            temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error
    sync_folder(path.parent)


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """`indent=None` for what only programs read: several times as fast."""
    write_atomic(path, json.dumps(value, indent=indent, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}:{error.colno}") from error


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_error(error: OSError, path: Path) -> UserError | OSError:
    """A full or read-only disk as a message for people; any other OSError unchanged."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        there = next(one for one in (path.parent, *path.parent.absolute().parents) if one.is_dir())
        free_mb = shutil.disk_usage(there).free / 1e6
        return UserError(
            f"the disk is full ({free_mb:,.0f} MB free): could not write {path.name}",
            where=str(path.parent),
            fix="free some space; what is finished, and every checkpoint, is whole",
            exit_code=1,
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return UserError(
            f"no permission to write {path.name}",
            where=str(path.parent),
            fix="make the folder writable, or choose another with --runs FOLDER",
            exit_code=1,
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        what = f"there is a file where a folder should be: {path.name} cannot be written"
        return UserError(what, where=str(path.parent), fix="name another folder with --runs FOLDER", exit_code=1)
    return error


# ---------------------------------------------------------------- fingerprints


def fingerprint_of(value: Any) -> str:
    """sha256 of a JSON-able value, independent of key order."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def fingerprint_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_folder(folder: Path) -> str:
    """sha256 over the relative names and contents of an artifact's output files.

    What only says how the work went (logs, checkpoints, metrics) does not count as output, so a resumed and an
    uninterrupted run have the same fingerprint.
    """
    digest = hashlib.sha256()
    for path in output_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{fingerprint_file(path)}\n".encode())
    return digest.hexdigest()


NOT_OUTPUT = {"checkpoints", "logs", "work", "private"}  # folders
NOT_OUTPUT_FILES = {MARKER, "metrics.jsonl", "events.jsonl", "state.json", "run.log", "timing.json"}


def output_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_output = relative.parts[0] not in NOT_OUTPUT and path.name not in NOT_OUTPUT_FILES
        if is_output and path.is_file() and not path.name.startswith("."):
            yield path


# ---------------------------------------------------------------- finishing and reading


def finish_artifact(
    folder: Path,
    *,
    kind: str,
    name: str,
    settings: dict[str, Any],
    inputs: dict[str, str],
    fingerprint: str,
    result: StageResult,
    seconds: float,
) -> Artifact:
    """Write `artifact.json`, last of all: from here on the folder counts."""
    artifact = Artifact(
        path=folder,
        kind=kind,
        name=name,
        settings=settings,
        inputs=inputs,
        fingerprint=fingerprint,
        output_fingerprint=fingerprint_folder(folder),
        counts=result.counts,
        metrics=result.metrics,
        seconds=round(seconds, 3),
        finished_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        exit_code=result.exit_code,
    )
    record = {"format_version": FORMAT_VERSION, **asdict(artifact)}
    del record["path"]
    write_json(folder / MARKER, record)
    return artifact


def artifact_or_none(folder: Path) -> Artifact | None:
    """The artifact in `folder`; None where there is none, only half of one, or one of another version."""
    try:
        return read_artifact(folder)
    except (UserError, OSError, TypeError):
        return None


def read_artifact(folder: Path) -> Artifact | None:
    """The finished artifact in `folder`, or None where there is none (or only half of one)."""
    marker = folder / MARKER
    if not marker.is_file():
        return None
    record = read_json(marker)
    if record.pop("format_version", None) != FORMAT_VERSION:
        raise UserError(
            "this artifact was written by another version of groundup", where=str(marker), fix="build it again"
        )
    return Artifact(path=folder, **record)
