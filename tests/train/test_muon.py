"""Our Muon is torch's, only in fewer products."""

from __future__ import annotations

import pytest
import torch

from groundup.train import muon
from groundup.train.muon import Muon, momentum_at, orthogonalize
from groundup.train.optim import build_optimizers, set_momentum

SHAPES = [(24, 24), (24, 40), (40, 24), (24, 24), (16, 8), (24, 40)]


def matrices(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def trained(optimizer_of, steps: int = 4) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:  # type: ignore[no-untyped-def]
    """Parameters after some steps with given gradients; one of them gets none in the second step."""
    parameters = [torch.nn.Parameter(matrix) for matrix in matrices(0)]
    optimizer = optimizer_of([{"params": parameters[:3]}, {"params": parameters[3:], "weight_decay": 0.1}])
    for step in range(steps):
        for number, (parameter, grad) in enumerate(zip(parameters, matrices(step + 1), strict=True)):
            parameter.grad = None if (step, number) == (1, 2) else grad
        optimizer.step()
    return [parameter.detach() for parameter in parameters], optimizer


def torchs(groups):  # type: ignore[no-untyped-def]
    return torch.optim.Muon(groups, lr=0.02, weight_decay=0.0, momentum=0.9, adjust_lr_fn="match_rms_adamw")


def ours(groups):  # type: ignore[no-untyped-def]
    return Muon(groups, lr=0.02, weight_decay=0.0, momentum=0.9)


@pytest.mark.parametrize("stack_elements", [1, 24 * 40 * 2, 2**21])
def test_it_gives_what_torchs_muon_gives(stack_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "STACK_ELEMENTS", stack_elements)
    expected, their_state = trained(torchs)
    found, our_state = trained(ours)
    for start, one, other in zip(matrices(0), expected, found, strict=True):
        moved = (one - start).norm()
        assert moved > 0.1
        assert (one - other).norm() < 0.01 * moved  # bfloat16 products in another order
    buffers = [[state["momentum_buffer"] for state in s.state.values()] for s in (their_state, our_state)]
    torch.testing.assert_close(buffers[0], buffers[1])


def test_a_state_of_torchs_muon_can_be_read_and_the_reverse() -> None:
    _, theirs = trained(torchs)
    _, own = trained(ours)
    own.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(own.state_dict())


def test_what_comes_out_is_nearly_orthogonal_in_every_shape() -> None:
    bases = []
    for matrix in matrices(7):
        u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
        bases.append((u @ torch.diag(torch.linspace(0.1, 1, len(values))) @ vh, u @ vh))
    for (matrix, orthogonal), result in zip(bases, orthogonalize([m for m, _ in bases]), strict=True):
        assert result.shape == matrix.shape
        values = torch.linalg.svdvals(result.float())
        assert values.min() > 0.5
        assert values.max() < 1.4
        assert torch.cosine_similarity(result.float().flatten(), orthogonal.flatten(), dim=0) > 0.97


def test_momentum_is_a_function_of_the_step_that_rises_and_then_stays() -> None:
    values = [momentum_at(step, 300) for step in range(0, 600, 50)]
    assert values[0] == 0.85
    assert values == sorted(values)
    assert values[-1] == pytest.approx(0.95)
    assert values[-1] == values[-2]
    assert momentum_at(0, 0) == pytest.approx(0.95)


def test_a_step_sets_the_momentum_of_muon_alone() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "embed_tokens": torch.nn.Embedding(4, 4)})
    optimizers = build_optimizers(model, optimizer="muon", weight_decay=0.0)
    set_momentum(optimizers, 150, 300)
    momenta = [group.get("momentum") for optimizer in optimizers for group in optimizer.param_groups]
    assert sorted(m for m in momenta if m is not None) == [pytest.approx(0.9)]
    assert None in momenta
