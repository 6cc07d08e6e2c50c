"""Killed, stopped or started twice: the same command goes on, and its weights are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import INTERRUPTED, PATIENCE, SMALL, Demo, Home, hash_of, wait_until

pytestmark = pytest.mark.slow

UP_TO_BASE = ("run", "demo", "base", *SMALL)
STEPS = int(next(word.split("=")[1] for word in SMALL if word.startswith("base.max_steps=")))


def seconds_of(demo: Demo, stage: str) -> float:
    return float(demo.home.json(f"{stage}/artifact.json")["seconds"])


def is_at_work_on(home: Home, process: subprocess.Popen[str], stages: tuple[str, ...]) -> Callable[[], bool]:
    def moment() -> bool:
        state = home.state()
        return state.get("pid") == process.pid and state.get("stage") in stages

    return moment


def assert_same_base(home: Home, demo: Demo) -> None:
    for name in (
        "base/model/model.safetensors",
        "base/samples.jsonl",
        "tokens/train-00000.bin",
        "tokens/manifest.json",
    ):
        assert hash_of(home.run / name) == hash_of(demo.run / name), name
    steps = [json.loads(line)["step"] for line in (home.run / "base" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert not list((home.run / ".work").iterdir())


def test_kill_9_at_three_random_moments_changes_nothing(demo: Demo, tmp_path: Path) -> None:
    seed = int(os.environ.get("GROUNDUP_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"GROUNDUP_TEST_SEED={seed} draws these moments again")  # pytest shows it where the test fails
    chance, home = random.Random(seed), Home(tmp_path)
    in_between = seconds_of(demo, "tokenizer") + seconds_of(demo, "tokens")
    moments = (  # stages, steps logged before, seconds after that
        (("corpus",), 0, chance.uniform(0, 0.9 * seconds_of(demo, "corpus"))),
        (("tokenizer", "tokens"), 0, chance.uniform(0, in_between)),
        (("base",), chance.randint(1, STEPS - 3), chance.uniform(0, 0.5)),
    )
    for stages, steps, delay in moments:
        process = home.start(*UP_TO_BASE)
        wait_until(is_at_work_on(home, process, stages), process)
        wait_until(lambda steps=steps: home.steps_logged("base") >= steps, process)  # type: ignore[misc]
        time.sleep(delay)
        print(f"killed {delay:.2f} s into {' or '.join(stages)}, after {home.steps_logged('base')} steps")
        os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL, said
        folders = [path for path in home.run.iterdir() if path.is_dir() and not path.name.startswith(".")]
        assert all((path / "artifact.json").is_file() for path in folders), "half of an artifact is in place"
    ended = home.groundup(*UP_TO_BASE)
    assert ended.exit_code == 0, ended.said
    assert "demo: going on in" in ended.said
    assert_same_base(home, demo)


def test_ctrl_c_saves_and_a_second_run_beside_it_is_refused(demo: Demo, tmp_path: Path) -> None:
    later = ("base", "chat", "pairs", "judge", "preferred", "aligned", "exam", "release")
    home = demo.copy(tmp_path, without=later)
    process = home.start(*UP_TO_BASE)
    wait_until(lambda: home.steps_logged("base") >= 5, process)
    refused = home.groundup(*UP_TO_BASE)
    assert refused.exit_code == 2
    assert f"another run works in this folder (process {process.pid} on" in refused.said
    assert "-> wait for it, stop it with Ctrl-C, or give this run another name" in refused.said
    assert process.poll() is None, "the refused run disturbed the first one"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert "base is saved at step" in said
    assert "run the same command to go on" in said
    assert "Traceback" not in said
    (listed,) = json.loads(home.groundup("runs", "--json").out)
    assert (listed["state"], listed["stage"]) == ("stopped", "base")
    ended = home.groundup(*UP_TO_BASE)
    assert ended.exit_code == 0, ended.said
    assert f"base resumes from step {listed['step']}" in ended.said
    assert_same_base(home, demo)


def test_ctrl_c_in_the_corpus_ends_all_its_processes(demo: Demo, tmp_path: Path) -> None:
    home = Home(tmp_path)
    process = home.start("run", "demo", "corpus", *SMALL)
    wait_until(is_at_work_on(home, process, ("corpus",)), process)
    time.sleep(random.uniform(0, 0.5 * seconds_of(demo, "corpus")))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        _wait_for_the_group(process.pid)


def _wait_for_the_group(group: int) -> None:
    for _ in range(100):
        os.killpg(group, 0)
        time.sleep(0.1)
