"""report_data says everything that a run folder holds, and says what is missing where it is not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from groundup.errors import UserError
from groundup.report.data import report_data

PROMISED = ["funnel", "mixture", "bits_per_byte", "accuracy", "paired", "reward_accuracy", "health", "gate", "stages"]
PROMISED += ["samples", "audit", "lineage", "config", "sources"]


@pytest.fixture(scope="module")
def data(finished_run: Path) -> dict:
    return report_data(finished_run)


def test_every_promised_key_is_there_and_filled(data: dict) -> None:
    assert [key for key in PROMISED if not data.get(key)] == []
    assert data["missing"] == {}
    assert data["unreadable"] == []


def test_it_is_json_without_any_help(data: dict) -> None:
    assert json.loads(json.dumps(data)) == data


def test_accuracy_is_found_by_stage_name_and_by_base_sft_dpo_ppo(data: dict) -> None:
    accuracy = data["accuracy"]
    assert {"base", "sft", "dpo", "ppo", "chat", "preferred", "aligned"} <= set(accuracy)
    assert accuracy["ppo"]["stage"] == "aligned"
    assert accuracy["ppo"]["overall"] == accuracy["aligned"]["overall"]
    assert accuracy["sft"]["overall"]["low"] < accuracy["sft"]["overall"]["value"] < accuracy["sft"]["overall"]["high"]


def test_paired_comparisons_are_seen_from_both_sides(data: dict) -> None:
    forward = data["accuracy"]["aligned"]["paired"]["chat"]
    backward = data["accuracy"]["chat"]["paired"]["aligned"]
    assert forward["p_value"] == backward["p_value"] < 0.01
    assert forward["difference"] == pytest.approx(-backward["difference"])
    assert (forward["low"], forward["high"]) == pytest.approx((-backward["high"], -backward["low"]))


def test_bits_per_byte_stand_beside_xz(data: dict) -> None:
    assert {"value", "low", "high", "xz", "bytes"} <= set(data["bits_per_byte"]["base"]["books"])


def test_stages_have_actual_and_planned_seconds(data: dict) -> None:
    by_name = {row["name"]: row for row in data["stages"]}
    assert list(by_name) == ["corpus", "tokenizer", "tokens", "base", "chat", "pairs", "judge", "aligned", "preferred",
                             "exam", "release"]  # fmt: skip
    base = by_name["base"]
    assert (base["kind"], base["status"], base["seconds"]) == ("pretrain", "done", 262.0)
    assert base["planned_low"] < base["planned_seconds"] < base["planned_high"]
    assert base["counts"]["steps"] == 600
    assert len(base["fingerprint"]) == 64


def test_lineage_comes_from_fingerprints(data: dict) -> None:
    edges = {(edge["from"], edge["to"]) for edge in data["lineage"]["edges"]}
    assert {("corpus", "tokenizer"), ("tokens", "base"), ("judge", "aligned"), ("exam", "release")} <= edges
    assert ("release", "exam") not in edges


def test_config_keeps_the_origin_of_every_value(data: dict) -> None:
    origin = {(row["stage"], row["key"]): row["origin"] for row in data["config"]["values"]}
    assert origin["base", "max_steps"] == "command line"
    assert origin["base", "learning_rate"] == "demo.yaml:31"
    assert origin["base", "optimizer"] == "default"


def test_curves_keep_the_spike_and_both_ends(data: dict) -> None:
    loss = data["curves"]["base"]["loss"]
    assert (loss[0][0], loss[-1][0]) == (1, 600)
    assert 310 in [step for step, _ in loss]
    assert data["curves"]["base"]["validation_loss"][0][0] == 100


def test_dropped_documents_are_shown_with_their_reason(data: dict) -> None:
    assert {row["reason"] for row in data["dropped"]["books"]} == {"too short", "near duplicate"}


def test_samples_line_up_prompts_over_stages(data: dict) -> None:
    first = data["samples"][0]
    assert list(first["completions"]) == ["base", "chat", "aligned", "preferred"]


# ---------------------------------------------------------------- runs that are not whole


def test_a_run_under_way_says_which_stage_will_fill_what(synthetic: ModuleType, tmp_path: Path) -> None:
    data = report_data(synthetic.write_run(tmp_path / "demo", upto="chat"))
    assert data["status"]["word"] == "running"
    assert data["missing"]["gate"] == "Stage release (waiting) will fill this."
    assert data["missing"]["accuracy"] == "Stage exam (waiting) will fill this."
    assert data["funnel"] and data["samples"]


def test_a_failed_run_says_where_and_why(synthetic: ModuleType, tmp_path: Path) -> None:
    data = report_data(synthetic.write_run(tmp_path / "demo", failed="judge"))
    assert (data["status"]["word"], data["status"]["at"], data["status"]["done"]) == ("failed", "judge", 6)
    assert data["status"]["error"] == synthetic.ERROR
    assert {row["name"]: row["status"] for row in data["stages"]}["judge"] == "failed"


def test_a_stopped_run_shows_the_curve_so_far_without_its_torn_last_line(synthetic: ModuleType, tmp_path: Path) -> None:
    data = report_data(synthetic.write_run(tmp_path / "demo", stopped="base"))
    assert data["status"]["word"] == "stopped"
    assert data["curves"]["base"]["loss"][-1][0] == 200
    assert data["unreadable"] == []


def test_a_killed_run_is_told_from_a_live_one(synthetic: ModuleType, tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "demo", upto="chat")
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps({**state, "heartbeat": state["heartbeat"] - 3600}))
    assert report_data(run)["status"]["word"] == "cut off"


def test_broken_files_are_named_and_the_rest_still_stands(synthetic: ModuleType, tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "demo")
    (run / "corpus" / "funnel.json").write_text('{"sources": ')
    (run / "corpus" / "dropped" / "books.parquet").write_bytes(b"not parquet")
    lines = (run / "base" / "metrics.jsonl").read_text().splitlines()
    lines[3] = "not json"
    (run / "base" / "metrics.jsonl").write_text("\n".join(lines))
    data = report_data(run)
    assert data["funnel"] is None
    assert len(data["unreadable"]) == 3
    assert any("metrics.jsonl: 1 rows are not JSON (first at row 4)" in line for line in data["unreadable"])
    assert data["accuracy"]["ppo"]


def test_an_empty_folder_is_a_run_that_has_not_started(tmp_path: Path) -> None:
    data = report_data(tmp_path)
    assert data["status"]["word"] == "not started"
    assert data["missing"]["funnel"] == "This recipe has no corpus stage."


def test_a_folder_that_is_not_there_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        report_data(tmp_path / "absent")


def test_a_moved_run_gives_the_same_data(finished_run: Path, tmp_path: Path) -> None:
    here = report_data(finished_run)
    moved = shutil.copytree(finished_run, tmp_path / "elsewhere")
    there = report_data(moved)
    for key in ("accuracy", "lineage", "funnel", "gate"):
        assert here[key] == there[key]
