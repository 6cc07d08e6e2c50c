"""`groundup data preview`: a few documents of each source through the steps of a corpus, before it is built."""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from groundup.cli.verbs import print_json
from groundup.console import byte_text, table
from groundup.errors import EXIT_FAILED, Problem, UserError
from groundup.packages import PackageUnreachableError
from groundup.recipe import load_recipe, one_of, with_found_paths
from groundup.runs import cache_folder

EXCERPT = 280
MOST_ALIKE = 5  # reasons of one kind, such as languages, that have a line of their own
NEAR = 0.25  # of a threshold: what is this near to it is shown


def preview(
    recipe_name: str,
    overrides: Sequence[str],
    *,
    stage_name: str | None,
    only: Sequence[str],
    shown: int,
    sample: int,
    as_json: bool,
) -> None:
    """Print what would become of a sample of each source. UserError where no source can be read, with all reasons."""
    from groundup.corpus.report.trial import Sample, sample_of, to_be_trained, trial

    started = time.monotonic()
    recipe = load_recipe(recipe_name, overrides)
    stages = {stage.name: stage for stage in recipe.stages.values() if stage.kind.name == "corpus"}
    if not stages:
        raise UserError("no stage of this recipe builds a corpus", where=recipe_name)
    if (stage_name is None and len(stages) > 1) or (stage_name is not None and stage_name not in stages):
        raise UserError("which corpus?", where=recipe_name, fix=f"add --stage; {one_of('corpora', stages)}")
    stage = stages[stage_name or next(iter(stages))]
    settings: Any = with_found_paths(stage.settings, {one.value: one.path for one in stage.references if one.path})
    if absent := [name for name in only if name not in settings.sources]:
        raise UserError(f"no source is called '{absent[0]}'", fix=one_of("sources", settings.sources))
    samples: dict[str, Sample] = {}
    problems: dict[str, list[Problem]] = {}
    for name in only or settings.sources:
        try:
            samples[name] = sample_of(settings.sources[name], cache_folder(), sample)
        except PackageUnreachableError as error:
            problems[name] = [Problem(f"source {name!r} could not be had: {error.reason}")]
        except UserError as error:
            problems[name] = error.problems
    if not samples:
        raise UserError([one for own in problems.values() for one in own], exit_code=EXIT_FAILED)
    with tempfile.TemporaryDirectory(prefix="groundup-preview-") as folder:
        texts = {name: one.documents for name, one in samples.items()}
        tried = trial(settings, texts, Path(folder), seed=stage.seed, cache=cache_folder())
    told = [
        _told(name, one, [row.as_json() for row in tried if row.source == name], shown) for name, one in samples.items()
    ]
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        left_out = to_be_trained(settings)
        bad = {name: [str(problem.what) for problem in own] for name, own in problems.items()}
        print_json(
            {
                "recipe": recipe_name,
                "stage": stage.name,
                "seconds": seconds,
                "sources": told,
                "problems": bad,
                "left_out": left_out,
            }
        )
        return
    for one in told:
        _print_source(one)
    for name, own in problems.items():
        print(f"== {name}: cannot be read: {'; '.join(str(problem.what) for problem in own)}\n")
    if left_out := to_be_trained(settings):
        print(f"left out, as the build trains them first: {', '.join(left_out)}")
    print(f"{seconds:g} s. A sample from the beginning, the middle and the end of each source: shares of it are rough.")


def _told(name: str, sample: Any, rows: list[dict[str, Any]], shown: int) -> dict[str, Any]:
    """One source: what became of its sample, and `shown` of the documents, chosen by a hash of their ids."""
    order = sorted(rows, key=lambda row: sha256(str(row["id"]).encode()).digest())
    dropped = [row for row in order if not row["is_kept"]]
    kept = [row for row in order if row["is_kept"]]
    # At least one of each kind, where there are: a preview of nothing but good documents shows no rule at work.
    chosen = [*(kept[: shown - 1] if dropped and shown > 1 else kept[:shown]), *dropped][:shown]
    return {
        "source": name,
        "sampled": len(rows),
        "kept": len(kept),
        "raw_bytes": sum(row["raw_bytes"] for row in rows),
        "kept_bytes": sum(len(row["text"].encode("utf-8", "replace")) for row in kept),
        "dropped": dict(Counter(_reason(row) for row in dropped).most_common()),
        "passed_over": dict(sample.passed_over.most_common()),
        "notes": dict(sample.notes.most_common()),
        "languages": dict(Counter(row["language"] for row in rows if row["language"]).most_common()),
        "documents": chosen,
    }


def _reason(row: Mapping[str, Any]) -> str:
    """Step and reason; `language: fi` names its step already."""
    step, reason = row["step"], row["reason"]
    return str(reason) if str(reason).startswith(f"{step}: ") else f"{step}: {reason}"


def _print_source(one: Mapping[str, Any]) -> None:
    from groundup.corpus.report.funnel import folded

    print(
        f"== {one['source']}: {one['kept']} of {one['sampled']} sampled documents kept, "
        f"{byte_text(one['raw_bytes'])} raw to {byte_text(one['kept_bytes'])} of text"
    )
    dropped = {reason: {"documents": count} for reason, count in one["dropped"].items()}
    rows = [["dropped", reason, f"{count:,}"] for reason, count in folded(dropped, MOST_ALIKE)]
    rows += [["passed over", reason, f"{count:,}"] for reason, count in one["passed_over"].items()]
    rows += [["note", note, f"{count:,}"] for note, count in one["notes"].items()]
    rows += [["language", name, f"{count:,}"] for name, count in list(one["languages"].items())[:5]]
    if rows:
        print(table(["", "what", "documents"], rows, right=(2,)))
    for row in one["documents"]:
        _print_document(row)
    print()


def _print_document(row: Mapping[str, Any]) -> None:
    if row["is_kept"]:
        fate = "kept"
    else:
        numbers = f" ({row['value']:.3g}, threshold {row['threshold']:g})" if row["threshold"] is not None else ""
        fate = f"dropped at {_reason(row)}{numbers}"
    text = row["text"]
    size = f"{byte_text(row['raw_bytes'])} raw, {byte_text(len(text.encode('utf-8', 'replace')))} of text"
    language = f", {row['language']} {row['language_score']:.2f}" if row["language"] else ""
    print(f"\n-- {row['id']}  [{row['media']}, {row['license'] or 'no licence'}{language}; {size}]\n   {fate}")
    near = sorted((one for one in row["checks"] if not one["fails"] and _room(one) <= NEAR), key=_room)[:2]
    for check in [check for check in row["checks"] if check["fails"]] + near:
        sign = ">=" if check["is_least"] else "<="
        mark = "fails" if check["fails"] else "near "
        print(
            f"   {mark}  {check['signal']} {check['value']:.4g}, asked {sign} {check['threshold']:g} ({check['rule']})"
        )
    if row["media"] in ("html", "wikitext"):
        print(f"   before: {' '.join(row['raw_excerpt'].split())[:EXCERPT]}")
    print(f"   {'text' if row['is_kept'] else 'last'}:   {' '.join(text.split())[:EXCERPT]}")


def _room(check: Mapping[str, Any]) -> float:
    """How far a value is from its threshold, as a share of it. A question of yes or no has no near side."""
    threshold = float(check["threshold"])
    return abs(float(check["value"]) - threshold) / abs(threshold) if threshold else math.inf
