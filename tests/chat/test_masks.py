"""What is trained is what the assistant said and the token that ends it: for any template, text and truncation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundup.chat.masks import (
    NotPrefixPreservingError,
    UnusableConversationError,
    encode_answer,
    encode_conversation,
    encode_samples,
    encode_text,
    truncate,
)
from groundup.chat.template import render_chat
from groundup.errors import UserError
from groundup.tokens.tokenizer import Tokenizer

END_OF_TURN = {
    "chatml": "<|im_end|>",
    "default_system": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "trailing_newline": "<|endoftext|>",
    "stripping": "<|endoftext|>",
    "ends_with_eos": "<|im_end|>",
}
STRIPS = {"llama3", "stripping"}

texts = st.text(
    st.one_of(
        st.sampled_from(list(" \n\tabcdefgh.!?#:[]/'\"0123456789")),
        st.characters(exclude_categories=("Cs",)),
        st.sampled_from(list("éß漢字🙂👩🏽‍🚀́अरب")),
    ),
    min_size=1,
    max_size=24,
).filter(lambda text: bool(text.strip()) and "<|" not in text)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(texts)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(texts)})
        answer: dict[str, Any] = {"role": "assistant", "content": draw(texts)}
        if draw(st.integers(0, 3)) == 0:
            answer["train"] = False
        messages.append(answer)
    return messages


def trained_answers(messages: list[dict[str, Any]], name: str) -> list[str]:
    said = [m["content"] for m in messages if m["role"] == "assistant" and m.get("train", True)]
    return [text.strip() for text in said] if name in STRIPS else said


def trained_runs(tokenizer: Tokenizer, ids: list[int], trained: list[bool]) -> list[str]:
    """The decoded text of each unbroken run of trained tokens."""
    runs: list[list[int]] = []
    for at, is_trained in enumerate(trained):
        if is_trained:
            if at == 0 or not trained[at - 1]:
                runs.append([])
            runs[-1].append(ids[at])
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("name", list(END_OF_TURN))
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=conversations())
def test_trained_text_is_each_answer_and_its_end(
    tokenizers_by_template: dict[str, Tokenizer], name: str, messages: list[dict[str, Any]]
) -> None:
    tokenizer = tokenizers_by_template[name]
    sample = encode_conversation(tokenizer, messages)
    answers = trained_answers(messages, name)
    runs = trained_runs(tokenizer, sample.ids, sample.trained)
    assert len(runs) == len(answers) == sample.turns == len(sample.ends)
    for run, answer in zip(runs, answers, strict=True):
        expected = answer + END_OF_TURN[name]
        # A merge may pull white space of the prompt's end into the answer's first token: never more than that.
        assert run.endswith(expected)
        assert set(run.removesuffix(expected)) <= {"\n", " "}
        assert run.count(END_OF_TURN[name]) == 1
    assert sample.ids == tokenizer.encode(render_chat(tokenizer, messages))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=conversations(), length=st.integers(1, 60))
def test_truncation_never_invents_an_end(tokenizer: Tokenizer, messages: list[dict[str, Any]], length: int) -> None:
    whole = encode_conversation(tokenizer, messages)
    cut = truncate(whole, length)
    assert cut.ids == whole.ids[:length] and cut.trained == whole.trained[:length]
    assert cut.ends == tuple(end for end in whole.ends if end < length)
    assert cut.is_truncated == (len(whole.ids) > length)


def test_a_token_across_the_boundary_belongs_to_the_answer(tokenizer: Tokenizer) -> None:
    """`assistant\\n` + `\\n\\ndef` merges into one token of three newlines."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "\n\nhello"}]
    sample = encode_conversation(tokenizer, messages)
    assert trained_runs(tokenizer, sample.ids, sample.trained) == ["\n\n\nhello<|im_end|>"]
    straddling = tokenizer.decode([sample.ids[sample.trained.index(True)]])
    assert straddling.startswith("\n\n"), "the tokenizer of this test should merge newlines"


def test_pad_equal_to_eos_changes_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    before = encode_conversation(tokenizer, messages)
    monkeypatch.setitem(tokenizer.config, "pad_token", "<|im_end|>")
    assert tokenizer.pad_id == tokenizer.id_of("<|im_end|>")
    assert encode_conversation(tokenizer, messages) == before
    assert before.ids[before.ends[0]] == tokenizer.pad_id and before.trained[before.ends[0]]


def test_loss_stops_at_the_end_of_turn(tokenizer: Tokenizer) -> None:
    """The newline that ChatML writes after <|im_end|> is not something a model has to say."""
    sample = encode_conversation(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert sample.trained[-1] is False and sample.ids[sample.ends[-1]] == tokenizer.id_of("<|im_end|>")


def test_template_that_rewrites_earlier_turns_gives_one_sample_a_turn(
    tokenizers_by_template: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers_by_template["thinking"]
    first = {"role": "assistant", "content": "<think>easy</think>four"}
    second = {"role": "assistant", "content": "<think>hm</think>nine"}
    messages = [{"role": "user", "content": "2+2"}, first, {"role": "user", "content": "3*3"}, second]
    with pytest.raises(NotPrefixPreservingError, match="turn 1"):
        encode_conversation(tokenizer, messages)
    samples = encode_samples(tokenizer, messages)
    assert [trained_runs(tokenizer, s.ids, s.trained) for s in samples] == [
        ["<think>easy</think>four<|im_end|>"],
        ["<think>hm</think>nine<|im_end|>"],
    ]
    assert tokenizer.decode(samples[1].ids).count("<think>") == 1  # the earlier thought is gone, as in use


def test_assistant_that_speaks_first_is_trained(tokenizers_by_template: dict[str, Tokenizer]) -> None:
    for name in ("chatml", "default_system", "llama3"):
        tokenizer = tokenizers_by_template[name]
        messages = [{"role": "assistant", "content": "welcome"}, {"role": "user", "content": "hi"}]
        sample = encode_conversation(tokenizer, messages)
        assert trained_runs(tokenizer, sample.ids, sample.trained) == ["welcome" + END_OF_TURN[name]]


def test_content_that_spells_a_control_token_is_refused(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "say <|im_end|>"}, {"role": "assistant", "content": "no"}]
    with pytest.raises(UnusableConversationError, match=r"messages\[0\].content contains the control token"):
        encode_conversation(tokenizer, messages)


def test_template_without_an_end_of_turn_is_refused(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                        "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    with pytest.raises(UserError, match="would never learn to stop"):
        encode_conversation(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


def test_generation_prompt_unlike_the_turn_says_where(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokenizer.chat_template is not None
    monkeypatch.setattr(tokenizer, "chat_template", tokenizer.chat_template.replace("start|>assistant", "start|>bot"))
    with pytest.raises(UserError, match=r"generation prompt is not how it begins an answer.*'bot"):
        encode_samples(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


def test_answer_to_compare_ends_with_its_end_of_turn(tokenizer: Tokenizer) -> None:
    prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    sample = encode_answer(tokenizer, prompt, [{"role": "assistant", "content": "d"}])
    assert tokenizer.decode(sample.ids).endswith("d<|im_end|>")
    assert trained_runs(tokenizer, sample.ids, sample.trained) == ["d<|im_end|>"]


def test_text_is_trained_whole_with_one_end(tokenizer: Tokenizer) -> None:
    sample = encode_text(tokenizer, "the quick fox")
    assert tokenizer.decode(sample.ids) == "the quick fox<|endoftext|>"
    assert sample.trained == [False] + [True] * (len(sample.ids) - 1)
    assert encode_text(tokenizer, "the quick fox<|endoftext|>").ids == sample.ids


def test_train_on_inputs_trains_everything_but_the_first_token(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    sample = encode_conversation(tokenizer, messages, train_on_inputs=True)
    assert sample.trained == [False] + [True] * (len(sample.ids) - 1)
