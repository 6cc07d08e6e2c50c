"""Counting: floating-point operations, tokens and bytes of training and generating, from a model's shape alone.

N is the number of weights that multiply (the head counts, the look-up of embeddings does not), T a sequence's length,
L layers, H heads of width d. One multiply-add is two operations; a backward pass costs two forward passes.

- training, per token:    6 N + 6 L H d T      (causal attention; Megatron's count halved for the causal half)
- forward alone:          a third of it
- Muon, per matrix m x n (m <= n): 5 Newton-Schulz iterations of 4 m^2 n + 2 m^3   (Jordan 2024)
"""

from __future__ import annotations

from groundup.model.config import ModelConfig

NEWTON_SCHULZ_STEPS = 5
WEIGHT_BYTES = 4  # masters and saved weights are fp32
PROCESS_BYTES = 450_000_000  # Python, torch and its libraries


def training_flops(model: ModelConfig, tokens: float, sequence_len: int) -> float:
    """Forward and backward over `tokens`, in rows of `sequence_len`."""
    return float(model.flops_per_token(sequence_len)) * tokens


def forward_flops(model: ModelConfig, tokens: float, sequence_len: int) -> float:
    return training_flops(model, tokens, sequence_len) / 3


def muon_flops(model: ModelConfig) -> float:
    """Orthogonalising every hidden matrix once: what one optimiser step of Muon adds."""
    hidden, inner = model.hidden_size, model.intermediate_size
    query, key = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    shapes = [(hidden, query), (query, hidden), (hidden, key), (hidden, key)] + [(hidden, inner)] * 3
    total = 0.0
    for shape in shapes:
        small, large = min(shape), max(shape)
        total += NEWTON_SCHULZ_STEPS * (4.0 * small * small * large + 2.0 * small**3)
    return total * model.num_hidden_layers


def optimizer_bytes(model: ModelConfig, optimizer: str) -> float:
    """Moments: AdamW keeps two fp32 numbers a weight, Muon one for hidden matrices."""
    hidden_matrices = model.matmul_parameters() - model.vocab_size * model.hidden_size
    if optimizer == "muon":
        return WEIGHT_BYTES * (hidden_matrices + 2.0 * (model.parameters() - hidden_matrices))
    return WEIGHT_BYTES * 2.0 * model.parameters()


def activation_bytes(model: ModelConfig, tokens: float, *, is_bf16: bool, checkpointing: bool | str = False) -> float:
    """What the backward pass needs of `tokens` in one micro-batch, eager; `checkpointing` is the recipe's
    gradient_checkpointing.

    Per token and layer 26 h + 8 f bytes under bfloat16 autocast with fp32 norms (derived and confirmed by tracing),
    40 h + 16 f in fp32; the loss is chunked, so that logits stay small. With checkpointing the block's fp32 input and,
    where it is selective, the results of products and attention; one block is there whole while it is computed again.
    """
    h, f = model.hidden_size, model.intermediate_size
    per_layer = 26 * h + 8 * f if is_bf16 else 40 * h + 16 * f
    logits_chunk = min(tokens, 2048) * model.vocab_size * 4.0 * 3
    if not checkpointing:
        return tokens * model.num_hidden_layers * per_layer + logits_chunk
    query, key = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    products = 2 * (query + key + h + f) if checkpointing == "selective" else 0
    kept = 4 * h + (2 if is_bf16 else 4) * products
    return tokens * (model.num_hidden_layers * kept + per_layer) + logits_chunk


def training_memory_bytes(
    model: ModelConfig,
    micro_batch_tokens: float,
    optimizer: str,
    *,
    is_bf16: bool,
    checkpointing: bool | str = False,
) -> float:
    """Resident memory of a training process: libraries, weights, gradients, moments, activations of one micro-batch."""
    weights = WEIGHT_BYTES * model.parameters()
    states = 2.0 * weights + optimizer_bytes(model, optimizer)
    activations = activation_bytes(model, micro_batch_tokens, is_bf16=is_bf16, checkpointing=checkpointing)
    return PROCESS_BYTES + states + activations


def checkpoint_bytes(model: ModelConfig, optimizer: str) -> float:
    """Weights and moments: what one checkpoint takes on disk."""
    return WEIGHT_BYTES * model.parameters() + optimizer_bytes(model, optimizer)


def checkpoints_bytes(model: ModelConfig, optimizer: str, checkpoints: int) -> float:
    """The checkpoints that are kept while a stage trains, and one more while it is being written."""
    return (checkpoints + 1) * checkpoint_bytes(model, optimizer)


def cache_bytes(model: ModelConfig, tokens: float, bytes_per_value: int = 2) -> float:
    """The key-value cache of generation: 2 L k d values a token."""
    return 2.0 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim * bytes_per_value * tokens
