"""What the corpus tests share: a context to build in, and a way to run a reader."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from groundup.artifacts import StageContext
from groundup.console import Console
from groundup.corpus.document import Document, Drop
from groundup.corpus.settings import CorpusSettings, Source
from groundup.corpus.sources import read_source
from groundup.stopping import StopRequest


class Built:
    """A finished corpus folder, read back."""

    def __init__(self, folder: Path, narration: str, counts: dict[str, Any]) -> None:
        self.folder, self.narration, self.counts = folder, narration, counts

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def rows(self, part: str, source: str) -> list[dict[str, str]]:
        files = sorted((self.folder / part).glob(f"{source}.parquet")) or sorted(
            (self.folder / part).glob(f"{source}-*.parquet")
        )
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def files(self) -> dict[str, bytes]:
        """Every output file's bytes; timing apart."""
        paths = (path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.name != "timing.json")
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}


def context_in(folder: Path, console: Console | None = None) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    console = console or Console(io.StringIO())
    return StageContext("corpus", folder, {}, 1337, folder.parent / "cache", console, StopRequest(), folder.parent)


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Built]]:
    """Build a corpus from settings as a recipe would write them, in this process unless `workers` says otherwise."""

    from groundup.corpus.build import run  # here, so that a reader's tests need the readers only

    def build(name: str = "corpus", **settings: Any) -> Built:
        said = io.StringIO()
        context = context_in(tmp_path / "runs" / name, Console(said))
        result = run(CorpusSettings(**({"workers": 1} | settings)), context)
        return Built(context.folder, said.getvalue(), result.counts)

    yield build


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Source], tuple[list[Document], list[Drop], Counter[str]]]:
    """Everything a reader yields: documents, drops, notes."""

    def read(source: Source) -> tuple[list[Document], list[Drop], Counter[str]]:
        notes: Counter[str] = Counter()
        results = list(read_source(source, tmp_path / "cache", None, notes))
        documents = [one for one in results if isinstance(one, Document)]
        return documents, [one for one in results if isinstance(one, Drop)], notes

    return read
