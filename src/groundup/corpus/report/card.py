"""The data card: README.md of a corpus folder in the format of the Hugging Face Hub (YAML front matter, then prose).

Made from the JSON files of the folder alone (funnel, stats, mixture, sources, exams), so it can be made again at any
time; the front matter lets `datasets.load_dataset(FOLDER)` read train and validation, and each source as a config.
Gebru et al. (2021), "Datasheets for Datasets", for what a card should answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from groundup.artifacts import read_json
from groundup.corpus.report.funnel import folded, told_notes
from groundup.corpus.settings import CorpusSettings
from groundup.recipe import Presentation

README = "README.md"
# Bytes for each token where no tokenizer has been trained yet: byte-level BPE of 30k to 130k entries on prose and code.
BYTES_PER_TOKEN = (4.3, 3.3, 4.9)  # value, low, high
_SIZES: tuple[tuple[float, str], ...] = (
    (1e3, "n<1K"),
    (1e4, "1K<n<10K"),
    (1e5, "10K<n<100K"),
    (1e6, "100K<n<1M"),
    (1e7, "1M<n<10M"),
    (1e8, "10M<n<100M"),
    (1e9, "100M<n<1B"),
    (1e10, "1B<n<10B"),
    (1e11, "10B<n<100B"),
    (1e12, "100B<n<1T"),
    (float("inf"), "n>1T"),
)
# How licences are spelled on the Hub; what is not listed there is `other`, and named in the text.
_HUB_LICENSES = (  # looked for in this order, in lower case with hyphens for blanks
    (r"\bcc0|cc-zero", "cc0-1.0"),
    (r"cc-?by-?sa-?4", "cc-by-sa-4.0"),
    (r"cc-?by-?sa-?3", "cc-by-sa-3.0"),
    (r"cc-?by-?sa-?2\.5", "cc-by-sa-2.5"),
    (r"cc-?by-?nc", "cc-by-nc-4.0"),
    (r"cc-?by-?4", "cc-by-4.0"),
    (r"cc-?by-?3", "cc-by-3.0"),
    (r"apache", "apache-2.0"),
    (r"public-domain", "other"),  # free, and yet no licence: before what it may be packed in
    (r"\bmit\b", "mit"),
    (r"bsd-?2", "bsd-2-clause"),
    (r"bsd-?3", "bsd-3-clause"),
    (r"^bsd\b", "bsd"),
    (r"mpl|mozilla", "mpl-2.0"),
    (r"lgpl", "lgpl"),
    (r"agpl", "agpl-3.0"),
    (r"\bgpl-?v?2", "gpl-2.0"),
    (r"\bgpl-?v?3", "gpl-3.0"),
    (r"\bgpl", "gpl"),
    (r"\bisc\b", "isc"),
    (r"unlicense", "unlicense"),
    (r"odc-?by", "odc-by"),
)


def write_card(folder: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Write README.md into a corpus folder whose JSON files are complete. `name`: of the run or stage."""
    (folder / README).write_text(card_text(folder, name, settings), encoding="utf-8")


def card_data(folder: Path, name: str) -> dict[str, Any]:
    """The front matter alone, as data."""
    return front_matter(name, *_found(folder))


def card_text(folder: Path, name: str, settings: Mapping[str, Any]) -> str:
    """The card of the corpus in `folder`. Raises UserError where a JSON file is broken."""
    found, sources = _found(folder)
    parts = (
        [f"# {name}", _intro(found["funnel"], sources)],
        _section("Sources", _sources(sources)),
        _section("What was done", _steps(found["funnel"], settings)),
        _section("What was dropped", _drops(found["funnel"])),
        _section("Mixture", _mixture(found["mixture"])),
        _section("Languages", _shares(found["stats"], "languages written", "language")),
        _section("Licences", _shares(found["stats"], "licenses written", "licence") or _licences(sources)),
        _section("Personal data, secrets and toxicity", _safety(found["stats"], found["funnel"], settings)),
        _section("Exams kept out", _exams(found["exams"], found["exam_hits"])),
        _section("Limits", _LIMITS),
        _section("How to read it", _how_to_read(sources)),
    )
    front = front_matter(name, found, sources)
    return _yaml(front) + "\n" + "\n\n".join(line for part in parts for line in part if line) + "\n"


def _found(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of the JSON files, and of the sources those that were used."""
    found = {
        key: _read(folder / f"{key}.json") for key in ("funnel", "stats", "mixture", "sources", "exams", "exam_hits")
    }
    return found, [row for row in found["sources"] or [] if row.get("status") == "used"]


def _read(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", text] if text else []


# ---------------------------------------------------------------- front matter


def front_matter(name: str, found: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the Hub reads: languages, licences, size, and which files are which split of which config."""
    total = (found["funnel"] or {}).get("total") or {}
    documents, held_out = total.get("kept") or {}, total.get("held_out") or {}
    languages = sorted(set(_written(found["stats"], "languages written")) & _TWO_LETTERS)
    licences = sorted({own for one in _license_names(found["stats"], sources) for own in hub_licenses(one)})
    has_held_out = bool(held_out.get("documents"))

    def config(name: str, stem: str, held: str, *, is_default: bool = False) -> dict[str, Any]:
        files = [{"split": "train", "path": f"documents/{stem}.parquet"}]
        files += [{"split": "validation", "path": f"held_out/{held}.parquet"}] if has_held_out else []
        return {"config_name": name, "data_files": files} | ({"default": True} if is_default else {})

    front: dict[str, Any] = {
        "pretty_name": name,
        "language": languages,
        "license": licences if len(licences) > 1 else (licences or ["unknown"])[0],
        "size_categories": [next(label for most, label in _SIZES if documents.get("documents", 0) < most)],
        "task_categories": ["text-generation"],
        "tags": ["pretraining", "groundup"],
        "configs": [config("default", "*", "*", is_default=True)],
    }
    if len(names := part_names(sources)) > 1:
        front["configs"] += [config(name, f"{name}-*", f"{name}-*") for name in names]
    if not languages:
        del front["language"]
    return front


def part_names(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """What files are called by: sources, then the languages of those that are routed by them."""
    own = [str(row["name"]) for row in sources if "parts" not in row]
    return [*own, *sorted({part for row in sources for part in row.get("parts") or ()})]


_TWO_LETTERS = frozenset(a + b for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklmnopqrstuvwxyz")


def hub_licenses(text: str) -> set[str]:
    """The Hub's identifiers for what a source says, which may be several: `Apache-2.0 AND MIT`."""
    own = re.split(r",\s*inside an? ", text)[0]  # the text's licence, not that of the package that it came in
    return {hub_license(part) for part in re.split(r"\s+(?:AND|OR|WITH)\s+", own.strip("() "))}


def hub_license(text: str) -> str:
    """The Hub's identifier for one licence; `other` where it has none, `unknown` where there is no licence."""
    lower = re.sub(r"[\s_]+", "-", text.strip().lower())
    if not lower or lower in ("unknown", "none"):
        return "unknown"
    return next((name for pattern, name in _HUB_LICENSES if re.search(pattern, lower)), "other")


def _written(stats: Any, group: str) -> dict[str, list[int]]:
    return dict((((stats or {}).get("total") or {}).get("counters") or {}).get(group) or {})


def _license_names(stats: Any, sources: Sequence[Mapping[str, Any]]) -> list[str]:
    if names := _written(stats, "licenses written"):
        return [name for name in names if name != "(other)"]
    return [name for row in sources for name in row.get("licenses") or {}]


def _yaml(front: Mapping[str, Any]) -> str:
    """Block style with JSON scalars, which YAML 1.2 reads as they are."""
    lines = ["---"]
    for key, value in front.items():
        if not isinstance(value, list):
            lines.append(f"{key}: {json.dumps(value, ensure_ascii=False)}")
        elif all(isinstance(one, str) for one in value):
            lines += [f"{key}:", *(f"- {json.dumps(one, ensure_ascii=False)}" for one in value)]
        else:
            lines.append(f"{key}:")
            for one in value:
                items = [f"{name}: {json.dumps(inner, ensure_ascii=False)}" for name, inner in one.items()]
                lines += [f"- {items[0]}", *(f"  {item}" for item in items[1:])]
    return "\n".join([*lines, "---", ""])


# ---------------------------------------------------------------- prose


def _intro(funnel: Any, sources: Sequence[Mapping[str, Any]]) -> str:
    total = (funnel or {}).get("total") or {}
    kept, held, came = (total.get(key) or {"documents": 0, "bytes": 0} for key in ("kept", "held_out", "in"))
    tokens, low, high = (kept["bytes"] / rate / 1e6 for rate in (BYTES_PER_TOKEN[0], *BYTES_PER_TOKEN[:0:-1]))
    share = kept["documents"] / came["documents"] if came["documents"] else 0.0
    return (
        f"A text corpus for pre-training, made by groundup from {len(sources)} sources: {kept['documents']:,} "
        f"documents, {_mb(kept['bytes'])} of text for training (about {tokens:,.1f} million tokens; {low:,.1f} to "
        f"{high:,.1f} by tokenizer and language) and {held['documents']:,} documents ({_mb(held['bytes'])}) held out "
        f"to measure on. {came['documents']:,} documents came in, {100 * share:.1f} % of them are for training."
    )


def _mb(count: float) -> str:
    if count < 1e5:
        return f"{count / 1e3:,.1f} kB"
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)]) if rows else ""


def _sources(sources: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for row in sources:
        package = row.get("package") or {}
        where = f"{package['name']} {package['version']}" if package else str(row.get("path") or "the machine itself")
        licence = str(package.get("license") or "") or ", ".join(row.get("licenses") or {}) or "not said"
        rows.append([row["name"], row["type"], where, licence, f"{row['documents']:,}", _mb(row["bytes"])])
    return _table(["source", "kind", "from", "licence", "documents", "text"], rows)


def _steps(funnel: Any, settings: Mapping[str, Any]) -> str:
    rows = []
    for step in ((funnel or {}).get("total") or {}).get("steps") or []:
        dropped = step["in"]["documents"] - step["out"]["documents"]
        share = f"{100 * dropped / step['in']['documents']:.1f} %" if step["in"]["documents"] else ""
        size, notes = _mb(step["out"]["bytes"]), "; ".join(told_notes(step))
        rows.append([step["step"], f"{step['in']['documents']:,}", f"{dropped:,}", share, size, notes])
    text = _table(["step", "documents in", "dropped", "share", "text after it", "besides"], rows)
    told = [f"`{key}: {json.dumps(value, ensure_ascii=False, default=str)}`" for key, value in _told(settings).items()]
    return text + (f"\n\nSettings: {', '.join(told)}." if told else "")


_ALWAYS = ("languages", "min_language_score", "extract", "near_duplicate_threshold", "decontamination_ngram", "pii")
_NEVER = {"stage", "seed", "sources", "decontaminate", "mixture"}  # are told elsewhere


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides most, and whatever else is not at its default; of a group of settings what was set in it."""
    fields = CorpusSettings.model_fields
    told = {}
    for key, value in settings.items():
        field = fields.get(key)
        if field is None or key in _NEVER or any(isinstance(mark, Presentation) for mark in field.metadata):
            continue
        default = field.get_default(call_default_factory=True)
        default = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
        if isinstance(value, Mapping):
            value = {name: _said(one) for name, one in value.items() if one != (default or {}).get(name)}
        is_default = value == (list(default) if isinstance(default, tuple) else default)
        if value != {} and (key in _ALWAYS or not is_default):
            told[key] = value
    return told


def _said(value: Any) -> Any:
    """Without what was left open."""
    if isinstance(value, Mapping):
        return {name: _said(one) for name, one in value.items() if one is not None}
    return value


def _drops(funnel: Any) -> str:
    came = (((funnel or {}).get("total") or {}).get("in") or {}).get("documents") or 0
    rows = []
    for step in ((funnel or {}).get("total") or {}).get("steps") or []:
        for reason, number in folded(step["dropped"]):
            rows.append([step["step"], reason, f"{number:,}", f"{100 * number / came:.2f} %" if came else ""])
    return _table(["step", "reason", "documents", "of all that came in"], rows)


def _mixture(mixture: Any) -> str:
    rows = [
        [
            name,
            f"{100 * row['share_of_bytes']:.1f} %",
            f"{100 * row['realised_share']:.1f} %",
            f"{row['epochs']:.2f}" + (" (at the cap)" if row["capped"] else ""),
        ]
        for name, row in ((mixture or {}).get("sources") or {}).items()
    ]
    return _table(["source", "share of the text", "share in training", "epochs"], rows)


def _shares(stats: Any, group: str, what: str) -> str:
    counts = _written(stats, group)
    total = sum(documents for documents, _ in counts.values())
    rows = [
        [name, f"{documents:,}", f"{100 * documents / total:.1f} %", _mb(bytes)]
        for name, (documents, bytes) in sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))[:30]
    ]
    return _table([what, "documents", "share", "text"], rows)


def _licences(sources: Sequence[Mapping[str, Any]]) -> str:
    rows = [[row["name"], name, f"{n:,}"] for row in sources for name, n in (row.get("licenses") or {}).items()]
    return _table(["source", "licence", "documents"], rows)


def _safety(stats: Any, funnel: Any, settings: Mapping[str, Any]) -> str:
    kept = ((((funnel or {}).get("total") or {}).get("kept")) or {}).get("bytes") or 0
    rows = []
    for group in ("personal data", "secrets", "toxicity"):
        for name, (number, _) in sorted(_written(stats, group).items()):
            rows.append([group, name, f"{number:,}", f"{number / (kept / 1e6):.2f}" if kept else ""])
    if not rows:  # a build without stats.json: the notes of the funnel say what was replaced
        for step in ((funnel or {}).get("total") or {}).get("steps") or []:
            rows += [
                ["personal data", name.strip("<>"), f"{n:,}", ""]
                for name, n in (step.get("notes") or {}).items()
                if name.startswith("<")
            ]
    looked_for = ", ".join(settings.get("pii") or ()) or "nothing"
    toxicity = (
        "Toxic text was dropped by a trained model." if settings.get("toxicity") else "Toxicity was not looked at."
    )
    found = (
        "what was found was replaced by its type. What stood there is no part of this data set: where its makers kept "
        "a sample of it to check by (`private/`), that is personal data and must not be uploaded or shared."
    )
    return f"Looked for: {looked_for}; {found} {toxicity}\n\n" + (
        _table(["what", "type", "found", "per MB of text"], rows) or "Nothing was found."
    )


def _exams(exams: Any, hits: Any) -> str:
    rows = [
        [str(row.get("name") or row.get("path") or row.get("exam") or "?"), f"{row.get('items', 0):,}", row["status"]]
        for row in exams or []
    ]
    stood = sum(len(items) for items in (hits or {}).values())
    documents = sum(row["documents"] for items in (hits or {}).values() for row in items.values())
    text = _table(["exam", "items", "status"], rows)
    what = f"{stood:,} {'item was' if stood == 1 else 'items were'} found in {documents:,} "
    what += "document, which was dropped." if documents == 1 else "documents, which were dropped."
    return f"{text}\n\n{what}" if rows else ""


_LIMITS = (
    "Filters are heuristics: some good text was dropped and some bad text was kept (`groundup data stats` shows the "
    "documents nearest to each threshold). Personal data is found by patterns and check digits, so names and free-form "
    "addresses may remain. The text is not filtered for truth. Licences are those that the sources state."
)


def _how_to_read(sources: Sequence[Mapping[str, Any]]) -> str:
    lines = ["```python", "from datasets import load_dataset", "", 'corpus = load_dataset("PATH_OF_THIS_FOLDER")']
    if len(names := part_names(sources)) > 1:
        lines.append(f'one = load_dataset("PATH_OF_THIS_FOLDER", "{names[0]}")')
    return "\n".join([*lines, "```"])
