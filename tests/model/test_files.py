"""Hugging Face folders: both ways, in shards, tied; and what a person is told when a folder does not fit."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundup.errors import UserError
from groundup.model.config import model_config
from groundup.model.files import copy_tokenizer_files, load_config, load_model, require_same_vocabulary, save_model


def assert_same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_saved_model_comes_back_bit_for_bit(twins):
    loaded = load_model(twins.folder)
    assert loaded.config == twins.config
    assert not loaded.training
    assert_same_weights(loaded, twins.ours)


def test_shards_are_small_indexed_and_read_by_transformers(twins, tokens, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_model(twins.ours, tmp_path, max_shard_bytes=20_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == sum(4 * p.numel() for p in twins.ours.parameters())
    assert all(file.stat().st_size < 20_000 + 2_000 for file in files)
    assert_same_weights(load_model(tmp_path), twins.ours)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(theirs(tokens).logits, twins.theirs(tokens).logits)


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_we_load_what_transformers_saves(twins, tmp_path, max_shard_size):
    twins.theirs.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    loaded = load_model(tmp_path)
    assert_same_weights(loaded, twins.ours)
    assert loaded.config == replace(twins.config, rope_scaling=loaded.config.rope_scaling)
    theirs = dict(loaded.config.rope_scaling or {})
    assert all(theirs[key] == value for key, value in (twins.config.rope_scaling or {}).items())


def test_saving_over_a_sharded_model_leaves_no_stale_shard(llama, tmp_path):
    save_model(llama, tmp_path, max_shard_bytes=20_000)
    save_model(llama, tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    assert not list(tmp_path.glob(".*"))
    assert_same_weights(load_model(tmp_path), llama)


def test_dtype_is_cast_on_writing_and_on_reading(llama, tmp_path):
    save_model(llama, tmp_path, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float32}
    assert {p.dtype for p in load_model(tmp_path, torch.bfloat16).parameters()} == {torch.bfloat16}


def test_generation_config_names_the_stop_ids(llama, tmp_path):
    llama.config = replace(llama.config, eos_token_id=(5, 6), pad_token_id=0)
    save_model(llama, tmp_path, generation={"temperature": 0.7, "do_sample": True})
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["eos_token_id"] == [5, 6]
    assert (written["pad_token_id"], written["temperature"], written["do_sample"]) == (0, 0.7, True)


def test_loaded_weights_can_be_trained(llama, tokens, tmp_path):
    save_model(llama, tmp_path)
    loaded = load_model(tmp_path)
    loaded.logits(loaded(tokens)).sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


# ---------------------------------------------------------------- what a person is told


@pytest.fixture
def folder(llama, tmp_path) -> Path:
    save_model(llama, tmp_path)
    return tmp_path


def edit(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def told(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load_model(folder)
    return str(error.value)


def test_missing_unexpected_and_misshapen_weights_are_all_named_at_once(folder):
    def change(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
        tensors["model.norm.weight"] = torch.ones(33)

    edit(folder, change)
    text = told(folder)
    assert "1 weights are missing: model.layers.1.mlp.up_proj.weight" in text
    assert "1 weights are unexpected: model.layers.0.self_attn.q_norm.weight" in text
    assert "model.norm.weight has shape [33]; config.json makes it [32]" in text
    assert "do not belong together" in text


def test_a_redundant_tied_head_is_fine_and_a_different_one_is_not(tmp_path):
    from groundup.model.decoder import Decoder
    from groundup.model.init import init_weights

    model = Decoder(model_config("tiny", vocab_size=131, num_hidden_layers=1))
    init_weights(model, 0)
    save_model(model, tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    load_model(tmp_path)
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
    assert "tie_word_embeddings: false" in told(tmp_path)


def test_old_rope_buffers_are_ignored(folder):
    edit(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    load_model(folder)


def test_a_cut_off_file_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    text = told(folder)
    assert str(path) in text and "cut short" in text


def test_a_missing_shard_is_named(llama, tmp_path):
    save_model(llama, tmp_path, max_shard_bytes=20_000)
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    assert gone.name in told(tmp_path)


def test_pickle_is_never_loaded(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    assert "pickle" in told(folder)


def test_a_folder_without_a_model_says_so(tmp_path):
    assert "has no config.json" in told(tmp_path)


def test_an_interrupted_save_is_no_model(llama, folder, monkeypatch):
    """config.json is taken away first and written last."""
    import groundup.model.files as files

    monkeypatch.setattr(files, "_save_file_atomic", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_model(llama, folder)
    assert not (folder / "config.json").exists()


# ---------------------------------------------------------------- tokenizer files


@dataclass
class SomeTokenizer:
    folder: Path
    vocab_size: int


def write_tokenizer(folder: Path, tokens: list[str]) -> SomeTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return SomeTokenizer(folder, len(tokens))


def test_tokenizer_files_are_copied(folder, tmp_path):
    tokenizer = write_tokenizer(tmp_path / "tokenizer", ["a", "b"])
    assert copy_tokenizer_files(tokenizer.folder, folder) == ["tokenizer.json", "chat_template.jinja"]
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"
    with pytest.raises(UserError, match="no tokenizer"):
        copy_tokenizer_files(tmp_path / "nowhere", folder)


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    words = [f"w{i}" for i in range(131)]
    right = write_tokenizer(tmp_path / "right", words)
    copy_tokenizer_files(right.folder, folder)
    require_same_vocabulary(folder, right)

    swapped = write_tokenizer(tmp_path / "swapped", [words[1], words[0], *words[2:]])
    with pytest.raises(UserError, match=r"2 tokens differ.*'w1' \(id 0 here, 1 in the model\)"):
        require_same_vocabulary(folder, swapped)
    with pytest.raises(UserError, match="the tokenizer has 132 tokens and the model 131"):
        require_same_vocabulary(folder, write_tokenizer(tmp_path / "larger", [*words, "more"]))


def test_a_padded_embedding_is_fine_and_a_much_smaller_tokenizer_is_not(folder, tmp_path):
    require_same_vocabulary(folder, write_tokenizer(tmp_path / "t", ["a"] * 100 + ["b"]))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 5000}))
    with pytest.raises(UserError, match="do not belong together"):
        require_same_vocabulary(folder, write_tokenizer(tmp_path / "u", ["a", "b"]))
    assert load_config(folder).vocab_size == 5000


# ---------------------------------------------------------------- what the disk says


def test_files_have_the_permissions_that_the_umask_gives(llama, tmp_path):
    before = os.umask(0o022)
    try:
        save_model(llama, tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes["model.safetensors"] == 0o644, modes


def test_a_full_disk_is_told_and_leaves_nothing_half(llama, tmp_path):
    """A real full disk: a RAM disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode != 0:
        pytest.skip("a small disk can only be mounted by root")
    try:
        with pytest.raises(UserError, match=r"the disk is full.*could not write model.safetensors"):
            save_model(llama, disk)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)
