"""One system of benchmarks/scrub.py, in whatever environment it lives: reads a task, prints what it found and its time.

    python scrub_peer.py groundup|presidio|datatrove|detect-secrets|groundup-secrets|sklearn TASK.json

The task is {"lines": [...], "texts": [...], "files": [...], "speed_only": bool, ...}; the answer {"found": [[[type,
start, end], ...] per line], "seconds": CPU seconds for `texts` or `files`, "alarms": findings in `files`}. Imports and
set-up are not timed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Finder = Callable[[str], list[tuple[str, int, int]]]


def main() -> None:
    system, task = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(sys.stderr):  # some peers print while they are imported
        answer = SYSTEMS[system](task)
    print(json.dumps(answer))


def _groundup(task: dict[str, Any]) -> dict[str, Any]:
    from groundup.corpus.pii import find, scrub
    from groundup.corpus.settings import PII_TYPES

    return _personal(
        task, lambda t: [(f.type, f.start, f.end) for f in find(t, PII_TYPES)], lambda t: scrub(t, PII_TYPES)
    )


def _presidio(task: dict[str, Any]) -> dict[str, Any]:
    """Every recogniser by pattern of the types asked for; no language model, which would find names, not numbers."""
    import logging

    import presidio_analyzer.predefined_recognizers as known

    logging.disable(logging.WARNING)
    types = {"EMAIL_ADDRESS": "email", "IP_ADDRESS": "ip", "IBAN_CODE": "iban", "CREDIT_CARD": "card", "US_SSN": "ssn",
             "PHONE_NUMBER": "phone"}  # fmt: skip
    regions = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "SE", "BR", "IN", "JP")
    recognizers = [known.EmailRecognizer(), known.IpRecognizer(), known.IbanRecognizer(), known.CreditCardRecognizer(),
                   known.UsSsnRecognizer(), known.PhoneRecognizer(supported_regions=regions)]  # fmt: skip
    for name in (
        "UkNino",
        "EsNif",
        "EsNie",
        "ItFiscalCode",
        "PlPesel",
        "SePersonnummer",
        "InAadhaar",
        "InPan",
        "DeTaxId",
    ):
        if recognizer := getattr(known, f"{name}Recognizer", None):
            recognizers.append(recognizer())

    def find(text: str) -> list[tuple[str, int, int]]:
        best: list[Any] = []
        results = [one for r in recognizers for one in r.analyze(text, r.supported_entities, None) if one.score >= 0.4]
        for one in sorted(results, key=lambda one: (-one.score, one.start - one.end)):
            if not any(one.start < other.end and other.start < one.end for other in best):
                best.append(one)
        return [(types.get(one.entity_type, "national_id"), one.start, one.end) for one in best]

    return _personal(task, find, find)


def _datatrove(task: dict[str, Any]) -> dict[str, Any]:
    from datatrove.pipeline.formatters.pii import PIIFormatter

    formatter = PIIFormatter()
    replacers = (("email", formatter.emails_replacer), ("ip", formatter.ip_replacer))

    def find(text: str) -> list[tuple[str, int, int]]:
        return [
            (type, *match.span())
            for type, replacer in replacers
            for match in replacer.regex.finditer(text)
            if replacer.validator is None or replacer.validator(match.group(0))
        ]

    return _personal(task, find, formatter.format)


def _personal(task: dict[str, Any], find: Finder, scrub: Callable[[str], Any]) -> dict[str, Any]:
    found = [] if task["speed_only"] else [find(line) for line in task["lines"]]
    started = time.process_time()
    for text in task["texts"]:
        scrub(text)
    return {"found": found, "seconds": time.process_time() - started}


def _groundup_secrets(task: dict[str, Any]) -> dict[str, Any]:
    from groundup.corpus.pii.secrets import find_secrets

    found = [] if task["speed_only"] else [[("secret", s.start, s.end) for s in find_secrets(t)] for t in task["lines"]]
    texts = [Path(name).read_text(encoding="utf-8", errors="replace") for name in task["files"]]
    started = time.process_time()
    alarms = sum(len(find_secrets(text)) for text in texts)
    return {"found": found, "seconds": time.process_time() - started, "alarms": alarms}


def _detect_secrets(task: dict[str, Any]) -> dict[str, Any]:
    """A secret counts as found if anything in its lines is, in a file or by themselves: the peer names no place."""
    from detect_secrets.core.scan import scan_file, scan_line
    from detect_secrets.settings import default_settings

    with default_settings(), tempfile.TemporaryDirectory() as folder:
        found: list[list[tuple[str, int, int]]] = []
        if not task["speed_only"]:
            starts, at = {}, 1
            for place, line in enumerate(task["lines"]):
                starts.update(dict.fromkeys(range(at, at + line.count("\n")), place))
                at += line.count("\n")
            path = Path(folder) / "settings.txt"
            path.write_text("".join(task["lines"]), encoding="utf-8")
            found = [[] for _ in task["lines"]]
            for secret in scan_file(str(path)):
                place = starts[secret.line_number]
                found[place].append(("secret", 0, len(task["lines"][place])))
            for place, line in enumerate(task["lines"]):
                if not found[place] and any(secret.secret_value for secret in scan_line(line.rstrip("\n"))):
                    found[place].append(("secret", 0, len(line)))
        started = time.process_time()
        alarms = sum(sum(1 for _ in scan_file(name)) for name in task["files"])
        return {"found": found, "seconds": time.process_time() - started, "alarms": alarms}


def _sklearn(task: dict[str, Any]) -> dict[str, Any]:
    """The linear bag-of-words baseline: TF-IDF of words, logistic regression. Scores of each test set."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = TfidfVectorizer(sublinear_tf=True)
    train = vectors.fit_transform(task["train"])
    tests = {name: vectors.transform(texts) for name, texts in task["tests"].items()}
    strength = {"hate": 1.0, "toxic": 10.0}  # the better of 1 and 10 for each, in cross-validation: its best side
    scores = {}
    for name, labels in task["labels"].items():
        model = LogisticRegression(C=strength[name], max_iter=300).fit(train, labels)
        scores[name] = {test: model.decision_function(rows).tolist() for test, rows in tests.items()}
    return {"scores": scores}


def _alt_profanity(task: dict[str, Any]) -> dict[str, Any]:
    from profanity_check import predict_prob

    return {"scores": {test: [float(one) for one in predict_prob(texts)] for test, texts in task["tests"].items()}}


SYSTEMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "groundup": _groundup,
    "presidio": _presidio,
    "datatrove": _datatrove,
    "groundup-secrets": _groundup_secrets,
    "detect-secrets": _detect_secrets,
    "sklearn": _sklearn,
    "alt-profanity-check": _alt_profanity,
}

if __name__ == "__main__":
    main()
