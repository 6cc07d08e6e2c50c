"""Conversations in ChatterBot's YAML format: `conversations`, each a list of turns that two people say by turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from groundup.corpus.document import Document, Drop
from groundup.corpus.source_settings import DialogueSource
from groundup.corpus.sources.files import file_pieces, open_piece
from groundup.corpus.sources.piece import Piece

SPEAKERS = ("User", "Assistant")
_CODES = {"english": "en", "german": "de", "french": "fr", "spanish": "es", "italian": "it", "portuguese": "pt"}


def pieces(source: DialogueSource, cache: Path) -> list[Piece]:
    """One piece per file."""
    return file_pieces(source.path, cache)


def read(source: DialogueSource, piece: Piece, notes: Counter[str]) -> Iterator[Document | Drop]:
    """One document per conversation: a line per turn, with the speaker in front."""
    for file in open_piece(piece):
        name = PurePosixPath(file.name)
        if name.suffix not in (".yml", ".yaml") or (
            file.content is not None and name.parent.name not in source.folders
        ):
            notes["files in other languages, or of the package itself"] += 1
            continue
        notes["files"] += 1
        try:
            conversations = conversations_of(file.read_text())
        except (OSError, EOFError, YAMLError, ValueError) as error:
            yield Drop(file.name, "read", "unreadable file", f"{file.where}: {str(error).splitlines()[0]}")
            continue
        for place, turns in enumerate(conversations, 1):
            id = f"{file.name}#{place}"
            if len(turns) < 2:
                yield Drop(id, "read", "conversation with fewer than two turns", " ".join(turns))
                continue
            lines = [f"{SPEAKERS[turn % 2]}: {text.strip()}" for turn, text in enumerate(turns)]
            license = source.license or file.license or "unknown"
            yield Document(id, file.name, license, "\n".join(lines), "dialogue", _CODES.get(name.parent.name, ""))


def conversations_of(text: str) -> list[list[str]]:
    """The conversations of one file. ValueError where it has another shape, YAMLError where it is no YAML."""
    content: Any = YAML(typ="safe").load(text)
    conversations = content.get("conversations") if isinstance(content, dict) else None
    if not isinstance(conversations, list):
        raise ValueError("no list under `conversations`")
    return [[str(turn) for turn in turns if turn is not None] for turns in conversations if isinstance(turns, list)]
