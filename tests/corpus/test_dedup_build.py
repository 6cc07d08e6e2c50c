"""The optional duplicate steps in a whole build: what is dropped or cut, why, and that shards do not matter."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.corpus.check import check
from groundup.corpus.settings import CorpusSettings

from .conftest import Built, context_in

RNG = random.Random(3)
VOCABULARY = [f"{RNG.choice('bcdfgklmnprst')}{RNG.choice('aeiou')}{RNG.choice('lmnrst')}{n}" for n in range(4000)]


def sentences(seed: int, words: int = 150) -> list[str]:
    rng = random.Random(seed)
    topic = rng.sample(VOCABULARY, 90)
    return [" ".join(rng.choices(topic, k=10)).capitalize() + "." for _ in range(words // 10)]


@pytest.fixture
def corpus(tmp_path: Path, build: Callable[..., Built]) -> Callable[..., Built]:
    def make(texts: list[str], name: str = "corpus", **settings: Any) -> Built:
        file = tmp_path / "texts.jsonl"
        file.write_text("".join(json.dumps({"id": f"t{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
        plain = {"quality": None, "held_out": None, "pii": (), "languages": ()}
        return build(name, sources={"texts": {"type": "jsonl", "path": str(file)}}, **(plain | settings))

    return make


def test_reordered_copies_go_by_their_vectors_alone(corpus: Callable[..., Built]) -> None:
    originals = [sentences(seed) for seed in range(6)]
    reordered = [" ".join(random.Random(1).sample(own, len(own))) for own in originals]
    texts = [" ".join(own) for own in originals] + [
        " ".join(random.Random(9).sample(r.split(), 150)) for r in reordered
    ]
    assert len(corpus(texts, "without").rows("documents", "texts")) == 12
    built = corpus(texts, "with", semantic_threshold=0.9)
    assert [row["text"] for row in built.rows("documents", "texts")] == texts[:6]
    dropped = built.rows("dropped", "texts")
    assert {row["reason"] for row in dropped} == {"much the same words earlier"}
    assert all(row["step"] == "near duplicates" and row["threshold"] == 0.9 <= row["value"] for row in dropped)


def test_repeated_spans_are_cut_from_the_later_document(corpus: Callable[..., Built]) -> None:
    passage = " ".join(sentences(50, 60))
    texts = [f"{' '.join(sentences(n))} {passage} {' '.join(sentences(n + 10))}" for n in range(3)]
    built = corpus([*texts, passage], duplicate_spans=50)
    rows = {row["id"]: row["text"] for row in built.rows("documents", "texts")}
    assert [passage in text for text in rows.values()] == [True, False, False]
    assert all(len(text.split()) == 300 for text in list(rows.values())[1:])
    (gone,) = built.rows("dropped", "texts")
    assert gone["reason"] == "every span of it was seen before"
    assert built.json("funnel.json")["sources"]["texts"]["steps"]


def test_parts_of_a_book_share_its_address_and_all_stay(tmp_path: Path, build: Callable[..., Built]) -> None:
    """Every part has the book's address at Project Gutenberg; pages of the same address are still dropped."""
    chapters = "\n\n".join(f"CHAPTER {n}\n\n" + "\n\n".join(sentences(n, 800)) for n in range(1, 5))
    start = "The Project Gutenberg eBook of Mills\n\nTitle: Mills\nRelease date: May 1, 2001 [eBook #4321]\n"
    (tmp_path / "4321-0.txt").write_text(
        f"{start}Language: English\n\n*** START OF THE PROJECT GUTENBERG EBOOK MILLS ***\n\n{chapters}\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK MILLS ***\n"
    )
    pages = [{"url": f"https://mills.org/?utm_source={n}", "text": " ".join(sentences(60 + n))} for n in range(2)]
    long = ["\n\n".join(sentences(80 + n, 1600))[:8000] for n in range(2)]
    pages += [{"url": "https://mills.org/long", "text": text} for text in long]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    built = build(
        sources={
            "books": {"type": "books", "path": str(tmp_path / "4321-0.txt"), "part_chars": 4000},
            "pages": {"type": "jsonl", "path": str(tmp_path / "pages.jsonl"), "part_chars": 3000},
        },
        quality=None, held_out=None, duplicate_urls=True,
    )  # fmt: skip
    parts = built.rows("documents", "books")
    assert len(parts) >= 4 and len({row["url"] for row in parts}) == 1 and "gutenberg.org" in parts[0]["url"]
    assert built.rows("dropped", "books") == []
    kept, dropped = built.rows("documents", "pages"), built.rows("dropped", "pages")
    assert {row["reason"] for row in dropped} == {"same address earlier"}
    assert [row["id"].removeprefix("pages.jsonl:") for row in kept] == ["1", "3#1", "3#2", "3#3"]
    assert [row["id"].removeprefix("pages.jsonl:") for row in dropped] == ["2", "4#1", "4#2", "4#3"]


def test_shards_and_workers_do_not_matter(corpus: Callable[..., Built]) -> None:
    passage = " ".join(sentences(50, 60))
    texts = [" ".join(sentences(n)) for n in range(20)]
    texts += [f"{texts[n]} {passage}" for n in range(5)] + [" ".join(random.Random(2).sample(texts[9].split(), 150))]
    settings = {"duplicate_spans": 50, "semantic_threshold": 0.85, "near_duplicate_threshold": 0.9}
    whole = corpus(texts, "whole", **settings)
    parts = corpus(texts, "parts", **settings, shard_bytes=10_000, workers=2)
    assert [row["text"] for row in whole.rows("documents", "texts")] == [
        row["text"] for row in parts.rows("documents", "texts")
    ]
    assert whole.json("funnel.json")["total"] == parts.json("funnel.json")["total"]


def test_a_user_s_embedding_decides_in_the_place_of_ours(
    corpus: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "by_first_letter.py").write_text(
        "def embed(texts):\n    return [[1.0 if text[0] == letter else 0.0 for letter in 'abc'] for text in texts]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    texts = ["a first text of its own", "b is another text", "another one that begins with a", "c"]
    built = corpus(texts, semantic_threshold=0.9, semantic_embedding="by_first_letter:embed", workers=0)
    assert [row["text"] for row in built.rows("documents", "texts")] == [texts[0], texts[1], texts[3]]
    monkeypatch.delitem(sys.modules, "by_first_letter", raising=False)


def test_what_cannot_work_is_said_before_the_build(tmp_path: Path) -> None:
    source = {"texts": {"type": "jsonl", "path": str(tmp_path)}}
    with pytest.raises(ValueError, match="leave out duplicate_paragraphs"):
        CorpusSettings(sources=source, duplicate_spans=50, duplicate_paragraphs=True)
    with pytest.raises(ValueError, match=r"greater than or equal to 0\.3"):
        CorpusSettings(sources=source, near_duplicate_threshold=0.2)
    settings = CorpusSettings(sources=source, semantic_threshold=0.9, semantic_embedding="no_such_module:embed")
    report = check(settings, context_in(tmp_path / "runs" / "corpus"))
    assert any("no_such_module:embed" in problem.what for problem in report.problems)
