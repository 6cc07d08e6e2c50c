"""Everything a report says, as one plain dict made from the files of a run folder and nothing else.

`report_data` works for a run that is finished, half done, failed or stopped: a section that has no data yet is empty,
and `missing` says which stage would fill it. The dict is what `groundup report --json` prints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.errors import UserError
from groundup.report.evidence import accuracy_of, read_scores
from groundup.report.lineage import lineage_data
from groundup.report.reading import (
    StageFiles,
    first_json,
    plain,
    read_json_or_none,
    read_recipe,
    read_rows,
    require_run,
    stage_settings,
    stages_of,
)
from groundup.report.scales import thin
from groundup.runs import summarise

TRAINING_KINDS = ("pretrain", "sft", "reward", "dpo", "ppo")
MODEL_KINDS = ("pretrain", "sft", "dpo", "ppo")
CURVE_POINTS = 400
EXAMPLES_PER_SOURCE = 6
MOST_FILES, ROWS_OF_A_FILE = 100, 20_000  # of dropped documents, for the examples
SAMPLE_CHARACTERS = 1200


def report_data(run_folder: Path) -> dict[str, Any]:
    """All that is known about a run. Raises UserError where the folder is not there; never for missing files."""
    run_folder = Path(run_folder)
    require_run(run_folder)
    unreadable: list[str] = []
    recipe = read_recipe(run_folder, unreadable)
    state = read_json_or_none(run_folder / "state.json", unreadable) or {}
    plan = read_json_or_none(run_folder / "plan.json", unreadable) or {}
    stages = stages_of(run_folder, recipe, state)
    scores = read_scores(stages)
    gate = first_json(stages, "gate", "decision.json")
    data: dict[str, Any] = {
        "run": str(recipe.get("name") or run_folder.resolve().name),
        "folder": str(run_folder),
        "seed": recipe.get("seed"),
        "status": _status(run_folder, stages, state, gate),
        "stages": [_stage_row(stage, plan, state) for stage in stages],
        "models": _models(stages),
        "gate": gate,
        **_corpus(stages),
        "tokenizer": first_json(stages, "tokenizer", "report.json"),
        "tokens": first_json(stages, "tokens", "manifest.json", most_characters=20_000),
        "bits_per_byte": scores["bits_per_byte"],
        "accuracy": accuracy_of(scores["accuracy"], scores["paired"], stages),
        "paired": scores["paired"],
        "reward_accuracy": scores["reward_accuracy"],
        "reply_stops": scores["reply_stops"],
        "humaneval": scores["humaneval"],
        "health": scores["health"],
        "curves": {stage.name: _curves(stage) for stage in stages if stage.kind in TRAINING_KINDS},
        "samples": _samples(stages),
        "audit": {stage.name: audit for stage in stages if (audit := stage.json("audit.json")) is not None},
        "lineage": lineage_data(stages),
        "config": _config(run_folder, recipe, unreadable),
        "plan": plan,
        "environment": _environment(run_folder, state, unreadable),
        "events": _events(run_folder, state, stages),
    }
    data["unreadable"] = unreadable + [line for stage in stages for line in stage.unreadable]
    data["missing"] = _missing(data, stages)
    return data


# ---------------------------------------------------------------- the run and its stages


def _status(run_folder: Path, stages: Sequence[StageFiles], state: Mapping[str, Any], gate: Any) -> dict[str, Any]:
    """`word` is finished, running, cut off (killed), stopped, failed or not started; `error` ended a failed run.

    What is finished is decided by the artifacts, whether a run is alive by `state.json` and its process.
    """
    done = sum(stage.status == "done" for stage in stages)
    open_stages = [stage for stage in stages if stage.status in ("failed", "running", "stopped")]
    failed = [stage for stage in open_stages if stage.status == "failed"]
    summary = summarise(run_folder) if state else None
    said = summary.state if summary is not None else "unknown"
    if stages and done == len(stages):
        word = "finished"
    elif said in ("running", "cut off", "failed", "stopped"):
        word = said
    elif failed:
        word = "failed"
    else:
        word = "stopped" if done or open_stages else "not started"
    at = failed[0].name if failed else open_stages[0].name if open_stages else None
    error = state.get("error") or _stage_state(state, at).get("error") or ""
    return {
        "word": word,
        "done": done,
        "of": len(stages),
        "at": at,
        "error": error if isinstance(error, str) else str(plain(error)),
        "released": gate.get("released") if isinstance(gate, Mapping) else None,
        "seconds": round(sum((stage.artifact or {}).get("seconds") or 0.0 for stage in stages), 3),
    }


def _stage_state(state: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    of_stages = state.get("stages")
    found = of_stages.get(name) if isinstance(of_stages, Mapping) and name is not None else None
    return found if isinstance(found, Mapping) else {}


def _stage_row(stage: StageFiles, plan: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    planned = (plan.get("stages") or {}).get(stage.name) or {}
    artifact = stage.artifact or {}
    return {
        "name": stage.name,
        "kind": stage.kind,
        "status": stage.status,
        "seconds": artifact.get("seconds"),
        "planned_seconds": planned.get("seconds"),
        "planned_low": planned.get("seconds_low"),
        "planned_high": planned.get("seconds_high"),
        "planned_memory_bytes": planned.get("memory_bytes"),
        "planned_disk_bytes": planned.get("disk_bytes"),
        "planned_flops": planned.get("flops"),
        "disk_bytes": _disk_bytes(stage.folder),
        "counts": plain(artifact.get("counts") or {}),
        "metrics": plain(artifact.get("metrics") or {}),
        "fingerprint": artifact.get("fingerprint"),
        "output_fingerprint": artifact.get("output_fingerprint"),
        "finished_at": artifact.get("finished_at") or None,
        "error": plain(_stage_state(state, stage.name).get("error")),
    }


def _disk_bytes(folder: Path) -> int | None:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else None


def _models(stages: Sequence[StageFiles]) -> list[dict[str, Any]]:
    """One row for each model folder: what it is, how large, from what it was made."""
    rows = []
    for stage in stages:
        config = stage.json("model/config.json")
        if stage.kind not in TRAINING_KINDS or config is None:
            continue
        weights = sum(path.stat().st_size for path in (stage.folder / "model").glob("*.safetensors"))
        counts = (stage.artifact or {}).get("counts") or {}
        rows.append(
            {
                "stage": stage.name,
                "kind": stage.kind,
                "architecture": (config.get("architectures") or [config.get("model_type", "?")])[0],
                "parameters": counts.get("parameters") or _parameters(config),
                "config": {key: value for key, value in plain(config).items() if not isinstance(value, dict | list)},
                "weights_bytes": weights,
                "trained_tokens": counts.get("trained_tokens") or counts.get("tokens"),
                "steps": counts.get("steps"),
                "path": str(stage.folder / "model"),
            }
        )
    return rows


def _parameters(config: Mapping[str, Any]) -> int | None:
    """Parameters of a Llama-style model by its shape (attention + gated MLP + norms + embeddings)."""
    try:
        from groundup.model.config import ModelConfig

        return int(ModelConfig.from_hf(dict(config)).parameters())
    except (UserError, KeyError, TypeError, ValueError):
        return None


# ---------------------------------------------------------------- data


def _corpus(stages: Sequence[StageFiles]) -> dict[str, Any]:
    corpora = [stage for stage in stages if stage.kind == "corpus"]
    if not corpora:
        empty = dict.fromkeys(("funnel", "mixture", "sources", "exams", "exam_hits", "corpus_stats", "corpus_timing"))
        return {**empty, "dropped": {}}
    corpus = corpora[0]
    return {
        "funnel": corpus.json("funnel.json"),
        "mixture": corpus.json("mixture.json"),
        "sources": corpus.json("sources.json"),
        "exams": corpus.json("exams.json"),
        "exam_hits": corpus.json("exam_hits.json"),
        "corpus_stats": corpus.json("stats.json"),
        "corpus_timing": corpus.json("timing.json"),
        "dropped": _dropped_examples(corpus.folder / "dropped", corpus.unreadable),
    }


def _dropped_examples(folder: Path, unreadable: list[str]) -> dict[str, list[dict[str, str]]]:
    """A few dropped documents of each source, of as many different reasons as possible."""
    files = sorted(folder.glob("*.parquet"))[:MOST_FILES] if folder.is_dir() else []
    if not files:
        return {}
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    examples: dict[str, list[dict[str, str]]] = {}
    for path in files:
        try:
            with parquet.ParquetFile(path) as file:  # the first rows of each: a corpus may be large
                batches = file.iter_batches(batch_size=ROWS_OF_A_FILE)
                rows: list[dict[str, Any]] = next((batch.to_pylist() for batch in batches), [])
        except (OSError, arrow.ArrowInvalid) as error:
            unreadable.append(f"dropped/{path.name}: {error}")
            continue
        own = examples.setdefault(re.sub(r"-\d{5}$", "", path.stem), [])  # a source may have several files
        for row in rows:
            reason = str(row.get("reason", "?"))
            if len(own) < EXAMPLES_PER_SOURCE and reason not in {one["reason"] for one in own}:
                excerpt = str(row.get("excerpt") or "")[:240]
                found = {"id": str(row.get("id", "")), "step": str(row.get("step", "")), "reason": reason}
                own.append({**found, "excerpt": excerpt})
    return examples


# ---------------------------------------------------------------- training


def _curves(stage: StageFiles) -> dict[str, Any]:
    """Every numeric series of metrics.jsonl as {name: [[step, value], ...]}, thinned but with every spike kept."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in stage.rows("metrics.jsonl"):
        step = row.get("step")
        if not isinstance(step, int | float):
            continue
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                series.setdefault(key, []).append((float(step), float(value)))
    return {name: [list(point) for point in thin(points, CURVE_POINTS)] for name, points in series.items()}


def _samples(stages: Sequence[StageFiles]) -> list[dict[str, Any]]:
    """What each stage's model answers to the fixed prompts: [{prompt, completions: {stage: text}}], in recipe order.

    What a model said `before` a stage is kept (as "before STAGE") where no earlier stage answered that prompt.
    """
    prompts: dict[str, dict[str, str]] = {}
    for stage in stages:
        if stage.kind not in MODEL_KINDS:
            continue
        rows = stage.rows("samples.jsonl")
        for row in sorted(rows, key=lambda row: row.get("when") != "before"):
            prompt = row.get("prompt")
            said = prompt if isinstance(prompt, str) else _last_user_message(prompt)
            if said is None:
                continue
            answers = prompts.setdefault(said, {})
            is_before = row.get("when") == "before"
            if not (is_before and answers):
                name = f"before {stage.name}" if is_before else stage.name
                answers[name] = str(row.get("completion", ""))[:SAMPLE_CHARACTERS]
    return [{"prompt": prompt, "completions": completions} for prompt, completions in prompts.items()]


def _last_user_message(prompt: Any) -> str | None:
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], Mapping):
        return str(prompt[-1].get("content", ""))
    return None


# ---------------------------------------------------------------- lineage, configuration, environment


def _config(run_folder: Path, recipe: Mapping[str, Any], unreadable: list[str]) -> dict[str, Any]:
    """Every value with its origin: [{stage, key, value, origin}]; the origin is '' where it was not recorded."""
    origins = read_json_or_none(run_folder / "origins.json", unreadable) or {}
    rows = []
    for name, settings in stage_settings(recipe).items():
        for key, value in settings.items() if isinstance(settings, Mapping) else ():
            origin = origins.get(f"stages.{name}.{key}", "")
            rows.append({"stage": name, "key": key, "value": value, "origin": str(origin)})
    return {"name": recipe.get("name"), "seed": recipe.get("seed"), "values": rows}


def _environment(run_folder: Path, state: Mapping[str, Any], unreadable: list[str]) -> dict[str, Any]:
    found = read_json_or_none(run_folder / "env.json", unreadable) or state.get("environment") or {}
    return dict(plain(found)) if isinstance(found, Mapping) else {}


def _events(run_folder: Path, state: Mapping[str, Any], stages: Sequence[StageFiles]) -> list[dict[str, Any]]:
    """Resumes, retries, stops and warnings, in the order of time: [{time, stage, what}]."""
    events: list[dict[str, Any]] = []
    of_state = state.get("events")
    rows = list(of_state) if isinstance(of_state, list) else []
    rows += read_rows(run_folder / "events.jsonl", [])
    for row in rows:
        if isinstance(row, Mapping):
            events.append({"stage": row.get("stage", ""), **plain(row)})
    for stage in stages:
        events += [{**plain(row), "stage": stage.name} for row in stage.rows("events.jsonl")]
    return sorted(events, key=lambda event: str(event.get("time") or event.get("at") or ""))


# ---------------------------------------------------------------- what is not there yet

FILLED_BY = {
    "funnel": "corpus",
    "mixture": "corpus",
    "sources": "corpus",
    "corpus_stats": "corpus",
    "tokenizer": "tokenizer",
    "samples": "pretrain, sft, dpo or ppo",
    "audit": "sft, reward or dpo",
    "bits_per_byte": "evaluate",
    "accuracy": "evaluate",
    "paired": "evaluate",
    "reward_accuracy": "evaluate",
    "humaneval": "evaluate",
    "health": "evaluate",
    "gate": "gate",
}


def _missing(data: Mapping[str, Any], stages: Sequence[StageFiles]) -> dict[str, str]:
    """Section -> one sentence that says why it is empty and what fills it."""
    sentences = {}
    for section, kinds in FILLED_BY.items():
        if data.get(section):
            continue
        wanted = kinds.replace(" or ", ", ").split(", ")
        of_kind = [stage for stage in stages if stage.kind in wanted]
        if not of_kind:
            sentences[section] = f"This recipe has no {kinds} stage."
        elif all(stage.status == "done" for stage in of_kind):
            sentences[section] = f"Stage {of_kind[-1].name} is done and recorded nothing of this."
        else:
            waiting = next(stage for stage in of_kind if stage.status != "done")
            sentences[section] = f"Stage {waiting.name} ({waiting.status}) will fill this."
    return sentences
