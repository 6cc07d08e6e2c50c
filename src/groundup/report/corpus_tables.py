"""Tables of the corpus section: what was scrubbed, exams, tokens, what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundup.report.scales import integer, short_number, size

BYTES_PER_TOKEN = (4.3, 3.3, 4.9)  # value, low, high; where the run has no tokenizer yet (corpus/report/card.py)
MOST_ITEMS = 20


def count_in(found: Any, *keys: str) -> int:
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return int(found or 0)


def safety_table(counters: Mapping[str, Any], funnel: Mapping[str, Any]) -> list[dict[str, str]]:
    """What was found of personal data, secrets and toxicity, by type, for each MB of text that was looked at."""
    megabytes = count_in(funnel.get("total"), "kept", "bytes") / 1e6
    megabytes += count_in(funnel.get("total"), "held_out", "bytes") / 1e6
    return [
        {
            "what": group,
            "type": str(name),
            "found": integer(number),
            "per_mb": short_number(number / megabytes) if megabytes else "–",
        }
        for group in ("personal data", "secrets", "toxicity")
        for name, (number, _) in sorted((counters.get(group) or {}).items())
    ]


def exams_table(exams: Any, hits: Any) -> dict[str, Any] | None:
    """What the corpus was compared with, and the items that stood in it, most frequent first."""
    if not isinstance(exams, list) or not exams:
        return None
    found = hits if isinstance(hits, Mapping) else {}
    items = [
        {
            "exam": str(exam),
            "item": str(item),
            "number": row.get("documents", 0),
            "documents": integer(row.get("documents")),
            "rules": ", ".join(f"{rule} {count}" for rule, count in (row.get("rules") or {}).items()),
            "words": str(row.get("words") or "")[:200],
            "examples": ", ".join(map(str, row.get("examples") or [])),
        }
        for exam, of_exam in found.items()
        for item, row in of_exam.items()
    ]
    rows = [
        {
            "name": str(row.get("name")),
            "count": integer(row.get("items")),
            "status": str(row.get("status")),
            "is_used": row.get("status") == "used",
            "why": str(row.get("reason") or ""),
        }
        for row in exams
    ]
    items.sort(key=lambda row: (-row["number"], row["exam"], row["item"]))
    return {"rows": rows, "hits": items[:MOST_ITEMS], "more": max(0, len(items) - MOST_ITEMS)}


def budget_text(mixture: Any) -> str:
    """One sentence: of what a pass of the mixture consists, and what its repetitions are worth."""
    budget = mixture.get("budget") if isinstance(mixture, Mapping) else None
    if not isinstance(budget, Mapping):
        return ""
    parts = [
        f"One pass is {size(mixture.get('pass_bytes'))}: {size(budget.get('unique_bytes'))} read for the first time",
        f"{size(budget.get('repeated_bytes'))} repeated",
    ]
    text = f"{' and '.join(parts)}; {size(budget.get('unseen_bytes'))} of what there is stay unread."
    if budget.get("missing_bytes"):
        text += f" {size(budget['missing_bytes'])} of the budget are missing, as every source is at its cap."
    worth = (
        f" By the law of Muennighoff et al. (2023) it teaches as much as {size(budget.get('effective_bytes'))} of new "
        f"text (about {short_number(budget.get('effective_tokens'))} tokens)."
    )
    return text + (worth if budget.get("repeated_bytes") else "")


def tokens_table(data: Mapping[str, Any], funnel: Mapping[str, Any]) -> dict[str, Any] | None:
    """Tokens of each part (a source, or a language of routed ones): by the run's own tokenizer where there is one, else
    by a rule of thumb with its range."""
    tokenizer = data.get("tokenizer") if isinstance(data.get("tokenizer"), Mapping) else {}
    measured = {str(name): row.get("bytes_per_token") for name, row in ((tokenizer or {}).get("sources") or {}).items()}
    rows, sums = [], [0.0, 0.0, 0.0]
    sizes = {name: count_in(source, "kept", "bytes") for name, source in (funnel.get("sources") or {}).items()}
    if isinstance(parts := (data.get("mixture") or {}).get("sources"), Mapping):
        sizes = {name: count_in(part, "bytes") for name, part in parts.items()}
    for name, bytes in sizes.items():
        own = measured.get(str(name))
        rates = (own, own, own) if own else (BYTES_PER_TOKEN[0], BYTES_PER_TOKEN[2], BYTES_PER_TOKEN[1])
        tokens = [bytes / rate for rate in rates]
        sums = [a + b for a, b in zip(sums, tokens, strict=True)]
        rows.append(
            {
                "source": str(name),
                "bytes": size(bytes),
                "rate": f"{rates[0]:.2f}" + ("" if own else f" ({rates[2]:.1f} to {rates[1]:.1f})"),
                "tokens": short_number(tokens[0]),
            }
        )
    if not rows:
        return None
    is_measured = all(str(name) in measured for name in sizes)
    span = f"estimated, {short_number(sums[1])} to {short_number(sums[2])}"
    note = "by this run's tokenizer" if is_measured else span
    return {"rows": rows, "total": short_number(sums[0]), "note": note}


def timing_table(timing: Any) -> dict[str, Any] | None:
    steps = timing.get("steps") if isinstance(timing, Mapping) else None
    if not isinstance(steps, Mapping) or not steps:
        return None
    rows = [
        {
            "step": str(name),
            "tasks": integer(row.get("tasks")),
            "documents": integer(row.get("documents")),
            "bytes": size(row.get("bytes_in")),
            "cpu": f"{row.get('cpu_seconds', 0):,.1f} s",
            "rate": f"{row['bytes_in'] / 1e6 / row['cpu_seconds']:,.1f} MB/s"
            if row.get("bytes_in") and row.get("cpu_seconds")
            else "–",
            "memory": size(row.get("peak_bytes")),
        }
        for name, row in steps.items()
    ]
    told = [str(line) for line in timing.get("told") or []]
    return {"rows": rows, "estimates": told, "peak_is_own": bool(timing.get("peak_is_own"))}
