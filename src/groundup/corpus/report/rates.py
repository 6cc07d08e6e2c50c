"""What a corpus will take, foretold from how fast its kinds of source went before: on this machine, or on ours.

A finished build is remembered in the cache by kind of source, so that the next `groundup check` speaks of this machine.
estimate.py foretells from one finished build, step by step and far; this is for a recipe that was never built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts import read_json, write_json
from groundup.corpus.report.estimate import EFFICIENCY, PRICE_PER_CORE_HOUR
from groundup.errors import UserError

FILE = "corpus-rates.json"
# Of input of one kind: less says little about it. The demo's 3 MB of web archive, mostly revisits, took a sixth of the
# CPU time per byte that real pages take.
FEWEST_BYTES = 20_000_000
REMEMBERED_FACTOR, SHIPPED_FACTOR = 2.0, 2.5  # of the interval: other input of the kind; other input and machine
WORKER_BYTES = 260e6  # libraries and one shard in each process (measured, demo corpus)
TELL_FROM_SECONDS = 600.0  # of a core: a smaller build needs no word about money


@dataclass(frozen=True)
class ModelWork:
    """What one model adds to a build: its scoring, and before that, where it `is_trained` in it, its training.

    `learned`: bytes of rows; `reading`: sources that it learns from, as (kind, bytes behind compression); `documents`:
    how many of the corpus itself it learns from (a fifth of it at most); `categories`: of labels.
    """

    kind: str  # classifier, perplexity, toxicity, names
    is_trained: bool
    learned: float = 0.0
    reading: tuple[tuple[str, float], ...] = ()
    documents: int = 0
    categories: int = 1


@dataclass(frozen=True)
class KindRate:
    """CPU seconds, bytes of clean text and bytes of files for each byte of input behind its compression."""

    cpu_seconds: float
    text: float
    disk: float
    factor: float = SHIPPED_FACTOR


# measured: the demo's corpus, archives of real pages as benchmarks/corpus.py makes them (.gz: 4.2 times as large behind
# it), the English dump and the WET file of shared/data, 2026-11 (docs/log.md)
SHIPPED = {
    "warc": KindRate(0.47e-6, 0.024, 0.31),
    "warc, fast": KindRate(0.12e-6, 0.024, 0.31),
    "wet": KindRate(0.5e-6, 0.5, 1.7),
    "wikipedia": KindRate(0.6e-6, 0.5, 1.8),
    "books": KindRate(1.3e-6, 1.0, 3.0),
    "python_code": KindRate(0.9e-6, 1.0, 2.2),
    "python_docs": KindRate(0.8e-6, 0.6, 2.0),
    "dialogue": KindRate(4.7e-6, 0.3, 3.7),
}
# Models that look at texts, CPU seconds a byte (measured, docs/log.md). Toxicity learns anew for each category and each
# fold, on dozens of features a word: its seconds are for a byte and a category.
TRAINING = {"classifier": 0.15e-6, "perplexity": 0.15e-6, "toxicity": 6e-6, "names": 1e-6}
SCORING = {"classifier": 0.03e-6, "perplexity": 0.08e-6, "toxicity": 0.5e-6, "names": 0.5e-6}
SEEN = 2.0  # bytes of text that models look at, for each byte that is kept in the end
DOCUMENT_BYTES = 5_000  # of a document, where only their number is known
LEARNING = {"classifier": 20.0, "perplexity": 30.0, "toxicity": 90.0, "names": 20.0}  # bytes of memory a byte
HTML_KINDS = frozenset(("warc",))  # a fast extractor makes these a kind of their own
OTHER = KindRate(1.2e-6, 0.8, 3.0)


def kind_of(source_type: str, extract: str) -> str:
    """The name under which a source's speed is known."""
    return f"{source_type}, fast" if source_type in HTML_KINDS and extract == "fast" else source_type


def remember(
    cache: Path, kinds: Mapping[str, str], timing: Mapping[str, Any], unpacked: Mapping[str, float] | None = None
) -> None:
    """Keep a finished build's rates. `kinds`: source -> its `kind_of`; `timing`: timing.json; `unpacked`: source ->
    bytes behind its files' compression (inputs.py), where that is not what was read."""
    known = _known(cache)
    sums: dict[str, dict[str, float]] = {}
    for source, steps in (timing.get("sources") or {}).items():
        if source not in kinds or "read" not in steps:
            continue
        one = sums.setdefault(
            kinds[source], {"unpacked_bytes": 0.0, "cpu_seconds": 0.0, "text_bytes": 0, "disk_bytes": 0}
        )
        one["unpacked_bytes"] += (unpacked or {}).get(source, steps["read"]["bytes_in"])
        one["text_bytes"] += steps.get("write", {}).get("bytes_out", 0)
        # models are the recipe's, not the source's: the next build may have none
        one["cpu_seconds"] += sum(step["cpu_seconds"] for name, step in steps.items() if name != "score")
        one["disk_bytes"] += sum(step["disk_bytes"] for step in steps.values())
    for kind, one in sums.items():
        # The last build speaks, but not a small one against a large one.
        if one["unpacked_bytes"] >= max(FEWEST_BYTES, 0.5 * known.get(kind, {}).get("unpacked_bytes", 0)):
            known[kind] = one
    if known:
        write_json(cache / FILE, known)


def _known(cache: Path) -> dict[str, dict[str, float]]:
    try:
        return dict(read_json(cache / FILE))
    except (OSError, UserError, TypeError, ValueError):
        return {}


def rate_of_kind(kind: str, cache: Path) -> KindRate:
    """As measured here, else as shipped."""
    one = _known(cache).get(kind)
    if not one or not one.get("unpacked_bytes"):  # also what earlier versions kept, by bytes as they were stored
        return SHIPPED.get(kind, OTHER)
    size = one["unpacked_bytes"]
    measured = (one["cpu_seconds"] / size, one["text_bytes"] / size, one["disk_bytes"] / size)
    return KindRate(*measured, REMEMBERED_FACTOR)


def _model_takes(model: ModelWork, seen: float, cache: Path) -> tuple[float, float, float]:
    """CPU seconds of training, which one core does alone, and of scoring; bytes of memory that training takes."""
    scoring = SCORING[model.kind] * seen
    if not model.is_trained:
        return 0.0, scoring, 0.0
    learned = model.learned + min(model.documents * DOCUMENT_BYTES, 0.2 * seen)
    reading = 0.0
    for kind, size in model.reading:
        rate = rate_of_kind(kind, cache)
        learned += SEEN * rate.text * size
        reading += rate.cpu_seconds * size
    return reading + TRAINING[model.kind] * model.categories * learned, scoring, LEARNING[model.kind] * learned


def foretell(
    parts: Iterable[tuple[str, float, float | None]],
    cache: Path,
    *,
    cores: int,
    models: Iterable[ModelWork] = (),
    price_per_core_hour: float = PRICE_PER_CORE_HOUR,
) -> dict[str, Any]:
    """What a build takes: facts for `groundup check` and the planner.

    `parts`: each source's kind, bytes of input behind compression, and `max_bytes` of clean text (or None).
    `models`: what is trained and asked besides. Seconds are of the clock, on `cores`; `*_low` and `*_high` are an
    interval of about 80 %.
    """
    cpu = low = high = text = disk = seen = 0.0
    for kind, size, most in parts:
        rate = rate_of_kind(kind, cache)
        seconds = rate.cpu_seconds * size
        cpu, low, high = cpu + seconds, low + seconds / rate.factor, high + seconds * rate.factor
        text += min(rate.text * size, most or float("inf"))
        disk += rate.disk * size
        seen += SEEN * rate.text * size
    alone = learning = 0.0  # seconds that one core works alone, and the memory of the largest training
    for model in models:
        training, scoring, memory = _model_takes(model, seen, cache)
        alone, learning = alone + training, max(learning, memory)
        cpu, low, high = cpu + scoring, low + scoring / SHIPPED_FACTOR, high + scoring * SHIPPED_FACTOR
    workers = cores * (EFFICIENCY if cores > 1 else 1.0)
    span = {
        "seconds": cpu / workers + alone,
        "seconds_low": low / workers + alone / SHIPPED_FACTOR,
        "seconds_high": high / workers + alone * SHIPPED_FACTOR,
    }
    facts: dict[str, Any] = {name: round(value, 1) for name, value in span.items()}
    memory = 200e6 + max(cores * WORKER_BYTES, WORKER_BYTES + learning)
    facts |= {"disk_bytes": round(text + disk), "memory_bytes": round(memory)}
    cpu, low, high = cpu + alone, low + alone / SHIPPED_FACTOR, high + alone * SHIPPED_FACTOR
    if cpu >= TELL_FROM_SECONDS:
        hours = f"{cpu / 3600:,.1f} ({low / 3600:,.1f} to {high / 3600:,.1f})"
        dollars = f"{cpu / 3600 * price_per_core_hour:,.2f}"
        facts |= {"core_hours": hours, "dollars": f"{dollars} at {price_per_core_hour:g} a core hour"}
    return facts
