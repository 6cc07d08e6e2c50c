"""Running recipes with tiny stages: what is skipped, what resumes, what a kill leaves behind.

`python tests/test_workflow.py RECIPE HOME [WORD...]` runs a recipe with these stages: the tests that kill a run use it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import pytest

from groundup.artifacts import StageContext, StageResult, read_artifact, write_atomic, write_json
from groundup.console import Console, duration
from groundup.errors import UserError
from groundup.recipe import CorpusRef, FileRef, Kind, ModelRef, Presentation, StageSettings, load_recipe
from groundup.runs import list_runs, newest_step, summarise
from groundup.workflow import run_folder as folders
from groundup.workflow.run import Outcome, run_recipe

RUNS_OF_STAGES: list[str] = []
HELD_AT = "GROUNDUP_TEST_HELD_AT"


class WriteSettings(StageSettings):
    stage: Literal["corpus"] = "corpus"
    text: str = "words"
    source: FileRef | None = None
    shown: Annotated[int, Presentation()] = 1


class TrainSettings(StageSettings):
    stage: Literal["pretrain"] = "pretrain"
    corpus: CorpusRef
    steps: int = 3
    keep_checkpoints: Annotated[bool, Presentation()] = False
    milestone_steps: Annotated[int | None, Presentation()] = None
    step_seconds: float = 0.0
    fail_at: int | None = None


class JudgeSettings(StageSettings):
    stage: Literal["gate"] = "gate"
    model: ModelRef
    release: bool = True


def write(settings: WriteSettings, context: StageContext) -> StageResult:
    RUNS_OF_STAGES.append(context.name)
    text = settings.text if settings.source is None else context.input_folder(settings.source).read_text()
    (context.folder / "text.txt").write_text(text)
    return StageResult({"characters": len(text)})


def train(settings: TrainSettings, context: StageContext) -> StageResult:
    """Each step hashes the one before, so that the result tells whether a resume went on at the right place."""
    RUNS_OF_STAGES.append(context.name)
    text = (context.input_folder(settings.corpus) / "text.txt").read_text()
    state, step = f"{text}{context.seed}", newest_step(context.folder)
    if step:
        state = (context.folder / "checkpoints" / f"checkpoint-{step}" / "state").read_text()
    with context.stop.deferred():
        while step < settings.steps:
            if step == settings.fail_at:
                raise ValueError("the loss is not finite")
            step += 1
            state = f"{hash_of(state)}-{step}"
            checkpoint = context.folder / "checkpoints" / f"checkpoint-{step}"
            write_atomic(checkpoint / "state", state)
            write_json(checkpoint / "COMPLETE", {"sha256": {}, "milestone": step == settings.milestone_steps})
            time.sleep(settings.step_seconds)
            while str(step) == os.environ.get(HELD_AT) and not context.stop.is_set:
                time.sleep(0.005)  # until a test has done to this process what it started it for
            context.stop.raise_if_set(f"saved at step {step}")
    (context.folder / "model.txt").write_text(state)
    return StageResult({"steps": step})


def hash_of(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:16]


def judge(settings: JudgeSettings, context: StageContext) -> StageResult:
    RUNS_OF_STAGES.append(context.name)
    assert (context.input_folder(settings.model) / "model.txt").is_file()
    (context.folder / "decision.json").write_text(
        json.dumps({"verdict": "released" if settings.release else "refused"})
    )
    return StageResult(exit_code=0 if settings.release else 3)


KINDS = {
    "corpus": Kind("corpus", WriteSettings, write, "write a text"),
    "pretrain": Kind("pretrain", TrainSettings, train, "hash it step by step"),
    "gate": Kind("gate", JudgeSettings, judge, "decide"),
}
RECIPE = """\
name: life
stages:
  corpus: {stage: corpus, text: abc}
  other: {stage: corpus, text: xyz}
  base: {stage: pretrain, corpus: corpus}
  second: {stage: pretrain, corpus: other}
  release: {stage: gate, model: base}
"""


def write_report(run: Path) -> None:
    (run / "report.html").write_text("report")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    RUNS_OF_STAGES.clear()
    path = tmp_path / "life.yaml"
    path.write_text(RECIPE)
    return path


def run(recipe: Path, *words: str, fresh: bool = False, only: tuple[str, ...] = ()) -> tuple[Outcome, str]:
    """One run in this process; what it said on stderr."""
    said = io.StringIO()
    loaded = load_recipe(recipe, words, kinds=KINDS)
    outcome = run_recipe(
        loaded,
        home=Path("runs"),
        only=only,
        fresh=fresh,
        console=Console(said),
        report=write_report,
        cache=Path("cache"),
    )
    return outcome, said.getvalue()


# ---------------------------------------------------------------- what is fresh


def test_a_finished_recipe_runs_nothing_again(recipe: Path) -> None:
    first, said = run(recipe)
    assert first.exit_code == 0
    assert first.built == ("corpus", "other", "base", "second", "release")
    assert said.startswith("life: 5 stages in runs/life\n")
    again, said = run(recipe)
    assert again.built == () and len(again.fresh) == 5
    assert said == "life: all 5 stages are done in runs/life; --fresh starts anew\n"


@pytest.mark.parametrize(
    ("change", "built"),
    [
        ("corpus.text=abd", ("corpus", "base", "release")),
        ("other.text=x", ("other", "second")),
        ("base.steps=4", ("base", "release")),
        ("second.seed=9", ("second",)),
        ("release.release=false", ("release",)),
        ("seed=7", ("corpus", "other", "base", "second", "release")),
        ("corpus.shown=5", ()),  # changes what is shown, not the result
    ],
)
def test_a_changed_setting_runs_exactly_its_stage_and_what_depends_on_it(
    recipe: Path, change: str, built: tuple[str, ...]
) -> None:
    run(recipe)
    outcome, _ = run(recipe, change)
    assert outcome.built == built


def test_a_stage_whose_inputs_came_out_the_same_is_not_run_again(recipe: Path) -> None:
    Path("source.txt").write_text("abc")
    run(recipe)
    outcome, _ = run(recipe, "corpus.source=source.txt")  # another way to the same text
    assert outcome.built == ("corpus",)


def test_a_changed_input_file_counts_by_its_content(recipe: Path) -> None:
    source = Path("source.txt")
    source.write_text("abc")
    run(recipe, "corpus.source=source.txt")
    os.utime(source, (1, 1))
    assert run(recipe, "corpus.source=source.txt")[0].built == ()
    source.write_text("abd")
    assert run(recipe, "corpus.source=source.txt")[0].built == ("corpus", "base", "release")


def test_a_newer_version_of_a_kind_makes_its_artifacts_stale(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(recipe)
    newer = Kind("gate", JudgeSettings, judge, "decide", version=2)
    monkeypatch.setitem(KINDS, "gate", newer)
    assert run(recipe)[0].built == ("release",)


def test_named_stages_run_with_what_they_need_and_nothing_else(recipe: Path) -> None:
    outcome, _ = run(recipe, only=("base",))
    assert outcome.built == ("corpus", "base")
    with pytest.raises(UserError, match=r"no stage 'bse' in this recipe. Did you mean 'base'\?"):
        run(recipe, only=("bse",))


def test_fresh_builds_anew(recipe: Path) -> None:
    run(recipe)
    assert len(run(recipe, fresh=True)[0].built) == 5
    assert run(recipe, fresh=True, only=("base",))[0].built == ("base",)


def test_a_run_folder_can_be_moved_and_renamed(recipe: Path) -> None:
    run(recipe)
    shutil.move("runs/life", "runs/moved")
    assert run(recipe, "name=moved")[0].built == ()
    texts = [path.read_text() for path in Path("runs/moved").rglob("*") if path.is_file() and path.name != "run.log"]
    assert not any(str(Path.cwd()) in text for text in texts)


def test_the_artifact_says_what_it_was_made_from(recipe: Path) -> None:
    run(recipe)
    base, corpus = read_artifact(Path("runs/life/base")), read_artifact(Path("runs/life/corpus"))
    assert base is not None and corpus is not None
    assert base.inputs == {"corpus": corpus.output_fingerprint}
    assert base.settings["steps"] == 3 and base.counts == {"steps": 3}


# ---------------------------------------------------------------- failures


def test_a_failure_stops_the_run_names_the_stage_and_keeps_the_rest(recipe: Path) -> None:
    outcome, said = run(recipe, "base.fail_at=2")
    assert outcome.exit_code == 1
    assert outcome.built == ("corpus", "other")
    assert said.endswith(
        "stage base failed\nValueError: the loss is not finite\n\n"
        "finished stages are kept: mend it, then run the same command to go on (log: runs/life/run.log)\n"
    )
    assert "Traceback" in Path("runs/life/run.log").read_text() and "Traceback" not in said
    state = json.loads(Path("runs/life/state.json").read_text())
    assert (state["status"], state["stage"], state["stages"]["base"]["status"]) == ("failed", "base", "failed")
    assert Path("runs/life/report.html").is_file()
    assert not Path("runs/life/base").exists()


def test_an_older_artifact_stays_when_the_new_one_fails(recipe: Path) -> None:
    run(recipe)
    before = Path("runs/life/base/model.txt").read_text()
    assert run(recipe, "base.fail_at=1", "base.steps=9")[0].exit_code == 1
    assert Path("runs/life/base/model.txt").read_text() == before
    assert run(recipe)[0].built == ()


def test_a_refused_release_is_exit_code_3_each_time_after_the_report(recipe: Path) -> None:
    for built in (("corpus", "other", "base", "second", "release"), ()):
        outcome, _ = run(recipe, "release.release=false")
        assert (outcome.exit_code, outcome.built) == (3, built)
        assert outcome.report == Path("runs/life/report.html")


def test_a_report_that_fails_is_told_and_changes_nothing_else(recipe: Path) -> None:
    def broken(_: Path) -> None:
        raise RuntimeError("no ink")

    said = io.StringIO()
    outcome = run_recipe(load_recipe(recipe, kinds=KINDS), home=Path("runs"), console=Console(said), report=broken)
    assert outcome.exit_code == 0 and outcome.report is None
    assert "the report could not be made: RuntimeError: no ink" in said.getvalue()


def test_a_stage_that_returns_nothing_is_a_failure(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "gate", Kind("gate", JudgeSettings, lambda *_: None, "decide"))
    outcome, said = run(recipe)
    assert outcome.exit_code == 1 and "returned NoneType, not a StageResult" in said


def test_a_full_disk_is_told_as_such(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> StageResult:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(KINDS, "gate", Kind("gate", JudgeSettings, full, "decide"))
    outcome, said = run(recipe)
    assert outcome.exit_code == 1
    assert re.search(r"the disk is full \([\d,]+ MB free\)", said) and "free some space" in said


# ---------------------------------------------------------------- kills


def start(recipe: Path, *words: str, held_at: int) -> subprocess.Popen[str]:
    """A run whose `base` waits at a step for its end, so that no signal comes too late on a busy machine."""
    command = [sys.executable, __file__, str(recipe), "runs", *words]
    environment = {**os.environ, HELD_AT: str(held_at)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)


def wait_for(condition: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{condition} never came"
        time.sleep(0.005)


def end(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    said = process.communicate(timeout=300)[1]
    return process.returncode, said


SLOW = ("base.steps=40", "base.step_seconds=0.01")
CHECKPOINTS = Path("runs/life/.work/base/checkpoints")


def test_a_stage_killed_by_sigkill_goes_on_where_it_was_and_gives_the_same_result(recipe: Path) -> None:
    uninterrupted = Path("uninterrupted.yaml")
    uninterrupted.write_text(RECIPE.replace("life", "whole"))
    run(uninterrupted, "base.steps=40")

    for step in (3, 12):
        process = start(recipe, *SLOW, held_at=step)
        wait_for(CHECKPOINTS / f"checkpoint-{step}" / "state", process)
        end(process, signal.SIGKILL)
        assert not Path("runs/life/base").exists()  # half-finished work never counts
        assert summarise(Path("runs/life")).state == "cut off"  # type: ignore[union-attr]

    resumed_from = newest_step(Path("runs/life/.work/base"))
    outcome, said = run(recipe, *SLOW)
    assert said.startswith(f"life: going on in runs/life: corpus, other done; base resumes from step {resumed_from}\n")
    assert resumed_from >= 12 and outcome.built == ("base", "second", "release")
    assert Path("runs/life/base/model.txt").read_text() == Path("runs/whole/base/model.txt").read_text()
    seconds = read_artifact(Path("runs/life/base")).seconds  # type: ignore[union-attr]
    assert seconds > 0.01 * (40 - resumed_from)
    assert not list(Path("runs/life/.work").iterdir())


def test_checkpoints_go_when_their_stage_is_done_unless_they_are_to_be_kept(recipe: Path) -> None:
    run(recipe, "second.keep_checkpoints=true", "base.milestone_steps=2")
    assert [path.name for path in Path("runs/life/base/checkpoints").iterdir()] == ["checkpoint-2"], "a milestone"
    assert newest_step(Path("runs/life/second")) == 3
    assert run(recipe)[0].built == ()  # keeping them or not changes no result
    run(recipe, "name=plain")
    assert not Path("runs/plain/base/checkpoints").exists()


def test_changed_settings_start_unfinished_work_anew(recipe: Path) -> None:
    process = start(recipe, *SLOW, held_at=3)
    wait_for(CHECKPOINTS / "checkpoint-3" / "state", process)
    end(process, signal.SIGKILL)
    outcome, said = run(recipe, "base.steps=2")
    assert outcome.exit_code == 0 and "its unfinished work is started anew" in said
    fresh = Path("fresh.yaml")
    fresh.write_text(RECIPE.replace("life", "fresh"))
    run(fresh, "base.steps=2")
    assert Path("runs/life/base/model.txt").read_text() == Path("runs/fresh/base/model.txt").read_text()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_says_how_to_go_on_and_has_its_own_exit_code(recipe: Path, number: int, exit_code: int) -> None:
    process = start(recipe, *SLOW, held_at=3)
    wait_for(CHECKPOINTS / "checkpoint-3" / "state", process)
    code, said = end(process, number)
    assert code == exit_code
    assert re.search(r"stopped: saved at step \d+\n  -> run the same command to go on", said)
    assert said.count("run the same command") == 1
    assert json.loads(Path("runs/life/state.json").read_text())["status"] == "stopped"
    assert Path("runs/life/report.html").is_file()
    assert run(recipe, *SLOW)[0].exit_code == 0


def test_two_runs_in_one_folder_are_refused_until_the_first_is_gone(recipe: Path) -> None:
    process = start(recipe, *SLOW, held_at=1)
    wait_for(CHECKPOINTS / "checkpoint-1" / "state", process)
    with pytest.raises(UserError) as refused:
        run(recipe)
    assert str(refused.value).startswith(f"runs/life: another run works in this folder (process {process.pid} on ")
    assert summarise(Path("runs/life")).state == "running"  # type: ignore[union-attr]
    end(process, signal.SIGKILL)
    assert run(recipe, "base.steps=2")[0].exit_code == 0


@pytest.mark.parametrize("is_new_whole", [True, False])
def test_a_kill_between_the_two_renames_is_mended(recipe: Path, is_new_whole: bool) -> None:
    run(recipe)
    final, work = Path("runs/life/base"), Path("runs/life/.work")
    shutil.copytree(final, work / "base")
    (work / "base" / "model.txt").write_text("new")
    if not is_new_whole:
        (work / "base" / "artifact.json").unlink()
    final.rename(work / "base.old")
    assert run(recipe)[0].built == ()
    assert ((final / "model.txt").read_text() == "new") is is_new_whole
    assert read_artifact(final) is not None
    assert not (work / "base.old").exists()


def test_a_finished_artifact_that_was_not_yet_in_place_is_not_built_again(recipe: Path) -> None:
    run(recipe)
    final, work = Path("runs/life/base"), Path("runs/life/.work")
    fingerprint = read_artifact(final).fingerprint  # type: ignore[union-attr]
    folders.Work(work / "base", fingerprint).save(1.0)
    final.rename(work / "base")
    RUNS_OF_STAGES.clear()
    run(recipe)
    assert RUNS_OF_STAGES == [] and read_artifact(final) is not None


# ---------------------------------------------------------------- what the folder says


def test_the_run_folder_keeps_the_resolved_recipe_which_gives_the_same_run(recipe: Path) -> None:
    run(recipe, "base.steps=5")
    text = Path("runs/life/recipe.yaml").read_text()
    assert "steps: 5  # command line" in text
    assert "text: abc  # life.yaml:3" in text
    assert "step_seconds: 0.0  # default" in text
    origins = json.loads(Path("runs/life/origins.json").read_text())
    assert (origins["stages.base.steps"], origins["stages.base.fail_at"]) == ("command line", "default")
    assert run(Path("runs/life/recipe.yaml"))[0].built == ()


def test_runs_are_listed_with_state_and_verdict(recipe: Path) -> None:
    run(recipe, "release.release=false")
    (only,) = list_runs(Path("runs"))
    assert (only.name, only.state, only.done, only.of, only.verdict) == ("life", "done", 5, 5, "refused")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (42, "42 s"), (59.7, "1 min 00 s"), (192, "3 min 12 s"), (18120, "5 h 02 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


if __name__ == "__main__":
    loaded = load_recipe(sys.argv[1], sys.argv[3:], kinds=KINDS)
    sys.exit(run_recipe(loaded, home=Path(sys.argv[2]), report=write_report, cache=Path("cache")).exit_code)
