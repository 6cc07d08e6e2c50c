"""The scores section of the page: accuracy with intervals and paired tests, bits per byte beside xz, the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundup.report.figures import Bar, Interval, bar_chart, forest_plot
from groundup.report.scales import integer, p_value, percent, size


def accuracy_view(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Forest plot over models, a table by task, and the paired tests. Aliases (base, sft ...) are left out."""
    names = [name for name, entry in data["accuracy"].items() if "stage" not in entry and "overall" in entry]
    if not names:
        return None
    kinds = {row["name"]: row["kind"] for row in data["stages"]}
    intervals = []
    for name in names:
        entry = data["accuracy"][name]["overall"]
        label = f"{name} ({kinds[name]})" if name in kinds else name
        note = f"{100 * entry['value']:.1f} %, {integer(entry.get('correct'))}/{integer(entry.get('n'))}"
        intervals.append(Interval(label, entry["value"], entry["low"], entry["high"], note))
    tasks = sorted({task for name in names for task in data["accuracy"][name].get("by_task", {})})
    table = [
        {"task": task, "cells": [_cell(data["accuracy"][name].get("by_task", {}).get(task)) for name in names]}
        for task in tasks
    ]
    return {
        "chart": forest_plot(
            intervals,
            title="Exact accuracy on held-out tasks",
            x_title="share answered exactly right, with 95 % interval",
            domain=(0.0, 1.0),
            as_percent=True,
        ),
        "names": names,
        "tasks": table,
        "paired": [_pair(row) for row in data["paired"]],
    }


def _cell(entry: Mapping[str, Any] | None) -> dict[str, str]:
    if not entry or entry.get("value") is None:
        return {"value": "–", "note": "", "share": "0"}
    note = f"{integer(entry.get('correct'))}/{integer(entry.get('n'))}" if entry.get("n") else ""
    return {"value": f"{100 * entry['value']:.0f} %", "note": note, "share": f"{entry['value']:.3f}"}


def _pair(row: Mapping[str, Any]) -> dict[str, str]:
    low, high = row.get("low"), row.get("high")
    points = f"{100 * row['difference']:+.1f} points" if row.get("difference") is not None else "–"
    span = f"[{100 * low:+.1f}, {100 * high:+.1f}]" if low is not None and high is not None else ""
    p = row.get("p_adjusted", row.get("p_value"))
    alone = f"{row['a']} {row['only_a']}, {row['b']} {row['only_b']}" if "only_a" in row and "only_b" in row else "–"
    is_sure = p is not None and p < 0.01
    return {
        "pair": f"{row.get('a')} against {row.get('b')}",
        "what": "exact accuracy" if row.get("of", "accuracy") == "accuracy" else str(row["of"]),
        "difference": f"{points} {span}",
        "p": p_value(p),
        "alone": alone,
        "n": integer(row.get("n")),
        "level": ("good" if (row.get("difference") or 0) > 0 else "bad") if is_sure else "note",
    }


def bits_per_byte_view(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Per source: every model's bits per byte beside what xz -9 makes of the same bytes."""
    bits = data["bits_per_byte"]
    if not bits:
        return None
    models = list(bits)
    sources = list(dict.fromkeys(source for model in models for source in bits[model]))
    rows = []
    for source in sources:
        entries = [bits[model].get(source) for model in models]
        known = [entry for entry in entries if entry]
        xz = next((entry["xz"] for entry in known if entry.get("xz") is not None), None)
        cells = [
            {
                "value": f"{entry['value']:.3f}" if entry else "–",
                "span": f"[{entry['low']:.3f}, {entry['high']:.3f}]" if entry and entry.get("low") is not None else "",
                "beats": bool(entry and xz is not None and entry["value"] < xz),
            }
            for entry in entries
        ]
        bytes_ = next((entry.get("bytes") for entry in known), None)
        documents = next((entry.get("documents") for entry in known), None)
        xz_text = f"{xz:.3f}" if xz is not None else "–"
        rows.append(
            {"source": source, "cells": cells, "xz": xz_text, "bytes": size(bytes_), "documents": integer(documents)}
        )
    first = bits[models[0]]
    bars = [
        Bar(
            source,
            [(entry["value"], "s1")],
            note=f"{entry['value']:.2f}, xz {entry['xz']:.2f}"
            if entry.get("xz") is not None
            else f"{entry['value']:.2f}",
            tick=entry.get("xz"),
        )
        for source, entry in first.items()
    ]
    title = f"Bits per byte of {models[0]} on held-out text (bar) beside xz -9 (line); lower is better"
    return {
        "models": models,
        "rows": rows,
        "chart": bar_chart(bars, title=title, x_title="bits per byte"),
        "title": title,
    }


def single_scores(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of what needs no chart: the reward model on held-out pairs, HumanEval, replies that end."""
    rows = []
    reward = data["reward_accuracy"]
    if reward.get("value") is not None:
        rows.append(_score(f"{reward.get('model', 'the reward model')} ranks held-out pairs right", reward))
        rule = reward.get("length_only") or {}
        if rule.get("value") is not None:
            rows.append(_score(f"the same, by always choosing the {rule.get('rule', 'longer')} reply", rule))
    for what, scores in (("HumanEval pass@1", data["humaneval"]), ("replies that end", data["reply_stops"])):
        for name, entry in scores.items():
            if isinstance(entry, Mapping) and entry.get("value") is not None:
                note = f" (sandbox: {entry['sandbox']})" if entry.get("sandbox") else ""
                rows.append(_score(f"{what}, {name}{note}", entry))
    if data["humaneval"].get("left_out"):
        rows.append(
            {"what": "HumanEval was left out", "value": "–", "span": str(data["humaneval"]["left_out"]), "n": ""}
        )
    return rows


def _score(what: str, entry: Mapping[str, Any]) -> dict[str, str]:
    low, high = entry.get("low"), entry.get("high")
    span = f"[{percent(low)}, {percent(high)}]" if low is not None and high is not None else ""
    return {"what": what, "value": percent(entry["value"]), "span": span, "n": integer(entry.get("n"))}
