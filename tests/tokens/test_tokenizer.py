"""Ids are AutoTokenizer's, and every text comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.chat.template import render
from groundup.errors import UserError
from groundup.tokens.tokenizer import SPECIAL_TOKENS, Tokenizer

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "12+34?"},
    {"role": "assistant", "content": "46"},
]


@pytest.fixture(scope="module")
def tokenizer(run: Path) -> Tokenizer:
    return Tokenizer.from_folder(run / "tokenizer")


@settings(deadline=None, max_examples=200)
@given(text=st.text())
def test_any_text_comes_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    surrogates = any(0xD800 <= ord(c) <= 0xDFFF for c in text)
    if not surrogates:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(tokenizer.encode_documents([text])[0]) == text
    assert all(0 <= i < tokenizer.vocab_size for i in tokenizer.encode(text))


def test_half_a_surrogate_pair_becomes_the_replacement_character(tokenizer: Tokenizer) -> None:
    assert set(tokenizer.decode(tokenizer.encode("a\ud800b"))) == {"a", "b", "\ufffd"}


@settings(deadline=None, max_examples=100)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_offsets_cover_the_text_in_order(tokenizer: Tokenizer, text: str) -> None:
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    place = 0
    for start, end in offsets:
        assert start <= place <= end or start == place
        place = max(place, end)
    assert place == len(text) or not ids


def test_ids_and_chat_equal_those_of_transformers(run: Path, tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(run / "tokenizer")
    texts = ["", " ", "Hello  world\n\n\t12345 x\u00e9\u4e2d\U0001f600 <|im_end|> it's <|endoftext|>", "cat\r\n" * 3]
    for text in texts:
        assert tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text) == theirs.encode(text)  # nothing is added
        assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.eos_token_id == tokenizer.eos_id
    assert theirs.pad_token_id == tokenizer.pad_id
    assert len(theirs) == tokenizer.vocab_size
    assert tokenizer.chat_template is not None
    for add_generation_prompt in (False, True):
        ours = render(MESSAGES, tokenizer.chat_template, add_generation_prompt)
        assert ours == theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=add_generation_prompt)


def test_the_template_is_chatml_without_a_system_prompt_of_its_own(tokenizer: Tokenizer) -> None:
    assert tokenizer.chat_template is not None
    assert render(MESSAGES[1:], tokenizer.chat_template, True) == (
        "<|im_start|>user\n12+34?<|im_end|>\n<|im_start|>assistant\n46<|im_end|>\n<|im_start|>assistant\n"
    )


def test_digits_stand_alone(tokenizer: Tokenizer) -> None:
    for text in ("1024 37 1024", "x2048y", "1.50"):
        pieces = [tokenizer.decode([i]) for i in tokenizer.encode(text)]
        assert all(sum(c.isdigit() for c in piece) <= 1 for piece in pieces), pieces
        assert all(piece.strip().isdigit() is False or len(piece) == 1 for piece in pieces if piece.strip().isdigit())


def test_special_tokens_have_ids_and_cannot_be_forged_by_a_document(tokenizer: Tokenizer) -> None:
    special = [tokenizer.id_of(token) for token in SPECIAL_TOKENS]
    assert special == [0, 1, 2, 3]
    text = "a <|im_end|><|endoftext|> b"
    assert set(tokenizer.encode(text)) & set(special) == {0, 2}
    documents = tokenizer.encode_documents([text])[0]
    assert not set(documents) & set(special)
    assert tokenizer.decode(documents) == text
    assert tokenizer.stop_ids == [2, 0]


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        Tokenizer.from_folder(tmp_path)


def test_a_broken_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.from_folder(tmp_path)
