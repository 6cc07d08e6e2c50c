"""Context parallel: each process has its part of the tokens of every row, for rows that are too long for one.

Everything but attention works token by token. In attention a process has the queries of its own tokens, and gathers the
keys and values of all (Llama 3, arXiv:2407.21783, 3.3.2): what was gathered is small where query heads share keys, and
documents are masked as ever. Hidden states are gathered once, after the last layer, so that an objective sees whole
rows. The loss is then computed by all processes of a row, each counting its share of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from groundup.model.attention import visibility
from groundup.model.decoder import Attention, Trunk, compute_dtype, restarting_positions


def split_rows(trunk: Trunk, mesh: DeviceMesh) -> None:
    """Let `trunk` compute its part of each row; it takes whole rows and gives whole rows, as before."""
    for module in trunk.modules():
        if isinstance(module, Attention):
            module.gather = lambda k, v: (_gathered(k, mesh, 2), _gathered(v, mesh, 2))

    def forward(
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        assert cache is None, "generation takes the saved model"
        T, device = input_ids.shape[1], input_ids.device
        if position_ids is None:
            position_ids = restarting_positions(
                document_ids, T, torch.device("cpu") if document_ids is None else document_ids.device
            )
        missing = -T % mesh.size()  # tokens at the end that no other token sees
        ids, positions, documents = (
            None if value is None else nn.functional.pad(value, (0, missing), value=fill)
            for value, fill in ((input_ids, 0), (position_ids, 0), (document_ids, -1))
        )
        assert ids is not None and positions is not None
        size = (T + missing) // mesh.size()
        first = size * mesh.get_local_rank()
        mine = slice(first, first + size)
        dtype = compute_dtype(next(trunk.parameters()))
        rotation = trunk.rotary.at(positions[:, mine].to(device), int(positions.max()) + 1, dtype)
        documents = None if documents is None else documents.to(device)
        masks = {
            window: visibility(
                None if documents is None else documents[:, mine],
                documents,
                queries=size,
                keys=T + missing,
                window=window,
                dtype=dtype,
                device=device,
                first_query=first,
            )
            for window in set(trunk.windows)
        }
        x = trunk.embed_tokens(ids[:, mine])
        for layer, window in zip(trunk.layers, trunk.windows, strict=True):
            x = layer(x, rotation, masks[window], None)
        return _gathered(trunk.norm(x), mesh, 1)[:, :T]

    trunk.forward = forward  # type: ignore[method-assign]


def _gathered(part: Tensor, mesh: DeviceMesh, dim: int) -> Tensor:
    """All parts along `dim`; the gradient of each is the sum of what every process has of it."""
    whole = DTensor.from_local(part.contiguous(), mesh, (Shard(dim),)).redistribute(placements=(Replicate(),))
    return whole.to_local(grad_placements=(Partial(),))
