"""Our fp32 logits are transformers' fp32 logits, for every family, whole rows and packed documents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from groundup.model import attention

TOLERANCE = 1e-5
LENGTHS = (13, 1, 9, 17)  # documents packed into one row of 40


@pytest.fixture(params=["matmul", "sdpa"])
def form(request, monkeypatch):
    """Both ways to compute attention."""
    monkeypatch.setattr(attention, "choose_attention", lambda *_, **__: request.param)


def documents(rows: int) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS)).expand(rows, -1)


@pytest.mark.usefixtures("form")
@torch.no_grad()
def test_logits_equal_transformers(twins, tokens):
    theirs = twins.theirs(tokens).logits
    assert (twins.ours.logits(twins.ours(tokens)) - theirs).abs().max() <= TOLERANCE
    assert theirs.std() > 0.1  # the comparison means something


@pytest.mark.usefixtures("form")
@torch.no_grad()
def test_packed_documents_equal_transformers_reading_each_alone(twins, tokens):
    ours = twins.ours.logits(twins.ours(tokens, document_ids=documents(len(tokens))))
    start = 0
    for length in LENGTHS:
        alone = twins.theirs(tokens[:, start : start + length]).logits
        assert (ours[:, start : start + length] - alone).abs().max() <= TOLERANCE
        start += length


@pytest.mark.usefixtures("form")
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(twins, tokens):
    whole = twins.ours(tokens[:, :20])
    pad = torch.full((3, 6), -1)
    zeros = torch.zeros(3, 20, dtype=torch.long)
    left = twins.ours(torch.cat((tokens[:, :6], tokens[:, :20]), 1), document_ids=torch.cat((pad, zeros), 1))
    right = twins.ours(torch.cat((tokens[:, :20], tokens[:, :6]), 1), document_ids=torch.cat((zeros, pad), 1))
    assert (left[:, 6:] - whole).abs().max() <= TOLERANCE
    assert (right[:, :20] - whole).abs().max() <= TOLERANCE
    assert left.isfinite().all() and right.isfinite().all()


@torch.no_grad()
def test_explicit_positions_count(twins, tokens):
    shifted = twins.ours.logits(twins.ours(tokens, position_ids=torch.arange(40)[None] * 2))
    theirs = twins.theirs(tokens, position_ids=torch.arange(40)[None] * 2).logits
    assert (shifted - theirs).abs().max() <= TOLERANCE


def test_gradients_equal_transformers(twins, tokens):
    """Backward too: the gradient of one scalar in every weight."""
    twins.ours.zero_grad()
    twins.theirs.zero_grad()
    twins.ours.logits(twins.ours(tokens)).square().mean().backward()
    twins.theirs(tokens).logits.square().mean().backward()
    theirs = dict(twins.theirs.named_parameters())
    for name, parameter in twins.ours.named_parameters():
        expected = theirs[name].grad
        assert (parameter.grad - expected).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max())), name


def test_the_parameter_count_is_exact(twins):
    assert twins.config.parameters() == sum(p.numel() for p in twins.theirs.parameters())
    assert twins.config.parameters() == sum(p.numel() for p in twins.ours.parameters())


def test_names_are_hugging_faces(twins):
    theirs = {name for name, _ in twins.theirs.named_parameters()}  # lists a tied weight once
    assert {name for name, _ in twins.ours.named_parameters()} == theirs
