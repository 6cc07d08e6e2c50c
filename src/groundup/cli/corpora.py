"""`groundup data stats`, `why` and `card`: what lies in a finished corpus, as tables and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.artifacts import Artifact, artifact_or_none, read_json, write_atomic
from groundup.cli.verbs import find_run, print_json
from groundup.console import byte_text, table
from groundup.errors import UserError
from groundup.recipe import one_of
from groundup.runs import cache_folder

MOST_NAMES = 10


def find_corpus(name: str, home: Path | None, stage_name: str | None) -> Path:
    """The folder of a finished corpus: itself, or a run's only corpus stage, or the one that is named."""
    if (Path(name) / "funnel.json").is_file():
        return Path(name)
    run = find_run(name, home)
    folders = {one.parent.name: one.parent for one in sorted(run.glob("*/funnel.json"))}
    if stage_name in folders:
        return folders[stage_name]
    if stage_name is None and len(folders) == 1:
        return next(iter(folders.values()))
    if not folders:
        raise UserError(
            "no corpus of this run is finished", where=str(run), fix="`groundup data preview RECIPE` shows one before"
        )
    what = f"no corpus is called '{stage_name}'" if stage_name else "several corpora are there"
    raise UserError(what, where=str(run), fix=f"add --stage; {one_of('corpora', folders)}")


def _settings(folder: Path) -> dict[str, Any]:
    artifact: Artifact | None = artifact_or_none(folder)
    return dict(artifact.settings) if artifact is not None else {}


def _json_of(folder: Path, name: str) -> Any:
    path = folder / name
    return read_json(path) if path.is_file() else None


# ---------------------------------------------------------------- card


def show_card(name: str, *, home: Path | None, stage_name: str | None, output: Path | None, as_json: bool) -> None:
    from groundup.corpus.report.card import card_data, card_text

    folder = find_corpus(name, home, stage_name)
    title, settings = folder.name, _settings(folder)
    if as_json:
        print_json(card_data(folder, title))
        return
    text = card_text(folder, title, settings)
    if output is None:
        print(text, end="")
    else:
        write_atomic(output, text)
        print(output)


# ---------------------------------------------------------------- stats


def show_stats(
    name: str,
    *,
    home: Path | None,
    stage_name: str | None,
    source: str | None,
    rule: str | None,
    as_json: bool,
) -> None:
    folder = find_corpus(name, home, stage_name)
    funnel, stats = _json_of(folder, "funnel.json"), _json_of(folder, "stats.json") or {}
    timing, mixture = _json_of(folder, "timing.json") or {}, _json_of(folder, "mixture.json") or {}
    if source is not None and source not in funnel["sources"]:
        raise UserError(f"no source is called '{source}'", fix=one_of("sources", funnel["sources"]))
    if as_json:
        print_json({"corpus": str(folder), "funnel": funnel, "stats": stats, "mixture": mixture, "timing": timing})
        return
    one = funnel["sources"][source] if source else funnel["total"]
    counted = (stats.get("sources") or {}).get(source, {}) if source else stats.get("total") or {}
    if rule is not None:
        _print_rule(rule, counted.get("rules") or {})
        return
    kept, held, came = one["kept"], one["held_out"], one["in"]
    share = kept["documents"] / came["documents"] if came["documents"] else 0.0
    print(
        f"{source or 'all sources'}: {kept['documents']:,} of {came['documents']:,} documents for training "
        f"({100 * share:.1f} %), {byte_text(kept['bytes'])}; {held['documents']:,} held out\n"
    )
    _print_funnel(one)
    _print_rules(counted.get("rules") or {})
    _print_counters(counted.get("counters") or {})
    if not source:
        _print_mixture(mixture)
        _print_clusters(stats.get("clusters") or {})
        _print_published(stats.get("published") or [], share)
        _print_timing(timing)


def _print_funnel(one: Mapping[str, Any]) -> None:
    from groundup.corpus.report.funnel import folded, told_notes

    rows = []
    for step in one["steps"]:
        into, out = step["in"]["documents"], step["out"]["documents"]
        notes = told_notes(step)
        if into != out or step["step"] == "read" or notes:
            rows.append([step["step"], "", f"{into:,}", f"{into - out:,}", _percent(into - out, into)])
        rows += [["", f"({note})", "", "", ""] for note in notes]
        for reason, number in folded(step["dropped"]):
            rows.append(["", reason, "", f"{number:,}", _percent(number, into)])
    print(table(["step", "reason", "came", "dropped", "share"], rows, right=(2, 3, 4)))


def _print_rules(rules: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        [
            rule["rule"],
            _question(rule),
            f"{rule['asked']:,}",
            f"{rule['counted']:,}",
            f"{rule['alone']:,}",
            f"+{rule['gained']:,} at {rule['looser']:g}" if rule["threshold"] else "",
            f"-{rule['lost']:,} at {rule['stricter']:g}" if rule["threshold"] else "",
        ]
        for rule in sorted(rules.values(), key=lambda one: (-one["counted"], -one["failed"], one["rule"]))
        if rule["failed"] or rule["lost"]
    ]
    if rows:
        head = ["rule", "asks that", "asked", "dropped", "only it", "one notch looser", "one notch stricter"]
        print("\n" + table(head, rows, right=(2, 3, 4, 5, 6)))


def _question(rule: Mapping[str, Any]) -> str:
    return f"{rule['signal']} {'>=' if rule['is_least'] else '<='} {rule['threshold']:g}"


def _print_rule(words: str, rules: Mapping[str, Mapping[str, Any]]) -> None:
    """The documents on both sides of the thresholds of the rules whose name has these words."""
    found = [rule for rule in rules.values() if words.lower() in str(rule["rule"]).lower()]
    if not found:
        names = sorted({str(rule["rule"]) for rule in rules.values()})
        raise UserError(f"no rule has '{words}' in its name", fix=one_of("rules", names))
    for rule in found:
        print(f"{rule['rule']} ({_question(rule)}): {rule['counted']:,} of {rule['asked']:,} dropped")
        for side, key in (("dropped, just outside", "dropped_examples"), ("kept, just inside", "kept_examples")):
            print(f"  {side}:")
            for one in rule[key]:
                also = f"  (also: {', '.join(one['also'])})" if one.get("also") else ""
                print(f"    {one['value']:g}  {one['id']}{also}\n      {' '.join(one['excerpt'].split())[:160]}")
        print()


def _print_counters(counters: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
    for title, group in (
        ("language", "languages written"),
        ("licence", "licenses written"),
        ("domain", "domains written"),
    ):
        names = counters.get(group) or {}
        rows = [
            [name, f"{documents:,}", byte_text(bytes)]
            for name, (documents, bytes) in sorted(names.items(), key=lambda item: (-item[1][0], item[0]))[:MOST_NAMES]
        ]
        if rows:
            more = f"\n... and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
            print("\n" + table([title, "documents", "text"], rows, right=(1, 2)) + more)
    rows = [
        [group, name, f"{number:,}"]
        for group in ("personal data", "secrets", "toxicity", "exams")
        for name, (number, _) in sorted((counters.get(group) or {}).items())
    ]
    if rows:
        print("\n" + table(["found", "type", "times"], rows, right=(2,)))


def _print_mixture(mixture: Mapping[str, Any]) -> None:
    rows = [
        [
            name,
            byte_text(row["bytes"]),
            _percent(row["share_of_bytes"], 1),
            _percent(row["target_share"], 1),
            _percent(row["realised_share"], 1),
            f"{row['epochs']:.2f}{' (capped)' if row['capped'] else ''}",
        ]
        for name, row in (mixture.get("sources") or {}).items()
    ]
    if rows:
        head = ["mixture", "text", "of all text", "wanted", "in training", "epochs"]
        print("\n" + table(head, rows, right=(1, 2, 3, 4, 5)))


def _print_clusters(clusters: Mapping[str, Mapping[str, int]]) -> None:
    rows = [
        [step, f"{sum(sizes.values()):,}", f"{max(map(int, sizes)):,}"]
        for step, sizes in clusters.items()
        if sizes and max(map(int, sizes)) > 1
    ]
    if rows:
        print("\n" + table(["duplicates", "clusters", "largest"], rows, right=(1, 2)))


def _print_published(published: Sequence[Mapping[str, Any]], share: float) -> None:
    if published:
        rows = [["here", f"{100 * share:.1f} %", "documents of all sources", ""]]
        rows += [[row["name"], f"{100 * row['kept']:.1f} %", row["of"], row["source"]] for row in published]
        print("\n" + table(["kept by", "share", "of", "says"], rows, right=(1,)))


def _print_timing(timing: Mapping[str, Any]) -> None:
    steps = timing.get("steps")
    if not isinstance(steps, Mapping):
        return
    rows = [
        [
            name,
            f"{row['tasks']:,}",
            byte_text(row["bytes_in"]),
            f"{row['cpu_seconds']:,.1f} s",
            f"{row['bytes_in'] / 1e6 / row['cpu_seconds']:,.1f} MB/s" if row["cpu_seconds"] and row["bytes_in"] else "",
            byte_text(row["peak_bytes"]),
        ]
        for name, row in steps.items()
    ]
    print("\n" + table(["step", "tasks", "read", "CPU", "a core", "peak memory"], rows, right=(1, 2, 3, 4, 5)))
    if not timing.get("peak_is_own"):
        print("Peak memory is that of the process so far: of a small step it may be an earlier one's.")
    for line in timing.get("told") or []:
        print(line)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


# ---------------------------------------------------------------- why


def show_why(
    document: str, name: str, *, home: Path | None, stage_name: str | None, read_source: bool, as_json: bool
) -> None:
    from groundup.corpus.report.why import why

    folder = find_corpus(name, home, stage_name)
    found = why(folder, document, _settings(folder), cache_folder(), read_source=read_source)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False, default=str))
        return
    print(
        f"{found['id']}  (source {found['source']}{', ' + found['url'] if found['url'] else ''})\n{found['verdict']}\n"
    )
    print(table(["step", "what happened"], [[step["step"], step["what"]] for step in found["steps"]]))
    if found["checks"]:
        rows = [
            [
                "x" if check["fails"] else "",
                check["rule"],
                f"{check['signal']} {'>=' if check['is_least'] else '<='} {check['threshold']:g}",
                f"{check['value']:.4g}",
            ]
            for check in found["checks"]
        ]
        print(f"\n{found['measured_on']}\n" + table(["fails", "rule", "asks that", "value"], rows, right=(3,)))
    if found["replaced"] is not None:
        rows = [[one["placeholder"], f"{one['start']:,}", one["original"], one["detail"]] for one in found["replaced"]]
        print("\nin the audit's sample; what was replaced in it is personal data, do not pass it on")
        print(table(["placeholder", "at character", "original", "kind"], rows, right=(1,)) if rows else "nothing")
    for title, text in (
        ("text", found["text"]),
        (f"dropped for {found['other'].get('id')}", found["other"].get("text")),
    ):
        if text:
            print(f"\n--- {title}\n{text[:1500]}{' ...' if len(text) > 1500 else ''}")
