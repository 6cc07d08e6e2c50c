"""Shards hold every document once; a batch is a pure function of its step."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from groundup.artifacts import fingerprint_file
from groundup.errors import UserError
from groundup.tokens.batches import TokenBatches
from groundup.tokens.shards import TokenStream, read_manifest
from groundup.tokens.tokenizer import Tokenizer

T, B = 32, 8


def documents_in(run: Path, split: str) -> list[str]:
    """The documents as the shards have them, cut at the end-of-text id."""
    manifest = read_manifest(run / "tokens")
    ids = TokenStream(run / "tokens", manifest, split).read(0, manifest.splits[split].tokens)
    tokenizer = Tokenizer.from_folder(run / "tokens" / "tokenizer")
    ends = np.flatnonzero(ids == manifest.document_end_id)
    assert ends[-1] == len(ids) - 1
    starts = [0, *(ends[:-1] + 1)]
    return [tokenizer.decode(ids[start:end]) for start, end in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_document_of_the_corpus_is_there_once(run: Path, split: str) -> None:
    folder = run / "corpus" / ("documents" if split == "train" else split)
    corpus = [text for path in folder.glob("*.parquet") for text in pq.read_table(path)["text"].to_pylist()]
    assert sorted(documents_in(run, split)) == sorted(corpus)


def test_the_manifest_tells_sources_files_and_hashes(run: Path) -> None:
    manifest = read_manifest(run / "tokens")
    train = manifest.splits["train"]
    assert len(train.files) > 2  # cut at shard_tokens
    assert manifest.dtype == "uint16"
    for name, sha256 in manifest.sha256.items():
        assert fingerprint_file(run / "tokens" / name) == sha256
    assert manifest.tokenizer_fingerprint == Tokenizer.from_folder(run / "tokenizer").fingerprint
    books, web = train.sources
    assert (books.name, books.documents, web.name, web.documents) == ("books", 95, "web", 295)
    assert books.tokens + web.tokens == train.tokens
    assert books.share == pytest.approx(3 * books.tokens / (3 * books.tokens + web.tokens))  # repeats: 3 against 1
    index = np.load(run / "tokens" / "train-index.npy")
    assert index.shape == (390, 2)
    assert np.bincount(index[:, 1]).tolist() == [95, 295]
    stream = TokenStream(run / "tokens", manifest, "train")
    for start, _ in index[1::37]:
        assert stream.read(int(start) - 1, 1)[0] == manifest.document_end_id


def test_a_batch_is_a_pure_function_of_the_step(run: Path) -> None:
    one, other = TokenBatches(run / "tokens", T, B, 5), TokenBatches(run / "tokens", T, B, 5)
    for step in (17, 3, 17, 400):
        a, b = one.batch(step), other.batch(step)
        for name in ("input_ids", "targets", "document_ids"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
    assert not np.array_equal(one.batch(0).input_ids, TokenBatches(run / "tokens", T, B, 6).batch(0).input_ids)
    assert not np.array_equal(one.batch(0).input_ids, one.batch(1).input_ids)


def test_twice_the_batch_is_two_steps_in_one(run: Path) -> None:
    """So rows per step decide what is seen, not how they are split."""
    small, large = TokenBatches(run / "tokens", T, B, 5), TokenBatches(run / "tokens", T, 2 * B, 5)
    both = np.concatenate([small.batch(6).input_ids, small.batch(7).input_ids])
    assert np.array_equal(both, large.batch(3).input_ids)


def test_rows_are_stretches_of_the_stream_and_targets_are_the_next_ids(run: Path) -> None:
    batches = TokenBatches(run / "tokens", T, B, 5)
    batch = batches.batch(2)
    assert batch.input_ids.shape == batch.targets.shape == batch.document_ids.shape == (B, T)
    assert np.array_equal(batch.input_ids[:, 1:], batch.targets[:, :-1])
    ids = batches.stream.read(0, len(batches.stream))
    for row, last in zip(batch.input_ids, batch.targets[:, -1], strict=True):
        window = np.append(row, last)
        places = np.flatnonzero(np.lib.stride_tricks.sliding_window_view(ids, T + 1)[:, 0] == window[0])
        assert any(np.array_equal(ids[p : p + T + 1], window) for p in places) or window[-1] == ids[0]


def test_document_ids_change_exactly_where_a_document_starts(run: Path) -> None:
    batches = TokenBatches(run / "tokens", T, B, 5)
    end = batches.manifest.document_end_id
    seen = 0
    for step in range(20):
        batch = batches.batch(step)
        for ids, documents in zip(batch.input_ids, batch.document_ids, strict=True):
            expected, number = [], 0
            for token in ids:
                number += token == end  # the end-of-text id opens the next document, as a beginning-of-text would
                expected.append(number)
            assert documents.tolist() == expected
            seen += number
    assert seen > 50


def test_an_epoch_of_one_source_sees_every_token(run: Path) -> None:
    """Also the last, short window of a source: nothing is dropped without a word."""
    batches = TokenBatches(run / "tokens", T, 64, 5)
    counts = dict(zip(batches.mixture.sources, batches.mixture.counts.tolist(), strict=True))
    steps = int(np.ceil(batches.mixture.rows["web"] / counts["web"] * 1024 / 64)) + 1
    seen = {(int(s), int(r)) for step in range(steps) for s, r in zip(*batches.rows_of(step), strict=True)}
    web = batches.mixture.sources.index("web")
    assert {row for source, row in seen if source == web} == set(range(batches.mixture.rows["web"]))
    split = read_manifest(run / "tokens").splits["train"]
    assert batches.mixture.rows["web"] * T >= next(s.tokens for s in split.sources if s.name == "web")


def test_reading_goes_over_file_borders_and_past_the_end(run: Path) -> None:
    manifest = read_manifest(run / "tokens")
    stream = TokenStream(run / "tokens", manifest, "train")
    raw = np.concatenate([np.fromfile(run / "tokens" / name, dtype="<u2") for name in manifest.splits["train"].files])
    border = manifest.splits["train"].file_tokens[0]
    assert stream.read(border - 5, 10).tolist() == raw[border - 5 : border + 5].tolist()
    assert stream.read(len(raw) - 3, 6).tolist() == [*raw[-3:], *raw[:3]]


def test_a_shard_that_is_cut_off_while_it_is_read_is_named(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run / "tokens", tmp_path / "tokens"))
    stream = TokenStream(copy, read_manifest(copy), "train")
    before = stream.read(0, 40)
    with (copy / "train-00000.bin").open("rb+") as file:
        file.truncate(100)
    assert stream.read(0, 40).tolist() == before.tolist()
    with pytest.raises(UserError, match=r"train-00000\.bin ends at byte 100: it was longer when it was opened"):
        stream.read(0, 60)


def test_a_row_longer_than_the_data_is_refused_with_numbers(run: Path) -> None:
    with pytest.raises(UserError, match=r"less than one row of 1,000,001"):
        TokenBatches(run / "tokens", 1_000_000, B, 5)


def test_a_cut_shard_is_named(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run / "tokens", tmp_path / "tokens")
    with (copy / "train-00000.bin").open("rb+") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"train-00000\.bin has 100 bytes instead of"):
        read_manifest(copy)
