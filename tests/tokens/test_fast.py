"""tiktoken's ids are those of the exported tokenizer.json as transformers reads it, on every text."""

from __future__ import annotations

import gzip
import json
import random
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from groundup.tokens.fast import byte_characters, fast_encoder, parts_of, ranks_of
from groundup.tokens.tokenizer import SPECIAL_TOKENS, Tokenizer
from groundup.tokens.train_tokenizer import save_tokenizer, train_bpe

HERE = Path(__file__).resolve()
PIECES = [
    "a", "the", "The", "don't", "it's", "I'LL", "'d", "'", " ", "  ", "\n", "\n\n", "\t", "\r\n",
    "\u00a0", "\u3000", "\u2028", "\x85", "\x0b", "\x1c", "\u200b", "0", "12", "1.5", "²", "½", "Ⅷ", "٣",
    "५", "é", "e\u0301", "ﬁ", "ß", "ſ", "İ", "ı", "K", "中文", "ไทย", "हिन्दी", "שלום", "العربية", "한국어",
    "か\u3099", "😀", "👩‍👩‍👧", "🇩🇪", "\U0001f9ff", "\U00012345", "\U0010ffff", "\ufeff", "\x00", "\x7f",
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|", "|>", "_", "__init__", "()", "...",
    "===", "\u0378", "\u1c89", "\ua7cb",
]  # fmt: skip


def real_text() -> Iterator[str]:
    """Documentation and code that every Python has, and a little of every script."""
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))
    yield from (path.read_text() for path in sorted(HERE.parent.glob("*.py")))
    letters = [chr(code) for code in range(0x20, 0x3100) if unicodedata.category(chr(code))[0] in "LNPS"]
    yield "".join(letters)
    yield " ".join(letters[::7])


@pytest.fixture(scope="module", params=["rustbpe", "tokenizers"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    save_tokenizer(train_bpe(real_text, 2000, library=request.param), path)
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer._fast is not None, "our own tokenizers are encoded by tiktoken"
    return tokenizer


@pytest.fixture(scope="module")
def theirs(folder: Path):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(folder, split_special_tokens=True)


def check(ours: Tokenizer, theirs, texts: list[str]) -> None:
    expected = [theirs.encode(text, add_special_tokens=False) for text in texts]
    assert ours.encode_documents(texts) == expected


@settings(deadline=None, max_examples=300)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@example(text="a" * 5000)
@example(text="  \n 1  2 'll'LL 's1 '1 a'sb")
def test_any_text(ours: Tokenizer, theirs, text: str) -> None:
    check(ours, theirs, [text])


@settings(deadline=None, max_examples=400)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12))
def test_any_mixture_of_what_splits_text(ours: Tokenizer, theirs, pieces: list[str]) -> None:
    check(ours, theirs, ["".join(pieces)])


def test_real_text_and_every_pair_of_pieces(ours: Tokenizer, theirs) -> None:
    check(ours, theirs, list(real_text()))
    check(ours, theirs, [one + other for one in PIECES for other in PIECES])


def test_every_character_there_is(ours: Tokenizer, theirs) -> None:
    """Each one between letters, digits, spaces and signs; among them those that the libraries class differently."""
    every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    sample = every[:0x300] + every[0x300::97]
    check(ours, theirs, [f"a{one}a 1{one}1 .{one}.  {one} \n{one}" for one in sample])


def test_a_long_run_of_spaces_is_no_crash(ours: Tokenizer, theirs) -> None:
    check(ours, theirs, [" " * 400_000 + "x", "\n" * 150_000, "x" * 120_000, " 1" * 60_000])


@pytest.mark.slow
def test_real_text_of_many_languages(ours: Tokenizer, theirs, shared_data: Path) -> None:
    with zipfile.ZipFile(shared_data / "languages/udhr2.zip") as archive:
        texts = [archive.read(name).decode("utf-8", "replace") for name in archive.namelist() if name.endswith(".txt")][
            ::2
        ]
    with gzip.open(shared_data / "languages/pud-parallel-9.jsonl.gz", "rt") as file:
        texts += [json.loads(line)["text"] for line in file][::3]
    with gzip.open(shared_data / "code/stack-sample.jsonl.gz", "rt") as file:
        texts += [json.loads(line)["content"] for line in file]
    check(ours, theirs, texts)
    assert [ours.decode(ids) for ids in ours.encode_documents(texts)] == texts


def test_characters_of_an_uncertain_class_take_the_slow_way(folder: Path) -> None:
    encoder = fast_encoder(Tokenizer.from_folder(folder).backend)
    assert encoder is not None
    assert encoder.encode("plain text, Ünïcödé, 中文") is not None
    uncertain = [chr(code) for code in range(0x80, 0x20000) if not 0xD800 <= code <= 0xDFFF]
    left = [one for one in uncertain[::3] if encoder.encode(one) is None]
    assert len(left) < 0.05 * len(uncertain)
    assert all(encoder.encode(f"in a {one} text") is None for one in left[:20])


# ---------------------------------------------------------------- which tokenizers it takes


def test_gpt2_s_own_splits_are_known_too(folder: Path) -> None:
    backend = Tokenizer.from_folder(folder).backend
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.encode_special_tokens = True
    encoder = fast_encoder(backend)
    assert encoder is not None
    for text in ["in 2024  12 more,   34\n\n 5", "it's 1,000.50", *real_text()]:
        assert encoder.encode(text) == backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("change", ["prefix", "split", "normalizer", "dropout", "merges", "unicode"])
def test_what_tiktoken_cannot_do_is_left_to_the_library(folder: Path, change: str) -> None:
    record = json.loads((folder / "tokenizer.json").read_text())
    if change == "prefix":
        record["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    elif change == "split":
        record["pre_tokenizer"] = {"type": "Whitespace"}
    elif change == "normalizer":
        record["normalizer"] = {"type": "NFC"}
    elif change == "dropout":
        record["model"]["dropout"] = 0.1
    elif change == "merges":  # an order in which no training puts them
        record["model"]["merges"].reverse()
    else:
        record["model"]["vocab"] = {token: n for token, n in record["model"]["vocab"].items() if token != "\u0100"}
    assert fast_encoder(tokenizers.Tokenizer.from_str(json.dumps(record))) is None


def test_the_byte_alphabet_is_that_of_tokenizers() -> None:
    assert sorted(byte_characters()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert byte_characters()[ord("a")] == "a"
    assert byte_characters()[ord(" ")] == "\u0120"


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.text(alphabet="ab c", min_size=1, max_size=30), min_size=1, max_size=20))
def test_training_gives_tables_whose_ranks_say_all(texts: list[str]) -> None:
    record = json.loads(train_bpe(texts, 300).to_str())
    ranks = ranks_of(record["model"])
    assert ranks is not None
    for token, rank in ranks.items():
        if len(token) > 1:
            below = {one: number for one, number in ranks.items() if number < rank}
            assert len(parts_of(token, below)) == 2


# ---------------------------------------------------------------- what rustbpe learns


def test_both_libraries_learn_the_same_sizes_and_nearly_the_same_merges() -> None:
    found = {}
    for library in ("rustbpe", "tokenizers"):
        backend = train_bpe(real_text, 2000, library=library)
        merges = json.loads(backend.to_str())["model"]["merges"]
        tokens = sum(len(one.ids) for one in backend.encode_batch(list(real_text()), add_special_tokens=False))
        found[library] = ({tuple(merge) for merge in merges}, tokens, backend.get_vocab_size())
        assert [backend.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    ours, theirs = found["rustbpe"], found["tokenizers"]
    assert ours[2] == theirs[2] == 2000
    assert len(ours[0] & theirs[0]) / len(theirs[0]) > 0.97, "they differ only where two pairs are equally frequent"
    assert ours[1] <= 1.001 * theirs[1], "no text gets longer"


def test_the_same_text_gives_the_same_merges() -> None:
    texts = list(real_text())
    assert (
        train_bpe(texts, 1000).to_str() == train_bpe(iter(texts), 1000).to_str() == train_bpe(real_text, 1000).to_str()
    )


@pytest.mark.parametrize("min_frequency", [1, 2, 3, 7])
def test_pairs_seen_too_seldom_are_not_merged(min_frequency: int) -> None:
    source = random.Random(3)
    texts = [" ".join(source.choice(["ab", "abc", "xyz", "hello"]) + source.choice("klmn") for _ in range(9))] * 2
    ours = train_bpe(texts, 400, min_frequency, library="rustbpe")
    theirs = train_bpe(texts, 400, min_frequency, library="tokenizers")
    assert ours.get_vocab_size() == theirs.get_vocab_size()
