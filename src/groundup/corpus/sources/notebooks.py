"""Jupyter notebooks as readable text: Markdown as it stands, code in fences, text outputs shortened, pictures gone."""

from __future__ import annotations

import json
import re
from typing import Any

OUTPUT_CHARS = 1_000
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_EMBEDDED = re.compile(r"!\[[^\]]*\]\(data:[^)]*\)|<img[^>]+src=[\"']data:[^>]*>")


def text_of_notebook(data: str) -> tuple[str, str]:
    """(text, language of its code) of nbformat 3 or 4. ValueError where it is no notebook."""
    try:
        notebook = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    cells = _cells(notebook)
    metadata = notebook.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    language = str(
        _get(metadata, "language_info", "name") or _get(metadata, "kernelspec", "language") or "python"
    ).lower()
    parts = [part for cell in cells if isinstance(cell, dict) for part in _parts(cell, language)]
    return "\n\n".join(part for part in parts if part.strip()), language


def _cells(notebook: Any) -> list[Any]:
    if isinstance(notebook, dict):
        if isinstance(cells := notebook.get("cells"), list):
            return cells
        if isinstance(sheets := notebook.get("worksheets"), list):  # nbformat 3
            many = [sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)]
            return [cell for cells in many if isinstance(cells, list) for cell in cells]
    raise ValueError("neither `cells` nor `worksheets`")


def _get(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _parts(cell: dict[str, Any], language: str) -> list[str]:
    source = _joined(cell.get("source", cell.get("input", ""))).strip("\n")
    kind = cell.get("cell_type")
    if kind == "markdown":
        return [_EMBEDDED.sub("", source)]
    if kind == "heading":  # nbformat 3
        level = cell.get("level")
        return [f"{'#' * (level if isinstance(level, int) and 1 <= level <= 6 else 1)} {source}"]
    if kind != "code":
        return [source]
    outputs = cell.get("outputs")
    said = [_output(one) for one in outputs if isinstance(one, dict)] if isinstance(outputs, list) else []
    shown = "".join(one if one.endswith("\n") else f"{one}\n" for one in said if one.strip()).rstrip()
    parts = [fenced(source, language)] if source.strip() else []
    return parts + ([fenced(_shortened(shown), "output")] if shown else [])


def _output(output: dict[str, Any]) -> str:
    if output.get("output_type") in ("error", "pyerr"):
        return f"{output.get('ename', 'Error')}: {output.get('evalue', '')}"
    text = output.get("text")
    if text is None:
        text = _get(output, "data", "text/plain")
    plain = _ANSI.sub("", _joined(text))
    # what a picture or a table is called in memory says nothing
    return "" if re.fullmatch(r"\s*<[^<>\n]*(?:at 0x[0-9a-f]+|Figure size)[^<>\n]*>\s*", plain) else plain


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return "".join(str(one) for one in value)
    return value if isinstance(value, str) else ""


def _shortened(text: str) -> str:
    if len(text) <= OUTPUT_CHARS:
        return text
    return text[:OUTPUT_CHARS].rsplit("\n", 1)[0] + "\n[...]"


def fenced(code: str, language: str) -> str:
    """Markdown's code block; the fence is longer than any in the code itself."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
