"""From the measured rates of a build to the hours, disk and money of a larger one, with intervals.

`timing_report` makes timing.json of the tasks' records; `estimate` scales it. What is assumed is written beside the
numbers: the same mix of sources, cores like those that were measured, and shards of the same size, so that memory per
worker does not grow. Steps that look at one document grow with the bytes. Matching sorts keys (n log n) and compares
the pairs that share a band; how their number grows depends on the text, so its upper bound grows with the power 1.15.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 1
TARGETS = (1e12, 100e12)  # bytes of input: 1 TB and 100 TB
# US dollars for an hour of one virtual core with 2-4 GB, on demand: the list prices of compute-optimised machines (AWS
# c6i, c7i, c7a; Azure Fsv2; us-east, 2024-2025) lie between 0.042 and 0.052; spot prices at a third to a half of it.
PRICE_PER_CORE_HOUR = 0.045
EFFICIENCY = 0.9  # of cores that work beside each other: the target of the scaling test (>= 1.8x at 2 workers)
MATCH_STEPS = frozenset(("match",))
FIXED_STEPS = frozenset(("train", "exams"))  # models learn from samples, exams are as large as they are
MATCH_POWER = 1.15
PER_DECADE = 0.05  # relative spread for each tenfold beyond what was measured: other input is other pages
FEWEST_TASKS = 3  # below it there is no spread to measure, and the interval is a factor of 2 both ways


@dataclass(frozen=True)
class StepTime:
    """One step's tasks together. `sums` are over tasks of x*x, x*y, y*y with x bytes in (MB), y CPU seconds."""

    step: str
    tasks: int = 0
    documents: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    disk_bytes: int = 0  # of the files that it wrote, which are compressed
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)


def timing_report(records: Iterable[Mapping[str, Any]], *, cores: int = 0, wall_seconds: float = 0.0) -> dict[str, Any]:
    """timing.json: what the tasks took, by step and by source and step, and what TARGETS would take at these rates.

    Records need `step`; `source`, `documents`, `bytes_in`, `bytes_out`, `disk_bytes`, `cpu_seconds`, `seconds` and
    `peak_bytes` count as 0 or "" where absent. `bytes_in` of the step `read` is the input's size as it lies on disk.
    `peak_is_own`: every peak is its task's own; else some are their process's so far, which may be an earlier task's.
    """
    records = list(records)
    steps: dict[str, StepTime] = {}
    sources: dict[str, dict[str, StepTime]] = {}
    for record in records:
        step, source = str(record["step"]), str(record.get("source") or "")
        for table in (steps, sources.setdefault(source, {})):
            table[step] = _plus(table.get(step, StepTime(step)), record)
    timing: dict[str, Any] = {
        "format": FORMAT,
        "cores": cores,
        "wall_seconds": round(wall_seconds, 3),
        "peak_is_own": bool(records) and all(record.get("peak_is_own") for record in records),
        "steps": {name: _rounded(one) for name, one in steps.items()},
        "sources": {
            source: {name: _rounded(one) for name, one in table.items()} for source, table in sorted(sources.items())
        },
    }
    estimates = [found for size in TARGETS if (found := estimate(timing, size)) is not None]
    return timing | {"estimates": estimates, "told": estimate_text(estimates)}


def _plus(total: StepTime, record: Mapping[str, Any]) -> StepTime:
    size, cpu = int(record.get("bytes_in") or 0), float(record.get("cpu_seconds") or 0.0)
    x = size / 1e6
    xx, xy, yy = total.sums
    return StepTime(
        total.step,
        total.tasks + 1,
        total.documents + int(record.get("documents") or 0),
        total.bytes_in + size,
        total.bytes_out + int(record.get("bytes_out") or 0),
        total.disk_bytes + int(record.get("disk_bytes") or 0),
        total.cpu_seconds + cpu,
        total.seconds + float(record.get("seconds") or 0.0),
        max(total.peak_bytes, int(record.get("peak_bytes") or 0)),
        (xx + x * x, xy + x * cpu, yy + cpu * cpu),
    )


def _rounded(one: StepTime) -> dict[str, Any]:
    record = asdict(one)
    del record["step"]
    return record | {
        "cpu_seconds": round(one.cpu_seconds, 3),
        "seconds": round(one.seconds, 3),
        "sums": [round(value, 6) for value in one.sums],
    }


def step_times(timing: Mapping[str, Any]) -> list[StepTime]:
    """The steps of a timing.json, in the order in which they ran; [] where it is of an older build."""
    steps = timing.get("steps")
    if not isinstance(steps, Mapping):
        return []
    return [StepTime(name, **{**row, "sums": tuple(row["sums"])}) for name, row in steps.items()]


# ---------------------------------------------------------------- rates


@dataclass(frozen=True)
class Rate:
    """CPU seconds for each MB that goes into a step, with its 95 % interval."""

    value: float
    low: float
    high: float


def rate_of(one: StepTime) -> Rate:
    """Ratio estimate over tasks (Cochran, Sampling Techniques, 6.4), its interval by Student's t.

    The tasks of a build differ by what is in their shards, so their spread says how well a larger build is foretold.
    """
    megabytes = one.bytes_in / 1e6
    if megabytes <= 0:
        return Rate(0.0, 0.0, 0.0)
    value = one.cpu_seconds / megabytes
    if one.tasks < FEWEST_TASKS:
        return Rate(value, value / 2, value * 2)
    xx, xy, yy = one.sums
    residuals = max(0.0, yy - 2 * value * xy + value * value * xx)
    spread = math.sqrt(one.tasks / (one.tasks - 1) * residuals) / megabytes
    reach = _student_t(one.tasks - 1) * spread
    return Rate(value, max(value / 4, value - reach), value + reach)


def _student_t(freedom: int) -> float:
    """The 97.5 % point of Student's t: exact for 1 and 2, else Cornish-Fisher's expansion (error below 1 %)."""
    if freedom <= 2:
        return (12.706, 4.303)[freedom - 1]
    z = 1.95996
    third = (z**3 + z) / (4 * freedom)
    fifth = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    seventh = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + third + fifth + seventh


# ---------------------------------------------------------------- larger builds


def estimate(
    timing: Mapping[str, Any],
    bytes_in: float,
    *,
    cores: int | None = None,
    price_per_core_hour: float = PRICE_PER_CORE_HOUR,
) -> dict[str, Any] | None:
    """What a build over `bytes_in` bytes of the same mix of sources takes, from the timing.json of a finished one.

    `cores`: as many as are to work on it; without it, as many as finish in about a day. Returns None where `timing` has
    no measured input. All times and costs are {value, low, high}; the interval joins the spread between tasks with
    PER_DECADE of the extrapolation.
    """
    steps = step_times(timing)
    measured = next((one.bytes_in for one in steps if one.step == "read"), 0)
    if measured <= 0 or bytes_in <= 0:
        return None
    growth = bytes_in / measured
    decades = max(0.0, math.log10(growth))
    rows = [_scaled(one, 1.0, 0.0) if one.step in FIXED_STEPS else _scaled(one, growth, decades) for one in steps]
    core_hours = {key: sum(row["core_hours"][key] for row in rows) for key in ("value", "low", "high")}
    used = cores or max(1, math.ceil(core_hours["value"] / EFFICIENCY / 24))
    written = sum((one.disk_bytes or one.bytes_out) * (1 if one.step in FIXED_STEPS else growth) for one in steps)
    kept = next((one.bytes_out for one in reversed(steps) if one.step == "write"), 0) * growth
    return {
        "bytes_in": round(bytes_in),
        "measured_bytes": measured,
        "cores": used,
        "core_hours": core_hours,
        "hours": {key: value / (used * EFFICIENCY) for key, value in core_hours.items()},
        "price_per_core_hour": price_per_core_hour,
        "cost": {key: value * price_per_core_hour for key, value in core_hours.items()},
        "work_bytes": round(written),
        "result_bytes": round(kept),
        "memory_bytes_per_worker": max((one.peak_bytes for one in steps), default=0),
        "documents": round(next((one.documents for one in steps if one.step == "read"), 0) * growth),
        "steps": rows,
    }


def _scaled(one: StepTime, growth: float, decades: float) -> dict[str, Any]:
    rate = rate_of(one)
    share_low, share_high = 1.0, 1.0  # a step that read no bytes is taken as it was
    if rate.value > 0:
        share_low, share_high = rate.low / rate.value, rate.high / rate.value
    below = math.hypot(1 - share_low, PER_DECADE * decades)
    above = math.hypot(share_high - 1, PER_DECADE * decades)
    hours = one.cpu_seconds * growth / 3600
    more = 1.0
    if one.step in MATCH_STEPS and growth > 1:
        hours *= 1 + math.log(growth) / math.log(max(one.documents, 1_000))  # n log n
        more = growth ** (MATCH_POWER - 1)
    return {
        "step": one.step,
        "mb_per_core_second": round(one.bytes_in / 1e6 / one.cpu_seconds, 3) if one.cpu_seconds else None,
        "bytes_in": round(one.bytes_in * growth),
        "core_hours": {"value": hours, "low": hours * max(0.25, 1 - below), "high": hours * (1 + above) * more},
    }


def estimate_text(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each estimate, for `groundup check`, `data stats` and the report."""
    return [
        f"{_bytes(row['bytes_in'])} of input: {_span(row['hours'])} hours on {row['cores']:,} cores "
        f"({_span(row['core_hours'])} core hours), {_bytes(row['work_bytes'])} of disk while it works, "
        f"{_bytes(row['result_bytes'])} of clean text at the end, {_span(row['cost'])} $ "
        f"at {row['price_per_core_hour']:g} $ a core hour"
        for row in rows
    ]


def _span(found: Mapping[str, float]) -> str:
    return f"{_figures(found['value'])} ({_figures(found['low'])} to {_figures(found['high'])})"


def _figures(value: float) -> str:
    """Two figures: more would say that an estimate is a measurement."""
    if value <= 0:
        return "0"
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def _bytes(count: float) -> str:
    for limit, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
