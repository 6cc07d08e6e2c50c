"""Weights -> bytes of each source in one pass of training, with a cap on how often a small source is repeated.

Temperature evens out sizes (Conneau et al. 2020, XLM-R; Xue et al. 2021, mT5): a group of n bytes weighs n^(1/T). At 1
groups have their natural shares, towards infinity equal ones; mT5 has T = 1/0.3. What repetition is worth follows
Muennighoff et al. 2023, "Scaling data-constrained language models": the first repetitions of a text count nearly as
much as new text, and the value of R repetitions levels off as 15.4 (1 - exp(-R / 15.4)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from groundup.corpus.settings import CorpusSettings

REPETITIONS_WORTH = 15.4  # R*_D of the paper
LIKELY_BYTES_PER_TOKEN = 4.0  # of English under a vocabulary of 32k; the tokens stage counts


def mixture_of(settings: CorpusSettings, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The mixture that a recipe asks for; `sizes` are bytes of each source."""
    budget = settings.mixture_bytes
    if settings.mixture_tokens is not None:
        budget = round(settings.mixture_tokens * LIKELY_BYTES_PER_TOKEN)
    return mix(
        sizes,
        settings.mixture,
        settings.max_repetition,
        temperature=settings.mixture_temperature,
        groups={name: source.group for name, source in settings.sources.items() if source.group},
        budget=budget,
    )


def mix(
    sizes: Mapping[str, int],
    weights: Mapping[str, float],
    max_repetition: float,
    *,
    temperature: float = 1.0,
    groups: Mapping[str, str] | None = None,
    budget: int | None = None,
    bytes_per_token: float = LIKELY_BYTES_PER_TOKEN,
) -> dict[str, Any]:
    """How much of each source one pass of the mixture holds, with what that means in numbers.

    `sizes`: bytes there are. `weights`: of sources, or of their groups; none means by size, evened out by
    `temperature`. `groups`: the language or domain of a source, its own name without one; sources share their group's
    part by size. `budget`: bytes of a pass, else as many as all sources have together. A source whose part is more than
    `max_repetition` times its bytes gives that much, and the rest is shared by the others in proportion to their parts.
    """
    total = sum(sizes.values())
    wanted_bytes = total if budget is None else budget
    present = {name: size for name, size in sizes.items() if size > 0}
    group_of = {name: (groups or {}).get(name, name) for name in sizes}
    asked = _asked(present, group_of, weights, temperature)
    asked_sum = sum(asked.values())
    pass_bytes = _shared_out(present, asked, float(wanted_bytes), max_repetition)
    realised = sum(pass_bytes.values())
    rows = {
        name: {
            "group": group_of[name],
            "weight": weights.get(name, weights.get(group_of[name])) if weights else None,
            "bytes": size,
            "share_of_bytes": size / total if total else 0.0,
            "target_share": asked.get(name, 0.0) / asked_sum if asked_sum else 0.0,
            "realised_share": pass_bytes.get(name, 0.0) / realised if realised else 0.0,
            "pass_bytes": round(pass_bytes.get(name, 0.0)),
            "epochs": pass_bytes.get(name, 0.0) / size if size else 0.0,
            "upsampling": pass_bytes.get(name, 0.0) / realised * total / size if size and realised else 0.0,
            "repeated_bytes": round(max(pass_bytes.get(name, 0.0) - size, 0.0)),
            "unseen_bytes": round(max(size - pass_bytes.get(name, 0.0), 0.0)),
            "capped": size > 0 and pass_bytes[name] >= max_repetition * size * (1 - 1e-12),
        }
        for name, size in sizes.items()
    }
    effective = sum(_effective(sizes[name], part) for name, part in pass_bytes.items())
    return {
        "bytes": total,
        "pass_bytes": round(realised),
        "max_repetition": max_repetition,
        "temperature": temperature,
        "sources": rows,
        "groups": _group_rows(rows, total),
        "budget": {
            "bytes": wanted_bytes,
            "missing_bytes": max(wanted_bytes - round(realised), 0),  # every source is at its cap
            "unique_bytes": round(sum(min(sizes[name], part) for name, part in pass_bytes.items())),
            "repeated_bytes": sum(row["repeated_bytes"] for row in rows.values()),
            "unseen_bytes": sum(row["unseen_bytes"] for row in rows.values()),
            "effective_bytes": round(effective),  # as much new text would teach as much
            "bytes_per_token": bytes_per_token,
            "tokens": round(realised / bytes_per_token),
            "effective_tokens": round(effective / bytes_per_token),
        },
    }


def _asked(
    present: Mapping[str, int], group_of: Mapping[str, str], weights: Mapping[str, float], temperature: float
) -> dict[str, float]:
    """The weight of each source: its own, or its part by size of its group's.

    A weight that names a group is the group's, also where one of its sources is called like it.
    """
    has_own = {name for name in present if name in weights and group_of[name] != name}
    group_sizes: dict[str, int] = {}  # of what has no weight of its own
    for name, size in present.items():
        if name not in has_own:
            group_sizes[group_of[name]] = group_sizes.get(group_of[name], 0) + size
    group_weights = {
        group: weights.get(group, 0.0) if weights else size ** (1 / temperature) for group, size in group_sizes.items()
    }
    return {
        name: weights[name] if name in has_own else group_weights[group_of[name]] * (size / group_sizes[group_of[name]])
        for name, size in present.items()
    }


def _shared_out(
    present: Mapping[str, int], asked: Mapping[str, float], wanted_bytes: float, max_repetition: float
) -> dict[str, float]:
    """Bytes of each source in a pass."""
    pass_bytes = dict.fromkeys(present, 0.0)
    open_sources, left = {name: weight for name, weight in asked.items() if weight > 0}, wanted_bytes
    while open_sources and left > 0:
        weight_sum = sum(open_sources.values())
        # Cap the sources that would be over it; what they leave raises the others, so look again until none is.
        capped = [name for name, w in open_sources.items() if left * w / weight_sum > max_repetition * present[name]]
        for name in capped or list(open_sources):
            pass_bytes[name] = max_repetition * present[name] if capped else left * open_sources[name] / weight_sum
        if not capped:
            break
        left -= sum(pass_bytes[name] for name in capped)
        for name in capped:
            del open_sources[name]
    return pass_bytes


def _effective(size: int, part: float) -> float:
    """Bytes of new text that are worth as much as `part` bytes drawn from `size` different ones."""
    repetitions = part / size - 1
    if repetitions <= 0:
        return part
    return size * (1 + REPETITIONS_WORTH * (1 - math.exp(-repetitions / REPETITIONS_WORTH)))


def _group_rows(rows: Mapping[str, Mapping[str, Any]], total: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in rows.values():
        group = found.setdefault(
            row["group"], dict.fromkeys(("bytes", "pass_bytes", "target_share", "realised_share"), 0.0)
        )
        for key in group:
            group[key] += row[key]
    for group in found.values():
        group["share_of_bytes"] = group["bytes"] / total if total else 0.0
    return found
