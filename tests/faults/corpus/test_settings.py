"""Every setting stands in the options of the step whose result it decides: changed, it repeats that step first.

A corpus with every step on is built once. Each case then changes one setting and starts the build again with an engine
that refuses to work: the step of the tasks that it is asked to do is where the setting first stands. Whatever lies
before that step was found finished, and what lies below reads its results. A setting without a case fails a test.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import BaseModel

from groundup.artifacts import StageContext
from groundup.console import Console
from groundup.corpus import build
from groundup.corpus.phases.plan import _deciding
from groundup.corpus.settings import (
    ClassifierSettings,
    CorpusSettings,
    ExamFiles,
    ExamTasks,
    HeldOut,
    NamesSettings,
    PerplexitySettings,
    QualityRules,
    ToxicitySettings,
)
from groundup.corpus.source_settings import PythonCodeSource, Source
from groundup.corpus.tasks import Outcome, Task
from groundup.stopping import StopRequest

from .conftest import HERE, WORDS, prose

NOTHING = "nothing"  # no task: it decides what is said of the result, or how the work goes
SWITCHED_OFF = {"quality": "extract", "classifier": "score", "perplexity": "score", "toxicity": "score"}

# setting -> (its new value, the step that is done again first). "@name" is a file or folder of the fixture.
CASES: dict[str, tuple[Any, str]] = {
    "seed": (7, "exams"),  # of questions that are made
    "sources": ({"rows": {"type": "jsonl", "path": "@other.jsonl"}}, "read"),
    "shard_bytes": (12_000, "read"),
    "languages": (["en", "fr"], "extract"),
    "extract": ("fast", "extract"),
    "document_seconds": (50.0, "extract"),
    "quality.boilerplate": (False, "extract"),
    "classifier.good": ({"type": "jsonl", "path": "@other.jsonl"}, "train"),
    "classifier.bad": ({"type": "jsonl", "path": "@other.jsonl"}, "train"),
    "classifier.documents": (100, "train"),
    "classifier.precision": (0.52, "train"),
    "classifier.keep_share": (0.9, "train"),
    "classifier.model": ("@classifier", "score"),
    "perplexity.reference": ({"type": "jsonl", "path": "@other.jsonl"}, "train"),
    "perplexity.documents": (110, "train"),
    "perplexity.language": ("fr", "train"),
    "perplexity.model": ("@perplexity", "score"),
    "toxicity.rows": ("@toxic2.jsonl", "train"),
    "toxicity.precision": (0.61, "train"),
    "toxicity.prevalence": (0.4, "train"),
    "toxicity.background": (5, "train"),
    "toxicity.model": ("@toxicity", "score"),
    "toxicity.max_scores": ({"toxic": 0.98}, "filter"),
    "min_language_score": (0.3, "filter"),
    "exact_duplicates": (False, "keys"),
    "duplicate_urls": (True, "keys"),
    "duplicate_paragraphs": (True, "keys"),
    "near_duplicate_threshold": (0.6, "keys"),
    "semantic_threshold": (0.95, "match"),
    "semantic_embedding": ("fault_tasks:embedded", "alike"),
    "duplicate_spans": (60, "alike"),
    "decontaminate": ([], "finish"),
    "decontaminate.files.path": ("@exam2.jsonl", "exams"),
    "decontaminate.files.fields": (["question"], "exams"),
    "decontaminate.tasks.tasks": (["sort_digits"], "exams"),
    "decontaminate.tasks.split": ("train", "exams"),
    "decontaminate.tasks.rows": (9, "exams"),
    "decontaminate.tasks.seed": (7, "exams"),
    "decontamination_ngram": (8, "exams"),
    "decontamination_coverage": (0.5, "exams"),
    "decontamination_rephrased": (0.7, "exams"),
    "pii": (["email", "name"], "finish"),
    "pii_private_ips": (True, "finish"),
    "pii_audit_share": (0.1, "finish"),
    "pii_names.rows": ("@names2.iob2", "train"),
    "pii_names.precision": (0.7, "train"),
    "pii_names.language": (None, "finish"),
    "pii_names.model": ("@names", "finish"),
    "held_out": (None, "select"),
    "held_out.share": (0.2, "select"),
    "held_out.max_bytes": (3_000, "select"),
    "min_language_part": (0.4, "select"),
    "mixture": ({"en": 2.0, "other": 1.0, "more": 1.0}, "select"),  # a language that is named has a part of its own
    "mixture_temperature": (3.0, NOTHING),
    "mixture_tokens": (1_000_000, NOTHING),
    "mixture_bytes": (1_000_000, NOTHING),
    "max_repetition": (2.0, NOTHING),
    "max_technical_share": (0.5, NOTHING),
    "engine": ("ray", NOTHING),
    "address": ("auto", NOTHING),
    "workers": (1, NOTHING),
    "keep_work": (False, NOTHING),
}
ALSO: dict[str, dict[str, Any]] = {  # what has to go for a value to be allowed
    "classifier.model": {"classifier.good": None},
    "perplexity.model": {"perplexity.reference": None},
    "toxicity.model": {"toxicity.rows": None},
    "pii_names.model": {"pii_names.rows": None},
    "duplicate_paragraphs": {"duplicate_spans": None},
    "mixture_bytes": {"mixture_tokens": None},
}
QUALITY: dict[str, Any] = {  # where a tenth more would not do
    "max_capitalised_words": 0.9,
    "min_unique_words": 0.001,
    "min_sentences": 1,
    "min_classifier_score": 0.001,
    "max_perplexity": 1e6,
    "overrides": {"fi": {"max_mean_word_chars": 14}},
}
PARTS: dict[str, type[BaseModel]] = {
    "": CorpusSettings,
    "quality.": QualityRules,
    "classifier.": ClassifierSettings,
    "perplexity.": PerplexitySettings,
    "toxicity.": ToxicitySettings,
    "pii_names.": NamesSettings,
    "held_out.": HeldOut,
    "decontaminate.files.": ExamFiles,
    "decontaminate.tasks.": ExamTasks,
}


def all_cases() -> dict[str, tuple[Any, str]]:
    cases = dict(CASES) | {name: (None, step) for name, step in SWITCHED_OFF.items()}
    for name, field in QualityRules.model_fields.items():
        if name in QUALITY:
            cases[f"quality.{name}"] = (QUALITY[name], "filter")
        elif name != "boilerplate":
            default = field.default
            cases[f"quality.{name}"] = (default + 1 if isinstance(default, int) else default * 0.9, "filter")
    return cases


class AskedFor(Exception):  # noqa: N818 - it is what the test waits for
    def __init__(self, tasks: Sequence[Task]) -> None:
        self.steps = {task.step for task in tasks}
        super().__init__(f"{len(tasks)} tasks of {self.steps}")


class Built:
    """The corpus with every step on, and builds of it with other settings."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rows(root / "rows.jsonl", [prose(n) for n in range(30)] + [french(n) for n in range(6)] + [prose(3)])
        rows(root / "other.jsonl", [prose(n, "brass copper silver") for n in range(200, 320)])
        rows(root / "good.jsonl", [prose(n, "wisdom evidence reason") for n in range(400, 520)])
        rows(root / "more.jsonl", [prose(n) + f" Write to clerk{n}@arden.org." for n in range(600, 620)])
        for number in (1, 2):
            labelled_rows(root / ("toxic.jsonl" if number == 1 else "toxic2.jsonl"), number)
            labelled_names(root / ("names.iob2" if number == 1 else "names2.iob2"), number)
            items = [{"question": prose(900 + number)[:200], "answer": prose(910)[:80]}]
            name = "exam.jsonl" if number == 1 else "exam2.jsonl"
            (root / name).write_text("".join(json.dumps(item) + "\n" for item in items))
        self.settings: dict[str, Any] = {
            "sources": {
                "rows": {"type": "jsonl", "path": "@rows.jsonl", "by_language": True},
                "more": {"type": "jsonl", "path": "@more.jsonl"},
            },
            "shard_bytes": 10_000,
            "workers": 0,
            "languages": ["en"],
            "quality": {"min_words": 20, "min_stop_words": 1, "min_alphabetic_words": 0.5},
            "classifier": {"good": {"type": "jsonl", "path": "@good.jsonl"}, "precision": 0.51},
            "perplexity": {"reference": {"type": "jsonl", "path": "@good.jsonl"}},
            "toxicity": {"rows": "@toxic.jsonl", "precision": 0.6, "prevalence": 0.5, "max_scores": {"toxic": 0.99}},
            "duplicate_spans": 50,
            "semantic_threshold": 0.9,
            "decontaminate": [{"path": "@exam.jsonl"}, {"tasks": ["addition"], "rows": 8}],
            "pii": ["email", "ip", "name"],
            "pii_names": {"rows": "@names.iob2", "precision": 0.6},
        }

    def run(self, name: str, settings: Mapping[str, Any]) -> None:
        folder = self.root / "runs" / name / "corpus"
        folder.mkdir(parents=True)
        console = Console(io.StringIO())
        wanted = CorpusSettings(**self.placed(settings))
        given = (wanted.seed or 1337, self.root / "cache", console, StopRequest(), folder.parent)
        context = StageContext("corpus", folder, {}, *given)
        build.run(wanted, context)

    def placed(self, value: Any) -> Any:
        """The same with the files that `@name` stands for."""
        if isinstance(value, Mapping):
            return {key: self.placed(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.placed(one) for one in value]
        return str(self.root / value[1:]) if isinstance(value, str) and value.startswith("@") else value

    def steps_asked(self, changes: Mapping[str, Any]) -> set[str]:
        """The steps of the first tasks that are not found finished when these settings change."""
        settings = json.loads(json.dumps(self.settings))
        for path, value in changes.items():
            put(settings, path, value)
        shards = self.root / "runs" / "asked" / ".shards" / "corpus"
        shutil.rmtree(self.root / "runs" / "asked", ignore_errors=True)
        shutil.copytree(self.root / "runs" / "base" / ".shards" / "corpus", shards, copy_function=os.link)
        try:
            self.run("asked", settings)
        except AskedFor as asked:
            return asked.steps
        return {NOTHING}


def put(settings: dict[str, Any], path: str, value: Any) -> None:
    place: Any = settings
    *parents, last = path.split(".")
    for name in parents:
        place = place[{"files": 0, "tasks": 1}[name]] if isinstance(place, list) else place.setdefault(name, {})
    place[last] = value


def rows(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def french(seed: int) -> str:
    rng = random.Random(seed)
    words = "le la les des une dans pour avec sur est sont maison jardin lettre été enfant".split()  # noqa: SIM905
    return ". ".join(" ".join(rng.choice(words) for _ in range(10)).capitalize() for _ in range(9)) + "."


def labelled_rows(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    bad = [*WORDS, *("idiot", "moron", "scum") * 20]
    lines = [{"text": " ".join(rng.choices(bad if n % 2 else WORDS, k=25)), "toxic": n % 2} for n in range(120)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def labelled_names(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lines: list[str] = []
    for _ in range(150):
        person, place = rng.choice(["Maria", "Peter", "Helen"]), rng.choice(["Paris", "Turin", "Leeds"])
        words = [("They", "O"), ("met", "O"), (person, "B-PER"), ("in", "O"), (place, "B-LOC")]
        lines += [*(f"{at}\t{word}\t{tag}" for at, (word, tag) in enumerate(words, 1)), ""]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE / "hooks"))
        made = Built(tmp_path_factory.mktemp("settings"))
        made.run("base", made.settings)
        trained = (made.root / "runs" / "base" / ".shards" / "corpus" / "train").iterdir()
        for folder in trained:
            name = json.loads((folder / "task.json").read_text())["name"]
            shutil.copytree(folder, made.root / name)
            weights = made.root / name / ("arrays.npz" if name == "perplexity" else "weights.npy")
            if name == "perplexity":
                arrays = dict(np.load(weights))
                np.savez(weights, **{key: arrays[key] * 1 if key != "left1" else arrays[key] / 2 for key in arrays})
            else:
                np.save(weights, np.load(weights) / 2)

        def refuse(tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
            raise AskedFor(tasks)
            yield

        patch.setattr(build, "open_engine", lambda _: nullcontext(refuse))
        yield made


def test_every_setting_has_a_case() -> None:
    there = {f"{prefix}{name}" for prefix, part in PARTS.items() for name in part.model_fields}
    there -= {"stage", "pii_names"}  # what it is called; a type of `pii` that asks for it cannot do without
    assert there == set(all_cases()), "say in which step the new setting first stands, and what value changes it"


def test_the_same_settings_repeat_nothing(built: Built) -> None:
    assert built.steps_asked({}) == {NOTHING}


@pytest.mark.parametrize("setting", all_cases())
def test_a_changed_setting_repeats_its_own_step_first(built: Built, setting: str) -> None:
    value, step = all_cases()[setting]
    assert built.steps_asked({setting: value, **ALSO.get(setting, {})}) == {step}


@pytest.mark.parametrize(
    ("setting", "value", "step"),
    [
        ("license", "CC0", "read"),
        ("max_bytes", 9_000, "select"),
        ("group", "prose", NOTHING),
        ("by_language", True, "select"),
    ],
)
def test_a_changed_setting_of_a_source_repeats_its_own_step_first(
    built: Built, setting: str, value: Any, step: str
) -> None:
    assert built.steps_asked({f"sources.more.{setting}": value}) == {step}


@pytest.mark.parametrize("kind", get_args(get_args(Source)[0]))
def test_every_other_setting_of_a_source_decides_what_is_read(kind: type[BaseModel]) -> None:
    given: dict[str, Any] = {"type": get_args(kind.model_fields["type"].annotation)[0]}
    source: Any = kind(**given, **({"path": "x"} if "path" in kind.model_fields else {}))
    apart = set(kind.model_fields) - set(_deciding(source))
    assert apart == {"group", "by_language"} | (set() if kind is PythonCodeSource else {"max_bytes"})
