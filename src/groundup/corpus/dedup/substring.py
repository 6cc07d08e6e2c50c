"""Repeated spans: runs of at least N words that stand earlier in the corpus, in whatever document, are cut.

Lee et al. (2022), "Deduplicating training data makes language models better", find them with a suffix array of the
whole corpus in memory. Here they are found by fingerprints, from files to files, with the same result on words: every
window of N words that stands earlier is found, exactly (64-bit hashes), and none that does not.

A run of N/2 words is an anchor where its hash is the smallest of its surroundings (winnowing: Schleimer, Wilkerson,
Aiken 2003). Which runs are chosen depends on the N words around them alone, so equal windows have equal anchors, and
about one word in N/4 begins one. Of anchors that occur more than once, every window of N words around is compared.

  shard task   texts          -> word hashes, and the anchors sorted by hash
  group task   a range of hashes, of all shards -> CUTS in words, `read_documents(..., CUTS)` gives a shard's
  last task    text and its cuts -> `cut_words`

Memory: a shard's word hashes (1.3 bytes per byte of text); a group's anchors, and _CHUNK of them with the words around.
Ten thousand copies of one text should be gone before: every copy's anchors are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundup.corpus.dedup.keytable import (
    CUTS,
    Group,
    ShardFiles,
    Table,
    holds,
    map_array,
    read_group,
    table_of,
    write_array,
    write_table,
)
from groundup.corpus.dedup.near import Places, hashed_words, offsets_of
from groundup.corpus.words import Hashes, mix, ngrams, words_in

SPAN_WORDS = 50
ANCHORS = np.dtype([("key", "<u8"), ("row", "<u4"), ("place", "<u4")])
_CHUNK = 20_000  # anchors whose surroundings are in memory at a time: about 30 MB


class SpanFiles(ShardFiles):
    """What one shard's repeated spans are looked for by."""

    @property
    def words(self) -> Path:
        return self.array("words")

    @property
    def offsets(self) -> Path:
        return self.array("word_offsets")

    @property
    def anchors(self) -> Path:
        return self.array("anchors")


# ---------------------------------------------------------------- one shard


def write_anchors(texts: Iterable[str], files: SpanFiles, span_words: int = SPAN_WORDS) -> dict[str, int]:
    """Shard task: word hashes and anchors of the shard's texts. Returns counts. `span_words` >= 4."""
    batches = list(hashed_words(texts))
    words = np.concatenate([np.empty(0, np.uint64), *(own for own, _ in batches)])
    offsets = offsets_of(np.concatenate([np.empty(0, np.int64), *(np.diff(bounds) for _, bounds in batches)]))
    tables = [
        _anchors_of(words[first:last], row, span_words)
        for row, (first, last) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    ]
    write_array(files.words, words)
    write_array(files.offsets, offsets)
    anchors = write_table(files.anchors, np.concatenate([np.empty(0, ANCHORS), *tables]))
    return {"documents": len(offsets) - 1, "words": len(words), "anchors": anchors}


def _anchors_of(words: Hashes, row: int, span_words: int) -> Table:
    if len(words) < span_words:
        return np.empty(0, ANCHORS)
    anchor_words = span_words // 2
    grams = ngrams(words, anchor_words)
    window = span_words - anchor_words + 1  # anchors that begin in one span
    smallest = _sliding(np.minimum, grams, window)
    # A gram is chosen where some window of which it is the smallest is all inside the text.
    padding = np.zeros(window - 1, np.uint64)
    places = np.flatnonzero(_sliding(np.maximum, np.concatenate((padding, smallest, padding)), window) == grams)
    # Minima are small numbers: mixed, they spread over all groups again.
    return table_of(ANCHORS, key=mix(grams[places]), row=np.full(len(places), row), place=places)


def _sliding(smaller_or_larger: np.ufunc, values: Hashes, window: int) -> Hashes:
    """(n - window + 1,) of each window, by doubling: log2(window) passes instead of `window`."""
    count = len(values) - window + 1
    covered = 1
    while covered * 2 <= window:
        values = smaller_or_larger(values[:-covered], values[covered:])
        covered *= 2
    result: Hashes = smaller_or_larger(values[:count], values[window - covered :][:count])
    return result


# ---------------------------------------------------------------- one group


def write_span_cuts(
    shards: Sequence[SpanFiles],
    bases: Sequence[int],
    dropped: Sequence[Path],
    group: Group,
    out: Path,
    span_words: int = SPAN_WORDS,
) -> dict[str, int]:
    """Group task: spans of words that stand earlier in the corpus, around the anchors of this group, to `out` (CUTS).

    Documents in the `dropped` tables are not looked at. A span may be cut by several groups: `cut_words` takes that.
    """
    slices = read_group([shard.anchors for shard in shards], group)
    anchors = np.concatenate([np.empty(0, ANCHORS), *slices])
    owners = np.repeat(np.arange(len(slices)), [len(one) for one in slices]).astype(np.int64)
    documents = anchors["row"].astype(np.int64) + np.asarray(bases, np.int64)[owners]
    order = np.lexsort((anchors["place"], documents, anchors["key"]))
    if dropped:
        order = order[~holds(dropped, documents[order])]
    keys = anchors["key"][order]
    is_repeated = np.zeros(len(keys), bool)
    same = keys[1:] == keys[:-1]
    is_repeated[1:] |= same
    is_repeated[:-1] |= same
    order, keys = order[is_repeated], keys[is_repeated]
    cuts = [np.empty(0, CUTS)]
    for first, last in _chunks(keys):
        chosen = order[first:last]
        around = _around(shards, owners[chosen], anchors["row"][chosen], anchors["place"][chosen], span_words)
        cuts.append(_repeated_windows(*around, documents[chosen], keys[first:last], span_words))
    table = merge_cuts(np.concatenate(cuts))
    return {"anchors": len(anchors), "repeated_anchors": len(order), "cuts": write_table(out, table)}


def _chunks(keys: Hashes) -> list[tuple[int, int]]:
    """(first, last) of about _CHUNK entries; entries of one key stay together."""
    ends = np.append(np.flatnonzero(keys[1:] != keys[:-1]) + 1, len(keys))
    chunks: list[tuple[int, int]] = []
    first = 0
    while first < len(keys):
        place = int(np.searchsorted(ends, first + _CHUNK, side="right")) - 1
        last = int(ends[place]) if place >= 0 and ends[place] > first else int(ends[np.searchsorted(ends, first + 1)])
        chunks.append((first, last))
        first = last
    return chunks


def _around(
    shards: Sequence[SpanFiles],
    owners: Places,
    rows: NDArray[np.uint32],
    places: NDArray[np.uint32],
    span_words: int,
) -> tuple[Hashes, Places, NDArray[np.bool_]]:
    """The words that share a span with each anchor: (anchors, 2N - N/2) hashes, their places, which of them exist."""
    before = span_words - span_words // 2
    positions = places.astype(np.int64)[:, None] + np.arange(-before, span_words)
    hashes = np.zeros(positions.shape, np.uint64)
    exists = np.zeros(positions.shape, bool)
    for shard in np.unique(owners).tolist():
        own = np.flatnonzero(owners == shard)
        offsets, words = map_array(shards[shard].offsets), map_array(shards[shard].words)
        begins = np.asarray(offsets[rows[own]])[:, None]
        ends = np.asarray(offsets[rows[own].astype(np.int64) + 1])[:, None]
        wanted = begins + positions[own]
        exists[own] = (positions[own] >= 0) & (wanted < ends)
        hashes[own] = words[np.clip(wanted, begins, ends - 1)]
    return hashes, positions, exists


def _repeated_windows(
    hashes: Hashes,
    positions: Places,
    exists: NDArray[np.bool_],
    documents: Places,
    keys: Hashes,
    span_words: int,
) -> Table:
    """CUTS: every window of N words around these anchors that stands earlier around an anchor of the same key."""
    windows = hashes.shape[1] - span_words + 1
    grams = ngrams(np.ascontiguousarray(hashes.T), span_words).T  # along the words of each anchor
    is_whole = exists[:, :windows] & exists[:, span_words - 1 :]
    gram, start = grams[is_whole], positions[:, :windows][is_whole]
    document = np.broadcast_to(documents[:, None], is_whole.shape)[is_whole]
    anchor = np.broadcast_to(keys[:, None], is_whole.shape)[is_whole]
    order = np.lexsort((start, document, gram, anchor))
    gram, start, document, anchor = gram[order], start[order], document[order], anchor[order]
    begins = np.ones(len(gram), bool)
    begins[1:] = (gram[1:] != gram[:-1]) | (anchor[1:] != anchor[:-1])
    firsts = np.flatnonzero(begins)
    first = np.repeat(firsts, np.diff(np.append(firsts, len(gram))))
    # A text that repeats itself without a break overlaps with what stays: only what is beyond that goes.
    is_same_text = document == document[first]
    cut_from = np.where(is_same_text, np.maximum(start, start[first] + span_words), start)
    goes = ~begins & (cut_from < start + span_words) & ((start != start[first]) | ~is_same_text)
    return table_of(CUTS, document=document[goes], start=cut_from[goes], end=start[goes] + span_words)


def merge_cuts(cuts: Table) -> Table:
    """The same words, each once: overlapping and touching spans of a document become one. Sorted."""
    cuts = cuts[np.lexsort((cuts["start"], cuts["document"]))]
    if not len(cuts):
        return cuts
    # Ends grow along a document; a large step per document keeps one's ends from reaching into the next.
    step = int(cuts["end"].max()) + 1
    number = np.cumsum(np.concatenate(([0], cuts["document"][1:] != cuts["document"][:-1]))) * step
    reach = np.maximum.accumulate(cuts["end"] + number)
    begins = np.flatnonzero(np.concatenate(([True], (cuts["start"] + number)[1:] > reach[:-1])))
    lasts = np.append(begins[1:], len(cuts)) - 1
    return table_of(
        CUTS, document=cuts["document"][begins], start=cuts["start"][begins], end=reach[lasts] - number[lasts]
    )


# ---------------------------------------------------------------- texts


def cut_words(text: str, cuts: Iterable[tuple[int, int]]) -> str:
    """The text without these runs of words (first, last + 1), and what stands between them and the next word.

    The runs may overlap and come in any order. Where a run held the end of a line or paragraph, one takes its place.
    """
    spans = np.array([(0, first, last) for first, last in cuts if first < last], CUTS)
    words = words_in(text)
    parts: list[str] = []
    place = 0
    for _, first, last in merge_cuts(spans).tolist():
        if first >= len(words):
            continue
        begin = int(words.starts[first])
        end = int(words.starts[last]) if last < len(words) else len(text)
        parts.append(text[place:begin])
        gone = text[begin:end]
        if begin and text[begin - 1] != "\n":
            parts.append("\n\n" if "\n\n" in gone else "\n" if "\n" in gone else "")
        place = end
    return "".join([*parts, text[place:]])


def find_repeated_spans(texts: Sequence[str], span_words: int = SPAN_WORDS) -> Table:
    """CUTS of texts that fit one machine; `document` is the place in `texts`. The same spans as the groups give."""
    windows, documents, starts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    number = 0
    for words, bounds in hashed_words(texts):
        for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            windows.append(ngrams(words[first:last], span_words))
            documents.append(np.full(len(windows[-1]), number, np.int64))
            starts.append(np.arange(len(windows[-1]), dtype=np.int64))
            number += 1
    hashes, document, start = np.concatenate(windows), np.concatenate(documents), np.concatenate(starts)
    order = np.argsort(hashes, kind="stable")  # entries are in the order of the corpus already
    hashes, document, start = hashes[order], document[order], start[order]
    begins = np.ones(len(hashes), bool)
    begins[1:] = hashes[1:] != hashes[:-1]
    firsts = np.flatnonzero(begins)
    first_of = np.repeat(firsts, np.diff(np.append(firsts, len(hashes))))
    cut_from = np.where(document == document[first_of], np.maximum(start, start[first_of] + span_words), start)
    goes = ~begins & (cut_from < start + span_words)
    table = table_of(CUTS, document=document[goes], start=cut_from[goes], end=start[goes] + span_words)
    return merge_cuts(table)
