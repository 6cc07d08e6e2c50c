"""`groundup chat`: find the model that is meant, and talk to it, token by token."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts import MARKER, read_artifact, read_json
from groundup.errors import UserError

CHAT_KINDS = ("ppo", "dpo", "sft", "pretrain")  # best first


@dataclass(frozen=True)
class ChatOptions:
    max_new_tokens: int = 256
    temperature: float = 0.7
    system: str | None = None
    seed: int | None = None


def chat(name: str, prompt: str | None, options: ChatOptions, *, home: Path | None) -> None:
    """Answer one prompt on stdout, or talk until Ctrl-D. `/new` starts over, `/quit` ends."""
    folder = find_model(name, home)
    print(f"loading {folder}", file=sys.stderr)
    model = _Speaker(folder, options)
    if prompt is not None:
        for piece in model.reply([*model.opening(), {"role": "user", "content": prompt}]):
            print(piece, end="", flush=True)
        print()
        return
    _talk(model)


def _talk(model: _Speaker) -> None:
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() history and editing
    print("type a message; /new starts over, /quit or Ctrl-D ends", file=sys.stderr)
    messages = model.opening()
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        if text in ("/quit", "/exit"):
            return
        if text == "/new":
            messages = model.opening()
            continue
        if not text:
            continue
        messages.append({"role": "user", "content": text})
        said = ""
        try:
            for piece in model.reply(messages):
                said += piece
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(" ...", end="")  # Ctrl-C ends the reply, not the conversation
        except UserError as error:  # the conversation has outgrown the model's context
            print(f"{error}\n/new starts over", file=sys.stderr)
            messages.pop()
            continue
        print()
        messages.append({"role": "assistant", "content": said})


class _Speaker:
    """A model with its tokenizer, ready to answer."""

    def __init__(self, folder: Path, options: ChatOptions) -> None:
        import torch

        from groundup.model.files import load_model
        from groundup.model.generate import PromptCache, Sampling, prepare
        from groundup.tokens.tokenizer import Tokenizer

        self.model = prepare(load_model(folder))
        self.read = PromptCache(self.model)  # the next turn reads only what is new
        self.tokenizer = Tokenizer.from_folder(folder)
        self.options = options
        self.sampling = Sampling(
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            stop_ids=tuple(_stop_ids(folder, self.tokenizer)),
        )
        self.generator = torch.Generator()
        if options.seed is not None:
            self.generator.manual_seed(options.seed)
        else:
            self.generator.seed()

    def opening(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.options.system}] if self.options.system else []

    def reply(self, messages: list[dict[str, Any]]) -> Iterator[str]:
        """The answer in pieces that are whole characters."""
        import dataclasses

        from groundup.chat.template import prompt_ids
        from groundup.model.generate import stream_text

        prompt = prompt_ids(self.tokenizer, messages)
        room = self.model.config.max_position_embeddings - len(prompt)
        if room < 1:
            raise UserError(
                f"the conversation has {len(prompt)} tokens, and the model reads at most {room + len(prompt)}"
            )
        sampling = dataclasses.replace(self.sampling, max_new_tokens=min(self.sampling.max_new_tokens, room))
        yield from stream_text(self.model, prompt, sampling, self._decode, self.generator, cache=self.read)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def _stop_ids(folder: Path, tokenizer: Any) -> list[int]:
    """What ends a turn: as generation_config.json says, else as the tokenizer does."""
    path = folder / "generation_config.json"
    ends = read_json(path).get("eos_token_id") if path.is_file() else None
    if ends is None:
        return list(tokenizer.stop_ids)
    return [int(one) for one in (ends if isinstance(ends, list) else [ends])]


# ---------------------------------------------------------------- which model is meant


def find_model(name: str, home: Path | None) -> Path:
    """The Hugging Face folder behind a run, a stage's folder, or such a folder itself."""
    from groundup.runs import list_runs, runs_home

    home = home or runs_home()
    for path in (Path(name), home / name):
        if (path / "config.json").is_file():
            return path
        if (path / "model" / "config.json").is_file():
            return path / "model"
        if path.is_dir() and any((path / one).exists() for one in ("recipe.yaml", "state.json")):
            return model_of_run(path)
    from groundup.recipe import did_you_mean, one_of

    if Path(name).is_dir():
        raise UserError("there is no model in this folder (no config.json, no model/)", where=name)
    parent = Path(name).parent
    known = [one.name for one in list_runs(home)]
    if (parent / "recipe.yaml").is_file():
        known = sorted(one.parent.parent.name for one in parent.glob("*/model/config.json"))
    fix = one_of("models there" if (parent / "recipe.yaml").is_file() else "runs", known) if known else ""
    raise UserError(f"no such model{did_you_mean(Path(name).name, known)}", where=name, fix=fix)


def model_of_run(run: Path) -> Path:
    """The gate's candidate; else the newest finished model, aligned before fine-tuned before pre-trained."""
    finished = [artifact for path in sorted(run.glob(f"*/{MARKER}")) if (artifact := read_artifact(path.parent))]
    for artifact in finished:
        candidate = run / str(artifact.settings.get("candidate"))
        if artifact.kind == "gate" and (candidate / "model" / "config.json").is_file():
            return candidate / "model"
    for kind in CHAT_KINDS:
        models = [one for one in finished if one.kind == kind and (one.path / "model" / "config.json").is_file()]
        if models:
            return max(models, key=lambda one: one.finished_at).path / "model"
    raise UserError(
        "no stage of this run has finished a model yet", where=str(run), fix="`groundup runs` shows how far it is"
    )
