"""The tasks that train models and score texts by them, where the settings ask for any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.artifacts import StageContext, fingerprint_file, read_json
from groundup.corpus.phases.plan import package_modules
from groundup.corpus.runner import Runner
from groundup.corpus.settings import CorpusSettings
from groundup.corpus.source_settings import Source
from groundup.corpus.sources import pieces
from groundup.corpus.tasks import Done, Input, Task, make_task

_MODELS = "groundup.corpus.phases.models"
SAMPLED_SHARDS = 64  # that a classifier's bad examples and ordinary texts come from
_FILES = {  # of a model's folder
    "classifier": ("classifier.json", "weights.npy"),
    "perplexity": ("perplexity.json", "arrays.npz"),
    "toxicity": ("model.json", "weights.npy"),
    "names": ("names.json", "weights.npy"),
}


@dataclass
class Models:
    """The folders of the models, below the work folder or outside of it, and what their training found."""

    folders: dict[str, str] = field(default_factory=dict)  # classifier, perplexity, toxicity -> folder
    inputs: list[Input] = field(default_factory=list)
    classifier_threshold: float | None = None
    toxicity_thresholds: dict[str, float] = field(default_factory=dict)
    names: list[Input] = field(default_factory=list)  # the files of the tagger, which scores nothing


def train(settings: CorpusSettings, context: StageContext, extracted: Sequence[Done], runner: Runner) -> Models:
    """Every model that the settings ask for. UserError where one cannot be read or trained."""
    models = Models()
    cache, root = context.cache, runner.root
    if (wanted := settings.classifier) is not None:
        if wanted.model is not None:
            _take(models, "classifier", Path(wanted.model))
        else:
            assert wanted.good is not None
            options: dict[str, Any] = {
                "good": _source(wanted.good),
                "bad": _source(wanted.bad) if wanted.bad else None,
                "identity": [_identity(one, cache) for one in (wanted.good, wanted.bad) if one is not None],
                "documents": wanted.documents,
                "precision": wanted.precision,
                "keep_share": wanted.keep_share,
                "languages": list(settings.languages),
            }
            own = _sampled(extracted) if wanted.bad is None else []
            hints = {"cache": str(cache), "source_bytes": _bytes([wanted.good, wanted.bad], cache)}
            _trained(models, "classifier", options, own, runner, hints)
        measured = read_json(root / models.folders["classifier"] / "classifier.json")["measured"]
        models.classifier_threshold = float(measured["threshold"])
    if (reference := settings.perplexity) is not None:
        if reference.model is not None:
            _take(models, "perplexity", Path(reference.model))
        else:
            assert reference.reference is not None
            options = {
                "reference": _source(reference.reference),
                "identity": _identity(reference.reference, cache),
                "documents": reference.documents,
                "language": reference.language,
            }
            hints = {"cache": str(cache), "source_bytes": _bytes([reference.reference], cache)}
            _trained(models, "perplexity", options, (), runner, hints)
    if (labelled := settings.toxicity) is not None:
        if labelled.model is not None:
            _take(models, "toxicity", Path(labelled.model))
        else:
            assert labelled.rows is not None
            options = {
                "rows": fingerprint_file(Path(labelled.rows)),
                "precision": labelled.precision,
                "prevalence": labelled.prevalence,
                "background": labelled.background,
                "languages": list(settings.languages) if labelled.background else [],
            }
            own = _sampled(extracted) if labelled.background else []
            _trained(models, "toxicity", options, own, runner, {"path": str(labelled.rows)})
        from groundup.corpus.quality.toxicity import load

        found = load(root / models.folders["toxicity"]).thresholds
        thresholds = {**found, **labelled.max_scores}
        models.toxicity_thresholds = {name: value for name, value in sorted(thresholds.items()) if value is not None}
    if (tagger := settings.pii_names) is not None:
        if tagger.model is not None:
            models.names = _taken("names", Path(tagger.model))
        else:
            assert tagger.rows is not None
            options = {"rows": fingerprint_file(Path(tagger.rows)), "precision": tagger.precision}
            done = _train("names", options, (), runner, {"path": str(tagger.rows)})
            models.names = [done.input(name) for name in sorted(done.outputs)]
    return models


def _sampled(extracted: Sequence[Done]) -> list[Input]:
    """The text shards that a sample of the corpus is taken from, all through the corpus."""
    return [one.input("text.parquet") for one in extracted[:: max(1, len(extracted) // SAMPLED_SHARDS)]]


def _source(source: Source) -> dict[str, Any]:
    return source.model_dump(mode="json")


def _identity(source: Source, cache: Path) -> list[tuple[str, str]]:
    return [(piece.name, piece.identity) for piece in pieces(source, cache)]


def _bytes(sources: Sequence[Source | None], cache: Path) -> int:
    return sum(piece.bytes for one in sources if one is not None for piece in pieces(one, cache))


def _take(models: Models, kind: str, folder: Path) -> None:
    """A model that was trained before, as it lies."""
    models.inputs += _taken(kind, folder)
    models.folders[kind] = str(folder.absolute())


def _taken(kind: str, folder: Path) -> list[Input]:
    """The files of a model that was trained before. UserError where it is none."""
    from groundup.corpus.pii.names import load_names
    from groundup.corpus.quality import classifier, perplexity, toxicity

    loads: dict[str, Callable[[Path], object]] = {
        "classifier": classifier.load,
        "perplexity": perplexity.load,
        "toxicity": toxicity.load,
        "names": load_names,
    }
    loads[kind](folder)
    return [(str((folder / name).absolute()), fingerprint_file(folder / name)) for name in _FILES[kind]]


def _trained(
    models: Models,
    kind: str,
    options: Mapping[str, Any],
    inputs: Sequence[Input],
    runner: Runner,
    hints: Mapping[str, Any],
) -> None:
    done = _train(kind, options, inputs, runner, hints)
    models.folders[kind] = f"{done.task.step}/{done.task.folder.name}"
    models.inputs += [done.input(name) for name in sorted(done.outputs)]


def _train(
    kind: str, options: Mapping[str, Any], inputs: Sequence[Input], runner: Runner, hints: Mapping[str, Any]
) -> Done:
    task = make_task(
        "train",
        kind,
        f"{_MODELS}:train_{kind}",
        runner.root,
        options=options,
        inputs=inputs,
        code=package_modules("groundup.corpus.sources"),
        bytes=_size(inputs, hints, runner.root),
        hints=hints,
    )
    return runner.phase(f"training the {kind} model", [task])[0]


def _size(inputs: Sequence[Input], hints: Mapping[str, Any], root: Path) -> int:
    """About how many bytes a model learns from, for progress and rates: text shards, a file of rows, sources."""
    files = [root / name for name, _ in inputs] + ([Path(str(hints["path"]))] if "path" in hints else [])
    return sum(file.stat().st_size for file in files if file.is_file()) + int(hints.get("source_bytes", 0))


def score_tasks(settings: CorpusSettings, extracted: Sequence[Done], models: Models) -> list[Task]:
    """A task per text shard; none where there is no model."""
    if not models.folders:
        return []
    return [
        make_task(
            "score",
            one.task.name,
            f"{_MODELS}:score",
            Path(one.task.root),
            options={"languages": list(settings.languages), "models": sorted(models.folders)},
            inputs=[one.input("text.parquet"), *models.inputs],
            bytes=int(one.stats["bytes_out"]),
            hints={
                "source": one.task.hints["source"],
                "documents": one.stats["texts"],
                "may_kill": one.task.hints.get("may_kill", False),
                "models": dict(models.folders),
            },
        )
        for one in extracted
    ]
