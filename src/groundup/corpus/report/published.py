"""What well-known pipelines kept of what they read, to stand beside a build's own keep-rates.

All of them start from Common Crawl, so they say something about web sources only; what each share is of differs, and is
said. Shares that the papers do not print are the quotient of two figures that they do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """`kept` is a share of `of`, after `steps`."""

    name: str
    kept: float
    of: str
    steps: str
    source: str


PUBLISHED: tuple[Published, ...] = (
    Published(
        "RefinedWeb",
        0.11,
        "documents of Common Crawl",
        "URL list, extraction, English, quality rules, MinHash, exact substrings",
        "Penedo et al. 2023, arXiv 2306.01116: nearly 90 % of the documents removed",
    ),
    Published(
        "Dolma: CCNet",
        0.158,
        "bytes of Common Crawl's text",
        "English, repeated paragraphs of a snapshot (CCNet)",
        "Soldaini et al. 2024, arXiv 2402.00159, 5.1: 175.1 TB to 27.7 TB",
    ),
    Published(
        "Dolma: duplicates",
        0.398,
        "documents after CCNet",
        "same URL (53.2 % removed), same text (14.9 % of the rest)",
        "Soldaini et al. 2024, arXiv 2402.00159, 5.4",
    ),
    Published(
        "FineWeb",
        0.42,
        "tokens after extraction, English and Gopher's rules (36 T)",
        "MinHash within each dump, C4's and FineWeb's own rules",
        "Penedo et al. 2024, arXiv 2406.17557: 15 T of 36 T",
    ),
    Published(
        "FineWeb-Edu",
        0.087,
        "tokens of FineWeb",
        "educational classifier",
        "Penedo et al. 2024, arXiv 2406.17557: 1.3 T of 15 T",
    ),
    Published(
        "DCLM-Baseline",
        0.016,
        "tokens of extracted Common Crawl (240 T)",
        "RefinedWeb's rules, Bloom filter deduplication, best tenth by a fastText classifier",
        "Li et al. 2024, arXiv 2406.11794: 3.8 T of 240 T",
    ),
    Published(
        "RedPajama-V2",
        0.208,
        "documents of Common Crawl in five languages",
        "perplexity against Wikipedia (head and middle kept), exact deduplication",
        "togethercomputer/RedPajama-Data, README: 20.8 of 100 billion documents",
    ),
)


def published_rows() -> list[dict[str, Any]]:
    return [asdict(one) for one in PUBLISHED]
