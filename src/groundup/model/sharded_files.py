"""Saving a model whose weights lie in several processes, as the same Hugging Face folder, without it ever being whole.

Every process that holds parts of a tensor helps to put it together; one of them writes it, and has no more than one
whole tensor at a time. Files are divided evenly over the processes. All processes call `write_sharded` together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.artifacts import disk_error, sync_folder, write_json
from groundup.model.tensor_files import stream_safetensors

INDEX = "model.safetensors.index.json"
Meta = tuple[tuple[int, ...], torch.dtype]  # shape, dtype as written


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only parts of the model, or some of its layers."""
    return "_parts" in model.__dict__


def mark_sharded(model: nn.Module, peers: list[int]) -> None:
    """Note that the weights lie in several processes; `peers` are those that share each tensor with this one."""
    model.__dict__["_parts"] = peers


def writes_here(model: nn.Module) -> bool:
    """Whether this process writes what exists once (config.json, the index)."""
    return not is_sharded(model) or dist.get_rank() == 0


def write_sharded(folder: Path, model: nn.Module, max_shard_bytes: float, dtype: torch.dtype | None = None) -> None:
    """Write model-0000i-of-0000N.safetensors and their index. UserError in every process where the disk refuses."""
    from torch.distributed.fsdp import FSDPModule  # here, since importing it takes longer than most of what we import

    peers: list[int] = model.__dict__["_parts"]
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    tensors = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    metas = {name: (tuple(tensor.shape), dtype or tensor.dtype) for name, tensor in tensors.items()}
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, (peers, metas))
    plan = plan_files(everywhere, max_shard_bytes)
    total = len(plan)
    folder.mkdir(parents=True, exist_ok=True)
    if dist.get_rank() == 0:
        (folder / "config.json").unlink(missing_ok=True)  # until it is written again, the folder is no model
    dist.barrier()
    failure: Exception | None = None
    for number, (file_peers, writer, names) in enumerate(plan, start=1):
        if file_peers != peers:
            continue
        path = folder / f"model-{number:05d}-of-{total:05d}.safetensors"
        whole = _whole_tensors(tensors, names, metas, writer == dist.get_rank())
        if writer != dist.get_rank() or failure is not None:
            for _ in whole:  # this process's part of putting each together
                pass
            continue
        try:
            _write(path, {name: metas[name] for name in names}, whole)
        except OSError as error:
            failure = disk_error(error, path)
            for _ in whole:
                pass
    failures: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, failure)
    if found := next((one for one in failures if one is not None), None):
        raise found
    if dist.get_rank() == 0:
        _finish(folder, plan, {name: meta for _, some in everywhere for name, meta in some.items()})
    dist.barrier()


def plan_files(
    everywhere: list[tuple[list[int], Mapping[str, Meta]]], max_shard_bytes: float
) -> list[tuple[list[int], int, list[str]]]:
    """The files: who holds its tensors, which of them writes it, and the names in it. The same in every process.

    A file holds tensors of one group of processes. What two groups have (a tied embedding in a pipeline) is written
    by the first one.
    """
    plan: list[tuple[list[int], int, list[str]]] = []
    seen: set[str] = set()
    for index, (peers, metas) in enumerate(everywhere):
        if index != peers[0]:
            continue
        files: list[list[str]] = []
        room = 0.0
        for name, meta in metas.items():
            if name in seen:
                continue
            seen.add(name)
            size = _bytes(meta)
            if not files or room < size:
                files.append([])
                room = max_shard_bytes
            files[-1].append(name)
            room -= size
        plan += [(peers, peers[number % len(peers)], names) for number, names in enumerate(files)]
    return plan


def _bytes(meta: Meta) -> int:
    return torch.Size(meta[0]).numel() * meta[1].itemsize


def _whole_tensors(
    tensors: Mapping[str, Tensor], names: list[str], metas: Mapping[str, Meta], is_writer: bool
) -> Iterator[Tensor]:
    """One whole tensor after the other; every process of the group has to go through all of them."""
    from torch.distributed.tensor import DTensor

    for name in names:
        tensor = tensors[name].detach()
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        yield whole.to("cpu", metas[name][1]) if is_writer else whole


def _write(path: Path, metas: Mapping[str, Meta], tensors: Iterator[Tensor]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        stream_safetensors(temporary, metas, tensors, {"format": "pt"})
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _finish(folder: Path, plan: list[tuple[list[int], int, list[str]]], metas: Mapping[str, Meta]) -> None:
    """The index, and away with files of an earlier save. A single file needs no index and has the usual name."""
    files = {
        f"model-{number:05d}-of-{len(plan):05d}.safetensors": names for number, (_, _, names) in enumerate(plan, 1)
    }
    if len(files) == 1:
        (folder / next(iter(files))).replace(folder / "model.safetensors")
        (folder / INDEX).unlink(missing_ok=True)
        files = {"model.safetensors": plan[0][2]}
    for stale in folder.glob("model*.safetensors"):
        if stale.name not in files:
            stale.unlink()
    if len(files) > 1:
        weight_map = {name: file for file, names in files.items() for name in names}
        total = sum(_bytes(metas[name]) for name in weight_map)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
