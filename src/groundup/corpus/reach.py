"""Which modules decide what a function does: found by reading the code, so that no list of them can be out of date.

From a function, every name that it uses is followed: to another function, class or constant of its module, or through
an import to the module that has it, and so on. What is imported by a computed name is not seen and has to be told.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOM = "groundup.corpus"
# How a task is run, and the classes of settings, whose values stand in a task's options: they decide no result.
APART = {f"{ROOM}.{name}" for name in ("tasks", "settings", "source_settings")}
EVERYTHING = "*"
_ROOT = Path(__file__).parent


@cache
def modules_reached(function: str) -> tuple[str, ...]:
    """The modules of the corpus, in order, that `module:function` can reach, its own among them."""
    module, _, name = function.partition(":")
    if not _is_ours(module):
        return (module,)
    waiting, seen = [(module, name)], set[tuple[str, str]]()
    while waiting:
        one = waiting.pop()
        if one not in seen and one[0] not in APART:
            seen.add(one)
            waiting += _used_by(*one)
    return tuple(sorted({module for module, _ in seen}))


@cache
def _file_of(module: str) -> Path | None:
    """The file of a module of ours; None where there is none."""
    path = _ROOT.joinpath(*module.split(".")[2:])
    found = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return found if found.is_file() else None


class _Names:
    """What the names at the top of a module stand for."""

    def __init__(self, module: str) -> None:
        path = _file_of(module)
        assert path is not None, f"no module is called {module}"
        self.made: dict[str, list[ast.stmt]] = {}  # the statements that define, or add to, a name
        self.imported: dict[str, tuple[str, str]] = {}
        for node in ast.parse(path.read_bytes()).body:
            self._add(node)

    def _add(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imported.update(_imports(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.made.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for inner in ast.iter_child_nodes(node):
                if isinstance(inner, ast.stmt):
                    self._add(inner)
        else:
            for one in ast.walk(node):
                if isinstance(one, ast.Name) and (isinstance(one.ctx, ast.Store) or isinstance(node, ast.Expr)):
                    self.made.setdefault(one.id, []).append(node)


_names = cache(_Names)


@cache
def _used_by(module: str, name: str) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys(_follow(_names(module), module, name)))


def _follow(names: _Names, module: str, name: str) -> Iterator[tuple[str, str]]:
    if name == EVERYTHING:
        yield from ((module, one) for one in (*names.made, *names.imported))
    elif name in names.imported:
        yield names.imported[name]
    for statement in names.made.get(name, []):
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from _imports(node).values()
            elif isinstance(node, ast.Name) and node.id != name:
                if node.id in names.imported:
                    yield names.imported[node.id]
                elif node.id in names.made:
                    yield module, node.id


def _imports(node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str]]:
    """Name in this file -> (module of the corpus, name in it); a module as a whole is all of its names."""
    if isinstance(node, ast.Import):
        pairs = {one.asname or one.name: (one.name, EVERYTHING) for one in node.names}
    else:
        pairs = {}
        for one in node.names:
            inner = f"{node.module}.{one.name}"
            is_ours = _is_ours(str(node.module))
            is_module = is_ours and _file_of(inner) is not None
            pairs[one.asname or one.name] = (inner, EVERYTHING) if is_module else (str(node.module), one.name)
    return {name: found for name, found in pairs.items() if _is_ours(found[0])}


def _is_ours(module: str) -> bool:
    return module == ROOM or module.startswith(f"{ROOM}.")
