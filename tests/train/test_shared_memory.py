"""Several processes on one machine train one model in shared memory: the same training, whoever does which part."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from groundup import meeting as meeting_module
from groundup.artifacts import StageContext
from groundup.console import Console
from groundup.errors import EXIT_STOPPED, Stopped
from groundup.meeting import ROOM, Meeting, forget, shared_file
from groundup.stopping import StopRequest
from groundup.team import Helped, Team
from groundup.train.engine import train
from groundup.train.metrics import read_metrics
from groundup.train.muon import Muon
from groundup.train.shares import divide, sum_into

from .engine_parts import ROWS, next_token, options, tiny_decoder, write_shards

FORK = multiprocessing.get_context("fork")  # a process of its own would import torch for two seconds


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def in_processes(size: int, work: Callable[[int, Meeting], Any], seconds: float = 60) -> list[Any]:
    """By rank: what `work(rank, meeting)` returned, the text of what it raised, or the exit code of one killed."""
    descriptor, path = shared_file(ROOM * size)
    results = [FORK.Pipe(duplex=False) for _ in range(size)]

    def child(rank: int) -> None:
        torch.set_num_threads(1)
        try:
            result = work(rank, Meeting.join(path, rank, size))
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        results[rank][1].send(result)

    processes = [FORK.Process(target=child, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    found: list[Any] = []
    until = time.monotonic() + seconds
    for process, (receiving, _) in zip(processes, results, strict=True):
        while not receiving.poll(0.02) and process.is_alive() and time.monotonic() < until:
            pass
        found.append(receiving.recv() if receiving.poll(0.1) else process.exitcode)
    for process in processes:
        process.kill()
        process.join()
    os.close(descriptor)
    forget(path)
    return found


# ---------------------------------------------------------------- meeting


def test_everyone_sees_what_everyone_gave_in_the_order_of_the_ranks() -> None:
    def work(rank: int, meeting: Meeting) -> Any:
        rounds = [meeting.exchange([rank, number, rank / 3 + number]) for number in range(200)]
        long = meeting.exchange("x" * 3000 * rank)
        return rounds, [len(text) for text in long]

    for rounds, lengths in in_processes(3, work):
        assert rounds == [[[rank, number, rank / 3 + number] for rank in range(3)] for number in range(200)]
        assert lengths == [0, 3000, 6000]


def test_a_killed_process_ends_the_wait_of_the_others() -> None:
    def work(rank: int, meeting: Meeting) -> Any:
        meeting.barrier()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        meeting.barrier()

    started = time.monotonic()
    first, killed, third = in_processes(3, work)
    assert killed == -signal.SIGKILL
    assert first == third
    assert "process 1 of the 3 that train together has ended" in first
    assert time.monotonic() - started < 30  # and not for ever


def test_a_failure_is_told_to_the_others() -> None:
    def work(rank: int, meeting: Meeting) -> Any:
        if rank == 1:
            meeting.fail(rank, "no such file: rows.jsonl")
            time.sleep(1)
            return None
        meeting.barrier()

    assert in_processes(2, work)[0] == "PeerLost: process 1 of 2 failed: no such file: rows.jsonl"


def test_shared_memory_leaves_no_file_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where the system has no files without a name."""
    monkeypatch.setattr(meeting_module.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delattr(os, "memfd_create")

    def work(rank: int, meeting: Meeting) -> Any:
        block = meeting_module.map_common(meeting, 100)
        block[rank] = rank + 7
        meeting.barrier()
        return bytes(block[:2]), len(list(tmp_path.iterdir()))

    assert in_processes(2, work) == [(bytes([7, 8]), 0)] * 2
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- who updates what


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=12), size=st.integers(1, 5)
)
def test_every_element_is_updated_by_exactly_one_process(shapes: list[tuple[int, int]], size: int) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    half = len(parameters) // 2
    optimizers = [torch.optim.AdamW(parameters[half:])] + ([Muon(parameters[:half])] if half else [])
    shares = divide(optimizers, {p: index for index, p in enumerate(parameters)}, size)
    for of_rank in shares:
        for share in of_rank:
            for piece in share:
                piece.of(parameters[piece.index].data).add_(1)
                assert piece.is_whole or piece.index >= half, "Muon needs whole matrices"
    assert all(bool((parameter == 1).all()) for parameter in parameters)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_sum_over_buffers_is_made_in_their_order(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sources = [torch.randn(300_001, generator=generator) for _ in range(size)]
    expected = sources[0].clone()
    for source in sources[1:]:
        expected += source
    target = sources[-1]
    square = sum_into(target, sources)
    assert torch.equal(target, expected)
    assert square == pytest.approx(float(expected.double().square().sum()), rel=1e-5)


# ---------------------------------------------------------------- training


def trained(
    folder: Path,
    shards: Path,
    size: int,
    *,
    micro_batch_size: int = 2,
    kill: tuple[int, int] | None = None,
    kill_after: tuple[int, float] | None = None,
    **changes: Any,
) -> list[Any]:
    """Train in `size` processes in `folder`; by rank: what came of it. The model is kept in `weights.pt`.

    `kill`: (rank, step) at which a process is killed; `kill_after`: (rank, seconds), wherever it is then.
    """

    def work(rank: int, meeting: Meeting) -> Any:
        if kill_after is not None and kill_after[0] == rank:
            threading.Timer(kill_after[1], os.kill, (os.getpid(), signal.SIGKILL)).start()
        own = folder if rank == 0 else folder / f".scratch-{rank}"
        own.mkdir(parents=True, exist_ok=True)
        stop, common = StopRequest(), None if rank == 0 else folder
        team = Team(rank, size, threads=1, meeting=meeting)
        context = StageContext("base", own, {}, 7, own, Console(quiet=True), stop, folder, common, team)
        model, objective = tiny_decoder(), next_token(shards, micro_batch_size)
        stop_at = changes.pop("stop_at", None)

        class Disturbed(type(objective)):  # type: ignore[misc]
            def micro_batches(self, step: int, model: Any) -> list[Any]:
                if kill == (rank, step):
                    os.kill(os.getpid(), signal.SIGKILL)
                if stop_at == (rank, step):
                    stop.request(EXIT_STOPPED)
                return super().micro_batches(step, model)  # type: ignore[no-any-return]

        objective.__class__ = Disturbed
        try:
            result = train(model, objective, options(**changes), context)
        except Helped:
            return "helped"
        except Stopped as stopped:
            return f"stopped with {stopped.exit_code}"
        torch.save(model.state_dict(), folder / "weights.pt")
        return result.steps

    if size == 1:
        return [work(0, Meeting.open(1))]
    return in_processes(size, work)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)  # type: ignore[no-any-return]


def difference(one: Path, other: Path) -> float:
    pairs = zip(weights(one).values(), weights(other).values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def trace(folder: Path, *names: str) -> list[float]:
    return [row[name] for row in read_metrics(folder / "metrics.jsonl") for name in names]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("size", [2, 3])
def test_many_processes_train_what_one_does(shards: Path, tmp_path: Path, size: int, optimizer: str) -> None:
    """Three do not divide four micro-batches: one of them repeats one that counts nothing."""
    assert ROWS == 8
    settings = {"optimizer": optimizer, "weight_decay": 0.1, "max_grad_norm": 0.5}
    trained(tmp_path / "one", shards, 1, **settings)
    assert trained(tmp_path / "many", shards, size, **settings) == [12, *["helped"] * (size - 1)]
    assert trace(tmp_path / "many", "loss") == pytest.approx(trace(tmp_path / "one", "loss"), rel=1e-5)
    # Muon's products are in bfloat16: a last bit in a gradient becomes a third digit in an update
    within = 1e-4 if optimizer == "muon" else 1e-5
    assert trace(tmp_path / "many", "grad_norm") == pytest.approx(trace(tmp_path / "one", "grad_norm"), rel=within)
    assert trace(tmp_path / "many", "tokens") == trace(tmp_path / "one", "tokens")
    assert difference(tmp_path / "many", tmp_path / "one") < 10 * within


def test_the_same_number_of_processes_gives_the_same_bits_also_after_kills(shards: Path, tmp_path: Path) -> None:
    settings = {"optimizer": "muon", "save_steps": 3}
    trained(tmp_path / "whole", shards, 2, **settings)
    for kill in ((1, 1), (1, 5), (0, 8)):
        results = trained(tmp_path / "killed", shards, 2, kill=kill, **settings)
        assert results[kill[0]] == -signal.SIGKILL
        assert "has ended" in results[1 - kill[0]]
    assert trained(tmp_path / "killed", shards, 2, **settings) == [12, "helped"]
    assert difference(tmp_path / "killed", tmp_path / "whole") == 0
    assert trace(tmp_path / "killed", "step", "loss") == trace(tmp_path / "whole", "step", "loss")


def test_kills_at_random_moments_change_no_bit(shards: Path, tmp_path: Path) -> None:
    settings = {"optimizer": "muon", "save_steps": 2, "max_steps": 40}
    started = time.monotonic()
    trained(tmp_path / "whole", shards, 2, **settings)
    seconds, chance, killed = time.monotonic() - started, random.Random(3), 0
    for _ in range(8):
        rank = chance.randrange(2)
        results = trained(tmp_path / "run", shards, 2, kill_after=(rank, chance.uniform(0, seconds / 2)), **settings)
        killed += results[rank] == -signal.SIGKILL
        if results[0] == 40:
            break
    assert killed
    assert trained(tmp_path / "run", shards, 2, **settings) == [40, "helped"]
    assert difference(tmp_path / "run", tmp_path / "whole") == 0
    assert trace(tmp_path / "run", "step", "loss") == trace(tmp_path / "whole", "step", "loss")


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (3, 2)])
def test_a_checkpoint_is_gone_on_from_by_any_number_of_processes(
    shards: Path, tmp_path: Path, first: int, then: int
) -> None:
    trained(tmp_path / "one", shards, 1, optimizer="muon")
    stopped = trained(tmp_path / "run", shards, first, optimizer="muon", stop_at=(first - 1, 5))
    assert stopped == ["stopped with 75"] * first, "whoever is asked to stop, all of them do"
    assert trained(tmp_path / "run", shards, then, optimizer="muon")[0] == 12
    assert trace(tmp_path / "run", "step") == list(range(1, 13))
    assert trace(tmp_path / "run", "loss") == pytest.approx(trace(tmp_path / "one", "loss"), rel=1e-5)


def test_a_loss_that_is_not_finite_ends_all_with_the_name_of_what_is_to_blame(shards: Path, tmp_path: Path) -> None:
    results = trained(tmp_path, shards, 2, learning_rate=1e30, warmup_steps=0, max_grad_norm=1e30)
    assert results[0] == results[1]
    assert "step 2: " in results[0]
    assert "topped before the update" in results[0]
