"""Every engine gives the same bytes, goes on where another one was killed, and finds the same poison."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from groundup.corpus.engines import open_engine
from groundup.corpus.engines.slurm import _script
from groundup.corpus.phases.documents import KILLED
from groundup.corpus.settings import CorpusSettings
from groundup.errors import UserError

from .conftest import DOCUMENTS, PYTHONPATH, SHARD_BYTES, Corpus, kill_everything
from .slurm_cluster import free_ports, slurm_cluster, why_not

POISONED = "0.jsonl:102"
PER_SHARD = SHARD_BYTES // 600


@pytest.fixture
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which `sbatch` talks to a real controller of two nodes."""
    if why := why_not():
        pytest.skip(why)
    with TemporaryDirectory(prefix="groundup-slurm-") as folder, slurm_cluster(Path(folder)) as environment:
        yield environment


def has(package: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True).returncode == 0


needs_ray = pytest.mark.skipif(not has("ray"), reason="ray is not installed")
needs_dask = pytest.mark.skipif(not has("distributed"), reason="dask is not installed")


@pytest.fixture
def fewer(corpus: Corpus) -> Corpus:
    """The corpus in larger shards: a Slurm job or a Ray task costs a second here."""
    corpus.settings = {"shard_bytes": 200_000}
    return corpus


def test_one_process_no_process_and_two_give_the_same_bytes(corpus: Corpus) -> None:
    digests = {corpus.build(f"with-{count}", workers=count) for count in (0, 1, 2)}
    assert len(digests) == 1


# ---------------------------------------------------------------- Slurm


@pytest.mark.slow
def test_slurm_arrays_give_the_same_bytes(fewer: Corpus, slurm: dict[str, str]) -> None:
    assert fewer.build("local") == fewer.build("slurm", slurm, engine="slurm")
    assert not list((fewer.root / "runs" / "slurm" / ".shards").rglob("tasks.jsonl")), "no script is left behind"


@pytest.mark.slow
def test_slurm_finds_the_poison(poisoned: Callable[..., Corpus], slurm: dict[str, str]) -> None:
    corpus = poisoned("POISON-KILL", documents=112)
    corpus.build("poisoned", slurm, engine="slurm", shard_bytes=70_000)
    assert [(row["id"], row["reason"]) for row in corpus.drops("poisoned")] == [(POISONED, KILLED)]
    assert "its Slurm job ended without a result" in corpus.said("poisoned")


@pytest.mark.slow
def test_what_slurm_refuses_is_told(fewer: Corpus, slurm: dict[str, str]) -> None:
    said = fewer.failing("refused", slurm, engine="slurm", address="--partition=nowhere")
    assert "sbatch refuses the array" in said and "invalid partition" in said.lower()


@pytest.mark.slow
def test_the_script_of_an_array_is_one_that_slurm_takes(tmp_path: Path, slurm: dict[str, str]) -> None:
    script = tmp_path / "array.sh"
    script.write_text(_script(tmp_path / "a folder", 1_000, 7, "--time=10 --mem=500M --comment='two words'"))
    asked = subprocess.run(["sbatch", "--test-only", script], env=os.environ | slurm, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert "to start at" in asked.stderr


@pytest.mark.slow
def test_a_job_that_can_never_start_is_told_and_not_waited_for(fewer: Corpus, slurm: dict[str, str]) -> None:
    said = fewer.failing("refused", slurm, engine="slurm", address="--time=90")  # the partition allows 60 minutes
    assert "Slurm will never start job" in said and "PartitionTimeLimit" in said
    assert not _queue(slurm), "nothing stays in the queue"


@pytest.mark.slow
def test_a_killed_build_on_slurm_goes_on_and_its_old_jobs_end(fewer: Corpus, slurm: dict[str, str]) -> None:
    whole = fewer.build("local")
    process = fewer.start("killed", slurm | {"GROUNDUP_TEST_SLOW": "0.3"}, engine="slurm")
    deadline = time.monotonic() + 60
    while not fewer.tasks("killed")["read"] and time.monotonic() < deadline:
        time.sleep(0.05)
    while not (old := _queue(slurm)) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert old
    finished = fewer.stamps("killed")
    assert fewer.build("killed", slurm, engine="slurm") == whole
    assert all(fewer.stamps("killed")[name] == stamp for name, stamp in finished.items())
    arrays = {line.split()[0].partition("_")[0] for line in old}
    left = [line for line in _queue(slurm) if line.split()[0].partition("_")[0] in arrays]
    assert not left, "the killed build's jobs do not go on"  # (the second build's last one may still be ending)


def _queue(slurm: dict[str, str]) -> list[str]:
    asked = ["squeue", "--noheader", "--states=PENDING,RUNNING"]
    return subprocess.run(asked, env=os.environ | slurm, capture_output=True, text=True, check=True).stdout.splitlines()


# ---------------------------------------------------------------- Dask


@pytest.mark.slow
@needs_dask
def test_dask_gives_the_same_bytes_and_finds_the_poison(fewer: Corpus, poisoned: Callable[..., Corpus]) -> None:
    assert fewer.build("local") == fewer.build("dask", engine="dask")
    corpus = poisoned("POISON-KILL")
    corpus.build("poisoned", engine="dask", shard_bytes=60_000)
    assert [(row["id"], row["reason"]) for row in corpus.drops("poisoned")] == [(POISONED, KILLED)]


@pytest.mark.slow
@needs_dask
def test_a_dask_cluster_that_goes_away_is_told_and_the_build_goes_on_elsewhere(fewer: Corpus) -> None:
    whole = fewer.build("local")
    dask = [sys.executable, "-m", "dask"]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "GROUNDUP_TEST_LOG": str(fewer.log("lost"))}
    address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    with ExitStack() as stack:

        def begin(*command: str) -> subprocess.Popen[bytes]:
            started = subprocess.Popen([*dask, *command], env=environment, stderr=subprocess.DEVNULL)
            stack.callback(started.wait)
            stack.callback(started.kill)
            return started

        scheduler = begin("scheduler", "--no-dashboard", "--host", address)
        environment["GROUNDUP_TEST_SLOW"] = "0.05"
        worker = begin("worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny")
        process = fewer.start("lost", {"GROUNDUP_TEST_SILENT": "3"}, engine="dask", address=address)
        deadline = time.monotonic() + 90
        while not fewer.log_text("lost") and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        begun = fewer.log_text("lost")
        worker.kill()  # the only one: Dask itself would wait for another for ever
        worker.wait()
        _, said = process.communicate(timeout=120)
        assert process.returncode == 3 and "has no worker any more" in said, said

        begin("worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny")
        process = fewer.start("lost", engine="dask", address=address)
        while fewer.log_text("lost") == begun and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        scheduler.kill()
        _, said = process.communicate(timeout=120)
        assert process.returncode == 3 and "the Dask scheduler is gone" in said, said
    assert fewer.build("lost") == whole


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("dask", "distributed")])
def test_an_engine_that_is_not_installed_says_what_to_install(
    engine: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    settings = CorpusSettings(sources={"a": {"type": "text", "path": "x"}}, engine=engine)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"pip install 'groundup\\[{engine}\\]'"), open_engine(settings):
        pass


def test_slurm_without_sbatch_says_where_it_must_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = CorpusSettings(sources={"a": {"type": "text", "path": "x"}}, engine="slurm")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="login node"), open_engine(settings):
        pass


# ---------------------------------------------------------------- a Ray cluster of two nodes


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    with ray_cluster(tmp_path) as made:
        yield made


@contextmanager
def ray_cluster(tmp_path: Path, **environment: str) -> Iterator[Any]:
    """A head node without CPUs and two nodes with one each, all on this machine."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ |= environment
    os.environ |= {"PYTHONPATH": PYTHONPATH, "GROUNDUP_TEST_LOG": str(tmp_path / "cluster.log"), "RAY_DEDUP_LOGS": "0"}
    sizes: dict[str, Any] = {"object_store_memory": 100_000_000, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **sizes})
    made.nodes = [made.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(2)]
    try:
        yield made
    finally:
        made.shutdown()
        os.environ.clear()
        os.environ |= before


def _ray_workers() -> list[psutil.Process]:
    """The processes of Ray that do a task of ours just now."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        if "ray::_attempt" in " ".join(one.info["cmdline"] or []):
            found.append(one)
    return found


@pytest.mark.slow
@needs_ray
def test_a_two_node_ray_cluster_gives_the_same_bytes_and_survives_its_workers_and_a_node(
    corpus: Corpus, cluster: Any
) -> None:
    whole = corpus.build("local")
    on_ray = {"engine": "ray", "address": cluster.address, "workers": None}
    assert corpus.build("ray", **on_ray) == whole

    os.environ["GROUNDUP_TEST_SLOW"] = "0.02"  # for the workers, which are the cluster's children
    process = corpus.start("killed", engine="ray", address=cluster.address, workers=None)
    deadline = time.monotonic() + 120
    killed = 0
    while process.poll() is None and killed < 1 and time.monotonic() < deadline:
        for worker in _ray_workers()[:1]:
            worker.send_signal(signal.SIGKILL)
            killed += 1
        time.sleep(0.05)
    cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)
    cluster.nodes.append(cluster.add_node(num_cpus=1, object_store_memory=100_000_000))
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert killed == 1
    assert "it is tried again" in said
    assert out.split()[-1] == whole


@pytest.mark.slow
@needs_ray
def test_begun_on_this_machine_and_finished_on_the_cluster(corpus: Corpus, cluster: Any) -> None:
    whole = corpus.build("local")
    corpus.slow = 0.01
    process = corpus.start("moved")
    deadline = time.monotonic() + 120
    while not corpus.tasks("moved")["extract"] and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_everything(process)
    finished = corpus.stamps("moved")
    assert finished
    assert corpus.build("moved", engine="ray", address=cluster.address, workers=None) == whole
    assert all(corpus.stamps("moved")[name] == stamp for name, stamp in finished.items())


@pytest.mark.slow
@needs_ray
def test_everything_killed_on_the_cluster_goes_on(corpus: Corpus, cluster: Any) -> None:
    whole = corpus.build("local")
    on_ray = {"engine": "ray", "address": cluster.address, "workers": None}
    process = corpus.start("killed", **on_ray)
    deadline = time.monotonic() + 120
    while not corpus.tasks("killed")["extract"] and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_everything(process)
    for worker in _ray_workers():
        worker.kill()
    time.sleep(1)
    finished = corpus.stamps("killed")
    assert finished
    assert corpus.build("killed", **on_ray) == whole
    assert all(corpus.stamps("killed")[name] == stamp for name, stamp in finished.items())


@pytest.mark.slow
@needs_ray
def test_a_task_that_rays_memory_monitor_ends_is_a_death_and_no_hang(corpus: Corpus, tmp_path: Path) -> None:
    strict = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "50"}  # ends whatever it sees
    with ray_cluster(tmp_path, **strict, GROUNDUP_TEST_SLOW="0.1") as cluster:
        said = corpus.failing("starved", engine="ray", address=cluster.address, workers=None)
    assert "Ray ended its worker, as the node ran out of memory; it is tried again" in said
    assert "ended 3 times without a result" in said and "look for a lack of memory" in said


@pytest.mark.slow
@needs_ray
def test_a_ray_cluster_that_loses_all_its_nodes_is_told(corpus: Corpus, cluster: Any) -> None:
    os.environ["GROUNDUP_TEST_SLOW"] = "0.02"
    silent = {"GROUNDUP_TEST_SILENT": "4"}
    process = corpus.start("lost", silent, engine="ray", address=cluster.address, workers=None)
    deadline = time.monotonic() + 120
    while not corpus.tasks("lost")["extract"] and time.monotonic() < deadline:
        time.sleep(0.05)
    while cluster.nodes:
        cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 3 and "no node with a CPU" in said, said
    finished = corpus.stamps("lost")
    assert corpus.build("lost") == corpus.build("local")
    assert all(corpus.stamps("lost")[name] == stamp for name, stamp in finished.items())


@pytest.mark.slow
@needs_ray
def test_ray_finds_the_poison(poisoned: Callable[..., Corpus], cluster: Any) -> None:
    corpus = poisoned("POISON-KILL")
    corpus.build("poisoned", engine="ray", address=cluster.address, workers=None, shard_bytes=30_000)
    assert [(row["id"], row["reason"]) for row in corpus.drops("poisoned")] == [(POISONED, KILLED)]
    assert len(corpus.documents("poisoned")) == DOCUMENTS - 1
