"""The ids of `tokenizer.json`, several times as fast: tiktoken with the same ranks.

tiktoken knows a vocabulary of byte strings and one regular expression. A byte-level BPE that splits as GPT-2 does, or
GPT-2 with digits one by one, is that, so `fast_encoder` turns it into one; any other tokenizer gets None and is encoded
by the library it came with. Two things could still tell them apart, and both are looked for:

- A merge table need not be one that training gives. tiktoken joins two neighbours whenever their bytes are a token, the
  file's BPE only by its list of pairs. They agree where each token's bytes are joined to it by its own pair last, which
  is checked for every token (Berglund and van der Merwe 2023, "Formalizing BPE tokenization", call that proper).
- Two regex libraries know two versions of Unicode. Each character is put to both before it is first used; a text with
  one that they class differently is left to the slow way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import Regex, pre_tokenizers

# What HF tokenizers' ByteLevel splits by (GPT-2's expression), for tiktoken and rustbpe. All that needs no look-ahead
# stands in one group, which their regex library hands to its fast engine: 40 % less time than one flat list.
_SPACES = r"\s+\z|\s+(?=%s)|\s"
GPT2_PATTERN = r"(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)|" + _SPACES.replace("%s", r"\s")
# The same behind `Digits`, which splits digits from everything first: a run of spaces before a digit stays whole.
DIGITS_PATTERN = r"(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+)|" + _SPACES.replace("%s", r"[\p{N}\s]")
_LONG_RUN = 100_000  # tiktoken's regex runs out of stack at some 300,000 spaces in a row
_SPACE_RUN = re.compile(rf"\s{{{_LONG_RUN}}}")


class FastEncoder:
    """Ids of texts in which special tokens are ordinary text. `encode` gives None for a text it cannot vouch for."""

    def __init__(self, pattern: str, ranks: dict[bytes, int], has_digits: bool) -> None:
        import tiktoken

        self._encoding = tiktoken.Encoding("groundup", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._encode = self._encoding._core_bpe.encode_ordinary
        self._has_digits = has_digits
        self._same: set[str] = set()  # characters that both libraries class alike
        self._different: set[str] = set()
        self._classes = _Classes()
        self._learn({chr(code) for code in range(128)})

    def encode(self, text: str) -> list[int] | None:
        """`text` without lone surrogates. None: it holds a character of an uncertain class, or endless white space."""
        if not text.isascii():
            unknown = set(text) - self._same
            if unknown and not self._learn(unknown):
                return None
        if len(text) > _LONG_RUN and _SPACE_RUN.search(text):
            return None
        ids: list[int] = self._encode(text)
        return ids

    def _learn(self, characters: set[str]) -> bool:
        """Whether both libraries class all of them alike."""
        new = {one for one in characters - self._different if self._classes.agree(one, self._has_digits)}
        self._same |= new
        self._different |= characters - new
        return new == characters


class _Classes:
    """What each library says a character is: a letter, a number, white space."""

    def __init__(self) -> None:
        import tiktoken

        ranks = {bytes([value]): value for value in range(256)}
        names = (r"\p{L}", r"\p{N}", r"\s")
        self._tiktoken = [
            tiktoken.Encoding("class", pat_str=name, mergeable_ranks=ranks, special_tokens={}) for name in names
        ]
        self._tokenizers = [pre_tokenizers.Split(Regex(name), behavior="removed") for name in names]
        self._digits = pre_tokenizers.Digits(individual_digits=True)

    def agree(self, character: str, has_digits: bool) -> bool:
        theirs = [not splitter.pre_tokenize_str(character) for splitter in self._tokenizers]
        ours = [bool(encoding.encode_ordinary(character)) for encoding in self._tiktoken]
        if has_digits and (len(self._digits.pre_tokenize_str("." + character)) == 2) != ours[1]:
            return False
        return theirs == ours


def fast_encoder(backend: tokenizers.Tokenizer) -> FastEncoder | None:
    """The encoder for a tokenizer's own ids, or None where tiktoken is absent or cannot give the same ids."""
    try:
        import tiktoken  # noqa: F401
    except ImportError:
        return None
    record = json.loads(backend.to_str())
    found = _pattern_of(record)
    if found is None or record.get("normalizer") is not None:
        return None
    ranks = ranks_of(record["model"])
    return None if ranks is None else FastEncoder(found[0], ranks, found[1])


def _pattern_of(record: dict[str, Any]) -> tuple[str, bool] | None:
    """(pattern, digits one by one) for the splits that are known here."""
    steps = record.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", []) if steps.get("type") == "Sequence" else [steps]
    if not steps or steps[-1].get("type") != "ByteLevel":
        return None
    if steps[-1].get("add_prefix_space") is not False or steps[-1].get("use_regex") is not True:
        return None
    if len(steps) == 1:
        return GPT2_PATTERN, False
    if len(steps) == 2 and steps[0].get("type") == "Digits" and steps[0].get("individual_digits") is True:
        return DIGITS_PATTERN, True
    return None


def ranks_of(model: dict[str, Any]) -> dict[bytes, int] | None:
    """Bytes -> id of a BPE in `tokenizer.json`, or None where its merges are not what its ranks alone would give."""
    plain = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if model.get("type") != "BPE" or any(model.get(key) for key in plain):
        return None
    value_of = {character: value for value, character in enumerate(byte_characters())}
    vocabulary: dict[str, int] = model["vocab"]
    ranks: dict[bytes, int] = {}
    for character, value in value_of.items():
        if character not in vocabulary:
            return None
        ranks[bytes([value])] = vocabulary[character]
    last = -1
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        try:
            first, second = (bytes(value_of[character] for character in part) for part in (left, right))
        except KeyError:
            return None
        number = vocabulary.get(left + right)
        if number is None or number <= last or first + second in ranks or first not in ranks or second not in ranks:
            return None
        if parts_of(first + second, ranks) != (first, second):
            return None
        ranks[first + second] = last = number
    return ranks


def parts_of(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, ...]:
    """What merging by rank makes of a token's bytes, the token itself not being in `ranks` yet: its last two parts."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        best, where = None, -1
        for place in range(len(parts) - 1):
            rank = ranks.get(parts[place] + parts[place + 1])
            if rank is not None and (best is None or rank < best):
                best, where = rank, place
        if best is None:
            break
        parts[where : where + 2] = [parts[where] + parts[where + 1]]
    return tuple(parts)


def byte_characters() -> list[str]:
    """The 256 characters that stand for byte values in byte-level vocabularies (GPT-2's table), by value."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {value: chr(value) for value in printable}
    others: Sequence[int] = [value for value in range(256) if value not in table]
    table |= {value: chr(256 + place) for place, value in enumerate(others)}
    return [table[value] for value in range(256)]
