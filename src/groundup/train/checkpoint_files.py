"""The folders of checkpoints on disk: whole or not there, verified, pruned. No torch in here.

`checkpoint-<step>/` appears under its name when all of it is on disk. Its file COMPLETE is written last and holds the
sha256 of every other file, as it was computed from what was written, and whether the checkpoint is a milestone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundup.artifacts import disk_error, fingerprint_file, sync_folder
from groundup.errors import EXIT_FAILED, UserError

MARKER = "COMPLETE"


def checkpoints_in(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


# ---------------------------------------------------------------- writing


def temporary_folder(folder: Path, step: int) -> Path:
    return folder / f".checkpoint-{step}.tmp"


def write_synced(path: Path, data: bytes) -> str:
    """Write and fsync; returns the sha256 of what was to be written."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def finish(temporary: Path, final: Path, sha256: Mapping[str, str], *, is_milestone: bool) -> None:
    """Write the marker and give the checkpoint its name: from here on it counts."""
    write_synced(temporary / MARKER, json_bytes({"sha256": dict(sorted(sha256.items())), "milestone": is_milestone}))
    sync_folder(temporary)
    remove(final)
    temporary.rename(final)
    sync_folder(final.parent)


def refused(error: OSError, folder: Path, step: int) -> UserError | OSError:
    """Why `checkpoint-<step>` could not be written, for people, with where the run will go on from."""
    good = next((one.name for one in checkpoints_in(folder)), None)
    goes_on = f"{good} is kept, and the same command goes on from it" if good else "nothing was saved before it"
    what, fix = "", ""
    if error.errno == errno.EFBIG:
        what = f"checkpoint-{step} is larger than a file may be here"
        fix = "raise the limit (ulimit -f), or choose another folder"
    elif not folder.parent.is_dir():
        what, fix = f"the folder of this run is gone: could not write checkpoint-{step}", "bring its disk back"
    elif isinstance(known := disk_error(error, folder / f"checkpoint-{step}"), UserError):
        what, fix = known.problems[0].what, known.problems[0].fix
    return UserError(what, where=str(folder), fix=f"{fix}; {goes_on}", exit_code=EXIT_FAILED) if what else error


# ---------------------------------------------------------------- verifying


def damage_of(checkpoint: Path, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint's files, or None when each has the sha256 it was written with.

    `part` of `parts`: of many files, only every `parts`-th is looked into, for processes that share the work.
    """
    marker = checkpoint / MARKER
    if not marker.is_file():
        return f"no {MARKER}"
    try:
        complete = json.loads(marker.read_bytes())
        hashes: dict[str, str] = complete["sha256"]
        is_as_written = marker.read_bytes() == json_bytes({"sha256": hashes, "milestone": complete["milestone"]})
    except (ValueError, KeyError, TypeError):
        return f"{MARKER} cannot be read"
    if not is_as_written:
        return f"{MARKER} is not what was written"
    for name in sorted(hashes)[part::parts]:
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if fingerprint_file(checkpoint / name) != hashes[name]:
            return f"{name} is not what was written"
    return None


def check_configuration(checkpoint: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """UserError that names every setting with another value than the one the checkpoint was made with."""
    now = json.loads(json.dumps(now))
    different = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
    if different:
        changes = ", ".join(f"{key} {saved.get(key)!r} -> {now.get(key)!r}" for key in different)
        raise UserError(
            f"this checkpoint was made with other settings: {changes}",
            where=str(checkpoint),
            fix=f"put the settings back to go on, or delete {checkpoint.parent} to start again",
        )


def forget_cached(checkpoint: Path) -> None:
    """Ask the system to drop what it keeps of the files in memory, so that they are read from the disk itself."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in checkpoint.iterdir():
        with path.open("rb") as file, contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---------------------------------------------------------------- keeping and removing


def is_milestone(checkpoint: Path) -> bool:
    """Whether a checkpoint is kept for good."""
    try:
        return bool(json.loads((checkpoint / MARKER).read_bytes()).get("milestone", False))
    except (OSError, ValueError, AttributeError):
        return False


def prune(folder: Path, keep: int, regular_steps: int | None = None) -> None:
    """Remove all but the newest `keep` checkpoints and the milestones.

    `regular_steps`: the newest `keep` of those at a multiple of it (and step 1) stay, too, so that a run which was
    stopped and saved in between has the same ones to go back to as one that was not.
    """
    passing = [checkpoint for checkpoint in checkpoints_in(folder) if not is_milestone(checkpoint)]
    regular = [one for one in passing if regular_steps and (step_of(one) % regular_steps == 0 or step_of(one) == 1)]
    for old in passing[keep:]:
        if old not in regular[:keep]:
            remove(old)


def clear(folder: Path) -> None:
    """When the stage is done: remove all but the milestones, and the folder where nothing is left."""
    prune(folder, keep=0)
    sweep(folder)
    with contextlib.suppress(OSError):  # not empty, or not there
        folder.rmdir()


def remove(checkpoint: Path) -> None:
    """Take the name away first: a kill half way leaves a leftover, never a damaged checkpoint."""
    if checkpoint.exists():
        gone = checkpoint.with_name(f".{checkpoint.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        checkpoint.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def discard(temporary: Path) -> None:
    """Remove what a save that failed has written."""
    shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what cut-off saves and removals left."""
    for leftover in folder.glob(".checkpoint-*"):
        shutil.rmtree(leftover, ignore_errors=True)
