"""Who may import whom (docs of the house: shared/DESIGN.md). A room imports only from rooms below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from groundup.recipe import KINDS

SOURCE = Path(__file__).resolve().parents[1] / "src" / "groundup"

# The floors, from the ground up. Rooms on one floor do not import each other, unless NEIGHBOURS says so.
FLOORS: list[set[str]] = [
    {"errors", "stopping", "console", "artifacts", "environment", "packages", "tasks", "runs", "team", "meeting"},
    {"recipe", "kernels"},
    {"model"},
    {"chat", "tokens", "corpus"},
    {"train"},
    {"report", "people", "evaluate", "plan"},
    {"workflow", "launch", "serve"},
    {"cli"},
    {"__main__"},
]
# The modules of the ground floor import each other freely.
ONE_ROOM: list[set[str]] = [FLOORS[0]]
# What a neighbour may still use, each with its reason.
NEIGHBOURS: dict[tuple[str, str], str] = {
    ("chat", "tokens"): "a model that answers needs its tokenizer (tokens/tokenizer.py)",
}
# Rooms that see less than their floor would allow: room -> what of the floors below it may import.
ONLY: dict[str, set[str]] = {
    # both may read the shape of a model (no torch), and nothing of the rooms that made what they tell about
    "report": FLOORS[0] | FLOORS[1] | {"model.config"},
    "plan": FLOORS[0] | FLOORS[1] | {"model.config"},
}
HEAVY = {
    "torch",
    "pydantic",
    "ruamel",
    "numpy",
    "pyarrow",
    "transformers",
    "tokenizers",
    "psutil",
    "jinja2",
    "safetensors",
}


def modules() -> dict[str, Path]:
    """Dotted name without `groundup.` -> file."""
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(SOURCE.rglob("*.py"))
        if path != SOURCE / "__init__.py"
    }


def imports_of(path: Path, *, at_import: bool = False) -> set[str]:
    """Modules that a file imports anywhere, or only those it imports when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{name.name}" for name in node.names} if module == "groundup" else {module}
        is_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_for_types = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        if not (at_import and (is_later or is_for_types)):
            waiting += ast.iter_child_nodes(node)
    return found


def floor_of(module: str) -> int:
    room = module.partition(".")[0]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def ours(path: Path) -> set[str]:
    known = modules()
    names = {name.removeprefix("groundup.") for name in imports_of(path) if name.startswith("groundup.")}
    return {name for name in names if name in known or name.partition(".")[0] in known or (SOURCE / name).is_dir()}


@pytest.mark.parametrize("module", modules())
def test_every_module_lives_on_a_floor(module: str) -> None:
    assert any(module.partition(".")[0] in rooms for rooms in FLOORS), f"add {module} to a floor"


@pytest.mark.parametrize("module", modules())
def test_a_room_imports_only_from_rooms_below_it(module: str) -> None:
    room = module.partition(".")[0]
    for imported in ours(modules()[module]):
        other = imported.partition(".")[0]
        if other == room or any({room, other} <= together for together in ONE_ROOM) or (room, other) in NEIGHBOURS:
            continue
        assert floor_of(imported) < floor_of(module), f"{module} imports {imported}"
        if room in ONLY:
            assert imported in ONLY[room] or other in ONLY[room], f"{module} imports {imported}"


def test_the_kinds_of_stages_are_known_in_one_place_only() -> None:
    """Only the table of recipe/kinds.py names what runs them; nothing else imports a stage's `run`."""
    runs = [kind.run for kind in KINDS.values() if isinstance(kind.run, str)]
    entries = {run.partition(":")[0].removeprefix("groundup.") for run in runs}
    for module, path in modules().items():
        room = module.partition(".")[0]
        others = {entry for entry in entries if not entry.startswith(f"{room}.")}
        assert not others & ours(path), module


@pytest.mark.parametrize("module", ["cli", "cli.app", "__main__", "errors"])
def test_the_front_door_imports_nothing_heavy(module: str) -> None:
    assert not {name.partition(".")[0] for name in imports_of(modules()[module])} & HEAVY


@pytest.mark.parametrize("module", [name for name in modules() if name.endswith(".settings")])
def test_settings_import_nothing_heavier_than_pydantic(module: str) -> None:
    heavy = HEAVY - {"pydantic"}
    assert not {name.partition(".")[0] for name in imports_of(modules()[module], at_import=True)} & heavy


def test_the_check_itself_sees_a_forbidden_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("import os\ndef f():\n    from groundup.train.engine import train\n")
    assert ours(file) == {"train.engine"}
    assert "groundup.train.engine" not in imports_of(file, at_import=True)


def test_every_exception_is_still_needed() -> None:
    used = {
        (module.partition(".")[0], imported.partition(".")[0])
        for module, path in modules().items()
        for imported in ours(path)
    }
    assert set(NEIGHBOURS) <= used
