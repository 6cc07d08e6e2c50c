"""Which process updates which part of the parameters: equal work for each, the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**17  # elements that are summed at a time, so that what all processes have of them fits a core's cache
GRAIN = 16  # elements: no two processes write to one cache line


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `end` of one trained parameter; `is_whole` keeps its shape."""

    index: int  # of the parameter, in the model's order
    start: int
    end: int
    is_whole: bool

    def of(self, tensor: Tensor) -> Tensor:
        """This piece of a tensor that is shaped like the parameter: a view."""
        return tensor if self.is_whole else tensor.view(-1)[self.start : self.end]


def divide(
    optimizers: Sequence[torch.optim.Optimizer], index_of: Mapping[Any, int], size: int
) -> list[list[list[Piece]]]:
    """For each process, for each optimiser, its pieces.

    Muon needs whole matrices: the most expensive first, each to the process that has least to do. AdamW treats each
    element alone: its parameters are laid end to end and cut into equal lengths.
    """
    return [list(of_rank) for of_rank in zip(*(_shares(one, index_of, size) for one in optimizers), strict=True)]


def _shares(optimizer: torch.optim.Optimizer, index_of: Mapping[Any, int], size: int) -> list[list[Piece]]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if isinstance(optimizer, torch.optim.Muon):
        return _whole(parameters, index_of, size)
    return _cut(parameters, index_of, size)


def _whole(parameters: Sequence[Tensor], index_of: Mapping[Any, int], size: int) -> list[list[Piece]]:
    shares: list[list[Piece]] = [[] for _ in range(size)]
    work = [0] * size
    for parameter in sorted(parameters, key=lambda p: (-_muon_cost(p), index_of[p])):
        least = work.index(min(work))
        work[least] += _muon_cost(parameter)
        shares[least].append(Piece(index_of[parameter], 0, parameter.numel(), is_whole=True))
    return [sorted(share, key=lambda piece: piece.index) for share in shares]


def _muon_cost(matrix: Tensor) -> int:
    """Multiplications of one Newton-Schulz step: two products with the Gram matrix, one of it with itself."""
    rows, columns = sorted(matrix.shape)
    return rows * rows * (2 * columns + rows)


def _cut(parameters: Sequence[Tensor], index_of: Mapping[Any, int], size: int) -> list[list[Piece]]:
    shares: list[list[Piece]] = [[] for _ in range(size)]
    total, before = sum(parameter.numel() for parameter in parameters), 0
    for parameter in parameters:
        elements, index = parameter.numel(), index_of[parameter]
        cuts = [min(max(-(-(total * rank // size - before) // GRAIN) * GRAIN, 0), elements) for rank in range(size)]
        for rank, (start, end) in enumerate(zip(cuts, [*cuts[1:], elements], strict=True)):
            if end > start:
                shares[rank].append(Piece(index, start, end, is_whole=end - start == elements))
        before += elements
    return shares


def moments_of(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """What the optimiser keeps for each element of a parameter."""
    if isinstance(optimizer, torch.optim.Muon):
        return ("momentum_buffer",)
    if isinstance(optimizer, torch.optim.AdamW):
        return ("exp_avg", "exp_avg_sq")
    raise TypeError(f"what {type(optimizer).__name__} remembers of a parameter is not known here")


def counts_steps(optimizer: torch.optim.Optimizer) -> bool:
    return isinstance(optimizer, torch.optim.AdamW)


def sum_into(target: Tensor, sources: Sequence[Tensor]) -> float:
    """Write the sum of the sources, in their order, into `target` (one of them, or another); the sum of its squares.

    Block by block, so that each is read from memory once. All are flat.
    """
    square = 0.0
    for start in range(0, len(target), BLOCK):
        block = target[start : start + BLOCK]
        first, *rest = (source[start : start + BLOCK] for source in sources)
        if len(rest) == 1:
            torch.add(first, rest[0], out=block)
        else:
            total = first.clone() if rest else first
            for other in rest:
                total += other
            block.copy_(total)
        square += float(torch.dot(block, block))
    return square
