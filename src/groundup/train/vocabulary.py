"""Log-probabilities with a head whose rows, the vocabulary, are split over processes: no process sees whole logits.

Each process has the logits of its own ids. The softmax needs two numbers a token from every process (the log of its
sum of exponentials, the target's logit where it has it); they are exchanged, the logits never are. Same arithmetic as
model/logprobs.py; Megatron-LM (arXiv:1909.08053) splits the loss in this way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from groundup.model.logprobs import CHUNK_BYTES, CHUNK_ROWS


def split_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, first_id: int, group: dist.ProcessGroup, temperature: float = 1.0
) -> Tensor:
    """log p(target) of every token, in fp32, `B, T`; equal in all processes of the group.

    hidden `B, T, C` and targets `B, T` are the same in all of them; `weight` `V', C` are the rows of the ids from
    `first_id` on that this process holds. The gradient of `hidden` is summed over the group.
    """
    flat = hidden.reshape(-1, hidden.shape[-1]).to(weight.dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        result: Tensor = _SplitLogprobs.apply(flat, weight, targets.reshape(-1) - first_id, group, temperature)
    return result.view(targets.shape)


class _SplitLogprobs(torch.autograd.Function):
    """hidden `N, C`, weight `V', C`, targets `N` counted from the first own id -> log-probabilities `N` (fp32).

    With r = onehot(target) - p over the own ids, d hidden = slope * (r W) summed over the group, d W = r^T (slope *
    hidden). The logits of a chunk are computed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, group: dist.ProcessGroup, temperature: float
    ) -> Tensor:
        rows = max(CHUNK_ROWS, CHUNK_BYTES // max(1, len(weight) * hidden.element_size()))
        result = torch.empty(len(hidden), device=hidden.device)
        normalizer = torch.empty_like(result)  # log of the sum of all exponentials
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = _logits(hidden[part], weight, temperature)
            numbers = torch.stack([_logsumexp(logits), _at_target(logits, targets[part])])  # 2, n
            everywhere = [torch.empty_like(numbers) for _ in range(dist.get_world_size(group))]
            dist.all_gather(everywhere, numbers, group=group)
            sums, at_targets = torch.stack(everywhere, 1)
            normalizer[part] = sums.logsumexp(0)
            result[part] = at_targets.sum(0) - normalizer[part]  # one process has the target, the others 0
        ctx.save_for_backward(hidden, weight, targets, normalizer)
        ctx.group, ctx.rows, ctx.temperature = group, rows, temperature
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, normalizer = ctx.saved_tensors
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            residual = _logits(hidden[part], weight, ctx.temperature).sub_(normalizer[part, None]).exp_().neg_()
            is_own = (targets[part] >= 0) & (targets[part] < len(weight))
            residual[is_own, targets[part][is_own]] += 1
            residual = residual.to(hidden.dtype)
            slope = (grad[part] / ctx.temperature)[:, None]
            grad_hidden[part] = (residual @ weight) * slope
            grad_weight += residual.T @ (hidden[part] * slope).to(hidden.dtype)
        if ctx.needs_input_grad[0]:
            summed = grad_hidden.float()
            dist.all_reduce(summed, group=ctx.group)
            grad_hidden = summed.to(hidden.dtype)
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = F.linear(hidden, weight).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


def _logsumexp(logits: Tensor) -> Tensor:
    """fp32 `n`; minus infinity where this process has no ids at all."""
    if logits.shape[1] == 0:
        return logits.new_full((len(logits),), float("-inf"))
    return logits.logsumexp(1)


def _at_target(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit where the target is an own id, else 0."""
    is_own = (targets >= 0) & (targets < logits.shape[1])
    if logits.shape[1] == 0:
        return logits.new_zeros(len(logits))
    found = logits.gather(1, targets.clamp(0, logits.shape[1] - 1)[:, None]).squeeze(1)
    return torch.where(is_own, found, 0.0)
