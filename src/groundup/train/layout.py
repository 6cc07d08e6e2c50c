"""How many processes do what, in the names that Axolotl's recipes use. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass

from groundup.errors import UserError


@dataclass(frozen=True)
class Layout:
    """The shape of the cluster. It never changes what is trained: the same rows, the same loss, up to rounding."""

    dp_replicate_size: int = 1  # whole copies of the (sharded) model, each on its own rows
    dp_shard_size: int | None = None  # processes that a copy is sharded over (FSDP2); None: all that are left
    tensor_parallel_size: int = 1  # processes that share each matrix
    pipeline_parallel_size: int = 1  # processes that hold consecutive layers
    context_parallel_size: int = 1  # processes that share each row's tokens (CUDA only)
    pipeline_schedule: str = "1f1b"  # or interleaved: two groups of layers a process, smaller bubbles

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
