"""Fine-tuning trains the assistant's words and nothing else; packing and micro-batches change cost, not results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.artifacts import StageContext, read_json
from groundup.chat.masks import Encoded, encode_conversation
from groundup.chat.packing import join, pack
from groundup.errors import Stopped, UserError
from groundup.model.decoder import Decoder
from groundup.model.files import load_model
from groundup.model.generate import Sampling, generate
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.chat_data import RowOrder, repeat_by_weight
from groundup.train.settings import SftSettings
from groundup.train.sft import ChatTurns, check, run

Contexts = Callable[..., StageContext]


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


CHATS = [
    chat("what is two plus two?", "it is four."),
    chat("say hello", "hello"),
    [*chat("yes or no?", "yes"), *chat("and now?", "no, the lazy fox")],
    chat("say nothing much at all, please, or say something long to the fox", "no"),
]


@pytest.fixture
def model(chat_model_folder: Path) -> Decoder:
    return load_model(chat_model_folder)


@pytest.fixture
def samples(chat_model_folder: Path) -> list[Encoded]:
    tokenizer = Tokenizer.from_folder(chat_model_folder)
    return [encode_conversation(tokenizer, messages) for messages in CHATS]


def objective(rows: list[Any], micro_batch_size: int = 2) -> ChatTurns:
    return ChatTurns(rows, RowOrder(len(rows), micro_batch_size, 0), micro_batch_size, pad_id=3)


def loss_of(model: Decoder, rows: list[Any], micro_batch_size: int = 2) -> tuple[torch.Tensor, float]:
    made = objective(rows, micro_batch_size)
    parts = [made.loss(model, batch) for batch in made.batches(rows)]
    return torch.stack([part.loss_sum for part in parts]).sum(), sum(part.weight for part in parts)


def test_packed_loss_and_gradient_are_the_sum_of_separate_ones(model: Decoder, samples: list[Encoded]) -> None:
    rows = pack(samples, 128)
    assert len(rows) < len(samples)
    packed, packed_weight = loss_of(model, rows)
    packed.backward()
    packed_grad = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    separate, weight = 0.0, 0.0
    for sample in samples:
        loss, of_sample = loss_of(model, [join([sample])])
        loss.backward()
        separate, weight = separate + float(loss.detach()), weight + of_sample
    assert packed_weight == weight == sum(sample.trained_tokens for sample in samples)
    assert float(packed.detach()) == pytest.approx(separate, abs=1e-4 * weight / 10)
    assert float(packed.detach()) / weight == pytest.approx(separate / weight, abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed_grad[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_loss_is_the_plain_cross_entropy_of_trained_tokens(model: Decoder, samples: list[Encoded]) -> None:
    """Against logits and torch's own cross entropy, one conversation at a time."""
    for sample in samples:
        ids = torch.tensor([sample.ids])
        logits = model.logits(model(ids))[0, :-1].float()
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        expected = each[torch.tensor(sample.trained[1:])].sum()
        loss, _ = loss_of(model, [join([sample])])
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_editing_one_sample_of_a_row_leaves_the_others_loss_bit_equal(model: Decoder, samples: list[Encoded]) -> None:
    first, second = samples[0], samples[1]
    untrained = Encoded(second.ids, [False] * len(second.ids))
    edited = Encoded([9] * len(second.ids), [False] * len(second.ids))
    for order in ([first, untrained], [untrained, first]):
        other = [edited if sample is untrained else sample for sample in order]
        one, _ = loss_of(model, [join(order)])
        changed, _ = loss_of(model, [join(other)])
        assert torch.equal(one, changed)


def test_pad_id_has_no_influence(model: Decoder, samples: list[Encoded]) -> None:
    rows = [join([sample]) for sample in samples]
    losses = []
    for pad_id in (3, 2, 0):  # <|pad|>, the end of turn, the end of text
        made = ChatTurns(rows, RowOrder(len(rows), 4, 0), 4, pad_id)
        (batch,) = made.batches(rows)
        losses.append(made.loss(model, batch).loss_sum)
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])


def test_micro_batches_give_the_loss_of_one_batch(model: Decoder, samples: list[Encoded]) -> None:
    rows = [join([sample]) for sample in samples]
    whole, weight = loss_of(model, rows, 4)
    for size in (1, 3):
        split, split_weight = loss_of(model, rows, size)
        assert split_weight == weight
        torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-5)


def test_order_is_a_function_of_the_step_and_sees_every_row_once_a_pass() -> None:
    order = RowOrder(10, 4, seed=7)
    forwards = [order.at(step) for step in range(10)]
    assert [RowOrder(10, 4, seed=7).at(step) for step in reversed(range(10))] == forwards[::-1]
    flat = [row for rows in forwards for row in rows]
    passes = [flat[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(rows) == list(range(10)) for rows in passes)
    assert len({tuple(rows) for rows in passes}) == 4
    assert order.steps_per_epoch == 2.5


def test_weight_is_how_often_a_row_is_seen() -> None:
    repeated = repeat_by_weight(list(range(1000)), [2.0] * 500 + [0.25] * 500)
    assert all(repeated.count(row) == 2 for row in range(0, 500, 50))
    assert 90 <= len([row for row in repeated if row >= 500]) <= 160
    assert max(repeated.count(row) for row in range(500, 1000, 25)) <= 1
    assert repeat_by_weight(["only"], [0.001]) == ["only"]


# ---------------------------------------------------------------- the whole stage


def write_chats(path: Path, chats: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in chats))
    return path


def settings_for(base: Path, data: Path, **changes: Any) -> SftSettings:
    values = {
        "base_model": str(base),
        "datasets": [{"path": str(data)}],
        "sequence_len": 64,
        "micro_batch_size": 2,
        "learning_rate": 1e-2,
        "bf16": False,
        **changes,
    }
    return SftSettings.model_validate(values)


def test_stage_learns_to_answer_and_to_stop(chat_model_folder: Path, stage_context: Contexts, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "chats.jsonl", CHATS[:2] * 8)
    context = stage_context("chat")
    settings = settings_for(chat_model_folder, data, num_epochs=None, max_steps=60, held_out=[{"path": str(data)}])
    result = run(settings, context)
    assert result.metrics["loss"] < 0.3 and result.metrics["validation_loss"] < 0.3
    assert result.metrics["replies_that_stop"] == 1.0

    folder = context.folder / "model"
    trained, tokenizer = load_model(folder), Tokenizer.from_folder(folder)
    prompt = tokenizer.encode("<|im_start|>user\nsay hello<|im_end|>\n<|im_start|>assistant\n")
    (reply,) = generate(trained, [prompt], Sampling(max_new_tokens=10, temperature=0.0, stop_ids=(2,)))
    assert tokenizer.decode(reply.ids) == "hello<|im_end|>"
    assert read_json(folder / "generation_config.json")["eos_token_id"][0] == tokenizer.id_of("<|im_end|>")

    report = read_json(context.folder / "audit.json")
    assert report["eos_trained"] == report["turns_trained"] == 16
    assert report["duplicate_prompts"] == 14 and report["prompts_also_held_out"] == 16
    trained_text = "".join(text for text, is_trained in report["examples"][0]["pieces"] if is_trained)
    assert trained_text == "it is four.<|im_end|>"
    samples = [json.loads(line) for line in (context.folder / "samples.jsonl").read_text().splitlines()]
    assert {sample["when"] for sample in samples} == {"before", "after"}
    assert "trained (" in context.console.stream.getvalue()  # type: ignore[attr-defined]


def test_stopped_stage_goes_on_to_the_same_weights(
    chat_model_folder: Path, stage_context: Contexts, tmp_path: Path
) -> None:
    data = write_chats(tmp_path / "chats.jsonl", CHATS * 3)
    settings = settings_for(chat_model_folder, data, num_epochs=3, sample_packing=False, save_steps=4)
    whole = stage_context("whole")
    run(settings, whole)

    cut = stage_context("cut")
    cut.stop.request(75)  # after its first step
    with pytest.raises(Stopped):
        run(settings, cut)
    assert not (cut.folder / "model").exists()
    run(settings, stage_context("cut"))
    one, other = ((c.folder / "model" / "model.safetensors").read_bytes() for c in (whole, cut))
    assert one == other

    changed = settings_for(chat_model_folder, data, num_epochs=3, sample_packing=True, save_steps=4)
    with pytest.raises(UserError, match="this checkpoint was made with other settings"):
        run(changed, stage_context("cut"))


def test_nothing_to_train_is_refused_before_the_model_is_loaded(
    chat_model_folder: Path, stage_context: Contexts, tmp_path: Path
) -> None:
    data = write_chats(tmp_path / "long.jsonl", [chat("say hello " * 30, "no")])
    with pytest.raises(UserError, match="not one token would be trained") as caught:
        run(settings_for(chat_model_folder, data, sequence_len=16), stage_context())
    assert "the prompt alone fills sequence_len: 1" in str(caught.value)
    assert "raise sequence_len (now 16)" in caught.value.problems[0].fix


def test_wrong_tokenizer_missing_template_and_long_rows_are_told_at_once(
    chat_model_folder: Path, stage_context: Contexts, tmp_path: Path
) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(chat_model_folder, base)
    (base / "chat_template.jinja").unlink()
    config = read_json(base / "config.json")
    (base / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    data = write_chats(tmp_path / "chats.jsonl", CHATS)
    with pytest.raises(UserError) as caught:
        run(settings_for(base, data, sequence_len=512), stage_context())
    text = str(caught.value)
    assert "the base model's tokenizer has no chat template" in text
    assert "sequence_len is 512, but the model has 256 positions" in text
    assert "tokens and the model 100: they do not belong together" in text


def test_check_counts_trained_tokens_without_training(
    chat_model_folder: Path, stage_context: Contexts, tmp_path: Path
) -> None:
    data = write_chats(tmp_path / "chats.jsonl", CHATS)
    context = stage_context()
    report = check(settings_for(chat_model_folder, data, num_epochs=3), context)
    run(settings_for(chat_model_folder, data, num_epochs=1), context)
    assert not report.problems
    assert report.facts["trained_tokens"] == 3 * read_json(context.folder / "audit.json")["trained_tokens"]
    limited = check(settings_for(chat_model_folder, data, max_steps=1, sample_packing=False), context)
    assert limited.facts["trained_tokens"] == report.facts["trained_tokens"] / 3 / 2  # 2 of 4 rows
    assert report.facts["rows"] == 4 and report.facts["memory_bytes"] > 0

    later = check(settings_for(Path("base"), data), stage_context("later", base=tmp_path / "nowhere"))
    assert not later.problems and later.facts["trained_tokens"] > 0
    assert "estimated" in later.facts["trained_tokens_are"]


def test_check_tells_bad_rows_and_leaves_pending_stages_alone(
    chat_model_folder: Path, stage_context: Contexts, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "usr", "content": "hi"}]}\n')
    datasets = [{"path": str(bad)}, {"path": "pairs"}]
    settings = settings_for(chat_model_folder, bad, datasets=datasets)
    report = check(settings, stage_context(pairs=tmp_path / "not-yet"))
    assert report.facts["not_made_yet"] == ["pairs"]
    assert "messages[0].role is 'usr'" in "\n".join(map(str, report.problems))
