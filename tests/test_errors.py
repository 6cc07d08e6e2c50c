"""What `groundup run` and `groundup check` say when data, a model or the disk is at fault, as golden text.

The real command on tiny real recipes; what is wrong in a recipe itself is in test_recipe.py. `UPDATE_GOLDEN=1 pytest
tests/test_errors.py` writes the golden files anew; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from groundup.cli import app
from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.files import save_model
from groundup.model.init import init_weights
from groundup.tokens.train_tokenizer import save_tokenizer, train_bpe
from groundup.workflow import preflight

Golden = Callable[[str, str], None]
Command = Callable[..., tuple[int, str]]

SFT = """\
name: tiny
stages:
  chat:
    stage: sft
    base_model: model
    datasets: [{path: rows.jsonl}]
    sequence_len: 64
    micro_batch_size: 2
    max_steps: 2
    learning_rate: 1e-3
"""
CORPUS = """\
name: words
stages:
  corpus:
    stage: corpus
    sources:
      notes: {type: text, path: notes}
"""
WHOLE = (
    CORPUS
    + """\
  tokenizer: {stage: tokenizer, corpus: corpus, vocab_size: 300}
  tokens: {stage: tokens, corpus: corpus, tokenizer: tokenizer}
  base: {stage: pretrain, tokens: tokens, sequence_len: 2000, micro_batch_size: 1, max_steps: 1}
"""
)


def conversation(question: str = "Where did the cat sit?", answer: str = "On the mat.", role: str = "user") -> str:
    return json.dumps({"messages": [{"role": role, "content": question}, {"role": "assistant", "content": answer}]})


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model folder, `model`, and a cache that remembers how fast this machine is."""
    folder = tmp_path_factory.mktemp("parts")
    backend = train_bpe(iter(["the cat sat on the mat. " * 20]), 300)
    save_tokenizer(backend, folder / "model")
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    model = Decoder(ModelConfig(vocab_size=backend.get_vocab_size(), num_attention_heads=2, **shape))
    init_weights(model, 0)
    save_model(model, folder / "model")
    return folder


@pytest.fixture
def command(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs `groundup ...` in a folder with a model and good rows: (exit code, what it said on stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GROUNDUP_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(parts / "cache"))
    monkeypatch.setattr("groundup.console.PLAIN_LINE_EVERY_SECONDS", 3_600)  # a slow machine tells of progress
    shutil.copytree(parts / "model", "model")
    Path("rows.jsonl").write_text(conversation() + "\n")
    Path("notes").mkdir()
    Path("sft.yaml").write_text(SFT)
    Path("corpus.yaml").write_text(CORPUS)
    Path("whole.yaml").write_text(WHOLE)

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = app._main(list(words))
        return code, normal(capsys.readouterr().err)

    return run


def normal(said: str) -> str:
    """Without what differs between machines: times, sizes, the estimate."""
    said = "".join(line for line in said.splitlines(keepends=True) if not line.startswith("estimated:"))
    said = re.sub(r"[\d.]+ (s|min \d\d s)\b", "N s", said)
    return re.sub(r"[\d.,]+ (B|kB|MB|GB)\b", "N bytes", said)


# ---------------------------------------------------------------- rows


def test_a_file_without_rows(command: Command, same_as_golden: Golden) -> None:
    Path("rows.jsonl").write_text("")
    code, said = command("run", "sft.yaml")
    assert code == 2
    same_as_golden("empty-rows", said)


def test_rows_that_cannot_be_read_or_used(command: Command, same_as_golden: Golden) -> None:
    rows = [
        conversation(),
        '{"messages": [{"role": "user", "content": "cut sh',
        conversation(role="robot"),
        '{"question": "a", "answer": "b"}',
        '{"messages": [{"role": "user", "content": "no answer"}]}',
        conversation(question=5),  # type: ignore[arg-type]
        "[1, 2]",
    ]
    Path("rows.jsonl").write_text("\n".join(rows) + "\n")
    code, said = command("check", "sft.yaml")
    assert code == 2
    same_as_golden("unreadable-rows", said)
    assert command("run", "sft.yaml")[1].splitlines()[2:-2] == said.splitlines()


def test_rows_of_which_nothing_is_trained(command: Command, same_as_golden: Golden) -> None:
    Path("rows.jsonl").write_text(conversation(question="the cat " * 200) + "\n")
    code, said = command("run", "sft.yaml")
    assert code == 2
    same_as_golden("nothing-trained", said)


# ---------------------------------------------------------------- models


def test_a_model_with_the_tokenizer_of_another(command: Command, same_as_golden: Golden) -> None:
    words = " ".join(f"{start}{end}" for start in ("over", "under", "through") for end in ("land", "water", "air"))
    save_tokenizer(train_bpe(iter([f"{words} " * 9]), 340), Path("model"))
    code, said = command("run", "sft.yaml")
    assert code == 2
    same_as_golden("wrong-tokenizer", said)


def test_a_model_folder_that_is_none_or_damaged(command: Command, same_as_golden: Golden) -> None:
    Path("other").mkdir()
    code, none = command("check", "sft.yaml", "chat.base_model=other")
    assert code == 2
    weights = Path("model/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:500])
    code, damaged = command("run", "sft.yaml")
    assert code == 2
    same_as_golden("not-a-model", f"{none}\n{damaged[damaged.index('stage chat failed') :]}")


def test_what_a_stage_reads_is_not_there(command: Command, same_as_golden: Golden) -> None:
    one = command("check", "sft.yaml", "chat.base_model=modle", "chat.datasets=[{path: row.jsonl}, {path: a/b.jsonl}]")
    other = command("check", "corpus.yaml", "corpus.sources.notes.path=ntoes")
    assert (one[0], other[0]) == (2, 2)
    same_as_golden("missing-inputs", f"{one[1]}\n{other[1]}")


# ---------------------------------------------------------------- text


def test_a_corpus_in_which_nothing_is_left(command: Command, same_as_golden: Golden) -> None:
    Path("notes/a.txt").write_text("Hi.\n")
    Path("notes/b.txt").write_text("Bye.\n")
    code, said = command("run", "corpus.yaml")
    assert code == 2
    same_as_golden("empty-corpus", said)


def test_sources_that_cannot_be_read(command: Command, same_as_golden: Golden) -> None:
    Path("web.warc.gz").write_text("this is no archive")
    Path("texts.jsonl").write_text('{"text": \n[1]\n{"txet": "a"}\n{"text": "\n')
    sources = "{web: {type: warc, path: web.warc.gz}, texts: {type: jsonl, path: texts.jsonl}}"
    code, said = command("run", "corpus.yaml", f"corpus.sources={sources}")
    assert code == 2
    same_as_golden("unreadable-sources", said)


def test_a_corpus_too_small_for_one_row(command: Command, same_as_golden: Golden) -> None:
    tales = {
        "harbour": "the boats came in with the evening tide, and the men who had been out sat on the wall and "
        "told what they had seen. Nobody hurried. The nets were hung up to dry along the quay, and the children were "
        "sent to bring bread and cheese, because it would be a long night and there were many stories to be told.",
        "station": "a clerk kept a list of every train that was late, in a hand that few could read. When he "
        "left his post after forty years, the list went to his daughter, who found in it the weather of each winter, "
        "the names of travellers who had missed a wedding, and once, on a blank page, a short poem about snow.",
        "garden": "two brothers could not agree about a pear tree. One wanted it cut down; the other said "
        "that it gave shade, which is more than most people give. They asked their mother to judge between them. She "
        "looked at it for a while and said that she would like to have the bench moved under it, and so it stayed.",
    }
    for place, tale in tales.items():
        Path(f"notes/{place}.txt").write_text(f"At the {place} of the old town {tale}\n")
    code, said = command("run", "whole.yaml")
    assert code == 2
    same_as_golden("too-little-text", said)


# ---------------------------------------------------------------- disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Mounts a file system of so many kilobytes as `small`."""
    folder = tmp_path / "small"
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder.mkdir()

    def mount(kilobytes: int) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")

    yield mount
    subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def test_a_disk_on_which_the_run_will_not_fit(
    command: Command, small_disk: Callable[[int], None], same_as_golden: Golden
) -> None:
    small_disk(200)
    code, said = command("run", "sft.yaml", "--runs", "small")
    assert code == 2
    same_as_golden("disk-too-small", said)


def test_a_disk_that_fills_up_on_the_way(
    command: Command, small_disk: Callable[[int], None], same_as_golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "free_disk_bytes", lambda _: 10**12)  # it was free when the run began
    small_disk(200)
    code, said = command("run", "sft.yaml", "--runs", "small")
    assert code == 1
    same_as_golden("disk-full", said[said.index("stage chat failed") :])
    assert json.loads(Path("small/tiny/state.json").read_text())["status"] == "failed"


def test_a_disk_that_is_full_already(
    command: Command, small_disk: Callable[[int], None], same_as_golden: Golden
) -> None:
    small_disk(4)
    Path("small/ballast").write_bytes(b"x" * 4096)
    code, said = command("run", "sft.yaml", "--runs", "small")
    assert code == 1
    same_as_golden("disk-full-already", said)
