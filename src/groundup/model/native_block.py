"""Where a decoder's blocks run on the native kernels: which may, and how they are handed over.

On a CPU with a C compiler, whole rows (no cache) of a plain decoder run on kernels/block.py, about three times as fast
as block by block through autograd. Everything else (a cache, a GPU, split or wrapped layers, hooks, torch.compile, a
document in several pieces) takes the decoder's own readable path, which computes the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from groundup.kernels import native
from groundup.kernels.attention import Rows, first_visible
from groundup.kernels.block import Shape, Weights, block

if TYPE_CHECKING:
    from groundup.model.decoder import Block, Trunk


def native_rows(
    trunk: Trunk, position_ids: Tensor, positions: int, document_ids: Tensor | None, batch: int, dtype: torch.dtype
) -> dict[int | None, Rows] | None:
    """What the native blocks need, per window; None where these rows or this trunk cannot run on them."""
    if not may_run(trunk, dtype):
        return None
    tokens = position_ids.shape[1]
    first = {window: first_visible(document_ids, batch, tokens, window) for window in set(trunk.windows)}
    cos, sin = trunk.rotary.tables_of(positions, torch.float32, torch.device("cpu"))
    at = position_ids.contiguous()
    rows = {window: Rows(seen, at, cos, sin) for window, seen in first.items() if seen is not None}
    return rows if len(rows) == len(first) else None


def may_run(trunk: Trunk, dtype: torch.dtype) -> bool:
    if torch.compiler.is_compiling() or next(trunk.parameters()).device.type != "cpu" or not native.available(dtype):
        return False
    return all(_is_plain(layer) for layer in trunk.layers.children())


def _is_plain(layer: nn.Module) -> bool:
    """Whether a block is made of the decoder's own modules and plain weights, and nobody listens to its parts."""
    from groundup.model.decoder import MLP, Attention, Block, RMSNorm

    known = (Block, Attention, MLP, RMSNorm, nn.Linear)
    for module in layer.modules():
        if type(module) not in known:
            return False
        if module is not layer and (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks):
            return False
        for parameter in module._parameters.values():
            if parameter is not None and (type(parameter) is not nn.Parameter or parameter.dtype not in _WEIGHTS):
                return False
    return True


_WEIGHTS = (torch.float32, torch.bfloat16)


def run_block(layer: Block, x: Tensor, rows: Rows, dtype: torch.dtype) -> Tensor:
    """`layer(x)` `B, T, C` by the native kernels."""
    attention, mlp = layer.self_attn, layer.mlp
    weights = Weights(
        input_norm=layer.input_layernorm.weight,
        q=attention.q_proj.weight,
        k=attention.k_proj.weight,
        v=attention.v_proj.weight,
        o=attention.o_proj.weight,
        post_norm=layer.post_attention_layernorm.weight,
        gate=mlp.gate_proj.weight,
        up=mlp.up_proj.weight,
        down=mlp.down_proj.weight,
        q_bias=attention.q_proj.bias,
        k_bias=attention.k_proj.bias,
        v_bias=attention.v_proj.bias,
        o_bias=attention.o_proj.bias,
        gate_bias=mlp.gate_proj.bias,
        up_bias=mlp.up_proj.bias,
        down_bias=mlp.down_proj.bias,
        q_norm=attention.q_norm.weight if attention.qk_norm else None,
        k_norm=attention.k_norm.weight if attention.qk_norm else None,
    )
    shape = Shape(
        heads=attention.q_proj.out_features // attention.head_dim,
        kv_heads=attention.k_proj.out_features // attention.head_dim,
        head_dim=attention.head_dim,
        eps=layer.input_layernorm.eps,
        uses_rope=attention.uses_rope,
    )
    return block(x, weights, shape, rows, dtype)
