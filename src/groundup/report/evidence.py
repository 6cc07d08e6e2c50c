"""What the evaluate stages measured, merged, and seen from each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groundup.report.reading import StageFiles, plain

KIND_ALIASES = {"base": "pretrain", "sft": "sft", "dpo": "dpo", "ppo": "ppo"}  # names for scores, by kind


def read_scores(stages: Sequence[StageFiles]) -> dict[str, Any]:
    """The scores of all evaluate stages together. Where two measured the same thing, the last one counts."""
    merged: dict[str, Any] = {
        "bits_per_byte": {},
        "accuracy": {},
        "paired": [],
        "reward_accuracy": {},
        "reply_stops": {},
        "health": {},
        "humaneval": {},
    }
    for stage in stages:
        scores = stage.json("scores.json") if stage.kind == "evaluate" else None
        if not isinstance(scores, Mapping):
            continue
        for key, value in merged.items():
            found = scores.get(key)
            if isinstance(value, list) and isinstance(found, list):
                value += [{**row, "exam": stage.name} for row in found if isinstance(row, Mapping)]
            elif isinstance(value, dict) and isinstance(found, Mapping):
                value.update(plain(found))
    return merged


def accuracy_of(
    accuracy: Mapping[str, Any], paired: Sequence[Mapping[str, Any]], stages: Sequence[StageFiles]
) -> dict[str, Any]:
    """By stage name, and by `base`, `sft`, `dpo`, `ppo` for the last evaluated stage of each kind.

    Each entry carries its paired comparisons: `paired: {other: {difference, low, high, p_value, n}}`, where the
    difference is this model's accuracy minus the other's.
    """
    by_name: dict[str, Any] = {}
    for name, entry in accuracy.items():
        comparisons = {}
        for row in paired:
            if name in (row.get("a"), row.get("b")) and row.get("p_value") is not None:
                comparisons[row["b"] if row["a"] == name else row["a"]] = _seen_from(row, name)
        by_name[name] = {**entry, "paired": comparisons}
    kinds = {stage.name: stage.kind for stage in stages}
    for alias, kind in KIND_ALIASES.items():
        of_kind = [name for name in accuracy if kinds.get(name) == kind]
        if alias not in by_name and of_kind:
            by_name[alias] = {**by_name[of_kind[-1]], "stage": of_kind[-1]}
    return by_name


def _seen_from(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A paired comparison with `difference` = `name` minus the other. Rows of scores.json say a minus b."""
    kept = {key: row.get(key) for key in ("difference", "low", "high", "p_value", "p_adjusted", "n") if key in row}
    if row["a"] == name or row.get("difference") is None:
        return kept
    low, high = row.get("low"), row.get("high")
    kept["difference"] = -row["difference"]
    kept["low"], kept["high"] = (None if high is None else -high), (None if low is None else -low)
    return kept
