"""A model folder as an exam sees it: weights, tokenizer, the ids that end a reply, and which model this is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from groundup.artifacts import fingerprint_file
from groundup.model.decoder import Decoder
from groundup.model.files import load_model
from groundup.tokens.tokenizer import Tokenizer


def model_fingerprint(folder: Path) -> str:
    """sha256 over the files that make the model what it is: weights, shape, tokenizer and chat template.

    It names this very model wherever the folder lies; an exam writes it down and a gate compares it.
    """
    digest = hashlib.sha256()
    kinds = ("*.safetensors", "config.json", "tokenizer.json", "chat_template.jinja")
    for path in sorted({path for kind in kinds for path in folder.glob(kind)}):
        digest.update(f"{path.name}\0{fingerprint_file(path)}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Examinee:
    """One model under examination, loaded when it is first needed: finished tasks need no weights."""

    name: str
    folder: Path
    fingerprint: str

    @cached_property
    def model(self) -> Decoder:
        return load_model(self.folder).eval()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_folder(self.folder)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a reply: the tokenizer's, and those that the model's own config names."""
        eos = self.model.config.eos_token_id
        named = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        return tuple(dict.fromkeys([*self.tokenizer.stop_ids, *named]))
