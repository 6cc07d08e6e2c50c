"""Decoding in plain torch, for machines and devices where kernels/decode.c is not: packed weights, a ragged cache.

One step costs what its products cost and as few other operations as possible: q, k and v are one product, gate and up
another, and on a CPU bfloat16 weights lie as oneDNN wants them (1.4x at a few rows). The reference is
decoder.py; the interface is that of native_decode.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.kernels.decode import quantise_rows
from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.rope import RotaryTable

Linear = Callable[[Tensor], Tensor]
IntArray = np.ndarray[Any, Any]


class TorchCache:
    """Keys and values of `slots` sequences, each of its own length: `slots, Hkv, capacity + 1, D` a layer.

    The last position is for padding to write to; nobody reads it.
    """

    def __init__(
        self, config: ModelConfig, slots: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads, capacity + 1, config.head_dim)
        self.slots, self.capacity = slots, capacity
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.lengths = np.zeros(slots, dtype=np.int32)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let slot `target` hold the first `tokens` tokens of slot `source`."""
        for cached in (self.keys, self.values):
            cached[:, target, :, :tokens] = cached[:, source, :, :tokens]
            cached[:, target, :, tokens:] = 0
        self.lengths[target] = tokens


class TorchDecoder:
    """A decoder's weights, packed for generation in float32, bfloat16 or int8 (symmetric per output row)."""

    def __init__(self, model: Decoder, kind: str) -> None:
        self.config, self.kind = model.config, kind
        self.device = model.head_weight.device
        self.dtype = torch.float32 if kind == "float32" else torch.bfloat16
        self.rotary = RotaryTable(model.config)
        self.embedding = model.model.embed_tokens.weight.detach().to(self.dtype)
        self.layers = [self._layer(block) for block in model.model.layers]
        self.norm = self._plain(model.model.norm.weight)
        self.head = self._linear(model.head_weight, None)

    def new_cache(self, slots: int, capacity: int) -> TorchCache:
        return TorchCache(self.config, slots, capacity, self.dtype, self.device)

    def read(self, cache: TorchCache, slot: int, pieces: list[list[int]]) -> Tensor:
        """Append `pieces[i]` to what slot `slot + i` holds; logits after each piece, `len(pieces), V` in fp32."""
        longest = max(map(len, pieces))
        ids = np.array([piece + [0] * (longest - len(piece)) for piece in pieces])
        return self._forward(cache, slot, ids, np.array([len(piece) for piece in pieces], dtype=np.int32))

    def step(self, cache: TorchCache, tokens: IntArray) -> Tensor:
        """One token for each of the first `len(tokens)` slots; logits `len(tokens), V`."""
        return self._forward(cache, 0, tokens[:, None], np.ones(len(tokens), dtype=np.int32))

    @torch.inference_mode()
    def _forward(self, cache: TorchCache, slot: int, ids: IntArray, counts: IntArray) -> Tensor:
        """`ids` `B, T`, padded on the right; row i has `counts[i]` and goes to slot `slot + i`."""
        B, T = ids.shape
        past = cache.lengths[slot : slot + B]
        ends = past + counts
        if int(ends.max()) > cache.capacity:
            raise IndexError(f"{int(ends.max())} tokens do not fit a cache of {cache.capacity}")
        keys = int(ends.max())
        given = np.where(np.arange(T) < counts[:, None], past[:, None] + np.arange(T), cache.capacity)
        positions = torch.from_numpy(given).long().to(self.device)
        rotation = self.rotary.at(positions, cache.capacity + 1, self.dtype)
        at: Any = (slice(slot, slot + B), slice(None), slice(int(past[0]), int(past[0]) + T))
        if not (np.all(past == past[0]) and np.all(counts == T)):  # ragged: every row has its own places
            rows = torch.arange(slot, slot + B, device=self.device)
            at = (rows[:, None], slice(None), positions)
        for row in np.flatnonzero(past == 0):  # what an old sequence left counts 0 times, but may be no number
            cache.keys[:, slot + int(row)] = 0
            cache.values[:, slot + int(row)] = 0
        masks = self._masks(positions, past, keys)
        x = F.embedding(torch.from_numpy(ids).to(self.device), self.embedding)
        for number, layer in enumerate(self.layers):
            window = self.config.layer_window(number)
            cached = (cache.keys[number], cache.values[number])
            x = self._block(layer, x, rotation if layer["rope"] else None, masks[window], cached, at, slot, keys)
        cache.lengths[slot : slot + B] = ends
        last = x[torch.arange(B, device=self.device), torch.from_numpy(counts - 1).long().to(self.device)]
        return self.head(self._rms(last, self.norm)).float()

    def _masks(self, positions: Tensor, past: IntArray, keys: int) -> dict[int | None, Tensor | None]:
        """For each window, what is added to scores `B, 1, T, keys`; None where every key may be seen."""
        T, is_even = positions.shape[1], bool(np.all(past == past[0]))
        masks: dict[int | None, Tensor | None] = {}
        key_index = torch.arange(keys, device=self.device)
        for window in {self.config.layer_window(number) for number in range(self.config.num_hidden_layers)}:
            if T == 1 and is_even and (window is None or keys <= window):
                masks[window] = None
                continue
            query = positions[:, None, :, None]
            hidden = key_index > query
            if window is not None:  # padding sees something, or its row would be all -inf: it comes to nothing anyway
                hidden |= (key_index <= query - window) & (query < keys)
            masks[window] = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device).masked_fill_(
                hidden, float("-inf")
            )
        return masks

    def _block(
        self,
        layer: dict[str, Any],
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        cached: tuple[Tensor, Tensor],
        at: Any,
        slot: int,
        keys: int,
    ) -> Tensor:
        config = self.config
        B, T, D = x.shape[0], x.shape[1], config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        qkv = layer["qkv"](self._rms(x, layer["attention_norm"])).view(B, T, -1, D)
        q, k, v = qkv.split((heads, kv_heads, kv_heads), 2)
        if layer["q_norm"] is not None:
            q, k = self._rms(q, layer["q_norm"]), self._rms(k, layer["k_norm"])
        if rotation is not None:
            q, k = (_rotated(part, *rotation) for part in (q, k))
        for store, new in zip(cached, (k, v), strict=True):
            store[at] = new.transpose(1, 2) if isinstance(at[0], slice) else new
        k, v = (store[slot : slot + B, :, :keys].flatten(0, 1) for store in cached)
        grouped = (q.transpose(1, 2) * D**-0.5).reshape(B * kv_heads, -1, D)
        scores = torch.bmm(grouped, k.transpose(1, 2))
        if mask is not None:
            scores.view(B, heads, T, keys).add_(mask)
        heads_out = torch.bmm(scores.softmax(-1), v).view(B, heads, T, D).transpose(1, 2).reshape(B, T, heads * D)
        x = x + layer["out"](heads_out)
        gate, up = layer["gate_up"](self._rms(x, layer["mlp_norm"])).chunk(2, -1)
        result: Tensor = x + layer["down"](F.silu(gate) * up)
        return result

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)

    # ------------------------------------------------------------ packing

    def _layer(self, block: Any) -> dict[str, Any]:
        attention, mlp = block.self_attn, block.mlp
        return {
            "qkv": self._joined(attention.q_proj, attention.k_proj, attention.v_proj),
            "out": self._joined(attention.o_proj),
            "gate_up": self._joined(mlp.gate_proj, mlp.up_proj),
            "down": self._joined(mlp.down_proj),
            "attention_norm": self._plain(block.input_layernorm.weight),
            "mlp_norm": self._plain(block.post_attention_layernorm.weight),
            "q_norm": self._plain(attention.q_norm.weight) if attention.qk_norm else None,
            "k_norm": self._plain(attention.k_norm.weight) if attention.qk_norm else None,
            "rope": attention.uses_rope,
        }

    def _joined(self, *parts: Any) -> Linear:
        biases = [part.bias for part in parts]
        weight = torch.cat([part.weight.detach() for part in parts])
        return self._linear(weight, None if biases[0] is None else torch.cat(biases))

    def _plain(self, vector: Tensor) -> Tensor:
        return vector.detach().to(self.dtype)

    def _linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        bias = None if bias is None else self._plain(bias)
        if self.kind == "int8":
            rounded, scale = quantise_rows(weight.detach())
            return _int8_linear(rounded, scale.to(self.dtype), bias)
        cast = weight.detach().to(self.dtype).contiguous()
        if cast.device.type == "cpu" and self.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available():
            packed = torch.ops.mkldnn._reorder_linear_weight(cast, 1)
            return lambda x: torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
        return lambda x: F.linear(x, cast, bias)


ROWS_AS_INT8 = 8  # with more rows, making the weights bfloat16 costs less than products with int8 ones do


def _int8_linear(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Linear:
    """x W^T with int8 weights and one scale per output row; activations stay in bfloat16."""

    def linear(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if weight.device.type == "cpu" and len(rows) <= ROWS_AS_INT8:
            out = torch._weight_int8pack_mm(rows, weight, scale)
        else:
            out = F.linear(rows, weight.to(x.dtype)) * scale
        out = out if bias is None else out + bias
        return out.view(*x.shape[:-1], -1)

    return linear


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As functions.rotate, for heads `B, T, H, D` and without a backward pass."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((b, a), dim=-1).mul_(sin.transpose(1, 2)).addcmul_(x, cos.transpose(1, 2))
