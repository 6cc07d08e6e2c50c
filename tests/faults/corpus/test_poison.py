"""Documents that crash, hang or eat memory: named, left out, and everything else is done."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from groundup.corpus.phases.documents import KILLED

from .conftest import DOCUMENTS, Corpus, prose

POISONED = "0.jsonl:102"  # the id of the document in the middle


@pytest.mark.parametrize(
    "word",
    ["POISON-KILL", *(pytest.param(word, marks=pytest.mark.slow) for word in ("POISON-MEMORY", "POISON-HANG"))],
)
def test_a_document_that_kills_its_process_is_named(poisoned: Callable[..., Corpus], word: str) -> None:
    corpus = poisoned(word)
    first = corpus.build("two", workers=2, document_seconds=0.5)
    (lost,) = [row for row in corpus.drops("two") if row["step"] == "extract"]
    assert (lost["id"], lost["reason"]) == (POISONED, KILLED)
    assert len(corpus.documents("two")) == DOCUMENTS - 1
    assert "left out what kills its process" in corpus.said("two")
    assert corpus.build("one", workers=1, document_seconds=0.5) == first


def test_a_document_on_which_a_later_step_hangs_is_named(poisoned: Callable[..., Corpus]) -> None:
    corpus = poisoned("POISON-SCRUB")
    corpus.build("built")
    assert [(row["id"], row["reason"]) for row in corpus.drops("built")] == [(POISONED, KILLED)]
    assert "finish of rows 00000.00007: its process was killed by SIGPROF" in corpus.said("built")
    assert len(corpus.documents("built")) == DOCUMENTS - 1


@pytest.mark.slow
def test_two_documents_of_one_shard_that_kill_are_both_found(poisoned: Callable[..., Corpus]) -> None:
    corpus = poisoned("POISON-KILL", 2)
    corpus.build("built")
    assert [row["id"] for row in corpus.drops("built")] == [POISONED, "0.jsonl:103"]
    assert len(corpus.documents("built")) == DOCUMENTS - 2


def test_a_document_that_takes_too_long_is_dropped_and_its_shard_done_once(poisoned: Callable[..., Corpus]) -> None:
    corpus = poisoned("POISON-SLOW")
    corpus.build("built", document_seconds=0.5)
    (lost,) = corpus.drops("built")
    assert (lost["id"], lost["reason"]) == (POISONED, "it took longer than 0.5 s")
    assert corpus.extracted("built") == DOCUMENTS


def test_an_extractor_that_raises_costs_the_document(poisoned: Callable[..., Corpus]) -> None:
    corpus = poisoned("POISON-ERROR")
    corpus.build("built")
    (lost,) = corpus.drops("built")
    assert lost["reason"] == "the extractor failed: ValueError"
    assert "this page has no end" in lost["excerpt"]


def test_a_technical_reason_above_two_percent_fails_loudly(poisoned: Callable[..., Corpus]) -> None:
    corpus = poisoned("POISON-ERROR", 12)
    said = corpus.failing("built", shard_bytes=200_000)
    assert "12 of 240 documents (5.0 %) of rows 00000.00000 were lost at extract for one technical reason" in said
    assert "the extractor failed: ValueError; for example 0.jsonl:102" in said
    assert "raise `max_technical_share` if it is the data" in said
    corpus.build("built", shard_bytes=200_000, max_technical_share=0.06)
    assert len(corpus.documents("built")) == DOCUMENTS - 12
    assert "12 of 240 documents" in corpus.failing("built", shard_bytes=200_000), "also what was finished before"


def test_below_the_share_or_the_number_it_goes_on(poisoned: Callable[..., Corpus]) -> None:
    corpus = poisoned("POISON-ERROR", 9)  # of a shard of 14
    corpus.build("built")
    assert sorted(corpus.documents("built")) == sorted(prose(n) for n in range(DOCUMENTS) if not 101 <= n < 110)
