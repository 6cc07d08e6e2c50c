"""Which part of a whole tensor this process holds."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> tuple[slice, ...]:
    """The block of the whole tensor that `local(tensor)` is.

    Inner axes of the mesh cut first (matrices are split over `tensor`, then what is left over `shard`), each into equal
    pieces as torch.chunk makes them: the last ones may be shorter, or empty.
    """
    bounds = [(0, size) for size in tensor.shape]
    if isinstance(tensor, DTensor):
        mesh = tensor.device_mesh
        for axis in reversed(range(mesh.ndim)):
            placement = tensor.placements[axis]
            if placement == Replicate():
                continue
            start, end = bounds[placement.dim]  # type: ignore[attr-defined]
            size = -(-(end - start) // mesh.size(axis))
            first = min(end, start + size * mesh.get_local_rank(axis))
            bounds[placement.dim] = (first, min(end, first + size))  # type: ignore[attr-defined]
    return tuple(slice(start, end) for start, end in bounds)
