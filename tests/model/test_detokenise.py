"""Text as it is streamed: whole characters, no part of a stop string, and in the end exactly the decoded text."""

from __future__ import annotations

import random

import pytest
import tokenizers

from groundup.model.detokenise import TextStream


@pytest.fixture(scope="module")
def byte_level():
    """One token per byte: every character beyond ASCII comes in halves."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


@pytest.fixture(scope="module")
def word_level():
    """Words carry the space before them, as in SentencePiece: the first one of a text loses it."""
    words = {"▁the": 0, "▁cat": 1, "s": 2, "▁": 3, "<0xE2>": 4, "<0x82>": 5, "<0xAC>": 6, "?": 7}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    backend.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    return backend


def shown(backend, ids, stops=()):
    text = TextStream(backend.decode, stops)
    pieces = []
    for token in ids:
        pieces.append(text.push(token))
        if text.stopped is not None:
            break
    return [*pieces, text.finish()], text


def test_characters_are_shown_whole(byte_level):
    ids = byte_level.encode("a €5 naïve 漢字 👍!").ids
    pieces, text = shown(byte_level, ids)
    assert "".join(pieces) == text.text == "a €5 naïve 漢字 👍!"
    assert not any("\ufffd" in piece for piece in pieces)
    assert "👍" in pieces and "漢" in pieces


def test_half_a_character_at_the_end_is_given_out_as_decoded(byte_level):
    ids = byte_level.encode("ok €").ids[:-1]
    pieces, _ = shown(byte_level, ids)
    assert pieces[:3] == ["o", "k", " "] and "".join(pieces) == byte_level.decode(ids)


def test_bytes_that_never_become_a_character_do_not_hold_back_what_follows(byte_level):
    euro = byte_level.encode("€").ids
    ids = [euro[0], *byte_level.encode("abc").ids]
    pieces, _ = shown(byte_level, ids)
    assert "".join(pieces) == byte_level.decode(ids) == "\ufffdabc"
    assert pieces[-1] == ""


def test_spaces_that_words_carry_are_kept(word_level):
    ids = [0, 1, 2, 0, 4, 5, 6, 3, 1, 7]
    pieces, _ = shown(word_level, ids)
    assert "".join(pieces) == word_level.decode(ids) == "the cats the€  cat?"
    assert pieces[0] == "the" and pieces[1] == " cat"


def test_a_stop_string_ends_the_text_wherever_it_lies(byte_level):
    for text in ("say END now", "END", "xEND", "E EN END"):
        pieces, stream = shown(byte_level, byte_level.encode(text).ids, ("END",))
        assert "".join(pieces) == stream.text == text.partition("END")[0]
        assert stream.stopped == "END" and stream.push(0) == ""


def test_no_part_of_a_stop_string_is_ever_shown(byte_level):
    said = ""
    stream = TextStream(byte_level.decode, ("\n\nUser:",))
    for token in byte_level.encode("one\n\nUse two\n\nUser: three").ids:
        said += stream.push(token)
        assert not said.endswith("\n")
    assert said == "one\n\nUse two"


def test_what_was_held_back_is_shown_when_the_text_ends(byte_level):
    pieces, stream = shown(byte_level, byte_level.encode("the EN").ids, ("END",))
    assert "".join(pieces) == "the EN" and pieces[-1] == "EN" and stream.stopped is None


def test_the_first_of_several_stop_strings_counts(byte_level):
    pieces, stream = shown(byte_level, byte_level.encode("a bb ccc d").ids, ("ccc", "b c", "zz"))
    assert "".join(pieces) == "a b" and stream.stopped == "b c"


def test_random_texts_and_stops_end_as_a_search_in_the_whole_text_says(byte_level):
    draw = random.Random(5)
    for _ in range(300):
        text = "".join(draw.choice("ab€") for _ in range(draw.randrange(1, 20)))
        stops = ["".join(draw.choice("ab€") for _ in range(draw.randrange(1, 5))) for _ in range(2)]
        first = min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
        pieces, stream = shown(byte_level, byte_level.encode(text).ids, stops)
        # a longer stop that begins earlier may end later than one that lies inside it: the one that is whole first ends
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        if not ends:
            assert "".join(pieces) == text and stream.stopped is None
        else:
            seen = text[: min(ends)]
            assert "".join(pieces) == seen[: min(seen.find(s) for s in stops if s in seen)]
            assert first is not None and stream.stopped in stops
