"""The data section of the page: sources with licences, the funnel with a count for every reason, mixture, tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groundup.report.figures import Bar, bar_chart
from groundup.report.scales import integer, percent, short_number, size


def data_view(data: Mapping[str, Any]) -> dict[str, Any]:
    funnel = funnel_rows(data["funnel"])
    return {
        "sources": source_rows(data["sources"]),
        "funnel": funnel,
        "funnel_chart": _funnel_chart(funnel),
        "reasons": _reasons(funnel),
        "mixture": _mixture(data["mixture"]),
        "mixture_chart": _mixture_chart(data["mixture"]),
        "dropped": data["dropped"],
        "tokenizer": _facts(data["tokenizer"]),
        "tokens": _facts(data["tokens"]),
    }


# ---------------------------------------------------------------- sources


def source_rows(sources: Any) -> list[dict[str, Any]]:
    """One row a source, from a list of mappings or from a mapping by name."""
    if isinstance(sources, Mapping):
        inner = sources.get("sources")
        if isinstance(inner, list | Mapping):
            return source_rows(inner)
        sources = [
            {"name": name, **(row if isinstance(row, Mapping) else {"why": row})} for name, row in sources.items()
        ]
    rows = []
    for row in sources or []:
        if not isinstance(row, Mapping):
            continue
        status = str(row.get("status") or ("used" if row.get("used", True) else "unreachable"))
        licence = row.get("licence") or row.get("license") or row.get("licences") or row.get("licenses") or ""
        rows.append(
            {
                "name": str(row.get("name") or row.get("source") or ""),
                "status": status,
                "is_used": status in ("used", "ok", "read", "done"),
                "why": str(row.get("why") or row.get("reason") or ""),
                "licence": ", ".join(map(str, licence)) if isinstance(licence, list | Mapping) else str(licence),
                "where": str(row.get("where") or row.get("path") or row.get("url") or row.get("type") or ""),
                "version": str(row.get("version") or ""),
                "sha256": str(row.get("sha256") or "")[:12],
                "documents": integer(row.get("documents")),
                "bytes": size(row.get("bytes")),
            }
        )
    return rows


# ---------------------------------------------------------------- funnel


def funnel_rows(funnel: Any) -> list[dict[str, Any]]:
    """Per source: documents in, documents kept, and for each step what was dropped for which reason."""
    if not isinstance(funnel, Mapping):
        return []
    sources = funnel.get("sources", funnel)
    rows = []
    for name, source in sources.items() if isinstance(sources, Mapping) else ():
        if not isinstance(source, Mapping):
            continue
        steps = [_step(step) for step in source.get("steps") or [] if isinstance(step, Mapping)]
        came = source.get("in", source.get("documents_in", steps[0]["in"] if steps else None))
        kept = source.get("out", source.get("kept", source.get("documents_out", steps[-1]["out"] if steps else None)))
        rows.append({"source": str(name), "in": came, "out": kept, "bytes": source.get("bytes"), "steps": steps})
    return rows


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    dropped = step.get("dropped", step.get("reasons")) or {}
    reasons = dict(dropped) if isinstance(dropped, Mapping) else {"dropped": dropped}
    name = str(step.get("step") or step.get("name") or "?")
    return {"step": name.replace("_", " "), "in": step.get("in"), "out": step.get("out"), "dropped": reasons}


def _funnel_chart(funnel: Sequence[Mapping[str, Any]]) -> str:
    """Each source as one bar: kept, then dropped, in documents, on one linear axis."""
    bars = []
    for row in funnel:
        came, kept = row["in"] or 0, row["out"] or 0
        note = f"{integer(kept)} of {integer(came)} kept"
        bars.append(Bar(row["source"], [(kept, "kept"), (max(came - kept, 0), "lost")], note=note))
    if not bars:
        return ""
    return bar_chart(bars, title="Documents kept (solid) and dropped (faint) per source", x_title="documents")


def _reasons(funnel: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A table of step and reason by source."""
    sources = [str(row["source"]) for row in funnel]
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for row in funnel:
        for step in row["steps"]:
            for reason, count in step["dropped"].items():
                counts.setdefault((step["step"], str(reason)), {})[row["source"]] = int(count)
    if not counts:
        return None
    rows = [
        {
            "step": step,
            "reason": reason.replace("_", " "),
            "cells": [integer(found[source]) if source in found else "" for source in sources],
            "total": integer(sum(found.values())),
        }
        for (step, reason), found in counts.items()
    ]
    totals = [
        {"label": "in", "cells": [integer(row["in"]) for row in funnel], "total": integer(_sum(funnel, "in"))},
        {"label": "kept", "cells": [integer(row["out"]) for row in funnel], "total": integer(_sum(funnel, "out"))},
    ]
    return {"sources": sources, "rows": rows, "totals": totals}


def _sum(rows: Sequence[Mapping[str, Any]], key: str) -> int:
    return sum(int(row[key] or 0) for row in rows)


# ---------------------------------------------------------------- mixture and tokens


def _mixture_entries(mixture: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(mixture, Mapping):
        return []
    inner = mixture.get("sources", mixture)
    return [(str(name), row) for name, row in inner.items() if isinstance(row, Mapping)]


def _share(row: Mapping[str, Any], *names: str) -> float | None:
    return next((float(row[name]) for name in names if isinstance(row.get(name), int | float)), None)


def _mixture(mixture: Any) -> list[dict[str, str]]:
    return [
        {
            "source": name,
            "target": percent(_share(row, "target", "target_share", "share")),
            "realised": percent(_share(row, "realised", "realised_share", "realized", "actual")),
            "epochs": short_number(_share(row, "epochs", "repeats", "passes")),
            "bytes": size(row.get("bytes")),
            "documents": integer(row.get("documents")),
        }
        for name, row in _mixture_entries(mixture)
    ]


def _mixture_chart(mixture: Any) -> str:
    bars = []
    for name, row in _mixture_entries(mixture):
        target = _share(row, "target", "target_share", "share")
        realised = _share(row, "realised", "realised_share", "realized", "actual")
        if realised is not None or target is not None:
            tick = 100 * target if target is not None else None
            note = f"{percent(realised)} (target {percent(target)})"
            bars.append(Bar(name, [(100 * (realised or 0.0), "s1")], note=note, tick=tick))
    return (
        bar_chart(bars, title="Mixture: realised (bar) and target (line)", x_title="% of training bytes")
        if bars
        else ""
    )


def _facts(found: Any) -> list[tuple[str, str]]:
    """Numbers and short words of a JSON object, one level of nesting deep."""
    rows: list[tuple[str, str]] = []
    for key, value in found.items() if isinstance(found, Mapping) else ():
        words = str(key).replace("_", " ")
        if isinstance(value, Mapping):
            rows += [(f"{words}: {name}", _word(inner)) for name, inner in value.items() if _is_word(inner)]
        elif _is_word(value):
            rows.append((words, _word(value)))
    return rows[:40]


def _is_word(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 120)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else short_number(value)
