"""The manual stays true: its links lead somewhere, its verbs exist, its recipes have no mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from groundup.cli.app import app
from groundup.errors import UserError
from groundup.recipe import KINDS, load_recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
SHELL_VERBS = {"test"}  # of ./groundup itself


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_verbs_that_are_named_exist(page: Path) -> None:
    verbs = set(get_command(app).commands) | SHELL_VERBS
    text = page.read_text(encoding="utf-8")
    code = blocks(page, "") + re.findall(r"`([^`\n]+)`", text)
    named = {word for line in code for word in re.findall(r"(?:^|\./)groundup ([a-z]+)", line, re.MULTILINE)}
    assert named - verbs == set()


RECIPES = {
    f"{page.name}-{number}": text
    for page in PAGES
    for number, text in enumerate(blocks(page, "yaml"))
    if "stages:" in text
}


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_recipes_in_the_manual_have_no_mistakes(tmp_path: Path, text: str) -> None:
    for file in ("notes/a.md", "rows.jsonl"):  # what the reader would bring
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert load_recipe(recipe).stages


def test_the_gate_of_the_manual_is_a_valid_one(tmp_path: Path) -> None:
    [text] = blocks(ROOT / "docs" / "evaluation-and-gate.md", "yaml")
    recipe = tmp_path / "gate.yaml"
    recipe.write_text("stages:\n" + "".join(f"  {line}\n" for line in text.splitlines()))
    with pytest.raises(UserError) as error:
        load_recipe(recipe)
    assert all("there is no stage" in problem.what for problem in error.value.problems), str(error.value)


def test_the_manual_names_every_kind_of_stage() -> None:
    table = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"| `{kind}` |" not in table] == []
