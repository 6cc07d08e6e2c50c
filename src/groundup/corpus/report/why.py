"""The fate of one document of a finished corpus: where it ended, at which step, by which numbers, for which other text.

What is kept lies in the corpus with its text. Of what was dropped the corpus keeps the reason and the beginning; for
the rest its source is read again, if it is still there, and the document goes through the steps once more (trial.py).
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from groundup.artifacts import read_json
from groundup.corpus.document import Document, Drop
from groundup.corpus.pii.audit import audit_of
from groundup.corpus.report.funnel import STEPS
from groundup.corpus.report.stats import Check
from groundup.corpus.report.trial import Tried, to_be_trained, trial
from groundup.corpus.settings import CorpusSettings
from groundup.corpus.shards import document_of
from groundup.corpus.sources import pieces, read_piece
from groundup.corpus.tasks import SIDECAR
from groundup.errors import UserError
from groundup.packages import PackageUnreachableError
from groundup.recipe import with_paths_of_run

_FOR = re.compile(r"^\[(.+?)\] ", re.S)  # how a duplicate's excerpt names the document that it was dropped for
_SHARD = re.compile(r"-\d{5}$")
FOLDERS = {"documents": "kept for training", "held_out": "kept, held out to measure on", "dropped": "dropped"}
MOST_SUGGESTED = 3
PAIR_CHARS = 300


def why(
    folder: Path, wanted: str, settings: Mapping[str, Any], cache: Path, *, read_source: bool = True
) -> dict[str, Any]:
    """All that is known of the document whose id or address is `wanted`. UserError where there is none.

    `settings`: of the corpus stage, as the artifact keeps them. Without `read_source`, a dropped document is told of by
    what the corpus holds only.
    """
    where, row = _find(folder, wanted)
    source = _SHARD.sub("", row.get("source") or row["file"])
    corpus = with_paths_of_run(CorpusSettings(**settings), folder.parent / "recipe.yaml") if settings else None
    dropped = where == "dropped"
    other = _other(folder, row) if dropped else {}
    corpus = _with_trained(corpus, folder) if corpus else None
    tried, note = _tried(corpus, source, str(row["id"]), row, where, cache) if read_source and corpus else (None, "")
    audit = None if dropped else audit_of(folder, str(row["id"]))
    text = row.get("text") or (tried.text if tried else "") or row.get("excerpt") or ""
    return {
        "id": row["id"],
        "source": source,
        "url": row.get("url") or (tried.url if tried else ""),
        "license": row.get("license") or (tried.license if tried else ""),
        "fate": FOLDERS[where],
        "verdict": _verdict(row, where),
        "step": row.get("step", "") if dropped else "",
        "reason": row.get("reason", "") if dropped else "",
        "value": row.get("value"),
        "threshold": row.get("threshold"),
        "steps": _steps(row, where),
        "checks": _checks(folder, tried.checks if tried else [], row if dropped else {}),
        "signals": tried.signals if tried else {},
        "language": tried.language if tried else row.get("language", ""),
        "language_score": tried.language_score if tried else None,
        "measured_on": note,
        "other": other,
        "replaced": audit["replaced"] if audit else None,  # where the document is in the audit's sample
        "text": text,
    }


# ---------------------------------------------------------------- finding


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for where in FOLDERS:
        for path in sorted((folder / where).glob("*.parquet")):
            yield where, path


def _find(folder: Path, wanted: str) -> tuple[str, dict[str, Any]]:
    """(folder that it lies in, its row). By id first, then by address."""
    for column in ("id", "url"):
        for where, path in _files(folder):
            if (row := _row(path, column, wanted)) is not None:
                return where, row | {"file": path.stem}
    raise UserError(
        f"no document of this corpus has the id '{wanted}'{_suggestion(folder, wanted)}",
        where=str(folder),
        fix="ids stand in documents/, held_out/ and dropped/ (`id`), and in the report's examples",
    )


def _row(path: Path, column: str, value: str) -> dict[str, Any] | None:
    """The first row with this value; only its row group's text is read."""
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            return None
        for group in range(file.num_row_groups):
            place = pc.index(file.read_row_group(group, columns=[column]).column(0), value).as_py()
            if place >= 0:
                return file.read_row_group(group).slice(place, 1).to_pylist()[0]  # type: ignore[no-any-return]
    return None


def _suggestion(folder: Path, wanted: str) -> str:
    """Ids that contain what was asked for, or look like it."""
    like: list[str] = []
    ids: list[str] = []
    for _, path in _files(folder):
        column = pq.read_table(path, columns=["id"]).column(0)
        like += column.filter(pc.match_substring(column, wanted, ignore_case=True)).to_pylist()[:MOST_SUGGESTED]
        ids += column.slice(0, 20_000).to_pylist()
        if len(like) >= MOST_SUGGESTED:
            break
    close = like or get_close_matches(wanted, ids[:50_000], MOST_SUGGESTED)
    return f". Did you mean {' or '.join(repr(one) for one in close[:MOST_SUGGESTED])}?" if close else ""


def _other(folder: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """The document that a duplicate was dropped for, with its text; {} for any other drop."""
    match = _FOR.match(row.get("excerpt") or "")
    if "duplicates" not in str(row.get("step")) or match is None:
        return {}
    for where, path in _files(folder):
        if (found := _row(path, "id", match[1])) is not None:
            text = found.get("text") or _FOR.sub("", found.get("excerpt") or "")
            source = _SHARD.sub("", found.get("source") or path.stem)
            return {"id": match[1], "fate": FOLDERS[where], "source": source, "text": text}
    return {"id": match[1], "fate": "not in this corpus", "source": "", "text": ""}


def example_pairs(folder: Path, most: int = 5, most_files: int = 20) -> list[dict[str, Any]]:
    """A few near-duplicates beside what they were dropped for, those of the smallest similarity: for stats.json.

    Looks into `most_files` files of each folder, so that it costs the same for a large corpus.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "dropped").glob("*.parquet"))[:most_files]:
        table = pq.read_table(path, filters=[("step", "=", "near duplicates")])
        rows += [{**row, "source": _SHARD.sub("", path.stem)} for row in table.to_pylist()]
    rows.sort(key=lambda row: (row["value"] if row["value"] is not None else 2.0, row["id"]))
    pairs: list[dict[str, Any]] = []
    for row in rows[: 4 * most]:
        match = _FOR.match(row["excerpt"] or "")
        files = sorted((folder / "documents").glob("*.parquet"))[:most_files] if match else []
        kept = next((found for path in files if match and (found := _row(path, "id", match[1])) is not None), None)
        if match and kept and len(pairs) < most:
            dropped_text = _FOR.sub("", row["excerpt"])
            about = {"step": row["step"], "similarity": row["value"], "source": row["source"], "dropped": row["id"]}
            texts = {"kept_excerpt": kept["text"][:PAIR_CHARS], "dropped_excerpt": dropped_text[:PAIR_CHARS]}
            pairs.append({**about, "kept": match[1], **texts})
    return pairs


# ---------------------------------------------------------------- telling


def _verdict(row: Mapping[str, Any], where: str) -> str:
    if where != "dropped":
        return FOLDERS[where]
    value, threshold = row.get("value"), row.get("threshold")
    numbers = f" ({value:.4g}, threshold {threshold:.4g})" if value is not None and threshold is not None else ""
    return f"dropped at the step {row['step']}: {row['reason']}{numbers}"


def _steps(row: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    """Every step of the funnel up to where the document ended."""
    last = STEPS.index(row["step"]) if where == "dropped" and row["step"] in STEPS else len(STEPS)
    steps = [{"step": step, "what": "passed"} for step in STEPS[:last]]
    if where == "dropped":
        return [*steps, {"step": str(row["step"]), "what": _verdict(row, where)}]
    return [*steps, {"step": "select", "what": FOLDERS[where]}]


def _checks(folder: Path, checks: list[dict[str, Any]], row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The questions; with the one that the document was dropped for where it cannot be asked again (no model, no text).

    What that question looks at, stats.json tells: it has every rule with its threshold.
    """
    value, threshold, reason = row.get("value"), row.get("threshold"), str(row.get("reason"))
    if value is None or threshold is None or any(one["rule"] == reason and one["fails"] for one in checks):
        return checks
    stats = folder / "stats.json"
    rules = read_json(stats)["total"]["rules"].values() if stats.is_file() else ()
    rule = next((one for one in rules if (one["rule"], one["threshold"]) == (reason, threshold)), None)
    if rule is None:  # no question of a threshold that all documents are asked
        return checks
    asked = Check(reason, rule["signal"], value, threshold, rule["is_least"], rule["step"])
    others = [one for one in checks if (one["rule"], one["signal"]) != (reason, rule["signal"])]
    return [*others, {**asdict(asked), "fails": asked.fails}]


def _with_trained(settings: CorpusSettings, folder: Path) -> CorpusSettings:
    """The settings with the models that the build trained, where its work folder (`keep_work`) still has them."""
    trained: dict[str, list[Path]] = {}
    for path in (folder.parent / ".shards" / folder.name / "train").glob(f"*/{SIDECAR}"):
        trained.setdefault(str(read_json(path)["name"]), []).append(path.parent)
    update = {}
    for name in to_be_trained(settings):
        found = trained.get(name.removeprefix("pii_"), [])
        if len(found) == 1:  # of several it cannot be told which one was this build's
            update[name] = getattr(settings, name).model_copy(update={"model": str(found[0])})
    return settings.model_copy(update=update)


def _tried(
    settings: CorpusSettings, source: str, id: str, row: Mapping[str, Any], where: str, cache: Path
) -> tuple[Tried | None, str]:
    """(the document through the steps again, on which text)."""
    media = row.get("media")
    if where != "dropped" and media not in ("html", "wikitext"):  # its text as it is now, perhaps scrubbed
        document = document_of({"date": "", "metadata": "", **row, "media": media or "prose"})
        return _through(settings, source, document, cache), "measured on the text as it lies in the corpus"
    if row.get("step") == "read":
        return None, ""
    again = _read_again(settings, source, id, cache)
    if again is None:
        where = getattr(settings.sources.get(source), "path", source)
        return None, f"its source ({where}) cannot be read from here: no numbers but those above"
    return _through(settings, source, again, cache), "measured on the source, read again"


def _read_again(settings: CorpusSettings, source: str, id: str, cache: Path) -> Document | None:
    """The document as its reader gives it; None where the source is not there any more, or is another."""
    if source not in settings.sources:
        return None
    own = settings.sources[source]
    try:
        parts = pieces(own, cache)
        parts.sort(key=lambda piece: piece.name not in id)  # a piece's name is part of its documents' ids
        for piece in parts:
            for one in read_piece(own, piece, Counter()):
                if not isinstance(one, Drop) and one.id == id:
                    return one
    except (UserError, PackageUnreachableError, OSError):
        return None
    return None


def _through(settings: CorpusSettings, source: str, document: Document, cache: Path) -> Tried:
    alone = settings.model_copy(update={"decontaminate": ()})  # that verdict is known, and exams take long to read
    with tempfile.TemporaryDirectory(prefix="groundup-why-") as folder:
        return trial(alone, {source: [document]}, Path(folder), seed=0, cache=cache)[0]
