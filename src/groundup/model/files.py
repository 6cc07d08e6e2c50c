"""Models on disk: the Hugging Face folder, read and written without transformers.

    config.json, generation_config.json, model.safetensors (or model-00001-of-0000N.safetensors and an index),
    and the tokenizer's files beside them

Only safetensors are read: pickle is never loaded from a file that a person brings. Every file is written under a
temporary name and renamed, `config.json` last, so a folder with a `config.json` is a whole model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from torch import Tensor, nn

from groundup.artifacts import TOKENIZER_FILES, disk_error, read_json, sync_folder, write_json
from groundup.errors import Problem, UserError
from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.deferred import Part, defer, whole_of
from groundup.model.sharded_files import INDEX, is_sharded, write_sharded, writes_here
from groundup.model.tensor_files import write_safetensors

NAMES_SHOWN = 8

# ---------------------------------------------------------------- reading


def load_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder; a clear refusal where there is none or we cannot run it."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(
            "this is not a model folder: it has no config.json",
            where=str(folder),
            fix="name a folder with config.json and model.safetensors, as transformers' save_pretrained writes it",
        )
    return ModelConfig.from_hf(read_json(path), where=str(path))


def load_model(folder: Path | str, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder in a Hugging Face folder, its weights cast to `dtype`, on the CPU, in evaluation mode."""
    folder = Path(folder)
    config = load_config(folder)
    with torch.device("meta"):
        model = Decoder(config)
    fill_from_folder(model, folder, dtype)
    return model.eval()


def load_deferred(folder: Path | str, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder in a folder, each weight read when it is filled (deferred.py). All that does not fit is told now."""
    folder = Path(folder)
    config = load_config(folder)
    files: dict[str, Path] = {}

    def read(name: str, part: Part) -> Tensor:
        with safetensors.safe_open(files[name], framework="pt") as file:
            tensor: Tensor = file.get_slice(name)[part]
        return tensor.to(dtype)

    model = defer(lambda: Decoder(config), read)
    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        with safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                files[name] = path
                found[name] = torch.empty(file.get_slice(name).get_shape(), device="meta")
    pair = ("lm_head.weight", "model.embed_tokens.weight")
    if config.tie_word_embeddings and all(name in found for name in pair):
        head, embedding = (read(name, whole_of(found[name])) for name in pair)
        if torch.equal(head, embedding):
            del found[pair[0]]
    check_fits({name: parameter.shape for name, parameter in model.named_parameters()}, found, folder)
    return model


def fill_from_folder(model: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Give a model (on the meta device) the weights of a folder. All that does not fit is told at once, by name."""
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for name, tensor in read_tensors(folder):
        found[name] = tensor.to(dtype) if name in expected and tensor.shape == expected[name] else tensor
    # a tied head that is stored all the same is fine as long as it is the embedding
    head, embedding = found.get("lm_head.weight"), found.get("model.embed_tokens.weight")
    is_tied = "lm_head.weight" not in expected and head is not None and embedding is not None
    if is_tied and torch.equal(head.to(dtype), embedding):  # type: ignore[union-attr, arg-type]
        del found["lm_head.weight"]
    check_fits(expected, found, folder)
    model.load_state_dict({name: found[name] for name in expected}, assign=True)


def check_fits(expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise UserError with all that does not fit, by name."""
    found = {name: tensor for name, tensor in tensors.items() if name in expected}
    # old files carry RoPE's frequencies; we compute them
    extra = [name for name in tensors if name not in expected and not name.endswith("rotary_emb.inv_freq")]
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(Problem(f"{len(missing)} weights are missing: {_some(missing)}", str(folder)))
    if extra:
        fix = ""
        if "score.weight" in extra:
            fix = "this is a reward model (it ends in `score`): name a causal language model here"
        elif "lm_head.weight" in extra:
            fix = "the head differs from the embedding: set `tie_word_embeddings: false` in config.json"
        problems.append(Problem(f"{len(extra)} weights are unexpected: {_some(extra)}", str(folder), fix))
    for name, tensor in found.items():
        if tensor.shape != expected[name]:
            what = f"{name} has shape {list(tensor.shape)}; config.json makes it {list(expected[name])}"
            problems.append(Problem(what, str(folder)))
    if problems:
        if not problems[-1].fix:
            fix = "config.json and the weights do not belong together: check that both come from the same model"
            problems[-1] = Problem(problems[-1].what, problems[-1].where, fix)
        raise UserError(problems)


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a folder's safetensors files, one at a time."""
    for path in weight_files(folder):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    yield name, file.get_tensor(name)
        except safetensors.SafetensorError as error:
            raise UserError(
                f"not a readable safetensors file ({error})",
                where=str(path),
                fix="the file is cut short or damaged: copy or download it again",
            ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a model: those of the index, or the single one."""
    index = folder / INDEX
    if index.is_file():
        paths = [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
        absent = [path.name for path in paths if not path.is_file()]
        if absent:
            raise UserError(
                f"the index names files that are not there: {_some(absent)}",
                where=str(index),
                fix="copy or download the missing shards",
            )
        return paths
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise UserError(
            "the weights are pickle files, which can run code when they are loaded; groundup reads safetensors only",
            where=str(folder),
            fix="save the model once with transformers' save_pretrained, which writes safetensors",
        )
    raise UserError("there is no model.safetensors", where=str(folder), fix="name a folder that holds the weights")


def _some(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


# ---------------------------------------------------------------- writing


def save_model(
    model: Decoder,
    folder: Path | str,
    *,
    max_shard_bytes: float = 5e9,
    dtype: torch.dtype | None = None,
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Write the decoder as a Hugging Face folder that transformers, vLLM and llama.cpp's converter read.

    All processes that hold parts of the model call this together, with the same folder. `dtype` casts what is written
    (None: as it is). `generation` adds to `generation_config.json` (temperature, ...); the ids in it come from the
    config.
    """
    config = model.config
    write_weights(Path(folder), model, max_shard_bytes, dtype)
    if not writes_here(model):
        return
    ids = {key: config.to_hf()[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    known = {key: value for key, value in ids.items() if value is not None}
    write_json(Path(folder) / "generation_config.json", {"_from_model_config": False, **known, **(generation or {})})
    write_config(Path(folder), config.to_hf(), dtype or config_dtype(model))


def config_dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def write_config(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> None:
    """Write config.json, last of all: with it the folder counts as a model. Both spellings of dtype are given."""
    name = str(dtype).removeprefix("torch.")
    write_json(folder / "config.json", {**config, "dtype": name, "torch_dtype": name})


def write_weights(folder: Path, model: nn.Module, max_shard_bytes: float, dtype: torch.dtype | None = None) -> None:
    """Write the weights as one safetensors file, or as shards of at most `max_shard_bytes` and their index."""
    if is_sharded(model):
        write_sharded(folder, model, max_shard_bytes, dtype)
        return
    state: Mapping[str, Tensor] = model.state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)  # until it is written again, the folder is no model
    tensors = {name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous() for name, tensor in state.items()}
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > max_shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file_name, shard in zip(names, shards, strict=True):
        _save_file_atomic(shard, folder / file_name)
    for stale in folder.glob("model*.safetensors"):
        if stale.name not in names:
            stale.unlink()
    if len(shards) == 1:
        (folder / INDEX).unlink(missing_ok=True)
    else:
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _save_file_atomic(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_safetensors(temporary, tensors, {"format": "pt"})  # transformers asks for the format
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error
    sync_folder(path.parent)


def copy_tokenizer_files(source: Path | str, target: Path | str) -> list[str]:
    """Copy what belongs to the tokenizer (vocabulary, chat template) into a model folder; returns the names copied."""
    source, target = Path(source), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    names = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if "tokenizer.json" not in names and "tokenizer.model" not in names:
        raise UserError("there is no tokenizer.json", where=str(source), fix="name a folder that holds a tokenizer")
    for name in names:
        try:
            temporary = target / f".{name}.{os.getpid()}.tmp"
            shutil.copyfile(source / name, temporary)
            temporary.replace(target / name)
        except OSError as error:
            raise disk_error(error, target / name) from error
    return names


# ---------------------------------------------------------------- does this tokenizer belong to this model?


class HasVocabulary(Protocol):
    """What `require_same_vocabulary` needs of a tokenizer (tokens.tokenizer.Tokenizer has it)."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def folder(self) -> Path: ...


PADDED_ROWS_AT_MOST = 1024
"""Models pad their embedding (Qwen2.5 by 271 rows); more rows than this without a token mean another tokenizer."""


def require_same_vocabulary(model_folder: Path | str, tokenizer: HasVocabulary) -> None:
    """Refuse a tokenizer that the model was not trained with.

    Every id must have an embedding; where the model folder holds its own tokenizer, both must give every token the same
    id. Only ids are compared: another chat template is fine.
    """
    model_folder = Path(model_folder)
    rows, size = load_config(model_folder).vocab_size, tokenizer.vocab_size
    fix = f"use the tokenizer that the model was trained with (its folder: {model_folder})"
    if Path(tokenizer.folder) == model_folder:
        fix = "put back the tokenizer files that came with this model"
    if size > rows or rows - size > PADDED_ROWS_AT_MOST:
        raise UserError(
            f"the tokenizer has {size:,} tokens and the model {rows:,}: they do not belong together",
            where=str(tokenizer.folder),
            fix=fix,
        )
    own, given = _token_ids(model_folder), _token_ids(Path(tokenizer.folder))
    if own is None or given is None:
        return
    differing = [token for token, index in given.items() if own.get(token) != index]
    differing += [token for token in own if token not in given]
    if differing:
        token = differing[0]
        raise UserError(
            f"{len(differing):,} tokens differ between this tokenizer and the model's own, the first being {token!r} "
            f"(id {given.get(token)} here, {own.get(token)} in the model)",
            where=str(tokenizer.folder),
            fix=fix,
        )


def _token_ids(folder: Path) -> dict[str, int] | None:
    """token -> id of a folder's tokenizer.json, added tokens included; None where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"].get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score
        vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in content.get("added_tokens", [])}}
