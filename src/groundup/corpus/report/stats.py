"""What a person wants to know of a corpus besides the funnel: accumulators that each shard task fills, and stats.json.

A task holds one `SourceStats`, calls `observe`, `judge` and `add`, and keeps `as_json()` in its sidecar; the last phase
adds the sidecars of a source up (`merged`) and writes `stats_report`. Adding up is exact and does not depend on order:
histograms have fixed edges, and examples are the nearest to a threshold, ties decided by a hash of the document's id.
Nothing here knows the time: throughput is in timing.json (estimate.py), so that stats.json is the same in every run.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal
from urllib.parse import urlsplit

from groundup.corpus.report.published import published_rows

FORMAT = 1
EXAMPLES = 5  # kept, and as many dropped, on either side of each threshold
EXAMPLE_CHARS = 240
MOST_NAMES = 1_000  # of one counter in one shard; the rest is counted as OTHER
OTHER = "(other)"

# What a document was when it was counted: dropped by the filter, passed by it, written for training.
Fate = Literal["dropped", "passed", "written"]

# One set of edges for every signal, so that any two shards, builds and versions can be added and compared: 0 and below,
# shares in steps of 0.05, then eight steps to each power of ten. A value is in bin i if EDGES[i-1] < value <= EDGES[i].
EDGES: tuple[float, ...] = (
    *(round(0.05 * step, 2) for step in range(20)),
    *(factor * 10.0**power for power in range(8) for factor in (1, 1.5, 2, 3, 4, 5, 6, 8)),
)


@dataclass(frozen=True)
class Check:
    """One question that a rule asked of one document. `rule` is the reason that the funnel counts, when it fails."""

    rule: str
    signal: str
    value: float
    threshold: float
    is_least: bool  # the value must be at least the threshold; else at most
    step: str = "quality"

    @property
    def fails(self) -> bool:
        return self.value < self.threshold if self.is_least else self.value > self.threshold

    def fails_at(self, threshold: float) -> bool:
        return self.value < threshold if self.is_least else self.value > threshold


def notch(threshold: float, value_is_whole: bool = False) -> float:
    """How far one notch moves a threshold: a tenth of it; at least 1 where whole things are counted.

    A threshold of 0 asks for yes or no (is there any `lorem ipsum`?) and cannot be moved: 0.
    """
    size = abs(threshold) / 10
    return max(1.0, float(round(size))) if value_is_whole and size else size


def loosened(check: Check) -> float:
    """The threshold one notch further, so that more documents pass."""
    step = notch(check.threshold, check.signal in WHOLE)
    return check.threshold - step if check.is_least else _not_past_one(check, check.threshold + step)


def tightened(check: Check) -> float:
    """The threshold one notch further, so that fewer documents pass."""
    step = notch(check.threshold, check.signal in WHOLE)
    return _not_past_one(check, check.threshold + step) if check.is_least else check.threshold - step


def _not_past_one(check: Check, moved: float) -> float:
    """A threshold this near to 1 is that of a share or a probability: none is larger than 1."""
    return 1.0 if check.threshold <= 1 < moved and check.signal not in WHOLE else moved


WHOLE = frozenset(("words", "stop_words", "lines", "longest_line", "longest_word_chars", "sentences", "bytes"))
RuleKey = tuple[str, str, float]  # rule, signal, threshold: one rule may look at several signals, and media have bounds


@dataclass
class RuleStats:
    """A rule at one threshold: how often it was asked, what it dropped, and who stood next to the threshold."""

    rule: str  # the reason that the funnel counts
    step: str
    signal: str
    threshold: float
    is_least: bool
    asked: int = 0
    failed: int = 0  # broke this rule, perhaps others too
    counted: int = 0  # ... and it is the reason that the funnel counts
    alone: int = 0  # ... and no other rule: what would stay without the rule
    gained: int = 0  # would stay with a threshold one notch looser
    gained_bytes: int = 0
    lost: int = 0  # passed everything, and would go with a threshold one notch stricter
    lost_bytes: int = 0
    kept_examples: list[dict[str, Any]] = field(default_factory=list)
    dropped_examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class SourceStats:
    """What was seen of one source, in one shard or in all of them."""

    counters: dict[str, dict[str, list[int]]] = field(default_factory=dict)  # group -> name -> [documents, bytes]
    histograms: dict[str, dict[str, Counter[int]]] = field(default_factory=dict)  # signal -> fate -> bin -> documents
    rules: dict[RuleKey, RuleStats] = field(default_factory=dict)

    def observe(
        self,
        fate: Fate,
        bytes: int,
        *,
        language: str = "",
        license: str = "",
        url: str = "",
        signals: Mapping[str, float] | None = None,
    ) -> None:
        """Count one document: its size, language, licence, domain, and a histogram entry for each signal."""
        for group, name in (("languages", language), ("licenses", license), ("domains", domain_of(url))):
            if name:
                self.add(f"{group} {fate}", name, 1, bytes)
        self.add("documents", fate, 1, bytes)
        for signal, value in {"bytes": float(bytes), **(signals or {})}.items():
            if math.isfinite(value):
                fates = self.histograms.setdefault(signal, {})
                if (bins := fates.get(fate)) is None:  # (setdefault would make a Counter for every value)
                    bins = fates[fate] = Counter()
                bins[bisect_left(EDGES, value)] += 1

    def add(self, group: str, name: str, number: int = 1, bytes: int = 0) -> None:
        """Count anything else by name: `personal data`/EMAIL, `toxicity`/insult, `exams`/gsm8k, ..."""
        count = self.counters.setdefault(group, {}).setdefault(name, [0, 0])
        count[0] += number
        count[1] += bytes

    def judge(self, document_id: str, text: str, bytes: int, checks: Sequence[Check]) -> None:
        """Take note of every question that was asked of one document. The first that fails is the one that counts."""
        failing = [check for check in checks if check.fails]
        for check in checks:
            key = (check.rule, check.signal, check.threshold)
            rule = self.rules.get(key)
            if rule is None:
                rule = RuleStats(check.rule, check.step, check.signal, check.threshold, check.is_least)
                self.rules[key] = rule
            rule.asked += 1
            if check.fails:
                rule.failed += 1
                rule.counted += check is failing[0]
                if len(failing) == 1:
                    rule.alone += 1
                    if not check.fails_at(loosened(check)):
                        rule.gained += 1
                        rule.gained_bytes += bytes
                also = sorted({other.rule for other in failing} - {check.rule})
                _keep_near(rule.dropped_examples, check, document_id, text, also)
            elif not failing:
                if check.fails_at(tightened(check)):
                    rule.lost += 1
                    rule.lost_bytes += bytes
                _keep_near(rule.kept_examples, check, document_id, text, [])

    def as_json(self) -> dict[str, Any]:
        return {
            "counters": {group: _largest(names) for group, names in sorted(self.counters.items())},
            "histograms": {
                signal: {fate: {str(bin): bins[bin] for bin in sorted(bins)} for fate, bins in sorted(fates.items())}
                for signal, fates in sorted(self.histograms.items())
            },
            "rules": {_rule_name(key): dict(vars(rule)) for key, rule in sorted(self.rules.items())},
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> SourceStats:
        rules = [RuleStats(**rule) for rule in record["rules"].values()]
        found = SourceStats(rules={(rule.rule, rule.signal, rule.threshold): rule for rule in rules})
        for group, names in record["counters"].items():
            found.counters[group] = {name: list(count) for name, count in names.items()}
        for signal, fates in record["histograms"].items():
            found.histograms[signal] = {
                fate: Counter({int(bin): count for bin, count in bins.items()}) for fate, bins in fates.items()
            }
        return found


def _rule_name(key: RuleKey) -> str:
    return f"{key[0]} ({key[1]} @ {key[2]:g})"


def domain_of(url: str) -> str:
    """The host of a web address, without `www.`; "" for anything else."""
    if not url.startswith(("http://", "https://")):
        return ""
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.")
    except ValueError:
        return ""


def _keep_near(examples: list[dict[str, Any]], check: Check, document_id: str, text: str, also: list[str]) -> None:
    distance = abs(check.value - check.threshold)
    if len(examples) == EXAMPLES and distance > abs(examples[-1]["value"] - check.threshold):
        return
    example = {"id": document_id, "value": check.value, "excerpt": text[:EXAMPLE_CHARS]}
    examples.append(example | ({"also": also} if also else {}))
    _nearest(examples, check.threshold)


def _nearest(examples: list[dict[str, Any]], threshold: float) -> None:
    """Sort by distance to the threshold and keep EXAMPLES; ids decide ties by their hash, so no order of work does."""
    examples.sort(key=lambda one: (abs(one["value"] - threshold), _lot(one["id"])))
    del examples[EXAMPLES:]


@lru_cache(maxsize=4096)  # the same few documents are compared again and again
def _lot(document_id: str) -> bytes:
    return sha256(document_id.encode()).digest()


def _largest(names: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The MOST_NAMES largest by documents, and the rest together."""
    order = sorted(names, key=lambda name: (name == OTHER, -names[name][0], name))
    kept = {name: list(names[name]) for name in order[:MOST_NAMES]}
    if rest := order[MOST_NAMES:]:
        more = kept.setdefault(OTHER, [0, 0])
        for name in rest:
            more[0] += names[name][0]
            more[1] += names[name][1]
    return kept


def merged(parts: Iterable[SourceStats]) -> SourceStats:
    """All parts added up. Order does not matter."""
    total = SourceStats()
    for part in parts:
        for group, names in part.counters.items():
            for name, (documents, bytes) in names.items():
                total.add(group, name, documents, bytes)
        for signal, fates in part.histograms.items():
            for fate, bins in fates.items():
                total.histograms.setdefault(signal, {}).setdefault(fate, Counter()).update(bins)
        for key, rule in part.rules.items():
            _add_rule(total.rules, key, rule)
    return total


def _add_rule(rules: dict[RuleKey, RuleStats], key: RuleKey, one: RuleStats) -> None:
    mine = rules.setdefault(key, RuleStats(one.rule, one.step, one.signal, one.threshold, one.is_least))
    for name in ("asked", "failed", "counted", "alone", "gained", "gained_bytes", "lost", "lost_bytes"):
        setattr(mine, name, getattr(mine, name) + getattr(one, name))
    for examples, more in (
        (mine.kept_examples, one.kept_examples),
        (mine.dropped_examples, one.dropped_examples),
    ):
        examples.extend(dict(example) for example in more)
        _nearest(examples, mine.threshold)


# ---------------------------------------------------------------- stats.json


def stats_report(
    sources: Mapping[str, SourceStats],
    clusters: Mapping[str, Mapping[int, int]] | None = None,
    duplicates: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """stats.json: the same shape for each source and for all together.

    `clusters`: for `exact duplicates` and `near duplicates`, how many clusters (value) have how many documents (key).
    `duplicates`: a few pairs to look at: {step, kept, dropped, similarity, kept_excerpt, dropped_excerpt}.
    """
    return {
        "format": FORMAT,
        "edges": list(EDGES),
        "sources": {name: _source_json(one) for name, one in sources.items()},
        "total": _source_json(merged(sources.values())),
        "clusters": {
            step: {str(size): sizes[size] for size in sorted(sizes)} for step, sizes in (clusters or {}).items()
        },
        "duplicates": [dict(pair) for pair in duplicates],
        "published": published_rows(),
    }


def _source_json(one: SourceStats) -> dict[str, Any]:
    """As `as_json`, with what a reader would otherwise compute: the moved thresholds of each rule."""
    record = one.as_json()
    for key, rule in record["rules"].items():
        check = Check(rule["rule"], rule["signal"], rule["threshold"], rule["threshold"], rule["is_least"])
        moved = {"looser": round(loosened(check), 6), "stricter": round(tightened(check), 6)}
        record["rules"][key] = {**rule, **(moved if rule["threshold"] else dict.fromkeys(moved))}
    return record
