"""The tokenizer and tokens stages as a recipe runs them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundup.artifacts import fingerprint_folder, read_json
from groundup.errors import UserError
from groundup.tokens import tokenize, train_tokenizer
from groundup.tokens.documents import source_shares
from groundup.tokens.settings import TokenizerSettings, TokensSettings

from .conftest import stage_context, write_corpus


def test_the_tokenizer_report_counts_bytes_per_token_and_round_trips(run: Path) -> None:
    report = read_json(run / "tokenizer" / "report.json")
    assert set(report["sources"]) == {"books", "web"}
    assert all(row["not_round_trip"] == 0 for row in report["sources"].values())
    assert report["documents"] == 390
    assert report["vocab_size"] <= 400
    assert 1.5 < report["bytes_per_token"] < 10


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path) -> None:
    prints = []
    for name in ("one", "two"):
        write_corpus(tmp_path / name / "corpus", {"web": 40, "books": 30})
        for module, settings in (
            (train_tokenizer, TokenizerSettings(corpus="corpus", vocab_size=300)),
            (tokenize, TokensSettings(corpus="corpus", tokenizer="tokenizer")),
        ):
            context = stage_context(tmp_path / name, settings.stage)
            module.run(settings, context)
        prints.append([fingerprint_folder(tmp_path / name / stage) for stage in ("tokenizer", "tokens")])
    assert prints[0] == prints[1]


def test_a_corpus_without_documents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus" / "documents").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no documents here"):
        train_tokenizer.run(TokenizerSettings(corpus="corpus"), stage_context(tmp_path, "tokenizer"))
    report = train_tokenizer.check(TokenizerSettings(corpus="corpus"), stage_context(tmp_path, "tokenizer"))
    assert "no documents here" in report.problems[0].what


def test_a_parquet_file_without_text_is_named_with_its_columns(tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "documents"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"body": ["a"]}), folder / "web-00000.parquet")
    with pytest.raises(UserError, match="no column `text`; there are: body"):
        train_tokenizer.run(TokenizerSettings(corpus="corpus"), stage_context(tmp_path, "tokenizer"))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "documents"
    folder.mkdir(parents=True)
    (folder / "web-00000.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="not a readable parquet file"):
        train_tokenizer.run(TokenizerSettings(corpus="corpus"), stage_context(tmp_path, "tokenizer"))


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        ({"sources": {"a": {"epochs": 1}, "b": {"epochs": 4}}}, {"a": 0.5, "b": 0.5}),
        ({"sources": {"a": {"realised_share": 0.75}, "b": {"realised_share": 0.25}}}, {"a": 0.75, "b": 0.25}),
        ({"a": 3, "b": 1}, {"a": 0.75, "b": 0.25}),
        (None, {"a": 0.8, "b": 0.2}),
    ],
)
def test_shares_follow_the_mixture(tmp_path: Path, mixture: dict | None, expected: dict[str, float]) -> None:
    import json

    if mixture is not None:
        (tmp_path / "mixture.json").write_text(json.dumps(mixture))
    assert source_shares(tmp_path, {"a": 400, "b": 100}) == pytest.approx(expected)
