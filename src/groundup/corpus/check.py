"""What `groundup check` says about a corpus before it is built: what cannot work, what it takes. Downloads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from groundup.artifacts import StageContext
from groundup.corpus.engines import default_workers
from groundup.corpus.needs import files_of, missing_engine, missing_packages
from groundup.corpus.quality.labelled import categories_of, labelled_rows
from groundup.corpus.report.inputs import bytes_behind, package_bytes
from groundup.corpus.report.rates import ModelWork, foretell, kind_of
from groundup.corpus.settings import CorpusSettings, ExamFiles, ExamTasks
from groundup.corpus.source_settings import PathSource, PythonCodeSource
from groundup.corpus.sources import pieces
from groundup.corpus.sources.remote import is_remote
from groundup.errors import Problem, UserError
from groundup.packages import Package, is_package, split_spec
from groundup.recipe import CheckReport, with_found_paths

DOWNLOAD_BYTES_PER_SECOND = 10e6


def check(settings: CorpusSettings, context: StageContext) -> CheckReport:
    """Problems of every source and exam at once; facts: download_bytes, and what rates.py foretells of the build."""
    settings = with_found_paths(settings, context.inputs)
    problems = missing_engine(settings)
    files: list[tuple[str, str]] = []
    packages: dict[str, Package] = {}
    parts: list[tuple[str, float, float | None]] = []
    for name, source in settings.sources.items():
        raw = 2e6
        if isinstance(source, PathSource):
            before = len(problems)
            raw = _size_of(source.path, problems, packages, files, source)
            if len(problems) == before and not is_package(source.path) and not is_remote(source.path):
                problems += _nothing_to_read(name, source, context.cache)
        elif isinstance(source, PythonCodeSource):
            raw = float(source.max_bytes or 60e6)
        parts.append((kind_of(source.type, settings.extract), raw, source.max_bytes))
    learned = {  # by the setting that names it: the type of source and its bytes
        name: (
            kind_of(str(getattr(reference, "type", "")), "fast"),
            _size_of(reference.path, problems, packages, files, reference),
        )
        for name, reference in _reference_sources(settings)
    }
    for exam in settings.decontaminate:
        if isinstance(exam, ExamFiles):
            _size_of(exam.path, problems, packages, files)
        elif isinstance(exam, ExamTasks):
            from groundup.tasks import require_tasks

            try:
                require_tasks(exam.tasks)
            except UserError as error:
                problems += error.problems
    if settings.semantic_threshold is not None and settings.semantic_embedding is not None:
        from groundup.corpus.dedup.semantic import user_embedding

        try:
            user_embedding(settings.semantic_embedding)
        except UserError as error:
            problems += error.problems
    categories = 1
    if settings.toxicity is not None and settings.toxicity.rows is not None:
        try:
            categories = len(categories_of(labelled_rows(Path(settings.toxicity.rows)), settings.toxicity.rows))
        except UserError as error:
            problems += error.problems
    if (tagger := settings.pii_names) is not None:
        from groundup.corpus.pii.names import load_names, read_iob2, require_names

        try:
            if tagger.rows is not None:
                require_names(read_iob2(Path(tagger.rows)))
            elif tagger.model is not None:
                load_names(Path(tagger.model))
        except UserError as error:
            problems += error.problems
    problems += missing_packages(files)
    absent = [one for one in packages.values() if not (context.cache / "packages" / one.file_name).is_file()]
    download = sum(one.bytes for one in absent)
    cores = 1 if settings.workers == 0 else settings.workers or default_workers()
    facts = foretell(parts, context.cache, cores=cores, models=_models(settings, learned, categories))
    for name in ("seconds", "seconds_low", "seconds_high"):
        facts[name] = round(facts[name] + download / DOWNLOAD_BYTES_PER_SECOND, 1)
    return CheckReport({"sources": len(settings.sources), "download_bytes": download, **facts}, problems)


def _reference_sources(settings: CorpusSettings) -> Iterator[tuple[str, PathSource]]:
    """What models are trained on before anything is judged, with the name of its setting."""
    classifier, perplexity = settings.classifier, settings.perplexity
    asked = (
        ("good", classifier and classifier.good),
        ("bad", classifier and classifier.bad),
        ("reference", perplexity and perplexity.reference),
    )
    yield from ((name, one) for name, one in asked if isinstance(one, PathSource))


def _models(settings: CorpusSettings, learned: Mapping[str, tuple[str, float]], categories: int) -> Iterator[ModelWork]:
    """The models that the settings ask for, with what each learns from."""

    def rows_of(path: str | None) -> float:
        return bytes_behind([(path, Path(path).stat().st_size)]) if path and Path(path).is_file() else 0.0

    if (one := settings.classifier) is not None:
        own = tuple(learned[name] for name in ("good", "bad") if name in learned)
        yield ModelWork("classifier", one.model is None, 0.0, own, one.documents if one.bad is None else 0)
    if (reference := settings.perplexity) is not None:
        own = tuple(learned[name] for name in ("reference",) if name in learned)
        yield ModelWork("perplexity", reference.model is None, reading=own)
    if (labelled := settings.toxicity) is not None:
        rows = rows_of(labelled.rows)
        yield ModelWork("toxicity", labelled.model is None, rows, (), labelled.background, categories)
    if (tagger := settings.pii_names) is not None:
        yield ModelWork("names", tagger.model is None, rows_of(tagger.rows))


def _nothing_to_read(name: str, source: Any, cache: Path) -> list[Problem]:
    """What the source's reader says of its files before it opens them: none of its kind, no such split or branch."""
    try:
        found = pieces(source, cache)
    except UserError as error:
        return [replace(problem, what=f"source {name!r}: {problem.what}") for problem in error.problems]
    what = f"source {name!r}: no file there is one that `type: {source.type}` reads"
    return [] if found else [Problem(what, source.path, "name another path, or another type")]


def _size_of(
    spec: str,
    problems: list[Problem],
    packages: dict[str, Package],
    files: list[tuple[str, str]],
    source: PathSource | None = None,
) -> float:
    """Bytes behind a path and its files' compression; what is wrong with it goes to `problems`, a package to
    `packages`, where its files lie, with the type of source, to `files`. How much is there remotely, only the network
    knows: 0."""
    try:
        if is_package(spec):
            package, _ = split_spec(spec)
            packages[package.name] = package
            return package_bytes(package)
        kind = str(getattr(source, "type", ""))
        root, most = getattr(source, "path_root", None), getattr(source, "max_files", None)
        found = files_of(kind, spec, root, most)
    except UserError as error:
        problems += error.problems
        return 0.0
    files += [(kind, where) for where in found]
    local = [Path(where) for where in found if not is_remote(where)]
    for path in local:
        if problem := _unreadable(path):
            problems.append(problem)
    return bytes_behind([(str(path), path.stat().st_size) for path in local])


def _unreadable(path: Path) -> Problem | None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return Problem(f"cannot be read: {error.strerror}", str(path), "make the file readable, or leave it out")
    return None
