"""torch.distributed.checkpoint on safetensors files and one JSON index: how tensors get into a checkpoint and out.

torch plans who writes and reads what (replicated tensors once, shards by their owners, resharding on load); this is
the storage below that plan. torch's own FileSystemWriter keeps its index in a pickle, which is never loaded from files
that a person brings. Its HuggingFaceStorageWriter has no index, refuses tensors that are not contiguous and builds each
file in memory before it writes it. The files here are laid out as its files are, so that its reader reads them.

    model-00000.safetensors       parameters and buffers, or this rank's shards of them
    optimizer-00000.safetensors   moments, as `moment/parameter name`
    objective-00000.safetensors   tensors of the objective's state, as `objective/path`
    tensors.json                  for each name: dtype, shape, and the pieces: file, offsets, shape
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from groundup.artifacts import read_json
from groundup.model.tensor_files import DTYPES, write_safetensors
from groundup.train.checkpoint_files import json_bytes, write_synced

INDEX = "tensors.json"
TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
ALL = "tensors"  # one entry for torch, which logs the start and the end of each
SHARDING_KEY = "DCP_SHARDING_INFO"  # where torch's reader of safetensors looks for a piece's offsets

Take = Callable[[str, Tensor, Tensor], object]  # name, where the piece belongs, the piece (a view of the file)

# one process alone is meant to save without a process group
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


def write_tensors(
    temporary: Path,
    tensors: Mapping[str, Tensor],
    copies: Mapping[str, Tensor] | None,
    group: dist.ProcessGroup | None,
    complete: Callable[[dict[str, str]], None],
) -> None:
    """Write all tensors of all ranks into the new folder `temporary`. `complete(sha256 by file)` runs last, on rank 0.

    The numbers are those of `copies`, each a copy of what this rank holds of the tensor, so that training may go on;
    without copies they are the tensors' own. All ranks of `group` take part and fail together (None: this process
    alone). Raises the error of the first rank that failed.
    """
    try:
        save(
            {ALL: dict(tensors)},
            storage_writer=_Writer(temporary, complete),
            planner=_SavePlanner(copies),
            process_group=group,
            no_dist=group is None,
        )
    except CheckpointException as failed:
        error = failed.failures[min(failed.failures)][0]
        raise error from None


def read_tensors(checkpoint: Path, targets: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Fill the targets in place, each rank its own shards. Names and shapes must be those of the checkpoint's index."""
    _read(checkpoint, targets, group, lambda _name, target, piece: target.copy_(piece))


def first_difference(checkpoint: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> str | None:
    """Read the checkpoint as `read_tensors` does, but compare, bit by bit: the name of the first that is different."""
    different: list[str] = []

    def compare(name: str, live: Tensor, piece: Tensor) -> None:
        if live.dtype != piece.dtype or not torch.equal(_bits(live.cpu()), _bits(piece)):
            different.append(name)

    _read(checkpoint, tensors, group, compare)
    return different[0] if different else None


def _read(checkpoint: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None, take: Take) -> None:
    load(
        {ALL: dict(tensors)},
        storage_reader=_Reader(checkpoint, take),
        planner=_LoadPlanner(),
        process_group=group,
        no_dist=group is None,
    )


def _bits(tensor: Tensor) -> Tensor:
    whole_numbers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().reshape(-1).view(whole_numbers[tensor.element_size()])


@dataclass(frozen=True)
class SavedTensor:
    """What the index says about one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def saved_tensors(checkpoint: Path) -> dict[str, SavedTensor]:
    index = read_json(checkpoint / INDEX)
    return {name: SavedTensor(tuple(one["shape"]), TORCH_DTYPES[one["dtype"]]) for name, one in index.items()}


def file_of(name: str) -> str:
    """Which of the files a tensor goes into. No parameter's name has a slash."""
    if "/" not in name:
        return "model"
    return "objective" if name.startswith("objective/") else "optimizer"


@dataclass(frozen=True)
class _Piece:
    file: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str  # of the file


class _Writer(StorageWriter):
    """Each rank streams its pieces into files of its own; rank 0 writes the index and calls `complete`."""

    def __init__(self, folder: Path, complete: Callable[[dict[str, str]], None]) -> None:
        self.folder, self.complete = folder, complete

    def reset(self, checkpoint_id: Any = None) -> None: ...

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On rank 0, before anybody writes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(exist_ok=True)  # not its parents: where the run's folder is gone, its disk is, too
        self.folder.mkdir()
        return [replace(plan, storage_data=rank) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        files: dict[str, dict[str, WriteItem]] = {}
        for item in plan.items:  # a rank holds one piece of a tensor
            file = f"{file_of(item.index.fqn)}-{plan.storage_data:05d}.safetensors"
            files.setdefault(file, {})[item.index.fqn] = item
        results = []
        for file, items in files.items():
            offsets = {name: {"saved_offsets": list(item.index.offset or [])} for name, item in items.items()}
            tensors: dict[str, Any] = {name: planner.resolve_data(item) for name, item in items.items()}
            sha256 = write_safetensors(self.folder / file, tensors, {SHARDING_KEY: json.dumps(offsets)})
            for name, item in items.items():
                piece = _Piece(file, DTYPES[tensors[name].dtype], tuple(tensors[name].shape), sha256)
                results.append(WriteResult(item.index, tensors[name].nbytes, piece))
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: Sequence[Sequence[WriteResult]]) -> None:
        saved: dict[str, Any] = metadata.state_dict_metadata
        index: dict[str, Any] = {}
        sha256: dict[str, str] = {}
        for one in (result for of_rank in results for result in of_rank):
            piece: _Piece = one.storage_data
            shape = list(saved[one.index.fqn].size)
            entry = index.setdefault(one.index.fqn, {"dtype": piece.dtype, "shape": shape, "pieces": []})
            offsets = list(one.index.offset or [])
            entry["pieces"].append({"file": piece.file, "offsets": offsets, "shape": list(piece.shape)})
            sha256[piece.file] = piece.sha256
        sha256[INDEX] = write_synced(self.folder / INDEX, json_bytes(index))
        self.complete(sha256)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return isinstance(checkpoint_id, Path)


class _Reader(StorageReader):
    """Each rank opens the files it needs pieces of."""

    def __init__(self, folder: Path, take: Take) -> None:
        self.folder, self.take = folder, take
        self.files: dict[MetadataIndex, str] = {}

    def reset(self, checkpoint_id: Any = None) -> None: ...

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002 (torch's signature)
        metadata: dict[str, Any] = {}
        for name, one in read_json(self.folder / INDEX).items():
            chunks = []
            for piece in one["pieces"]:
                chunks.append(ChunkStorageMetadata(torch.Size(piece["offsets"]), torch.Size(piece["shape"])))
                self.files[MetadataIndex(name, torch.Size(piece["offsets"]))] = piece["file"]
            properties = TensorProperties(dtype=TORCH_DTYPES[one["dtype"]])
            metadata[name] = TensorStorageMetadata(properties, torch.Size(one["shape"]), chunks)
        return Metadata(metadata)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        wanted: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            wanted.setdefault(self.files[item.storage_index], []).append(item)
        for file, items in sorted(wanted.items()):
            with safe_open(self.folder / file, framework="pt") as opened:
                for item in items:
                    pairs = zip(item.storage_offsets, item.lengths, strict=True)
                    piece = opened.get_slice(item.storage_index.fqn)[
                        tuple(slice(start, start + length) for start, length in pairs)
                    ]
                    target = planner.resolve_tensor(item).detach()
                    self.take(item.storage_index.fqn, target, piece)
                    planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return isinstance(checkpoint_id, Path)


class _SavePlanner(DefaultSavePlanner):
    """Plans by the tensors (a shard knows where it belongs), writes the copies of what this rank holds of them."""

    def __init__(self, copies: Mapping[str, Tensor] | None) -> None:
        super().__init__(flatten_state_dict=False)
        self.copies = copies

    def set_up_planner(
        self, state_dict: dict[str, Any], storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        super().set_up_planner(state_dict[ALL], storage_meta, is_coordinator)

    def lookup_object(self, index: MetadataIndex) -> Any:
        return super().lookup_object(index) if self.copies is None else self.copies[index.fqn]


class _LoadPlanner(DefaultLoadPlanner):
    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False)

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        super().set_up_planner(state_dict[ALL], metadata, is_coordinator)
