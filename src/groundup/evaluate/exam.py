"""Stage `evaluate`: every model answers the same questions; what came out is kept question by question.

Work is done per model and task. A finished piece is kept under `work/` with what it was made from (the model's
fingerprint and the settings that matter), so a run that was cut off goes on, and a changed model is asked again.
`items/*.jsonl` holds every answer, `scores.json` the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.artifacts import (
    StageContext,
    StageResult,
    fingerprint_of,
    read_artifact,
    read_json,
    write_atomic,
    write_json,
)
from groundup.console import table
from groundup.errors import Problem, UserError
from groundup.evaluate.curves import judge_run, read_rows
from groundup.evaluate.sandbox import Limits, require_level
from groundup.evaluate.settings import EvaluateSettings
from groundup.evaluate.stats import holm
from groundup.packages import PackageUnreachableError
from groundup.recipe import CheckReport
from groundup.tasks import make_tasks, require_tasks

if TYPE_CHECKING:
    from groundup.evaluate.models import Examinee

CODE_VERSION = 1  # of how answers are made and judged; a higher one asks everything again
PREDECESSOR_KEYS = ("base_model", "model")  # settings by which a training stage names what it started from


def run(settings: EvaluateSettings, context: StageContext) -> StageResult:
    """Examine every model and write `scores.json` and `items/`; the metrics are each model's headline numbers."""
    if problems := _problems(settings, context):
        raise UserError(problems)
    from groundup.evaluate.models import Examinee, model_fingerprint
    from groundup.train.precision import prepare_processor

    prepare_processor()  # fp32 products at full speed
    examinees = [
        Examinee(name, folder, model_fingerprint(folder))
        for name, folder in ((name, context.model_folder(name)) for name in settings.models)
    ]
    scores: dict[str, Any] = {
        "models": {one.name: {"fingerprint": one.fingerprint} for one in examinees},
        "confidence": settings.confidence,
    }
    if "bits_per_byte" in settings.tasks:
        scores["bits_per_byte"] = _bits_per_byte(settings, context, examinees)
        scores["sources_left_out"] = _sources_left_out(settings, context)
    if "verifiable" in settings.tasks:
        scores |= _verifiable(settings, context, examinees)
    if "reward_accuracy" in settings.tasks:
        scores["reward_accuracy"] = _reward_accuracy(settings, context)
    if "humaneval" in settings.tasks:
        scores["humaneval"] = _humaneval(settings, context, examinees)
    scores["health"] = _health(settings, context)
    write_json(context.folder / "scores.json", scores)
    _narrate(scores, context)
    return StageResult(counts=_counts(scores), metrics=_headlines(scores))


# ---------------------------------------------------------------- one task after the other


def _bits_per_byte(settings: EvaluateSettings, context: StageContext, examinees: Sequence[Examinee]) -> dict[str, Any]:
    from groundup.evaluate.bits_per_byte import document_costs, held_out_texts, score_source, window_sizes

    assert settings.corpus is not None
    ask = settings.bits_per_byte
    sources = held_out_texts(context.input_folder(settings.corpus), ask.max_bytes)
    asked = {source: fingerprint_of([text.text for text in texts]) for source, texts in sources.items()}

    def examine(one: Examinee) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        context_len, stride = window_sizes(ask, one.model)
        items, result = [], {}
        total = sum(text.bytes for texts in sources.values() for text in texts)
        with context.console.progress(f"bits per byte, {one.name}", total, "bytes") as bar:
            done = 0
            for source, texts in sources.items():
                costs = document_costs(one.model, one.tokenizer, texts, context_len=context_len, stride=stride)
                result[source] = score_source(
                    costs, texts, one.tokenizer, confidence=settings.confidence, resamples=ask.resamples
                )
                result[source] |= {"context_len": context_len, "stride": stride}
                items += [
                    {"source": source, "bytes": cost.bytes, "tokens": len(cost.token_ids), "bits": round(cost.bits, 3)}
                    for cost in costs
                ]
                done += sum(text.bytes for text in texts)
                bar(done, source)
        return items, result

    key = {"ask": ask.model_dump(), "texts": asked, "confidence": settings.confidence}
    return {one.name: _once(context, "bits_per_byte", one, key, examine) for one in examinees}


def _sources_left_out(settings: EvaluateSettings, context: StageContext) -> dict[str, str]:
    """Source -> why the corpus could not have it: there is no text of it to score, and the gate is to know that."""
    assert settings.corpus is not None
    path = context.input_folder(settings.corpus) / "sources.json"
    rows = read_json(path) if path.is_file() else []
    return {row["name"]: row["reason"] for row in rows if row["status"] == "unreachable"}


def _verifiable(settings: EvaluateSettings, context: StageContext, examinees: Sequence[Examinee]) -> dict[str, Any]:
    from groundup.evaluate.verifiable import accuracy, answer_tasks, compare, share

    ask = settings.verifiable
    tasks = make_tasks(ask.tasks, "held_out", ask.rows, context.seed)

    def examine(one: Examinee) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        with context.console.progress(f"exact tasks, {one.name}", len(tasks), "questions") as bar:
            items = answer_tasks(one, tasks, max_new_tokens=ask.max_new_tokens, batch_size=ask.batch_size, progress=bar)
        return items, {"questions": len(items)}

    key = {"questions": fingerprint_of([asdict(task) for task in tasks]), "max_new_tokens": ask.max_new_tokens}
    for one in examinees:
        _once(context, "verifiable", one, key, examine)
    items = {one.name: _read_items(context, "verifiable", one.name) for one in examinees}
    paired = [compare(a, b, items, settings.confidence) for a, b in comparisons(settings, context)]
    for row, adjusted in zip(paired, holm([row["p_value"] for row in paired]), strict=True):
        row["p_adjusted"] = adjusted
    return {
        "accuracy": {name: accuracy(found, settings.confidence) for name, found in items.items()},
        "reply_stops": {
            name: share([item["finished"] for item in found], settings.confidence) for name, found in items.items()
        },
        "paired": paired,
    }


def _reward_accuracy(settings: EvaluateSettings, context: StageContext) -> dict[str, Any]:
    from groundup.evaluate.models import Examinee, model_fingerprint
    from groundup.evaluate.reward_accuracy import held_out_pairs, judge_pairs, score_pairs

    assert settings.reward_model is not None and settings.pairs is not None
    folder = context.model_folder(settings.reward_model)
    one = Examinee(settings.reward_model, folder, model_fingerprint(folder))
    pairs = held_out_pairs(context.input_folder(settings.pairs))

    def examine(one: Examinee) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        with context.console.progress(f"reward accuracy, {one.name}", len(pairs), "pairs") as bar:
            items = score_pairs(one.folder, pairs, progress=bar)
        return items, judge_pairs(items, settings.confidence)

    asked = fingerprint_of([[pair.prompt, pair.chosen, pair.rejected] for pair in pairs])
    key = {"pairs": asked, "confidence": settings.confidence}
    result = _once(context, "reward_accuracy", one, key, examine)
    return {"model": one.name, "fingerprint": one.fingerprint, **result}


def _humaneval(settings: EvaluateSettings, context: StageContext, examinees: Sequence[Examinee]) -> dict[str, Any]:
    from groundup.evaluate.humaneval import complete_tasks, items_of, load_tasks, run_completions, spread
    from groundup.evaluate.verifiable import share

    ask = settings.humaneval
    level = require_level(allow_none=ask.allow_no_sandbox)
    try:
        tasks = spread(load_tasks(context.cache, context.console), ask.limit)
    except PackageUnreachableError as error:
        context.console.warn(f"HumanEval is left out: {error.reason}")
        return {"left_out": error.reason}
    limits = Limits(cpu_seconds=ask.cpu_seconds)

    def examine(one: Examinee) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        with context.console.progress(f"HumanEval, {one.name}", 2 * len(tasks), "tasks") as bar:
            completions = complete_tasks(
                one, tasks, max_new_tokens=ask.max_new_tokens, batch_size=ask.batch_size, progress=bar
            )
            results = run_completions(tasks, completions, limits, level, progress=lambda done: bar(len(tasks) + done))
        items = items_of(tasks, completions, results)
        outcome = share([item["correct"] for item in items], settings.confidence)
        return items, {**outcome, "sandbox": level, "of": "pass@1, greedy"}

    key = {"ask": ask.model_dump(), "level": level, "confidence": settings.confidence}
    return {one.name: _once(context, "humaneval", one, key, examine) for one in examinees}


def _health(settings: EvaluateSettings, context: StageContext) -> dict[str, Any]:
    """Verdicts on every training stage that left its metrics beside the model."""
    names = [*settings.models, *([settings.reward_model] if settings.reward_model else [])]
    files = {name: context.input_folder(name) / "metrics.jsonl" for name in dict.fromkeys(names)}
    return {name: judge_run(read_rows(path)).as_json() for name, path in files.items() if path.is_file()}


# ---------------------------------------------------------------- resuming


def _once(
    context: StageContext,
    task: str,
    one: Examinee,
    key: dict[str, Any],
    examine: Callable[[Examinee], tuple[list[dict[str, Any]], dict[str, Any]]],
) -> dict[str, Any]:
    """The result of one model on one task: as kept by an earlier attempt with the same key, or examined now."""
    wanted = fingerprint_of({"key": key, "task": task, "model": one.fingerprint, "version": CODE_VERSION})
    done, items_file = context.folder / "work" / f"{task}.{_safe(one.name)}.json", _items_file(context, task, one.name)
    if done.is_file() and items_file.is_file():
        kept = read_json(done)
        if kept["key"] == wanted:
            return dict(kept["result"])
    items, result = examine(one)
    write_atomic(items_file, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
    write_json(done, {"key": wanted, "result": result})
    return result


def _items_file(context: StageContext, task: str, name: str) -> Path:
    return context.folder / "items" / f"{task}.{_safe(name)}.jsonl"


def _read_items(context: StageContext, task: str, name: str) -> list[dict[str, Any]]:
    lines = _items_file(context, task, name).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def _safe(name: str) -> str:
    """A model named by a path or an address as part of a file name, told apart by its hash."""
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.")
    return name if plain == name else f"{plain[-40:]}-{fingerprint_of(name)[:8]}"


# ---------------------------------------------------------------- who is compared with whom


def comparisons(settings: EvaluateSettings, context: StageContext) -> list[tuple[str, str]]:
    """Each model with the one it was made from, and what `compare` adds.

    The maker's settings say what a model was made from; a model without them is compared with the one before it.
    """
    pairs: list[tuple[str, str]] = []
    for number, name in enumerate(settings.models):
        made_from = _made_from(name, settings, context)
        if made_from is None and number > 0:
            made_from = settings.models[number - 1]
        if made_from is not None:
            pairs.append((name, made_from))
    return list(dict.fromkeys([*pairs, *settings.compare]))


def _made_from(name: str, settings: EvaluateSettings, context: StageContext) -> str | None:
    artifact = read_artifact(context.input_folder(name))
    if artifact is None:
        return None
    found = (artifact.settings.get(key) for key in PREDECESSOR_KEYS)
    return next((value for value in found if value in settings.models and value != name), None)


# ---------------------------------------------------------------- before it starts


def check(settings: EvaluateSettings, context: StageContext) -> CheckReport:
    """Task families that do not exist, and a machine that cannot lock down model-written code."""
    questions = settings.verifiable.rows * len(settings.models) if "verifiable" in settings.tasks else 0
    return CheckReport({"questions": questions} if questions else {}, _problems(settings, context, only_settings=True))


def _problems(settings: EvaluateSettings, context: StageContext, *, only_settings: bool = False) -> list[Problem]:
    problems: list[Problem] = []
    checks: list[Callable[[], object]] = []
    if "verifiable" in settings.tasks:
        checks.append(lambda: require_tasks(settings.verifiable.tasks))
    if "humaneval" in settings.tasks:
        checks.append(lambda: require_level(allow_none=settings.humaneval.allow_no_sandbox))
    for one in checks:
        try:
            one()
        except UserError as error:
            problems += error.problems
    names = [*settings.models, *([settings.reward_model] if settings.reward_model else [])]
    for name in () if only_settings else names:
        folder = context.model_folder(name)
        for file in ("config.json", "tokenizer.json"):
            if not (folder / file).is_file():
                fix = "name a training stage, or a folder in Hugging Face layout"
                problems.append(Problem(f"{name!r} is no model: {file} is missing", str(folder), fix))
                break
    return problems


# ---------------------------------------------------------------- what is told


def _narrate(scores: dict[str, Any], context: StageContext) -> None:
    say = context.console.info
    models = list(scores["models"])
    if accuracy := scores.get("accuracy"):
        rows = [[name, _percent(accuracy[name]["overall"]), _percent(scores["reply_stops"][name])] for name in models]
        say(table(["  model", "exact accuracy", "replies that end"], [[f"  {row[0]}", *row[1:]] for row in rows]))
    for row in scores.get("paired", []):
        say(
            f"  {row['a']} against {row['b']}: {100 * row['difference']:+.1f} points "
            f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}], p = {row['p_value']:.2g}"
        )
    if bits := scores.get("bits_per_byte"):
        sources = list(next(iter(bits.values())))
        body = [
            [f"  {s}", *(f"{bits[name][s]['value']:.3f}" for name in models), f"{bits[models[0]][s]['xz']:.3f}"]
            for s in sources
        ]
        say(table(["  bits per byte", *models, "xz -9"], body, right=range(1, len(models) + 2)))
    if reward := scores.get("reward_accuracy"):
        say(f"  reward model {reward['model']}: prefers the better reply in {_percent(reward)} of {reward['n']} pairs")
    for name, found in scores.get("humaneval", {}).items():
        if isinstance(found, dict):
            say(f"  HumanEval, {name}: {found['correct']} of {found['n']} pass (sandbox: {found['sandbox']})")
    for name, health in scores["health"].items():
        worst = [finding["what"] for finding in health["findings"] if finding["severity"] != "note"]
        more = f", and {len(worst) - 1} more" if len(worst) > 1 else ""
        say(f"  training of {name}: {health['verdict']}{' (' + worst[0] + more + ')' if worst else ''}")


def _percent(score: dict[str, Any]) -> str:
    return f"{100 * score['value']:.1f} % [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def _counts(scores: dict[str, Any]) -> dict[str, Any]:
    counts: dict[str, Any] = {"models": len(scores["models"])}
    if accuracy := scores.get("accuracy"):
        counts["questions"] = next(iter(accuracy.values()))["overall"]["n"]
    if bits := scores.get("bits_per_byte"):
        counts["held_out_bytes"] = sum(source["bytes"] for source in next(iter(bits.values())).values())
    return counts


def _headlines(scores: dict[str, Any]) -> dict[str, Any]:
    metrics = {f"accuracy/{name}": found["overall"]["value"] for name, found in scores.get("accuracy", {}).items()}
    if "reward_accuracy" in scores:
        metrics["reward_accuracy"] = scores["reward_accuracy"]["value"]
    return metrics
