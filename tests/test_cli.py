"""The verbs as a person meets them: text, exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import pytest

from groundup.artifacts import StageContext, StageResult, finish_artifact
from groundup.cli import app, chatting, doctor, lineage, verbs
from groundup.console import byte_text, table
from groundup.errors import Problem, Stopped, UserError
from groundup.recipe import CheckReport, CorpusRef, Kind, StageSettings, load_recipe, shipped_recipes
from groundup.workflow.preflight import preflight

VERBS = (
    "demo",
    "init",
    "check",
    "run",
    "runs",
    "report",
    "lineage",
    "chat",
    "doctor",
    "config explain",
    "config schema",
    "tokens show",
    "data preview",
    "data stats",
    "data why",
    "data card",
)


def groundup(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "groundup", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100", **environment},
        timeout=600,  # a guard against hanging, not a promise
        check=False,
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GROUNDUP_HOME", raising=False)
    monkeypatch.delenv("GROUNDUP_COMMAND", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


# ---------------------------------------------------------------- help


def test_help_imports_neither_torch_nor_pydantic_nor_yaml() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "groundup", "-h"], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "pydantic", "pydantic_core", "ruamel", "numpy", "pyarrow", "jinja2", "psutil"}


def test_help_names_every_verb_in_a_panel_and_no_verb_means_help() -> None:
    done = groundup("-h")
    assert done.returncode == 0
    for verb in ("demo", "init", "check", "run", "runs", "report", "lineage", "chat", "doctor", "config"):
        assert re.search(rf"│ {verb} ", done.stdout), verb
    for panel in ("Start", "Recipes", "Runs", "Use"):
        assert f"─ {panel} ─" in done.stdout
    assert groundup().stdout == done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    done = groundup(*verb.split(), "--help")
    assert done.returncode == 0
    assert re.search(rf"Example: groundup {verb}", done.stdout)


READING = ["check", "runs", "report", "lineage", "doctor", "config explain", "config schema"]
READING += [verb for verb in VERBS if verb.startswith("data ")]


@pytest.mark.parametrize("verb", READING)
def test_every_verb_that_reads_has_json(verb: str) -> None:
    assert "--json" in groundup(*verb.split(), "-h").stdout


def test_a_mistyped_verb_is_usage_and_says_what_was_meant() -> None:
    done = groundup("chekc", "x.yaml")
    assert done.returncode == 2 and "Did you mean 'check'?" in done.stderr


# ---------------------------------------------------------------- errors


def test_a_mistake_goes_to_stderr_with_exit_code_2_and_no_traceback() -> None:
    Path("r.yaml").write_text(
        "stages:\n  base: {stage: sft, base_model: hf://a/b, datasets: [{path: x.jsonl}], lr: 1}\n"
    )
    done = groundup("check", "r.yaml", "base.learning_rte=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "r.yaml:2:73: unknown key 'lr': here it is called 'learning_rate'" in done.stderr
    assert "command line: base.learning_rte=1: unknown key 'learning_rte'. Did you mean 'learning_rate'?" in done.stderr
    assert done.stderr.endswith("3 problems\n")


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in groundup("run", "nothing.yaml", "--debug").stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m groundup config schema | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.parametrize("verb", ["report", "lineage", "chat"])
def test_what_is_not_there_is_told_with_what_is(verb: str) -> None:
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/state.json").write_text('{"status": "done", "stages": {}}')
    done = groundup(verb, "runs/mien")
    assert done.returncode == 2
    assert re.match(r"runs/mien: (there is no such run|no such file or folder|no such model)", done.stderr)
    assert "->" in done.stderr


# ---------------------------------------------------------------- recipes


def test_init_writes_a_recipe_that_passes_its_own_check_and_never_replaces_a_file() -> None:
    assert "demo" in shipped_recipes()
    done = groundup("init", "demo", "-o", "mine.yaml")
    assert done.returncode == 0 and done.stdout == "wrote mine.yaml\nnext: groundup check mine.yaml\n"
    assert load_recipe("mine.yaml").stages
    again = groundup("init", "demo", "-o", "mine.yaml")
    assert again.returncode == 2 and "the file exists already" in again.stderr
    assert groundup("init", "demo", "-o", "mine.yaml", "--force").returncode == 0
    assert "Did you mean 'demo'?" in groundup("init", "dmeo").stderr
    assert re.search(r"^demo +A small model's whole life", groundup("init", "--list").stdout, re.MULTILINE)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    for folder in re.findall(r"path: (raw/\w+)", shipped_recipes()[name].read_text()):  # the user's own
        Path(folder).mkdir(parents=True, exist_ok=True)
    assert load_recipe(name).stages


def test_keys_are_explained_as_text_and_as_json() -> None:
    done = groundup("config", "explain", "sft.learning_rate")
    assert done.stdout.startswith("learning_rate  (number; default ") and "in sft" in done.stdout
    row = json.loads(groundup("config", "explain", "sft.learning_rate", "--json").stdout)[0]
    assert (row["kind"], row["key"]) == ("sft", "learning_rate")
    missing = groundup("config", "explain", "model_name_or_path")
    assert missing.returncode == 2 and "Did you mean 'base_model'?" in missing.stderr


def test_all_keys_of_a_kind_stand_on_lines_that_can_be_read() -> None:
    lines = groundup("config", "explain", "corpus").stdout.splitlines()
    assert max(map(len, lines)) < 320  # a default that is a whole group is cut; it made lines of 1,200 characters
    assert sum(line.startswith("sources.NAME.max_bytes ") for line in lines) == 1  # not once for each of 14 types
    assert "(wikipedia)" in next(line for line in lines if line.startswith("sources.NAME.tables "))
    types = next(line for line in lines if line.startswith("sources.NAME.type "))
    assert "warc | wet | wikipedia" in types and "jsonl" in types
    assert any("1.2 ... 1.5 times it" in line for line in lines)  # three dots end no sentence
    assert sum(line.startswith("corpus ") for line in lines) == 0  # that is a key of other kinds of stages


def test_the_shell_completes_stages_and_keys() -> None:
    Path("r.yaml").write_text("stages:\n  base: {stage: pretrain, tokens: hf://a/b}\n")
    assert verbs.complete("r.yaml", "b") == ["base"]
    assert "base.learning_rate=" in verbs.complete("r.yaml", "base.l")
    assert verbs.complete("nothing.yaml", "b") == []


def test_the_schema_is_json() -> None:
    assert json.loads(groundup("config", "schema").stdout)["title"] == "groundup recipe"


@pytest.mark.parametrize(("verb", "usage"), [("check", "[KEY=VALUE]..."), ("run", "[STAGE|KEY=VALUE]...")])
def test_usage_is_written_once_bracketed(verb: str, usage: str) -> None:
    first = next(line for line in groundup(verb, "-h").stdout.splitlines() if "Usage" in line)
    assert first.split("} ")[1].strip() == usage


def test_hints_name_the_command_that_was_used() -> None:
    said = groundup("runs", GROUNDUP_COMMAND="./groundup").stderr
    assert "`./groundup demo` makes one" in said
    Path("empty.yaml").write_text("")
    said = groundup("check", "empty.yaml", GROUNDUP_COMMAND="../my tools/groundup").stderr
    assert "`'../my tools/groundup' init`" in said
    assert "`groundup init`" in groundup("check", "empty.yaml").stderr


def test_ctrl_c_outside_of_a_run_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stopping, code in ((KeyboardInterrupt(), 130), (Stopped("finished stages are kept", 130), 130)):
        monkeypatch.setattr(verbs, "check", Mock(side_effect=stopping))
        assert app._main(["check", "demo"]) == code
        assert capsys.readouterr().err.endswith("\n  -> run the same command to go on\n")


# ---------------------------------------------------------------- run and check, with small stages


class TextSettings(StageSettings):
    stage: Literal["corpus"] = "corpus"
    text: str = "abc"
    disk_bytes: float = 1e6


class GateSettings(StageSettings):
    stage: Literal["gate"] = "gate"
    corpus: CorpusRef
    candidate: str = "base"
    release: bool = True


def write(settings: TextSettings, context: StageContext) -> StageResult:
    (context.folder / "text.txt").write_text(settings.text)
    return StageResult()


def check_text(settings: TextSettings, context: StageContext) -> CheckReport:
    assert not context.folder.exists()
    if not settings.text:
        return CheckReport({}, [Problem("there is no text", "text", "write some")])
    return CheckReport({"trained_tokens": 1234, "disk_bytes": settings.disk_bytes, "sources": 2})


def judge(settings: GateSettings, context: StageContext) -> StageResult:
    decision = {"verdict": "released" if settings.release else "refused"}
    (context.folder / "decision.json").write_text(json.dumps(decision))
    return StageResult(exit_code=0 if settings.release else 3)


KINDS = {
    "corpus": Kind("corpus", TextSettings, write, "write", check=check_text),
    "gate": Kind("gate", GateSettings, judge, "judge"),
}
RECIPE = "stages:\n  words: {stage: corpus}\n  release: {stage: gate, corpus: words}\n"


def plan(recipe: Any, facts: Any, cache: Path) -> dict[str, Any]:
    del cache
    estimate = {"seconds": 100.0, "seconds_low": 60.0, "seconds_high": 150.0, "memory_bytes": 1e6}
    return {"stages": {name: {**estimate, **facts.get(name, {})} for name in recipe.stages}}


def write_report(run: Path) -> None:
    (run / "report.html").write_text("report")


def run(*words: str) -> int:
    Path("life.yaml").write_text(RECIPE)
    return verbs.run("life.yaml", words, kinds=KINDS, report=write_report, planner=plan)


def check(*words: str, as_json: bool = False) -> int:
    Path("life.yaml").write_text(RECIPE)
    return verbs.check("life.yaml", words, home=None, as_json=as_json, kinds=KINDS, planner=plan)


def test_a_run_says_on_stdout_only_where_its_results_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    out, err = capsys.readouterr()
    assert out == "gate    released: base\nreport  runs/life/report.html\n"
    first, second, third = err.splitlines()[:3]
    assert first == "life: 2 stages in runs/life"
    assert second == "checking inputs, time, memory and disk"
    assert third == "estimated: about 3 min (2 min to 5 min), 1.0 MB of disk"


def test_a_refused_release_is_exit_code_3_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("release.release=false") == 3
    assert capsys.readouterr().out == "gate    not released: base\nreport  runs/life/report.html\n"


def test_groundup_home_says_where_runs_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDUP_HOME", "elsewhere")
    assert run() == 0 and Path("elsewhere/life/words/artifact.json").is_file()


def test_words_with_an_equals_sign_are_settings_and_others_are_stages() -> None:
    assert run("words", "words.text=xyz") == 0
    assert Path("runs/life/words/text.txt").read_text() == "xyz"
    assert not Path("runs/life/release").exists()


def test_a_problem_found_by_a_stages_check_stops_the_run_before_it_starts() -> None:
    with pytest.raises(UserError, match="there is no text"):
        run("words.text=''")
    assert not Path("runs/life/words").exists()


def test_check_tells_what_a_run_takes_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert check() == 0
    out = capsys.readouterr().out
    assert re.search(r"^words +corpus +1,234 +1.0 MB +1.0 MB +1 min 40 s$", out, re.MULTILINE)
    assert re.search(r"^to do +1.0 MB +1.0 MB +3 min 20 s$", out, re.MULTILINE)
    assert "  words: sources 2\n" in out
    assert "nothing stands in the way: `groundup run life.yaml` starts it" in out
    assert not Path("runs").exists()


def test_check_marks_what_is_done_and_leaves_it_out_of_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    run("words")
    capsys.readouterr()
    check()
    out = capsys.readouterr().out
    assert re.search(r"^words .* done$", out, re.MULTILINE)
    assert re.search(r"^to do .* 1 min 40 s$", out, re.MULTILINE)


def test_too_little_disk_is_a_problem_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("words.disk_bytes=1e18") == 2
    assert re.search(
        r"runs/life: not enough disk: the run writes about 1,000,000 TB, .* are free", capsys.readouterr().err
    )
    with pytest.raises(UserError, match="not enough disk"):
        run("words.disk_bytes=1e18")


def test_what_an_unfinished_stage_has_written_needs_no_second_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a run that filled half of its disk with checkpoints could never go on."""
    monkeypatch.setattr("groundup.workflow.preflight.free_disk_bytes", lambda _: 1_000_000)
    assert check("words.disk_bytes=1500000") == 2
    left = Path("runs/life/.work/release/checkpoints")
    left.mkdir(parents=True)
    (left / "half").write_bytes(bytes(600_000))
    assert check("words.disk_bytes=1500000") == 0
    assert check("words.disk_bytes=1700000") == 2
    assert "not enough disk" in capsys.readouterr().err


def test_check_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    check(as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True and found["to_do"]["seconds"] == 200.0
    assert [(row["stage"], row["facts"].get("trained_tokens")) for row in found["stages"]] == [
        ("words", 1234),
        ("release", None),
    ]


def test_the_plan_of_a_finished_stage_stays_as_it_was_foretold() -> None:
    run("words")
    recipe = load_recipe("life.yaml", kinds=KINDS)

    def slower(*_: Any) -> dict[str, Any]:
        return {"stages": {"words": {"seconds": 7.0}, "release": {"seconds": 7.0}}}

    found = preflight(recipe, Path("runs/life"), Path("cache"), planner=slower)
    assert {row.stage: row.planned("seconds") for row in found.stages} == {"words": 100.0, "release": 7.0}


# ---------------------------------------------------------------- runs and lineage


def test_runs_are_listed_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    verbs.runs(home=None, as_json=False)
    assert "no runs in runs/ yet: `groundup demo` makes one" in capsys.readouterr().err
    run()
    capsys.readouterr()
    verbs.runs(home=None, as_json=False)
    assert re.search(r"^life +done +2/2 +0.\d s +released +20", capsys.readouterr().out, re.MULTILINE)
    verbs.runs(home=None, as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "released"


def test_lineage_is_a_tree_with_fingerprints_and_changed_settings(capsys: pytest.CaptureFixture[str]) -> None:
    run("words.text=xyz")
    capsys.readouterr()
    lineage.show_lineage("runs/life/release", home=None, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"release \(gate\)  [0-9a-f]{12}  [0-9.]+ s, 20", lines[0])
    assert any(re.match(r"`- corpus: words \(corpus\)  [0-9a-f]{12}  ", line) for line in lines)
    assert any(line.strip().startswith('text="xyz"') for line in lines)


def test_lineage_tells_where_an_input_has_changed_since(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    run("words", "words.text=other")
    capsys.readouterr()
    lineage.show_lineage("life/release", home=Path("runs"), as_json=False)
    assert "(has changed since: now " in capsys.readouterr().out
    lineage.show_lineage("runs/life/release/decision.json", home=None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["inputs"][0]["is_current"]) == ("release", False)


# ---------------------------------------------------------------- chat


def model_stage(run_folder: Path, name: str, kind: str, **settings: Any) -> None:
    folder = run_folder / name
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    finish(folder, kind, settings)


def finish(folder: Path, kind: str, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {"inputs": {}, "fingerprint": "", "result": StageResult(), "seconds": 0.0}
    finish_artifact(folder, kind=kind, name=folder.name, settings=settings, **values)


def test_a_run_stands_for_its_candidate_or_its_best_finished_model() -> None:
    run_folder = Path("runs/life")
    model_stage(run_folder, "base", "pretrain")
    (run_folder / "state.json").write_text("{}")
    assert chatting.find_model("life", None) == run_folder / "base" / "model"
    model_stage(run_folder, "chat", "sft")
    model_stage(run_folder, "preferred", "dpo")
    assert chatting.find_model("runs/life", None) == run_folder / "preferred" / "model"
    finish(run_folder / "release", "gate", {"candidate": "chat"})
    assert chatting.find_model("runs/life", None) == run_folder / "chat" / "model"
    assert chatting.find_model("runs/life/base", None) == run_folder / "base" / "model"
    assert chatting.find_model("runs/life/base/model", None) == run_folder / "base" / "model"


def test_a_run_without_a_model_says_so() -> None:
    Path("runs/life").mkdir(parents=True)
    Path("runs/life/state.json").write_text("{}")
    with pytest.raises(UserError, match="no stage of this run has finished a model yet"):
        chatting.find_model("runs/life", None)


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    from groundup.model.config import model_config
    from groundup.model.decoder import Decoder
    from groundup.model.files import copy_tokenizer_files, save_model
    from groundup.model.init import init_weights
    from groundup.tokens.tokenizer import Tokenizer
    from groundup.tokens.train_tokenizer import save_tokenizer, train_bpe

    save_tokenizer(train_bpe(iter(["Füchse und Dachse überqueren die Brücke"] * 4), 300), tmp_path / "tokenizer")
    tokenizer = Tokenizer.from_folder(tmp_path / "tokenizer")
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = model_config(
        {**shape, "max_position_embeddings": 64},
        vocab_size=tokenizer.vocab_size,
        eos_token_id=tuple(tokenizer.stop_ids),
    )
    model = Decoder(config)
    init_weights(model, 1)
    copy_tokenizer_files(tokenizer.folder, tmp_path / "model")
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


def test_chat_answers_one_prompt_on_stdout(small_model: Path) -> None:
    arguments = ("chat", str(small_model), "--prompt", "Hallo", "--max-new-tokens", "8", "--seed", "3")
    first, second = groundup(*arguments), groundup(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout and first.stdout.strip()
    assert first.stderr.startswith("loading ")


def test_a_conversation_streams_whole_characters_and_remembers(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[dict[str, Any]]] = []
    reply = chatting._Speaker.reply

    def listening(self: Any, messages: list[dict[str, Any]]) -> Any:
        asked.append([dict(one) for one in messages])
        return reply(self, messages)

    typed = iter(["Hallo", "", "und?", "/new", "noch einmal", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    monkeypatch.setattr(chatting._Speaker, "reply", listening)
    chatting.chat(str(small_model), None, chatting.ChatOptions(6, 0.0, "Be brief."), home=None)
    assert [[one["role"] for one in messages] for messages in asked] == [
        ["system", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user"],
    ]
    said = capsys.readouterr().out.splitlines()
    assert asked[1][2]["content"] == "\n".join(said)[: len(asked[1][2]["content"])]


def test_a_conversation_longer_than_the_context_is_told_and_goes_on(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["x y z " * 60, "Hallo", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    chatting.chat(str(small_model), None, chatting.ChatOptions(4, 0.0), home=None)
    said = capsys.readouterr()
    assert re.search(r"the conversation has \d+ tokens, and the model reads at most 64\n/new starts over", said.err)
    assert said.out  # the next message was answered


# ---------------------------------------------------------------- doctor, tables


def test_the_doctor_names_each_finding_and_the_line_that_fixes_it() -> None:
    done = groundup("doctor", "--json", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_NO_INDEX="")
    found = {row["what"]: row for row in json.loads(done.stdout)}
    assert set(found) == {
        "python", "processor", "memory", "disk", "runs", "torch", "bfloat16", "kernels", "GPU", "registry", "sandbox",
    }  # fmt: skip
    assert found["torch"]["state"] == "ok" and done.returncode == 0
    assert found["registry"]["state"] == "warn" and "pip config set" in found["registry"]["fix"]
    assert all(row["fix"] for row in found.values() if row["state"] != "ok")


def test_the_doctor_fails_where_nothing_can_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda _: None)
    monkeypatch.setattr(doctor, "CHECKS", (doctor._torch, doctor._gpu))
    assert doctor.doctor(as_json=False) == 1
    assert re.search(
        r"^missing torch  not installed: nothing can train\n +-> .*pip install torch", capsys.readouterr().out
    )


def test_tables_align_and_sizes_read_well() -> None:
    assert table(["a", "n"], [["x", "1"], ["long", "20"]], right=(1,)) == "a      n\nx      1\nlong  20"
    assert [byte_text(size) for size in (None, 12, 7.4e5, 1.2e7, 3.44e9)] == ["", "12 B", "740 kB", "12 MB", "3.4 GB"]
