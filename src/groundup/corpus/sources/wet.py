"""Common Crawl's extracted text (WET): a conversion record per page, read as any other web archive."""

from __future__ import annotations

from groundup.corpus.sources.warc import pieces as pieces
from groundup.corpus.sources.warc import read as read
