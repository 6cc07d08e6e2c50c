"""Builds a corpus in this process: `build_once.py FOLDER SETTINGS.json`. Prints the digest of what was written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from groundup.artifacts import StageContext, fingerprint_folder
from groundup.console import Console
from groundup.corpus.build import run
from groundup.corpus.settings import CorpusSettings
from groundup.errors import Stopped, UserError
from groundup.stopping import listening_for_signals


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(sys.stderr)
    try:
        with listening_for_signals() as stop:
            given = (folder.parent / "cache", console, stop, folder.parent)
            run(CorpusSettings(**settings), StageContext("corpus", folder, {}, 1337, *given))
    except Stopped as stopped:
        os._exit(stopped.exit_code)
    except UserError as error:
        print(error, file=sys.stderr)
        os._exit(3)
    print(fingerprint_folder(folder), flush=True)
    os._exit(0)  # a Ray or Dask client in this process takes seconds to say goodbye


if __name__ == "__main__":
    main()
