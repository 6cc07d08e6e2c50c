"""The tasks that train models and score texts by them, where the settings ask for any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
SAMPLED_SHARDS = 64  # that a classifier's bad examples come from


@dataclass
class Models:
    """The folders of the models, below the work folder or outside of it, and what their training found."""

    folders: dict[str, str] = field(default_factory=dict)  # classifier, perplexity, toxicity -> folder
    inputs: list[Input] = field(default_factory=list)
    classifier_threshold: float | None = None
    toxicity_thresholds: dict[str, float] = field(default_factory=dict)


def train(settings: CorpusSettings, context: StageContext, extracted: Sequence[Done], runner: Runner) -> Models:
    """Every model that the settings ask for. UserError where one cannot be read or trained."""
    models = Models()
    cache, root = context.cache, runner.root
    if (wanted := settings.classifier) is not None:
        if wanted.model is not None:
            _take(models, "classifier", Path(wanted.model), ("classifier.json", "weights.npy"))
        else:
            assert wanted.good is not None
            sample = extracted[:: max(1, len(extracted) // SAMPLED_SHARDS)] if wanted.bad is None else ()
            options: dict[str, Any] = {
                "good": _source(wanted.good),
                "bad": _source(wanted.bad) if wanted.bad else None,
                "identity": [_identity(one, cache) for one in (wanted.good, wanted.bad) if one is not None],
                "documents": wanted.documents,
                "precision": wanted.precision,
                "keep_share": wanted.keep_share,
                "languages": list(settings.languages),
            }
            inputs = [one.input("text.parquet") for one in sample]
            _trained(models, "classifier", options, inputs, runner, {"cache": str(cache)})
        measured = read_json(root / models.folders["classifier"] / "classifier.json")["measured"]
        models.classifier_threshold = float(measured["threshold"])
    if (reference := settings.perplexity) is not None:
        if reference.model is not None:
            _take(models, "perplexity", Path(reference.model), ("perplexity.json", "arrays.npz"))
        else:
            assert reference.reference is not None
            options = {
                "reference": _source(reference.reference),
                "identity": _identity(reference.reference, cache),
                "documents": reference.documents,
                "language": reference.language,
            }
            _trained(models, "perplexity", options, (), runner, {"cache": str(cache)})
    if (labelled := settings.toxicity) is not None:
        if labelled.model is not None:
            _take(models, "toxicity", Path(labelled.model), ("model.json", "weights.npy"))
        else:
            assert labelled.rows is not None
            options = {"rows": fingerprint_file(Path(labelled.rows)), "precision": labelled.precision}
            _trained(models, "toxicity", options, (), runner, {"path": str(labelled.rows)})
        from groundup.corpus.quality.toxicity import load

        found = load(root / models.folders["toxicity"]).thresholds
        thresholds = {**found, **labelled.max_scores}
        models.toxicity_thresholds = {name: value for name, value in sorted(thresholds.items()) if value is not None}
    return models


def _source(source: Source) -> dict[str, Any]:
    return source.model_dump(mode="json")


def _identity(source: Source, cache: Path) -> list[tuple[str, str]]:
    return [(piece.name, piece.identity) for piece in pieces(source, cache)]


def _take(models: Models, kind: str, folder: Path, files: Sequence[str]) -> None:
    """A model that was trained before, as it lies."""
    from groundup.corpus.quality import classifier, perplexity, toxicity

    {"classifier": classifier, "perplexity": perplexity, "toxicity": toxicity}[kind].load(folder)  # type: ignore[attr-defined]
    models.folders[kind] = str(folder.absolute())
    models.inputs += [(str((folder / name).absolute()), fingerprint_file(folder / name)) for name in files]


def _trained(
    models: Models,
    kind: str,
    options: Mapping[str, Any],
    inputs: Sequence[Input],
    runner: Runner,
    hints: Mapping[str, Any],
) -> None:
    task = make_task(
        "train",
        kind,
        f"{_MODELS}:train_{kind}",
        runner.root,
        options=options,
        inputs=inputs,
        code=package_modules("groundup.corpus.sources"),
        bytes=1,
        hints=hints,
    )
    (done,) = runner.phase(f"training the {kind} model", [task])
    models.folders[kind] = f"{done.task.step}/{done.task.folder.name}"
    models.inputs += [done.input(name) for name in sorted(done.outputs)]


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
                "models": dict(models.folders),
            },
        )
        for one in extracted
    ]
