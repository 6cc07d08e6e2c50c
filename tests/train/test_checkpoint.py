"""Checkpoints: whole or not there, verified before they are trusted, never pickle."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from groundup.artifacts import read_json, write_json
from groundup.console import Console
from groundup.errors import UserError
from groundup.model.tensor_files import write_safetensors
from groundup.train.checkpoint import Checkpoints
from groundup.train.checkpoint_files import MARKER, damage_of
from groundup.train.engine import train
from groundup.train.metrics import MetricsFile, read_metrics
from groundup.train.optim import build_optimizers

from .engine_parts import context_in, equal_weights, next_token, options, tiny_decoder, train_tiny, write_shards


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
    from groundup.train import checkpoint_storage

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
    "another step": (lambda c: write_json(c / "state.json", {"step": 3}), "state.json is not what was written"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


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
    assert f"warning: checkpoint-14 is damaged ({message}); checkpoint-12 is used" in told
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
