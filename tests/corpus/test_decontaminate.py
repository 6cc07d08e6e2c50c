"""Exam items in a corpus: word for word by a rule that can be chosen, and told again in other words."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.corpus.document import words_of
from groundup.corpus.exams.index import (
    ExamIndex,
    ExamItem,
    Hit,
    add_hits,
    exam_items,
    merge_hits,
)
from groundup.corpus.exams.ngrams import growing_ngram_hashes, hash_words, ngram_hashes
from groundup.corpus.exams.rephrased import RephraseIndex, content_words
from groundup.corpus.settings import ExamFiles
from groundup.errors import UserError

NOWHERE = Path("/nowhere")
ANIMALS = "otter heron badger lynx marmot egret weasel stork ferret moose".split()  # noqa: SIM905


def rows_of(path: Path) -> list[dict]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file]


def words(count: int, seed: int) -> list[str]:
    """Made-up words, none of them twice."""
    source = random.Random(seed)
    return ["".join(source.choice("abcdefghijklmnop") for _ in range(9)) for _ in range(count)]


# ---------------------------------------------------------------- word for word


@pytest.mark.parametrize(("shared", "is_hit"), [(7, False), (20, False), (25, True), (50, True)])
def test_coverage_asks_for_a_share_of_the_item_as_tulu_does(shared: int, is_hit: bool) -> None:
    item = words(50, 1)
    index = ExamIndex([ExamItem("exam", "long", " ".join(item))], ngram=8, coverage=0.5, rephrased=None)
    hit = index.hit(" ".join(words(30, 2) + item[:shared] + words(30, 3)))
    assert (hit is not None) == is_hit
    if hit is not None:
        assert hit.score == pytest.approx(shared / 50)


def test_runs_from_several_places_add_up_and_count_once() -> None:
    item = words(40, 1)
    index = ExamIndex([ExamItem("exam", "long", " ".join(item))], ngram=10, coverage=0.7, rephrased=None)
    assert index.hit(" ".join(item[:15] + words(9, 2) + item[:15])) is None
    hit = index.hit(" ".join(item[25:] + words(9, 2) + item[:15]))
    assert hit is not None
    assert hit.score == pytest.approx(30 / 40)


@settings(deadline=None, max_examples=60)
@given(
    ngram=st.integers(5, 20),
    length=st.integers(8, 40),
    start=st.integers(0, 30),
    count=st.integers(1, 40),
    seed=st.integers(0, 5),
)
def test_the_rule_is_that_of_a_plain_search(ngram: int, length: int, start: int, count: int, seed: int) -> None:
    item = words(length, seed)
    text = words(12, 99) + item[start : start + count] + words(12, 98)
    index = ExamIndex([ExamItem("exam", "1", " ".join(item))], ngram=ngram, rephrased=None)
    n = min(ngram, length)
    runs = {tuple(item[i : i + n]) for i in range(length - n + 1)}
    expected = any(tuple(text[i : i + n]) in runs for i in range(len(text) - n + 1))
    assert (index.hit(" ".join(text)) is not None) == expected


def test_choices_and_answers_are_no_items_and_short_questions_are() -> None:
    index = ExamIndex(
        [
            ExamItem("mmlu", "1", "Predatory pricing is illegal in which of the following?", "0"),
            ExamItem("mmlu", "1", "1, 2, 3", "1"),
            ExamItem("mmlu", "1", "the end of the cold war", "2"),
            ExamItem("sums", "2", "What is 12 + 34?", "question"),
        ]
    )
    assert (index.items, index.skipped) == (2, 2)
    assert index.hit("range(1, 2, 3) was written at the end of the Cold War") is None
    assert index.hit("Predatory pricing is illegal in which of the following?") is not None
    assert index.hit("What is 12 + 34?") is not None


def test_every_item_of_a_text_is_named_not_the_first_alone() -> None:
    items = [ExamItem("exam", str(n), " ".join(words(20, n))) for n in range(5)]
    text = " ".join(words(9, 77) + words(20, 3) + words(9, 78) + words(20, 1))
    assert sorted(hit.item for hit in ExamIndex(items, rephrased=None).hits(text)) == ["1", "3"]


def test_choices_in_a_list_are_read(tmp_path: Path) -> None:
    (tmp_path / "arc.jsonl").write_text('{"query": "Which one?", "choices": ["a b", "c d"], "gold": 1}\n')
    items = list(exam_items([ExamFiles(path=str(tmp_path / "arc.jsonl"))], 1, NOWHERE, None))
    assert [(item.field, item.text) for item in items] == [("query", "Which one?"), ("choices", "a b\nc d")]


# ---------------------------------------------------------------- told again


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Twelve dogs cost $80,000.00, or 2.50 each", ["12", "dog", "cost", "80000", "or", "2.5", "each"]),
        ("half_of MyName v2", ["half", "of", "mynam", "2"]),
        ("狗 吃 饭", ["狗", "吃", "饭"]),
        ("", []),
    ],
)
def test_numbers_are_numbers_and_endings_are_cut(text: str, expected: list[str]) -> None:
    assert content_words(text) == expected


def stories(count: int) -> list[str]:
    """Questions of one kind with names and numbers of their own."""
    source = random.Random(5)
    found = []
    for number in range(count):
        name, thing, place, other = (word.capitalize() for word in words(4, 1000 + number))
        a, b = source.randint(20, 900), source.randint(20, 900)
        found.append(
            f"{name} keeps {a} {thing} in a {place} near the river. A {other} brings {b} more {thing} and sells half "
            f"of them to the {source.choice(ANIMALS)} club. How many {thing} are left in the {place} at the end?"
        )
    return found


def test_a_retelling_is_found_whatever_the_order_and_another_question_of_the_kind_is_not() -> None:
    all_stories = stories(60)
    index = ExamIndex([ExamItem("exam", str(n), text) for n, text in enumerate(all_stories[:50])])
    for number in range(0, 50, 7):
        sentences = all_stories[number].split(". ")
        shuffled = words_of(". ".join(reversed(sentences)))
        retold = " ".join(word for word in reversed(shuffled) if word not in ("the", "of", "near", "in"))
        hit = index.hit(f"{' '.join(words(40, 5))} {retold} {' '.join(words(40, 6))}")
        assert hit is not None
        assert (hit.item, hit.rule) == (str(number), "told again")
    assert [index.hit(text) for text in all_stories[50:]] == [None] * 10


def test_rephrasing_can_be_switched_off() -> None:
    story = stories(1)[0]
    retold = " ".join(reversed(story.split()))
    others = [ExamItem("exam", str(n), text) for n, text in enumerate(stories(40))]
    assert ExamIndex(others, rephrased=0.8).hit(retold) is not None
    assert ExamIndex(others, rephrased=None).hit(retold) is None


def test_an_index_of_nothing_and_a_text_of_nothing() -> None:
    assert ExamIndex([]).hit("any text at all") is None
    assert RephraseIndex.of([], []).match("any text at all") == []
    index = ExamIndex([ExamItem("exam", str(n), text) for n, text in enumerate(stories(20))])
    assert index.hit("") is None
    assert index.hit("\x00 \ud800 ...") is None


def gsm8k_index(shared_data: Path) -> ExamIndex:
    exams = [
        ExamFiles(path=str(shared_data / "eval/gsm8k-test.jsonl")),
        ExamFiles(path=str(shared_data / "eval/HumanEval.jsonl.gz"), fields=("prompt", "canonical_solution")),
    ]
    return ExamIndex(exam_items(exams, 1, NOWHERE, None))


def test_rephrased_benchmark_items_are_caught_inside_other_text_with_a_hit_list(shared_data: Path) -> None:
    index = gsm8k_index(shared_data)
    pages = [row["text"][:1500] for row in rows_of(shared_data / "web/c4-300.jsonl.gz")]
    leaked = rows_of(shared_data / "decontamination/rephrase_gsm8k.jsonl")
    chosen = range(1, len(leaked), 6)  # half of them, the odd ones, had no part in fitting the model
    listed: dict = {}
    for number in chosen:
        text = f"{pages[number % 300]}\n\n{leaked[number]['text']}\n\n{pages[(number + 1) % 300]}"
        add_hits(listed, index.hits(text), f"page {number}")
    found = {name: row for name, row in listed["gsm8k-test.jsonl"].items() if row["rules"].get("told again")}
    right = {f"gsm8k-test.jsonl:{number + 1}" for number in chosen} & found.keys()
    assert len(right) / len(chosen) >= 0.80
    assert len(found) - len(right) <= 0.02 * len(chosen), "nearly every hit names the very item"
    code = rows_of(shared_data / "decontamination/humaneval_python.jsonl")
    caught = [
        number for number, row in enumerate(code) if (hit := index.hit(row["text"])) and hit.item.endswith(f"/{number}")
    ]
    assert len(caught) / len(code) >= 0.40


def test_clean_text_and_other_questions_of_the_kind_are_left_alone(shared_data: Path) -> None:
    index = gsm8k_index(shared_data)
    pages = [row["text"] for row in rows_of(shared_data / "web/c4-300.jsonl.gz")]
    assert [hit for text in pages if (hit := index.hit(text))] == []
    others = rows_of(shared_data / "eval/gsm8k-train-1000.jsonl")[::2]
    hits = [hit for row in others if (hit := index.hit(row["question"])) and hit.rule == "told again"]
    assert len(hits) <= 0.01 * len(others)
    source = [row["content"] for row in rows_of(shared_data / "code/stack-sample.jsonl.gz")]
    assert sum(index.hit(text) is not None for text in source) <= 2


# ---------------------------------------------------------------- one file for all workers


def test_a_saved_index_says_the_same(tmp_path: Path) -> None:
    items = [ExamItem("exam", str(n), text, "question") for n, text in enumerate(stories(30))]
    items += [ExamItem("sums", "s", "What is 12 + 34?")]
    index = ExamIndex(items, 11, 0.3, 0.7)
    index.save(tmp_path / "exams.npz")
    loaded = ExamIndex.load(tmp_path / "exams.npz")
    assert (loaded.items, loaded.skipped, loaded.ngram, loaded.coverage) == (index.items, index.skipped, 11, 0.3)
    for text in [items[3].text, " ".join(reversed(items[4].text.split())), "What is 12 + 34?", "nothing of it"]:
        assert loaded.hits(text) == index.hits(text)
    index.save(tmp_path / "again.npz")
    ExamIndex(items, 11, 0.3, 0.7).save(tmp_path / "third.npz")
    bytes_of = [(tmp_path / name).read_bytes() for name in ("exams.npz", "again.npz", "third.npz")]
    assert bytes_of[0] == bytes_of[1] == bytes_of[2], "workers and reruns see one fingerprint"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_a_damaged_index_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "exams.npz").write_bytes(content)
    with pytest.raises(UserError, match="not an index of exams"):
        ExamIndex.load(tmp_path / "exams.npz")


hits = st.lists(
    st.builds(
        Hit,
        exam=st.sampled_from("ab"),
        item=st.sampled_from("123"),
        rule=st.sampled_from(["words in a row", "told again"]),
        score=st.sampled_from([0.5, 0.8, 1.0]),
        words=st.sampled_from(["x", "y"]),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(documents=st.lists(hits, min_size=1, max_size=8), cut=st.integers(0, 8))
def test_the_hit_list_is_the_same_over_shards(documents: list[list[Hit]], cut: int) -> None:
    def listed(numbers: range) -> dict:
        found: dict = {}
        for number in numbers:
            add_hits(found, documents[number], f"d{number}")
        return found

    whole, cut = listed(range(len(documents))), min(cut, len(documents))
    one, other = listed(range(cut)), listed(range(cut, len(documents)))
    counted = {exam: {item: row["documents"] for item, row in rows.items()} for exam, rows in whole.items()}
    for merged in (merge_hits(one, other), merge_hits(other, one)):
        assert {exam: {i: row["documents"] for i, row in rows.items()} for exam, rows in merged.items()} == counted
        assert all(
            row["examples"] == whole[exam][i]["examples"] for exam, rows in merged.items() for i, row in rows.items()
        )
    assert merge_hits(one, other) == merge_hits(other, one)


def test_longer_runs_grow_out_of_shorter_ones() -> None:
    hashes = hash_words(words(30, 1))
    for length, keys in growing_ngram_hashes(hashes, [1, 5, 8, 13, 30, 31]):
        assert keys.tolist() == ngram_hashes(hashes, length).tolist()
        assert len(keys) == max(31 - length, 0)
        assert len(set(keys.tolist())) == len(keys)
