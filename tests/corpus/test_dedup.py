"""Deduplication in memory: keys, shingles, signatures, bands, verification, clusters, each beside a plain one."""

from __future__ import annotations

import random
import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.corpus.dedup.exact import (
    cut_paragraphs,
    exact_duplicates,
    normalise,
    normalise_url,
    paragraph_keys,
    text_key,
    url_key,
)
from groundup.corpus.dedup.near import (
    MAX_FUNCTIONS,
    Shingles,
    band_keys,
    bands_for,
    candidate_pairs,
    components,
    find_near_duplicates,
    jaccard,
    shingle,
    shingles_of,
    signatures,
    verify,
)

WORDS = [f"w{number}" for number in range(40)]
texts = st.lists(st.lists(st.sampled_from(WORDS[:6]), max_size=14).map(" ".join), max_size=12)


def five_grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    size = min(5, len(words))
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)} if words else set()


def true_jaccard(a: str, b: str) -> float:
    first, second = five_grams(a), five_grams(b)
    return len(first & second) / len(first | second) if first | second else 0.0


def groups_of(cluster: list[int]) -> set[frozenset[int]]:
    members: dict[int, set[int]] = {}
    for place, stands in enumerate(cluster):
        members.setdefault(stands, set()).add(place)
    return {frozenset(one) for one in members.values()}


def connected(count: int, edges: list[tuple[int, int]]) -> set[frozenset[int]]:
    groups = [{place} for place in range(count)]
    for a, b in edges:
        first = next(group for group in groups if a in group)
        second = next(group for group in groups if b in group)
        if first is not second:
            first |= second
            groups.remove(second)
    return {frozenset(group) for group in groups}


def family(rng: random.Random, edits: list[float], words: int = 120) -> list[str]:
    """A text of random words and copies of it, each with this share of the words changed."""
    base = [rng.choice("abcdefghijklmnopqrstuvwxyz") * rng.randint(1, 4) for _ in range(words)]
    copies = []
    for share in edits:
        copy = list(base)
        for place in rng.sample(range(words), round(share * words)):
            copy[place] = f"x{rng.randint(0, 10**6)}"
        copies.append(" ".join(copy))
    return [" ".join(base), *copies]


# ---------------------------------------------------------------- shingles and signatures


@given(texts)
def test_shingles_of_a_batch_are_the_distinct_word_five_grams_of_each_text(batch: list[str]) -> None:
    shingles = shingle(batch)
    assert len(shingles) == len(batch)
    seen: dict[int, tuple[str, ...]] = {}
    for place, text in enumerate(batch):
        own = shingles.of(place)
        grams = five_grams(text)
        assert own.tolist() == sorted(set(own.tolist()))
        assert len(own) == len(grams)
        assert np.array_equal(own, shingles_of(text))
        if len(grams) == 1:  # equal hashes stand for equal grams, in whatever text
            (hash_,), (gram,) = own.tolist(), grams
            assert seen.setdefault(hash_, gram) == gram


@given(st.text(max_size=60), st.text(max_size=60))
def test_shingles_of_any_text_do_not_depend_on_what_stands_beside_it(a: str, b: str) -> None:
    both = shingle([a, b, a])
    for place, text in enumerate((a, b, a)):
        assert np.array_equal(both.of(place), shingles_of(text))


@given(texts, texts)
def test_jaccard_is_that_of_the_sets(left: list[str], right: list[str]) -> None:
    for a, b in zip(left, right, strict=False):
        assert jaccard(shingles_of(a), shingles_of(b)) == pytest.approx(true_jaccard(a, b))


def test_signatures_are_minima_however_long_the_documents_are() -> None:
    rng = np.random.default_rng(3)
    sizes = [0, 1, 40_000, 3, 0, 20_000, 16_384, 1, 0]  # some longer than the block that is hashed at a time
    values = [np.unique(rng.integers(0, 2**64, size, dtype=np.uint64)) for size in sizes]
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int64)
    signature = signatures(Shingles(np.concatenate(values), offsets), 7, seed=5)
    multipliers = np.random.default_rng(5).integers(0, 2**31, 7, dtype=np.uint32).astype(np.uint64) * 2 + 1
    for place, own in enumerate(values):
        hashed = [((own >> np.uint64(32)) * one) % np.uint64(2**32) for one in multipliers]
        assert signature[place].tolist() == [int(one.min(initial=2**32 - 1)) for one in hashed]


def test_the_share_of_equal_rows_estimates_the_similarity() -> None:
    rng = random.Random(7)
    errors = []
    for share in (0.005, 0.01, 0.02, 0.04, 0.08, 0.16):
        for _ in range(8):
            pair = family(rng, [share], words=400)
            signature = signatures(shingle(pair), 176)
            errors.append(float((signature[0] == signature[1]).mean()) - true_jaccard(*pair))
    assert abs(np.mean(errors)) < 0.01  # 48 pairs of 176 rows: the standard error is below 0.005
    assert np.std(errors) < 0.05


@pytest.mark.parametrize("threshold", [0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0])
def test_bands_find_what_the_threshold_asks_for_and_little_else(threshold: float) -> None:
    bands = bands_for(threshold)
    assert bands.functions <= MAX_FUNCTIONS
    assert bands.chance(min(threshold, 0.999)) >= 0.9995
    assert bands.chance(threshold / 3) < 0.75
    if threshold >= 0.7:
        assert bands.chance(threshold / 3) < 0.1


def test_a_threshold_that_no_bands_can_serve_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.2 is not between"):
        bands_for(0.2)


def test_keys_of_different_bands_differ_even_for_equal_rows() -> None:
    bands = bands_for(0.8)
    keys = band_keys(np.zeros((2, bands.functions), np.uint32), bands)
    assert len(set(keys[0].tolist())) == bands.bands
    assert np.array_equal(keys[0], keys[1])


# ---------------------------------------------------------------- candidates, verification, components


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=40))
def test_candidates_are_all_pairs_that_share_a_key(entries: list[tuple[int, int]]) -> None:
    keys = np.array([key for key, _ in entries], np.uint64)
    documents = np.array([document for _, document in entries], np.int64)
    expected = {(min(a, b), max(a, b)) for (k, a), (q, b) in combinations(entries, 2) if k == q and a != b}
    found = candidate_pairs(keys, documents)
    assert [tuple(pair) for pair in found.tolist()] == sorted(expected)


def test_a_large_bucket_gives_few_pairs_and_still_one_cluster() -> None:
    documents = np.random.default_rng(0).permutation(5000).astype(np.int64)
    pairs = candidate_pairs(np.full(5000, 7, np.uint64), documents)
    assert len(pairs) < 2 * 5000
    assert set(components(5000, pairs).tolist()) == {0}


@given(st.integers(1, 25), st.data())
def test_components_are_those_of_a_plain_union(count: int, data: st.DataObject) -> None:
    place = st.integers(0, count - 1)
    edges = data.draw(st.lists(st.tuples(place, place), max_size=40))
    found = components(count, np.array(edges, np.int64).reshape(-1, 2))
    assert groups_of(found.tolist()) == connected(count, edges)
    assert all(root <= own for own, root in enumerate(found.tolist()))


def test_components_of_a_long_chain_in_any_order() -> None:
    chain = np.random.default_rng(1).permutation(3000)
    assert set(components(3000, np.stack((chain[:-1], chain[1:]), axis=1)).tolist()) == {0}


def test_a_family_of_copies_costs_as_many_comparisons_as_it_has_copies() -> None:
    pairs = np.array(list(combinations(range(50), 2)), np.int64)
    same = np.arange(30, dtype=np.uint64)
    found = verify(pairs, lambda _: 30, lambda _: same, 0.8)
    assert (found.compared, len(found.edges)) == (49, 49)


def test_sizes_alone_rule_out_pairs_without_reading_them() -> None:
    def unread(document: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        raise AssertionError(f"the shingles of {document} were read")

    found = verify(np.array([[0, 1]]), lambda document: (10, 13)[document], unread, 0.8)
    assert (found.compared, len(found.edges)) == (1, 0)


# ---------------------------------------------------------------- all of it


@settings(derandomize=True, max_examples=60)
@given(st.randoms(use_true_random=False), st.sampled_from([0.5, 0.7, 0.8, 0.9]))
def test_clusters_equal_brute_force_whatever_the_order(rng: random.Random, threshold: float) -> None:
    documents = [
        text
        for _ in range(3)
        for text in family(rng, [rng.choice([0, 0.005, 0.01, 0.02, 0.03, 0.1]) for _ in range(rng.randint(1, 4))])
    ]
    edges = [
        (a, b)
        for a, b in combinations(range(len(documents)), 2)
        if true_jaccard(documents[a], documents[b]) >= threshold
    ]
    found = find_near_duplicates(documents, threshold)
    assert groups_of(found.cluster.tolist()) == connected(len(documents), edges)

    order = list(range(len(documents)))
    rng.shuffle(order)
    shuffled = find_near_duplicates([documents[place] for place in order], threshold)
    unshuffled = {frozenset(order[place] for place in group) for group in groups_of(shuffled.cluster.tolist())}
    assert unshuffled == groups_of(found.cluster.tolist())


def test_of_thousands_of_pairs_none_below_the_threshold_joins_and_hardly_one_above_is_missed() -> None:
    rng = random.Random(11)
    documents = [text for _ in range(400) for text in family(rng, [rng.uniform(0, 0.04), rng.uniform(0, 0.04)])]
    cluster = find_near_duplicates(documents, 0.8).cluster.tolist()
    similar = missed = false = 0
    for base in range(0, len(documents), 3):
        trio = range(base, base + 3)
        edges = {pair for pair in combinations(trio, 2) if true_jaccard(documents[pair[0]], documents[pair[1]]) >= 0.8}
        should = edges if len(edges) < 2 else set(combinations(trio, 2))  # two edges connect the third pair
        together = {(a, b) for a, b in combinations(trio, 2) if cluster[a] == cluster[b]}
        similar += len(should)
        missed += len(should - together)
        false += len(together - should)
    assert all(place - stands < 3 for place, stands in enumerate(cluster)), "families do not mix"
    assert similar > 400
    assert false == 0
    assert missed <= similar * 0.001


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_pages_of_one_template_are_kept_and_duplicates_among_them_are_found(share: float) -> None:
    """Many such pages fall into one bucket, which is not compared pair by pair: other bands must find the copies."""
    rng = random.Random(1)
    vocabulary = [f"w{number}" for number in range(5000)]
    template = rng.choices(vocabulary, k=round(300 * share))
    pages = [template + rng.choices(vocabulary, k=300 - len(template)) for _ in range(1200)]
    copies = []
    for page in pages[:60]:
        copy = list(page)
        for place in rng.sample(range(len(template), 300), 2):
            copy[place] = "changed"
        copies.append(copy)
    found = find_near_duplicates([" ".join(words) for words in pages + copies], 0.8)
    assert found.cluster.tolist() == [*range(1200), *range(60)]
    assert found.candidates < 20 * 1200, "not 1200^2 / 2"


# ---------------------------------------------------------------- keys of texts, addresses, paragraphs


@given(st.text(max_size=80))
def test_the_short_cut_for_ascii_normalises_as_the_long_way_does(text: str) -> None:
    ascii_text = text.encode("ascii", "replace").decode()
    assert normalise(ascii_text) == normalise(ascii_text + "\u00e9").removesuffix("\u00e9").strip()


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://www.Example.org:80/a/index.html", "https://example.org/a/"),
        ("https://example.org/a?utm_source=x&b=2&a=1#top", "https://example.org/a/?a=1&b=2"),
        ("https://example.org/%7Euser/caf%C3%A9", "https://example.org/~user/caf\u00e9"),
        ("https://example.org/a;jsessionid=0AF3?PHPSESSID=9", "https://example.org/a"),
        ("https://example.org", "http://www.example.org/"),
    ],
)
def test_addresses_of_one_page_are_one(url: str, same: str) -> None:
    assert normalise_url(url) == normalise_url(same) != ""
    assert url_key(url) == url_key(same) is not None


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("https://example.org/a?id=1", "https://example.org/a?id=2"),
        ("https://example.org/A", "https://example.org/a"),  # servers may tell them apart
        ("https://example.org:8080/", "https://example.org/"),
        ("https://example.org/#!/one", "https://example.org/#!/two"),
        ("https://example.org/a%2Fb", "https://example.org/a/b"),
        ("https://example.org/?a=", "https://example.org/"),
    ],
)
def test_addresses_of_different_pages_stay_apart(url: str, other: str) -> None:
    assert normalise_url(url) != normalise_url(other)


@pytest.mark.parametrize("url", ["", "package:doc/1", "ftp://example.org/a", "https://", "http://[bad", "http://a:b/"])
def test_what_is_no_address_is_a_duplicate_of_nothing(url: str) -> None:
    assert url_key(url) is None
    assert exact_duplicates([url_key(url), url_key(url)]) == [None, None]


@given(st.text(max_size=60).filter(lambda text: "://" not in text), st.sampled_from(["a=1", "a=1&b=%20", ""]))
def test_normalising_an_address_twice_changes_nothing(path: str, query: str) -> None:
    once = normalise_url(f"https://example.org/{path}?{query}")
    assert normalise_url(f"https://{once}") == once


def test_paragraphs_are_cut_by_number() -> None:
    long = "Some words that make this paragraph longer than a hundred characters, " * 2
    text = f"Title\n\n{long}\n\nshort\n\n{long}end"
    numbers = [number for number, _ in paragraph_keys(text)]
    assert numbers == [1, 3]
    assert cut_paragraphs(text, {1}) == f"Title\n\nshort\n\n{long}end"
    assert cut_paragraphs(text, set()) == text


def test_in_code_punctuation_and_case_tell_texts_apart_and_spacing_does_not() -> None:
    assert text_key("a = B [1]") == text_key("A: b, 1")
    assert text_key("a = B [1]", is_code=True) != text_key("A: b, 1", is_code=True)
    assert text_key("a = 1\n\tb", is_code=True) == text_key("a = 1\n    b", is_code=True)
