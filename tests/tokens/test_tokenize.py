"""The tokens stage over processes: the same bytes whatever the number of workers, nothing done twice after a kill."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundup.artifacts import fingerprint_folder
from groundup.errors import UserError
from groundup.tokens import encode as encode_module
from groundup.tokens import tokenize, train_tokenizer
from groundup.tokens.documents import corpus_files, read_texts
from groundup.tokens.encode import EncodeTask, encode
from groundup.tokens.order import key_of, permuted
from groundup.tokens.parallel import run_tasks
from groundup.tokens.settings import TokenizerSettings, TokensSettings
from groundup.tokens.shards import TokenStream, read_manifest
from groundup.tokens.tokenizer import Tokenizer

from .conftest import stage_context, text_of, write_corpus

SHARD_TOKENS = 3000


def settings_of(workers: int) -> TokensSettings:
    return TokensSettings(corpus="corpus", tokenizer="tokenizer", shard_tokens=SHARD_TOKENS, workers=workers)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus whose sources have several files, and a tokenizer."""
    write_corpus(tmp_path / "corpus", {"web": 120, "books": 60})
    for part in range(1, 4):
        texts = [text_of("web", 1000 * part + n) for n in range(50)] + ["", "last é 中"]
        pq.write_table(pa.table({"text": texts}), tmp_path / "corpus" / "documents" / f"web-{part:05d}.parquet")
    train_tokenizer.run(TokenizerSettings(corpus="corpus", vocab_size=400), stage_context(tmp_path, "tokenizer"))
    return tmp_path


def test_one_and_two_processes_write_the_same_bytes(corpus: Path) -> None:
    found = []
    for workers in (1, 2):
        context = stage_context(corpus, "tokens")
        tokenize.run(settings_of(workers), context)
        assert not (context.folder / "work").exists()
        found.append(fingerprint_folder(context.folder))
        context.folder.rename(corpus / f"tokens{workers}")
    assert found[0] == found[1]


def test_the_stream_is_the_documents_in_the_order_that_the_seed_names(corpus: Path) -> None:
    context = stage_context(corpus, "tokens")
    tokenize.run(settings_of(1), context)
    tokenizer = Tokenizer.from_folder(corpus / "tokenizer")
    expected: list[int] = []
    for source, files in corpus_files(corpus / "corpus").items():
        texts = [text for batch in read_texts(files) for text in batch]
        order = permuted(np.arange(len(texts), dtype=np.int64), len(texts), key_of(context.seed, "documents", source))
        for place in order:
            expected += [*tokenizer.encode_documents([texts[place]])[0], tokenizer.document_end_id]
    manifest = read_manifest(context.folder)
    train = manifest.splits["train"]
    assert TokenStream(context.folder, manifest, "train").read(0, train.tokens).tolist() == expected
    assert train.file_tokens[:-1] == [SHARD_TOKENS] * (len(train.files) - 1)


def test_a_stage_that_goes_on_does_only_what_is_left(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = stage_context(corpus, "tokens")
    tokenize.run(settings_of(1), undisturbed)
    expected = fingerprint_folder(undisturbed.folder)
    undisturbed.folder.rename(corpus / "undisturbed")

    encoded: list[str] = []
    real = Tokenizer.encode_documents

    def counting(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        encoded.extend(texts)
        return real(self, texts)

    def stops_in_the_third_shard(task: encode_module.ShardTask) -> dict:
        if task.out.name.endswith("00002.bin"):
            raise KeyboardInterrupt
        return encode_module.write_shard(task)

    monkeypatch.setattr(Tokenizer, "encode_documents", counting)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tokenize, "write_shard", stops_in_the_third_shard)
        tokenize.run(settings_of(1), stage_context(corpus, "tokens"))
    assert len(encoded) > 300
    assert not (corpus / "tokens" / "manifest.json").exists()

    encoded.clear()
    tokenize.run(settings_of(1), stage_context(corpus, "tokens"))
    assert encoded == [], "every file was encoded before"
    assert fingerprint_folder(corpus / "tokens") == expected


def test_a_changed_file_is_encoded_again_and_no_other(corpus: Path) -> None:
    tokenizer = Tokenizer.from_folder(corpus / "tokenizer")
    file = corpus / "corpus" / "documents" / "web-00001.parquet"
    task = EncodeTask(file, tokenizer.folder, tokenizer.fingerprint, "uint16", corpus / "out" / "encoded-00000")
    first = encode(task)
    made = task.out.with_suffix(".bin").stat().st_mtime_ns
    assert encode(task) == first
    assert task.out.with_suffix(".bin").stat().st_mtime_ns == made
    pq.write_table(pa.table({"text": ["something else"]}), file)
    again = encode(task)
    assert again["documents"] == 1
    assert again["fingerprint"] != first["fingerprint"]


def test_larger_shards_leave_nothing_of_an_interrupted_run_with_smaller_ones(corpus: Path) -> None:
    context = stage_context(corpus, "tokens")
    (context.folder / "train-00099.bin").write_bytes(b"\0\0")
    tokenize.run(settings_of(1), context)
    names = {path.name for path in context.folder.glob("*.bin")}
    manifest = read_manifest(context.folder)
    assert names == {name for split in manifest.splits.values() for name in split.files}


@pytest.mark.slow
def test_kill_9_of_everything_and_the_same_bytes_come_of_it(corpus: Path, tmp_path: Path) -> None:
    many = [text_of("web", n) * 30 for n in range(3000)]
    for part in range(4, 8):
        pq.write_table(pa.table({"text": many[part::8]}), corpus / "corpus" / "documents" / f"web-{part:05d}.parquet")
    script = (
        "from pathlib import Path; from groundup.tokens import tokenize\n"
        "from groundup.tokens.settings import TokensSettings\n"
        "from groundup.artifacts import StageContext; from groundup.console import Console\n"
        "from groundup.stopping import StopRequest; import sys\n"
        "if __name__ == '__main__':\n"
        "    run = Path(sys.argv[1]); inputs = {name: run / name for name in ('corpus', 'tokenizer')}\n"
        "    context = StageContext('t', run / sys.argv[2], inputs, 7, run, Console(quiet=True), StopRequest(), run)\n"
        "    context.folder.mkdir(exist_ok=True)\n"
        "    settings = TokensSettings(corpus='corpus', tokenizer='tokenizer', shard_tokens=30000, workers=2)\n"
        "    tokenize.run(settings, context)\n"
    )
    file = tmp_path / "stage.py"
    file.write_text(script)
    subprocess.run([sys.executable, file, corpus, "whole"], check=True)
    for seconds in (1.0, 2.0, 3.0):
        process = subprocess.Popen([sys.executable, file, corpus, "killed"], start_new_session=True)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, file, corpus, "killed"], check=True)
    assert fingerprint_folder(corpus / "killed") == fingerprint_folder(corpus / "whole")


# ---------------------------------------------------------------- tasks over processes


TASKS = """
import os, signal

def die_once(path):
    if path.name.startswith("poison") and not path.exists():
        path.write_text("died")  # what tells the second time from the first
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name

def die_always(path):
    if path.name.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name
"""


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that worker processes can import as well."""
    (tmp_path / "poison_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("poison_tasks")


def test_a_task_that_lost_its_process_is_tried_again(tmp_path: Path, poison: ModuleType) -> None:
    tasks = [tmp_path / name for name in ("a", "poison", "b", "c")]
    assert sorted(run_tasks(poison.die_once, tasks, 2)) == [(0, "a"), (1, "poison"), (2, "b"), (3, "c")]


def test_a_task_that_ends_its_process_every_time_is_named(tmp_path: Path, poison: ModuleType) -> None:
    tasks = [tmp_path / name for name in ("a", "poison", "b")]
    with pytest.raises(UserError, match=r"killed twice at .*poison"):
        list(run_tasks(poison.die_always, tasks, 2))
