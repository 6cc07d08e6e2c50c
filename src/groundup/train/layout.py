"""How many processes do what, in the names that Axolotl's recipes use. No torch in here."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from groundup.errors import Problem, UserError
from groundup.model.config import ModelConfig

MODEL_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
SIZES = ("dp_replicate_size", "dp_shard_size", *MODEL_SIZES)


@dataclass(frozen=True)
class Layout:
    """The shape of the cluster. It never changes what is trained: the same rows, the same loss, up to rounding."""

    dp_replicate_size: int = 1  # whole copies of the (sharded) model, each on its own rows
    dp_shard_size: int | None = None  # processes that a copy is sharded over (FSDP2); None: all that are left
    tensor_parallel_size: int = 1  # processes that share each matrix
    pipeline_parallel_size: int = 1  # processes that hold consecutive layers
    context_parallel_size: int = 1  # processes that share each row's tokens
    pipeline_schedule: str = "1f1b"  # or interleaved: two groups of layers a process, smaller bubbles

    @property
    def stages_per_process(self) -> int:
        return 2 if self.pipeline_schedule == "interleaved" and self.pipeline_parallel_size > 1 else 1

    @property
    def pipeline_stages(self) -> int:
        """Groups of consecutive layers."""
        return self.pipeline_parallel_size * self.stages_per_process

    @property
    def processes(self) -> int:
        """The least that it needs: the product of all sizes, of which an open `dp_shard_size` counts as 1."""
        return math.prod(getattr(self, name) or 1 for name in SIZES)

    def fits(self, world_size: int) -> bool:
        """Whether so many processes can be laid out so."""
        return world_size == self.processes or (self.dp_shard_size is None and world_size % self.processes == 0)

    def resolved(self, world_size: int) -> Layout:
        """With `dp_shard_size` filled in. UserError where the sizes do not multiply to the number of processes."""
        if not self.fits(world_size):
            said = " x ".join(f"{name} {getattr(self, name)}" for name in SIZES if (getattr(self, name) or 1) > 1)
            several = "a multiple of " if self.dp_shard_size is None else ""
            raise UserError(
                f"{said or 'dp_shard_size 1'} is a layout of {several}{self.processes} processes, not of {world_size}",
                fix=f"leave --processes out, start {self.processes} with torchrun, or change the sizes so that their "
                f"product is {world_size}",
            )
        return replace(self, dp_shard_size=self.dp_shard_size or world_size // self.processes)


def layout_of(settings: Any) -> Layout:
    """The layout in a stage's settings (settings.TrainingSettings)."""
    return Layout(**{field.name: getattr(settings, field.name) for field in fields(Layout)})


def layout_problems(layout: Layout, config: ModelConfig) -> list[Problem]:
    """What of this layout does not fit this model, with the sizes that would."""
    problems = []
    tensor = layout.tensor_parallel_size
    shared = {
        name: getattr(config, name) for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size")
    }
    if any(size % tensor for size in shared.values()):
        fitting = [
            str(size) for size in range(1, min(shared.values()) + 1) if not any(s % size for s in shared.values())
        ]
        what = ", ".join(f"{name} {size:,}" for name, size in shared.items())
        problems.append(
            Problem(
                f"tensor_parallel_size {tensor} does not divide the model's {what}",
                fix=f"sizes that do: {', '.join(fitting)}; dp_shard_size has no such limit",
            )
        )
    stages = layout.pipeline_stages
    if stages > config.num_hidden_layers:
        problems.append(
            Problem(
                f"{layout.pipeline_parallel_size} pipeline processes ({layout.pipeline_schedule}) need {stages} groups "
                f"of layers; the model has {config.num_hidden_layers} layers",
                fix=f"pipeline_parallel_size {config.num_hidden_layers // layout.stages_per_process} or less",
            )
        )
    if layout.context_parallel_size > 1 and (tensor > 1 or layout.pipeline_parallel_size > 1):
        problems.append(
            Problem(
                "context_parallel_size is not combined with tensor_parallel_size or pipeline_parallel_size",
                fix="use it together with dp_shard_size and dp_replicate_size",
            )
        )
    return problems
