"""Documents kept apart to measure on, chosen by a hash of their cluster so that near-duplicates never straddle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

from groundup.corpus.settings import HeldOut


def choose_held_out(ids: Sequence[str], sizes: Sequence[int], clusters: Sequence[str], wanted: HeldOut) -> list[bool]:
    """For each document of one source, whether it is held out. `clusters` names each one's group of near-duplicates.

    Clusters are taken in the order of their hash while the share and `max_bytes` allow. A small source in which nothing
    fits the share gives one cluster of at most a tenth of it, so that every source can be measured where that is
    possible at all.
    """
    budget = min(wanted.share * sum(sizes), wanted.max_bytes)
    by_cluster: dict[str, list[int]] = {}
    for place, cluster in enumerate(clusters):
        by_cluster.setdefault(cluster, []).append(place)
    in_order = sorted(by_cluster, key=lambda name: sha256(f"held out\0{name}".encode()).digest())
    bytes_of = {name: sum(sizes[place] for place in places) for name, places in by_cluster.items()}
    taken = _first_that_fit(in_order, bytes_of, budget)
    if not taken and budget > 0:
        tenth = min(0.1 * sum(sizes), wanted.max_bytes)
        taken = _first_that_fit(in_order, bytes_of, tenth)[:1]
    chosen = {place for name in taken for place in by_cluster[name]}
    return [place in chosen for place in range(len(ids))]


def _first_that_fit(names: Sequence[str], sizes: Mapping[str, float], budget: float) -> list[str]:
    taken: list[str] = []
    total = 0.0
    for name in names:
        if total + sizes[name] <= budget:
            total += sizes[name]
            taken.append(name)
    return taken
