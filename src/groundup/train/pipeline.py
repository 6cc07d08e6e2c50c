"""Pipeline parallel: each process holds consecutive layers, and micro-batches travel through all of them.

The schedules are torch.distributed.pipelining's 1F1B (Narayanan et al. 2019, arXiv:1806.03377) and its interleaved form
(Narayanan et al. 2021, arXiv:2104.04473), where a process holds two groups of layers and waits less. The model object
stays; the layers of other processes are taken out of it, and those that remain keep their Hugging Face names.
A tied embedding is held by the first and by the last process; its gradient is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

from groundup.errors import UserError
from groundup.model.decoder import Decoder, SplitHead
from groundup.model.logprobs import token_logprobs
from groundup.model.loss import cross_entropy_sum
from groundup.train.layout import Layout
from groundup.train.objective import Objective
from groundup.train.parts import local
from groundup.train.precision import autocast
from groundup.train.world import StepSums

EMBEDDING = "model.embed_tokens.weight"
NOT_TRAINED = -1  # target of a row that counts nothing


class Stage(nn.Module):
    """Consecutive layers, with the embedding before the first and norm and head after the last."""

    def __init__(self, decoder: Decoder, layers: Sequence[int], *, is_first: bool, is_last: bool) -> None:
        super().__init__()
        trunk = decoder.model
        self.is_first, self.is_last = is_first, is_last
        self.layers = nn.ModuleDict({str(layer): trunk.layers[layer] for layer in layers})
        self.embed_tokens = trunk.embed_tokens if is_first or (is_last and decoder.lm_head is None) else None
        self.norm = trunk.norm if is_last else None
        self.lm_head = decoder.lm_head if is_last else None
        self.windows = {str(layer): trunk.windows[layer] for layer in layers}
        self.tensor_size = 1  # processes that share the matrices, and between them the tokens of hidden states
        self.split_head: SplitHead | None = None
        self._surroundings = trunk.surroundings
        self.loss_scale, self.dtype = 1.0, "float32"

    @property
    def head_weight(self) -> Tensor:
        head = self.embed_tokens if self.lm_head is None else self.lm_head
        assert head is not None
        return head.weight

    def forward(self, x: Tensor, *, document_ids: Tensor | None = None, targets: Tensor | None = None) -> Tensor:
        """`x`: ids `B, T` in the first stage, hidden states `B, T, C` in others. Hidden states, or where this is the
        last stage and `targets` are given: the loss, scaled, as a tensor of one element.
        """
        with autocast(self.dtype, x.device.type):
            rows = x if self.is_first else x.new_empty(x.shape[0], x.shape[1] * self.tensor_size)
            rotation, masks = self._surroundings(rows, None, document_ids, None)
            if self.is_first:
                assert self.embed_tokens is not None
                x = self.embed_tokens(x)
            for name, layer in self.layers.items():
                x = layer(x, rotation, masks[self.windows[name]], None)
            if self.norm is None:
                return x
            x = self.norm(x)
            if targets is None:
                return x
            loss, _ = cross_entropy_sum(x, self, targets, (targets != NOT_TRAINED).float())  # type: ignore[arg-type]
            return torch.stack([loss * self.loss_scale])


def cut_into_stages(decoder: Decoder, mesh: DeviceMesh, layout: Layout) -> Pipeline:
    """Keep this process's layers in `decoder` and take out the others; `decoder(...)` still gives hidden states."""
    rank, size, stages = mesh.get_local_rank("pipeline"), layout.pipeline_parallel_size, layout.pipeline_stages
    groups = split_layers(decoder.config.num_hidden_layers, stages)
    own = [
        Stage(decoder, groups[index], is_first=index == 0, is_last=index == stages - 1)
        for index in range(rank, stages, size)
    ]
    trunk = decoder.model
    trunk.layers = nn.ModuleDict({name: layer for stage in own for name, layer in stage.layers.items()})  # type: ignore[assignment]
    trunk.embed_tokens = next((s.embed_tokens for s in own if s.embed_tokens is not None), None)  # type: ignore[assignment]
    trunk.norm = own[-1].norm  # type: ignore[assignment]
    decoder.lm_head = own[-1].lm_head
    pipeline = Pipeline(decoder, own, mesh, layout)
    decoder.forward = pipeline.hidden  # type: ignore[method-assign]
    decoder.split_head = pipeline.logprobs
    return pipeline


def split_layers(layers: int, stages: int) -> list[range]:
    """Equal groups; where they cannot be, the last ones have one less: norm and head are work, too."""
    size, more = divmod(layers, stages)
    starts = [index * size + min(index, more) for index in range(stages + 1)]
    return [range(start, end) for start, end in pairwise(starts)]


class Pipeline:
    """This process's stages and how micro-batches travel through all of them."""

    def __init__(self, decoder: Decoder, stages: list[Stage], mesh: DeviceMesh, layout: Layout) -> None:
        self.decoder, self.stages, self.layout = decoder, stages, layout
        self.rank, self.size = mesh.get_local_rank("pipeline"), layout.pipeline_parallel_size
        self.group = mesh.get_group("pipeline")
        self.ranks = dist.get_process_group_ranks(self.group)  # in the whole world
        self.tensor_size = 1
        self.ends = _ends(mesh) if decoder.config.tie_word_embeddings else None
        self._schedules: dict[Any, Any] = {}

    # ------------------------------------------------ training

    def forward_backward(
        self, objective: Objective, share: Sequence[tuple[Any, bool]], weight: float, dtype: str
    ) -> StepSums:
        """Gradients of all these micro-batches; loss and tokens as this copy of the model saw them."""
        if not getattr(objective, "is_next_token", False):
            raise UserError(
                "pipeline_parallel_size trains the prediction of the next token only (stage: pretrain)",
                fix="set pipeline_parallel_size: 1 and use dp_shard_size or tensor_parallel_size",
            )
        batch = _joined(share, document_mask=getattr(objective, "document_mask", True))
        batch = {name: self._padded(name, value) for name, value in batch.items()}
        rows, T = batch["input_ids"].shape
        count = self._micro_batches(len(share), rows)
        for stage in self.stages:
            stage.loss_scale, stage.dtype = 1 / weight, dtype
        schedule = self._schedule(rows // count, T, count, dtype)
        losses: list[Tensor] = []
        arguments = (batch.pop("input_ids"),) if self.rank == 0 else ()
        batch.pop("input_ids", None)
        # the target is not used: the last stage has its own, so that the head is read inside of its forward
        schedule.step(*arguments, target=batch["targets"], losses=losses, return_outputs=False, **batch)
        self._sum_tied_gradients()
        tokens = sum(objective.weight(one) for one, is_counted in share if is_counted)
        loss = torch.stack([value.detach().sum() for value in losses]).double().sum() * weight if losses else None
        return StepSums(self._from_last(loss), tokens)

    def _micro_batches(self, wanted: int, rows: int) -> int:
        """How many pieces the rows are cut into: as many as micro-batches, or more where the pipeline needs more."""
        needed = self.size if self.layout.stages_per_process > 1 else self.layout.pipeline_stages
        for count in range(max(wanted, needed), rows + 1):
            even = self.layout.stages_per_process == 1 or count % self.size == 0
            if rows % count == 0 and even:
                return count
        raise UserError(
            f"{rows} rows a step for each copy of the model cannot be cut into equal pieces for {self.size} pipeline "
            f"processes: at least {needed} are needed",
            fix=f"make micro_batch_size x gradient_accumulation_steps a multiple of {needed} for each copy",
        )

    def _schedule(self, rows: int, T: int, count: int, dtype: str) -> Any:
        """The schedule for pieces of `rows, T`; buffers are made for one shape, so each shape has its own."""
        key = (rows, T, count, dtype)
        if key not in self._schedules:
            device = next(self.decoder.parameters()).device
            C = self.decoder.config.hidden_size
            is_gathered_in_bf16 = (
                device.type == "cuda" and dtype == "bfloat16" and isinstance(self.stages[0], FSDPModule)
            )
            kind = torch.bfloat16 if is_gathered_in_bf16 else torch.float32  # autocast leaves the residual stream fp32
            # examples: their shapes, and whether they have a gradient, are what sender and receiver agree on
            ids = torch.empty(rows, T, dtype=torch.long, device=device)
            hidden = torch.empty(rows, T // self.tensor_size, C, dtype=kind, device=device, requires_grad=True)
            loss = torch.empty(1, device=device, requires_grad=True)
            total = self.layout.pipeline_stages
            made = [
                PipelineStage(
                    stage,
                    index,
                    total,
                    device,
                    input_args=ids if stage.is_first else hidden,
                    output_args=loss if stage.is_last else hidden,
                    group=self.group,
                )
                for index, stage in zip(range(self.rank, total, self.size), self.stages, strict=True)
            ]
            options: dict[str, Any] = {"n_microbatches": count, "loss_fn": lambda out, _: out.sum()}
            options["scale_grads"] = False
            if self.layout.stages_per_process > 1:
                self._schedules[key] = ScheduleInterleaved1F1B(made, **options)  # type: ignore[arg-type]
            else:
                self._schedules[key] = Schedule1F1B(made[0], **options)
        return self._schedules[key]

    def _padded(self, name: str, rows: Tensor) -> Tensor:
        """Rows `B, T` of a length that all processes which share matrices can take an equal part of."""
        fill = {"input_ids": 0, "document_ids": -1, "targets": NOT_TRAINED}[name]
        return nn.functional.pad(rows, (0, -rows.shape[1] % self.tensor_size), value=fill)

    def _sum_tied_gradients(self) -> None:
        embedding = self.decoder.model.embed_tokens
        if self.ends is None or embedding is None or embedding.weight.grad is None:
            return
        grad = embedding.weight.grad
        dist.all_reduce(local(grad), group=self.ends)

    def holders(self, name: str) -> int:
        """How many processes of the pipeline hold this parameter."""
        return 2 if name == EMBEDDING and self.ends is not None else 1

    def _from_last(self, value: Tensor | None) -> float:
        device = next(self.decoder.parameters()).device
        box = torch.zeros((), dtype=torch.float64, device=device) if value is None else value
        dist.broadcast(box, self.ranks[-1], group=self.group)
        return float(box)

    # ------------------------------------------------ without gradients: evaluation

    def hidden(self, input_ids: Tensor, *, document_ids: Tensor | None = None, **_: Any) -> Tensor:
        """What `Decoder.forward` gives, in the last process; elsewhere zeros of its shape. Only without gradients."""
        assert not torch.is_grad_enabled(), "a pipeline is trained by forward_backward"
        device_type = input_ids.device.type
        dtype = "bfloat16" if torch.is_autocast_enabled(device_type) else "float32"
        x, total = self._padded("input_ids", input_ids), self.layout.pipeline_stages
        documents = None if document_ids is None else self._padded("document_ids", document_ids)
        shape = (len(x), x.shape[1] // self.tensor_size, self.decoder.config.hidden_size)
        for index in range(total):
            if index % self.size != self.rank:
                continue
            stage = self.stages[index // self.size]
            stage.dtype = dtype
            if not stage.is_first:
                x = torch.empty(shape, device=input_ids.device)
                dist.recv(x, self.ranks[(index - 1) % self.size], group=self.group)
            x = stage(x, document_ids=documents)
            if not stage.is_last:
                dist.send(x.float().contiguous(), self.ranks[(index + 1) % self.size], group=self.group)
        if self.stages[-1].is_last:
            return x[:, : input_ids.shape[1]]
        return torch.zeros(*input_ids.shape, self.decoder.config.hidden_size, device=input_ids.device)

    def logprobs(self, hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Of the last process, in all of them."""
        if self.stages[-1].is_last:
            found = token_logprobs(hidden, self.stages[-1], targets, temperature).contiguous()  # type: ignore[arg-type]
        else:
            found = torch.empty(targets.shape, device=targets.device)
        dist.broadcast(found, self.ranks[-1], group=self.group)
        return found


def _joined(share: Sequence[tuple[Any, bool]], *, document_mask: bool) -> dict[str, Tensor]:
    """All rows of these micro-batches one below the other; the targets of those that count nothing are NOT_TRAINED."""
    parts: list[Mapping[str, Tensor]] = [batch for batch, _ in share]
    names = ["input_ids", "targets"] + (["document_ids"] if document_mask else [])
    batch = {name: torch.cat([part[name] for part in parts]) for name in names}
    counted = [
        part["targets"] if is_counted else torch.full_like(part["targets"], NOT_TRAINED) for part, is_counted in share
    ]
    return {**batch, "targets": torch.cat(counted)}


def _ends(mesh: DeviceMesh) -> dist.ProcessGroup:
    """The group of the first and the last process of this pipeline; every process makes all such groups, in turn."""
    axis = (mesh.mesh_dim_names or ()).index("pipeline")
    pairs = mesh.mesh.movedim(axis, -1).reshape(-1, mesh.size(axis))[:, [0, -1]].tolist()
    found = None
    for pair in pairs:
        group = dist.new_group(pair)
        if dist.get_rank() in pair:
            found = group
    return found  # type: ignore[return-value]
