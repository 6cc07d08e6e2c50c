"""Datasets of a recipe become rows; nothing is lost without a reason and a count; the audit says what is trained."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts import StageContext
from groundup.chat import datasets as datasets_module
from groundup.chat.audit import audit, audit_text, make_samples, pieces
from groundup.chat.datasets import check_datasets, dialogue_rows, load_conversations, load_preferences
from groundup.chat.formats import Conversation, to_conversation
from groundup.chat.packing import pack
from groundup.chat.settings import Dataset
from groundup.console import Console
from groundup.errors import UserError
from groundup.packages import PINNED, PackageUnreachableError
from groundup.stopping import StopRequest
from groundup.tasks import is_correct, make_tasks
from groundup.tokens.tokenizer import Tokenizer

YAML = """
categories: [AI]
conversations:
- - What is AI?
  - Artificial intelligence.
- - Hello
  - Hi
  - 'How are you?'
  - I am well
  - Good
- A line that should have been a dialogue.
"""


def context_in(tmp_path: Path, **inputs: Path) -> StageContext:
    return StageContext(
        "chat", tmp_path, inputs, 3, tmp_path / "cache", Console(io.StringIO()), StopRequest(), tmp_path
    )


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GOOD = {"prompt": "2+2?", "completion": "4"}
BAD = {"prompt": "2+2?", "completion": None}

# ---------------------------------------------------------------- sources


def test_tasks_become_conversations_with_the_right_answer(tmp_path: Path) -> None:
    made = load_conversations([Dataset(tasks=["addition", "larger"], rows=20)], context_in(tmp_path))
    tasks = make_tasks(["addition", "larger"], "train", 20, seed=3)
    assert made.used == {"tasks: addition, larger": 20}
    for row, task in zip(made.rows, tasks, strict=True):
        assert row.messages[0]["content"] == task.prompt and is_correct(task, row.messages[1]["content"])


def test_pairs_stage_gives_the_split_that_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for split, answer in (("train", "a"), ("held_out", "b")):
        write_rows(folder / f"{split}.jsonl", [{"prompt": "q", "chosen": answer, "rejected": "z"}])
    context = context_in(tmp_path, pairs=folder)
    for split, answer in (("train", "a"), ("held_out", "b")):
        made = load_preferences([Dataset.model_validate({"path": "pairs", "split": split})], context)
        assert [row.chosen[0]["content"] for row in made.rows] == [answer]


def test_dialogues_whole_or_in_pairs() -> None:
    whole, bad = dialogue_rows(YAML, "ai.yml", multi_turn=True)
    assert [(row.reason, row.problem.where) for row in bad] == [("not a dialogue", "ai.yml:3")]  # the real file has one
    assert [len(row.values["messages"]) for row in whole] == [2, 4]  # `Good` is answered by nobody
    assert whole[1].where == "ai.yml:2"
    pairs, _ = dialogue_rows(YAML, "ai.yml", multi_turn=False)
    assert [[m["content"] for m in row.values["messages"]] for row in pairs][1:] == [
        ["Hello", "Hi"],
        ["How are you?", "I am well"],
    ]


def test_a_dialogue_file_is_parsed_once_and_gives_the_same_rows_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = dialogue_rows(YAML, "ai.yml", multi_turn=True)
    monkeypatch.setattr("ruamel.yaml.YAML.load", lambda *_: pytest.fail("parsed again"))
    assert dialogue_rows(YAML, "ai.yml", multi_turn=True) == first


def test_package_of_dialogues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real archive reader on a wheel-shaped file; only the download is replaced."""
    wheel = tmp_path / "corpus.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name in ("english/ai.yml", "english/humor.yml", "german/ai.yml"):
            file.writestr(f"chatterbot_corpus/data/{name}", YAML)
    monkeypatch.setattr("groundup.packages.fetch_package", lambda *_: wheel)
    context = context_in(tmp_path)
    made = load_conversations([Dataset(path="package:chatterbot-corpus")], context)
    assert len(made.rows) == 4 and made.rows[0].where == "chatterbot-corpus/ai.yml:1"
    assert made.bad == {"package:chatterbot-corpus": {"not a dialogue": 2}}  # counted; nobody can mend a pinned file
    only = load_conversations([Dataset(path="package:chatterbot-corpus", categories=["humor"])], context)
    assert {row.where.split(":")[0] for row in only.rows} == {"chatterbot-corpus/humor.yml"}
    with pytest.raises(UserError, match="there is no category jokes") as caught:
        load_conversations([Dataset(path="package:chatterbot-corpus", categories=["jokes"])], context)
    assert caught.value.problems[0].fix == "there are: ai, humor"
    with pytest.raises(UserError, match="not conversations"):
        load_conversations([Dataset(path="package:pywb")], context)


def test_registry_out_of_reach_is_said_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> Any:
        raise PackageUnreachableError(PINNED["chatterbot-corpus"], "no network")

    monkeypatch.setattr(datasets_module, "open_member", unreachable)
    context = context_in(tmp_path)
    package, tasks = Dataset(path="package:chatterbot-corpus"), Dataset(tasks=["addition"], rows=3)
    made = load_conversations([package, tasks], context)
    assert len(made.rows) == 3 and made.unreachable == {"package:chatterbot-corpus": "no network"}
    assert "going on without package:chatterbot-corpus: no network" in context.console.stream.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="there is not one row to train on"):
        load_conversations([package], context)
    found, problems, pending = check_datasets([package, tasks], context, to_conversation)
    assert len(found.rows) == 3 and not problems and pending == ["package:chatterbot-corpus"]


def test_dataset_needs_one_source() -> None:
    for values in ({}, {"path": "a", "tasks": ["addition"]}):
        with pytest.raises(ValueError, match="either `path` or `tasks`, and not both"):
            Dataset.model_validate(values)


# ---------------------------------------------------------------- bad rows


def test_bad_rows_are_an_error_that_lists_at_most_twenty(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [GOOD] * 10 + [BAD] * 30)
    with pytest.raises(UserError) as caught:
        load_conversations([Dataset(path=str(path))], context_in(tmp_path))
    problems = caught.value.problems
    assert problems[0].what == "30 of 40 rows cannot be used (no completion: 30); the first 20"
    assert "on_bad_row: skip" in problems[0].fix
    assert len(problems) == 1 + 20 and problems[1].where == f"{path}:11"


def test_problems_of_all_datasets_come_at_once(tmp_path: Path) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [BAD])
    with pytest.raises(UserError) as caught:
        load_conversations([Dataset(path=str(bad)), Dataset(path="nowhere.jsonl")], context_in(tmp_path))
    text = str(caught.value)
    assert "1 of 1 rows cannot be used" in text and "nowhere.jsonl: there is no such file" in text


def test_skipped_rows_are_counted_and_too_many_fail_all_the_same(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [GOOD] * 19 + [BAD])
    made = load_conversations([Dataset(path=str(path), on_bad_row="skip")], context_in(tmp_path))
    assert len(made.rows) == 19 and made.bad == {str(path): {"no completion": 1}}
    with pytest.raises(UserError, match=r"more than max_bad_share 1.0% allows"):
        load_conversations([Dataset(path=str(path), on_bad_row="skip", max_bad_share=0.01)], context_in(tmp_path))
    none = write_rows(tmp_path / "none.jsonl", [BAD])
    with pytest.raises(UserError, match="none is left"):
        load_conversations([Dataset(path=str(none), on_bad_row="skip", max_bad_share=1.0)], context_in(tmp_path))


# ---------------------------------------------------------------- the audit


def chat(question: str, answer: str, source: str = "s") -> Conversation:
    messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Conversation(messages, f"{source}.jsonl:1", source)


def audited(
    tokenizer: Tokenizer, conversations: list[Conversation], length: int = 64, **options: Any
) -> dict[str, Any]:
    samples = make_samples(tokenizer, conversations, [1.0] * len(conversations), length)
    rows = pack(samples.samples, length)
    return audit(tokenizer, samples, conversations, sequence_len=length, packed_rows=len(rows), **options)


def test_audit_counts_what_is_trained_cut_left_out_and_repeated(tokenizer: Tokenizer) -> None:
    conversations = [
        chat("hi", "hello"),
        chat("hi", "hello"),
        chat("hi", "good day", "t"),
        chat("hi " * 80, "hello"),
        chat("tell me", "the quick brown fox " * 30),
        chat("spell it", "<|im_end|>"),
    ]
    report = audited(tokenizer, conversations, held_out=[chat("hi", "hello")], bad_rows={"s": {"no role": 2}})
    assert report["rows"] == 6 and report["samples"] == 4
    assert report["dropped"] == {"the prompt alone fills sequence_len": 1, "control token in content": 1}
    assert report["truncated"] == 1
    assert (report["eos_trained"], report["turns_trained"]) == (3, 4)  # the truncated turn has no end
    assert report["duplicate_rows"] == 1 and report["duplicate_prompts"] == 2
    assert report["rows_also_held_out"] == 2 and report["prompts_also_held_out"] == 3
    assert report["sources"]["t"]["samples"] == 1
    assert report["trained_tokens"] == sum(source["trained_tokens"] for source in report["sources"].values())
    shown = audit_text(report, colour=False)
    assert "end of turn trained in 3 of 4 turns; truncated 1" in shown
    assert "left out: the prompt alone fills sequence_len: 1; control token in content: 1; no role: 2 (s)" in shown
    assert "3 prompts are also held out (2 with the same answer)" in shown
    assert "⟦hello<|im_end|>⟧" in shown
    assert "\033[1;32mhello<|im_end|>\033[0m" in audit_text(report, colour=True)


def test_audit_pieces_are_the_whole_text(tokenizer: Tokenizer) -> None:
    conversation = chat("Grüße 🙂?", "漢字 yes\n")
    (sample,) = make_samples(tokenizer, [conversation], [1.0], 64).samples
    runs = pieces(tokenizer, sample)
    assert "".join(text for text, _ in runs) == tokenizer.decode(sample.ids)
    assert [text for text, is_trained in runs if is_trained] == ["漢字 yes\n<|im_end|>"]


def test_nothing_trained_is_refused_with_the_reasons(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"not one token would be trained \(the prompt alone fills sequence_len: 1\)"):
        audited(tokenizer, [chat("hi " * 80, "hello")], length=16)
    too_long = make_samples(tokenizer, [chat("hi", "hello " * 40)], [1.0], 32, too_long="drop")
    assert too_long.dropped == {"too long": 1} and not too_long.samples


def test_conversations_split_by_a_forgetful_template_are_told(tokenizers_by_template: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_by_template["thinking"]
    turns = [*chat("a", "<think>x</think>b").messages, *chat("c", "d").messages]
    report = audited(tokenizer, [Conversation(tuple(turns), "f:1", "s")], length=128)
    assert report["samples"] == 2 and report["split_conversations"] == 1
    assert "became one sample per assistant turn" in audit_text(report, colour=False)
