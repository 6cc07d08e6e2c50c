"""The folder of a small model of ours: facts as JSON, weights as one array. Nothing in it can run code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from groundup.errors import UserError


def load_saved(
    folder: Path,
    name: str,
    *,
    what: str,
    format: int | str,
    shape: Callable[[Mapping[str, Any]], tuple[int, ...]],
    fix: str,
) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    """(facts of `name`, weights of weights.npy). `shape`: from the facts, the shape that the weights must have.

    UserError where the folder holds no such model (`fix` says what would), or one of another format.
    """
    try:
        facts = json.loads((folder / name).read_text(encoding="utf-8"))
        weights = np.load(folder / "weights.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"no {what} can be read: {error}", where=str(folder), fix=fix) from error
    found = facts.get("format") if isinstance(facts, dict) else None
    if found != format or weights.dtype != np.float32 or weights.shape != shape(facts):
        told = f"the {what} is of format {found!r} with weights {weights.shape}; this version reads format {format!r}"
        raise UserError(told, where=str(folder), fix="train it again with this version")
    return facts, weights
