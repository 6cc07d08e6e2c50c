"""The plan section of the page: what each stage was foretold to take, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundup.report.figures import Bar, bar_chart
from groundup.report.scales import duration, short_number, size


def plan_view(data: Mapping[str, Any]) -> dict[str, Any] | None:
    rows = [row for row in data["stages"] if row["planned_seconds"] or row["seconds"]]
    if not rows:
        return None
    bars = []
    for row in rows:
        actual = row["seconds"] or 0.0
        span = (row["planned_low"], row["planned_high"]) if row["planned_low"] and row["planned_high"] else None
        ratio = f", ×{actual / row['planned_seconds']:.2f}" if actual and row["planned_seconds"] else ""
        note = f"{duration(actual) if actual else row['status']}{ratio}"
        bars.append(Bar(row["name"], [(actual, "s1")], note=note, tick=row["planned_seconds"], span=span))
    done = [row for row in rows if row["seconds"] and row["planned_low"] and row["planned_high"]]
    inside = sum(row["planned_low"] <= row["seconds"] <= row["planned_high"] for row in done)
    return {
        "chart": bar_chart(bars, title="Time of each stage: actual and planned", x_title="seconds (log)", log_x=True),
        "rows": [_plan_row(row) for row in rows],
        "inside": f"{inside} of {len(done)} finished stages took a time inside the planned interval." if done else "",
        "machine": _machine(data["plan"].get("machine") or {}),
    }


def _machine(machine: Mapping[str, Any]) -> str:
    """What the plan took the machine for: measured or assumed, and what one decoder layer achieves in training."""
    if not machine:
        return ""
    cores = f"{machine.get('cores')} core{'' if machine.get('cores') == 1 else 's'}"
    words = [str(machine.get("source", "")), str(machine.get("processor", "")), cores]
    rates = machine.get("training")
    for dtype, rate in rates.items() if isinstance(rates, Mapping) else ():
        words.append(f"{short_number(rate[0])} FLOP/s in {dtype}")
    return ", ".join(word for word in [*words, str(machine.get("note") or "")] if word)


def _plan_row(row: Mapping[str, Any]) -> dict[str, str]:
    planned = duration(row["planned_seconds"])
    if row["planned_low"] and row["planned_high"]:
        planned += f" ({duration(row['planned_low'])} – {duration(row['planned_high'])})"
    return {
        "name": row["name"],
        "planned": planned,
        "actual": duration(row["seconds"]),
        "ratio": f"×{row['seconds'] / row['planned_seconds']:.2f}"
        if row["seconds"] and row["planned_seconds"]
        else "–",
        "memory": size(row["planned_memory_bytes"]),
        "disk": f"{size(row['planned_disk_bytes'])} / {size(row['disk_bytes'])}",
        "flops": short_number(row["planned_flops"]),
    }
