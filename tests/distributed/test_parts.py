"""The pieces that layouts are made of, against what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from groundup.model.sharded_files import plan_files
from groundup.train.layout import Layout
from groundup.train.pipeline import split_layers

from .processes import Processes
from .work import Case, head_numbers, muon_in_turns, split_head_in, train_in


@pytest.mark.parametrize(("vocabulary", "temperature", "chunk_rows"), [(11, 1.0, 1000), (11, 0.7, 3), (1, 1.0, 4)])
def test_a_split_head_gives_the_log_softmax_and_its_gradients(
    two: Processes, vocabulary: int, temperature: float, chunk_rows: int
) -> None:
    """In several chunks, at another temperature, and where one process has no ids at all."""
    hidden, weight, targets = head_numbers(vocabulary)
    hidden.requires_grad_()
    weight.requires_grad_()
    logprobs = torch.log_softmax(hidden @ weight.T / temperature, -1).gather(-1, targets[..., None]).squeeze(-1)
    (logprobs * torch.arange(10.0).view(2, 5)).sum().backward()
    found = two(split_head_in, vocabulary, temperature, chunk_rows)
    for values, grad_hidden, _ in found:
        np.testing.assert_allclose(values, logprobs.detach(), atol=1e-5)
        np.testing.assert_allclose(grad_hidden, hidden.grad, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([grad for _, _, grad in found]), weight.grad, atol=1e-4)


def test_muon_gathers_a_few_matrices_at_a_time(two: Processes) -> None:
    """Where all do not fit: one after the other, to the same bits."""
    case, layout = Case(optimizer="muon", steps=3), Layout(dp_shard_size=2)
    assert two(muon_in_turns, layout, case, 1) == two(train_in, layout, case)


def test_layers_are_dealt_out_evenly_and_the_last_group_has_the_fewer() -> None:
    assert split_layers(8, 4) == [range(2), range(2, 4), range(4, 6), range(6, 8)]
    assert split_layers(7, 3) == [range(3), range(3, 5), range(5, 7)]


def test_files_are_shared_out_among_those_who_hold_their_tensors() -> None:
    """Two groups of two processes (a pipeline of two): each writes its own; what both have is written once."""
    first = {"embedding": ((4, 2), torch.float32), "layer.0": ((8, 2), torch.float32)}
    second = {"layer.1": ((8, 2), torch.float32), "embedding": ((4, 2), torch.float32)}
    everywhere = [([0, 1], first), ([0, 1], first), ([2, 3], second), ([2, 3], second)]
    assert plan_files(everywhere, 64) == [
        ([0, 1], 0, ["embedding"]),
        ([0, 1], 1, ["layer.0"]),
        ([2, 3], 2, ["layer.1"]),
    ]
    assert [names for _, _, names in plan_files(everywhere, 1e9)] == [["embedding", "layer.0"], ["layer.1"]]
