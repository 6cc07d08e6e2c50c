"""The scalar model is transformers' sequence classifier with one label."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from groundup.errors import UserError
from groundup.model.files import load_model, save_model
from groundup.model.heads import ScalarModel, load_scalar_model, save_scalar_model


@torch.no_grad()
def test_the_last_value_is_transformers_score(twins, tokens, tmp_path):
    transformers = pytest.importorskip("transformers")
    scalar = ScalarModel.from_decoder(twins.ours, seed=3)
    scalar.config = replace(scalar.config, pad_token_id=0)
    save_scalar_model(scalar, tmp_path)
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert type(theirs).__name__.endswith("ForSequenceClassification") and theirs.config.num_labels == 1
    ids = tokens.clamp(min=1)  # no accidental padding
    values = scalar(ids)
    assert values.shape == (3, 40) and values.dtype == torch.float32
    assert (values[:, -1] - theirs.eval()(ids).logits[:, 0]).abs().max() <= 1e-5
    # padded on the right: their score is our value at the last real token
    padded = torch.cat((ids[:, :25], torch.zeros(3, 15, dtype=torch.long)), 1)
    assert (scalar(padded)[:, 24] - theirs(padded).logits[:, 0]).abs().max() <= 1e-5
    # and both read each other's files
    assert torch.equal(load_scalar_model(tmp_path)(ids), values)
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.equal(load_scalar_model(tmp_path / "theirs")(ids), values)


def test_packed_documents_have_the_values_of_each_alone(llama, tokens):
    scalar = ScalarModel.from_decoder(llama, seed=3)
    documents = (torch.arange(40) >= 17).long().expand(3, -1)
    packed = scalar(tokens, document_ids=documents)
    assert (packed[:, 17:] - scalar(tokens[:, 17:])).abs().max() < 1e-5


def test_values_are_fp32_under_autocast(llama, tokens):
    scalar = ScalarModel.from_decoder(llama, seed=3)
    with torch.autocast("cpu", torch.bfloat16):
        values = scalar(tokens)
    assert values.dtype == torch.float32
    assert (values - scalar(tokens)).abs().max() < 0.1


def test_it_is_a_copy_with_a_head_of_its_own(llama, tokens):
    scalar = ScalarModel.from_decoder(llama, seed=3)
    before = llama(tokens).detach().clone()
    with torch.no_grad():
        for parameter in scalar.parameters():
            parameter += 1
    assert torch.equal(llama(tokens), before)
    assert torch.equal(
        ScalarModel.from_decoder(llama, seed=3).score.weight, ScalarModel.from_decoder(llama, 3).score.weight
    )
    assert not torch.equal(
        ScalarModel.from_decoder(llama, 3).score.weight, ScalarModel.from_decoder(llama, 4).score.weight
    )
    spread = torch.cat([ScalarModel.from_decoder(llama, seed).score.weight for seed in range(40)])
    assert float(spread.detach().std()) == pytest.approx(33**-0.5, rel=0.1)
    assert (ScalarModel.from_decoder(llama, 3, init_std=0.0)(tokens) == 0).all()


def test_all_of_it_is_trained(llama, tokens):
    scalar = ScalarModel.from_decoder(llama, seed=3)
    scalar(tokens).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in scalar.parameters())


def test_the_wrong_kind_of_model_is_refused_both_ways(llama, tmp_path):
    save_model(llama, tmp_path / "lm")
    save_scalar_model(ScalarModel.from_decoder(llama, 0), tmp_path / "rm")
    with pytest.raises(UserError, match=r"not a reward model.*LlamaForCausalLM"):
        load_scalar_model(tmp_path / "lm")
    with pytest.raises(UserError, match="this is a reward model"):
        load_model(tmp_path / "rm")


def test_a_classifier_of_more_labels_is_refused(llama, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_model(llama, tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    theirs.save_pretrained(tmp_path / "three")
    with pytest.raises(UserError, match="has 3 labels"):
        load_scalar_model(tmp_path / "three")
