"""Weights -> bytes of each source in one pass of training, with a cap on how often a small source is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mix(sizes: Mapping[str, int], weights: Mapping[str, float], max_repetition: float) -> dict[str, Any]:
    """How much of each source one pass of the mixture holds. `sizes`: bytes there are; `weights`: none means by size.

    A pass is as long as all sources together. A source whose weight asks for more than `max_repetition` times its bytes
    gives that much, and the rest of the pass is shared by the others in proportion to their weights.
    """
    total = sum(sizes.values())
    present = {name: size for name, size in sizes.items() if size > 0}
    asked = {name: weights.get(name, 0.0) if weights else float(size) for name, size in present.items()}
    asked_sum = sum(asked.values())
    pass_bytes = dict.fromkeys(present, 0.0)
    open_sources, left = dict(asked), float(total)
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
    realised = sum(pass_bytes.values())
    return {
        "bytes": total,
        "pass_bytes": round(realised),
        "max_repetition": max_repetition,
        "sources": {
            name: {
                "weight": weights.get(name) if weights else None,
                "bytes": size,
                "share_of_bytes": size / total if total else 0.0,
                "target_share": asked.get(name, 0.0) / asked_sum if asked_sum else 0.0,
                "realised_share": pass_bytes.get(name, 0.0) / realised if realised else 0.0,
                "pass_bytes": round(pass_bytes.get(name, 0.0)),
                "epochs": pass_bytes.get(name, 0.0) / size if size else 0.0,
                "capped": size > 0 and pass_bytes[name] >= max_repetition * size * (1 - 1e-12),
            }
            for name, size in sizes.items()
        },
    }
