"""Names of people by a small trained tagger: optional, off by default, English as far as its training text is.

Every capitalised word is judged on its own, by hashed features of itself and its neighbours (a short list of given
names among them); neighbouring names are one.
Trained on sentences with labelled people (IOB2 files such as UNER's), in seconds. No more than that: it knows no
surnames and misses names in small letters. A model is a folder (`names.json`, `weights.npy`) that cannot run code.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from groundup.corpus.pii.network import Span
from groundup.corpus.quality import linear
from groundup.corpus.quality.saved import load_saved
from groundup.errors import UserError

FORMAT = "groundup-names-1"
FEWEST_NAMES = 50  # words of them
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[^\w\s]")
# Common given names of many countries, ours and short: a feature among others, so that few sentences can teach much.
_GIVEN_NAMES = """
    james john robert michael william david richard joseph thomas charles daniel matthew anthony mark paul
    steven andrew kenneth george brian edward ronald kevin jason jeff jeffrey ryan jacob gary eric stephen
    jonathan larry justin scott brandon ben benjamin samuel sam gregory frank alexander alex patrick jack
    dennis jerry tyler aaron henry peter adam nathan zachary kyle walter harold jeremy ethan carl keith roger
    gerald christian sean arthur austin noah jesse joe bryan billy jordan albert dylan bruce willie gabriel
    alan juan logan wayne ralph roy eugene randy vincent russell louis philip bobby johnny bradley mary
    patricia jennifer linda elizabeth barbara susan jessica sarah karen lisa nancy betty sandra margaret
    ashley kimberly emily donna michelle carol amanda melissa deborah stephanie rebecca laura helen sharon
    cynthia kathleen amy angela shirley anna brenda pamela emma nicole samantha katherine christine debra
    rachel carolyn janet maria heather diane olivia julie joyce victoria ruth virginia lauren kelly christina
    joan evelyn judith andrea hannah megan cheryl jacqueline martha madison teresa gloria sara janice ann
    kathryn abigail sophia frances jean alice judy isabella julia grace denise amber marilyn danielle beverly
    charlotte marie tom tim bill bob jim mike dave chris steve matt dan tony nick rick greg ted fred ken ron
    don jane kate katie jenny sue ali ahmed mohammed muhammad mohamed omar hassan hussein ibrahim yusuf fatima
    aisha layla khalid wei ming li chen hiroshi kenji yuki akira sakura raj ravi amit sunil priya anita deepak
    sanjay vijay lakshmi hans klaus jurgen wolfgang stefan andreas heike sabine petra pierre jacques francois
    michel philippe claude nathalie isabelle sophie camille carlos jose luis miguel pedro pablo javier diego
    ana carmen lucia elena giovanni giuseppe marco luca paolo giulia francesca ivan dmitri sergei vladimir
    boris olga natasha tatiana lars erik sven ingrid astrid bjorn piotr jan katarzyna agnieszka joao paulo
    fernando ricardo beatriz mehmet mustafa emre ayse kofi kwame chinedu ngozi thabo nina allen martin
"""
_GIVEN = frozenset(_GIVEN_NAMES.split())
_TITLES = frozenset(
    ("mr", "mrs", "ms", "miss", "dr", "prof", "sir", "president", "senator", "judge", "dear", "herr", "frau")
)
Sentence = tuple[list[str], list[bool]]  # words, and whether each is part of a person's name


@dataclass(frozen=True)
class NameTagger:
    """`threshold`: log odds from which on a word is a name."""

    weights: npt.NDArray[np.float32]
    threshold: float

    def people(self, text: str) -> list[Span]:
        """Where names of people stand: characters start..end, neighbouring words together."""
        matches = list(_WORD.finditer(text))
        words = [match[0] for match in matches]
        places = [place for place, word in enumerate(words) if word[0].isupper()]
        odds = linear.log_odds(self.weights, [_features(words, place) for place in places])
        spans: list[Span] = []
        for place, one in zip(places, odds, strict=True):
            if one < self.threshold:
                continue
            start, end = matches[place].span()
            if spans and text[spans[-1][1] : start] in (" ", ". ", "-", "\u00a0"):
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        return spans


def read_iob2(path: Path) -> list[Sentence]:
    """Sentences of an IOB2 file (number, word, tag, tab-separated; also .gz); `B-PER` and `I-PER` are people."""
    opened = gzip.open if path.suffix == ".gz" else open
    sentences: list[Sentence] = []
    words: list[str] = []
    people: list[bool] = []
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate([*file, "\n"], 1):
                fields = line.rstrip("\n").split("\t")
                if not line.strip():
                    if words:
                        sentences.append((words, people))
                    words, people = [], []
                elif not line.startswith("#"):
                    if len(fields) < 3:
                        raise UserError(
                            f"{line!r} has no tag", where=f"{path}:{number}", fix="number, word, tag by tabs"
                        )
                    words.append(fields[1])
                    people.append(fields[2].endswith("PER"))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"cannot read labelled sentences: {error}", where=str(path), fix="give an IOB2 file") from error
    return sentences


def require_names(sentences: Sequence[Sentence]) -> None:
    """UserError where there are fewer than 50 capitalised words of names: too few to learn from."""
    found = sum(
        one and word[:1].isupper() for words, people in sentences for word, one in zip(words, people, strict=True)
    )
    if found < FEWEST_NAMES:
        raise UserError(
            f"{found} words of people's names in {len(sentences)} sentences",
            fix=f"label at least {FEWEST_NAMES} as B-PER or I-PER",
        )


def train_names(
    sentences: Sequence[Sentence], folder: Path, *, precision: float = 0.8, folds: int = 5
) -> dict[str, Any]:
    """A tagger in `folder`, and its report. The threshold reaches `precision` per word in cross-validation.

    Raises UserError where there are fewer than 50 words of names.
    """
    from groundup.corpus.quality.toxicity import threshold_for

    rows, labels, origin = [], [], []
    for number, (words, people) in enumerate(sentences):
        for place, word in enumerate(words):
            if word[:1].isupper():
                rows.append(_features(words, place))
                labels.append(int(people[place]))
                origin.append(number)
    require_names(sentences)
    truth = np.array(labels)
    fold = np.array(origin) * folds // len(sentences)  # neighbouring sentences, so whole pages, stay together
    held_out = np.zeros(len(rows))
    for number in range(folds):
        chosen = [row for row, one in zip(rows, fold, strict=True) if one != number]
        weights = linear.fit(chosen, truth[fold != number], ridge=0.03)
        held_out[fold == number] = linear.log_odds(
            weights, [r for r, one in zip(rows, fold, strict=True) if one == number]
        )
    threshold = threshold_for(truth, held_out, precision)
    if threshold is None:
        raise UserError(f"no threshold reaches a precision of {precision}", fix="label more, or ask for less")
    above = held_out >= threshold
    in_lower_case = sum(
        one and not w[:1].isupper() for words, people in sentences for w, one in zip(words, people, strict=True)
    )
    report = {
        "sentences": len(sentences),
        "name_words": int(truth.sum()) + in_lower_case,
        "precision": float(truth[above].mean()),
        "recall": float((above & (truth == 1)).sum() / (truth.sum() + in_lower_case)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "weights.npy", linear.fit(rows, truth, ridge=0.03), allow_pickle=False)
    facts = {"format": FORMAT, "threshold": threshold, "report": report}
    (folder / "names.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return report


def load_names(folder: Path) -> NameTagger:
    """The tagger that `train_names` left in `folder`. Raises UserError where it is none."""
    facts, weights = load_saved(
        folder,
        "names.json",
        what="name tagger",
        format=FORMAT,
        shape=lambda _: (linear.SIZE + 1,),
        fix="train one with train_names",
    )
    return NameTagger(weights, float(facts["threshold"]))


def _features(words: Sequence[str], place: int) -> linear.Ids:
    word = words[place]
    small = word.lower()

    def near(offset: int) -> str:
        at = place + offset
        return words[at] if 0 <= at < len(words) else "^"

    before, after = near(-1), near(1)
    names = [
        f"w={small}",
        f"shape={_shape(word)}",
        f"given={small in _GIVEN}",
        f"given={small in _GIVEN}{_shape(after)}",
        f"-1given={before.lower() in _GIVEN}{_shape(word)}",
        f"title={(near(-2) if before == '.' else before).lower() in _TITLES}",
        f"size={min(len(word), 8)}",
        f"-1={before.lower()}",
        f"+1={after.lower()}",
        f"-2={near(-2).lower()}",
        f"+2={near(2).lower()}",
        f"-1shape={_shape(before)}",
        f"+1shape={_shape(after)}",
        f"shapes={_shape(before)}{_shape(word)}{_shape(after)}",
        f"-1,w={before.lower()} {small}",
        f"-2-1={near(-2).lower()} {before.lower()}",
        *(f"head={small[:size]}" for size in (2, 3, 4)),
        *(f"tail={small[-size:]}" for size in (1, 2, 3, 4)),
    ]
    return np.unique(
        np.array([zlib.crc32(name.encode("utf-8", "surrogatepass")) % linear.SIZE for name in names], np.int64)
    )


def _shape(word: str) -> str:
    if word == "^":
        return "^"
    if word.isdigit():
        return "9"
    if not word[0].isalpha():
        return word[0]
    return "A" if word.isupper() and len(word) > 1 else "Aa" if word[0].isupper() else "a"
