"""What training minimises, as the engine sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class LossParts:
    """What an objective says about one micro-batch. Sums, never means: the engine does all dividing."""

    loss_sum: Tensor  # summed over what is trained
    weight: float  # how much was trained (tokens, pairs); equal to `objective.weight(micro_batch)`
    # name -> (sum, weight); a sum on a GPU stays a tensor there: asking for its value would wait for the GPU
    metrics: dict[str, tuple[Tensor | float, float]] = field(default_factory=dict)
    tokens: int | None = None  # tokens that went through the model, where that is not `weight`


class Objective(Protocol):
    """What training minimises. `step` counts from 0 and names the update that is being prepared.

    An objective whose loss says little may have `shown: tuple[str, ...]`, the numbers of its progress line.
    One whose micro-batches depend on nothing but the step says `is_function_of_step = True`: they may be prepared ahead
    by a thread, and its loss is judged while it trains (spikes, divergence, plateaus).
    """

    def micro_batches(self, step: int, model: Any) -> list[Any]:
        """All micro-batches of this one update, a pure function of the step (and of the weights, where it samples).

        All of them in every process: each takes its own share, so the rows of a step never depend on how many
        processes train.
        """

    def weight(self, micro_batch: Any) -> float:
        """Trained tokens (or pairs) in it."""

    def loss(self, model: Any, micro_batch: Any) -> LossParts:
        """The forward pass. Runs under autocast where the run computes in bfloat16."""

    def state_dict(self) -> dict[str, Any]:
        """Generators, controllers, buffers: tensors and JSON values, nested. `{}` where all is a function of step."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
