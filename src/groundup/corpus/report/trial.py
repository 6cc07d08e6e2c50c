"""A few documents through the very steps of a build, in this process and in seconds: for `data preview` and `data why`.

The documents take the place of what the reader would have written; from there on the tasks are those of a build, made
by the same functions from the same settings. So what a trial says is what a build would do, but for two things:
duplicates are looked for among these documents only, and models that the build would train first are left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from groundup.artifacts import StageContext, fingerprint_file, fingerprint_of
from groundup.console import Console
from groundup.corpus.document import Document, Drop
from groundup.corpus.phases import plan, plan_match, plan_models
from groundup.corpus.phases.documents import questions
from groundup.corpus.runner import Runner
from groundup.corpus.settings import CorpusSettings, QualityRules
from groundup.corpus.shards import RAW, ShardWriter, document_of, document_row, read_rows
from groundup.corpus.source_settings import Source
from groundup.corpus.sources import pieces, read_piece
from groundup.corpus.tasks import Done, Task, in_this_process
from groundup.stopping import StopRequest

RAW_CHARS = 2_000
SAMPLE_BYTES = 8_000_000  # of one source: what goes through the steps in some seconds
MORE_PIECES = 30  # besides the first, the middle and the last of a source, where those hold too little


@dataclass
class Tried:
    """What became of one document. `text` is the last that there was of it: final, where it is kept."""

    source: str
    id: str
    url: str
    media: str
    license: str
    raw_bytes: int
    raw_excerpt: str
    text: str = ""
    language: str = ""
    language_score: float | None = None
    signals: dict[str, float | None] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    step: str = ""  # where it was dropped; "" for a document that is kept
    reason: str = ""
    value: float | None = None
    threshold: float | None = None
    excerpt: str = ""  # of the drop: for a duplicate, with the id of the other one

    @property
    def is_kept(self) -> bool:
        return not self.step

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_kept": self.is_kept}


@dataclass
class Sample:
    """What was read of a source: documents, and what its reader passed over."""

    documents: list[Document]
    passed_over: Counter[str]
    notes: Counter[str]


def sample_of(source: Source, cache: Path, count: int) -> Sample:
    """At most `count` documents and SAMPLE_BYTES: from the beginning of the source, its middle and its last piece;
    where these are small, from more pieces all through it.

    Raises what listing and reading the source raise.
    """
    found = Sample([], Counter(), Counter())
    parts = pieces(source, cache)
    places = sorted({0, len(parts) // 2, len(parts) - 1}) if parts else []
    all_through = {number * len(parts) // MORE_PIECES for number in range(MORE_PIECES)} if parts else set()
    # small ones first: what they lack the large ones give
    more = sorted(all_through - set(places), key=lambda place: (parts[place].bytes, place))
    size = 0
    for number, place in enumerate([*places, *more]):
        if len(found.documents) >= count or size >= SAMPLE_BYTES:
            break
        left = len(places) - number + (len(more) if number >= len(places) else 0)
        share = math.ceil((count - len(found.documents)) / left)
        seen: set[str] = {document.id for document in found.documents}
        taken = 0
        for one in islice(read_piece(source, parts[place], found.notes), 50 * count):
            if isinstance(one, Drop):
                found.passed_over[one.reason] += 1
                continue
            if taken >= share or (size + one.bytes > SAMPLE_BYTES and found.documents):
                break
            if one.id not in seen:
                found.documents.append(one)
                seen.add(one.id)
                taken += 1
                size += one.bytes
    return found


def trial(
    settings: CorpusSettings, samples: Mapping[str, Sequence[Document]], root: Path, *, seed: int, cache: Path
) -> list[Tried]:
    """Every document of the samples through the steps, in an empty folder `root`. Raises what the steps raise."""
    settings = _without_models(settings).model_copy(update={"workers": 0, "pii_audit_share": 0.0})
    console = Console(quiet=True)
    runner = Runner(in_this_process, root, console, 1.0)
    context = StageContext("trial", root, {}, seed, cache, console, StopRequest(), root)
    read = [_as_read(root, name, documents) for name, documents in samples.items() if documents]
    found = {
        (name, document.id): _begun(name, document) for name, documents in samples.items() for document in documents
    }
    if not read:
        return []
    extracted = runner.phase("extract", plan.extract_tasks(settings, read, root))
    models = plan_models.train(settings, context, extracted, runner)
    scored = runner.phase("score", plan_models.score_tasks(settings, extracted, models))
    thresholds = (models.classifier_threshold, models.toxicity_thresholds)
    filtered = runner.phase("filter", plan.filter_tasks(settings, extracted, scored, *thresholds))
    keys = runner.phase("keys", plan.keys_tasks(settings, filtered))
    verdicts = plan_match.match(settings, filtered, keys, runner)
    exams = plan.exam_index(settings, context, runner, [])
    finished = runner.phase("finish", plan.finish_tasks(settings, filtered, verdicts, exams, models.names))
    scores = [dict(row) for _, row in _rows(scored, "scores.parquet")]
    for number, (source, row) in enumerate(_rows(extracted, "text.parquet")):
        _measured(found[source, row["id"]], row, scores[number] if scores else {}, filtered[0].task.options)
    for done, name in ((extracted, "drops.parquet"), (filtered, "drops.parquet"), (finished, "drops.parquet")):
        for source, row in _rows(done, name):
            one = found[source, row["id"]]
            one.step, one.reason, one.excerpt = row["step"], row["reason"], row["excerpt"]
            one.value, one.threshold = row.get("value"), row.get("threshold")
    for source, row in _rows(finished, "clean.parquet"):
        found[source, row["id"]].text = row["text"]
    return list(found.values())


def to_be_trained(settings: CorpusSettings) -> list[str]:
    """The models that a build would train before it judges anything, by the name of their setting."""
    named = {name: getattr(settings, name) for name in ("classifier", "perplexity", "toxicity", "pii_names")}
    return [name for name, wanted in named.items() if wanted is not None and wanted.model is None]


def _without_models(settings: CorpusSettings) -> CorpusSettings:
    """The settings without the models that are still to be trained, and what only they can find."""
    absent = to_be_trained(settings)
    types = [one for one in settings.pii if one != "name" or "pii_names" not in absent]
    return settings.model_copy(update={**dict.fromkeys(absent), "pii": tuple(types)})


def _as_read(root: Path, source: str, documents: Sequence[Document]) -> Done:
    """The documents as a finished task of the step `read`."""
    task = Task("read", source, "", {}, (), fingerprint_of({"trial": source}), str(root), hints={"source": source})
    path = task.folder / "raw-00000.parquet"
    with ShardWriter(path, RAW) as writer:
        for document in documents:
            writer.write(document_row(document))
    outputs = {path.name: {"sha256": fingerprint_file(path), "bytes": path.stat().st_size}}
    size = sum(document.bytes for document in documents)
    shards = [{"file": path.name, "documents": len(documents), "bytes": size}]
    return Done(task, outputs, {"documents": len(documents), "shards": shards}, 0.0, 0.0, 0)


def _begun(source: str, document: Document) -> Tried:
    start = document.text[:RAW_CHARS]
    return Tried(
        source, document.id, document.url, document.media, document.license, document.bytes, start, document.text
    )


def _rows(done: Sequence[Done], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in done:
        for row in read_rows(one.path(name)):
            yield one.task.hints["source"], row


def _measured(one: Tried, row: Mapping[str, Any], scores: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """What was written down of a document, and every question that the thresholds of the step `filter` ask of it."""
    document = document_of(row)
    one.text, one.language, one.language_score = document.text, document.language, float(row["language_score"])
    one.signals = {**json.loads(row["signals"]), **scores}
    numbers = {name: math.nan if value is None else value for name, value in one.signals.items()}
    rules = QualityRules.model_validate(options["quality"]) if options["quality"] else None
    is_wanted = not options["languages"] or document.language in ("", *options["languages"])
    asked = questions(document, one.language_score, numbers, rules, options) if is_wanted else []
    one.checks = [{**asdict(check), "fails": check.fails} for check in asked]
