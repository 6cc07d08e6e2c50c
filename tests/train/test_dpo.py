"""DPO starts at ln 2 with the gradient that the paper gives, and a pair's loss does not depend on its batch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.artifacts import StageContext, read_json
from groundup.chat.formats import Preference
from groundup.chat.pairs_data import EncodedPair, encode_pairs
from groundup.errors import UserError
from groundup.model.decoder import Decoder
from groundup.model.files import load_model
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.chat_data import RowOrder
from groundup.train.dpo import PreferPairs, ReferencedPair, check, completions, pair_batch, run, with_reference
from groundup.train.settings import DpoSettings, SftSettings
from groundup.train.sft import run as sft_run

Contexts = Callable[..., StageContext]
PAIRS = [
    ("what is two plus two?", "it is four.", "it is two, or the lazy fox"),
    ("say hello", "hello", "no"),
    ("say yes", "yes", "say no, say nothing"),
    ("yes or no? the fox wants to know what it is", "no", "yes yes yes"),
]


def preference(prompt: str, chosen: str, rejected: str) -> Preference:
    def said(role: str, text: str) -> tuple[dict[str, Any], ...]:
        return ({"role": role, "content": text},)

    return Preference(said("user", prompt), said("assistant", chosen), said("assistant", rejected))


def settings_for(**changes: Any) -> DpoSettings:
    return DpoSettings.model_validate({"base_model": "base", "datasets": [{"path": "x"}], "bf16": False, **changes})


@pytest.fixture
def model(chat_model_folder: Path) -> Decoder:
    return load_model(chat_model_folder).train()


@pytest.fixture
def pairs(chat_model_folder: Path) -> list[EncodedPair]:
    tokenizer = Tokenizer.from_folder(chat_model_folder)
    return encode_pairs(tokenizer, [preference(*pair) for pair in PAIRS], [1.0] * 4, 128).pairs


def objective(pairs: list[ReferencedPair], **changes: Any) -> PreferPairs:
    settings = settings_for(**{"micro_batch_size": len(pairs), **changes})
    return PreferPairs(pairs, RowOrder(len(pairs), len(pairs), 0), settings, pad_id=3)


def gradient(model: Decoder, value: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def loss_of(model: Decoder, referenced: list[ReferencedPair], **changes: Any) -> torch.Tensor:
    return objective(referenced, **changes).loss(model, pair_batch(referenced, 3)).loss_sum


def largest(gradients: dict[str, torch.Tensor]) -> float:
    return max(float(grad.abs().max()) for grad in gradients.values())


def nudge(model: Decoder) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.02)


def test_loss_at_the_start_is_ln_2(model: Decoder, pairs: list[EncodedPair]) -> None:
    for size in (4, 1):  # whatever batches the reference was computed in
        referenced = with_reference(model, pairs, size, 3, "float32")
        parts = objective(referenced).loss(model, pair_batch(referenced, 3))
        assert parts.loss_sum.item() / parts.weight == pytest.approx(math.log(2), abs=1e-6)
        assert parts.metrics["rewards/margins"][0] == pytest.approx(0, abs=1e-5)
    bf16 = with_reference(model, pairs, 4, 3, "bfloat16")
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(bf16).loss(model, pair_batch(bf16, 3)).loss_sum / 4
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_gradient_at_the_start_is_half_beta_times_the_difference(model: Decoder, pairs: list[EncodedPair]) -> None:
    referenced = with_reference(model, pairs, 4, 3, "float32")
    beta = 0.3
    found = gradient(model, loss_of(model, referenced, beta=beta))
    chosen, rejected = completions(model, pair_batch(referenced, 3))
    expected = gradient(model, -beta / 2 * (chosen.logps - rejected.logps).sum())
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6)


def test_log_probabilities_are_those_of_the_answer_alone(model: Decoder, pairs: list[EncodedPair]) -> None:
    """Summed by hand from the logits of each sequence, end of turn included, prompt not."""
    chosen, rejected = completions(model, pair_batch([ReferencedPair(pair, 0, 0) for pair in pairs], 3))
    for row, pair in enumerate(pairs):
        for found, sample in ((chosen, pair.chosen), (rejected, pair.rejected)):
            ids = torch.tensor([sample.ids])
            logprobs = model.logits(model(ids))[0].float().log_softmax(-1)
            answer = [at for at, flag in enumerate(sample.trained) if flag]
            assert sample.ids[answer[-1]] == 2 and answer == list(range(answer[0], len(sample.ids)))
            expected = sum(logprobs[at - 1, sample.ids[at]].item() for at in answer)
            assert found.logps[row].item() == pytest.approx(expected, abs=1e-4)
            assert float(found.lengths[row]) == len(answer)


def test_swapped_labels_negate_the_gradient_at_the_start(model: Decoder, pairs: list[EncodedPair]) -> None:
    referenced = with_reference(model, pairs, 4, 3, "float32")
    swapped = [
        ReferencedPair(replace(p.pair, chosen=p.pair.rejected, rejected=p.pair.chosen), p.rejected_logp, p.chosen_logp)
        for p in referenced
    ]
    one, other = gradient(model, loss_of(model, referenced)), gradient(model, loss_of(model, swapped))
    for name, grad in one.items():
        torch.testing.assert_close(grad, -other[name], rtol=1e-3, atol=1e-6)


def test_equal_answers_give_no_gradient(model: Decoder, pairs: list[EncodedPair]) -> None:
    equal = [replace(pair, rejected=pair.chosen) for pair in pairs]
    referenced = with_reference(model, equal, 4, 3, "float32")
    nudge(model)
    one_answer = gradient(model, completions(model, pair_batch(referenced, 3))[0].logps.sum())
    for loss_type in ("sigmoid", "hinge", "ipo"):
        found = gradient(model, loss_of(model, referenced, loss_type=loss_type))
        assert largest(found) < 1e-5 * largest(one_answer)


def test_a_batch_of_two_is_two_batches_of_one(model: Decoder, pairs: list[EncodedPair]) -> None:
    referenced = with_reference(model, pairs, 4, 3, "float32")
    nudge(model)
    for loss_type in ("sigmoid", "ipo"):
        together = gradient(model, loss_of(model, referenced[:2], loss_type=loss_type, rpo_alpha=0.5))
        one, other = (gradient(model, loss_of(model, [p], loss_type=loss_type, rpo_alpha=0.5)) for p in referenced[:2])
        for name, grad in together.items():
            torch.testing.assert_close(grad, one[name] + other[name], rtol=1e-4, atol=1e-5)


def test_pairs_that_do_not_fit_are_left_out_whole_and_counted(chat_model_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(chat_model_folder)
    long = preference("hi", "yes", "no " * 100)
    spelled = preference("hi", "yes<|im_end|>", "no")
    made = encode_pairs(tokenizer, [preference(*PAIRS[0]), long, spelled], [1.0, 1.0, 1.0], 64)
    assert len(made.pairs) == 1
    assert made.dropped == {"too long": 1, "control token in content": 1}


# ---------------------------------------------------------------- the whole stage


def write_pairs(path: Path, pairs: list[tuple[str, str, str]]) -> Path:
    rows = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_stage_prefers_the_chosen_and_keeps_what_it_measured(
    chat_model_folder: Path, stage_context: Contexts, tmp_path: Path
) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl", PAIRS * 2)
    context = stage_context("preferred")
    settings = settings_for(
        base_model=str(chat_model_folder),
        datasets=[{"path": str(data)}],
        held_out=[{"path": str(data)}],
        learning_rate=3e-3,
        micro_batch_size=4,
        num_epochs=8,
        logging_steps=1,
        sequence_len=128,
    )
    result = run(settings, context)
    lines = [json.loads(line) for line in (context.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[-1]["loss"] < 0.5
    assert result.metrics["rewards/accuracies"] == 1.0
    assert result.metrics["validation/rewards/accuracies"] == 1.0
    assert {"rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"} <= lines[-1].keys()
    report = read_json(context.folder / "audit.json")
    assert report["pairs"] == 8 and report["eos_trained"] == 16 and report["prompts_also_held_out"] == 8
    load_model(context.folder / "model")


def test_likelihood_displacement_is_flagged(chat_model_folder: Path, stage_context: Contexts, tmp_path: Path) -> None:
    """A model that already gives both answers is trained hard: both lose probability, and the loss looks perfect."""
    pairs = [("say it", "yes" + " no" * n, "no" + " no" * n) for n in (4, 5, 6)]
    data = write_pairs(tmp_path / "pairs.jsonl", pairs)
    known = [{"prompt": prompt, "completion": answer} for prompt, *answers in pairs for answer in answers]
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    shared = {"sequence_len": 128, "num_epochs": None, "micro_batch_size": 6, "bf16": False}
    start = stage_context("start")
    sft = {"base_model": str(chat_model_folder), "datasets": [{"path": str(tmp_path / "known.jsonl")}]}
    sft_run(SftSettings.model_validate({**sft, **shared, "max_steps": 40, "learning_rate": 1e-2}), start)

    context = stage_context("displaced")
    settings = settings_for(
        base_model=str(start.folder), datasets=[{"path": str(data)}], learning_rate=2e-2, max_steps=10, **shared
    )
    result = run(settings, context)
    shown = context.console.stream.getvalue()  # type: ignore[attr-defined]
    assert result.metrics["rewards/accuracies"] == 1.0
    assert result.metrics["logps/chosen_change"] < -1.0
    assert result.metrics["likelihood_displacement"] is True and "likelihood displacement" in shown


def test_nothing_to_compare_is_refused(chat_model_folder: Path, stage_context: Contexts, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl", [("hi", "yes " * 50, "no")])
    settings = settings_for(base_model=str(chat_model_folder), datasets=[{"path": str(data)}], sequence_len=32)
    with pytest.raises(UserError, match=r"there is not one pair to compare \(too long: 1\)"):
        run(settings, stage_context())
    assert "not one pair" in str(check(settings, stage_context()).problems[0])
