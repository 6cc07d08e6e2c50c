"""The corpus section of the page: what each step and rule let through, at which threshold, beside published figures.

Everything comes from funnel.json, stats.json, mixture.json and timing.json of the corpus stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groundup.report.corpus_tables import budget_text, count_in, exams_table, safety_table, timing_table, tokens_table
from groundup.report.figures import Bar, bar_chart
from groundup.report.histograms import histogram
from groundup.report.scales import integer, percent, short_number, size

WEB = ("warc", "wet", "cc")
MOST_ROWS = 12
FIRST_SIGNALS = ("bytes", "words", "language_score", "classifier_score", "perplexity", "toxicity")
MOST_HISTOGRAMS = 14


def corpus_view(data: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of the page by name; a part without data is empty or None."""
    stats = data.get("corpus_stats") if isinstance(data.get("corpus_stats"), Mapping) else {}
    total = (stats or {}).get("total") or {}
    funnel = data["funnel"] if isinstance(data["funnel"], Mapping) else {}
    counters = total.get("counters") or {}
    rules = _rules(total.get("rules") or {})
    return {
        "facts": _facts(data, funnel, counters),
        "steps": _steps_chart("All sources", (funnel or {}).get("total")),
        "steps_by_source": [
            (str(name), _steps_chart(str(name), one)) for name, one in ((funnel or {}).get("sources") or {}).items()
        ],
        "besides": _besides((funnel or {}).get("total")),
        "published": _published((stats or {}).get("published") or [], data, funnel),
        "rules": rules,
        "histograms": _histograms((stats or {}).get("edges") or [], total),
        "shares": [
            table
            for title, group in (("Languages", "languages"), ("Licences", "licenses"), ("Domains", "domains"))
            if (table := _shares(title, counters, group))
        ],
        "clusters": _clusters((stats or {}).get("clusters") or {}),
        "duplicates": [_pair(pair) for pair in (stats or {}).get("duplicates") or []],
        "safety": safety_table(counters, funnel),
        "audited": integer(n) if (n := _audited(data.get("stages") or [])) else "",
        "exams": exams_table(data["exams"], data.get("exam_hits")),
        "budget": budget_text(data["mixture"]),
        "tokens": tokens_table(data, funnel),
        "timing": timing_table(data.get("corpus_timing")),
    }


def _audited(stages: Sequence[Mapping[str, Any]]) -> int:
    """Documents of which the first corpus keeps what was replaced."""
    return next((count_in(one, "counts", "audited_documents") for one in stages if one.get("kind") == "corpus"), 0)


# ---------------------------------------------------------------- facts and funnel


def _facts(
    data: Mapping[str, Any], funnel: Mapping[str, Any], counters: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    total = funnel.get("total")
    came, kept = count_in(total, "in", "documents"), count_in(total, "kept", "documents")
    if not came:
        return []
    facts = [
        ("documents", integer(kept), f"{percent(kept / came)} of {integer(came)}"),
        ("text", size(count_in(total, "kept", "bytes")), f"of {size(count_in(total, 'in', 'bytes'))} that came in"),
        ("held out", integer(count_in(total, "held_out", "documents")), size(count_in(total, "held_out", "bytes"))),
    ]
    if tokens := tokens_table(data, funnel):
        facts.append(("tokens", tokens["total"], tokens["note"]))
    for label, group in (("languages", "languages written"), ("domains", "domains written")):
        if names := counters.get(group):
            largest = max(names, key=lambda name: names[name][0])
            facts.append((label, integer(len(names)), f"most: {largest}"))
    return facts


def _steps_chart(title: str, one: Any) -> str:
    """What is left after each step, and what it dropped, in documents."""
    steps = one.get("steps") if isinstance(one, Mapping) else None
    bars = []
    for step in steps or []:
        into, out = count_in(step, "in", "documents"), count_in(step, "out", "documents")
        if into == out and step.get("step") not in ("read",):
            continue  # a step that dropped nothing is no part of the picture
        lost = percent((into - out) / into) if into else "0 %"
        note = f"−{integer(into - out)} ({lost})"
        bars.append(Bar(str(step.get("step")), [(out, "kept"), (into - out, "lost")], note=note))
    if not bars:
        return ""
    kept, held = count_in(one, "kept", "documents"), count_in(one, "held_out", "documents")
    bars.append(Bar("for training", [(kept, "kept"), (held, "held-out")], note=f"{integer(kept)} + {integer(held)}"))
    return bar_chart(bars, title=f"{title}: documents left after each step, and what it dropped", x_title="documents")


def _besides(one: Any) -> list[str]:
    """What the steps did besides dropping: `near duplicates: spans cut 35 (26 kB)`. Personal data has its own table."""
    told = []
    for step in (one.get("steps") if isinstance(one, Mapping) else None) or []:
        notes = {name: number for name, number in (step.get("notes") or {}).items() if not str(name).startswith("<")}
        said = [f"{name} ({integer(number)})" for name, number in notes.items()]
        cut = -int(step.get("changed_bytes") or 0)
        if said and cut > 0 and step.get("step") != "extract":
            said[-1] += f", {size(cut)} of text less"
        told += [f"{step.get('step')}: {one}" for one in said]
    return told


# ---------------------------------------------------------------- beside others


def _published(rows: Sequence[Mapping[str, Any]], data: Mapping[str, Any], funnel: Mapping[str, Any]) -> Any:
    """Our share of documents beside the shares that well-known pipelines report."""
    if not rows:
        return None
    kinds = {str(row.get("name")): str(row.get("type")) for row in data["sources"] or []}
    bars, ours = [], []
    for name, source in (funnel.get("sources") or {}).items():
        came = count_in(source, "in", "documents")
        kept = count_in(source, "kept", "documents") + count_in(source, "held_out", "documents")
        if came and kinds.get(str(name), "").startswith(WEB):
            ours.append((str(name), kept / came))
    total = funnel.get("total")
    if not ours and (came := count_in(total, "in", "documents")):
        kept = count_in(total, "kept", "documents") + count_in(total, "held_out", "documents")
        ours.append(("all sources here", kept / came))
    bars += [Bar(name, [(100 * share, "s2")], note=percent(share)) for name, share in ours]
    bars += [Bar(str(row["name"]), [(100 * row["kept"], "s1")], note=percent(row["kept"])) for row in rows]
    chart = bar_chart(bars, title="Share kept, here and in published pipelines", x_title="% kept")
    return {"chart": chart, "rows": [{**row, "kept": percent(row["kept"])} for row in rows], "is_web": bool(kinds)}


# ---------------------------------------------------------------- rules


def _rules(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a rule and threshold; those that dropped most come first, those that were never broken last."""
    rows = []
    for rule in found.values():
        sign, asked = "≥" if rule["is_least"] else "≤", rule["asked"]
        rows.append(
            {
                "rule": rule["rule"],
                "step": rule["step"],
                "question": f"{str(rule['signal']).replace('_', ' ')} {sign} {short_number(rule['threshold'])}",
                "asked": integer(asked),
                "dropped": integer(rule["counted"]),
                "share": percent(rule["counted"] / asked if asked else None, 2),
                "failed": integer(rule["failed"]),
                "alone": integer(rule["alone"]),
                "looser": _moved("+", rule["gained"], rule["looser"]),
                "stricter": _moved("−", rule["lost"], rule["stricter"]),
                "did_something": bool(rule["failed"] or rule["lost"]),
                "kept_examples": _examples(rule["kept_examples"]),
                "dropped_examples": _examples(rule["dropped_examples"]),
                "order": (-rule["counted"], -rule["failed"], str(rule["rule"])),
            }
        )
    return sorted(rows, key=lambda row: row["order"])


def _moved(sign: str, documents: int, threshold: float | None) -> tuple[str, str]:
    """What one notch would change, and the threshold there; a question of yes or no has no notch."""
    return ("–", "") if threshold is None else (f"{sign}{integer(documents)}", f"at {short_number(threshold)}")


def _examples(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "id": str(row["id"]),
            "value": short_number(row["value"]),
            "excerpt": " ".join(str(row["excerpt"]).split())[:160],
            "also": ", ".join(map(str, row.get("also") or [])),
        }
        for row in rows
    ]


# ---------------------------------------------------------------- distributions


def _histograms(edges: Sequence[float], total: Mapping[str, Any]) -> list[dict[str, str]]:
    signals = total.get("histograms") or {}
    thresholds: dict[str, list[float]] = {}
    dropped: dict[str, int] = {}
    for rule in (total.get("rules") or {}).values():
        thresholds.setdefault(rule["signal"], []).append(rule["threshold"])
        dropped[rule["signal"]] = dropped.get(rule["signal"], 0) + rule["counted"]

    def order(signal: str) -> tuple[int, int, str]:
        place = FIRST_SIGNALS.index(signal) if signal in FIRST_SIGNALS else len(FIRST_SIGNALS)
        return place, -dropped.get(signal, 0), signal

    charts = []
    for signal in sorted(signals, key=order)[:MOST_HISTOGRAMS]:
        fates = {fate: bins for fate, bins in signals[signal].items() if fate in ("passed", "dropped")}
        if not fates and "written" in signals[signal]:
            fates = {"passed": signals[signal]["written"]}
        name = signal.replace("_", " ")
        bounds = sorted(set(thresholds.get(signal, [])))
        charts.append(
            {
                "title": name,
                "svg": histogram(edges, fates, title=f"Documents by {name}", x_title=name, thresholds=bounds),
            }
        )
    return charts


def _shares(title: str, counters: Mapping[str, Any], group: str) -> dict[str, Any] | None:
    """Documents before the filters and in the result, by name: what the filters favour shows here."""
    fates = {fate: counters.get(f"{group} {fate}") or {} for fate in ("dropped", "passed", "written")}
    names: dict[str, list[int]] = {}
    for fate, found in fates.items():
        for name, (documents, bytes) in found.items():
            row = names.setdefault(str(name), [0, 0, 0])
            row[0] += documents if fate != "written" else 0
            row[1] += documents if fate == "written" else 0
            row[2] += bytes if fate == "written" else 0
    if not names:
        return None
    before, after = (sum(row[place] for row in names.values()) for place in (0, 1))
    order = sorted(names, key=lambda name: (-names[name][1], -names[name][0], name))
    rows = [
        {
            "name": name,
            "before": integer(names[name][0]),
            "before_share": percent(names[name][0] / before if before else None),
            "after": integer(names[name][1]),
            "after_share": percent(names[name][1] / after if after else None),
            "bytes": size(names[name][2]),
        }
        for name in order[:MOST_ROWS]
    ]
    return {"title": title, "rows": rows, "more": max(0, len(order) - MOST_ROWS)}


def _clusters(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """How many texts stood how often: clusters by their number of documents, 2, 3, 4, 5-8, 9-16, ..."""
    charts = []
    for step, sizes in found.items():
        bins: dict[tuple[int, int], int] = {}
        for text, clusters in sizes.items():
            if (count := int(text)) > 1:
                high = count if count <= 4 else 1 << (count - 1).bit_length()
                low = count if count <= 4 else high // 2 + 1
                bins[low, high] = bins.get((low, high), 0) + int(clusters)
        if bins:
            bars = [
                Bar(str(low) if low == high else f"{low}–{high}", [(number, "s1")], note=integer(number))
                for (low, high), number in sorted(bins.items())
            ]
            title = f"{str(step).capitalize()}: clusters by how many documents they have"
            charts.append({"title": str(step), "svg": bar_chart(bars, title=title, x_title="clusters")})
    return charts


def _pair(pair: Mapping[str, Any]) -> dict[str, str]:
    return {
        "step": str(pair.get("step", "")),
        "similarity": short_number(pair.get("similarity")),
        "kept": str(pair.get("kept", "")),
        "dropped": str(pair.get("dropped", "")),
        "kept_excerpt": str(pair.get("kept_excerpt", ""))[:400],
        "dropped_excerpt": str(pair.get("dropped_excerpt", ""))[:400],
    }
