"""Less memory or less time for a training step: activation checkpointing, compilation and float8, block by block.

All of it holds for the training only. `speed_up` gives blocks another `forward` in place, under which names, state
dicts and checkpoints stay what they are; `slow_down` takes it away again. The order is that of train/parallel.py: split
matrices, then float8 inside them, then checkpointing, then compilation, and sharding around all of it.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from groundup.errors import Problem, UserError
from groundup.model.decoder import Decoder, Trunk
from groundup.train.device import why_no_compiler
from groundup.train.options import TrainOptions

COLLECT_EVERY_STEPS = 50
FLOAT8_CAPABILITY = (8, 9)  # NVIDIA Ada; Hopper is 9.0
FLOAT8_FROM_HIDDEN = 2048  # below, casting costs more than the products gain (nanochat: slower at 768)
FLOAT8_MULTIPLE = 16  # of a matrix's sides: what the tensor cores take


def speed_up(model: nn.Module, options: TrainOptions) -> None:
    """Apply what the options ask for to every block of every model in `model`, in place. Twice is once."""
    trunks = [module for module in model.modules() if isinstance(module, Trunk)]
    if options.float8:
        use_float8(trunks, options.device)
    for part in model.modules():
        if isinstance(part, (Trunk, Decoder)):
            part.is_compiled = options.torch_compile
    if not options.gradient_checkpointing and not options.torch_compile:
        return
    if options.torch_compile:
        require_compiler(options.device)
    for block in blocks_of(model):
        if "forward" in block.__dict__:
            continue
        plain = trained = block.forward
        if options.gradient_checkpointing:
            trained = partial(_recomputed, trained, options.gradient_checkpointing == "selective")
        if options.torch_compile:
            # split matrices exchange tensors inside the block: what cannot be traced there may break the graph
            trained = torch.compile(trained, fullgraph=options.layout.tensor_parallel_size == 1)
        block.__dict__["forward"] = partial(_forward, plain, trained)


def slow_down(model: nn.Module) -> None:
    """Take away what `speed_up` gave, in place: for generation, copies and export after the training."""
    for part in model.modules():
        if isinstance(part, (Trunk, Decoder)):
            part.is_compiled = False
    for block in blocks_of(model):
        block.__dict__.pop("forward", None)
        _leave_float8(block)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    return [block for module in model.modules() if isinstance(module, Trunk) for block in module.layers.children()]


def _forward(
    plain: Callable[..., Tensor], trained: Callable[..., Tensor], x: Tensor, rotation: Any, mask: Any, cache: Any
) -> Tensor:
    """Generation and measurement take the block as it is: their shapes change, and nothing is kept anyway."""
    is_training = cache is None and torch.is_grad_enabled()
    return (trained if is_training else plain)(x, rotation, mask, cache)


# ---------------------------------------------------------------- activation checkpointing


def _recomputed(
    forward: Callable[..., Tensor], selective: bool, x: Tensor, rotation: Any, mask: Any, cache: Any
) -> Tensor:
    """Keep the block's input (`selective`: and its products) and compute the rest again in the backward pass."""
    more: dict[str, Any] = {"context_fn": _selective_contexts} if selective else {}
    # a block draws nothing at random, so no generator needs to be put back
    out: Tensor = checkpoint(forward, x, rotation, mask, cache, use_reentrant=False, preserve_rng_state=False, **more)
    return out


def _selective_contexts() -> Any:
    return create_selective_checkpoint_contexts(_kept)


# what costs most to compute again, per byte kept: matrix products and fused attention; norms, rotations and
# activations are cheap. Batched products are not here: on a CPU they are attention's, whose results are T x T.
KEPT = frozenset(
    {
        "aten::mm",
        "aten::addmm",
        "aten::_scaled_mm",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_fused_attention_overrideable",
        "torch_attn::_varlen_attn",
        "flex_attention",
    }
)


def _kept(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    schema = getattr(operation, "_schema", None)
    name = schema.name if schema is not None else getattr(operation, "__name__", "")
    return CheckpointPolicy.MUST_SAVE if name in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


# ---------------------------------------------------------------- compilation


def require_compiler(device: str) -> None:
    if why := why_no_compiler(device):
        raise UserError([no_compiler(why)])


def no_compiler(why: str) -> Problem:
    return Problem(f"torch_compile has nothing to compile with: {why}", fix="install it, or set torch_compile: false")


# ---------------------------------------------------------------- float8


def use_float8(trunks: list[Trunk], device: str) -> None:
    """Products of the blocks in float8 (torchao, row by row scaled), in place. UserError where that cannot pay."""
    if problem := why_no_float8(device, min(trunk.config.hidden_size for trunk in trunks)):
        raise UserError(problem[0], where="float8: true", fix=problem[1])
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig.from_recipe_name("rowwise")
    for trunk in trunks:
        convert_to_float8_training(trunk.layers, config=config, module_filter_fn=fits_float8)


def fits_float8(module: nn.Module, name: str) -> bool:  # noqa: ARG001 (torchao passes it)
    """Whether a layer's matrix has sides that the tensor cores take."""
    return isinstance(module, nn.Linear) and all(side % FLOAT8_MULTIPLE == 0 for side in module.weight.shape)


def why_no_float8(device: str, hidden_size: int | None = None) -> tuple[str, str] | None:
    """Why float8 cannot pay here, and what would work, or None. `hidden_size`: the smallest, where it is known."""
    if not device.startswith("cuda"):
        return f"float8 products are made by NVIDIA GPUs only; this run is on `{device}`", "leave float8 out"
    capability = torch.cuda.get_device_capability(device)
    if capability < FLOAT8_CAPABILITY:
        return (
            f"this GPU ({torch.cuda.get_device_name(device)}) has compute capability {capability[0]}.{capability[1]}; "
            f"float8 needs {FLOAT8_CAPABILITY[0]}.{FLOAT8_CAPABILITY[1]} (Ada, Hopper or newer)",
            "leave float8 out: bfloat16 is what this GPU is fast at",
        )
    if hidden_size is not None and hidden_size < FLOAT8_FROM_HIDDEN:
        return (
            f"a model of hidden_size {hidden_size:,} trains slower in float8, not faster: it pays from "
            f"{FLOAT8_FROM_HIDDEN:,} on",
            "leave float8 out",
        )
    if importlib.util.find_spec("torchao") is None:
        return "float8 needs torchao, which is not installed", "pip install 'groundup[float8]', or leave float8 out"
    return None


def _leave_float8(block: nn.Module) -> None:
    """Plain linear layers again, around the same weights."""
    for parent in list(block.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and type(child).__name__ == "Float8Linear":
                plain = nn.Linear(child.in_features, child.out_features, child.bias is not None, device="meta")
                plain.weight = child.weight
                plain.bias = child.bias
                setattr(parent, name, plain.train(child.training))


# ---------------------------------------------------------------- garbage collection


@contextmanager
def steady_collection(device: str) -> Iterator[Callable[[int], None]]:
    """Python's garbage collection at steps that are known, and never in the middle of one; call it with each step.

    A collection of everything stops a process for tens of milliseconds whenever counters say so. Where a GPU waits for
    Python, and all other processes for this one, that is felt; on a CPU the collector is left alone.
    """
    if device == "cpu":
        yield lambda _: None
        return
    gc.collect()
    gc.freeze()  # what is there now stays for the whole run
    gc.disable()
    try:
        yield lambda step: _collect(step)
    finally:
        gc.enable()
        gc.unfreeze()


def _collect(step: int) -> None:
    if step % COLLECT_EVERY_STEPS == 0:
        gc.collect(1)
