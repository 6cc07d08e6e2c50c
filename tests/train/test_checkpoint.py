"""Checkpoints: whole or not there, verified before they are trusted, never pickle."""

from __future__ import annotations

import errno
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from groundup.artifacts import read_json, write_json
from groundup.console import Console
from groundup.environment import available_memory_bytes, memory_bytes
from groundup.errors import Stopped, UserError
from groundup.model.tensor_files import write_safetensors
from groundup.stopping import StopRequest
from groundup.train import checkpoint, checkpoint_files, checkpoint_storage
from groundup.train.checkpoint import Checkpoints, TrainState
from groundup.train.checkpoint_files import MARKER, damage_of
from groundup.train.checkpoint_tensors import saved_weights
from groundup.train.engine import train
from groundup.train.metrics import MetricsFile, read_metrics
from groundup.train.optim import build_optimizers, moments
from groundup.train.step import train_step
from groundup.train.world import World

from .engine_parts import StopAt, context_in, equal_weights, next_token, options, tiny_decoder, train_tiny, write_shards

WEIGHTS, MOMENTS = "model-00000.safetensors", "optimizer-00000.safetensors"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def train_again(folder: Path, shards: Path, **changes: Any) -> tuple[torch.nn.Module, str]:
    """Go on in `folder`; returns the model and what the person was told."""
    told = io.StringIO()
    model = tiny_decoder()
    train(model, next_token(shards), options(**changes), context_in(folder, console=Console(told)))
    return model, told.getvalue()


def test_a_checkpoint_is_safetensors_and_json_with_every_hash(tmp_path: Path, shards: Path) -> None:
    model, _ = train_tiny(tmp_path, shards)
    checkpoint = tmp_path / "checkpoints" / "checkpoint-12"
    names = {WEIGHTS, MOMENTS, "tensors.json", "objective.json", "state.json", MARKER}
    assert {path.name for path in checkpoint.iterdir()} == names
    assert set(read_json(checkpoint / MARKER)["sha256"]) == names - {MARKER}
    assert damage_of(checkpoint) is None
    saved = load_file(checkpoint / WEIGHTS)  # the library reads what our writer wrote
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    assert set(saved) == set(model.state_dict())
    state = read_json(checkpoint / "state.json")
    assert (state["step"], state["tokens"], state["total_steps"]) == (12, 1536, 12)


def test_the_newest_few_are_kept(tmp_path: Path, shards: Path) -> None:
    train_tiny(tmp_path, shards, save_steps=3, save_total_limit=3)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {f"checkpoint-{n}" for n in (6, 9, 12)}


def test_the_first_step_is_saved_and_read_back(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses what it is given shows at step 1."""

    def forgetful(path: Path, *what: Any) -> str:
        sha256 = write_safetensors(path, *what)
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
        return sha256

    monkeypatch.setattr(checkpoint_storage, "write_safetensors", forgetful)
    with pytest.raises(UserError, match="first checkpoint does not read back"):
        train_tiny(tmp_path, shards, save_steps=1000)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


DAMAGES = {
    "a flipped bit": (lambda c: flip(c / WEIGHTS), f"{WEIGHTS} is not what was written"),
    "a cut file": (lambda c: cut(c / MOMENTS), f"{MOMENTS} is not what was written"),
    "a missing file": (lambda c: (c / "objective.json").unlink(), "objective.json is missing"),
    "no marker": (lambda c: (c / MARKER).unlink(), "no COMPLETE"),
    "half a marker": (lambda c: cut(c / MARKER), "COMPLETE cannot be read"),
    "a flipped bit in the marker": (lambda c: flip(c / MARKER, b"false"), "COMPLETE cannot be read"),
    "another name in the marker": (lambda c: flip(c / MARKER, b"milestone"), "COMPLETE cannot be read"),
    "another blank in the marker": (lambda c: swap(c / MARKER, b": false", b":\tfalse"), "COMPLETE is not what was"),
    "another step": (lambda c: write_json(c / "state.json", {"step": 3}), "state.json is not what was written"),
}


def flip(path: Path, after: bytes = b"") -> None:
    data = bytearray(path.read_bytes())
    data[data.index(after) + len(after) - 1 if after else -1] ^= 1
    path.write_bytes(data)


def swap(path: Path, one: bytes, other: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(one, other))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    tmp_path: Path, shards: Path, damage: str
) -> None:
    whole, _ = train_tiny(tmp_path / "whole", shards, max_steps=14)
    train_tiny(tmp_path / "run", shards, max_steps=14)
    break_it, message = DAMAGES[damage]
    break_it(tmp_path / "run" / "checkpoints" / "checkpoint-14")
    model, told = train_again(tmp_path / "run", shards, max_steps=14)
    assert f"warning: checkpoint-14 is damaged ({message}" in told
    assert "); checkpoint-12 is used" in told
    assert "going on from step 12" in told
    assert equal_weights(whole, model)
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == list(range(1, 15))


def test_leftovers_of_a_cut_off_save_are_cleared(tmp_path: Path, shards: Path) -> None:
    train_tiny(tmp_path, shards)
    for name in (".checkpoint-16.tmp", ".checkpoint-8.gone"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / WEIGHTS).write_bytes(b"half")
    train_again(tmp_path, shards)
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_other_settings_are_refused_by_name_and_presentation_is_free(tmp_path: Path, shards: Path) -> None:
    train_tiny(tmp_path, shards)
    with pytest.raises(UserError) as caught:
        train_again(tmp_path, shards, learning_rate=1e-3, weight_decay=0.5)
    assert "learning_rate 0.003 -> 0.001, weight_decay 0.0 -> 0.5" in str(caught.value)
    assert "delete" in str(caught.value)
    train_again(tmp_path, shards, save_steps=7, logging_steps=3, save_total_limit=1)


def test_another_model_is_refused(tmp_path: Path, shards: Path) -> None:
    train_tiny(tmp_path, shards)
    with pytest.raises(UserError, match="parameters are not the model's"):
        train(tiny_decoder(num_hidden_layers=3), next_token(shards), options(), context_in(tmp_path))
    with pytest.raises(UserError, match=r"parameters are not the model's: model\.layers\.0\.mlp\.down_proj\.weight"):
        train(tiny_decoder(intermediate_size=96), next_token(shards), options(), context_in(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_any_tensor_survives_the_writer(tmp_path: Path, dtype: torch.dtype) -> None:
    values = {
        "scalar": torch.tensor(3).to(dtype),
        "empty": torch.zeros(0, 3).to(dtype),
        "transposed": torch.arange(6).reshape(2, 3).to(dtype).T,
    }
    write_safetensors(tmp_path / "x.safetensors", values)
    for name, value in load_file(tmp_path / "x.safetensors").items():
        assert value.dtype == dtype
        assert torch.equal(value, values[name])


def test_metrics_are_cut_back_to_the_step_and_half_a_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    for step in range(1, 6):
        file.write({"step": step, "loss": 1 / 3, "grad_norm": float("inf")})
    file.close()
    with path.open("a") as half:
        half.write('{"step": 6, "lo')
    again = MetricsFile(path, 3)
    again.write({"step": 4, "loss": 0.25})
    again.close()
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]
    assert read_metrics(path)[0] == {"step": 1, "loss": 0.3333333, "grad_norm": None}


def test_a_run_can_go_back_to_an_earlier_checkpoint(tmp_path: Path, shards: Path) -> None:
    """Model, moments and step are those of the checkpoint, and what came after it is gone."""
    earlier, _ = train_tiny(tmp_path / "earlier", shards, lr_scheduler="constant", max_steps=8)
    train_tiny(tmp_path / "run", shards, lr_scheduler="constant", save_total_limit=9)
    model, setup = tiny_decoder(), options(lr_scheduler="constant")
    optimizers = build_optimizers(model, optimizer="adamw", weight_decay=0.0)
    checkpoints = Checkpoints(
        tmp_path / "run" / "checkpoints", model, optimizers, setup.configuration(), Console(quiet=True), keep=9
    )
    assert checkpoints.restore() is not None
    assert checkpoints.rewind(0) is None
    found = checkpoints.rewind(11)
    assert found is not None
    assert found[0].step == 8
    assert equal_weights(model, earlier)
    assert {path.name for path in checkpoints.folder.iterdir()} == {f"checkpoint-{n}" for n in (1, 4, 8)}
    found[0].guards["skipped"] = [[9, 10]]
    checkpoints.save(*found)
    again = checkpoints.restore()
    assert again is not None
    assert again[0] == found[0]
    assert equal_weights(model, earlier)


# ---------------------------------------------------------------- in the background


class Slow:
    """A disk that writes nothing until it is let go; it counts how many writes are under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.started = threading.Event(), threading.Event()
        self.busy = self.most = 0
        self.error: OSError | None = None
        monkeypatch.setattr(checkpoint_storage, "write_safetensors", self.write)

    def write(self, path: Path, *what: Any) -> str:
        self.busy += 1
        self.most = max(self.most, self.busy)
        self.started.set()
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error
        sha256 = write_safetensors(path, *what)
        self.busy -= 1
        return sha256


def checkpoints_of(model: torch.nn.Module, folder: Path, **changes: Any) -> Checkpoints:
    optimizers = build_optimizers(model, optimizer="adamw", weight_decay=0.0)
    return Checkpoints(folder, model, optimizers, {}, Console(quiet=True), **{"keep": 9, **changes})


def step_on(checkpoints: Checkpoints, shards: Path, state: TrainState) -> dict[str, torch.Tensor]:
    """One update; a copy of all that is saved then."""
    train_step(checkpoints.model, next_token(shards), checkpoints.optimizers, options(), state)
    live = saved_weights(checkpoints.model) | moments(checkpoints.optimizers, checkpoints.model)
    return {name: value.clone() for name, value in live.items()}


def saved_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / WEIGHTS) | load_file(checkpoint / MOMENTS)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def test_training_goes_on_while_a_save_is_written_and_what_is_written_is_of_its_step(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, checkpoints = Slow(monkeypatch), checkpoints_of(tiny_decoder(), tmp_path)
    state, then = TrainState(total_steps=12), {}
    for number in (1, 2, 3):
        then[number] = step_on(checkpoints, shards, state)
        if number == 1:
            checkpoints.save(state, {"generator": torch.arange(3)}, wait=False)
    assert disk.started.wait(60) and not checkpoints.has_failed
    assert not (tmp_path / "checkpoint-1").exists()
    disk.go.set()
    checkpoints.save(state, {}, wait=False)  # waits for the first, and takes its memory
    then[4] = step_on(checkpoints, shards, state)
    checkpoints.close()
    assert disk.most == 1
    assert same(saved_in(tmp_path / "checkpoint-1"), then[1])
    assert same(saved_in(tmp_path / "checkpoint-3"), then[3])
    assert not same(then[1], then[3])


def test_a_save_that_fails_in_the_background_ends_the_run_at_the_next_step(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Slow(monkeypatch)
    disk.go.set()

    class FullAt(StopAt):
        def micro_batches(self, step: int, model: Any) -> list[Any]:
            if step + 1 == 8:
                disk.error = OSError(errno.ENOSPC, "No space left on device")
            if step + 1 == 10:  # the save of step 8 has met its fate by now
                while any(thread.name == "checkpoint" for thread in threading.enumerate()):
                    time.sleep(0.01)
            return super().micro_batches(step, model)

    objective = FullAt(next_token(shards), StopRequest(), 99)
    with pytest.raises(UserError) as caught:
        train(tiny_decoder(), objective, options(max_steps=40), context_in(tmp_path))
    assert "the disk is full" in str(caught.value)
    assert "checkpoint-4 is kept, and the same command goes on from it" in str(caught.value)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")][-1] in (9, 10)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-1", "checkpoint-4"}
    disk.error = None
    whole, _ = train_tiny(tmp_path / "whole", shards, max_steps=40)
    resumed, _ = train_tiny(tmp_path, shards, max_steps=40)
    assert equal_weights(whole, resumed)


def test_a_failure_in_the_background_does_not_hide_what_ended_the_run(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, told = Slow(monkeypatch), io.StringIO()
    disk.go.set()

    class Broken(StopAt):
        def micro_batches(self, step: int, model: Any) -> list[Any]:
            if step + 1 == 4:
                disk.error = OSError(errno.ENOSPC, "No space left on device")
                disk.go.clear()
            if step + 1 == 5:
                disk.go.set()
                raise ValueError("of the objective")
            return super().micro_batches(step, model)

    objective = Broken(next_token(shards), StopRequest(), 99)
    with pytest.raises(ValueError, match="of the objective"):
        train(tiny_decoder(), objective, options(), context_in(tmp_path, console=Console(told)))
    assert "warning" in told.getvalue() and "the disk is full" in told.getvalue()


def test_without_memory_for_a_copy_saving_is_waited_for(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = io.StringIO()
    monkeypatch.setattr(checkpoint, "available_memory_bytes", lambda: 1000)
    checkpoints = checkpoints_of(tiny_decoder(), tmp_path)
    checkpoints.console = Console(told)
    state = TrainState(total_steps=12)
    for _ in range(2):
        then = step_on(checkpoints, shards, state)
        checkpoints.save(state, {}, wait=False)
        assert same(saved_in(tmp_path / f"checkpoint-{state.step}"), then)
    assert told.getvalue().count("training waits while a checkpoint is written") == 1


def test_memory_that_is_free_is_some_and_not_more_than_there_is() -> None:
    assert 0 < available_memory_bytes() < memory_bytes()


# ---------------------------------------------------------------- what is kept


def test_milestones_are_kept_for_good(tmp_path: Path, shards: Path) -> None:
    train_tiny(tmp_path, shards, max_steps=14, save_steps=4, milestone_steps=5, save_total_limit=1)
    folder = tmp_path / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {f"checkpoint-{n}" for n in (5, 10, 14)}
    whole, _ = train_tiny(tmp_path / "whole", shards, max_steps=14, save_steps=100)
    checkpoint_files.remove(folder / "checkpoint-14")
    model, told = train_again(tmp_path, shards, max_steps=14, save_total_limit=1)  # and one can go on from them
    assert "going on from step 10" in told and equal_weights(model, whole)
    assert {path.name for path in folder.iterdir()} == {f"checkpoint-{n}" for n in (5, 10, 14)}
    checkpoint_files.clear(folder)
    assert {path.name for path in folder.iterdir()} == {"checkpoint-5", "checkpoint-10"}


def test_when_a_stage_is_done_nothing_else_is_kept(tmp_path: Path, shards: Path) -> None:
    train_tiny(tmp_path, shards)
    (tmp_path / "checkpoints" / ".checkpoint-16.tmp").mkdir()
    checkpoint_files.clear(tmp_path / "checkpoints")
    assert not (tmp_path / "checkpoints").exists()
    checkpoint_files.clear(tmp_path / "checkpoints")


# ---------------------------------------------------------------- damage


def test_where_all_are_damaged_nothing_is_removed_and_the_run_stops(tmp_path: Path, shards: Path) -> None:
    train_tiny(tmp_path, shards)
    folder = tmp_path / "checkpoints"
    cut(folder / "checkpoint-12" / WEIGHTS)
    (folder / "checkpoint-8" / "tensors.json").unlink()
    with pytest.raises(UserError) as caught:
        train_again(tmp_path, shards)
    assert "no checkpoint is whole: checkpoint-12: model-00000.safetensors is not what was written" in str(caught.value)
    assert "checkpoint-8: tensors.json is missing" in str(caught.value)
    assert "delete the folder to train from the start" in str(caught.value)
    assert {path.name for path in folder.iterdir()} == {"checkpoint-8", "checkpoint-12"}


def test_where_only_the_first_step_is_lost_training_starts_anew(tmp_path: Path, shards: Path) -> None:
    stop = StopRequest()
    with pytest.raises(Stopped):
        train(tiny_decoder(), StopAt(next_token(shards), stop, 1), options(), context_in(tmp_path, stop=stop))
    flip(tmp_path / "checkpoints" / "checkpoint-1" / WEIGHTS)
    whole, _ = train_tiny(tmp_path / "whole", shards)
    model, told = train_again(tmp_path, shards)
    assert "checkpoint-1 is damaged" in told and "training starts anew" in told
    assert equal_weights(model, whole)


def test_the_proof_compares_every_number_with_the_living_one(tmp_path: Path, shards: Path) -> None:
    """Files that are what was written, of something else than what was to be saved."""
    checkpoints, state = checkpoints_of(tiny_decoder(), tmp_path), TrainState(total_steps=12)
    step_on(checkpoints, shards, state)
    checkpoints.save(state, {})
    checkpoints.prove(state)
    with torch.no_grad():
        dict(checkpoints.model.named_parameters())["model.norm.weight"][3] += 1e-7
    with pytest.raises(UserError, match=r"model\.norm\.weight comes back as something else"):
        checkpoints.prove(state)


def test_names_are_those_of_the_model_however_it_is_wrapped(tmp_path: Path) -> None:
    """Compiling or recomputing may be switched on between attempts."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    plain, wrapped = tiny_decoder(0), tiny_decoder(1)
    for layers in (wrapped.model.layers,):
        layers[0] = torch.compile(checkpoint_wrapper(layers[0]))  # type: ignore[assignment]
    checkpoints_of(plain, tmp_path).save(TrainState(step=1), {})
    assert checkpoints_of(wrapped, tmp_path).restore() is not None
    pairs = zip(plain.parameters(), wrapped.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert set(saved_weights(plain)) == set(saved_weights(wrapped))


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_however_many_processes_train_the_rows_of_a_step_are_the_same(shards: Path, size: int) -> None:
    objective = next_token(shards, 2)  # 4 micro-batches a step
    for step in range(5):
        seen = []
        for rank in range(size):
            world = World()
            world.data_rank, world.data_size = rank, size
            share = world.share(objective.micro_batches(step, None))
            assert len(share) == -(-4 // size)
            seen += [tuple(row) for batch, is_counted in share if is_counted for row in batch["input_ids"].tolist()]
        assert sorted(seen) == sorted(tuple(row) for row in objective.batches.batch(step).input_ids.tolist())
