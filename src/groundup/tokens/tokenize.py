"""Stage `tokens`: a corpus as shards of token ids, training and held-out text apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from groundup.artifacts import StageContext, StageResult
from groundup.errors import Problem, UserError
from groundup.recipe import CheckReport
from groundup.tokens.documents import corpus_files, count_bytes, read_texts, source_shares
from groundup.tokens.order import key_of, permuted
from groundup.tokens.settings import TokensSettings
from groundup.tokens.shards import Manifest, SourceTokens, Split, SplitWriter, write_manifest
from groundup.tokens.tokenizer import Tokenizer

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
    """Tokenize every document, in an order of its own within its source, and write shards, index and manifest."""
    corpus = context.input_folder(settings.corpus)
    tokenizer = Tokenizer.from_folder(context.input_folder(settings.tokenizer))
    vocab_size = tokenizer.vocab_size
    dtype = "uint16" if vocab_size <= 2**16 else "uint32"
    splits: dict[str, Split] = {}
    sha256: dict[str, str] = {}
    for split in ("train", "held_out"):
        files = corpus_files(corpus, split)
        writer = SplitWriter(context.folder, split, dtype, settings.shard_tokens)
        counted: list[SourceTokens] = []
        with context.console.progress(f"{context.name}, {split}", len(files), "sources done", is_even=False) as bar:
            for number, (source, paths) in enumerate(files.items()):
                bar(number, f"now {source}")
                counted.append(_write_source(writer, tokenizer, source, number, paths, context.seed))
        shares = source_shares(corpus, {s.name: s.tokens for s in counted}) if split == "train" else {}
        sources = [SourceTokens(**{**vars(s), "share": shares.get(s.name, _part(s, counted))}) for s in counted]
        splits[split] = writer.finish(sources)
        sha256 |= writer.sha256
    train = splits["train"]
    if train.tokens == 0:
        raise UserError("the corpus has no text", where=str(corpus), fix="look at its funnel: every drop has a reason")
    tokenizer.copy_to(context.folder / "tokenizer")
    write_manifest(
        context.folder,
        Manifest(dtype, vocab_size, tokenizer.document_end_id, tokenizer.fingerprint, splits, sha256),
    )
    return StageResult(
        counts={
            "tokens": train.tokens,
            "documents": sum(source.documents for source in train.sources),
            "held_out_tokens": splits["held_out"].tokens,
            "tokens_by_source": {source.name: source.tokens for source in train.sources},
        },
        metrics={"bytes_per_token": round(sum(source.bytes for source in train.sources) / train.tokens, 4)},
    )


def _write_source(
    writer: SplitWriter, tokenizer: Tokenizer, source: str, number: int, paths: list[Path], seed: int
) -> SourceTokens:
    """Neighbours in a source are often alike (pages of one site): a permutation that the seed names spreads them."""
    texts = [text for batch in read_texts(paths) for text in batch]
    order = permuted(np.arange(len(texts), dtype=np.int64), len(texts), key_of(seed, "documents", source))
    start, size = writer.tokens, 0
    for begin in range(0, len(texts), 256):
        chosen = [texts[place] for place in order[begin : begin + 256]]
        size += sum(len(text.encode("utf-8", "replace")) for text in chosen)
        for ids in tokenizer.encode_documents(chosen):
            writer.add([*ids, tokenizer.document_end_id], number)
    return SourceTokens(source, start, writer.tokens - start, len(texts), size, share=0.0)


def _part(source: SourceTokens, sources: list[SourceTokens]) -> float:
    return source.tokens / max(sum(each.tokens for each in sources), 1)
