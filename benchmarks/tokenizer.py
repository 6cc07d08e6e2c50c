"""Learning a 32k byte-level BPE on 100 MB of real text, and encoding with it, beside Hugging Face tokenizers.

    python benchmarks/tokenizer.py [--json] [--quick] [--megabytes 100]

The text is what a machine has: documentation and man pages (/usr/share), Python code and its documentation (the
standard library, installed packages), each file once, in the order of a hash, until there is enough. Ours is what the
`tokenizer` stage does (rustbpe, the check of `min_frequency`, tokenizer.json) and what the `tokens` stage does
(tiktoken); theirs is `BpeTrainer` and `encode_batch_fast` on the same tokenizer.json. One thread each. CPU seconds are
what counts.

Checked: both vocabularies have one size and encode the text to as many tokens (within 0.1 %), and every text of the
encoding has the very ids that the library gives, and, on a sample, transformers' AutoTokenizer.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common

VOCAB_SIZE = 32_768
LARGEST_FILE, SMALLEST_FILE = 2_000_000, 500
TRAIN_SHARE, ENCODE_SPEED = 3.0, 5.0  # times as fast as theirs
SUFFIXES = {".py", ".md", ".rst", ".txt", ".html", ".gz", ".json", ".h", ".js", ""}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="3 MB and 2,000 ids, to try the script out")
    parser.add_argument("--megabytes", type=float, default=None, help="of text to learn from (100)")
    arguments = parser.parse_args()
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    megabytes = arguments.megabytes or (3 if arguments.quick else 100)
    vocab_size, encoded = (2000, 2e6) if arguments.quick else (VOCAB_SIZE, 30e6)
    report: dict[str, Any] = {
        "machine": common.machine(["groundup", "rustbpe", "tiktoken", "tokenizers", "transformers"]),
        "quick": arguments.quick,
        "work": {},
        "results": [],
        "targets": [],
        "absent": [name for name in ("rustbpe", "tiktoken", "transformers") if importlib.util.find_spec(name) is None],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size, files = collect(folder / "text.jsonl", megabytes * 1e6)
        if size < 0.9 * megabytes * 1e6:
            print(f"this machine has {size / 1e6:.0f} MB of text, not {megabytes:.0f}", file=sys.stderr)
        measure(report, folder, vocab_size, encoded, 1 if arguments.quick else 2)
        report["work"]["learning"]["checked"] |= {"text": f"{size / 1e6:.1f} MB", "files": files}
    print(json.dumps(report, indent=2) if arguments.json else common.table(report))
    held = [row["holds"] for row in report["targets"] if row["holds"] is not None]
    is_same = all(work["same"] for work in report["work"].values())
    return 0 if is_same and (arguments.quick or all(held)) else 1


def measure(report: dict[str, Any], folder: Path, vocab_size: int, encoded: float, turns: int) -> None:
    systems = {
        name: common.System(name, Work, str(folder), name, vocab_size, encoded) for name in ("groundup", "tokenizers")
    }
    learning = {name: common.Samples() for name in systems}
    encoding = {name: common.Samples() for name in systems}
    for _ in range(turns):
        for name, system in systems.items():
            system.time(learning[name], "learn")
    learned = {name: system.ask("learned") for name, system in systems.items()}
    for system in systems.values():
        system.ask("prepare", str(folder / "groundup"))  # both encode with our tokenizer.json
    for _ in range(turns + 1):
        for name, system in systems.items():
            system.time(encoding[name], "encode")
    given = {name: system.ask("encoded") for name, system in systems.items()}
    sample = systems["groundup"].ask("equals_transformers")
    for system in systems.values():
        system.close()
    ours, theirs = learned["groundup"], learned["tokenizers"]
    report["work"]["learning"] = {
        "what": f"a byte-level BPE of {vocab_size:,} ids, digits one by one",
        "same": ours["ids"] == theirs["ids"] and abs(ours["tokens"] / theirs["tokens"] - 1) <= 0.001,
        "checked": {"ids": ours["ids"], "tokens of a sample": f"{ours['tokens']:,} and {theirs['tokens']:,}"},
    }
    report["work"]["encoding"] = {
        "what": f"{given['groundup']['bytes'] / 1e6:.1f} MB with our tokenizer.json",
        "same": given["groundup"] == given["tokenizers"] and sample["equal"],
        "checked": {
            "tokens": f"{given['groundup']['tokens']:,}",
            "sha256 of all ids": given["groundup"]["sha256"][:16],
            "texts whose ids are AutoTokenizer's": sample["texts"],
        },
    }
    for what, samples, least in (("learn", learning, TRAIN_SHARE), ("encode", encoding, ENCODE_SPEED)):
        if not report["work"]["learning" if what == "learn" else "encoding"]["same"]:
            continue
        results = {name: samples[name].result(f"{name}: {what}") for name in systems}
        report["results"] += results.values()
        ratio = results["tokenizers"]["cpu_seconds"] / results["groundup"]["cpu_seconds"]
        report["targets"].append({
            "name": f"{what}, CPU seconds",
            "ours": results["groundup"]["cpu_seconds"],
            "peer": results["tokenizers"]["cpu_seconds"],
            "peer_name": "tokenizers",
            "ratio": ratio,
            "target": least,
            "holds": ratio >= least,
        })  # fmt: skip
        if what == "encode":
            for name, result in results.items():
                result["megabytes_per_cpu_second"] = given[name]["bytes"] / 1e6 / result["cpu_seconds"]


# ---------------------------------------------------------------- one system, in a process of its own


class Work:
    def __init__(self, folder: str, library: str, vocab_size: int, encoded: float) -> None:
        self.folder, self.library, self.vocab_size, self.encoded_bytes = Path(folder), library, vocab_size, encoded
        self.ids: list[list[int]] = []

    def texts(self) -> Iterator[str]:
        with open(self.folder / "text.jsonl", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def learn(self) -> None:
        from groundup.tokens.train_tokenizer import save_tokenizer, train_bpe

        library = "rustbpe" if self.library == "groundup" else "tokenizers"
        save_tokenizer(train_bpe(self.texts, self.vocab_size, library=library), self.folder / self.library)

    def learned(self) -> dict[str, int]:
        from groundup.tokens.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_folder(self.folder / self.library)
        tokens = sum(len(ids) for ids in tokenizer.encode_documents(list(self.sample(10e6))))
        return {"ids": tokenizer.vocab_size, "tokens": tokens}

    def sample(self, limit: float) -> Iterator[str]:
        size = 0
        for text in self.texts():
            if size >= limit:
                return
            size += len(text.encode())
            yield text

    def prepare(self, tokenizer: str) -> None:
        from groundup.tokens.tokenizer import Tokenizer

        self.tokenizer = Tokenizer.from_folder(tokenizer)
        self.given = list(self.sample(self.encoded_bytes))
        self.bytes = sum(len(text.encode()) for text in self.given)
        if self.library == "groundup":
            assert self.tokenizer._fast is not None, "tiktoken is not in use"
        self.encode(8)

    def encode(self, limit: int | None = None) -> None:
        given = self.given[:limit]
        if self.library == "groundup":
            self.ids = self.tokenizer.encode_documents(given)
        else:
            backend = self.tokenizer._plain_backend
            self.ids = [one.ids for one in backend.encode_batch_fast(given, add_special_tokens=False)]

    def encoded(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for ids in self.ids:
            digest.update(json.dumps(ids).encode())
        return {"bytes": self.bytes, "tokens": sum(map(len, self.ids)), "sha256": digest.hexdigest()}

    def equals_transformers(self) -> dict[str, Any]:
        """Every tenth text, at most 3 MB, as AutoTokenizer reads the folder; special tokens are text to both."""
        if importlib.util.find_spec("transformers") is None:
            return {"equal": True, "texts": "not installed"}
        from transformers import AutoTokenizer

        theirs = AutoTokenizer.from_pretrained(self.folder / "groundup", split_special_tokens=True)
        texts, size, equal = 0, 0, True
        for text, ids in list(zip(self.given, self.ids, strict=True))[::10]:
            if size > 3e6:
                break
            texts, size = texts + 1, size + len(text)
            equal = equal and theirs.encode(text, add_special_tokens=False) == ids
        return {"equal": equal, "texts": texts}


# ---------------------------------------------------------------- the text


def collect(out: Path, limit: float) -> tuple[int, int]:
    """Write texts, one JSON string a line, until there are `limit` bytes; bytes and files."""
    python = sysconfig.get_paths()
    roots = [python["stdlib"], python["purelib"], *map(str, Path("/usr/lib").glob("python3*"))]
    roots += ["/usr/share/doc", "/usr/share/man", "/usr/share/perl", "/usr/include"]
    found = {path.resolve() for root in roots for path in Path(root).rglob("*") if path.suffix in SUFFIXES}
    size = files = 0
    seen: set[bytes] = set()
    with open(out, "w", encoding="utf-8") as file:
        for path in sorted(found, key=lambda path: hashlib.sha256(str(path).encode()).digest()):
            if (text := text_of(path)) is None or (key := hashlib.sha256(text.encode()).digest()) in seen:
                continue
            seen.add(key)
            file.write(json.dumps(text) + "\n")
            size, files = size + len(text.encode()), files + 1
            if size >= limit:
                break
    return size, files


def text_of(path: Path) -> str | None:
    """The file's text, or None for what is none, too small or too large."""
    try:
        if not path.is_file() or not SMALLEST_FILE <= path.stat().st_size <= LARGEST_FILE:
            return None
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return None if b"\0" in data or len(data) > LARGEST_FILE else data.decode("utf-8")
    except (OSError, EOFError, ValueError, gzip.BadGzipFile):
        return None


if __name__ == "__main__":
    sys.exit(main())
