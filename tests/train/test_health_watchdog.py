"""A step that does not end is told, with the stacks of all threads; under a launcher the process ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from groundup.console import Console
from groundup.train.engine import LossParts, train
from groundup.train.watchdog import FIRST_TIMES, LONGEST_TIMES, USUAL_TIMES, Watchdog, is_launched

from .engine_parts import context_in, next_token, options, tiny_decoder, write_shards

GUARD_SECONDS = 60.0  # only against hanging


class Heard(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []
        self.has_warned = threading.Event()

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.has_warned.set()


def test_a_step_that_hangs_is_told_with_its_phase_and_all_stacks(tmp_path: Path) -> None:
    shards, heard = write_shards(tmp_path / "shards"), Heard()

    class Hanging:
        """Step 3's forward pass waits until the watchdog has spoken, as in a collective that never comes."""

        inner = next_token(shards)
        calls = 0

        def loss(self, model: Any, micro_batch: Any) -> LossParts:
            Hanging.calls += 1
            if Hanging.calls == 3:
                heard.has_warned.clear()
                assert heard.has_warned.wait(GUARD_SECONDS)
            return self.inner.loss(model, micro_batch)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    with open(tmp_path / "run.log", "w", encoding="utf-8") as log:
        heard.log = log
        context = context_in(tmp_path / "run", console=heard)
        result = train(tiny_decoder(), Hanging(), options(max_steps=5, stall_seconds=0.2), context)
    assert result.steps == 5  # told, not ended
    told = [text for text in heard.warnings if "so far" in text]
    assert any("in forward and backward; the stacks of all threads are in run.log" in text for text in told)
    stacks = (tmp_path / "run.log").read_text()
    assert "in loss" in stacks and "in forward_backward" in stacks and "Thread" in stacks


def test_under_a_launcher_a_step_that_never_ends_ends_the_process() -> None:
    ended = threading.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    class Unarmed(Watchdog):
        def _arm(self, seconds: float) -> None:
            """The C timer would end pytest itself."""

    heard = Heard()
    with Unarmed(0.05, heard.warn, None, is_launched=True, end=end) as watch:
        watch.step_done()
        assert ended.wait(GUARD_SECONDS)
    assert codes == [1]
    assert "ended, so that the launcher starts it again" in heard.warnings[-1]


def test_how_long_a_step_may_take() -> None:
    watch = Watchdog(10.0, print, None, is_launched=False)
    assert watch.allowed_seconds() == FIRST_TIMES * 10  # it compiles
    watch.step_done()
    assert watch.allowed_seconds() == 10
    watch._times.extend([3.0, 4.0, 20.0])
    assert watch.allowed_seconds() == USUAL_TIMES * 4
    watch._times.extend([300.0])  # a rollout, or an evaluation between two steps
    assert watch.allowed_seconds() == LONGEST_TIMES * 300
    with Watchdog(None, print, None, is_launched=False) as nobody:
        assert not nobody._thread.is_alive()


def test_only_torchrun_is_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not is_launched()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert is_launched()


@pytest.mark.parametrize(
    ("hang", "phase"),
    [
        ("time.sleep(1000)", "in the update"),  # C code that lets others run
        # C code that holds the interpreter: only faulthandler's own timer is left
        ("__import__('ctypes').PyDLL(None).sleep(1000)", None),
    ],
)
def test_a_process_that_hangs_in_c_code_ends_with_its_stacks_in_the_log(
    tmp_path: Path, hang: str, phase: str | None
) -> None:
    script = tmp_path / "groundup_hangs.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        from groundup.train.watchdog import Watchdog

        def update():
            {hang}

        with open(sys.argv[1], "w") as log:
            with Watchdog(0.4, lambda text: print(text, flush=True), log, is_launched=True) as watch:
                watch.step_done()
                time.sleep(0.1)  # the watchdog has looked at least once
                update()
        """)
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run.log")],
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    stacks = (tmp_path / "run.log").read_text()
    assert "in update" in stacks
    if phase is not None:
        assert phase in done.stdout and "the launcher starts it again" in done.stdout
