"""Cross entropy from hidden states, and the one place where it is decided how a device computes it.

The logits of a batch never exist whole, on any device. `chunked` (logprobs.py) makes one log-probability per token and
from those any loss; its backward pass may have to make the logits a second time. `summed` knows that only the sum is
asked for, so it makes the gradient while it has the logits: three products with the head in place of four, for one
gradient of the head kept from forward to backward. On a GPU, where a second product costs more than that memory, it is
the choice; on a CPU the first is (guides/performance.md B: making gradients in the forward pass lost up to 9 %).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from groundup.kernels.packing import packed
from groundup.kernels.products import weight_gradient
from groundup.model.decoder import Decoder, compute_dtype
from groundup.model.device import send
from groundup.model.logprobs import token_logprobs

SUMMED_CHUNK_BYTES = 512 << 20  # logits of one chunk in the compute dtype; uncompiled, fp32 copies of it come on top


def choose_loss(device_type: str, *, is_split: bool = False) -> str:
    """`chunked` or `summed`. `is_split`: the head's rows lie in several processes, each with its part of a softmax."""
    return "summed" if device_type == "cuda" and not is_split else "chunked"


def cross_entropy_sum(
    hidden: Tensor, model: Decoder, targets: Tensor, weights: Tensor | None = None, form: str | None = None
) -> tuple[Tensor, Tensor]:
    """(sum of weight * -log p(target), sum of weights) over all tokens; both are fp32 scalars.

    hidden `B, T, C` (final norm applied), targets `B, T`. `weights` `B, T` (1 trained, 0 not; None: all trained), best
    on the CPU. Tokens of weight 0 cost nothing: they leave before the head. `form` forces a way (tests compare them).
    """
    hidden, targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    total = torch.tensor(float(targets.numel())) if weights is None else weights.float().sum()
    scale: Tensor | None = None  # N, of the tokens that are kept
    if weights is not None:
        weights = weights.reshape(-1).float()
        kept = weights.nonzero().squeeze(1)  # on the CPU: how many there are is known without waiting for a GPU
        scale = send(weights.index_select(0, kept), hidden.device)
        if len(kept) < len(weights):
            kept = send(kept, hidden.device)
            hidden, targets = hidden.index_select(0, kept), targets.index_select(0, kept)
    split = getattr(model, "split_head", None) is not None
    if (form or choose_loss(hidden.device.type, is_split=split)) == "summed":
        return summed(hidden, model, targets, scale), total
    logprobs = token_logprobs(hidden[None], model, targets[None]).reshape(-1)
    return -(logprobs if scale is None else logprobs * scale).sum(), total


def reference(hidden: Tensor, model: Decoder, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum as it is defined, with all logits in memory: what every other way is tested against."""
    logits = F.linear(hidden, model.head_weight.to(hidden.dtype)).float().flatten(0, -2)
    losses = F.cross_entropy(logits, targets.flatten(), reduction="none")
    return losses.sum() if weights is None else (losses * weights.flatten()).sum()


# ---------------------------------------------------------------- the sum, with its gradient


def summed(hidden: Tensor, model: Decoder, targets: Tensor, scale: Tensor | None = None) -> Tensor:
    """sum of scale * -log p(target): hidden `N, C`, targets `N`, scale `N` or None (all 1). An fp32 scalar."""
    weight = model.head_weight
    dtype = compute_dtype(weight)
    with torch.autocast(hidden.device.type, enabled=False):
        result: Tensor = _Summed.apply(hidden.to(dtype), weight, targets, scale, getattr(model, "is_compiled", False))
    return result


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor | None, is_compiled: bool
    ) -> Tensor:
        score = _compiled_score() if is_compiled else _score
        cast = packed(hidden.dtype, weight)  # once a step, not once a micro-batch
        rows = max(1, SUMMED_CHUNK_BYTES // (len(weight) * hidden.element_size()))
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight: Tensor | None = None
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            x = hidden[part]
            loss, slope = score(x @ cast.T, targets[part], None if scale is None else scale[part])
            total += loss
            if grad_hidden is not None:
                grad_hidden[part] = slope @ cast
            if needs_weight:
                term = weight_gradient(slope, x)  # fp32
                grad_weight = term if grad_weight is None else grad_weight.add_(term)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        scaled = [
            None if g is None else (g * grad).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return scaled[0], scaled[1], None, None, None


def _score(logits: Tensor, targets: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """One chunk: its loss, and the loss's slope in its logits `N, V` (in their dtype); the softmax is fp32."""
    wide = logits.float()
    log_sum = torch.logsumexp(wide, 1)
    losses = log_sum - wide.gather(1, targets[:, None]).squeeze(1)
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    slope = torch.exp(wide - log_sum[:, None]) - is_target.float()
    if scale is not None:
        losses, slope = losses * scale, slope * scale[:, None]
    return losses.sum(), slope.to(logits.dtype)


@cache
def _compiled_score() -> Any:
    """Fused: the logits are read twice and written once."""
    return torch.compile(_score)
