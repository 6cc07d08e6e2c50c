"""Stage `tokens`: a corpus as shards of token ids, training and held-out text apart."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.artifacts import StageContext, StageResult, fingerprint_file
from groundup.environment import cores
from groundup.errors import Problem, UserError
from groundup.recipe import CheckReport
from groundup.tokens.documents import corpus_files, count_bytes, source_shares
from groundup.tokens.encode import DocumentOrder, EncodeTask, ShardTask, encode, write_shard
from groundup.tokens.order import key_of, permuted
from groundup.tokens.parallel import run_tasks
from groundup.tokens.settings import TokensSettings
from groundup.tokens.shards import Manifest, SourceTokens, Split, write_manifest
from groundup.tokens.tokenizer import Tokenizer

PARALLEL_BYTES = 8_000_000
LIKELY_BYTES_PER_TOKEN = 3.0  # before a tokenizer exists; for the plan only


def check(settings: TokensSettings, context: StageContext) -> CheckReport:
    """Tokens and disk that this will take, as far as the corpus exists already."""
    problems: list[Problem] = []
    facts: dict[str, int] = {}
    corpus, tokenizer = context.input_folder(settings.corpus), context.input_folder(settings.tokenizer)
    try:
        if (corpus / "documents").exists():
            tokens = int(sum(count_bytes(files) for files in corpus_files(corpus).values()) / LIKELY_BYTES_PER_TOKEN)
            facts = {"tokens": tokens, "disk_bytes": 2 * tokens}
        if tokenizer.exists() and any(tokenizer.iterdir()):
            Tokenizer.from_folder(tokenizer)
    except UserError as error:
        problems += error.problems
    return CheckReport(dict(facts), problems)


def run(settings: TokensSettings, context: StageContext) -> StageResult:
    """Tokenize every document, in an order of its own within its source, and write shards, index and manifest.

    Files are encoded one by one, over processes; then each shard gathers its documents. Both kinds of task are finished
    one by one, so a killed stage goes on; memory holds some documents and the index, whatever the size of the corpus.
    """
    corpus = context.input_folder(settings.corpus)
    tokenizer = Tokenizer.from_folder(context.input_folder(settings.tokenizer))
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    work = context.folder / "work"
    files = {split: corpus_files(corpus, split) for split in ("train", "held_out")}
    encoded = _encode_all(files, tokenizer, dtype, settings, context)
    splits: dict[str, Split] = {}
    sha256: dict[str, str] = {}
    for split in files:
        counted, order = _order_of(files[split], encoded, context.seed)
        if split == "train" and not sum(source.tokens for source in counted):
            fix = "look at its funnel: every drop has a reason"
            raise UserError("the corpus has no text", where=str(corpus), fix=fix)
        shares = source_shares(corpus, {s.name: s.tokens for s in counted}) if split == "train" else {}
        sources = [replace(s, share=shares.get(s.name, _part(s, counted))) for s in counted]
        own = [encoded[path] for paths in files[split].values() for path in paths]
        splits[split] = _write_split(split, sources, order, own, dtype, settings, context, sha256)
    train = splits["train"]
    tokenizer.copy_to(context.folder / "tokenizer")
    write_manifest(
        context.folder,
        Manifest(dtype, tokenizer.vocab_size, tokenizer.document_end_id, tokenizer.fingerprint, splits, sha256),
    )
    shutil.rmtree(work, ignore_errors=True)
    return StageResult(
        counts={
            "tokens": train.tokens,
            "documents": sum(source.documents for source in train.sources),
            "held_out_tokens": splits["held_out"].tokens,
            "tokens_by_source": {source.name: source.tokens for source in train.sources},
        },
        metrics={"bytes_per_token": round(sum(source.bytes for source in train.sources) / train.tokens, 4)},
    )


@dataclass(frozen=True)
class _Encoded:
    """A parquet file after its task: the ids' file without suffix, and what the task counted."""

    out: Path
    stats: dict[str, Any]


def _encode_all(
    files: dict[str, dict[str, list[Path]]],
    tokenizer: Tokenizer,
    dtype: str,
    settings: TokensSettings,
    context: StageContext,
) -> dict[Path, _Encoded]:
    paths = [path for by_source in files.values() for own in by_source.values() for path in own]
    folder = context.folder / "work"
    tasks = [
        EncodeTask(path, tokenizer.folder, tokenizer.fingerprint, dtype, folder / f"encoded-{number:05d}")
        for number, path in enumerate(paths)
    ]
    sizes = [path.stat().st_size for path in paths]
    # A process takes half a second to start: little text is done here.
    workers = settings.workers or (cores() if sum(sizes) >= PARALLEL_BYTES else 1)
    found: dict[Path, _Encoded] = {}
    done = 0
    with context.console.progress(f"{context.name}, text to ids", sum(sizes), "bytes of files") as update:
        for number, stats in run_tasks(encode, tasks, workers):
            found[paths[number]] = _Encoded(tasks[number].out, stats)
            done += sizes[number]
            update(done, f"{len(found)} of {len(paths)} files")
    return found


def _order_of(
    files: dict[str, list[Path]], encoded: dict[Path, _Encoded], seed: int
) -> tuple[list[SourceTokens], DocumentOrder]:
    """Sources one after the other; in each, a permutation that the seed names, as neighbours in a source are often
    alike (pages of one site). File numbers count the split's files in their order."""
    sources: list[SourceTokens] = []
    columns: list[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]] = []
    start = first_file = 0
    for source, paths in files.items():
        lengths = [np.load(encoded[path].out.with_suffix(".npy")) for path in paths]
        places = [np.cumsum(own) - own for own in lengths]
        numbers = [np.full(len(own), first_file + place, np.int32) for place, own in enumerate(lengths)]
        count = sum(map(len, lengths))
        order = permuted(np.arange(count, dtype=np.int64), count, key_of(seed, "documents", source))
        columns.append((np.concatenate(numbers)[order], np.concatenate(places)[order], np.concatenate(lengths)[order]))
        tokens, size = (sum(encoded[path].stats[key] for path in paths) for key in ("tokens", "bytes"))
        sources.append(SourceTokens(source, start, tokens, count, size, share=0.0))
        start += tokens
        first_file += len(paths)
    empty = (np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    all_files, all_places, all_lengths = (np.concatenate(column) for column in zip(empty, *columns, strict=True))
    starts = np.concatenate([[0], np.cumsum(all_lengths)]).astype(np.int64)
    return sources, DocumentOrder(all_files, all_places, all_lengths, starts)


def _write_split(
    split: str,
    sources: list[SourceTokens],
    order: DocumentOrder,
    own: list[_Encoded],
    dtype: str,
    settings: TokensSettings,
    context: StageContext,
    sha256: dict[str, str],
) -> Split:
    """The split's shards and its index; their hashes go to `sha256`. `own`: its files, as the order numbers them."""
    work, total = context.folder / "work", int(order.starts[-1])
    order.save(work / f"{split}-order")
    tasks = [
        ShardTask(
            plan=work / f"{split}-order",
            encoded=tuple(one.out for one in own),
            fingerprints=(str(context.seed), *(str(one.stats["fingerprint"]) for one in own)),
            dtype=dtype,
            start=start,
            end=min(start + settings.shard_tokens, total),
            out=context.folder / f"{split}-{number:05d}.bin",
            done=work / f"{split}-{number:05d}.json",
        )
        for number, start in enumerate(range(0, total, settings.shard_tokens))
    ]
    workers = settings.workers or (cores() if total >= PARALLEL_BYTES else 1)
    with context.console.progress(f"{context.name}, shards of {split}", len(tasks), "shards") as update:
        written: dict[int, dict[str, Any]] = {}
        for number, stats in run_tasks(write_shard, tasks, workers):
            written[number] = stats
            update(len(written))
    sha256 |= {task.out.name: written[number]["sha256"] for number, task in enumerate(tasks)}
    for stale in set(context.folder.glob(f"{split}-*.bin")) - {task.out for task in tasks}:
        stale.unlink()  # of an interrupted run with smaller shards
    ends = np.cumsum([source.documents for source in sources])
    numbers = np.searchsorted(ends, np.arange(len(order.lengths)), "right")
    index = context.folder / f"{split}-index.npy"
    np.save(index, np.stack([order.starts[:-1], numbers.astype(np.int64)], axis=1))
    sha256[index.name] = fingerprint_file(index)
    return Split(total, [task.out.name for task in tasks], [task.end - task.start for task in tasks], sources)


def _part(source: SourceTokens, sources: list[SourceTokens]) -> float:
    return source.tokens / max(sum(each.tokens for each in sources), 1)
