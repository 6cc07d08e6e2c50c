"""What was made from what: the graph of a run's stages, as data and as a picture with one box a stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from groundup.report.reading import StageFiles

BOX_WIDTH, BOX_HEIGHT = 112.0, 40.0
GAP_X, GAP_Y = 28.0, 16.0


def lineage_data(stages: Sequence[StageFiles]) -> dict[str, Any]:
    """Stages as nodes, what each one read as edges {from, to, setting}."""
    names = {stage.name for stage in stages}
    by_output = {(stage.artifact or {}).get("output_fingerprint"): stage.name for stage in stages if stage.artifact}
    nodes, edges = [], []
    for stage in stages:
        artifact = stage.artifact or {}
        row = {"name": stage.name, "kind": stage.kind, "status": stage.status}
        nodes.append({**row, "fingerprint": artifact.get("fingerprint"), "output": artifact.get("output_fingerprint")})
        read: dict[str, str] = {}
        for key, value in (artifact.get("inputs") or {}).items():
            source = by_output.get(value)
            if source is not None and source != stage.name:
                read.setdefault(source, str(key))
        for setting, value in _strings(stage.settings):
            if value in names and value != stage.name and setting.split(".")[-1] in REFERENCES:
                read[value] = setting
        edges += [{"from": source, "to": stage.name, "setting": setting} for source, setting in read.items()]
    return {"nodes": nodes, "edges": edges}


# settings that may name a stage; others (task names, source names) only look like it
REFERENCES = {"corpus", "tokenizer", "tokens", "base_model", "path", "model", "models", "reward", "reward_model"}
REFERENCES |= {"pairs", "candidate", "baseline", "evidence", "ref_model", "critic"}


def _strings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _strings(value, f"{name}.")
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, str):
                    yield name, item
                elif isinstance(item, Mapping):
                    yield from _strings(item, f"{name}.")


# ---------------------------------------------------------------- the picture


def layers_of(names: Sequence[str], edges: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Stages by their longest distance from a stage that reads nothing; the given order within a layer.

    Edges that would close a circle are ignored (a recipe cannot hold one, an old folder might).
    """
    sources: dict[str, list[str]] = {name: [] for name in names}
    for edge in edges:
        if edge["to"] in sources and edge["from"] in sources:
            sources[edge["to"]].append(edge["from"])
    depth: dict[str, int] = {}

    def depth_of(name: str, above: tuple[str, ...] = ()) -> int:
        if name not in depth:
            reached = [depth_of(source, (*above, name)) for source in sources[name] if source not in (*above, name)]
            depth[name] = 1 + max(reached, default=-1)
        return depth[name]

    layers: list[list[str]] = [[] for _ in range(max((depth_of(name) for name in names), default=-1) + 1)]
    for name in names:
        layers[depth[name]].append(name)
    return layers


def without_shortcuts(names: Sequence[str], edges: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The edges that no longer path implies: an exam that reads a chat model need not also point at its tokenizer."""
    following: dict[str, set[str]] = {name: set() for name in names}
    for edge in edges:
        if edge["from"] in following and edge["to"] in following:
            following[edge["from"]].add(edge["to"])

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        if start == goal:
            return True
        seen.add(start)
        return any(reaches(after, goal, seen) for after in following[start] if after not in seen)

    return [
        (start, end)
        for start in names
        for end in names
        if end in following[start]
        and not any(reaches(other, end, {start}) for other in following[start] if other not in (end, start))
    ]


def lineage_svg(lineage: Mapping[str, Any]) -> str:
    """Boxes with name, kind and the first six characters of the output's fingerprint; arrows for what was read."""
    nodes = {node["name"]: node for node in lineage.get("nodes", [])}
    if not nodes:
        return ""
    layers = layers_of(list(nodes), lineage.get("edges", []))
    rows = max(len(layer) for layer in layers)
    width = len(layers) * (BOX_WIDTH + GAP_X) - GAP_X + 4
    height = rows * (BOX_HEIGHT + GAP_Y) - GAP_Y + 4
    place: dict[str, tuple[float, float]] = {}
    for column, layer in enumerate(layers):
        top = (height - (len(layer) * (BOX_HEIGHT + GAP_Y) - GAP_Y)) / 2
        for row, name in enumerate(layer):
            place[name] = (2 + column * (BOX_WIDTH + GAP_X), top + row * (BOX_HEIGHT + GAP_Y))
    drawn = without_shortcuts(list(nodes), lineage.get("edges", []))
    arrows = [_arrow(place[start], place[end]) for start, end in drawn]
    boxes = [_box(nodes[name], *place[name]) for name in nodes]
    said = "; ".join(f"{end} reads {start}" for start, end in drawn) or "no stage reads another"
    return (
        f'<svg class="lineage" viewBox="0 0 {width:.0f} {height:.0f}" style="min-width:{width * 0.8:.0f}px;'
        f'max-width:{width * 1.15:.0f}px" role="img" aria-labelledby="lineage-t lineage-d">'
        f'<title id="lineage-t">Lineage of the stages</title><desc id="lineage-d">{escape(said)}</desc>'
        '<defs><marker id="arrow" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L6 3L0 6z" class="arrow-head"/></marker></defs>' + "".join(arrows + boxes) + "</svg>"
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT / 2
    x2, y2 = end[0] - 2, end[1] + BOX_HEIGHT / 2
    bend = max(GAP_X / 2, (x2 - x1) / 2)
    curve = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return f'<path d="{curve}" class="edge" marker-end="url(#arrow)"/>'


def _box(node: Mapping[str, Any], x: float, y: float) -> str:
    output = str(node.get("output") or "")[:6] or str(node.get("status", ""))
    note = output if node["kind"] == node["name"] else f"{node['kind']} {output}"
    full = escape(f"{node['name']} ({node['kind']}), {node.get('status')}, output {node.get('output') or 'none yet'}")
    return (
        f'<g class="node {escape(str(node.get("status", "")))}"><title>{full}</title>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="3"/>'
        f'<text x="{x + 8:.1f}" y="{y + 16:.1f}" class="node-name">{escape(str(node["name"])[:15])}</text>'
        f'<text x="{x + 8:.1f}" y="{y + 31:.1f}" class="node-note">{escape(note)}</text></g>'
    )
