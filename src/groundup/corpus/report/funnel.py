"""What went in, what came out, and why the rest did not: counted per source, step and reason.

Every shard task fills a funnel of its own; `merged` adds them up. A step that is off passes everything through.

For every step, documents in = documents out + the sum of its dropped ones; the out of one step is the in of the next.
Bytes add up the same way, except that extraction, scrubbing and paragraph cutting change them (`changed_bytes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from groundup.console import byte_text

STEPS = (
    "read",
    "extract",
    "language",
    "quality",
    "toxicity",
    "exact duplicates",
    "near duplicates",
    "decontaminate",
    "personal data",
    "limit",
)


@dataclass
class Count:
    documents: int = 0
    bytes: int = 0

    def add(self, bytes: int) -> None:
        self.documents += 1
        self.bytes += bytes

    def as_dict(self) -> dict[str, int]:
        return {"documents": self.documents, "bytes": self.bytes}


@dataclass
class StepCount:
    """One step of one source."""

    into: Count = field(default_factory=Count)
    out: Count = field(default_factory=Count)
    dropped: dict[str, Count] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)  # e.g. placeholders put in, by type

    def drop(self, reason: str, bytes: int) -> None:
        self.into.add(bytes)
        self.dropped.setdefault(reason, Count()).add(bytes)

    def keep(self, bytes_in: int, bytes_out: int | None = None) -> None:
        self.into.add(bytes_in)
        self.out.add(bytes_in if bytes_out is None else bytes_out)

    def as_dict(self, step: str) -> dict[str, Any]:
        dropped_bytes = sum(count.bytes for count in self.dropped.values())
        return {
            "step": step,
            "in": self.into.as_dict(),
            "out": self.out.as_dict(),
            "dropped": {reason: self.dropped[reason].as_dict() for reason in sorted(self.dropped)},
            "changed_bytes": self.out.bytes - (self.into.bytes - dropped_bytes),
            "notes": dict(sorted(self.notes.items())),
        }


SourceFunnel = dict[str, StepCount]  # step -> its count


def new_source_funnel() -> SourceFunnel:
    return {step: StepCount() for step in STEPS}


def source_funnel_to_json(funnel: SourceFunnel) -> list[dict[str, Any]]:
    return [funnel[step].as_dict(step) for step in STEPS]


def source_funnel_from_json(rows: Sequence[dict[str, Any]]) -> SourceFunnel:
    funnel = new_source_funnel()
    for row in rows:
        count = funnel[row["step"]]
        count.into, count.out = Count(**row["in"]), Count(**row["out"])
        count.dropped = {reason: Count(**value) for reason, value in row["dropped"].items()}
        count.notes = dict(row["notes"])
    return funnel


def funnel_report(
    funnels: dict[str, SourceFunnel], kept: dict[str, Count], held_out: dict[str, Count]
) -> dict[str, Any]:
    """The whole funnel as funnel.json keeps it: per source, and all sources together per step."""
    funnels = {name: passed_through(funnel) for name, funnel in funnels.items()}
    total = new_source_funnel()
    for funnel in funnels.values():
        for step, count in funnel.items():
            add_count(total[step], count)
    return {
        "steps": list(STEPS),
        "sources": {
            name: {
                "in": funnel[STEPS[0]].into.as_dict(),
                "steps": source_funnel_to_json(funnel),
                "kept": kept[name].as_dict(),
                "held_out": held_out[name].as_dict(),
            }
            for name, funnel in funnels.items()
        },
        "total": {
            "in": total[STEPS[0]].into.as_dict(),
            "steps": source_funnel_to_json(total),
            "kept": _sum(kept).as_dict(),
            "held_out": _sum(held_out).as_dict(),
        },
    }


def passed_through(funnel: SourceFunnel) -> SourceFunnel:
    """The same funnel in which a step that counted nothing, as it is off, lets everything through."""
    found = dict(funnel)
    for before, step in pairwise(STEPS):
        count = found[step]
        if not count.into.documents and not count.dropped:
            came = found[before].out
            out = Count(came.documents, came.bytes)
            found[step] = StepCount(Count(came.documents, came.bytes), out, {}, dict(count.notes))
    return found


def merged(funnels: Iterable[SourceFunnel]) -> SourceFunnel:
    """The funnels of a source's shards added up; the order does not matter."""
    total = new_source_funnel()
    for funnel in funnels:
        for step, count in funnel.items():
            add_count(total[step], count)
    return total


def add_count(total: StepCount, one: StepCount) -> None:
    for mine, other in ((total.into, one.into), (total.out, one.out)):
        mine.documents += other.documents
        mine.bytes += other.bytes
    for reason, count in one.dropped.items():
        mine = total.dropped.setdefault(reason, Count())
        mine.documents += count.documents
        mine.bytes += count.bytes
    for name, number in one.notes.items():
        total.notes[name] = total.notes.get(name, 0) + number


def _sum(counts: dict[str, Count]) -> Count:
    return Count(sum(one.documents for one in counts.values()), sum(one.bytes for one in counts.values()))


def check_adds_up(report: dict[str, Any]) -> None:
    """Raise AssertionError where a document got lost between steps: a mistake of ours, never of the person."""
    for name, source in [*report["sources"].items(), ("total", report["total"])]:
        before = source["in"]["documents"]
        for step in source["steps"]:
            dropped = sum(count["documents"] for count in step["dropped"].values())
            assert step["in"]["documents"] == before, f"{name}, {step['step']}: {before} came, {step['in']} counted"
            assert step["in"]["documents"] == step["out"]["documents"] + dropped, f"{name}, {step['step']}: {step}"
            before = step["out"]["documents"]
        after = source["kept"]["documents"] + source["held_out"]["documents"]
        assert before == after, f"{name}: {before} documents passed all steps, {after} were written"


MOST_ALIKE = 12  # reasons of one kind (`language: fi`, `licence: GPL`), in tables for people


def folded(dropped: Mapping[str, Mapping[str, int]], most: int = MOST_ALIKE) -> list[tuple[str, int]]:
    """Reasons with their documents, most first. Of reasons of one kind, of which there may be a hundred, the rarest
    are one line together; every other reason, however rare, has its own."""
    kept: list[tuple[str, int]] = []
    alike: dict[str, list[int]] = {}
    for reason, count in sorted(dropped.items(), key=lambda item: (-item[1]["documents"], item[0])):
        kind, found, _ = reason.partition(": ")
        of_kind = alike.setdefault(kind if found else reason, [])
        of_kind.append(count["documents"])
        if len(of_kind) <= most:
            kept.append((reason, count["documents"]))
    kept += [
        (f"{kind}: {len(numbers) - most:,} {'others' if len(numbers) > most + 1 else 'other'}", sum(numbers[most:]))
        for kind, numbers in alike.items()
        if len(numbers) > most
    ]
    return kept


def told_notes(step: Mapping[str, Any]) -> list[str]:
    """What a step did besides dropping: `spans cut: 35, 26.1 kB of text less`. Personal data has a table of its own."""
    said = [f"{name}: {number:,}" for name, number in (step.get("notes") or {}).items() if not name.startswith("<")]
    cut = -int(step.get("changed_bytes") or 0)
    if said and cut > 0 and step["step"] != "extract":
        said[-1] += f", {byte_text(cut)} of text less"
    return said
