"""A reversible sample of what was replaced, to check the scrubber by: kept apart from the corpus, readable by its owner
only, and switched off by a share of 0.

Which documents are sampled is decided by a hash of their ids, so it depends neither on workers nor on order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from groundup.corpus.pii.search import Found
from groundup.errors import UserError

# Of a corpus folder. `private` is no output of the stage (artifacts.NOT_OUTPUT): nothing that reads a corpus sees it.
AUDIT = Path("private/pii-audit.jsonl")


def is_sampled(id: str, share: float) -> bool:
    """Whether a document of this id belongs to a sample of this share (0..1) of all documents."""
    return int.from_bytes(sha256(b"pii audit " + id.encode()).digest()[:8], "big") < share * 2**64


def audit_row(id: str, text: str, found: Sequence[Found]) -> dict[str, Any]:
    """What was replaced in a document: the type, the place in the scrubbed text, and what stood there."""
    replaced = []
    moved = 0
    for one in found:
        start = one.start + moved
        placeholder = f"<{one.type.upper()}>"
        replaced.append(
            {"type": one.type, "detail": one.detail, "start": start, "placeholder": placeholder}
            | {"original": text[one.start : one.end]}
        )
        moved += len(placeholder) - (one.end - one.start)
    return {"id": id, "replaced": replaced}


def restore(scrubbed: str, row: Mapping[str, Any]) -> str:
    """The text before it was scrubbed. Raises UserError where the row is of another text."""
    out: list[str] = []
    end = 0
    for one in row["replaced"]:
        start, placeholder = one["start"], one["placeholder"]
        if scrubbed[start : start + len(placeholder)] != placeholder:
            raise UserError(
                f"no {placeholder} at character {start} of {row['id']}",
                fix="use the audit of the same build of the corpus",
            )
        out += (scrubbed[end:start], one["original"])
        end = start + len(placeholder)
    return "".join((*out, scrubbed[end:]))


def write_audit(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Rows as JSON lines in a file of mode 0600, finished atomically; returns how many."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)  # a part of an earlier try may have had another mode
    count = 0
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        for row in rows:
            # ASCII: a lone surrogate in a damaged document must not stop the audit.
            file.write(json.dumps(row) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    return count


def read_audit(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def audit_of(corpus: Path, id: str) -> dict[str, Any] | None:
    """What was replaced in a document of a corpus folder; None where it is not in the sample or may not be read."""
    try:
        with open(corpus / AUDIT, encoding="utf-8") as file:
            return next((row for row in map(json.loads, file) if row["id"] == id), None)
    except (OSError, ValueError):
        return None
