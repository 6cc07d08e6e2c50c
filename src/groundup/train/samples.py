"""What a model says before and after a stage: samples.jsonl, the same prompts each time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from groundup.artifacts import StageContext, write_atomic
from groundup.model.decoder import Decoder
from groundup.model.generate import Sampling, generate
from groundup.tokens.tokenizer import Tokenizer

FILE = "samples.jsonl"


@dataclass(frozen=True)
class SamplePrompt:
    """`shown` is kept in the file, `ids` are what the model reads (a rendered conversation, say)."""

    shown: str
    ids: list[int]


def text_prompts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[SamplePrompt]:
    """Beginnings of documents."""
    return [SamplePrompt(text, [tokenizer.document_end_id, *tokenizer.encode(text)]) for text in texts]


def write_samples(
    model: Decoder | None,
    tokenizer: Tokenizer,
    prompts: Sequence[SamplePrompt],
    context: StageContext,
    when: str,
    *,
    max_new_tokens: int = 48,
    temperature: float = 0.0,
) -> list[dict[str, Any]]:
    """Continue each prompt and keep `{prompt, completion, stage, when}`; `when` is `before` or `after`.

    Does nothing for a `when` that the file already has (an attempt that was cut off), nor where this process has no
    `model` to look at (whole.py). Returns the rows of `when`.
    """
    if when == "before" and context.team.rank > 0:
        return []  # the main process's are kept
    path = context.folder / FILE
    rows = _read(path)
    if model is not None and prompts and not any(row["when"] == when for row in rows):
        limit = model.config.max_position_embeddings - max((len(prompt.ids) for prompt in prompts), default=0)
        sampling = Sampling(
            max_new_tokens=max(1, min(max_new_tokens, limit)),
            temperature=temperature,
            top_p=0.95 if temperature else 1.0,
            stop_ids=tuple(tokenizer.stop_ids),
        )
        generator = torch.Generator().manual_seed(context.seed)
        was_training = model.training
        model.eval()
        with torch.no_grad():
            completions = generate(model, [prompt.ids for prompt in prompts], sampling, generator)
        model.train(was_training)
        rows += [
            {
                "prompt": prompt.shown,
                "completion": tokenizer.decode(completion.ids, skip_special_tokens=True),
                "stage": context.name,
                "when": when,
            }
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return [row for row in rows if row["when"] == when]


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
