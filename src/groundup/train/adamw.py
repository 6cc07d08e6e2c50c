"""torch's optimisers without torch.compile, which they import to keep it out of their methods.

The first optimiser that a process makes imports all of torch._dynamo and sympy for it: more CPU time than the import of
torch itself, and half of what starting a training takes. Nothing here compiles an optimiser's step.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim import Optimizer

_plain_step: Any = inspect.unwrap(torch.optim.Adam.step)


class Eager(Optimizer):
    """Base to be named before an optimiser of torch's: the same methods, unwrapped."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class AdamW(Eager, torch.optim.AdamW):
    """torch.optim.AdamW."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return _plain_step(self, closure)
