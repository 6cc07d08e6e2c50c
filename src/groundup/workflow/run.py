"""Running a recipe: skip what is fresh, go on where it was cut off, stop at the first failure, end with the report.

What is fresh is decided in `freshness.py`: changing a setting runs that stage again, and what follows from it.
"""

from __future__ import annotations

import errno
import importlib
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groundup.artifacts import (
    Artifact,
    StageContext,
    StageResult,
    artifact_or_none,
    disk_error,
    finish_artifact,
    write_atomic,
    write_json,
)
from groundup.console import Console, duration
from groundup.environment import environment
from groundup.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, Stopped, UserError
from groundup.recipe import Recipe, Stage, settings_data
from groundup.recipe.text import origins, resolved_yaml
from groundup.runs import WORK, cache_folder, newest_step, runs_home
from groundup.stopping import StopRequest, listening_for_signals
from groundup.train import checkpoint_files
from groundup.workflow import run_folder as folders
from groundup.workflow.freshness import fresh_artifact, input_fingerprints, stage_fingerprint
from groundup.workflow.processes import Processes

ReportBuilder = Callable[[Path], Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `built` are the stages that ran, `fresh` those that were done already."""

    exit_code: int
    folder: Path
    built: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    report: Path | None = None


@dataclass
class _Run:
    """What the steps of one run share."""

    recipe: Recipe
    folder: Path
    console: Console
    stop: StopRequest
    state: folders.RunState
    cache: Path
    debug: bool
    processes: Processes
    built: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    exit_code: int = EXIT_DONE  # the last that a stage asked for: 3 where the gate refused


def run_recipe(
    recipe: Recipe,
    *,
    home: Path | None = None,
    only: Sequence[str] = (),
    fresh: bool = False,
    console: Console | None = None,
    cache: Path | None = None,
    report: ReportBuilder | None = None,
    before: Callable[[Path], None] | None = None,
    debug: bool = False,
    processes: Processes | None = None,
) -> Outcome:
    """Run a recipe (or the stages `only` and what they need) in `home/NAME`; the same call again goes on.

    `fresh` builds the named stages (all where none is named) anew. `before` is called once the folder is ours and
    before any stage runs: the place of the checks and the plan. Raises UserError for what is wrong before anything
    ran; what goes wrong in a stage is told, kept in `run.log` and `state.json`, and is the outcome's exit code.
    """
    stages = recipe.with_needs(only)
    folder = (home or runs_home()) / recipe.name
    console = console or Console()
    anew = set(only or recipe.stages) if fresh else set()
    log = folder / "run.log"
    with (
        _telling_disk_errors(folder),
        folders.locked(folder),
        _logging_to(log, console),
        listening_for_signals() as stop,
    ):
        folders.mend(folder)
        console.info(opening_line(recipe, stages, folder, anew))
        _write_record(recipe, folder)
        if before is not None:
            before(folder)
        with folders.RunState(folder, recipe.name, list(recipe.stages)) as state:
            run = _Run(recipe, folder, console, stop, state, cache or cache_folder(), debug, processes or Processes())
            try:
                _run_stages(run, stages, anew)
            except (Stopped, KeyboardInterrupt) as stopped:
                exit_code = stopped.exit_code if isinstance(stopped, Stopped) else EXIT_INTERRUPTED
                state.end("stopped", exit_code=exit_code)
                why = str(stopped) or "finished stages and checkpoints are kept"
                console.tell(f"stopped: {why}\n  -> run the same command to go on")
                _report(run, report)
                return Outcome(exit_code, folder, tuple(run.built), tuple(run.fresh))
            except _Failed as failed:
                state.end("failed", exit_code=failed.exit_code, error=str(failed))
                _report(run, report)
                return Outcome(failed.exit_code, folder, tuple(run.built), tuple(run.fresh))
            state.end("done", exit_code=run.exit_code)
            path = _report(run, report)
    return Outcome(run.exit_code, folder, tuple(run.built), tuple(run.fresh), path)


@contextmanager
def _telling_disk_errors(folder: Path) -> Iterator[None]:
    """A full or read-only disk on which not even the run's own records can be written is the person's to mend."""
    try:
        yield
    except OSError as error:
        path = Path(error.filename or folder).absolute()
        is_ours = path.is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(path)
        told = disk_error(error, folder) if is_ours else error
        if told is error:
            raise
        raise told from error


@contextmanager
def _logging_to(path: Path, console: Console) -> Iterator[None]:
    with open(path, "a", encoding="utf-8") as log:
        before, console.log = console.log, log
        console.log_only(f"---- {folders.now()}")
        try:
            yield
        except BaseException as error:
            console.log_only("".join(traceback.format_exception(error)))
            raise
        finally:
            console.log = before


def _write_record(recipe: Recipe, folder: Path) -> None:
    """What is wanted, and on what machine: kept beside the results."""
    write_atomic(folder / "recipe.yaml", resolved_yaml(recipe, folder))
    write_json(folder / "origins.json", origins(recipe))
    write_json(folder / "env.json", environment())


# ---------------------------------------------------------------- the stages, one after the other


def _run_stages(run: _Run, stages: Sequence[Stage], anew: set[str]) -> None:
    outputs: dict[str, Artifact] = {}
    for number, stage in enumerate(stages, 1):
        run.stop.raise_if_set("finished stages are kept")
        inputs = input_fingerprints(stage, {name: made.output_fingerprint for name, made in outputs.items()})
        fingerprint = stage_fingerprint(stage, inputs)
        artifact = None if stage.name in anew else fresh_artifact(run.folder / stage.name, fingerprint)
        if artifact is not None:
            run.fresh.append(stage.name)
        else:
            run.console.info(f"[{number}/{len(stages)}] {stage.name}  {stage.kind.summary}")
            if stage.name in anew:
                folders.Work(run.folder / WORK / stage.name, "").discard()
            artifact = _build(run, stage, inputs, fingerprint)
            run.built.append(stage.name)
        outputs[stage.name] = artifact
        run.exit_code = artifact.exit_code or run.exit_code
        run.state.stage(stage.name, status="done", seconds=artifact.seconds)


def _build(run: _Run, stage: Stage, inputs: dict[str, str], fingerprint: str) -> Artifact:
    """Run one stage in its work folder and put the finished artifact into place."""
    left = folders.unfinished_work(run.folder, stage.name)
    under_way = stage_fingerprint(stage, inputs, is_under_way=True)
    if left is not None and left.fingerprint != under_way and newest_step(left.folder):
        run.console.info(f"  {stage.name} or what it reads has changed: its unfinished work is started anew")
    work = folders.open_work(run.folder, stage.name, under_way)
    final = run.folder / stage.name
    if (artifact := fresh_artifact(work.folder, fingerprint)) is None:
        if artifact_or_none(work.folder) is not None:  # finished, with another value of what may change under way
            work.discard()
            work = folders.open_work(run.folder, stage.name, under_way)
        work.processes = run.processes.size_for(stage, run.folder, before=work.processes)
        work.save(work.seconds_before)  # a kill leaves no later moment to say in how many it was begun
        run.state.start_clock(work)
        run.state.stage(stage.name, status="running", resumes=work.resumes)
        _event(run, stage.name, f"resumed at step {newest_step(work.folder)}" if work.resumes else "started")
        artifact = _run_one(run, stage, work, inputs, fingerprint)
        run.console.info(f"  {stage.name} done in {duration(artifact.seconds)}")
        _event(run, stage.name, "finished")
    if not getattr(stage.settings, "keep_checkpoints", False):  # the artifact is whole: nothing is left to resume
        checkpoint_files.clear(work.folder / "checkpoints")
    folders.publish(work, final)
    return replace(artifact, path=final)


def _run_one(run: _Run, stage: Stage, work: folders.Work, inputs: dict[str, str], fingerprint: str) -> Artifact:
    try:
        context = stage_context(run, stage, work.folder)
        with run.processes.together(stage, context, work.processes or 1) as (settings, context):
            result = stage.kind.run_function()(settings, context)
        if not isinstance(result, StageResult):
            raise TypeError(f"{stage.kind.name}'s run returned {type(result).__name__}, not a StageResult")
        for half in work.folder.rglob(".*.tmp"):  # what an earlier kill left of an atomic write
            half.unlink()
        return finish_artifact(
            work.folder,
            kind=stage.kind.name,
            name=stage.name,
            settings=settings_data(stage.settings),
            inputs=inputs,
            fingerprint=fingerprint,
            result=result,
            seconds=run.state.stop_clock(),
        )
    except (Stopped, KeyboardInterrupt):
        run.state.stage(stage.name, status="stopped", seconds=_stop_clock(run))
        _event(run, stage.name, f"stopped at step {newest_step(work.folder)}")
        raise
    except Exception as error:
        failed = _tell_failure(run, stage, error)
        run.state.stage(stage.name, status="failed", seconds=_stop_clock(run), error=str(failed))
        _event(run, stage.name, f"failed: {str(failed).splitlines()[0]}")
        raise failed from error


def _stop_clock(run: _Run) -> float | None:
    return round(run.state.stop_clock(), 3) if run.state.work is not None else None


class _Failed(Exception):  # noqa: N818 - carries the failure of a stage to the end of the run
    def __init__(self, text: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(text)


def _tell_failure(run: _Run, stage: Stage, error: Exception) -> _Failed:
    """Say what failed, where the log is and how to go on; the traceback goes to the log."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = disk_error(error, run.folder / WORK / stage.name)  # type: ignore[assignment]
    elif isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ESTALE, errno.EIO) and error.filename:
        what = f"{Path(error.filename).name} cannot be read or written any more: {error.strerror}"
        fix = "bring the disk or the folder back; finished stages and checkpoints are kept"
        error = UserError(what, where=str(Path(error.filename).parent), fix=fix, exit_code=EXIT_FAILED)
    run.console.log_only("".join(traceback.format_exception(error)))
    if isinstance(error, UserError):
        text, exit_code = str(error), error.exit_code
    else:
        text, exit_code = f"{type(error).__name__}: {error}".rstrip(": "), EXIT_FAILED
        if run.debug:
            run.console.info("".join(traceback.format_exception(error)))
    run.console.tell(
        f"stage {stage.name} failed\n{text}\n\n"
        f"finished stages are kept: mend it, then run the same command to go on (log: {run.folder / 'run.log'})"
    )
    return _Failed(text, exit_code)


def _report(run: _Run, builder: ReportBuilder | None) -> Path | None:
    """The report of whatever there is. It never hides how the run ended: its own failure is only told."""
    try:
        if builder is None:
            builder = importlib.import_module("groundup.report.build").build_report
        builder(run.folder)
    except Exception as error:
        run.console.warn(f"the report could not be made: {type(error).__name__}: {error}")
        run.console.log_only(traceback.format_exc())
        return None
    path = run.folder / "report.html"
    return path if path.is_file() else None


def _event(run: _Run, stage: str, what: str) -> None:
    with open(run.folder / "events.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"time": folders.now(), "stage": stage, "what": what}) + "\n")


def stage_context(run: _Run, stage: Stage, folder: Path) -> StageContext:
    return StageContext(
        name=stage.name,
        folder=folder,
        inputs=input_folders(stage, run.folder),
        seed=stage.seed,
        cache=run.cache,
        console=run.console,
        stop=run.stop,
        run_folder=run.folder,
    )


def input_folders(stage: Stage, run_folder: Path) -> dict[str, Path]:
    """Each value that names something the stage reads -> the folder or file it stands for."""
    found: dict[str, Path] = {}
    for one in stage.references:
        if one.stage is not None:
            found[one.value] = run_folder / one.stage
        elif one.path is not None:
            found[one.value] = one.path
    return found


# ---------------------------------------------------------------- words


def opening_line(recipe: Recipe, stages: Sequence[Stage], run_folder: Path, anew: set[str]) -> str:
    """The first thing a run says: what is done, what resumes and from which step, what starts."""
    done: list[str] = []
    resumes: list[str] = []
    outputs: dict[str, str] = {}
    for stage in stages:
        if any(need not in outputs for need in stage.needs):
            continue  # whether it is fresh shows when what it reads has been built
        fingerprint = stage_fingerprint(stage, input_fingerprints(stage, outputs))
        artifact = None if stage.name in anew else fresh_artifact(run_folder / stage.name, fingerprint)
        left = folders.unfinished_work(run_folder, stage.name)
        under_way = stage_fingerprint(stage, input_fingerprints(stage, outputs), is_under_way=True)
        if artifact is not None:
            outputs[stage.name] = artifact.output_fingerprint
            done.append(stage.name)
        elif left is not None and left.fingerprint == under_way and stage.name not in anew:
            step = newest_step(left.folder)
            resumes.append(f"{stage.name} resumes from step {step:,}" if step else f"{stage.name} goes on")
    if len(done) == len(stages):
        what = f"all {len(stages)} stages are" if len(stages) != 1 else "its stage is"
        return f"{recipe.name}: {what} done in {run_folder}; --fresh starts anew"
    if done or resumes:
        parts = [f"{', '.join(done)} done"] if done else []
        return f"{recipe.name}: going on in {run_folder}: {'; '.join(parts + resumes)}"
    count = f"{len(stages)} stages" if len(stages) != 1 else "1 stage"
    return f"{recipe.name}: {count} in {run_folder}"
