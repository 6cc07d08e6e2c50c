"""The data section of the page: sources with licences, the funnel with a count for every reason, mixture, tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groundup.report.figures import Bar, bar_chart
from groundup.report.scales import integer, percent, short_number, size

MOST_LICENCES = 3  # of one source
MOST_ALIKE = 12  # reasons of one kind (`language: fi`) in the table of drops


def data_view(data: Mapping[str, Any]) -> dict[str, Any]:
    funnel = funnel_rows(data["funnel"])
    return {
        "sources": source_rows(data["sources"]),
        "funnel": funnel,
        "funnel_chart": _funnel_chart(funnel),
        "reasons": reasons_table(funnel),
        "mixture": _mixture(data["mixture"]),
        "mixture_chart": _mixture_chart(data["mixture"]),
        "dropped": data["dropped"],
        "tokenizer": _tokenizer(data["tokenizer"]),
        "tokens": _tokens(data["tokens"]),
    }


# ---------------------------------------------------------------- sources


def source_rows(sources: Any) -> list[dict[str, Any]]:
    """One row a source: where it came from, under which licence, and whether it could be had."""
    rows = []
    for row in sources if isinstance(sources, list) else ():
        package = row.get("package") or {}
        status = str(row.get("status") or "")
        rows.append(
            {
                "name": str(row.get("name") or ""),
                "type": str(row.get("type") or ""),
                "status": status,
                "is_used": status == "used",
                "why": str(row.get("reason") or ""),
                "license": str(row.get("license") or package.get("license") or _licences(row.get("licenses"))),
                "where": str(row.get("path") or "this machine"),
                "version": f"{package['name']} {package['version']}" if package else "",
                "sha256": str(package.get("sha256") or "")[:12],
                "documents": integer(row.get("documents")),
                "bytes": size(row.get("bytes")),
                "notes": _notes(row.get("notes")),
            }
        )
    return rows


def _licences(counts: Any) -> str:
    """The most frequent ones by name; each document keeps its own."""
    if not isinstance(counts, Mapping) or not counts:
        return "kept for each document"
    order = sorted(counts, key=lambda name: (-int(counts[name]), name))
    more = f" and {len(order) - MOST_LICENCES} more" if len(order) > MOST_LICENCES else ""
    return ", ".join(order[:MOST_LICENCES]) + more


def _notes(notes: Any) -> str:
    if isinstance(notes, Mapping):
        return ", ".join(f"{key}: {value}" for key, value in notes.items())
    return ", ".join(map(str, notes)) if isinstance(notes, list) else str(notes or "")


# ---------------------------------------------------------------- funnel


def funnel_rows(funnel: Any) -> list[dict[str, Any]]:
    """Per source: documents that came, were kept and held out, and what each step dropped for which reason."""
    sources = funnel.get("sources") if isinstance(funnel, Mapping) else None
    if not isinstance(sources, Mapping):
        return []
    return [
        {
            "source": str(name),
            "in": _documents(source.get("in")),
            "kept": _documents(source.get("kept")),
            "held_out": _documents(source.get("held_out")),
            "bytes": _part(source.get("kept"), "bytes"),
            "steps": [
                {
                    "step": str(step.get("step")).replace("_", " "),
                    "dropped": {str(why): _documents(count) for why, count in (step.get("dropped") or {}).items()},
                }
                for step in source.get("steps") or []
            ],
        }
        for name, source in sources.items()
    ]


def _documents(count: Any) -> int:
    return _part(count, "documents")


def _part(count: Any, key: str) -> int:
    """A count is {documents, bytes}."""
    return int(count.get(key) or 0) if isinstance(count, Mapping) else 0


def _funnel_chart(funnel: Sequence[Mapping[str, Any]]) -> str:
    """Each source as one bar: kept, held out, dropped, in documents, on one linear axis."""
    bars = []
    for row in funnel:
        lost = max(row["in"] - row["kept"] - row["held_out"], 0)
        parts = [(row["kept"], "kept"), (row["held_out"], "held-out"), (lost, "lost")]
        bars.append(Bar(row["source"], parts, note=f"{integer(row['kept'])} of {integer(row['in'])} kept"))
    if not bars:
        return ""
    return bar_chart(bars, title="Documents kept, held out and dropped per source", x_title="documents")


def reasons_table(funnel: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A table of step and reason by source."""
    sources = [str(row["source"]) for row in funnel]
    counts: dict[tuple[str, str], dict[str, int]] = {}
    order: list[str] = []
    for row in funnel:
        for step in row["steps"]:
            if step["step"] not in order:
                order.append(step["step"])
            for reason, count in step["dropped"].items():
                counts.setdefault((step["step"], str(reason)), {})[row["source"]] = int(count)
    if not counts:
        return None
    rows = [
        {
            "step": step,
            "reason": reason,
            "cells": [integer(found[source]) if source in found else "" for source in sources],
            "total": integer(sum(found.values())),
        }
        for (step, reason), found in _folded(
            sorted(counts.items(), key=lambda item: (order.index(item[0][0]), -sum(item[1].values()), item[0][1]))
        )
    ]
    totals = [
        {"label": label, "cells": [integer(row[key]) for row in funnel], "total": integer(_sum(funnel, key))}
        for label, key in (("came in", "in"), ("kept", "kept"), ("held out", "held_out"))
    ]
    return {"sources": sources, "rows": rows, "totals": totals}


def _folded(
    rows: Sequence[tuple[tuple[str, str], dict[str, int]]],
) -> list[tuple[tuple[str, str], dict[str, int]]]:
    """Of reasons of one kind, of which there may be a hundred (`language: fi`), the rarest as one row."""
    kept: list[tuple[tuple[str, str], dict[str, int]]] = []
    seen: dict[tuple[str, str], int] = {}
    rest: dict[tuple[str, str], dict[str, int]] = {}
    for (step, reason), found in rows:
        kind = (step, reason.partition(": ")[0] if ": " in reason else reason)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= MOST_ALIKE:
            kept.append(((step, reason), found))
            continue
        if kind not in rest:
            kept.append((kind, rest.setdefault(kind, {})))  # where the first of them would stand
        for source, count in found.items():
            rest[kind][source] = rest[kind].get(source, 0) + count
    return [
        ((place[0], f"{place[1]}: {seen[place] - MOST_ALIKE} more"), found)
        if found is rest.get(place)
        else (place, found)
        for place, found in kept
    ]


def _sum(rows: Sequence[Mapping[str, Any]], key: str) -> int:
    return sum(int(row[key] or 0) for row in rows)


# ---------------------------------------------------------------- mixture and tokens


def _mixture_entries(mixture: Any) -> list[tuple[str, Mapping[str, Any]]]:
    sources = mixture.get("sources") if isinstance(mixture, Mapping) else None
    return [(str(name), row) for name, row in sources.items()] if isinstance(sources, Mapping) else []


def _mixture(mixture: Any) -> list[dict[str, str]]:
    return [
        {
            "source": name,
            "weight": short_number(row["weight"]) if row.get("weight") is not None else "by size",
            "target": percent(row.get("target_share")),
            "realised": percent(row.get("realised_share")),
            "before": percent(row.get("share_of_bytes")),
            "upsampling": f"{short_number(row.get('upsampling'))} x" if row.get("upsampling") is not None else "–",
            "bytes": size(row.get("bytes")),
            "pass_bytes": size(row.get("pass_bytes")),
            "epochs": f"{short_number(row.get('epochs'))}{' (capped)' if row.get('capped') else ''}",
        }
        for name, row in _mixture_entries(mixture)
    ]


def _mixture_chart(mixture: Any) -> str:
    bars = []
    for name, row in _mixture_entries(mixture):
        target, realised = row.get("target_share") or 0.0, row.get("realised_share") or 0.0
        note = f"{percent(realised)}, target {percent(target)}"
        bars.append(Bar(name, [(100 * realised, "s1")], note=note, tick=100 * target))
    return (
        bar_chart(bars, title="Mixture: realised (bar) and target (line)", x_title="% of training bytes")
        if bars
        else ""
    )


def _tokenizer(found: Any) -> dict[str, Any] | None:
    """Facts in one line each, and bytes per token by source."""
    if not isinstance(found, Mapping):
        return None
    rows = [
        {
            "source": str(name),
            "bytes_per_token": f"{row.get('bytes_per_token', 0):.2f}",
            "documents": integer(row.get("documents")),
            "tokens": short_number(row.get("tokens")),
            "broken": integer(row.get("not_round_trip")),
        }
        for name, row in (found.get("sources") or {}).items()
    ]
    return {"facts": _facts({key: value for key, value in found.items() if key != "sources"}), "sources": rows}


def _tokens(manifest: Any) -> list[dict[str, str]]:
    """Per split and source: documents and tokens, and the share of the training stream."""
    splits = manifest.get("splits") if isinstance(manifest, Mapping) else None
    return [
        {
            "split": str(name).replace("_", " "),
            "source": str(source.get("name")),
            "documents": integer(source.get("documents")),
            "tokens": integer(source.get("tokens")),
            "share": percent(source.get("share")),
        }
        for name, split in (splits or {}).items()
        for source in split.get("sources") or []
    ]


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key).replace("_", " "), _word(value)) for key, value in found.items() if _is_word(value)]


def _is_word(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 120)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else short_number(value)
