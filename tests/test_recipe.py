"""Recipes: what is understood, and every message that a mistake brings, as golden text in tests/golden.

`UPDATE_GOLDEN=1 pytest tests/test_recipe.py` writes the golden files anew; read the difference before committing it.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from groundup.errors import UserError
from groundup.recipe import (
    KINDS,
    CorpusRef,
    FileRef,
    Kind,
    ModelRef,
    PairsRef,
    Presentation,
    Recipe,
    Settings,
    StageSettings,
    find_recipe,
    load_recipe,
    settings_data,
)
from groundup.recipe.errors import OTHER_SPELLINGS
from groundup.recipe.file import read_recipe_file
from groundup.recipe.references import local_path, marked_in_data
from groundup.recipe.text import all_keys, differing, explain, json_schema, resolved_yaml

Golden = Callable[[str, str], None]


class Warc(Settings):
    type: Literal["warc"]
    path: str


class Books(Settings):
    type: Literal["books"]
    path: str
    languages: list[str] = Field(default_factory=list)


class Shape(Settings):
    hidden_size: int = 64
    """Width of the residual stream."""
    num_hidden_layers: int = Field(2, gt=0)


class Rows(Settings):
    path: PairsRef
    weight: float = 1.0


class CorpusSettings(StageSettings):
    stage: Literal["corpus"] = "corpus"
    sources: dict[str, Annotated[Warc | Books, Field(discriminator="type")]]
    """Where the text comes from, each under a name. Any number."""
    share: float = Field(0.5, ge=0, le=1)
    languages: list[str] = Field(default=["en"], min_length=1)


class PretrainSettings(StageSettings):
    stage: Literal["pretrain"] = "pretrain"
    corpus: CorpusRef | None = None
    base_model: ModelRef | None = None
    model: Literal["tiny", "small"] | Shape = "tiny"
    max_steps: int = 100
    """Optimiser steps. The run ends after them."""
    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "muon"] = "adamw"
    micro_batch_size: int | Literal["auto"] = "auto"
    bf16: Literal["auto", True, False] = "auto"
    notes: str = ""
    datasets: list[Rows] = Field(default_factory=list)
    vocabulary: FileRef | None = None
    save_steps: Annotated[int, Presentation()] = 50

    @model_validator(mode="after")
    def _steps_or_nothing(self) -> PretrainSettings:
        if self.max_steps == 0:
            raise ValueError("nothing would be trained: max_steps is 0")
        return self


class OneFile(Settings):
    type: Literal["files"]
    path: FileRef


class OneList(Settings):
    type: Literal["list"]
    items: list[FileRef]


class Tagged(StageSettings):
    sources: dict[str, Annotated[OneFile | OneList, Field(discriminator="type")]]


class GateSettings(StageSettings):
    stage: Literal["gate"] = "gate"
    candidate: ModelRef
    others: list[ModelRef] = Field(default_factory=list)


KINDS_HERE = {
    "corpus": Kind("corpus", CorpusSettings, print, "text"),
    "pretrain": Kind("pretrain", PretrainSettings, print, "train"),
    "gate": Kind("gate", GateSettings, print, "decide"),
}
GOOD = """\
name: good  # a comment
seed: 7
stages:
  release: {stage: gate, candidate: base, others: [base, second]}
  base: {stage: pretrain, corpus: corpus, learning_rate: 1e-4, model: {hidden_size: 32}}
  second: {stage: pretrain, base_model: base, seed: 9}
  corpus:
    stage: corpus
    sources:
      web: {type: warc, path: "package:x/y.warc.gz"}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *overrides: str, name: str = "recipe.yaml") -> Recipe:
    Path(name).write_text(text)
    return load_recipe(name, overrides, kinds=KINDS_HERE)


# ---------------------------------------------------------------- what is understood


def test_stages_come_in_an_order_in_which_each_finds_what_it_reads() -> None:
    recipe = load(GOOD)
    assert list(recipe.stages) == ["corpus", "base", "second", "release"]
    assert recipe.stages["release"].needs == ("base", "second")
    assert [stage.name for stage in recipe.with_needs(["second"])] == ["corpus", "base", "second"]


def test_a_stage_has_its_own_seed_or_the_recipes() -> None:
    recipe = load(GOOD)
    assert (recipe.stages["base"].seed, recipe.stages["second"].seed) == (7, 9)


def test_yaml_is_yaml_1_2() -> None:
    Path("recipe.yaml").write_text("a: 1e-4\nb: no\nc: 12:30\nd: 6_000_000\ne: on\nf: 2001-01-01\ng: null\nh: .inf\n")
    assert read_recipe_file(Path("recipe.yaml")).data == {
        "a": 1e-4, "b": "no", "c": "12:30", "d": 6_000_000, "e": "on", "f": "2001-01-01", "g": None, "h": math.inf,
    }  # fmt: skip


def test_anchors_and_merge_keys_work() -> None:
    recipe = load("stages:\n  a: &a {stage: pretrain, max_steps: 5, notes: x}\n  b:\n    <<: *a\n    max_steps: 6\n")
    b = recipe.stages["b"].settings
    assert isinstance(b, PretrainSettings) and (b.max_steps, b.notes) == (6, "x")


def test_a_recipe_may_be_a_single_stage_named_after_its_file() -> None:
    recipe = load("stage: pretrain\nseed: 3\nmax_steps: 5\n", "learning_rate=1e-5", name="bot.yaml")
    assert (recipe.name, recipe.seed, list(recipe.stages)) == ("bot", 3, ["pretrain"])
    settings = recipe.stages["pretrain"].settings
    assert isinstance(settings, PretrainSettings) and (settings.max_steps, settings.learning_rate) == (5, 1e-5)


def test_overrides_reach_any_depth_and_are_yaml() -> None:
    recipe = load(
        GOOD, "base.max_steps=5", "stages.base.learning_rate=1e-2", "corpus.sources.web.path=a.warc.gz", "seed=1",
        "release.others=[second]", "second.model.hidden_size=8", "release.others.0=base", "base.notes=''", "name=other",
    )  # fmt: skip
    base, second = recipe.stages["base"].settings, recipe.stages["second"].settings
    assert isinstance(base, PretrainSettings) and isinstance(second, PretrainSettings)
    assert (base.max_steps, base.learning_rate, recipe.seed, recipe.name) == (5, 1e-2, 1, "other")
    assert isinstance(second.model, Shape) and second.model.hidden_size == 8
    assert settings_data(recipe.stages["release"].settings)["others"] == ["base"]


def test_every_value_has_an_origin() -> None:
    file = load(GOOD, "base.max_steps=5").file
    assert file.origin(("stages", "base", "learning_rate")) == "recipe.yaml:5"
    assert file.origin(("stages", "base", "max_steps")) == "command line"
    assert file.origin(("stages", "base", "optimizer")) == "default"
    assert file.origin(("stages", "base", "model", "hidden_size")) == "recipe.yaml:5"
    assert file.origin(("stages", "base", "model", "num_hidden_layers")) == "default"
    assert file.origin(("seed",)) == "recipe.yaml:2"


def test_the_resolved_recipe_shows_origins_and_gives_the_same_settings(same_as_golden: Golden) -> None:
    recipe = load(GOOD, "base.notes='a: [b]'", "base.max_steps=5")
    text = resolved_yaml(recipe)
    same_as_golden("resolved", text.rstrip())
    again = load(text, name="again.yaml")
    assert {name: stage.settings for name, stage in again.stages.items()} == {
        name: stage.settings for name, stage in recipe.stages.items()
    }
    assert (again.name, again.seed) == (recipe.name, recipe.seed)


def test_what_a_stage_reads_is_found_at_any_depth() -> None:
    Path("rows.jsonl").write_text("{}\n")
    Path("words.txt").write_text("a\n")
    recipe = load(GOOD, "base.datasets=[{path: rows.jsonl}, {path: 'package:x'}]", "base.vocabulary=words.txt")
    found = {one.key: (one.stage, one.path) for one in recipe.stages["base"].references}
    assert found == {
        "corpus": ("corpus", None),
        "datasets.0.path": (None, Path("rows.jsonl")),
        "datasets.1.path": (None, None),
        "vocabulary": (None, Path("words.txt")),
    }


def test_a_path_is_looked_for_from_here_and_then_beside_the_recipe() -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere/words.txt").write_text("a\n")
    recipe = load("stage: pretrain\nvocabulary: words.txt\n", name="elsewhere/recipe.yaml")
    assert recipe.stages["pretrain"].references[0].path == Path("elsewhere/words.txt")


def test_a_run_s_recipe_finds_its_paths_from_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some paths were found from where the run was started, others beside the recipe: both are written down."""
    for name in ("project", "here/runs/first", "away"):
        (folder / name).mkdir(parents=True)
    (folder / "project/words.txt").write_text("a\n")
    (folder / "here/rows.jsonl").write_text("{}\n")
    monkeypatch.chdir(folder / "here")
    text = "name: first\nstages:\n  base: {stage: pretrain, vocabulary: words.txt, datasets: [{path: rows.jsonl}]}\n"
    recipe = load(text, name="../project/recipe.yaml")
    Path("runs/first/recipe.yaml").write_text(resolved_yaml(recipe, Path("runs/first")))
    again = load_recipe("runs/first/recipe.yaml", kinds=KINDS_HERE)
    assert sorted(again.file.data["paths_from"]) == ["../..", "../../../project"], "as seen from the run's folder"
    assert again.stages["base"].settings == recipe.stages["base"].settings
    monkeypatch.chdir(folder / "away")
    Path("rows.jsonl").write_text("another file of that name\n")
    stage = load_recipe("../here/runs/first/recipe.yaml", kinds=KINDS_HERE).stages["base"]
    found = {one.value: one.path for one in stage.references}
    assert found == {"words.txt": folder / "project/words.txt", "rows.jsonl": folder / "here/rows.jsonl"}


def test_globs_may_be_absolute_and_home_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    (folder / "home/texts/deep").mkdir(parents=True)
    (folder / "home/texts/deep/a.txt").touch()
    (folder / "elsewhere").mkdir()
    for value in (f"{folder}/home/texts/*/a.txt", "~/texts", "~/texts/**/*.txt", "~", "home/t*"):
        found = local_path(value, Path(), folder / "elsewhere")
        assert found is not None and str(found) == value.replace("~", f"{folder}/home")
    for value in (f"{folder}/home/*.pdf", "~/nothing", "/home/texts/*"):
        assert local_path(value, folder / "elsewhere") is None


def test_presentation_settings_are_not_in_what_fingerprints_are_made_of() -> None:
    settings = load(GOOD).stages["base"].settings
    assert "save_steps" in settings_data(settings)
    assert "save_steps" not in settings_data(settings, with_presentation=False)


def test_a_recipe_is_found_without_its_suffix_and_by_its_shipped_name() -> None:
    Path("mine.yaml").write_text(GOOD)
    assert find_recipe("mine") == Path("mine.yaml")


# ---------------------------------------------------------------- messages

STAGE = "stages:\n  base:\n    stage: pretrain\n"
MISTAKES = {
    "unknown-key": STAGE + "    learning_rte: 1e-4\n    corpse: x\n    zzz: 1\n",
    "unknown-key-nested": "stages:\n  c:\n    stage: corpus\n    sources:\n"
    "      a: {type: books, path: x, language: en}\n"
    "  base: {stage: pretrain, model: {hidden_sice: 3}, datasets: [{path: 'package:x', wait: 2}]}\n",
    "other-tools-spelling": STAGE + "    model_name_or_path: x\n    per_device_train_batch_size: 4\n    lr: 1e-4\n"
    "    output_dir: out\n    report_to: wandb\n",
    "unknown-key-of-the-recipe": "nmae: x\nlearning_rate: 1\nstages:\n  base: {stage: pretrain}\n",
    "wrong-type": STAGE + "    max_steps: many\n    learning_rate: fast\n    notes: 7\n    datasets: rows.jsonl\n"
    "    seed: [1]\n",
    "wrong-choice": STAGE + "    optimizer: adam\n    bf16: 'yes'\n",
    "wrong-type-of-several": STAGE + "    micro_batch_size: lots\n    model: huge\n",
    "wrong-inside-one-of-several": STAGE + "    model: {hidden_size: wide, num_hidden_layers: 0}\n",
    "out-of-range": "stages:\n  c: {stage: corpus, sources: {}, share: 1.5, languages: []}\n",
    "wrong-tag": "stages:\n  c:\n    stage: corpus\n    sources:\n      a: {type: wrc, path: x}\n      b: {path: x}\n",
    "needed-key": "stages:\n  c: {stage: corpus}\n  release:\n    stage: gate\n",
    "own-words-of-a-setting": STAGE + "    max_steps: 0\n",
    "unknown-kind": "stages:\n  a: {stage: pretrian}\n  b: {stage: pt}\n  c: {corpus: x}\n  d: 5\n  e: {stage: [x]}\n",
    "bad-names": "name: a/b\nseed: -1\nstages:\n  'two words': {stage: pretrain}\n",
    "no-stages": "name: x\n",
    "empty-stages": "stages: {}\n",
    "stages-as-a-list": "stages:\n  - {stage: pretrain}\n",
    "doubled-keys": STAGE + "    max_steps: 1\n    max_steps: 2\n  base: {stage: pretrain}\n",
    "missing-reference": GOOD.replace("corpus: corpus", "corpus: corpsu").replace("model: base", "model: x/y"),
    "reference-of-the-wrong-kind": GOOD.replace("candidate: base", "candidate: corpus"),
    "reference-to-itself": GOOD.replace("base_model: base", "base_model: second"),
    "circle": GOOD.replace("corpus: corpus,", "base_model: second,"),
    "empty-file": "# nothing here\n",
    "not-a-mapping": "- stage: pretrain\n",
    "broken-bracket": STAGE + "    datasets: [{path: x}\n  other: 1\n",
    "broken-quote": STAGE + "    notes: \"never ends\n",
    "broken-colon": STAGE + "    notes: a: b\n",
    "broken-tab": "stages:\n\tbase: 1\n",
    "broken-indentation": STAGE + "   max_steps: 1\n",
    "broken-key": STAGE + "    max_steps\n    seed: 1\n",
    "broken-alias": STAGE + "    notes: *\n",
    "python-tag": STAGE + "    notes: !!python/object/apply:os.system [ls]\n    max_steps: !!python/name:x 1\n",
    "two-documents": STAGE + "---\n" + STAGE,
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_place_and_what_would_work(name: str, same_as_golden: Golden) -> None:
    with pytest.raises(UserError) as told:
        load(MISTAKES[name])
    assert told.value.exit_code == 2
    assert "pydantic" not in str(told.value) and "http" not in str(told.value)
    same_as_golden(name, str(told.value))


def test_mistakes_of_all_stages_are_told_at_once_in_the_order_of_the_file(same_as_golden: Golden) -> None:
    text = GOOD.replace("1e-4", "fast").replace("seed: 9", "seeed: 9").replace("type: warc", "type: wrac")
    with pytest.raises(UserError) as told:
        load(text, "base.max_stesp=1", "bsae.seed=3", "max_steps=3", "base.max_steps=[", "release.others.7=x")
    assert len(told.value.problems) == 8
    same_as_golden("all-at-once", str(told.value))


def test_references_of_a_stage_with_a_wrong_key_are_told_in_the_same_round(same_as_golden: Golden) -> None:
    text = STAGE + "    zzz: 1\n    base_model: nowhere/at/all\n    datasets: [{path: rows.jsonl, wait: 2}]\n"
    with pytest.raises(UserError) as told:
        load(text + "  release: {stage: gate, candidate: base, others: [based], what: 1}\n")
    assert len(told.value.problems) == 6
    same_as_golden("references-beside-wrong-keys", str(told.value))


def test_references_in_settings_that_are_not_valid_are_found_by_tag_and_shape() -> None:
    data = {"sources": {"a": {"type": "files", "path": "x", "zzz": 1}, "b": 5, "c": {"type": "list", "items": ["y"]}}}
    assert [(path, value) for path, value, _ in marked_in_data(Tagged, data)] == [
        (("sources", "a", "path"), "x"),
        (("sources", "c", "items", 0), "y"),
    ]


def test_a_missing_recipe_names_files_near_it(same_as_golden: Golden) -> None:
    Path("recipes").mkdir()
    for name in ("sft.yaml", "recipes/pretrain.yaml"):
        Path(name).write_text(GOOD)
    messages = []
    for name in ("stf.yaml", "pretrian.yaml", "recipes"):
        with pytest.raises(UserError) as told:
            find_recipe(name)
        messages.append(str(told.value))
    same_as_golden("missing-recipe", "\n".join(messages))


def test_a_file_that_is_not_text_is_told() -> None:
    Path("recipe.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        load_recipe("recipe.yaml", kinds=KINDS_HERE)
    Path("recipe.yaml").write_bytes(b"name: \x00\n")
    with pytest.raises(UserError, match=r"recipe.yaml:1: a character that YAML does not allow \(U\+0000\)"):
        load_recipe("recipe.yaml", kinds=KINDS_HERE)


@pytest.mark.parametrize("text", ["{", "a: [", "? [a]: b", "a: !x y", "stages: {a: {<<: 3, stage: gate}}", "stages: 3"])
def test_no_text_brings_anything_but_a_user_error(text: str) -> None:
    with pytest.raises(UserError):
        load(text)


# ---------------------------------------------------------------- the real kinds


def test_every_kind_documents_every_key() -> None:
    undocumented = {f"{row.kind}.{row.key}" for row in all_keys() if not row.help and row.key != "stage"}
    assert undocumented <= {row for row in undocumented if row.endswith((".type", ".stage"))}


def test_every_other_spelling_names_a_key_that_exists_or_will() -> None:
    known = {part for row in all_keys() for part in row.key.replace("[]", "").split(".")}
    shape = {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"}  # inside `model:`
    planned = {"adapter", "lora_r", "lora_target_modules", "gradient_checkpointing", "val_set_size"}
    assert set(OTHER_SPELLINGS.values()) - known <= shape | planned


def test_keys_are_explained_with_type_and_default() -> None:
    rows, _ = explain("pretrain.max_steps", KINDS_HERE)
    assert [(row.key, row.type, row.default, row.help) for row in rows] == [
        ("max_steps", "whole number", "100", "Optimiser steps. The run ends after them.")
    ]
    assert explain("lr", KINDS_HERE) == ([], "learning_rate")
    assert explain("max_stesp", KINDS_HERE) == ([], "max_steps")
    assert {row.kind for row in explain("seed")[0]} == set(KINDS)


def test_settings_that_differ_from_the_defaults_are_found() -> None:
    recipe = load(GOOD)
    settings = settings_data(recipe.stages["base"].settings)
    assert differing(KINDS_HERE["pretrain"], settings) == {
        "corpus": "corpus", "learning_rate": 1e-4, "model": {"hidden_size": 32, "num_hidden_layers": 2},
    }  # fmt: skip


def test_the_json_schema_covers_every_kind() -> None:
    schema = json_schema()
    stage = schema["properties"]["stages"]["additionalProperties"]
    assert set(stage["discriminator"]["mapping"]) == set(KINDS)
    for reference in stage["discriminator"]["mapping"].values():
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def test_reading_recipes_of_all_kinds_imports_nothing_heavy() -> None:
    code = (
        "import sys; from groundup.recipe import KINDS; from groundup.recipe.text import all_keys; all_keys();"
        "heavy = {'torch', 'pyarrow', 'transformers', 'tokenizers', 'scipy', 'fastwarc', 'trafilatura', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
