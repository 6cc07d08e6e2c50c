"""How many processes do what, in the names that Axolotl's recipes use. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from groundup.errors import Problem, UserError
from groundup.model.config import ModelConfig


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

    def resolved(self, world_size: int) -> Layout:
        """With `dp_shard_size` filled in. UserError where the sizes do not multiply to the number of processes."""
        others = self.dp_replicate_size * self.tensor_parallel_size * self.context_parallel_size
        others *= self.pipeline_parallel_size
        shard = self.dp_shard_size if self.dp_shard_size is not None else max(1, world_size // others)
        if others * shard != world_size:
            raise UserError(
                f"{world_size} processes cannot be laid out as dp_replicate_size {self.dp_replicate_size} x "
                f"dp_shard_size {'rest' if self.dp_shard_size is None else self.dp_shard_size} x tensor_parallel_size "
                f"{self.tensor_parallel_size} x context_parallel_size {self.context_parallel_size} x "
                f"pipeline_parallel_size {self.pipeline_parallel_size}: these make {others * shard}",
                fix=f"start {others * shard} processes, or change the sizes so that their product is {world_size}",
            )
        return Layout(**{**vars(self), "dp_shard_size": shard})


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
