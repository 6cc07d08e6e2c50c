"""Models that look at texts: trained in the build, or taken as they are; and what they say of a shard's documents.

train_classifier  good texts and bad ones (a sample of the corpus itself) -> a quality classifier's folder
train_perplexity  reference texts                                         -> an n-gram model's folder
train_toxicity    labelled rows, a sample of the corpus as not toxic      -> a toxicity model's folder
train_names       labelled sentences                                      -> a name tagger's folder
score             text shard, models                                      -> a column per model and category
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from heapq import nsmallest
from pathlib import Path
from typing import Any

import pyarrow as pa

from groundup.corpus.document import Document, sound
from groundup.corpus.phases.documents import numbered_rows, source_of
from groundup.corpus.pii import names as people
from groundup.corpus.quality import classifier, perplexity, toxicity
from groundup.corpus.quality.labelled import labelled_rows
from groundup.corpus.shards import BATCH_ROWS, ShardWriter, read_rows
from groundup.corpus.sources import read_source
from groundup.corpus.tasks import Task
from groundup.corpus.texts import raw_to_text

CLASSIFIER, PERPLEXITY = "classifier_score", "perplexity"
TOXICITY = "toxicity_"  # before the name of a category


def _reference(settings: Mapping[str, Any], task: Task, most: int) -> Iterator[str]:
    """The first `most` texts of a source that a model learns from."""
    found = 0
    for one in read_source(source_of(json.dumps(settings)), Path(task.hints["cache"]), None, Counter()):
        if found >= most:
            return
        if isinstance(one, Document):
            text = raw_to_text(replace(one, text=sound(one.text)), "fast", ())
            if text.strip():
                found += 1
                yield text


def _sample(paths: Sequence[Path], most: int, languages: Sequence[str], least: int = 0) -> list[str]:
    """Texts of the corpus itself, by a hash of their ids: the same whatever the order of the shards.

    At most a fifth of a corpus, but `least`: what a model has learned as bad it scores lower than its like.
    """
    number = 0

    def candidates() -> Iterator[tuple[bytes, str]]:
        nonlocal number
        for path in paths:
            for row in read_rows(path, ("id", "text", "media", "language")):
                if row["media"] != "code" and (not languages or row["language"] in languages):
                    number += 1
                    yield sha256(row["id"].encode()).digest(), row["text"]

    chosen = nsmallest(most, candidates())
    return [text for _, text in chosen[: max(least, number // 5)]]


def train_classifier(task: Task, out: Path) -> dict[str, Any]:
    options = task.options
    good = list(_reference(options["good"], task, options["documents"]))
    if options["bad"]:
        bad = list(_reference(options["bad"], task, options["documents"]))
    else:
        bad = _sample(task.paths(), options["documents"], options["languages"], least=100)
    model = classifier.train(good, bad, out, precision=options["precision"], share=options["keep_share"])
    return {"documents": len(good) + len(bad), "measured": vars(model.measured)}


def train_perplexity(task: Task, out: Path) -> dict[str, Any]:
    options = task.options
    texts = list(_reference(options["reference"], task, options["documents"]))
    model = perplexity.train(texts, out, language=options["language"])
    return {"documents": len(texts), "words": model.words}


def train_toxicity(task: Task, out: Path) -> dict[str, Any]:
    options = task.options
    rows = labelled_rows(Path(task.hints["path"]))
    ordinary = _sample(task.paths(), options["background"], options["languages"])
    own = {"precision": options["precision"], "prevalence": options["prevalence"]}
    report = toxicity.train(rows, out, background=ordinary, **own)
    return {"documents": len(rows), "background": len(ordinary), "report": report}


def train_names(task: Task, out: Path) -> dict[str, Any]:
    sentences = people.read_iob2(Path(task.hints["path"]))
    report = people.train_names(sentences, out, precision=task.options["precision"])
    return {"documents": len(sentences), "report": report}


# ---------------------------------------------------------------- scores


@lru_cache(maxsize=4)
def _load(kind: str, folder: str) -> Any:
    return {"classifier": classifier.load, "perplexity": perplexity.load, "toxicity": toxicity.load}[kind](Path(folder))


def score(task: Task, out: Path) -> dict[str, Any]:
    """scores.parquet: a row for each row of the text shard; null where a model has nothing to say about a document."""
    models = {kind: _load(kind, str(Path(task.root) / folder)) for kind, folder in task.hints["models"].items()}
    names = [CLASSIFIER] * ("classifier" in models) + [PERPLEXITY] * ("perplexity" in models)
    if "toxicity" in models:
        names += [f"{TOXICITY}{category}" for category in (*models["toxicity"].categories, "word_list")]
    schema = pa.schema([(name, pa.float64()) for name in names])
    documents = size = 0
    with ShardWriter(out / "scores.parquet", schema) as writer:
        batch: list[dict[str, Any]] = []
        for number, row in numbered_rows(task, task.paths()[0]):
            # what kills a model's process is not shown to it: nothing is said of it
            batch.append({**row, "media": "code"} if number in task.without else row)
            documents += 1
            size += len(row["text"])
            if len(batch) == BATCH_ROWS:
                _score_batch(batch, models, writer, names, task.options["languages"])
                batch = []
        _score_batch(batch, models, writer, names, task.options["languages"])
    return {"documents": documents, "bytes_in": size, "bytes_out": documents * 8 * len(names)}


def _score_batch(
    rows: Sequence[Mapping[str, Any]],
    models: Mapping[str, Any],
    writer: ShardWriter,
    names: Sequence[str],
    languages: Sequence[str],
) -> None:
    found: list[dict[str, float | None]] = [dict.fromkeys(names) for _ in rows]
    is_prose = [
        row["media"] != "code" and (not languages or not row["language"] or row["language"] in languages)
        for row in rows
    ]
    for kind, model in models.items():
        language = getattr(model, "language", "")  # an n-gram model of English knows nothing about French
        places = [place for place, asked in enumerate(is_prose) if asked and language in ("", rows[place]["language"])]
        scores: Any = model.score([rows[place]["text"] for place in places]) if places else []
        if kind == "toxicity" and places:
            for category, values in scores.items():
                for place, value in zip(places, values.tolist(), strict=True):
                    found[place][f"{TOXICITY}{category}"] = value
        elif places:
            for place, value in zip(places, scores.tolist(), strict=True):
                found[place][CLASSIFIER if kind == "classifier" else PERPLEXITY] = None if math.isnan(value) else value
    for row in found:
        writer.write(row)
