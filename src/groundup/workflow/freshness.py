"""What has to be built again: fingerprints of what a stage is asked to do and of what it reads.

A stage is fresh when its fingerprint is the one in its artifact: kind and version, settings, seed, and the fingerprints
of what it reads. A dependant runs again where the output that it reads has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from groundup.artifacts import Artifact, artifact_or_none, fingerprint_file, fingerprint_of
from groundup.recipe import Stage, settings_data

SMALL_FILE_BYTES = 4_000_000  # up to here a file counts by its content, above by size and time of change


def stage_fingerprint(stage: Stage, inputs: Mapping[str, str], *, is_under_way: bool = False) -> str:
    """What was asked for: kind, version of its code's output, settings without presentation, seed, inputs.

    `is_under_way`: of unfinished work, which goes on also where what `MayChange` has changed.
    """
    return fingerprint_of(
        {
            "kind": stage.kind.name,
            "version": stage.kind.version,
            "settings": settings_data(stage.settings, with_presentation=False, with_changeable=not is_under_way),
            "seed": stage.seed,
            "inputs": dict(inputs),
        }
    )


def input_fingerprints(stage: Stage, outputs: Mapping[str, str]) -> dict[str, str]:
    """Setting -> fingerprint of what it reads. `outputs`: stage -> the output fingerprint of its artifact."""
    found: dict[str, str] = {}
    for one in stage.references:
        if one.stage is not None:
            found[one.key] = outputs[one.stage]
        elif one.path is not None:
            found[one.key] = path_fingerprint(one.path)
    return found


def path_fingerprint(path: Path) -> str:
    """An artifact by its output fingerprint; other files by content where small, else by size and time of change."""
    if not path.exists():  # a glob
        anchor = Path(path.anchor)
        matches = sorted(anchor.glob(str(path.relative_to(anchor)))) if path.anchor else sorted(Path().glob(str(path)))
        return fingerprint_of([[one.name, path_fingerprint(one)] for one in matches])
    if path.is_dir():
        if (artifact := artifact_or_none(path)) is not None:
            return artifact.output_fingerprint
        files = (one for one in sorted(path.rglob("*")) if one.is_file())
        return fingerprint_of([[one.relative_to(path).as_posix(), path_fingerprint(one)] for one in files])
    status = path.stat()
    if status.st_size <= SMALL_FILE_BYTES:
        return fingerprint_file(path)
    return fingerprint_of([status.st_size, status.st_mtime_ns])


def fresh_artifact(folder: Path, fingerprint: str) -> Artifact | None:
    """The artifact in `folder` if it is finished and was made for this fingerprint."""
    artifact = artifact_or_none(folder)
    return artifact if artifact is not None and artifact.fingerprint == fingerprint else None
