"""Writing safetensors as a stream: synced, with the folder's usual permissions, and a disk's refusal stays an OSError.

The library's own writer does none of the three: it raises its own error on a full disk, and gives files mode 0600.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors in the safetensors layout, fsynced; returns the file's sha256. OSError where the disk refuses."""
    metas = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    return stream_safetensors(path, metas, tensors.values(), metadata)


def stream_safetensors(
    path: Path,
    metas: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """The same for tensors that come one after the other; `metas`: their names, shapes and dtypes, in this order.

    The layout is eight bytes of header length, a JSON header, then the raw numbers.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (shape, dtype) in metas.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in itertools.chain((len(text).to_bytes(8, "little"), text), map(_raw_bytes, tensors)):
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _raw_bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
