"""Make the peers' environments: `.bench-venv` (transformers, accelerate, TRL), `-litgpt`, `-dedup` and `-extract`.

    python benchmarks/setup.py [FOLDER]

They are separate from groundup's own, so that no peer changes what is measured of ours. torch is the same build in all
of them: the CPU build that constraints.txt names, found through pip's configured links; never a CUDA build. nanoGPT and
nanochat are no packages: clone them and say `--nanogpt DIR`, `--nanochat DIR`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / ".bench-venv")
    folder = parser.parse_args().folder.absolute()
    torch = torch_requirement((ROOT / "constraints.txt").read_text())
    make(folder, [torch, "-r", str(HERE / "peers.txt")])
    make(folder.with_name(f"{folder.name}-litgpt"), [torch, "-r", str(HERE / "peers-litgpt.txt")])
    make(folder.with_name(f"{folder.name}-dedup"), ["-r", str(HERE / "peers-dedup.txt")])
    make(folder.with_name(f"{folder.name}-scrub"), ["-r", str(HERE / "peers-scrub.txt")])
    # our own functions run in datatrove's pipeline: both do the same to each document
    corpus = [*("-r", str(HERE / "peers-corpus.txt")), *("-e", str(HERE.parent)), "xxhash<4"]
    make(folder.with_name(f"{folder.name}-corpus"), corpus)
    make(folder.with_name(f"{folder.name}-extract"), ["-r", str(HERE / "peers-extract.txt")])
    return 0


def torch_requirement(constraints: str) -> str:
    """`torch==X+cpu`, which can never match a build with CUDA."""
    found = re.search(r"^torch==([^\s+]+)", constraints, re.MULTILINE)
    if found is None:
        sys.exit("constraints.txt names no version of torch")
    return f"torch=={found[1]}+cpu"


def make(folder: Path, requirements: list[str]) -> None:
    print(f"{folder}: {' '.join(requirements)}", flush=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    if folder.name.endswith("-litgpt"):  # some versions bring a torchvision that does not go with torch's CPU build
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)


if __name__ == "__main__":
    sys.exit(main())
