"""From `report_data` to what the page shows: words, rows and charts. The template only lays them out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from groundup.environment import command_name
from groundup.report.corpus_view import corpus_view
from groundup.report.data_view import data_view
from groundup.report.lineage import lineage_svg
from groundup.report.plan_view import plan_view
from groundup.report.scales import duration, integer, short_number, size
from groundup.report.scores_view import accuracy_view, bits_per_byte_view, single_scores
from groundup.report.training import LEVEL_OF, training_card

DATA_KINDS = frozenset(("corpus", "tokenizer", "tokens"))
STAGE_KINDS = {
    "pretrain": "pre-trained",
    "sft": "fine-tuned",
    "dpo": "aligned by DPO",
    "ppo": "aligned by PPO",
    "reward": "reward model",
}


def view(data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template needs, in the order of the page."""
    return {
        "run": data["run"],
        "data": data,
        "missing": data["missing"],
        "verdict": verdict(data),
        "has_models": not is_data_only(data),
        "facts": _facts(data),
        "criteria": [_criterion(row) for row in (data["gate"] or {}).get("criteria", [])],
        "models": [_model(row) for row in data["models"]],
        "commands": commands(data),
        "samples": _samples(data),
        "accuracy": accuracy_view(data),
        "bits": bits_per_byte_view(data),
        "single_scores": single_scores(data),
        "training": _training(data),
        "corpus": data_view(data),
        "deep": corpus_view(data),
        "audits": [_audit(name, audit) for name, audit in data["audit"].items()],
        "plan": plan_view(data),
        "lineage": lineage_svg(data["lineage"]),
        "stages": data["stages"],
        "config": _config(data),
        "environment": _environment(data),
        "trouble": _trouble(data),
    }


# ---------------------------------------------------------------- verdict and facts


def verdict(data: Mapping[str, Any]) -> dict[str, str]:
    """One sentence that says how it ended, and its tone: good, bad, warning or note."""
    status, gate = data["status"], data["gate"]
    if isinstance(gate, Mapping) and gate.get("criteria") is not None:
        return _gate_verdict(gate)
    at = f" in stage {status['at']}" if status["at"] else ""
    so_far = f"{status['done']} of {status['of']} stages are done"
    again = "the same command goes on from there"
    if status["word"] == "failed":
        why = f": {status['error']}" if status["error"] else ""
        return {"tone": "bad", "word": "failed", "sentence": f"The run failed{at}{why}. {so_far}; {again}."}
    if status["word"] == "cut off":
        return {"tone": "warning", "word": "cut off", "sentence": f"The run was killed{at}. {so_far}; {again}."}
    if status["word"] == "stopped":
        return {"tone": "warning", "word": "stopped", "sentence": f"The run was stopped{at}. {so_far}; {again}."}
    if status["word"] == "running":
        return {"tone": "note", "word": "running", "sentence": f"The run is under way{at}. {so_far}."}
    if status["word"] == "finished":
        return {
            "tone": "good",
            "word": "finished",
            "sentence": f"{_all_of(status['of'])} finished{'' if is_data_only(data) else '; no gate was asked for'}.",
        }
    return {"tone": "note", "word": "not started", "sentence": "Nothing has been run yet."}


def _all_of(stages: int) -> str:
    return "The stage" if stages == 1 else "Both stages" if stages == 2 else f"All {stages} stages"


def is_data_only(data: Mapping[str, Any]) -> bool:
    """Whether the recipe makes data and no model: then nothing is said of models, scores and training."""
    kinds = {str(row.get("kind")) for row in data["stages"]}
    return bool(kinds) and kinds <= DATA_KINDS


def _gate_verdict(gate: Mapping[str, Any]) -> dict[str, str]:
    criteria = gate["criteria"]
    candidate = gate.get("candidate") or "the candidate"
    passed = sum(row.get("verdict") == "pass" for row in criteria)
    held = f"{passed} of {len(criteria)} criteria hold"
    if gate.get("released"):
        return {"tone": "good", "word": "released", "sentence": f"{candidate} is released: {held}."}
    failing = [str(row.get("what") or row.get("id")) for row in criteria if row.get("verdict") != "pass"]
    why = "; ".join(failing[:3]) + (f" and {len(failing) - 3} more" if len(failing) > 3 else "")
    is_open = gate.get("verdict") == "undecided"
    word = "undecided" if is_open else "not released"
    because = "the evidence does not decide" if is_open else "refused"
    sentence = f"{candidate} is not released ({because}): {held}. Open: {why}."
    return {"tone": "warning" if is_open else "bad", "word": word, "sentence": sentence}


def _facts(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The few numbers on top: (label, value, note)."""
    facts: list[tuple[str, str, str]] = []
    models = [row for row in data["models"] if row["kind"] != "reward"]
    if models and models[0]["parameters"]:
        facts.append(("model", f"{short_number(models[0]['parameters'])}", "parameters"))
    tokens = [
        _last(data["curves"].get(row["name"], {}), "tokens") for row in data["stages"] if row["kind"] == "pretrain"
    ]
    trained = [row["trained_tokens"] for row in models if row["kind"] == "pretrain" and row["trained_tokens"]]
    if trained or any(tokens):
        facts.append(("pre-training", short_number(trained[0] if trained else tokens[0]), "tokens"))
    accuracy = data["accuracy"]
    known = [name for name in ("base", "sft", "dpo", "ppo") if name in accuracy and "overall" in accuracy[name]]
    if known:
        steps = " → ".join(f"{100 * accuracy[name]['overall']['value']:.0f} %" for name in known)
        facts.append(("exact accuracy", steps, " → ".join(known)))
    planned = [row["planned_seconds"] for row in data["stages"] if row["status"] == "done" and row["planned_seconds"]]
    note = f"planned {duration(sum(planned))}" if planned else "all stages together"
    facts.append(("time", duration(data["status"]["seconds"]), note))
    facts.append(("stages", f"{data['status']['done']} of {data['status']['of']}", data["status"]["word"]))
    return facts


def _last(curves: Mapping[str, Any], name: str) -> float | None:
    points = curves.get(name) or []
    return float(points[-1][1]) if points else None


def _criterion(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "id": str(row.get("id", "")),
        "what": str(row.get("what", "")),
        "statistic": str(row.get("statistic") or ""),
        "value": _with_interval(row),
        "bound": _plain_number(row.get("bound")),
        "verdict": str(row.get("verdict", "")),
        "level": {"pass": "good", "fail": "bad"}.get(str(row.get("verdict")), "warning"),
        "evidence": str(row.get("evidence") or ""),
        "why": str(row.get("why") or row.get("reason") or ""),
    }


def _with_interval(row: Mapping[str, Any]) -> str:
    value, low, high = row.get("value"), row.get("low"), row.get("high")
    text = _plain_number(value)
    if isinstance(low, int | float) and isinstance(high, int | float):
        text += f" [{_plain_number(low)}, {_plain_number(high)}]"
    return text


def _plain_number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return short_number(value)


def _model(row: Mapping[str, Any]) -> dict[str, Any]:
    config = row["config"]
    shape = (
        f"{config.get('num_hidden_layers', '?')} layers × {config.get('hidden_size', '?')}, "
        f"{config.get('num_attention_heads', '?')} heads ({config.get('num_key_value_heads', '?')} key/value), "
        f"vocabulary {integer(config.get('vocab_size'))}"
    )
    return {
        **row,
        "how": STAGE_KINDS.get(row["kind"], row["kind"]),
        "shape": shape,
        "parameters": integer(row["parameters"]),
        "weights": size(row["weights_bytes"]),
        "steps": integer(row["steps"]),
        "tokens": short_number(row["trained_tokens"]),
    }


def commands(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """What to type: chat, resume, reproduce, and read the same numbers in other ways."""
    folder = data["folder"].rstrip("/")
    chat = [row for row in data["models"] if row["kind"] in ("sft", "dpo", "ppo")]
    candidate = (data["gate"] or {}).get("candidate")
    chosen = next((row for row in chat if row["stage"] == candidate), chat[-1] if chat else None)
    home, _, name = folder.rpartition("/")
    elsewhere = "" if home == "runs" and name == data["run"] else f" --runs {shlex.quote(home or '.')}"
    run = f"{command_name()} run {shlex.quote(f'{folder}/recipe.yaml')}{elsewhere}"
    rows = []
    if chosen is not None:
        rows.append(
            {
                "what": f"chat with {chosen['stage']}",
                "command": f"{command_name()} chat {shlex.quote(folder)}/{chosen['stage']}",
            }
        )
    for stage in (row["name"] for row in data["stages"] if row["kind"] == "corpus" and row["status"] == "done"):
        corpus = shlex.quote(f"{folder}/{stage}")
        rows += [
            {"what": f"look at {stage}: funnel, rules, rates", "command": f"{command_name()} data stats {corpus}"},
            {"what": "the fate of one document", "command": f"{command_name()} data why DOC_ID {corpus}"},
            {"what": "read it in Python", "command": f"datasets.load_dataset({f'{folder}/{stage}'!r})"},
        ]
    if data["status"]["word"] in ("failed", "stopped", "cut off"):
        rows.append({"what": "go on where it stopped", "command": run})
    again = f"{command_name()} run {shlex.quote(f'{folder}/recipe.yaml')} name={shlex.quote(data['run'] + '-again')}"
    rows.append({"what": "do it again from nothing, with the same settings and seeds", "command": again})
    rows.append(
        {"what": "all numbers of this page as JSON", "command": f"{command_name()} report {shlex.quote(folder)} --json"}
    )
    rows.append({"what": "what was made from what", "command": f"{command_name()} lineage {shlex.quote(folder)}"})
    return rows


# ---------------------------------------------------------------- samples


def _samples(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": sample["prompt"],
            "said": [{"stage": name, "text": text.strip()} for name, text in sample["completions"].items()],
        }
        for sample in data["samples"]
    ]


# ---------------------------------------------------------------- training, audit


def _training(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = {row["name"]: row for row in data["stages"]}
    cards = [training_card(rows[name], curves, data["health"].get(name)) for name, curves in data["curves"].items()]
    return [card for card in cards if card["charts"] or card["status"] != "waiting"]


def _audit(name: str, audit: Mapping[str, Any]) -> dict[str, Any]:
    """Counts as rows, and examples as runs of text with `trained` set or not."""
    facts = [
        (key.replace("_", " "), _plain_number(value)) for key, value in audit.items() if isinstance(value, int | float)
    ]
    nested = [
        (f"{key.replace('_', ' ')}: {inner}", _plain_number(value))
        for key, part in audit.items()
        if isinstance(part, Mapping)
        for inner, value in part.items()
        if isinstance(value, int | float)
    ]
    examples = [
        _example(row) for row in audit.get("examples") or audit.get("rows_shown") or [] if isinstance(row, Mapping)
    ]
    return {"stage": name, "facts": facts + nested, "examples": [row for row in examples if row][:3]}


def _example(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    pieces: list[dict[str, Any]] = []
    for token in row.get("tokens") or row.get("pieces") or row.get("spans") or []:
        text, trained = _token(token)
        if pieces and pieces[-1]["trained"] == trained and len(pieces[-1]["text"]) < 2000:
            pieces[-1]["text"] += text
        else:
            pieces.append({"text": text, "trained": trained})
    return pieces[:400]


def _token(token: Any) -> tuple[str, bool]:
    if isinstance(token, Mapping):
        return str(token.get("text", token.get("token", ""))), bool(token.get("trained"))
    return str(token[0]), bool(token[1])


# ---------------------------------------------------------------- configuration, environment, trouble


def _config(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    by_stage: dict[str, list[dict[str, str]]] = {}
    for row in data["config"]["values"]:
        value = row["value"]
        shown = value if isinstance(value, str) else _compact(value)
        is_default = row["origin"] in ("", "default")
        by_stage.setdefault(row["stage"], []).append(
            {"key": row["key"], "value": shown, "origin": row["origin"], "is_default": str(is_default)}
        )
    return [{"stage": name, "rows": rows} for name, rows in by_stage.items()]


def _compact(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _environment(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("seed", _plain_number(data["seed"]))] if data["seed"] is not None else []
    for key, value in data["environment"].items():
        name = key.replace("_", " ")
        if isinstance(value, Mapping):
            rows.append((name, ", ".join(f"{one} {version}" for one, version in value.items())))
        elif key.endswith("_bytes") and isinstance(value, int | float):
            rows.append((name.removesuffix(" bytes"), size(value)))
        else:
            rows.append((name, value if isinstance(value, str) else _compact(value)))
    return rows


def _trouble(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """What went wrong on the way, from every source that says so: events, failures, sources, health, files."""
    rows: list[dict[str, str]] = []
    for event in data["events"]:
        if event.get("what") in ("started", "finished"):
            continue
        time = str(event.get("time") or event.get("at") or "")
        what = event.get("what") or event.get("message") or event.get("event") or ""
        name = str(event.get("event") or event.get("kind") or "")
        text = f"{name}: {what}" if name and name != what else str(what)
        rows.append({"level": "note", "where": str(event.get("stage", "")), "what": text, "time": time})
    for row in data["stages"]:
        if row["status"] in ("failed", "stopped"):
            level = "bad" if row["status"] == "failed" else "warning"
            rows.append({"level": level, "where": row["name"], "what": str(row["error"] or row["status"]), "time": ""})
    rows += [{"level": "warning", **row, "time": ""} for row in unreachable_sources(data)]
    for stage, health in data["health"].items():
        if LEVEL_OF.get(str(health.get("verdict")), "note") in ("warning", "bad"):
            rows.append(
                {"level": "warning", "where": stage, "what": f"training health: {health['verdict']}", "time": ""}
            )
    rows += [
        {"level": "warning", "where": "", "what": f"could not be read: {line}", "time": ""}
        for line in data["unreadable"]
    ]
    return rows


def unreachable_sources(data: Mapping[str, Any]) -> Sequence[dict[str, str]]:
    """Sources and exams of the corpus that could not be had."""
    from groundup.report.data_view import source_rows

    unread = [row for row in data["exams"] or () if isinstance(row, Mapping) and row.get("status") != "used"]
    return [
        {"where": "corpus", "what": f"not decontaminated against {row.get('name')}: {row.get('reason')}"}
        for row in unread
    ] + [
        {"where": row["name"], "what": f"source not used: {row['status']} {row['why']}".strip()}
        for row in source_rows(data["sources"])
        if not row["is_used"]
    ]
