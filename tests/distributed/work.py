"""What the processes of these tests do: small models trained in some layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.init import init_weights
from groundup.train.checkpoint import TrainState
from groundup.train.layout import Layout
from groundup.train.objective import Objective
from groundup.train.optim import build_optimizers
from groundup.train.options import TrainOptions
from groundup.train.parts import local
from groundup.train.pretrain import NextToken
from groundup.train.step import train_step
from groundup.train.world import World

ROWS, T = 8, 24


@dataclass(frozen=True)
class Case:
    """One training run, but for the layout."""

    optimizer: str = "adamw"
    accumulation: int = 2
    steps: int = 6
    model: dict[str, Any] = field(default_factory=dict, hash=False)  # fields of the config
    document_mask: bool = True
    row_tokens: int = T
    dtype: str = "float32"
    gradient_checkpointing: bool | str = False


def tiny(**fields: Any) -> ModelConfig:
    """Grouped queries, a tied embedding and a vocabulary that nothing divides."""
    shape: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    return ModelConfig(**{**shape, **fields})


def rows(step: int, count: int, tokens: int) -> dict[str, Tensor]:
    """Random walks over the ids in documents of random lengths: a function of the step."""
    generator = torch.Generator().manual_seed(1000 + step)
    ids = torch.randint(1, 4, (count, tokens + 1), generator=generator).cumsum(1) % 97
    starts = torch.rand(count, tokens, generator=generator) < 0.15
    return {"input_ids": ids[:, :-1], "targets": ids[:, 1:], "document_ids": starts.long().cumsum(1)}


class Walks(NextToken):
    """The next-token objective on `rows`."""

    def __init__(self, case: Case) -> None:
        self.case, self.document_mask = case, case.document_mask

    def micro_batches(self, step: int, model: Any) -> list[Any]:  # noqa: ARG002
        batch, size = rows(step, ROWS, self.case.row_tokens), ROWS // self.case.accumulation
        return [{name: value[at : at + size] for name, value in batch.items()} for at in range(0, ROWS, size)]


def options(case: Case, layout: Layout | None = None) -> TrainOptions:
    return TrainOptions(
        max_steps=case.steps,
        learning_rate=3e-3,
        warmup_steps=2,
        optimizer=case.optimizer,
        weight_decay=0.01,
        max_grad_norm=0.5,  # clips
        dtype=case.dtype,
        gradient_checkpointing=case.gradient_checkpointing,
        layout=layout or Layout(),
    )


def trace(
    world: World, model: torch.nn.Module, objective: Objective, chosen: TrainOptions, steps: int
) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step."""
    optimizers = build_optimizers(model, optimizer=chosen.optimizer, weight_decay=chosen.weight_decay)
    state = TrainState(total_steps=chosen.max_steps)
    found = []
    for _ in range(steps):
        row = train_step(model, objective, optimizers, chosen, state, world)
        found.append((row["loss"], row["grad_norm"]))
    return found


def train_in(layout: Layout, case: Case) -> list[tuple[float, float]]:
    """Train in this layout, all processes together."""
    from groundup.train.mesh import MeshWorld

    chosen = options(case, layout)
    world = MeshWorld(chosen)
    model = Decoder(tiny(**case.model))
    init_weights(model, 0)
    return trace(world, world.prepare(model), Walks(case), chosen, case.steps)


def train_alone(case: Case) -> list[tuple[float, float]]:
    model = Decoder(tiny(**case.model))
    init_weights(model, 0)
    return trace(World(), model, Walks(case), options(case), case.steps)


def save_in(layout: Layout, folder: str, fields: dict[str, Any], shard_bytes: float, is_scalar: bool = False) -> int:
    """Make a model shard by shard in this layout and save it; the most numbers that this process held at once."""
    from groundup.model.files import save_model
    from groundup.model.heads import ScalarModel, save_scalar_model
    from groundup.model.init import new_decoder
    from groundup.train.mesh import MeshWorld

    model: Any = new_decoder(tiny(**fields), 0, deferred=True)
    if is_scalar:
        model = ScalarModel.from_decoder(model, seed=0)
    MeshWorld(options(Case(), layout)).prepare(model)
    if is_scalar:
        save_scalar_model(model, folder, max_shard_bytes=shard_bytes)
    else:
        save_model(model, folder, max_shard_bytes=shard_bytes, generation={"temperature": 0.5})
    return sum(local(parameter).numel() for parameter in model.parameters())


def split_head_in(vocabulary: int, temperature: float, chunk_rows: int) -> tuple[Any, Any, Any]:
    """Log-probabilities and gradients (of `hidden`, of own rows) with the head's rows split over all processes."""
    import torch.distributed as dist

    from groundup.train import vocabulary as module
    from groundup.train.mesh import join_processes

    join_processes("cpu")
    hidden, weight, targets = head_numbers(vocabulary)
    size, rank = -(-vocabulary // dist.get_world_size()), dist.get_rank()
    own = weight[size * rank : size * (rank + 1)].clone().requires_grad_()
    hidden.requires_grad_()
    before = module.CHUNK_ROWS, module.CHUNK_BYTES
    module.CHUNK_ROWS, module.CHUNK_BYTES = chunk_rows, 1
    found = module.split_logprobs(hidden, own, targets, size * rank, dist.group.WORLD, temperature)
    (found * torch.arange(found.numel()).view_as(found)).sum().backward()
    module.CHUNK_ROWS, module.CHUNK_BYTES = before
    assert hidden.grad is not None and own.grad is not None
    return found.detach().numpy(), hidden.grad.numpy(), own.grad.numpy()


def head_numbers(vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """hidden `2, 5, 8`, weight `V, 8`, targets `2, 5`."""
    generator = torch.Generator().manual_seed(vocabulary)
    hidden = torch.randn(2, 5, 8, generator=generator)
    weight = torch.randn(vocabulary, 8, generator=generator)
    return hidden, weight, torch.randint(vocabulary, (2, 5), generator=generator)


def muon_in_turns(layout: Layout, case: Case, elements: int) -> list[tuple[float, float]]:
    """Train with at most so many elements of whole updates gathered at a time."""
    from groundup.train import sharded_muon

    before, sharded_muon.GATHERED_ELEMENTS = sharded_muon.GATHERED_ELEMENTS, elements
    try:
        return train_in(layout, case)
    finally:
        sharded_muon.GATHERED_ELEMENTS = before
