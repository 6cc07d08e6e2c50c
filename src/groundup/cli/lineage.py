"""`groundup lineage`: the tree of what an artifact was made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts import MARKER, Artifact, read_artifact
from groundup.console import duration
from groundup.errors import UserError
from groundup.recipe import KINDS, did_you_mean, one_of
from groundup.recipe.text import differing
from groundup.runs import runs_home


@dataclass(frozen=True)
class Node:
    """An artifact and what it read. `artifact` is None for something that lies outside the run, or is gone."""

    key: str  # the setting that named it: `base_model`; '' at the root
    value: str  # as written in the settings
    artifact: Artifact | None
    fingerprint: str  # of what was read
    is_current: bool  # what lies there now is what was read
    inputs: tuple[Node, ...] = ()


def show_lineage(name: str, *, home: Path | None, as_json: bool) -> None:
    roots = [lineage_of(folder) for folder in find_artifacts(name, home or runs_home())]
    if as_json:
        data = [_as_data(root) for root in roots]
        print(json.dumps(data[0] if len(data) == 1 else data, indent=1, ensure_ascii=False, default=str))
        return
    print("\n".join(line for root in roots for line in _lines(root, "", "", set())))


def find_artifacts(name: str, home: Path) -> list[Path]:
    """The artifact that a path lies in; for a run, the artifacts that no other one reads."""
    for path in (Path(name), home / name):
        if not path.exists():
            continue
        for folder in (path, *path.absolute().parents):
            if (folder / MARKER).is_file():
                return [folder]
        inside = sorted(one.parent for one in path.glob(f"*/{MARKER}")) if path.is_dir() else []
        if inside:
            read = {fingerprint for one in inside for fingerprint in _read(one).inputs.values()}
            return [one for one in inside if _read(one).output_fingerprint not in read]
        raise UserError("not an artifact: there is no artifact.json here or above", where=str(path))
    parent = Path(name).parent
    known = sorted(one.parent.name for one in parent.glob(f"*/{MARKER}")) if parent.is_dir() else []
    fix = one_of("artifacts there", known) if known else "`groundup runs` lists the runs"
    raise UserError(f"no such file or folder{did_you_mean(Path(name).name, known)}", where=name, fix=fix)


def _read(folder: Path) -> Artifact:
    artifact = read_artifact(folder)
    assert artifact is not None
    return artifact


def lineage_of(folder: Path) -> Node:
    artifact = _read(folder)
    return Node("", artifact.name, artifact, artifact.output_fingerprint, True, _inputs_of(folder, artifact))


def _inputs_of(folder: Path, artifact: Artifact) -> tuple[Node, ...]:
    nodes = []
    for key, fingerprint in artifact.inputs.items():
        value = str(_value_at(artifact.settings, key))
        beside = next((one for one in (folder.parent / value, Path(value)) if (one / MARKER).is_file()), None)
        source = read_artifact(beside) if beside is not None else None
        is_current = source is not None and source.output_fingerprint == fingerprint
        inputs = _inputs_of(beside, source) if beside is not None and source is not None and is_current else ()
        nodes.append(Node(key, value, source, fingerprint, is_current, inputs))
    return tuple(nodes)


def _value_at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings[int(part)] if isinstance(settings, list) else settings.get(part, "?")
    return settings


def _lines(node: Node, first: str, rest: str, told: set[str]) -> list[str]:
    """One node and its inputs; what was shown once is only named again."""
    lines = [first + _title(node)]
    if node.artifact is not None and node.is_current:
        if node.fingerprint in told:
            return [f"{lines[0]}  (see above)"] if node.inputs else lines
        told.add(node.fingerprint)
        if settings := _own_settings(node.artifact):
            bar = "| " if node.inputs else "  "
            lines.append(f"{rest}{bar}  {settings}")
    for index, one in enumerate(node.inputs):
        is_last = index == len(node.inputs) - 1
        lines += _lines(one, rest + ("`- " if is_last else "|- "), rest + ("   " if is_last else "|  "), told)
    return lines


def _title(node: Node) -> str:
    key = f"{node.key}: " if node.key else ""
    if node.artifact is None:
        return f"{key}{node.value}  {node.fingerprint[:12]}"
    if not node.is_current:
        changed = f"(has changed since: now {node.artifact.output_fingerprint[:12]})"
        return f"{key}{node.value}  {node.fingerprint[:12]}  {changed}"
    artifact = node.artifact
    when = artifact.finished_at.replace("T", " ").removesuffix("Z")
    return f"{key}{artifact.name} ({artifact.kind})  {node.fingerprint[:12]}  {duration(artifact.seconds)}, {when} UTC"


def _own_settings(artifact: Artifact) -> str:
    """The settings that differ from the defaults and do not name an input."""
    if artifact.kind not in KINDS:
        return ""
    named = {key.partition(".")[0] for key in artifact.inputs}
    own = {key: value for key, value in differing(KINDS[artifact.kind], artifact.settings).items() if key not in named}
    text = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in own.items())
    return text if len(text) <= 300 else text[:297] + "..."


def _as_data(node: Node) -> dict[str, Any]:
    artifact = node.artifact
    return {
        "key": node.key,
        "value": node.value,
        "output_fingerprint": node.fingerprint,
        "is_current": node.is_current,
        "kind": artifact.kind if artifact else None,
        "name": artifact.name if artifact else None,
        "path": str(artifact.path) if artifact else None,
        "settings": artifact.settings if artifact and node.is_current else {},
        "seconds": artifact.seconds if artifact else None,
        "finished_at": artifact.finished_at if artifact else None,
        "inputs": [_as_data(one) for one in node.inputs],
    }
