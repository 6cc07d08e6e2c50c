"""./groundup: makes an environment once, repairs a killed one, and hands over to the verb.

Everything is real (venv, pip, locks, signals) but the packages: a copy of the script lies in a tiny project whose
wheels are made here, and pip may look nowhere else. So nothing is downloaded and each install takes seconds.
"""

from __future__ import annotations

import ensurepip
import importlib.machinery
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "groundup"

# builds the project's editable wheel; `slow-build` beside it makes it wait, so that a test can kill the install
BACKEND = """
import pathlib, sys, time
sys.path.insert(0, {tests!r})
from bootstrap_wheels import make_wheel

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    while pathlib.Path({slow!r}).exists():
        time.sleep(0.05)
    requires = ["Provides-Extra: torch", "Provides-Extra: dev", "Requires-Dist: torch; extra == 'torch'",
                "Requires-Dist: pytest; extra == 'dev'"]
    return make_wheel(pathlib.Path(wheel_directory), "groundup", "0", {main!r}, requires).name

def get_requires_for_build_editable(config_settings=None):
    return []
"""
MAKE_WHEEL = '''
import zipfile

def make_wheel(folder, name, version, main, metadata=()):
    """A wheel with one package that holds __init__.py and __main__.py."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.writestr(f"{name}/__main__.py", main)
        wheel.writestr(f"{info}/METADATA", "\\n".join(head) + "\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path
'''
VERB = """
import importlib.metadata, os, sys, time
try:  # around all of it: the signal may come as soon as the first line is read
    print(os.getpid(), importlib.metadata.version("torch"), *sys.argv[1:], flush=True)
    if "command" in sys.argv:
        print(os.environ["GROUNDUP_COMMAND"])
    if "wait" in sys.argv:
        time.sleep(600)
except KeyboardInterrupt:
    sys.exit(7)
sys.exit(int(sys.argv[2]) if sys.argv[1:2] == ["exit"] else 0)
"""


class Project:
    """A checkout with the script in it, a folder of wheels, and an environment that keeps pip to that folder."""

    def __init__(self, folder: Path, torches: tuple[str, ...] = ("2.13.0", "2.13.0+cpu", "2.14.1")) -> None:
        self.folder, self.wheels, self.venv = folder / "checkout", folder / "wheels", folder / "checkout" / ".venv"
        self.slow = folder / "slow-build"
        self.folder.mkdir()
        self.wheels.mkdir()
        shutil.copy(SCRIPT, self.folder / "groundup")
        (folder / "bootstrap_wheels.py").write_text(MAKE_WHEEL)
        exec(compile(MAKE_WHEEL, "bootstrap_wheels.py", "exec"), globals())
        backend = BACKEND.format(tests=str(folder), slow=str(self.slow), main=VERB)
        (self.folder / "backend.py").write_text(backend)
        (self.folder / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
        (self.folder / "constraints.txt").write_text("# pinned\ntorch==2.13.0\n")
        for version in torches:
            self.add("torch", version)
        self.add("pytest", "9.0", "import sys; print('pytest', *sys.argv[1:])")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "GROUNDUP_"))}
        self.environment = {**kept, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
        self.environment["PIP_FIND_LINKS"] = str(self.wheels)

    def add(self, name: str, version: str, main: str = "") -> None:
        make_wheel(self.wheels, name, version, main)  # type: ignore[name-defined]  # noqa: F821 - from MAKE_WHEEL

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.folder / "groundup"), *arguments],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @property
    def log(self) -> str:
        return (self.venv / "groundup.log").read_text()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One environment that several tests use; each leaves it fresh."""
    project = Project(tmp_path_factory.mktemp("installed"))
    first = project.run("hello", "a b")
    assert first.returncode == 0, first.stderr
    assert first.stdout.split(maxsplit=1)[1] == "2.13.0+cpu hello a b\n"
    assert "CPU build, about 202 MB to download" in first.stderr and "about 115 MB" in first.stderr
    assert "Collecting" not in first.stderr, "pip's noise stays in the log"
    return project


def until(is_so: object, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["run", "-h"]])
def test_help_explains_itself_and_installs_nothing(project: Project, arguments: list[str]) -> None:
    result = project.run(*arguments)
    assert result.returncode == 0 and "./groundup demo" in result.stdout and "115 MB" in result.stdout
    assert not project.venv.exists()


def test_the_second_call_installs_nothing(installed: Project) -> None:
    before = installed.log
    result = installed.run("again")
    assert result.stdout.endswith("again\n") and result.stderr == ""
    assert installed.log == before


def test_the_verb_knows_what_it_was_called_by(installed: Project) -> None:
    assert installed.run("command").stdout.splitlines()[1] == str(installed.folder / "groundup")


def test_the_verb_keeps_the_process_so_exit_codes_and_signals_are_its_own(installed: Project) -> None:
    assert installed.run("exit", "3").returncode == 3
    process = installed.start("wait")
    assert process.stdout is not None
    assert process.stdout.readline().split()[0] == str(process.pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=600)
    assert process.returncode == 7


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_a_changed_list_of_packages_is_installed_once_more_and_torch_is_kept(installed: Project, name: str) -> None:
    with open(installed.folder / name, "a") as file:
        file.write("# changed\n")
    before = installed.log
    result = installed.run("verb")
    assert "bringing the packages up to date" in result.stderr and "torch" not in result.stderr
    assert result.returncode == 0
    assert len(installed.log) > len(before)
    assert installed.run("verb").stderr == ""


def test_test_adds_the_test_tools_once_and_hands_its_arguments_to_pytest(installed: Project) -> None:
    result = installed.run("test", "tests/some", "-k", "x y")
    assert result.stdout == "pytest tests/some -k x y\n" and "the test tools, about 80 MB" in result.stderr
    again = installed.run("test", "--all")
    assert again.stdout == "pytest -m=\n" and again.stderr == ""
    assert installed.run("verb").stderr == "", "the core is still there"


def test_a_missing_cpu_build_stops_or_is_told_before_the_big_one_is_taken(tmp_path: Path) -> None:
    project = Project(tmp_path, torches=("2.13.0",))
    stopped = project.run("verb", GROUNDUP_TORCH="cpu")
    assert stopped.returncode == 1 and stopped.stdout == ""
    assert "CPU build (torch==2.13.0+cpu) cannot be found" in stopped.stderr
    assert "PIP_FIND_LINKS" in stopped.stderr and "PIP_EXTRA_INDEX_URL" in stopped.stderr
    pip_folder = next(project.venv.glob("lib/python*/site-packages/pip"))
    inode = pip_folder.stat().st_ino
    result = project.run("verb")
    told = [line for line in result.stderr.splitlines() if "cannot be found" in line]
    assert len(told) == 1 and "PIP_FIND_LINKS" in told[0] and "GROUNDUP_TORCH=cpu stops" in told[0]
    assert "about 2,060 MB" in result.stderr and result.stdout.split()[1] == "2.13.0"
    assert pip_folder.stat().st_ino == inode, "what was whole is kept after a failure that was no kill"


def test_a_failing_install_shows_the_last_lines_and_where_the_log_is(tmp_path: Path) -> None:
    project = Project(tmp_path, torches=())
    result = project.run("verb", GROUNDUP_TORCH="torch==1.0")
    assert result.returncode == 1 and "Cannot install torch==1.0" in result.stderr
    assert str(project.venv / "groundup.log") in result.stderr and "Traceback" not in result.stderr


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(project: Project, tmp_path: Path) -> None:
    precious = tmp_path / "mine" / "file"
    precious.parent.mkdir()
    precious.write_text("precious")
    result = project.run("verb", GROUNDUP_VENV=str(precious.parent))
    assert result.returncode == 1 and "was not made by ./groundup" in result.stderr
    assert [path.name for path in precious.parent.iterdir()] == ["file"]


def load_script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("bootstrap_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader("bootstrap_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


@pytest.mark.parametrize(("lists", "expected"), [("GPU 0: NVIDIA H100", "registry"), ("No devices were found", "cpu")])
def test_the_registrys_build_is_taken_only_where_a_gpu_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: str, expected: str
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{lists}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("GROUNDUP_TORCH", raising=False)
    script = load_script()
    monkeypatch.setattr(script, "VENV", tmp_path / "none")
    asked: list[list[str]] = []
    monkeypatch.setattr(script, "pip", lambda arguments, *_: asked.append(arguments))
    script.install_torch(0)
    version = next(
        line.split("==")[1]
        for line in (SCRIPT.parent / "constraints.txt").read_text().splitlines()
        if line.startswith("torch==")
    )
    # `!=` keeps a CPU wheel that lies in pip's links, which would count as the newer one, from being taken
    assert asked == [[f"torch=={version}+cpu" if expected == "cpu" else f"torch=={version},!={version}+cpu"]]


def test_the_script_and_its_pins_are_as_small_as_promised() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 200
    lines = (SCRIPT.parent / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert pins == sorted(pins) and all(len(pin) == 2 and "/" not in "".join(pin) for pin in pins)


@pytest.mark.slow
def test_a_killed_install_is_made_anew_by_the_next_call(project: Project) -> None:
    project.slow.touch()
    process = project.start("verb")
    until(lambda: list(project.venv.glob("lib/python*/site-packages/torch")))
    until(lambda: "Preparing editable" in project.log or "Checking if build backend" in project.log)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    project.slow.unlink()
    torch = next(project.venv.glob("lib/python*/site-packages/torch"))
    (torch / "__main__.py").unlink()  # as if the kill had come in the middle of torch: pip would call it installed
    result = project.run("verb")
    assert result.returncode == 0 and "ready in" in result.stderr
    assert (torch / "__main__.py").exists()


@pytest.mark.slow
def test_two_first_calls_at_once_install_once(project: Project) -> None:
    project.slow.touch()
    first = project.start("one")
    until(lambda: (project.venv / "groundup.log").exists())
    second = project.start("two")
    assert second.stderr is not None
    assert any("waiting for it" in line for line in second.stderr)  # read up to there
    project.slow.unlink()
    results = [process.communicate(timeout=600) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0]
    assert results[0][0].endswith("one\n") and results[1][0].endswith("two\n")
    assert project.log.count("-m venv") == 1


@pytest.mark.slow
def test_a_python_without_ensurepip_borrows_the_systems_pip(project: Project, tmp_path: Path) -> None:
    bundled = list((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    bundled += list(Path("/usr/share/python-wheels").glob("pip-*.whl"))
    if not bundled or shutil.which("python3") is None:
        pytest.skip("no wheel of pip on this machine to borrow")
    shutil.copy(bundled[0], project.wheels)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "ensurepip.py").write_text("raise ModuleNotFoundError('No module named ensurepip')\n")
    result = project.run("verb", PYTHONPATH=str(hidden))
    assert result.returncode == 0, result.stderr
    assert "borrowing the system's pip" in result.stderr
