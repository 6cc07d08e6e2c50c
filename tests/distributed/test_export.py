"""A model that lies in several processes is saved as the folder that one process would have saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from groundup.errors import UserError
from groundup.model.decoder import Decoder
from groundup.model.files import load_deferred, load_model, save_model
from groundup.model.heads import ScalarModel, load_scalar_model
from groundup.model.init import init_weights
from groundup.train.layout import Layout

from .processes import Failed, Processes
from .test_matrix import LAYOUTS, OF_FOUR, QWEN3
from .work import save_in, tiny


def expected(**fields: object) -> Decoder:
    model = Decoder(tiny(**fields))
    init_weights(model, 0)
    return model


def assert_same(folder: Path, model: torch.nn.Module) -> None:
    loaded = load_model(folder) if isinstance(model, Decoder) else load_scalar_model(folder)
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_and_their_index_hold_the_very_weights_of_one_process(
    two: Processes, layout: str, tmp_path: Path
) -> None:
    """Weights that are made by name are those of one process, however they are laid out; tied and uneven."""
    held = two(save_in, LAYOUTS[layout], str(tmp_path), {}, 9e3)
    assert_same(tmp_path, expected())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files and len(files) > 3
    assert index["metadata"]["total_size"] == 4 * expected().config.parameters()
    if layout != "hsdp 2x1":
        assert max(held) < 0.75 * expected().config.parameters()  # each process held its part only


def test_transformers_reads_it(two: Processes, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    two(save_in, Layout(tensor_parallel_size=2), str(tmp_path), QWEN3, 2e4)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        ours = expected(**QWEN3)
        assert torch.allclose(theirs(ids).logits, ours.logits(ours(ids)), atol=1e-5)
        assert theirs.generation_config.temperature == 0.5


def test_a_small_model_is_one_file_as_always(two: Processes, tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00009.safetensors").write_bytes(b"of an earlier save")
    two(save_in, Layout(dp_shard_size=2), str(tmp_path), {}, 5e9)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    assert_same(tmp_path, expected())
    alone = tmp_path / "alone"
    save_model(expected(), alone, generation={"temperature": 0.5})
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / name).read_text() == (alone / name).read_text()


def test_reward_models_are_saved_the_same_way(two: Processes, tmp_path: Path) -> None:
    two(save_in, Layout(dp_shard_size=2), str(tmp_path), {}, 2e4, True)
    assert_same(tmp_path, ScalarModel.from_decoder(expected(), seed=0))


def test_a_disk_that_refuses_is_told_by_every_process(two: Processes, tmp_path: Path) -> None:
    """And not by one while the others wait."""
    (tmp_path / "model-00001-of-00001.safetensors").mkdir()  # a folder where the file should be
    with pytest.raises(Failed, match="model-00001-of-00001"):
        two(save_in, Layout(dp_shard_size=2), str(tmp_path), {}, 5e9)


@pytest.mark.slow
@pytest.mark.parametrize("layout", OF_FOUR)
def test_four_processes(four: Processes, layout: str, tmp_path: Path) -> None:
    four(save_in, OF_FOUR[layout], str(tmp_path), QWEN3, 2e4)
    assert_same(tmp_path, expected(**QWEN3))


def test_a_deferred_model_is_checked_before_it_is_filled(tmp_path: Path) -> None:
    save_model(expected(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(UserError, match=r"config\.json makes it \[97, 64\]"):
        load_deferred(tmp_path)
