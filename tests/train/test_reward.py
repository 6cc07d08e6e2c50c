"""The reward is read at the last real token, is the same in any batch, and is normalised once and for all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.artifacts import StageContext, read_json
from groundup.chat.masks import Encoded
from groundup.chat.pairs_data import EncodedPair
from groundup.chat.scoring import (
    RewardModel,
    last_values,
    load_reward_model,
    normalised,
    save_reward_model,
    score_ids,
    score_texts,
)
from groundup.model.files import load_model
from groundup.model.heads import ScalarModel
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.chat_data import RowOrder
from groundup.train.reward import RankPairs, measure, run
from groundup.train.settings import RewardSettings

Contexts = Callable[..., StageContext]
SEQUENCES = [[5, 9, 11, 2], [7, 2], [20, 21, 22, 23, 24, 25, 26, 2], [8, 8, 8, 2]]


@pytest.fixture
def scalar_model(chat_model_folder: Path) -> ScalarModel:
    return ScalarModel.from_decoder(load_model(chat_model_folder), seed=5)


def settings_for(**changes: Any) -> RewardSettings:
    return RewardSettings.model_validate({"base_model": "b", "datasets": [{"path": "x"}], "bf16": False, **changes})


def test_score_does_not_depend_on_the_batch_or_the_side_of_padding(scalar_model: ScalarModel) -> None:
    alone = [last_values(scalar_model, [sequence]).item() for sequence in SEQUENCES]
    by_hand = [scalar_model(torch.tensor([sequence]))[0, -1].item() for sequence in SEQUENCES]
    assert alone == by_hand
    assert last_values(scalar_model, SEQUENCES).tolist() == pytest.approx(alone, abs=1e-5)
    assert last_values(scalar_model, SEQUENCES, pad_left=True).tolist() == pytest.approx(alone, abs=1e-5)
    assert score_ids(RewardModel(scalar_model), SEQUENCES) == pytest.approx(alone, abs=1e-5)
    assert score_ids(RewardModel(scalar_model), SEQUENCES[::-1]) == pytest.approx(alone[::-1], abs=1e-5)


def test_the_end_of_turn_counts_even_where_it_is_the_pad_token(scalar_model: ScalarModel) -> None:
    """transformers' own reward models cannot see an end token that is also the pad token; ours must."""
    with_end, without, doubled = [5, 9, 11, 0], [5, 9, 11], [5, 9, 11, 0, 0]  # 0 is also what batches are padded with
    scores = last_values(scalar_model, [with_end, without, doubled]).tolist()
    assert len({round(score, 5) for score in scores}) == 3
    assert scores[0] == pytest.approx(last_values(scalar_model, [with_end]).item(), abs=1e-5)


def test_head_starts_as_the_paper_says(chat_model_folder: Path) -> None:
    decoder = load_model(chat_model_folder)
    heads = torch.cat([ScalarModel.from_decoder(decoder, seed).score.weight.flatten() for seed in range(60)])
    assert heads.std().item() == pytest.approx(1 / (decoder.config.hidden_size + 1) ** 0.5, rel=0.06)


def test_loss_by_hand(scalar_model: ScalarModel) -> None:
    pairs = [
        EncodedPair(Encoded(SEQUENCES[0], []), Encoded(SEQUENCES[1], []), margin=0.5),
        EncodedPair(Encoded(SEQUENCES[2], []), Encoded(SEQUENCES[3], [])),
    ]
    settings = settings_for(center_rewards_coefficient=0.01)
    parts = RankPairs(pairs, RowOrder(2, 2, 0), settings).loss(scalar_model, pairs)
    c0, r0, c1, r1 = (scalar_model(torch.tensor([s]))[0, -1].item() for s in SEQUENCES)
    expected = sum(
        torch.log1p(torch.exp(torch.tensor(-(c - r - m)))) + 0.01 * (c + r) ** 2
        for c, r, m in ((c0, r0, 0.5), (c1, r1, 0.0))
    )
    assert parts.loss_sum.item() == pytest.approx(float(expected), abs=1e-5)
    assert parts.weight == 2
    assert parts.metrics["accuracy"][0] == (c0 > r0) + (c1 > r1)
    assert parts.metrics["margin"][0] == pytest.approx(c0 - r0 + c1 - r1, abs=1e-5)


def test_normalised_scores_have_mean_0_and_deviation_1_and_survive_saving(
    scalar_model: ScalarModel, tmp_path: Path
) -> None:
    reward = normalised(scalar_model, score_ids(RewardModel(scalar_model), SEQUENCES))
    scores = torch.tensor(score_ids(reward, SEQUENCES))
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(unbiased=False)) == pytest.approx(1, abs=1e-4)
    save_reward_model(reward, tmp_path / "model", normalised_on_answers=4)
    assert score_ids(load_reward_model(tmp_path / "model"), SEQUENCES) == scores.tolist()
    assert read_json(tmp_path / "model" / "reward.json")["normalised_on_answers"] == 4
    same = normalised(scalar_model, [2.0, 2.0])
    assert (same.gain, same.bias) == (1.0, -2.0)


def test_stage_ranks_held_out_pairs_and_texts_are_scored_alike(
    chat_model_folder: Path, stage_context: Contexts, tmp_path: Path
) -> None:
    """What is preferred can be learned from the words: `yes` is good, `no` is bad."""
    questions = ["say it", "the fox?", "what is it?", "is it four?", "two?", "hello?", "say two", "lazy?"]
    rows = [{"prompt": q, "chosen": f"{q} yes", "rejected": f"{q} no"} for q in questions]
    for name, part in (("train", rows[:6]), ("held_out", rows[6:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    context = stage_context("judge", pairs=tmp_path)
    settings = settings_for(
        base_model=str(chat_model_folder),
        datasets=[{"path": "pairs"}],
        held_out=[{"path": "pairs", "split": "held_out"}],
        learning_rate=3e-3,
        num_epochs=20,
        micro_batch_size=3,
        sequence_len=128,
    )
    result = run(settings, context)
    assert result.metrics["accuracy"] == 1.0 and result.metrics["held_out_accuracy"] == 1.0

    folder = context.folder / "model"
    reward, tokenizer = load_reward_model(folder), Tokenizer.from_folder(folder)
    assert reward.gain == pytest.approx(result.metrics["gain"])
    good, bad = score_texts(
        reward,
        tokenizer,
        [
            [{"role": "user", "content": "a fox"}, {"role": "assistant", "content": f"a fox {word}"}]
            for word in ("yes", "no")
        ],
    )
    assert good > bad
    ids = tokenizer.encode("<|im_start|>user\na fox<|im_end|>\n<|im_start|>assistant\na fox yes<|im_end|>")
    assert score_ids(reward, [ids])[0] == pytest.approx(good, abs=1e-4)
    measured = read_json(folder / "reward.json")["measured"]
    assert measured["held_out"]["pairs"] == 2 and measured["train"]["calibration"]
    assert sum(bucket["pairs"] for bucket in measured["train"]["calibration"]) == 6


def test_transformers_gives_the_same_raw_scores(scalar_model: ScalarModel, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_reward_model(RewardModel(scalar_model), tmp_path / "model")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert theirs.config.num_labels == 1
    for sequence in SEQUENCES:
        with torch.no_grad():
            expected = float(theirs(torch.tensor([sequence])).logits[0, 0])
        assert score_ids(RewardModel(scalar_model), [sequence])[0] == pytest.approx(expected, abs=1e-5)


def test_measure_knows_length_and_accuracy(scalar_model: ScalarModel) -> None:
    pairs = [
        EncodedPair(
            Encoded(SEQUENCES[a], [True] * len(SEQUENCES[a])), Encoded(SEQUENCES[b], [True] * len(SEQUENCES[b]))
        )
        for a, b in ((0, 1), (2, 3), (1, 0))
    ]
    scores = score_ids(RewardModel(scalar_model), SEQUENCES)
    found = measure(RewardModel(scalar_model), pairs, "float32")
    right = (scores[0] > scores[1]) + (scores[2] > scores[3]) + (scores[1] > scores[0])
    assert found["accuracy"] == pytest.approx(right / 3)
    lengths = torch.tensor([4.0, 8, 2, 2, 4, 4])
    values = torch.tensor([scores[i] for i in (0, 2, 1, 1, 3, 0)])
    assert found["length_correlation"] == pytest.approx(
        float(torch.corrcoef(torch.stack([values, lengths]))[0, 1]), abs=1e-4
    )
