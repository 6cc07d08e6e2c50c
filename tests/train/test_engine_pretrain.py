"""The pretrain stage: what it refuses before it starts, and what it leaves."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from groundup.artifacts import StageContext, read_json
from groundup.console import Console
from groundup.errors import UserError
from groundup.model.files import load_model
from groundup.stopping import StopRequest
from groundup.tokens.batches import TokenBatches
from groundup.tokens.shards import Manifest, SourceTokens, SplitWriter, read_manifest, verify_shards, write_manifest
from groundup.tokens.tokenizer import Tokenizer
from groundup.tokens.train_tokenizer import save_tokenizer, train_bpe
from groundup.train import pretrain
from groundup.train.metrics import read_metrics
from groundup.train.settings import PretrainSettings, seconds_of

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    texts = [f"{n} cats and {n * n} mats. " * (1 + n % 5) for n in range(200)]
    save_tokenizer(train_bpe(iter(texts), 300), folder / "tokenizer")
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    splits, hashes = {}, {}
    for split, part in (("train", texts[20:]), ("held_out", texts[:20])):
        writer = SplitWriter(folder, split, "uint16", 10**6)
        for ids in tokenizer.encode_documents(part):
            writer.add([*ids, 0], 0)
        sources = [SourceTokens("cats", 0, writer.tokens, len(part), sum(map(len, part)), 1.0)]
        splits[split] = writer.finish(sources)
        hashes |= writer.sha256
    write_manifest(folder, Manifest("uint16", tokenizer.vocab_size, 0, tokenizer.fingerprint, splits, hashes))
    return folder


def context_for(tokens: Path, folder: Path) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    return StageContext(
        "base", folder, {"tokens": tokens}, 7, folder / "cache", Console(quiet=True), StopRequest(), folder
    )


def settings_of(**changes: Any) -> PretrainSettings:
    values: dict[str, Any] = {"model": SHAPE, "sequence_len": 24, "micro_batch_size": 8, "max_steps": 8}
    return PretrainSettings(**{"tokens": "tokens", "bf16": False, "sample_tokens": 4, **values, **changes})


def test_it_leaves_a_model_folder_samples_metrics_and_counts(tokens: Path, tmp_path: Path) -> None:
    result = pretrain.run(settings_of(), context_for(tokens, tmp_path))
    model = load_model(tmp_path / "model")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert result.counts == {"parameters": parameters, "tokens": 8 * 8 * 24, "steps": 8}
    assert Tokenizer.from_folder(tmp_path / "model").chat_template is not None
    assert read_json(tmp_path / "model" / "generation_config.json")["eos_token_id"] == [2, 0]
    rows = [row.split('"when": ')[1] for row in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert rows == ['"before"}'] * 4 + ['"after"}'] * 4

    # the held-out loss is the mean over tokens, recomputed here from the saved weights
    batches = TokenBatches(tokens, 24, 1, 0, split="held_out")
    batch = batches.windows(*batches.spread_rows(64))
    ids, targets, documents = (torch.from_numpy(x) for x in (batch.input_ids, batch.targets, batch.document_ids))
    with torch.no_grad():
        logits = model.logits(model(ids, document_ids=documents))
    expected = F.cross_entropy(logits.flatten(0, 1).double(), targets.flatten()).item()
    assert result.metrics["validation_loss"] == pytest.approx(expected, rel=1e-5)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["validation_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_saved_model_is_what_transformers_computes(tokens: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pretrain.run(settings_of(max_steps=3), context_for(tokens, tmp_path))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ours = load_model(tmp_path / "model")
    ids = torch.tensor([Tokenizer.from_folder(tmp_path / "model").encode("12 cats and 144 mats")])
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(ids)), theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_what_check_says_is_what_run_does(tokens: Path, tmp_path: Path) -> None:
    settings = settings_of(gradient_accumulation_steps=2)
    report = pretrain.check(settings, context_for(tokens, tmp_path))
    assert not report.problems
    result = pretrain.run(settings, context_for(tokens, tmp_path))
    assert report.facts["trained_tokens"] == result.counts["tokens"]
    assert report.facts["parameters"] == result.counts["parameters"]
    assert report.facts["steps"] == result.counts["steps"]


def test_epochs_become_steps(tokens: Path, tmp_path: Path) -> None:
    settings = settings_of(max_steps=None, num_epochs=0.5)
    rows = TokenBatches(tokens, 24, 8, 0).rows
    report = pretrain.check(settings, context_for(tokens, tmp_path))
    assert report.facts["steps"] == round(0.5 * rows / 8)


def problems_of(settings: PretrainSettings, context: StageContext) -> str:
    """The same text from `check` and from `run`."""
    found = "\n".join(str(problem) for problem in pretrain.check(settings, context).problems)
    with pytest.raises(UserError) as caught:
        pretrain.run(settings, context)
    assert str(caught.value) == found
    return found


def test_a_model_with_another_vocabulary_is_refused(tokens: Path, tmp_path: Path) -> None:
    found = problems_of(settings_of(model={**SHAPE, "vocab_size": 5000}), context_for(tokens, tmp_path))
    assert "the model's vocab_size is 5,000, the tokenizer has" in found
    assert "leave vocab_size out" in found


def test_more_positions_than_the_model_has_are_refused(tokens: Path, tmp_path: Path) -> None:
    shape = {**SHAPE, "max_position_embeddings": 16}
    found = problems_of(settings_of(model=shape), context_for(tokens, tmp_path))
    assert "sequence_len is 24, but the model has 16 positions" in found
    assert "use sequence_len 16 or less" in found


def test_rows_longer_than_the_data_are_refused(tokens: Path, tmp_path: Path) -> None:
    shape = {**SHAPE, "max_position_embeddings": 2_000_000}
    found = problems_of(settings_of(model=shape, sequence_len=1_000_000), context_for(tokens, tmp_path))
    assert "less than one row of 1,000,001" in found


def test_an_unknown_preset_is_refused_with_the_known_ones(tokens: Path, tmp_path: Path) -> None:
    found = problems_of(settings_of(model="tinny"), context_for(tokens, tmp_path))
    assert "there is no model preset 'tinny'" in found
    assert "tiny" in found


def test_shards_of_another_tokenizer_are_refused(tokens: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tokens, tmp_path / "tokens")
    write_manifest(copy, replace(read_manifest(copy), tokenizer_fingerprint="other"))
    found = problems_of(settings_of(), context_for(copy, tmp_path / "base"))
    assert "the tokenizer beside these shards is not the one that made them" in found


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = problems_of(settings_of(), context_for(tmp_path / "empty", tmp_path / "base"))
    assert "manifest.json is missing" in found


def test_before_the_tokens_exist_the_rest_is_checked_all_the_same(tmp_path: Path) -> None:
    context = context_for(tmp_path / "not yet", tmp_path / "base")
    assert pretrain.check(settings_of(), context).facts["trained_tokens"] == 8 * 8 * 24
    report = pretrain.check(settings_of(model={**SHAPE, "hiden_size": 3}), context)
    assert "did you mean `hidden_size`" in str(report.problems[0])


def damaged(tokens: Path, folder: Path, place: int, token: int) -> Path:
    """A copy of the shards, in which one id of the training text is another."""
    copied = Path(shutil.copytree(tokens, folder))
    ids = np.fromfile(copied / "train-00000.bin", dtype="<u2")
    ids[place] = token
    ids.tofile(copied / "train-00000.bin")
    return copied


def test_damaged_shards_are_named_before_anything_is_trained(tokens: Path, tmp_path: Path) -> None:
    """Also where every id is still one of the vocabulary, so that nothing else would ever show it."""
    before = np.fromfile(tokens / "train-00000.bin", dtype="<u2")[100]
    folder = damaged(tokens, tmp_path / "tokens", 100, before ^ 1)
    with pytest.raises(UserError, match=r"these shards are damaged .*: train-00000\.bin\n") as told:
        pretrain.run(settings_of(), context_for(folder, tmp_path / "base"))
    assert "bring back a copy, or build the tokens again" in str(told.value)
    assert not (tmp_path / "base" / "metrics.jsonl").exists()


def test_an_id_that_no_vocabulary_has_is_told_with_its_place(tokens: Path, tmp_path: Path) -> None:
    """Shards that are too large to be hashed at every start."""
    folder = damaged(tokens, tmp_path / "tokens", 100, 60_000)
    verify_shards(folder, read_manifest(folder), most_bytes=1000)
    with pytest.raises(UserError, match=r"train-00000\.bin is damaged: id 60,000 at place 100, of a vocabulary of 2"):
        TokenBatches(folder, 24, 8, 0).windows(np.array([0, 0]), np.array([1, 4]))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("3m", 180), ("1h30m", 5400), (45, 45), ("12.5", 12.5)])
def test_times_are_read_as_people_write_them(text: Any, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert settings_of(time_limit=text).time_limit == seconds


def test_batches_that_are_none_are_told_in_the_words_of_skip_steps() -> None:
    assert settings_of(skip_steps=[3, "5-6"]).skip_steps == [3, "5-6"]
    for wrong in (1.5, "9-2", True):
        with pytest.raises(ValueError, match="is no step and no range of steps; write 1300 or 1200-1210"):
            settings_of(skip_steps=[3, wrong])


@pytest.mark.parametrize("text", ["soon", "3 weeks", "-5s", ""])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        settings_of(time_limit=text)
