"""Log-probabilities from hidden states, chunk by chunk: the logits of a batch never exist whole.

A chunk's logits are made in the compute dtype and turned, in fp32, into one number per token (the target's
log-probability) and into onehot(target) - p, from which the backward pass makes the gradient. Between the two passes
that is either kept (small: in the compute dtype, at most `KEEP_BYTES` a call) or computed again. Apple's cut
cross-entropy (arXiv:2411.09009) and Liger kernel do the same on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from groundup.kernels import native
from groundup.kernels.packing import packed
from groundup.kernels.products import product, weight_gradient
from groundup.model.decoder import Decoder, SplitHead, compute_dtype

CHUNK_BYTES = 32 << 20  # logits of one chunk in the compute dtype, but never fewer rows than:
CHUNK_ROWS = 1024  # below this, the gradient of a large head is memory-bound
SOFTMAX_BYTES = 2 << 20  # fp32 logits worked on at a time: stays in a core's cache
KEEP_BYTES = 64 << 20  # probabilities kept from forward to backward; above it they are computed again
GPU_CHUNK_BYTES = 256 << 20  # a GPU needs large products, and has no cache to stay in
GPU_KEEP_BYTES = 1 << 30


def token_logprobs(hidden: Tensor, model: Decoder, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(target) of every token under softmax(logits / temperature), in fp32.

    hidden `B, T, C` (final norm applied), targets `B, T` with ids of the vocabulary. Returns `B, T`.
    """
    split_head: SplitHead | None = getattr(model, "split_head", None)
    if split_head is not None:
        return split_head(hidden, targets, temperature)
    weight = model.head_weight
    dtype = compute_dtype(weight)
    flat = hidden.reshape(-1, hidden.shape[-1]).to(dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        result: Tensor = _TargetLogprobs.apply(flat, weight, targets.reshape(-1), temperature)
    return result.view(targets.shape)


class _TargetLogprobs(torch.autograd.Function):
    """hidden `N, C`, weight `V, C` (of any dtype), targets `N` -> log-probabilities `N` (fp32).

    With r = onehot(target) - p, the slope of a target's log-probability in its logits is r / temperature, so
    d hidden = slope * (r W) and d W = r^T (slope * hidden): the incoming gradient scales `N, C` matrices, never `N, V`.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
        tokens, row_bytes = len(hidden), len(weight) * hidden.element_size()
        cast = packed(hidden.dtype, weight)
        is_cpu = hidden.device.type == "cpu"
        rows = max(CHUNK_ROWS, (CHUNK_BYTES if is_cpu else GPU_CHUNK_BYTES) // row_bytes)
        keep_bytes = KEEP_BYTES if is_cpu else GPU_KEEP_BYTES
        keep = any(ctx.needs_input_grad[:2]) and tokens * row_bytes <= keep_bytes
        result = torch.empty(tokens, device=hidden.device)
        kept = []
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            result[part], residual = _residual(hidden[part], cast, targets[part], temperature)
            if keep:
                kept.append(residual)
        ctx.save_for_backward(hidden, weight, targets, *kept)
        ctx.temperature, ctx.rows = temperature, rows
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, targets, *kept = ctx.saved_tensors
        cast = packed(hidden.dtype, weight)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight: Tensor | None = None
        for number, start in enumerate(range(0, len(hidden), ctx.rows)):
            part = slice(start, start + ctx.rows)
            x, slope = hidden[part], (grad[part] / ctx.temperature)[:, None]
            residual = kept[number] if kept else _residual(x, cast, targets[part], ctx.temperature)[1]
            if grad_hidden is not None:
                grad_hidden[part] = product(residual, cast.t()) * slope
            if ctx.needs_input_grad[1]:
                term = weight_gradient(residual, (x * slope).to(x.dtype))
                grad_weight = term if grad_weight is None else grad_weight.add_(term)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None


def _residual(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One chunk: log-probabilities of the targets `N` (fp32), and onehot(target) - p `N, V` in hidden's dtype.

    The product runs over the whole chunk; the softmax in fp32 over a few rows at a time, which stay in the cache.
    """
    logits = hidden @ weight.T
    if logits.device.type != "cpu":
        return _residual_at_once(logits, targets, temperature)
    if native.available(logits.dtype):
        return native.target_logprobs(logits, targets.contiguous(), temperature), logits
    logprobs = torch.empty(len(hidden), device=hidden.device)
    rows = max(1, SOFTMAX_BYTES // (4 * len(weight)))
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        wide = logits[part].float()  # fp32: a view of logits, worked on in place; else a small copy
        if temperature != 1.0:
            wide.div_(temperature)
        at = (torch.arange(len(wide), device=wide.device), targets[part])
        target = wide[at]
        top = wide.amax(1, keepdim=True)
        sums = wide.sub_(top).exp_().sum(1, keepdim=True)
        logprobs[part] = target - top.squeeze(1) - sums.log().squeeze(1)
        wide.div_(-sums)
        wide[at] += 1
        logits[part] = wide
    return logprobs, logits


def _residual_at_once(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The same from a chunk's logits in few large operations, for a GPU."""
    wide = logits.float() / temperature
    log_sum = torch.logsumexp(wide, 1)
    target = wide.gather(1, targets[:, None]).squeeze(1)
    residual = wide.sub_(log_sum[:, None]).exp_().neg_()
    residual.scatter_add_(1, targets[:, None], torch.ones_like(target)[:, None])
    return target - log_sum, residual.to(logits.dtype)
