"""Loaded by every Python that a fault test starts: documents that slow down, crash, hang or eat memory on their word.

GROUNDUP_TEST_LOG: a file that gets a line for each document that is extracted. GROUNDUP_TEST_SLOW: seconds for each.
"""

from __future__ import annotations

import os

if os.environ.get("GROUNDUP_TEST_LOG"):
    import signal
    import time

    from groundup.corpus import texts
    from groundup.corpus.document import Document

    log = os.open(os.environ["GROUNDUP_TEST_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    original = texts.raw_to_text

    def raw_to_text(document: Document, *rest: object) -> str:
        os.write(log, f"{document.id}\n".encode())
        time.sleep(float(os.environ.get("GROUNDUP_TEST_SLOW", "0")))
        if "POISON-KILL" in document.text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "POISON-MEMORY" in document.text:
            bytearray(1 << 50)
        if "POISON-EATS" in document.text:
            eaten = [b"x" * 1_000_000 for _ in range(4_000)]  # written to, so that it is really there
            raise AssertionError(f"nobody minded {len(eaten):,} MB")
        if "POISON-SLOW" in document.text:
            while True:
                pass
        if "POISON-HANG" in document.text:
            sum(range(1 << 60))  # in C, and never back in Python: no signal is looked at
        if "POISON-ERROR" in document.text:
            raise ValueError("this page has no end")
        return original(document, *rest)

    texts.raw_to_text = raw_to_text

    # A step without a limit of its own: what it calls hangs in C on its word, and the kernel ends it soon.
    from groundup.corpus import engines, guard, pii

    guard.HANG_SECONDS = 2.0
    engines.SILENT_SECONDS = float(os.environ.get("GROUNDUP_TEST_SILENT", engines.SILENT_SECONDS))
    find = pii.find

    def hanging(text: str, *rest: object, **more: object) -> object:
        if "POISON-SCRUB" in text:
            sum(range(1 << 60))
        return find(text, *rest, **more)

    pii.find = hanging
