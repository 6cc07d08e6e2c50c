"""A tokenizer folder in Hugging Face layout, read without transformers; ids are those of `AutoTokenizer` (tested)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from groundup.artifacts import TOKENIZER_FILES, read_json, write_atomic
from groundup.errors import UserError
from groundup.tokens.fast import FastEncoder, fast_encoder

END_OF_TEXT = "<|endoftext|>"  # between documents
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PADDING = "<|pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, PADDING)  # ids 0, 1, 2, 3 in our tokenizers


class Tokenizer:
    """Text to ids and back. `from_folder` reads `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""

    def __init__(
        self, backend: tokenizers.Tokenizer, config: dict[str, Any], chat_template: str | None, folder: Path
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.config = config
        self.chat_template = chat_template
        self.folder = folder

    @classmethod
    def from_folder(cls, path: Path | str) -> Tokenizer:
        """UserError where there is no `tokenizer.json`, or where it cannot be read."""
        folder = Path(path)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(
                "no tokenizer here: tokenizer.json is missing",
                where=str(folder),
                fix="name the folder of a tokenizer or of a model in Hugging Face layout",
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception with the reason
            raise UserError(f"the tokenizer cannot be read: {error}", where=str(file)) from error
        config_file, template_file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = read_json(config_file) if config_file.is_file() else {}
        template = template_file.read_text(encoding="utf-8") if template_file.is_file() else config.get("chat_template")
        return cls(backend, config, template if isinstance(template, str) else None, folder)

    # ------------------------------------------------------------ text and ids

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens written in it become their ids, none are added."""
        return self.backend.encode(storable(text), add_special_tokens=False).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and, for each, the characters `start:end` of `text` that it stands for."""
        encoding = self.backend.encode(storable(text), add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, in which special tokens are ordinary text: a web page cannot forge the end of a turn."""
        whole = [storable(text) for text in texts]
        if self._fast is None:
            return self._encode_slowly(whole)
        ids = [self._fast.encode(text) for text in whole]
        left = [place for place, one in enumerate(ids) if one is None]
        for place, one in zip(left, self._encode_slowly([whole[place] for place in left]), strict=True):
            ids[place] = one
        return ids  # type: ignore[return-value]

    def _encode_slowly(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._plain_backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @cached_property
    def _fast(self) -> FastEncoder | None:
        """tiktoken with the same ranks, where it gives the same ids. Built when first used: it takes half a second."""
        return fast_encoder(self.backend)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    @cached_property
    def _plain_backend(self) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.encode_special_tokens = True
        return backend

    # ------------------------------------------------------------ what it holds

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to `vocab_size - 1`, special tokens included."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def id_of(self, token: str | None) -> int | None:
        return None if token is None else self.backend.token_to_id(token)

    def special_token(self, role: str) -> str | None:
        """The text of `eos`, `pad`, `bos` or `unk`, as tokenizer_config.json has it."""
        value = self.config.get(f"{role}_token")
        return value.get("content") if isinstance(value, dict) else value

    @property
    def eos_id(self) -> int:
        found = self.id_of(self.special_token("eos"))
        if found is None:
            found = self.id_of(END_OF_TEXT)
        if found is None:
            raise UserError("the tokenizer names no end-of-text token (eos_token)", where=str(self.folder))
        return found

    @property
    def pad_id(self) -> int:
        """The padding token's id; the end of text where there is none (padding is never found by its id here)."""
        found = self.id_of(self.special_token("pad"))
        return self.eos_id if found is None else found

    @property
    def bos_id(self) -> int | None:
        return self.id_of(self.special_token("bos"))

    @property
    def document_end_id(self) -> int:
        """What stands after each document: `<|endoftext|>` where there is one, else the end-of-text token."""
        found = self.id_of(END_OF_TEXT)
        return self.eos_id if found is None else found

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end a generation: the end of a turn and the end of text."""
        found = [self.id_of(TURN_END), self.eos_id, self.id_of(END_OF_TEXT)]
        return list(dict.fromkeys(i for i in found if i is not None))

    def copy_to(self, folder: Path) -> None:
        """The tokenizer's files, byte for byte, in another folder."""
        for path in sorted(self.folder.iterdir()):
            if path.name in TOKENIZER_FILES:
                write_atomic(folder / path.name, path.read_bytes())

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the vocabulary and the rules, independent of the folder and of the template."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()


def storable(text: str) -> str:
    """Half a surrogate pair has no UTF-8; it becomes the replacement character."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if not text.isascii() else text
