"""The decoder: one readable model for Llama, Mistral, Qwen2, Qwen3, SmolLM2 and SmolLM3, in their HF parameter names.

    hidden = model(input_ids, document_ids=...)        # B, T -> B, T, C, final norm applied
    logits = model.logits(hidden)                      # B, T, V

Pre-norm blocks with RMSNorm (arXiv:1910.07467), grouped-query attention (arXiv:2305.13245), RoPE and SwiGLU
(arXiv:2002.05202). What differs between the families is read from `ModelConfig`. Training computes the loss from
`hidden` in chunks (logprobs.py), so the logits of a whole batch never exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.kernels.attention import Rows
from groundup.model.attention import Mask, attend, mask_for
from groundup.model.config import ModelConfig
from groundup.model.device import send
from groundup.model.functions import rms_norm, rotate
from groundup.model.native_block import native_rows, run_block
from groundup.model.rope import RotaryTable

# hidden `B, T, C`, targets `B, T`, temperature -> log p(target) `B, T` in fp32
SplitHead = Callable[[Tensor, Tensor, float], Tensor]


class KVCache:
    """Keys and values of the tokens seen so far, for generation: one preallocated pair `B, Hkv, capacity, D` a layer.

    `documents` (`B, capacity`) keeps each cached token's document id, so that padding on the left stays invisible.
    """

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.documents: Tensor | None = None
        self.length = 0
        self.capacity = capacity

    def append_documents(self, document_ids: Tensor | None, tokens: int) -> Tensor | None:
        """Note the ids of the tokens that come in; returns those of all tokens, or None where no call gave any."""
        if document_ids is not None and self.documents is None:
            self.documents = torch.zeros(
                document_ids.shape[0], self.capacity, dtype=torch.long, device=document_ids.device
            )
        if self.documents is None:
            return None
        if document_ids is not None:
            self.documents[:, self.length : self.length + tokens] = document_ids
        return self.documents[:, : self.length + tokens]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store this step's keys and values of one layer; returns all of them so far."""
        end = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype that products run in: autocast's where it is on, else the weights' own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise in fp32; the result comes in the compute dtype, so that no product casts it a second time."""
        return rms_norm(x, self.weight, self.eps, compute_dtype(self.weight))


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        hidden, heads, kv_heads, dim = (
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.layer, self.head_dim, self.uses_rope = layer, dim, config.layer_uses_rope(layer)
        self.q_proj = nn.Linear(hidden, heads * dim, bias=config.attention_bias)
        self.k_proj = nn.Linear(hidden, kv_heads * dim, bias=config.attention_bias)
        self.v_proj = nn.Linear(hidden, kv_heads * dim, bias=config.attention_bias)
        self.o_proj = nn.Linear(heads * dim, hidden, bias=config.output_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(dim, config.rms_norm_eps)
        self.qk_norm = config.qk_norm
        # where each process has a part of the row (train/context.py): the keys and values of all of it
        self.gather: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Mask, cache: KVCache | None) -> Tensor:
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, -1, self.head_dim)
        k = self.k_proj(x).view(B, T, -1, self.head_dim)
        v = self.v_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        if self.uses_rope:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        if self.gather is not None:
            k, v = self.gather(k, v)
        out = attend(q, k, v, mask)
        projected: Tensor = self.o_proj(out.transpose(1, 2).reshape(B, T, -1))
        return projected


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Mask | Rows, cache: KVCache | None) -> Tensor:
        if isinstance(mask, Rows):
            return run_block(self, x, mask, compute_dtype(self.input_layernorm.weight))
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Trunk(nn.Module):
    """Everything but the head; `model.` in HF's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.windows = [config.layer_window(layer) for layer in range(config.num_hidden_layers)]
        self.rotary = RotaryTable(config)
        self.is_compiled = False  # train/speedups.py had torch compile the blocks: kernels of our own stay out of them

    def forward(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        rotation, masks = self.surroundings(input_ids, position_ids, document_ids, cache)
        x = self.embed_tokens(input_ids)
        for layer, window in zip(self.layers, self.windows, strict=True):
            x = layer(x, rotation, masks[window], cache)
        if cache is not None:
            cache.length += input_ids.shape[1]
        out: Tensor = self.norm(x)
        return out

    def surroundings(
        self, tokens: Tensor, position_ids: Tensor | None, document_ids: Tensor | None, cache: KVCache | None
    ) -> tuple[tuple[Tensor, Tensor], Mapping[int | None, Mask | Rows]]:
        """What all layers need besides hidden states: the rotation, and per window the mask (for native blocks: Rows).

        `tokens`: `B, T, ...`.
        """
        T, past = tokens.shape[1], cache.length if cache is not None else 0
        key_documents = cache.append_documents(document_ids, T) if cache is not None else document_ids
        if position_ids is None:
            position_ids = restarting_positions(key_documents, past + T, tokens.device)[:, past:]
            positions = past + T
        else:
            positions = int(position_ids.max()) + 1
        dtype = compute_dtype(next(self.parameters()))
        rotation = self.rotary.at(position_ids, positions, dtype)
        if cache is None and tokens.device.type == "cpu" and not self.is_compiled:
            rows = native_rows(self, position_ids, positions, document_ids, tokens.shape[0], dtype)
            if rows is not None:
                return rotation, rows
        masks = {
            window: mask_for(
                document_ids,
                key_documents,
                rows=tokens.shape[0],
                queries=T,
                keys=past + T,
                window=window,
                dtype=dtype,
                device=tokens.device,
                head_dim=self.config.head_dim,
            )
            for window in set(self.windows)
        }
        return rotation, masks


class Decoder(nn.Module):
    """A causal language model. A tied head has no module of its own: `state_dict` holds each weight once."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        # where the head is split over processes (train/parallel.py): what stands in for logprobs.token_logprobs
        self.split_head: SplitHead | None = None
        self.is_compiled = False  # the loss then is, too

    @property
    def head_weight(self) -> Tensor:
        """The `V, C` matrix that turns hidden states into logits."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states `B, T, C` after the final norm, of `input_ids` `B, T`.

        `document_ids` `B, T`: tokens attend causally and only within equal ids; -1 is padding. None: each row is one
        document. `position_ids` `B, T`: None restarts at 0 with each document. With a `cache`, `input_ids` continue
        what it holds; the ids of a packed or padded batch are then given with every call.
        """
        out: Tensor = self.model(input_ids, position_ids=position_ids, document_ids=document_ids, cache=cache)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """`..., C` -> `..., V`."""
        return F.linear(hidden, self.head_weight)


def restarting_positions(document_ids: Tensor | None, tokens: int, device: torch.device) -> Tensor:
    """Positions `B or 1, T` on `device` that start at 0 wherever the document id changes."""
    if document_ids is None:
        return torch.arange(tokens, device=device)[None]
    index = torch.arange(tokens, device=document_ids.device)[None]
    starts = torch.zeros_like(document_ids)
    starts[:, 1:] = torch.where(document_ids[:, 1:] != document_ids[:, :-1], index[:, 1:], 0)
    return send(index - starts.cummax(dim=1).values, device)
