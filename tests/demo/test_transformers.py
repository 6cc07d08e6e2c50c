"""What the demo trained is an ordinary Hugging Face model: transformers computes and says the same.

Nothing of ours is in transformers' half: its own tokenizer, chat template, generation settings and model code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from groundup.chat.scoring import load_reward_model, score_texts
from groundup.chat.template import prompt_ids
from groundup.model.decoder import Decoder
from groundup.model.files import load_model
from groundup.model.generate import Sampling, generate
from groundup.tokens.tokenizer import Tokenizer

from .conftest import Demo

pytestmark = pytest.mark.slow

NEW_TOKENS = 16


@dataclass(frozen=True)
class Both:
    """One folder, opened by transformers and by us."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    our_model: Decoder
    our_tokenizer: Tokenizer


@pytest.fixture(scope="module", params=["chat", "aligned"])
def both(demo: Demo, request: pytest.FixtureRequest) -> Both:
    folder = demo.run / str(request.param) / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Both(folder, model, AutoTokenizer.from_pretrained(folder), load_model(folder), Tokenizer.from_folder(folder))


def questions(demo: Demo) -> list[str]:
    rows = [
        json.loads(line) for line in (demo.run / "exam" / "items" / "verifiable.chat.jsonl").read_text().splitlines()
    ]
    return [row["prompt"] for row in rows]


def ids_of(rendered: Any) -> list[int]:
    """What apply_chat_template gives: ids, or a mapping that has them."""
    ids = rendered["input_ids"] if isinstance(rendered, Mapping) else rendered
    return [int(one) for one in ids]


def test_logits_are_equal_on_a_real_conversation(both: Both, demo: Demo) -> None:
    first, second = questions(demo)[:2]
    conversation = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": "What do you think? Ça va — 12 \N{SNOWMAN}"},
        {"role": "user", "content": second},
    ]
    ids = ids_of(both.tokenizer.apply_chat_template(conversation, add_generation_prompt=True))
    assert ids == prompt_ids(both.our_tokenizer, conversation)
    tokens = torch.tensor([ids])
    with torch.no_grad():
        theirs = both.model(tokens).logits
        ours = both.our_model.logits(both.our_model(tokens))
    assert theirs.dtype == ours.dtype == torch.float32
    assert (theirs - ours).abs().max() <= 1e-5


def test_ten_greedy_replies_are_the_same_text(both: Both, demo: Demo) -> None:
    ends = json.loads((both.folder / "generation_config.json").read_text())["eos_token_id"]
    assert both.model.generation_config.eos_token_id == ends
    prompts, replies = [], []
    for question in questions(demo)[:10]:
        prompt = ids_of(
            both.tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
        )
        tokens = torch.tensor([prompt])
        written = both.model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=NEW_TOKENS
        )
        prompts.append(prompt)
        replies.append(both.tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True))
    sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=0.0, stop_ids=tuple(ends))
    ours = generate(both.our_model, prompts, sampling)  # all ten at once, where transformers took one by one
    assert [both.our_tokenizer.decode(reply.ids, skip_special_tokens=True) for reply in ours] == replies
    assert any(reply.finished for reply in ours), "no reply ended by itself: the end of turn was not tested"


def test_the_chat_verb_says_what_transformers_says(demo: Demo, both: Both) -> None:
    question = questions(demo)[0]
    prompt = both.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = both.model.generate(**prompt, do_sample=False, max_new_tokens=NEW_TOKENS)
    reply = both.tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    said = demo.home.groundup(
        "chat", str(both.folder), "-p", question, "--temperature", "0", "--max-new-tokens", str(NEW_TOKENS)
    )
    assert said.exit_code == 0, said.said
    assert said.out == f"{reply}\n"


def test_the_reward_model_scores_the_same(demo: Demo) -> None:
    folder = demo.run / "judge" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = load_reward_model(folder)
    conversations = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question in questions(demo)[:5]
        for answer in ("7", "I do not know, and that is the truth.")
    ]
    for conversation, score in zip(
        conversations, score_texts(ours, Tokenizer.from_folder(folder), conversations), strict=True
    ):
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        end = text.rindex("<|im_end|>") + len("<|im_end|>")  # what follows the end of the turn says nothing any more
        ids = tokenizer(text[:end], add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            (logit,) = model(**ids).logits.flatten().tolist()
        assert ours.gain * logit + ours.bias == pytest.approx(score, abs=1e-5 * max(1.0, abs(ours.gain)))
