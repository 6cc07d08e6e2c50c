"""Decoding by kernels/decode.c: packed weights, a cache without padding, one native call for all tokens of a step."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.kernels.decode import (
    KINDS,
    Call,
    DecoderShape,
    Layer,
    Matrix,
    decode_library,
    pack,
    uses_tiles,
)
from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.rope import inverse_frequencies

BLOCK = 16  # positions


class NativeCache:
    """Keys and values of `slots` sequences of up to `capacity` tokens, in decode.c's layout; see decoding.py."""

    def __init__(self, config: ModelConfig, slots: int, capacity: int, kind: str) -> None:
        self.slots, self.capacity = slots, -(-capacity // BLOCK) * BLOCK
        width = -(-config.head_dim // 16) * 16
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads, self.capacity * width)
        dtype = torch.float32 if kind == "float32" else torch.bfloat16
        self.width = width
        self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        self.lengths = np.zeros(slots, dtype=np.int32)
        half = config.head_dim // 2
        frequencies, factor = inverse_frequencies(config)
        angles = torch.arange(self.capacity, dtype=torch.float32, device="cpu")[:, None] * frequencies
        assert angles.shape == (self.capacity, half)
        self.cos, self.sin = angles.cos().mul_(factor), angles.sin().mul_(factor)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let slot `target` hold the first `tokens` tokens of slot `source`."""
        cells = -(-tokens // BLOCK) * BLOCK * self.width
        for cached in (self.keys, self.values):
            cached[:, target, :, :cells] = cached[:, source, :, :cells]
        self.lengths[target] = tokens


class NativeDecoder:
    """A decoder's weights, packed as float32, bfloat16 or int8 (symmetric per output row)."""

    device = torch.device("cpu")

    def __init__(self, model: Decoder, kind: str) -> None:
        library = decode_library()
        assert library is not None, "ask decoding.py, which knows whether there is one"
        self.library, self.config, self.kind = library, model.config, kind
        self.kept: list[Any] = []  # what the native side points to
        config, head = model.config, model.head_weight.detach()
        table = model.model.embed_tokens.weight.detach()
        layers = (Layer * config.num_hidden_layers)()
        for number, block in enumerate(model.model.layers):
            layers[number] = self._layer(block, number)
        self.shape = DecoderShape(
            kind=KINDS[kind],
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            intermediate=config.intermediate_size,
            vocab=config.vocab_size,
            eps=config.rms_norm_eps,
            uses_tiles=uses_tiles(),
            layer=ctypes.cast(layers, ctypes.POINTER(Layer)),
            embedding=self._keep(table.to(torch.float32 if kind == "float32" else torch.bfloat16)),
            norm=self._floats(model.model.norm.weight),
            head=self._matrix(head),
        )
        self.kept.append(layers)
        self.workspace = torch.empty(0, dtype=torch.uint8)
        self.logits = torch.empty(0)

    def new_cache(self, slots: int, capacity: int) -> NativeCache:
        return NativeCache(self.config, slots, capacity, self.kind)

    def read(self, cache: NativeCache, slot: int, pieces: list[list[int]]) -> Tensor:
        """Append `pieces[i]` to what slot `slot + i` holds; logits after each piece, `len(pieces), V` in fp32.

        The result is overwritten by the next call.
        """
        counts = np.array([len(piece) for piece in pieces], dtype=np.int32)
        slots = np.arange(slot, slot + len(pieces), dtype=np.int32)
        ends = np.cumsum(counts, dtype=np.int32)
        starts = cache.lengths[slot : slot + len(pieces)]
        positions = np.arange(ends[-1], dtype=np.int32) + np.repeat(starts - (ends - counts), counts)
        ids = np.concatenate([np.asarray(piece, dtype=np.int32) for piece in pieces])
        logits = self._forward(cache, ids, np.repeat(slots, counts), positions, ends - 1)
        cache.lengths[slot : slot + len(pieces)] += counts
        return logits

    def step(self, cache: NativeCache, tokens: np.ndarray[Any, Any]) -> Tensor:
        """One token for each of the first `len(tokens)` slots; logits as from `read`."""
        n = len(tokens)
        every = np.arange(n, dtype=np.int32)
        logits = self._forward(cache, tokens.astype(np.int32), every, cache.lengths[:n], every)
        cache.lengths[:n] += 1
        return logits

    def _forward(
        self,
        cache: NativeCache,
        ids: np.ndarray[Any, Any],
        slots: np.ndarray[Any, Any],
        positions: np.ndarray[Any, Any],
        wanted: np.ndarray[Any, Any],
    ) -> Tensor:
        threads, vocab = torch.get_num_threads(), -(-self.config.vocab_size // 16) * 16
        needed = self.library.decode_workspace(ctypes.byref(self.shape), len(ids), len(wanted), threads, cache.capacity)
        if self.workspace.numel() < needed + 64:
            self.workspace = torch.empty(needed + 64, dtype=torch.uint8)
        if self.logits.numel() < len(wanted) * vocab:
            self.logits = torch.empty(len(wanted) * vocab)
        arrays = [np.ascontiguousarray(array, dtype=np.int32) for array in (ids, slots, positions, wanted)]
        call = Call(
            len(ids),
            len(wanted),
            threads,
            cache.slots,
            cache.capacity,
            len(cache.cos),
            *(array.ctypes.data for array in arrays),
            cache.cos.data_ptr(),
            cache.sin.data_ptr(),
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
            self.logits.data_ptr(),
            -(-self.workspace.data_ptr() // 64) * 64,
        )
        if self.library.decode_forward(ctypes.byref(self.shape), ctypes.byref(call)) != 0:
            raise IndexError(f"a token id, slot or position is out of range (capacity {cache.capacity})")
        return self.logits[: len(wanted) * vocab].view(len(wanted), vocab)[:, : self.config.vocab_size]

    # ------------------------------------------------------------ packing

    def _layer(self, block: Any, number: int) -> Layer:
        attention, mlp, config = block.self_attn, block.mlp, self.config
        qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
        biases = [projection.bias for projection in qkv]
        gate_up = _in_turn(mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach())
        gate_up_bias = (
            None if mlp.gate_proj.bias is None else _in_turn(mlp.gate_proj.bias.detach(), mlp.up_proj.bias.detach())
        )
        return Layer(
            qkv=self._matrix(
                torch.cat([projection.weight.detach() for projection in qkv]),
                None if biases[0] is None else torch.cat(biases).detach(),
            ),
            out=self._matrix(attention.o_proj.weight, attention.o_proj.bias),
            gate_up=self._matrix(gate_up, gate_up_bias),
            down=self._matrix(mlp.down_proj.weight, mlp.down_proj.bias),
            attention_norm=self._floats(block.input_layernorm.weight),
            mlp_norm=self._floats(block.post_attention_layernorm.weight),
            q_norm=self._floats(attention.q_norm.weight) if attention.qk_norm else None,
            k_norm=self._floats(attention.k_norm.weight) if attention.qk_norm else None,
            window=config.layer_window(number) or 0,
            uses_rope=attention.uses_rope,
        )

    def _matrix(self, weight: Tensor, bias: Tensor | None = None) -> Matrix:
        matrix, kept = pack(weight.detach(), self.kind, None if bias is None else bias.detach())
        self.kept += kept
        return matrix

    def _floats(self, vector: Tensor) -> int:
        return self._keep(vector.detach().float())

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self.kept.append(tensor)
        return tensor.data_ptr()


def _in_turn(gate: Tensor, up: Tensor) -> Tensor:
    """16 rows of gate, the same 16 of up, the next 16 of gate ...; padded with zeros to a multiple of 16 each."""
    pad = [0, 0] * (gate.dim() - 1) + [0, -len(gate) % 16]
    pair = [torch.nn.functional.pad(part, pad).view(-1, 16, *part.shape[1:]) for part in (gate, up)]
    return torch.stack(pair, 1).flatten(0, 2).contiguous()
