"""The plan of a whole recipe: each stage estimated with what the stages before it will hand over.

`plan_run(recipe, context_facts)` is what `groundup check` shows and what a run keeps as plan.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from groundup.errors import UserError
from groundup.model.config import ModelConfig, model_config
from groundup.packages import PINNED, PREFIX
from groundup.plan.estimate import BYTES_PER_TOKEN, DEFAULTS, Estimate, Facts, estimate_stage, total
from groundup.plan.probe import Machine, machine
from groundup.runs import cache_folder

UNPACKED = {".gz": 4.0, ".bz2": 4.0, ".xz": 5.0, ".zst": 4.0, ".zip": 4.0, ".whl": 3.0, ".parquet": 3.0}
PACKAGE_SHARE = 0.25  # of a package's bytes that a recipe reads
MACHINE_TEXT_BYTES = {"python_docs": 6e6, "python_code": 30e6}  # on a machine with a few hundred packages
KEPT_SHARE = 0.6  # of raw text, after all corpus steps
MODEL_SETTINGS = ("base_model", "model", "models")


@dataclass(frozen=True)
class HandedOver:
    """What a planned stage will leave for those that read it."""

    corpus_bytes: float | None = None
    vocab_size: int | None = None
    tokens: float | None = None
    model: ModelConfig | None = None
    rows: float | None = None


def plan_run(
    recipe: Any,
    context_facts: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    cache: Path | None = None,
    on: Machine | None = None,
    measure: bool = True,
) -> dict[str, Any]:
    """Estimates of all stages: {stages: {name: {seconds_low, seconds, seconds_high, memory_bytes, ...}}, total, ...}.

    `recipe.stages` maps names to stages (with `.kind.name` and `.settings`) in an order in which they can run.
    `context_facts[name]` is what the stage's own check found (`CheckReport.facts`); what it knows wins over what is
    assumed here. `cache` keeps the machine's measured rates; without it, the one that all runs share.
    """
    found = on if on is not None else machine(cache or cache_folder(), measure=measure)
    known: dict[str, HandedOver] = {}
    estimates: dict[str, Estimate] = {}
    for name, stage in recipe.stages.items():
        kind, settings = _kind_and_settings(stage)
        facts = dict((context_facts or {}).get(name) or {})
        planned, known[name] = _plan_stage(kind, settings, facts, known, found)
        estimates[name] = _with_facts(planned, facts)
    return {
        "stages": {name: one.as_dict() for name, one in estimates.items()},
        "total": total(estimates).as_dict(),
        "machine": asdict(found),
        "interval": "about 80 %",
    }


def _kind_and_settings(stage: Any) -> tuple[str, Any]:
    """A stage of a loaded recipe, or bare settings."""
    settings = getattr(stage, "settings", stage)
    return str(settings.stage), settings


def _with_facts(planned: Estimate, facts: Mapping[str, Any]) -> Estimate:
    """What the stage's own check has worked out replaces the general formula, and moves the interval with it.

    Of two estimates of memory the larger counts: too little is what hurts.
    """
    changes: dict[str, float] = {}
    for name in ("disk_bytes", "flops"):
        if _number(facts, name):
            changes[name] = float(facts[name])
    changes["memory_bytes"] = max(planned.memory_bytes, _number(facts, "memory_bytes") or 0.0)
    seconds = _number(facts, "seconds")
    if seconds and planned.seconds > 0:
        ratio = seconds / planned.seconds
        changes |= {
            "seconds": float(seconds),
            "seconds_low": _number(facts, "seconds_low") or planned.seconds_low * ratio,
            "seconds_high": _number(facts, "seconds_high") or planned.seconds_high * ratio,
        }
    return replace(planned, **changes)  # type: ignore[arg-type]


def _plan_stage(
    kind: str, settings: Any, facts: Mapping[str, Any], known: Mapping[str, HandedOver], on: Machine
) -> tuple[Estimate, HandedOver]:
    before = _gather(settings, known)
    notes: list[str] = []
    if kind == "corpus":
        raw = _number(facts, "raw_bytes", "bytes") or raw_bytes(settings, notes)
        before = replace(before, corpus_bytes=KEPT_SHARE * raw)
        estimate = estimate_stage(kind, settings, Facts(on, raw_bytes=raw, notes=tuple(notes)))
    elif kind in ("tokenizer", "tokens"):
        tokens = (before.corpus_bytes or 15e6) / BYTES_PER_TOKEN
        estimate = estimate_stage(kind, settings, Facts(on, corpus_bytes=before.corpus_bytes, tokens=tokens))
        vocab = getattr(settings, "vocab_size", None) or before.vocab_size
        before = replace(before, vocab_size=vocab, tokens=tokens if kind == "tokens" else None)
    else:
        model = _model_of(kind, settings, before, notes)
        rows = _number(facts, "rows", "conversations", "pairs", "packed_rows") or _rows(settings, known)
        models = getattr(settings, "models", None)
        shown = Facts(
            on,
            model=model,
            tokens=before.tokens,
            rows=rows,
            steps=_number(facts, "steps"),
            trained_tokens=_number(facts, "trained_tokens"),
            evaluated_models=len(models) if isinstance(models, Sequence) and not isinstance(models, str) else 1,
            notes=tuple(notes),
        )
        estimate = estimate_stage(kind, settings, shown)
        handed_rows = 0.6 * float(getattr(settings, "prompts", 0) or 0) if kind == "pairs" else rows
        before = replace(before, model=model, rows=handed_rows)
    return estimate, before


def _number(facts: Mapping[str, Any], *names: str) -> float | None:
    return next((float(facts[name]) for name in names if isinstance(facts.get(name), int | float)), None)


def _gather(settings: Any, known: Mapping[str, HandedOver]) -> HandedOver:
    """All that the stages named in these settings hand over; what is nearer to the model wins."""
    gathered = HandedOver()
    for setting in ("corpus", "tokenizer", "tokens", "pairs", "reward", "model", "base_model"):
        value = getattr(settings, setting, None)
        gathered = _over(gathered, known.get(value) if isinstance(value, str) else None)
    for value in getattr(settings, "models", None) or ():
        gathered = _over(gathered, known.get(value))
    return replace(gathered, rows=None)


def _over(old: HandedOver, new: HandedOver | None) -> HandedOver:
    if new is None:
        return old
    return HandedOver(**{key: value if value is not None else getattr(old, key) for key, value in vars(new).items()})


def _model_of(kind: str, settings: Any, before: HandedOver, notes: list[str]) -> ModelConfig:
    """The shape that a stage trains or asks: its own `model:`, that of the stage it starts from, or a folder's."""
    if kind == "pretrain":
        vocab: dict[str, Any] = {"vocab_size": before.vocab_size} if before.vocab_size else {}
        try:
            return model_config(settings.model, **vocab)
        except (UserError, TypeError):  # the stage's own check says what is wrong with it
            notes.append("the model's shape is not valid; the preset `tiny` was assumed")
            return ModelConfig(**vocab)
    if before.model is not None:
        return before.model
    for setting in MODEL_SETTINGS:
        value = getattr(settings, setting, None)
        for one in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
            found = _config_of_folder(Path(str(one)))
            if found is not None:
                return found
    if kind != "gate":
        notes.append("the model is not on this machine yet; the preset `tiny` was assumed")
    return ModelConfig()


def _config_of_folder(folder: Path) -> ModelConfig | None:
    for path in (folder / "model" / "config.json", folder / "config.json"):
        if path.is_file():
            try:
                return ModelConfig.from_hf(json.loads(path.read_text(encoding="utf-8")))
            except (UserError, ValueError):
                return None
    return None


# ---------------------------------------------------------------- how much there is to read


def _rows(settings: Any, known: Mapping[str, HandedOver]) -> float | None:
    """Rows of all datasets: as said, as a pairs stage hands over, or by the bytes of a file."""
    datasets = getattr(settings, "datasets", None)
    if not datasets:
        return None
    rows = 0.0
    for dataset in datasets:
        path = getattr(dataset, "path", None)
        said = getattr(dataset, "rows", None)
        if said:
            count = float(said)
        elif isinstance(path, str) and path in known and known[path].rows:
            count = float(known[path].rows or 0)
        elif isinstance(path, str):
            count = max(1.0, path_bytes(path) / 120.0)  # measured: a short conversation as JSON
        else:
            count = float(DEFAULTS["rows"])
        rows += count * float(getattr(dataset, "weight", 1.0) or 1.0)
    return rows


def raw_bytes(settings: Any, notes: list[str]) -> float:
    """Bytes of raw text that a corpus reads, from file sizes and typical compression; at most each `max_bytes`."""
    whole = 0.0
    for name, source in (getattr(settings, "sources", None) or {}).items():
        path, kind = getattr(source, "path", None), str(getattr(source, "type", ""))
        size = path_bytes(str(path)) if path else MACHINE_TEXT_BYTES.get(kind, 0.0)
        if not size:
            size = 5e6
            notes.append(f"the size of source {name} is not known; 5 MB were assumed")
        limit = getattr(source, "max_bytes", None)
        whole += min(size, float(limit)) if limit else size
    return whole or 5e6


def path_bytes(path: str) -> float:
    """Bytes behind a file, folder, glob or `package:NAME/...`, unpacked; 0 where it is not there."""
    unpacked = UNPACKED.get(Path(path).suffix, 1.0)
    if path.startswith(PREFIX):
        package = PINNED.get(path.removeprefix(PREFIX).partition("/")[0])
        return package.bytes * PACKAGE_SHARE * unpacked if package is not None else 0.0
    place = Path(path).expanduser()
    if place.is_file():
        return place.stat().st_size * unpacked
    if place.is_dir():
        files = [one for one in place.rglob("*") if one.is_file()]
    else:
        files = [one for one in place.parent.glob(place.name) if one.is_file()] if place.parent.is_dir() else []
    return sum(one.stat().st_size * UNPACKED.get(one.suffix, 1.0) for one in files)
