"""Stage `tokenizer`: byte-level BPE on a corpus, as a Hugging Face folder.

Byte-level, so every text has ids and comes back as it was; no normalising; digits one by one, so that arithmetic sees
places (Singh and Strouse 2024, "Tokenization counts").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from groundup.artifacts import StageContext, StageResult, write_atomic, write_json
from groundup.console import byte_text
from groundup.errors import EXIT_FAILED, Problem, UserError
from groundup.recipe import CheckReport
from groundup.tokens.documents import corpus_files, count_bytes, read_texts, source_shares
from groundup.tokens.fast import DIGITS_PATTERN, byte_characters, parts_of
from groundup.tokens.settings import TokenizerSettings
from groundup.tokens.tokenizer import END_OF_TEXT, PADDING, SPECIAL_TOKENS, TURN_END, TURN_START, Tokenizer, storable

# ChatML without a default system prompt
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LONGEST_CONTEXT = 1 << 20  # transformers' `model_max_length`; the model's own config is what limits
REPORT_BYTES = 1_000_000  # of each source, for bytes per token


def check(settings: TokenizerSettings, context: StageContext) -> CheckReport:
    """Problems that show before training: nothing to train on."""
    problems: list[Problem] = []
    corpus = context.input_folder(settings.corpus)
    if corpus.exists():
        try:
            corpus_files(corpus)
        except UserError as error:
            problems += error.problems
    return CheckReport({"vocab_size": settings.vocab_size}, problems)


def run(settings: TokenizerSettings, context: StageContext) -> StageResult:
    """Train, save, and check on the corpus itself that every text comes back as it was."""
    corpus = context.input_folder(settings.corpus)
    files = corpus_files(corpus)
    sizes = {source: count_bytes(paths) for source, paths in files.items()}
    budgets = _budgets(source_shares(corpus, sizes), sizes, settings.max_bytes)
    context.console.info(f"  learning {settings.vocab_size:,} ids from {byte_text(sum(budgets.values()))} of text")
    backend = train_bpe(lambda: _training_texts(files, budgets), settings.vocab_size, settings.min_frequency)
    found = backend.get_vocab_size(with_added_tokens=True)
    if found < settings.vocab_size:
        context.console.warn(f"{context.name}: the text has pairs for {found:,} ids only, not {settings.vocab_size:,}")
    save_tokenizer(backend, context.folder)
    tokenizer = Tokenizer.from_folder(context.folder)
    report = _report(tokenizer, files)
    write_json(context.folder / "report.json", report)
    broken = sum(row["not_round_trip"] for row in report["sources"].values())
    if broken:
        raise UserError(f"{broken} documents do not come back from their ids as they were", exit_code=EXIT_FAILED)
    return StageResult(
        counts={
            "vocab_size": found,
            "training_bytes": sum(budgets.values()),
            "round_trip_documents": report["documents"],
        },
        metrics={"bytes_per_token": report["bytes_per_token"]},
    )


def train_bpe(
    texts: Iterable[str] | Callable[[], Iterator[str]],
    vocab_size: int,
    min_frequency: int = 2,
    *,
    library: str | None = None,
) -> tokenizers.Tokenizer:
    """A byte-level BPE of at most `vocab_size` ids: special tokens first, then the 256 bytes, then merges.

    Where `texts` is a function, it is called for each pass over the text, and nothing is held in memory.
    `library`: `rustbpe` (a quarter of the CPU time) or `tokenizers`; without it, rustbpe where it is installed. Both
    merge the most frequent pair first, and differ where two are equally frequent.
    """
    if library is None:
        library = "rustbpe" if find_spec("rustbpe") and find_spec("tiktoken") else "tokenizers"
    read = texts if callable(texts) else list(texts).__iter__
    if library == "tokenizers":
        return _train_with_tokenizers(read(), vocab_size, min_frequency)
    tokens = _train_with_rustbpe(read(), vocab_size - len(SPECIAL_TOKENS))
    ranks = {bytes([value]): value for value in range(256)}
    merges: list[tuple[bytes, bytes]] = []
    for token in tokens:
        parts = parts_of(token, ranks)
        assert len(parts) == 2, f"{token!r} is not joined from two tokens"
        merges.append((parts[0], parts[1]))
        ranks[token] = len(ranks)
    if min_frequency > 1:
        merges = merges[: _frequent(read, tokens, min_frequency)]
    return _backend_of(merges)


def _train_with_rustbpe(texts: Iterator[str], vocab_size: int) -> list[bytes]:
    """What each merge gives, in their order."""
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator((storable(text) for text in texts), vocab_size=vocab_size, pattern=DIGITS_PATTERN)
    return [bytes(token) for token, rank in sorted(trainer.get_mergeable_ranks(), key=itemgetter(1)) if rank >= 256]


def _frequent(texts: Callable[[], Iterator[str]], tokens: list[bytes], min_frequency: int) -> int:
    """How many of the merges were made at least `min_frequency` times. rustbpe goes on down to pairs seen once.

    A merge is made as often as its token occurs where no later merge exists, and that number falls from merge to merge.
    So one look at the last token is enough when there is much text, which is nearly always.
    """
    import tiktoken

    def occurs(count: int) -> bool:
        ranks = {bytes([value]): value for value in range(256)}
        ranks |= {token: 256 + number for number, token in enumerate(tokens[:count])}
        encoding = tiktoken.Encoding("count", pat_str=DIGITS_PATTERN, mergeable_ranks=ranks, special_tokens={})
        seen = 0
        for text in texts():
            seen += encoding.encode_ordinary(storable(text)).count(255 + count)
            if seen >= min_frequency:
                return True
        return False

    low, high = 0, len(tokens)  # the first `low` are frequent, those after `high` are not
    count = high
    while low < high:
        if occurs(count):
            low = count
        else:
            high = count - 1
        count = (low + high + 1) // 2
    return low


def _empty_backend(model: models.BPE) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _backend_of(merges: list[tuple[bytes, bytes]]) -> tokenizers.Tokenizer:
    """The Hugging Face tokenizer with these merges: ids are those that `tokenizers` gives when it trains."""
    characters = byte_characters()
    text_of = ["".join(characters[value] for value in part) for merge in merges for part in merge]
    pairs = list(zip(text_of[::2], text_of[1::2], strict=True))
    vocabulary = [*SPECIAL_TOKENS, *sorted(characters), *(one + other for one, other in pairs)]
    model = models.BPE({token: number for number, token in enumerate(vocabulary)}, pairs)
    backend = _empty_backend(model)
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return backend


def _train_with_tokenizers(texts: Iterator[str], vocab_size: int, min_frequency: int) -> tokenizers.Tokenizer:
    backend = _empty_backend(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def save_tokenizer(backend: tokenizers.Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`; `AutoTokenizer` reads the folder."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": PADDING,
        "additional_special_tokens": [TURN_START, TURN_END],
        "clean_up_tokenization_spaces": False,
        "model_max_length": LONGEST_CONTEXT,
        "add_bos_token": False,
        "add_eos_token": False,
    }
    write_atomic(folder / "tokenizer.json", backend.to_str(pretty=True))
    write_atomic(folder / "chat_template.jinja", CHAT_TEMPLATE)
    write_json(folder / "tokenizer_config.json", config)


def _budgets(shares: dict[str, float], sizes: dict[str, int], max_bytes: int) -> dict[str, int]:
    """Bytes to read of each source: its share of what is read, and never more than there is."""
    whole = min(max_bytes, sum(sizes.values()))
    return {
        source: min(sizes[source], max(1, round(share * whole))) if share else 0 for source, share in shares.items()
    }


def _training_texts(files: dict[str, list[Path]], budgets: dict[str, int]) -> Iterator[str]:
    for source, paths in files.items():
        left = budgets[source]
        for texts in read_texts(paths):
            for text in texts:
                if left <= 0:
                    break
                left -= len(text.encode("utf-8", "replace"))
                yield text
            if left <= 0:
                break


def _report(tokenizer: Tokenizer, files: dict[str, list[Path]]) -> dict[str, Any]:
    """Bytes per token and round trips, on up to REPORT_BYTES of each source."""
    rows: dict[str, dict[str, Any]] = {}
    for source, paths in files.items():
        row = {"documents": 0, "bytes": 0, "tokens": 0, "not_round_trip": 0}
        for texts in read_texts(paths):
            for text, ids in zip(texts, tokenizer.encode_documents(texts), strict=True):
                row["documents"] += 1
                row["bytes"] += len(text.encode("utf-8", "replace"))
                row["tokens"] += len(ids)
                row["not_round_trip"] += tokenizer.decode(ids) != text
            if row["bytes"] >= REPORT_BYTES:
                break
        rows[source] = {**row, "bytes_per_token": round(row["bytes"] / max(row["tokens"], 1), 4)}
    total_bytes, total_tokens = (sum(row[key] for row in rows.values()) for key in ("bytes", "tokens"))
    return {
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": {token: tokenizer.id_of(token) for token in SPECIAL_TOKENS},
        "bytes_per_token": round(total_bytes / max(total_tokens, 1), 4),
        "documents": sum(row["documents"] for row in rows.values()),
        "sources": rows,
    }
