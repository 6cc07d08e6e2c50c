"""One extractor in a process of its own: file names in, texts and CPU seconds out, a JSON line each way.

`python extract_worker.py SYSTEM`. It imports groundup only for groundup's own: a peer's environment needs no more
than the peer.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

Extractor = Callable[[str], str]


def main() -> int:
    name = sys.argv[1]
    logging.disable(logging.CRITICAL)
    try:
        package, extractor = make(name)
        extractor("<html><body><p>Everything is imported with the first page.</p></body></html>")
    except ImportError as error:
        print(json.dumps({"absent": str(error)}), flush=True)
        return 0
    print(json.dumps({"version": f"{package} {version(package)}"}), flush=True)
    for line in sys.stdin:
        pages = [Path(path).read_text(encoding="utf-8") for path in json.loads(line)]
        texts, failed = [], 0
        started = time.process_time()
        for page in pages:
            try:
                texts.append(extractor(page) or "")
            except Exception:  # a page that an extractor cannot take has no text: that costs it recall
                texts.append("")
                failed += 1
        seconds = time.process_time() - started
        told = {"texts": texts, "cpu_seconds": seconds, "failed": failed, "peak_memory_bytes": peak_memory_bytes()}
        print(json.dumps(told), flush=True)
    return 0


def make(name: str) -> tuple[str, Extractor]:
    """(package, extractor)."""
    if name.startswith("groundup"):
        from groundup.corpus.extract import main_text

        method, _, languages = name.removeprefix("groundup ").partition(" for ")
        wanted = tuple(languages.split()) if languages else ()
        return "groundup", lambda page: main_text(page, method, wanted)  # type: ignore[arg-type]
    if name.startswith("trafilatura"):
        import trafilatura

        is_fast = name.endswith("fast")
        return (
            "trafilatura",
            lambda page: trafilatura.extract(page, fast=is_fast, include_comments=False, include_tables=True) or "",
        )
    if name == "resiliparse":
        from resiliparse.extract.html2text import extract_plain_text

        return "Resiliparse", lambda page: extract_plain_text(page, main_content=True, links=False)
    if name == "readability":
        from lxml.html import fromstring
        from readability import Document

        return "readability-lxml", lambda page: fromstring(Document(page).summary()).text_content()
    if name == "justext":
        import justext

        words = frozenset().union(*(justext.get_stoplist(language) for language in justext.get_stoplists()))
        return "jusText", lambda page: "\n".join(
            part.text for part in justext.justext(page, words) if not part.is_boilerplate
        )
    sys.exit(f"no extractor {name!r}")


def peak_memory_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    sys.exit(main())
