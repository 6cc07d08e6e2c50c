"""Every format people have is accepted as it is; every row that cannot be used is named, with what would work."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.chat.formats import (
    Conversation,
    Preference,
    convert_rows,
    detect_format,
    to_conversation,
    to_preference,
    to_prompt,
)
from groundup.chat.row_checks import COLUMNS
from groundup.chat.rows import Row, read_rows, row_files
from groundup.errors import UserError

ASKED = {"role": "user", "content": "2+2?"}
ANSWERED = {"role": "assistant", "content": "4"}


def conversation(values: dict[str, Any]) -> list[tuple[str, str]]:
    (row,), bad = convert_rows([Row(values, "f.jsonl:1")], to_conversation)
    assert not bad and isinstance(row, Conversation)
    return [(message["role"], message["content"]) for message in row.messages]


def told(values: dict[str, Any], convert: Any = to_conversation, **options: Any) -> str:
    good, bad = convert_rows([Row(values, "f.jsonl:7")], convert, **options)
    assert not good and len(bad) == 1
    return f"[{bad[0].reason}] {bad[0].problem}"


# ---------------------------------------------------------------- accepted


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [ASKED, ANSWERED]},
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": [ASKED], "completion": [ANSWERED]},
        {"prompt": [ASKED], "completion": "4"},
        {"instruction": "2+2?", "output": "4"},
        {"instruction": "2+2?", "input": "", "output": "4"},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"conversations": [ASKED, ANSWERED]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}, ANSWERED]},
    ],
)
def test_one_question_in_every_supervised_format(values: dict[str, Any]) -> None:
    assert conversation(values) == [("user", "2+2?"), ("assistant", "4")]


def test_optional_columns_of_alpaca_and_sharegpt() -> None:
    alpaca = {"instruction": "add", "input": "1 2", "output": "3", "system": "be brief", "history": [["hi", "hello"]]}
    assert conversation(alpaca) == [
        ("system", "be brief"),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "add\n1 2"),
        ("assistant", "3"),
    ]
    turns = [("human", "weather?"), ("function_call", '{"name": "w"}'), ("observation", "rain"), ("gpt", "it rains")]
    sharegpt = {"conversations": [{"from": who, "value": text} for who, text in turns], "system": "s"}
    assert [role for role, _ in conversation(sharegpt)] == ["system", "user", "assistant", "tool", "assistant"]


def test_text_rows_and_tool_calls_are_kept() -> None:
    (row,), _ = convert_rows([Row({"text": "once upon"}, "f:1")], to_conversation)
    assert row.text == "once upon" and row.messages == ()
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "w"}}]}
    tools = [{"type": "function", "function": {"name": "w"}}]
    (row,), bad = convert_rows([Row({"messages": [ASKED, call], "tools": json.dumps(tools)}, "f:1")], to_conversation)
    assert not bad and row.messages[1]["content"] == "" and row.messages[1]["tool_calls"] and row.tools == tuple(tools)


def test_training_flags() -> None:
    messages = [ASKED, {**ANSWERED, "train": False}, ASKED, {**ANSWERED, "weight": 0}, ASKED, {**ANSWERED, "weight": 1}]
    (row,), _ = convert_rows([Row({"messages": messages}, "f:1")], to_conversation)
    assert [m.get("train", True) for m in row.messages if m["role"] == "assistant"] == [False, False, True]
    (row,), _ = convert_rows([Row({"prompt": [ASKED, ANSWERED, ASKED], "completion": "5"}, "f:1")], to_conversation)
    assert [m.get("train", True) for m in row.messages if m["role"] == "assistant"] == [False, True]


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [{"role": "assistant", "content": "5"}]},
        {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, {"role": "assistant", "content": "5"}]},
        {"instruction": "2+2?", "input": "", "chosen": "4", "rejected": "5"},
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"},
    ],
)
def test_one_pair_in_every_preference_format(values: dict[str, Any]) -> None:
    (row,), bad = convert_rows([Row({**values, "margin": 0.5}, "f:1")], to_preference)
    assert not bad and isinstance(row, Preference)
    assert [(m["role"], m["content"]) for m in row.prompt] == [("user", "2+2?")]
    assert [m["content"] for m in (*row.chosen, *row.rejected)] == ["4", "5"]
    assert row.margin == 0.5


def test_prompts_keep_their_other_columns() -> None:
    (row,), _ = convert_rows([Row({"prompt": "2+2?", "ground_truth": "4"}, "f:1")], to_prompt)
    assert row.messages == ({"role": "user", "content": "2+2?"},) and row.columns == {"ground_truth": "4"}
    (row,), _ = convert_rows([Row({"messages": [ASKED, ANSWERED]}, "f:1")], to_prompt)
    assert [m["role"] for m in row.messages] == ["user"]


def test_columns_can_be_renamed_and_the_format_named() -> None:
    rows = [Row({"question": "2+2?", "reply": "4", "text": "noise"}, "f:1")]
    columns = {"prompt": "question", "completion": "reply"}
    (row,), bad = convert_rows(rows, to_conversation, columns=columns, format="prompt_completion")
    assert not bad and row.messages[1]["content"] == "4"
    assert detect_format(["chosen", "rejected", "prompt"]) == "preference"


# ---------------------------------------------------------------- refused, each with its sentence


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"messages": [{"role": "usr", "content": "hi"}, ANSWERED]},
            "[unknown role] f.jsonl:7: messages[0].role is 'usr'\n"
            "  -> did you mean 'user'? roles: system, developer, user, assistant, tool",
        ),
        (
            {"messages": [ASKED, {"role": "assistant", "content": None}]},
            "[content is null] f.jsonl:7: messages[1].content is null, not a text\n"
            "  -> give a text, or leave the row out",
        ),
        (
            {"messages": []},
            "[empty messages] f.jsonl:7: `messages` is an empty list\n  -> give at least a user and an assistant turn",
        ),
        (
            {"messages": [ASKED]},
            "[no assistant turn] f.jsonl:7: messages has no assistant turn: nothing to learn\n  -> add the answer",
        ),
        (
            {"messages": [ASKED, {"role": "assistant", "content": "  "}]},
            "[empty completion] f.jsonl:7: messages[1].content is empty\n  -> give it text, or leave the row out",
        ),
        (
            {"messages": [{"rol": "user", "content": "hi"}, ANSWERED]},
            "[no role] f.jsonl:7: messages[0] has no 'role'; it has rol, content\n"
            "  -> did you mean 'role' where it says 'rol'?",
        ),
        (
            {"messages": "hi"},
            "[wrong type] f.jsonl:7: `messages` is a text, not a list of messages\n"
            '  -> give a list such as [{"role": "...", "content": "..."}, ...]',
        ),
        (
            {"messages": [ASKED, {**ANSWERED, "train": "no"}]},
            "[bad train flag] f.jsonl:7: messages[1].train is 'no'\n  -> give true or false",
        ),
        (
            {"messages": [ASKED, {**ANSWERED, "weight": 0.5}]},
            "[bad weight] f.jsonl:7: messages[1].weight is 0.5\n  -> give 0 (not trained) or 1",
        ),
        (
            {"messages": [ASKED, {**ANSWERED, "train": False}]},
            "[no trained turn] f.jsonl:7: every assistant turn of messages has `train` false\n"
            "  -> set `train` to true on at least one of them",
        ),
        (
            {"prompt": "2+2?", "completion": ""},
            "[empty completion] f.jsonl:7: `completion` is empty\n  -> give it text, or leave the row out",
        ),
        (
            {"prompt": "2+2?", "response": "4"},
            "[no completion] f.jsonl:7: there is a `prompt` and no `completion`\n"
            "  -> if `response` is it, say so: `columns: {completion: response}`; columns found: prompt, response",
        ),
        (
            {"instruction": "2+2?", "input": "", "response": "4"},
            "[unknown columns] f.jsonl:7: the columns are instruction, input, response, which is no known format\n"
            "  -> if `response` is `output`, say so: `columns: {output: response}`; accepted columns: messages | "
            "prompt + completion | text | instruction (input) + output | conversations | chosen + rejected (prompt) | "
            "prompt",
        ),
        (
            {"mesages": [ASKED, ANSWERED]},
            "[unknown columns] f.jsonl:7: the columns are mesages, which is no known format\n"
            "  -> if `mesages` is `messages`, say so: `columns: {messages: mesages}`; accepted columns: messages | "
            "prompt + completion | text | instruction (input) + output | conversations | chosen + rejected (prompt) | "
            "prompt",
        ),
        (
            {"prompt": "2+2?", "completion": "5", "label": False},
            "[unpaired preference] f.jsonl:7: `label` says whether this answer is good\n"
            "  -> keep the rows with label true, without the `label` column",
        ),
        (
            {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
            "[preference row] f.jsonl:7: this is a preference row (chosen, rejected)\n  -> use it in `reward` or `dpo`",
        ),
        (
            {"conversations": [{"from": "humann", "value": "hi"}]},
            "[unknown role] f.jsonl:7: conversations[0].from is 'humann'\n"
            "  -> did you mean 'human'? roles: human, user, gpt, assistant, system, observation, tool, function_call",
        ),
    ],
)
def test_unusable_supervised_row_says_what_is_wrong(values: dict[str, Any], expected: str) -> None:
    assert told(values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"prompt": "a", "chosen": "b"}, "[no rejected] f.jsonl:7: there is no `rejected`"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "[no rejected] f.jsonl:7: there is no `rejected`"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "[chosen equals rejected]"),
        ({"chosen": "b", "rejected": "c"}, "[no prompt] f.jsonl:7: `chosen` and `rejected` have no prompt in common"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "big"},
            "[bad margin] f.jsonl:7: `margin` is a text",
        ),
        ({"prompt": "a", "chosen": [ASKED], "rejected": "c"}, "[no assistant turn] f.jsonl:7: `chosen` ends with user"),
        ({"prompt": "a", "completion": "b"}, "[no pair] f.jsonl:7: this is a row to imitate (prompt_completion)"),
    ],
)
def test_unusable_pair_says_what_is_wrong(values: dict[str, Any], expected: str) -> None:
    assert told(values, to_preference).startswith(expected.split(" f.jsonl")[0])
    assert expected.partition("] ")[2] in told(values, to_preference)


def test_one_typo_does_not_condemn_the_file() -> None:
    rows = [Row({"instrction": "a", "output": "b"}, "f:1"), *(Row({"instruction": "a", "output": "b"}, "f:2"),) * 3]
    good, bad = convert_rows(rows, to_conversation)
    assert len(good) == 3 and bad[0].reason == "no instruction" and bad[0].problem.where == "f:1"
    assert "`columns: {instruction: instrction}`" in bad[0].problem.fix


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls", "train", "weight"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.dictionaries(st.sampled_from([*COLUMNS, "label", "response"]), anything), min_size=1, max_size=3))
def test_whatever_a_row_holds_it_is_used_or_named(values: list[dict[str, Any]]) -> None:
    rows = [Row(value, f"f:{number}") for number, value in enumerate(values)]
    for convert in (to_conversation, to_preference, to_prompt):
        good, bad = convert_rows(rows, convert)
        assert len(good) + len(bad) == len(rows)
        assert all(row.reason and row.problem.what and row.problem.where for row in bad)


# ---------------------------------------------------------------- files


def test_the_same_rows_from_every_kind_of_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"messages": [ASKED, ANSWERED]}, {"messages": [ASKED, ANSWERED, ASKED, ANSWERED]}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text("\ufeff" + lines + "\n")
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=2))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    for name in ("a.jsonl", "b.json", "c.jsonl.gz", "d.parquet"):
        found, bad = read_rows(tmp_path / name)
        assert not bad and [row.values for row in found] == rows, name
        good, bad = convert_rows(found, to_conversation)
        assert not bad and good[1].messages[3] == ANSWERED
    assert found[1].where == f"{tmp_path}/d.parquet:2"
    assert len(read_rows(tmp_path)[0]) == 8 and len(read_rows(tmp_path / "*.json*")[0]) == 6


def test_unreadable_lines_are_named_and_the_others_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": \n\n[1]\n{"text": "\xff"}\n{"text": "b"}\n')
    rows, bad = read_rows(path)
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:6"]
    assert [(b.reason, b.problem.where.rpartition(":")[2]) for b in bad] == [
        ("unreadable line", "2"),
        ("row is not an object", "4"),
        ("unreadable line", "5"),
    ]
    assert bad[0].problem.what == "not JSON: Expecting value (column 10)"
    assert "expected an object, found a list" in bad[1].problem.what


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b'[{"text": "a"},\n{]', r"rows.json:2:2: not JSON"),
        ("rows.jsonl", b"", "there is not one row"),
        ("rows.csv", b"a,b", "cannot read rows from a .csv file"),
        ("rows.parquet", b"no", "not a readable parquet file"),
        ("rows.jsonl.gz", b"no", "cannot read this file: Not a gzipped file"),
    ],
)
def test_file_that_cannot_be_read_is_one_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / name)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("{}")
    with pytest.raises(UserError, match="there is no such file") as caught:
        row_files(tmp_path / "chat.jsonl")
    assert caught.value.problems[0].fix == f"did you mean {tmp_path}/chats.jsonl?"


# ---------------------------------------------------------------- real files, as they lie around


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        ("sft/alpaca-en-1000.json", {}, 999),
        ("sft/alpaca-2000.json.gz", {}, 2000),
        ("sft/glaive-toolcall-300.json.gz", {}, 300),
        ("sft/dolly-hhrlhf.jsonl", {"completion": "response"}, 700),
        ("sft/gpteacher-codegen.json.gz", {"output": "response"}, 4535),
    ],
)
def test_real_supervised_files_are_read_whole(shared_data: Path, name: str, columns: dict[str, str], rows: int) -> None:
    found, unreadable = read_rows(shared_data / name)
    good, bad = convert_rows(found, to_conversation, columns=columns)
    assert not unreadable and len(good) + len(bad) == rows
    assert set(Counter(row.reason for row in bad)) <= {"empty output", "empty completion"} and len(bad) <= 5


def test_real_preference_files_are_read_whole(shared_data: Path) -> None:
    for name, rows, empty in (("dpo-en-300.json.gz", 300, 0), ("hh-rlhf-harmless-test.jsonl.gz", 1619, 4)):
        found, _ = read_rows(shared_data / "preferences" / name)
        good, bad = convert_rows(found, to_preference)
        assert len(good) == rows - empty and Counter(row.reason for row in bad) == Counter({"empty completion": empty})
        assert all(pair.prompt[-1]["role"] == "user" for pair in good)
