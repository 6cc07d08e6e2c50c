"""How a model is cut up over a mesh of processes: layers over the pipeline, matrices over `tensor`, then activation
checkpointing and compilation per block, and last everything over `shard` (FSDP2) and `replicate` (HSDP).

Parameters stay under their Hugging Face names and become DTensors; hidden states stay plain tensors, split along T
between the products (sequence parallel, arXiv:2205.05198), so that the model's own code runs on them as it is.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from groundup.errors import UserError
from groundup.model.decoder import Decoder, SplitHead, Trunk, compute_dtype
from groundup.model.functions import rms_norm
from groundup.model.heads import ScalarModel, scalar_values
from groundup.train.context import split_rows
from groundup.train.layout import Layout, layout_problems
from groundup.train.options import TrainOptions
from groundup.train.parts import local
from groundup.train.pipeline import Pipeline, Stage, cut_into_stages
from groundup.train.speedups import speed_up
from groundup.train.vocabulary import split_logprobs

SEQUENCE = 1  # the dimension T of hidden states `B, T, C`


def parallelize(
    model: nn.Module, mesh: DeviceMesh, layout: Layout, options: TrainOptions, row: DeviceMesh | None = None
) -> Pipeline | None:
    """Cut `model` up in place; the pipeline that runs its stages, where there is one. UserError where sizes do not fit.

    `row`: the processes that share the tokens of a row. The order matters: a block is compiled with its split matrices,
    and sharded with its checkpointing.
    """
    if not isinstance(model, (Decoder, ScalarModel)):
        raise UserError(
            f"a {type(model).__name__}, models that are trained together, cannot be laid out over processes",
            fix="train this stage in one process (--processes 1)",
        )
    if problems := layout_problems(layout, model.config):
        raise UserError(problems)
    axes = mesh.mesh_dim_names or ()
    pipeline = cut_into_stages(_one_decoder(model), mesh, layout) if "pipeline" in axes else None
    if "tensor" in axes:
        split_matrices(model, mesh["tensor"], pipeline)
    if row is not None:
        split_rows(model.model, row)
    speed_up(model, options)
    shard_axes = tuple(axis for axis in ("replicate", "shard") if axis in axes)
    if shard_axes:
        roots = pipeline.stages if pipeline is not None else [model]
        shard(roots, mesh[shard_axes], options, keeps_blocks=pipeline is not None)
    return pipeline


def _one_decoder(model: Decoder | ScalarModel) -> Decoder:
    if not isinstance(model, Decoder):
        raise UserError(
            f"pipeline_parallel_size trains a decoder to predict the next token, and not a {type(model).__name__}",
            fix="set pipeline_parallel_size: 1 and use dp_shard_size or tensor_parallel_size",
        )
    return model


# ---------------------------------------------------------------- tensor parallel

BLOCK_PLAN: dict[str, str] = {
    "input_layernorm": "norm",
    "self_attn": "whole rows in",
    "self_attn.q_proj": "columns",
    "self_attn.k_proj": "columns",
    "self_attn.v_proj": "columns",
    "self_attn.q_norm": "norm",
    "self_attn.k_norm": "norm",
    "self_attn.o_proj": "rows",
    "post_attention_layernorm": "norm",
    "mlp": "whole rows in",
    "mlp.gate_proj": "columns",
    "mlp.up_proj": "columns",
    "mlp.down_proj": "rows",
}


def split_matrices(part: Decoder | ScalarModel, mesh: DeviceMesh, pipeline: Pipeline | None = None) -> None:
    """Split the matrices of a model, or of the layers that a pipeline left of it here, and its vocabulary."""
    trunk = part.model
    size = mesh.size()

    def styles() -> dict[str, ParallelStyle]:
        return {
            "columns": ColwiseParallel(),
            "rows": RowwiseParallel(output_layouts=Shard(SEQUENCE)),
            "norm": LocalNorm(),
            "whole rows in": WholeRowsIn(),
        }

    for block in trunk.layers.children():
        have = dict(block.named_modules())
        parallelize_module(block, mesh, {name: styles()[style] for name, style in BLOCK_PLAN.items() if name in have})
    ends: dict[str, ParallelStyle] = {"embed_tokens": SplitEmbedding(), "norm": LocalNorm(gathers=True)}
    have = dict(trunk.named_children())  # of a pipeline's layers, only the first and the last have them
    parallelize_module(trunk, mesh, {name: style for name, style in ends.items() if name in have})
    if isinstance(part, ScalarModel):
        parallelize_module(part, mesh, {"score": Replicated()})
        part.forward = partial(_values, part)  # type: ignore[method-assign]
    if isinstance(part, Decoder) and part.lm_head is not None:
        parallelize_module(part, mesh, {"lm_head": SplitRows()})
    if pipeline is not None:
        pipeline.tensor_size = size
        for stage in pipeline.stages:
            stage.tensor_size, stage.split_head = size, _split_head(stage, mesh)
        return
    _pad_rows(trunk, size)
    if isinstance(part, Decoder):
        part.split_head = _split_head(part, mesh)


class LocalNorm(ParallelStyle):
    """A norm over the last dimension of hidden states that are split along T, or of heads that are split.

    Its weight is whole everywhere; each process has a part of its gradient. `gathers`: the result has all of T.
    """

    def __init__(self, *, gathers: bool = False) -> None:
        super().__init__()
        self.gathers = gathers

    def _apply(self, module: Any, device_mesh: DeviceMesh) -> nn.Module:
        _distribute(module, device_mesh, Replicate())

        def forward(x: Tensor) -> Tensor:
            weight = _SummedGradient.apply(module.weight.to_local(), device_mesh.get_group())
            normal = rms_norm(x, weight, module.eps, compute_dtype(module.weight))
            if not self.gathers:
                return normal
            return (
                DTensor.from_local(normal, device_mesh, (Shard(SEQUENCE),))
                .redistribute(placements=(Replicate(),))
                .to_local()
            )

        module.forward = forward
        return module  # type: ignore[no-any-return]


class _SummedGradient(torch.autograd.Function):
    """A whole weight that every process of the group uses on its own part of the hidden states."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class WholeRowsIn(ParallelStyle):
    """Gathers the first argument along T: what the columns of a split matrix are multiplied with."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def gather(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            whole = DTensor.from_local(args[0], device_mesh, (Shard(SEQUENCE),)).redistribute(placements=(Replicate(),))
            return (whole, *args[1:])

        module.register_forward_pre_hook(gather)
        return module


class SplitEmbedding(ParallelStyle):
    """Each process looks up the ids whose rows it holds; the sum over all of them comes split along T."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _distribute(module, device_mesh, Shard(0))

        def forward(input_ids: Tensor) -> Tensor:
            weight = module.weight
            assert isinstance(weight, DTensor)
            own = weight.to_local()
            index = input_ids - first_row(weight, device_mesh)
            is_own = (index >= 0) & (index < len(own))
            found = nn.functional.embedding(index.where(is_own, 0), own) * is_own[..., None]
            summed = DTensor.from_local(found, device_mesh, (Partial(),))
            return summed.redistribute(placements=(Shard(SEQUENCE),)).to_local()

        module.forward = forward  # type: ignore[method-assign]
        return module


class SplitRows(ParallelStyle):
    """Rows over the processes, for a weight that is read and never called."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return _distribute(module, device_mesh, Shard(0))


class Replicated(ParallelStyle):
    """Whole in every process, and so is its gradient."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return _distribute(module, device_mesh, Replicate())


def _distribute(module: nn.Module, mesh: DeviceMesh, placement: Shard | Replicate) -> nn.Module:
    for name, parameter in module.named_parameters(recurse=False):
        split = distribute_tensor(parameter.data, mesh, (placement,), src_data_rank=None)
        module.register_parameter(name, nn.Parameter(split, requires_grad=parameter.requires_grad))
    return module


def first_row(weight: Tensor, mesh: DeviceMesh) -> int:
    """Of the rows of a split weight, the first one here: as torch.chunk splits, the last process may have fewer."""
    return -(-weight.shape[0] // mesh.size()) * mesh.get_local_rank()


def _pad_rows(trunk: Trunk, size: int) -> None:
    """Let rows have a length that every process can take an equal part of: no token sees those added at the end."""
    whole, fill = trunk.forward, {"document_ids": -1, "position_ids": 0}

    def forward(input_ids: Tensor, **others: Any) -> Tensor:
        T = input_ids.shape[1]
        missing = -T % size
        for name in fill.keys() & others.keys() if missing else ():
            if others[name] is not None:
                others[name] = nn.functional.pad(others[name], (0, missing), value=fill[name])
        return whole(nn.functional.pad(input_ids, (0, missing)), **others)[:, :T]

    trunk.forward = forward  # type: ignore[method-assign]


def _split_head(model: Decoder | Stage, mesh: DeviceMesh) -> SplitHead:
    def logprobs(hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
        weight = model.head_weight
        assert isinstance(weight, DTensor)
        dtype = compute_dtype(weight)
        own = weight.to_local(grad_placements=(Shard(0),)).to(dtype)
        return split_logprobs(hidden, own, targets, first_row(weight, mesh), mesh.get_group(), temperature)

    return logprobs


def _values(
    model: ScalarModel, input_ids: Tensor, position_ids: Tensor | None = None, document_ids: Tensor | None = None
) -> Tensor:
    """ScalarModel.forward with a head that is whole in every process."""
    hidden = model.model(input_ids, position_ids=position_ids, document_ids=document_ids)
    return scalar_values(hidden, local(model.score.weight))


# ---------------------------------------------------------------- FSDP2


def shard(roots: Any, mesh: DeviceMesh, options: TrainOptions, *, keeps_blocks: bool) -> None:
    """Shard blocks one by one and the rest (embedding, last norm, head) with its root, whose weights stay gathered
    from the forward pass to the end of the backward pass: the loss reads the head outside of `forward`.

    fp32 weights; on a GPU gathered and computed in bfloat16, gradients summed in fp32. On a CPU autocast computes.
    """
    mixed = mesh.device_type == "cuda" and options.dtype == "bfloat16"
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if mixed
        else MixedPrecisionPolicy()
    )
    # its hooks hang on what comes out, and would be lost if that were changed in place: nothing here does
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    for root in roots:
        trunk = root.model if isinstance(root, (Decoder, ScalarModel)) else root
        for block in trunk.layers.children():
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not keeps_blocks)
        fully_shard(root, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # sums: the loss is divided by the global weight already
                module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum
