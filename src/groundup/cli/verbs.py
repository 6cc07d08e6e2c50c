"""What the verbs do: recipes are checked and run, runs are listed and reported, keys are explained."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groundup.artifacts import write_atomic, write_json
from groundup.console import Console, byte_text, duration, rough_duration, table
from groundup.environment import command_name, free_disk_bytes, memory_bytes
from groundup.errors import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE, Problem, UserError
from groundup.recipe import KINDS, Kind, Recipe, did_you_mean, load_recipe, one_of, shipped_recipes
from groundup.recipe.errors import first_sentence
from groundup.recipe.text import Explained, all_keys, json_schema
from groundup.recipe.text import explain as explain_key
from groundup.runs import cache_folder, list_runs, runs_home
from groundup.workflow.preflight import Planner, Preflight, done_stages, estimate, preflight
from groundup.workflow.processes import Processes, parse_processes, processes_of_this_run
from groundup.workflow.run import Outcome, ReportBuilder, run_recipe
from groundup.workflow.torchrun import Group, help_main

MOST_DEFAULT = 40  # characters of a default in the table of a kind's keys
SHARED_BY = 8  # a key that more types than this have is told without naming them
IN_TABLE = ("trained_tokens", "disk_bytes", "memory_bytes", "seconds", "seconds_low", "seconds_high", "flops")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


# ---------------------------------------------------------------- running


def demo(
    overrides: Sequence[str], *, fresh: bool, home: Path | None, quiet: bool, debug: bool, processes: str = "1"
) -> int:
    if wrong := [word for word in overrides if "=" not in word]:
        raise UserError(f"demo takes settings only, not '{wrong[0]}'", fix="`groundup run demo STAGE` runs one stage")
    return run("demo", overrides, fresh=fresh, home=home, quiet=quiet, debug=debug, processes=processes)


def run(
    recipe_name: str,
    words: Sequence[str],
    *,
    fresh: bool = False,
    home: Path | None = None,
    quiet: bool = False,
    debug: bool = False,
    processes: str = "1",
    kinds: Mapping[str, Kind] = KINDS,
    report: ReportBuilder | None = None,
    planner: Planner = estimate,
) -> int:
    """`groundup run`: words with `=` are settings, the others stages. `processes`: a number, or auto.

    Under torchrun this is the main process, or one that helps it to train. Returns the exit code.
    """
    recipe = load_recipe(recipe_name, [word for word in words if "=" in word], kinds=kinds)
    only = [word for word in words if "=" not in word]
    wanted = parse_processes(processes)
    if Group.is_helper():
        return help_main()
    console = Console(quiet=quiet)
    with processes_of_this_run(wanted, console) as team:
        outcome = _run(recipe, only, team, console, fresh=fresh, home=home, debug=debug, report=report, planner=planner)
        team.exit_code = outcome.exit_code
    if outcome.exit_code in (EXIT_DONE, EXIT_REFUSED):
        _say_where(recipe, outcome)
    elif outcome.report is not None:
        print(f"report  {outcome.report}", file=sys.stderr)
    return outcome.exit_code


def _run(
    recipe: Recipe,
    only: Sequence[str],
    processes: Processes,
    console: Console,
    *,
    fresh: bool,
    home: Path | None,
    debug: bool,
    report: ReportBuilder | None,
    planner: Planner,
) -> Outcome:

    def before(run_folder: Path) -> None:
        stages = recipe.with_needs(only)
        done = done_stages(stages, run_folder)
        if not fresh and len(done) == len(stages):
            return  # nothing will run
        if problems := processes.problems([stage for stage in stages if stage.name not in done]):
            raise UserError(problems)
        console.info("checking inputs, time, memory and disk")
        checked = preflight(recipe, run_folder, cache_folder(), only, planner)
        write_json(run_folder / "plan.json", checked.plan)
        if checked.problems:
            raise UserError(checked.problems)
        for line in checked.warnings:
            console.warn(line)
        if checked.total("seconds") >= 1:
            note = f"; {said}" if (said := _machine_note(checked)) else ""
            console.info(f"estimated: {_time_range(checked)}, {byte_text(checked.total('disk_bytes'))} of disk{note}")

    return run_recipe(
        recipe,
        home=home,
        only=only,
        fresh=fresh,
        console=console,
        report=report,
        before=before,
        debug=debug,
        processes=processes,
    )


def _say_where(recipe: Recipe, outcome: Outcome) -> None:
    """The last lines of a run, on stdout: verdict, report, and how to talk to the model."""
    for stage in recipe.stages.values():
        decision = outcome.folder / stage.name / "decision.json"
        if stage.kind.name == "gate" and decision.is_file():
            verdict = json.loads(decision.read_text()).get("verdict", "undecided")
            said = {"released": "released", "refused": "not released"}.get(verdict, f"not released ({verdict})")
            print(f"gate    {said}: {getattr(stage.settings, 'candidate', stage.name)}")
    if outcome.report is not None:
        print(f"report  {outcome.report}")
    if any((outcome.folder / stage.name / "model" / "config.json").is_file() for stage in recipe.stages.values()):
        print(f"chat    {command_name()} chat {shlex.quote(str(outcome.folder))}")


# ---------------------------------------------------------------- checking


def check(
    recipe_name: str,
    overrides: Sequence[str],
    *,
    home: Path | None,
    as_json: bool,
    kinds: Mapping[str, Kind] = KINDS,
    planner: Planner = estimate,
) -> int:
    """`groundup check`: recipe mistakes raise; else a table of what the run will take, and what stands in its way."""
    recipe = load_recipe(recipe_name, overrides, kinds=kinds)
    run_folder = (home or runs_home()) / recipe.name
    checked = preflight(recipe, run_folder, cache_folder(), planner=planner)
    if as_json:
        print_json(checked.as_json())
    else:
        _print_preflight(checked, run_folder)
        if not checked.problems:
            start = f"{command_name()} run {shlex.join([recipe_name, *overrides])}"
            print(f"nothing stands in the way: `{start}` starts it")
    return EXIT_USAGE if checked.problems else EXIT_DONE


def _print_preflight(checked: Preflight, run_folder: Path) -> None:
    rows = []
    for row in checked.stages:
        tokens = row.facts.get("trained_tokens")
        rows.append(
            [
                row.stage,
                row.kind,
                f"{tokens:,}" if isinstance(tokens, int) else "",
                byte_text(row.planned("disk_bytes")),
                byte_text(row.planned("memory_bytes")),
                "done" if row.is_done else _about(row.planned("seconds")),
            ]
        )
    sums = [byte_text(checked.total(what)) for what in ("disk_bytes", "memory_bytes")]
    rows.append(["to do", "", "", *sums, _about(checked.total("seconds"))])
    print(table(["stage", "kind", "trained tokens", "disk", "memory", "time"], rows, right=(2, 3, 4, 5)))
    print(
        f"\nto do: {_time_range(checked)} (80 % interval). free: {byte_text(free_disk_bytes(run_folder))} of disk; "
        f"memory: {byte_text(memory_bytes())}"
    )
    if note := _machine_note(checked):
        print(note)
    for row in checked.stages:
        rest = [
            f"{key.replace('_', ' ')} {_short(value)}"
            for key, value in row.facts.items()
            if key not in IN_TABLE and value not in (None, {}, [], "")
        ]
        if rest:
            print(f"  {row.stage}: {', '.join(rest)}")
    for line in checked.warnings:
        print(f"warning: {line}", file=sys.stderr)
    if checked.problems:
        print("\n".join(map(str, checked.problems)), file=sys.stderr)


def _machine_note(checked: Preflight) -> str:
    """That the machine is busy, or that its speed is assumed; nothing where all is as measured."""
    return str((checked.plan.get("machine") or {}).get("note") or "")


def _about(seconds: float | None) -> str:
    return duration(seconds) if seconds is not None else ""


def _time_range(checked: Preflight) -> str:
    """`about 5 min (3 min to 10 min)`."""
    low, high = checked.total("seconds_low"), checked.total("seconds_high")
    span = f" ({rough_duration(low)} to {rough_duration(high)})" if high > low else ""
    return f"about {rough_duration(checked.total('seconds'))}{span}"


def _short(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value))
    return str(value)


# ---------------------------------------------------------------- recipes and keys


def list_recipes() -> None:
    rows = []
    for name, path in shipped_recipes().items():
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = next((line.lstrip("# ") for line in lines if line.startswith("#") and line.strip("# ")), "")
        rows.append([name, comment])
    print(table(["recipe", "what it does"], rows))


def init(name: str, output: Path | None, *, force: bool) -> None:
    """Copy a shipped recipe, comments and all."""
    shipped = shipped_recipes()
    name = name.removesuffix(".yaml")
    if name not in shipped:
        raise UserError(f"there is no recipe '{name}'{did_you_mean(name, shipped)}", fix=one_of("recipes", shipped))
    target = output or Path(f"{name}.yaml")
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.exists() and not force:
        raise UserError("the file exists already", where=str(target), fix="choose another with -o FILE, or add --force")
    write_atomic(target, shipped[name].read_text(encoding="utf-8"))
    print(f"wrote {target}\nnext: {command_name()} check {shlex.quote(str(target))}")


def explain(key: str, *, as_json: bool, kinds: Mapping[str, Kind] = KINDS) -> None:
    found, meant = explain_key(key, kinds)
    if not found:
        hint = f". Did you mean '{meant}'?" if meant else ""
        raise UserError(f"no stage has a key '{key}'{hint}", fix=one_of("kinds of stages", kinds))
    if as_json:
        print_json([asdict(row) for row in found])
        return
    if key in kinds:
        print(f"{key}: {kinds[key].summary}\n")
        print(table(["key", "default", "what it is"], [_explained(same) for same in _told_once(found)]))
        print(f"\n`{command_name()} config explain {key}.KEY` says more of one key, with its type and whole default")
        return
    for same in _same_but_for_kind(found):
        row = same[0]
        default = f"default {row.default}" if row.default else "needed"
        print(f"{row.key}  ({row.type}; {default})  in {', '.join(dict.fromkeys(one.kind for one in same))}")
        if row.help:
            print(f"  {row.help}")


def _told_once(rows: Sequence[Explained]) -> list[list[Explained]]:
    """Keys that groups of several types share stand together, with the first of them; so do the types themselves."""
    groups: dict[tuple[str, str, str], list[Explained]] = {}
    for row in rows:
        name = row.key.rpartition(".")[2]
        own = ("", "") if row.of_type and name == "type" else (row.default, row.help)
        groups.setdefault((row.key, *own), []).append(row)
    return list(groups.values())


def _explained(same: Sequence[Explained]) -> list[str]:
    """One line of the table: the key, its default (cut, where it is a whole group), its first sentence, whose it is."""
    row = same[0]
    default = row.default if len(row.default) <= MOST_DEFAULT else f"{row.default[: MOST_DEFAULT - 4]} ..."
    text = first_sentence(row.help) if row.help else " | ".join(one.type for one in same)
    types = [one.of_type for one in same if one.of_type]
    is_shared = len(types) > SHARED_BY or not types or row.key.endswith(".type")
    return [row.key, default or "(needed)", text if is_shared else f"{text} ({', '.join(types)})"]


def _same_but_for_kind(rows: Sequence[Explained]) -> list[list[Explained]]:
    groups: dict[tuple[str, str, str, str], list[Explained]] = {}
    for row in rows:
        groups.setdefault((row.key, row.type, row.default, row.help), []).append(row)
    return list(groups.values())


def schema() -> None:
    print_json(json_schema())


def complete(recipe_name: str | None, start: str) -> list[str]:
    """For the shell's completion: `STAGE` and `STAGE.KEY=` of a recipe that begin like this."""
    try:
        stages = load_recipe(recipe_name or "demo").stages
    except UserError:
        return []
    words = list(stages)
    if "." in start:
        rows = {stage.name: all_keys({stage.kind.name: stage.kind}) for stage in stages.values()}
        words = [f"{name}.{row.key}=" for name, keys in rows.items() for row in keys if "[" not in row.key]
    return [word for word in words if word.startswith(start)]


# ---------------------------------------------------------------- runs


def runs(*, home: Path | None, as_json: bool) -> None:
    home = home or runs_home()
    found = list_runs(home)
    if as_json:
        print_json([asdict(one) for one in found])
    elif not found:
        print(f"no runs in {home}/ yet: `{command_name()} demo` makes one", file=sys.stderr)
    else:
        rows = [
            [
                one.name,
                one.state,
                one.stage,
                f"{one.step:,}" if one.step else "",
                f"{one.done}/{one.of}",
                duration(one.seconds),
                one.verdict,
                one.started_at.replace("T", " ").removesuffix("Z"),
            ]
            for one in found
        ]
        head = ["run", "state", "stage", "step", "stages", "time", "verdict", "started (UTC)"]
        print(table(head, rows, right=(3, 4, 5)))


def find_run(name: str, home: Path | None) -> Path:
    """The folder of a run, by path or by name."""
    home = home or runs_home()
    for folder in (Path(name), home / name):
        if folder.is_dir() and ((folder / "state.json").is_file() or (folder / "recipe.yaml").is_file()):
            return folder
    known = [one.name for one in list_runs(home)]
    problem = Problem(
        f"there is no such run{did_you_mean(Path(name).name, known)}",
        name,
        one_of("runs", known) if known else "`groundup demo` makes one",
    )
    raise UserError([problem])


def report(name: str, *, home: Path | None, as_json: bool) -> None:
    folder = find_run(name, home)
    if as_json:
        from groundup.report.data import report_data

        print_json(report_data(folder))
        return
    from groundup.report.build import build_report

    print(build_report(folder))
