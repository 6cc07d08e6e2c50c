"""`groundup tokens show`: what was in a step of a run, finished or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groundup.artifacts import Artifact, artifact_or_none, read_artifact, read_json
from groundup.cli.verbs import find_run
from groundup.errors import UserError
from groundup.recipe import Stage, load_recipe, one_of
from groundup.runs import WORK
from groundup.tokens.shards import read_manifest
from groundup.tokens.show import rows_data, rows_of_batch, rows_text
from groundup.tokens.skips import Ranges, batch_of, joined, ranges_of, steps_text
from groundup.workflow.run import input_folders


def show_tokens(
    name: str,
    *,
    home: Path | None,
    stage_name: str | None,
    step: int | None,
    batch: int | None,
    rows: int | None,
    as_json: bool,
) -> None:
    """Print what step `step` of a pretrain stage trained, or batch `batch`, which may have been left out."""
    run_folder = find_run(name, home)
    stage = _pretrain_stage(run_folder, stage_name)
    folder = run_folder / stage.name
    artifact = artifact_or_none(folder)
    if artifact is None:
        folder = run_folder / WORK / stage.name
    settings: Any = type(stage.settings)(**artifact.settings) if artifact is not None else stage.settings
    left_out = joined(ranges_of(settings.skip_steps), left_out_by_rewinds(folder))
    if (step is None) == (batch is None):
        raise UserError("which step?", fix="name a --step N or a --batch N, and not both")
    number = batch if batch is not None else batch_of(step or 0, left_out)
    tokens = input_folders(stage, run_folder).get(settings.tokens, Path(settings.tokens))
    _check_same_tokens(tokens, artifact, folder)
    found = rows_of_batch(
        tokens,
        sequence_len=settings.sequence_len,
        rows_per_step=settings.micro_batch_size * settings.gradient_accumulation_steps,
        micro_batch_size=settings.micro_batch_size,
        seed=stage.seed,
        batch=number,
    )
    shown = found if rows is None else found[:rows]
    steps = artifact.counts.get("steps") if artifact is not None else None  # of a stage under way nobody can say
    is_past_the_end = steps is not None and number > batch_of(steps, left_out)
    is_left_out = any(first <= number <= last for first, last in left_out)
    if as_json:
        facts = {"run": str(run_folder), "stage": stage.name, "step": step, "batch": number}
        facts |= {"is_left_out": is_left_out, "is_past_the_end": is_past_the_end}
        more = {"sequence_len": settings.sequence_len, "rows_in_step": len(found)}
        print(json.dumps({**facts, **more, "rows": rows_data(shown)}, indent=1, ensure_ascii=False))
        return
    what = f"step {step:,} of {stage.name}: batch {number:,}" if step is not None else f"batch {number:,}"
    notes = [f"{len(found)} rows of {settings.sequence_len:,} tokens"]
    notes += ["this batch is left out"] if is_left_out else []
    notes += [f"it was not trained: {stage.name} ended with step {steps:,}"] if is_past_the_end else []
    notes += [f"left out: {steps_text(left_out)}"] if left_out else []
    print(f"{what}; {'; '.join(notes)}\n\n{rows_text(shown)}")
    if len(shown) < len(found):
        print(f"\n... and {len(found) - len(shown)} more rows (--rows {len(found)})")


def left_out_by_rewinds(folder: Path) -> Ranges:
    """What a stage's rewinds have left out, as it wrote it down."""
    path = folder / "left_out.json"
    return joined([(int(first), int(last)) for first, last in read_json(path)["batches"]]) if path.is_file() else ()


def _pretrain_stage(run_folder: Path, name: str | None) -> Stage:
    """The stage that is named, or the only one that trains on token shards."""
    recipe = load_recipe(str(run_folder / "recipe.yaml"), [])
    stages = {stage.name: stage for stage in recipe.stages.values() if stage.kind.name == "pretrain"}
    if name is None and len(stages) == 1:
        return next(iter(stages.values()))
    if name in stages:
        return stages[name]
    if not stages:
        raise UserError("no stage of this run trains on token shards", where=str(run_folder))
    if name is None:
        fix = f"add --stage; {one_of('stages', stages)}"
        raise UserError("several stages train on token shards", where=str(run_folder), fix=fix)
    what = "does not train on token shards" if name in recipe.stages else "is no stage of this run"
    raise UserError(f"'{name}' {what}", where=str(run_folder), fix=f"--stage takes one of: {', '.join(stages)}")


def _check_same_tokens(tokens: Path, artifact: Artifact | None, folder: Path) -> None:
    """UserError where the shards were built anew since: then nobody can say what was trained."""
    if artifact is not None:
        now = read_artifact(tokens)
        is_same = now is None or now.output_fingerprint == artifact.inputs.get("tokens")
    else:
        states = sorted(folder.glob("checkpoints/checkpoint-*/state.json"), key=lambda path: path.stat().st_mtime)
        then = dict(read_json(states[-1])).get("configuration", {}).get("data_fingerprint") if states else None
        is_same = then is None or then == read_manifest(tokens).fingerprint
    if not is_same:
        what = "these shards were built anew since the training: what it saw is gone"
        raise UserError(what, where=str(tokens), fix="run the stage again to train on them")
