"""Stage `reward`: a model that scores answers, trained on pairs of which people (or a verifier) preferred one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from groundup.artifacts import StageContext, StageResult
from groundup.chat.pairs_data import EncodedPair
from groundup.chat.scoring import RewardModel, last_values, normalised, save_reward_model, score_ids
from groundup.model.device import send
from groundup.model.heads import ScalarModel
from groundup.recipe import CheckReport
from groundup.train.chat_data import (
    RowOrder,
    audited_pairs,
    check_pairs,
    data_fingerprint,
    open_tokenizer,
    parts,
    save_tokenizer,
    weights_fingerprint,
)
from groundup.train.device import device_of
from groundup.train.engine import LossParts, train, train_options
from groundup.train.losses import reward_losses
from groundup.train.precision import autocast
from groundup.train.settings import RewardSettings
from groundup.train.whole import model_to_train

NORMALISED_ON = 1000  # pairs whose answers fix the mean and deviation
CALIBRATION_EDGES = (0.5, 1.0, 2.0, 4.0)  # differences of raw reward


class RankPairs:
    """The objective: the chosen answer scores above the rejected one. All is a function of the step."""

    is_function_of_step = True
    shown = ("loss", "accuracy")

    def __init__(self, pairs: Sequence[EncodedPair], order: RowOrder, settings: RewardSettings) -> None:
        self.pairs, self.order, self.settings = pairs, order, settings

    def micro_batches(self, step: int, model: Any) -> list[Any]:  # noqa: ARG002 (the batch is not sampled)
        return parts([self.pairs[index] for index in self.order.at(step)], self.settings.micro_batch_size)

    def weight(self, micro_batch: Any) -> float:
        return float(len(micro_batch))

    def loss(self, model: ScalarModel, micro_batch: Sequence[EncodedPair]) -> LossParts:
        sequences = [pair.chosen.ids for pair in micro_batch] + [pair.rejected.ids for pair in micro_batch]
        chosen, rejected = last_values(model, sequences).chunk(2)
        margins = send(torch.tensor([pair.margin for pair in micro_batch]), chosen.device)
        losses = reward_losses(chosen, rejected, margins, self.settings.center_rewards_coefficient)
        pairs = self.weight(micro_batch)
        with torch.no_grad():
            metrics: dict[str, tuple[torch.Tensor | float, float]] = {
                "accuracy": ((chosen > rejected).sum(), pairs),
                "margin": ((chosen - rejected).sum(), pairs),
                "mean_reward": ((chosen + rejected).sum() / 2, pairs),
            }
        return LossParts(losses.sum(), pairs, metrics, tokens=sum(len(sequence) for sequence in sequences))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


# ---------------------------------------------------------------- the stage


def run(settings: RewardSettings, context: StageContext) -> StageResult:
    """Audit the pairs, train, normalise, and leave the model in `model/` with its gain and bias in `reward.json`."""
    tokenizer = open_tokenizer(settings, context)
    data = audited_pairs(settings, tokenizer, context)
    rows_per_step = settings.micro_batch_size * settings.gradient_accumulation_steps
    order = RowOrder(len(data.pairs), rows_per_step, context.seed)
    options = train_options(
        settings,
        seed=context.seed,
        steps_per_epoch=order.steps_per_epoch,
        data_fingerprint=data_fingerprint(data.pairs),
        batch={
            "pairs": rows_per_step,
            "base_model": weights_fingerprint(settings, context),
            "center_rewards_coefficient": settings.center_rewards_coefficient,
        },
    )
    decoder = model_to_train(context.model_folder(settings.base_model), options, context)
    model = ScalarModel.from_decoder(decoder, context.seed)

    def evaluate(model: Any) -> dict[str, float]:
        measured = measure(RewardModel(model), data.held_out_pairs, options.dtype)
        return {f"validation_{name}": measured[name] for name in ("accuracy", "margin")}

    result = train(
        model,
        RankPairs(data.pairs, order, settings),
        options,
        context,
        evaluate=evaluate if data.held_out_pairs else None,
    )

    normalised_on = data.encoded.pairs[:: max(1, len(data.encoded.pairs) // NORMALISED_ON)][:NORMALISED_ON]
    model.eval()
    precision = autocast(options.dtype, options.device)
    reward = normalised(model, score_ids(RewardModel(model), answers(normalised_on), precision))
    measured = {"train": measure(reward, normalised_on, options.dtype)}
    if data.held_out_pairs:
        measured["held_out"] = measure(reward, data.held_out_pairs, options.dtype)
    save_tokenizer(settings, context, tokenizer)
    facts = {"normalised_on_answers": 2 * len(normalised_on), "measured": measured}
    save_reward_model(reward, context.shared_folder / "model", **facts)

    best = measured.get("held_out", measured["train"])
    if best["accuracy"] < 0.55:
        where = "held-out" if data.held_out_pairs else "trained"
        context.console.warn(
            f"{context.name}: right on {best['accuracy']:.0%} of {best['pairs']:,} {where} pairs, which is "
            "close to guessing: nothing should be optimised against it"
        )
    metrics = {"loss": result.loss, "accuracy": measured["train"]["accuracy"], "gain": reward.gain, "bias": reward.bias}
    if data.held_out_pairs:
        metrics |= {"held_out_accuracy": best["accuracy"], "length_correlation": best["length_correlation"]}
    counts = {"pairs": len(data.encoded.pairs), "steps": result.steps, "left_out": sum(data.encoded.dropped.values())}
    return StageResult(counts=counts, metrics=metrics)


def answers(pairs: Sequence[EncodedPair]) -> list[list[int]]:
    """All chosen sequences, then all rejected ones."""
    return [pair.chosen.ids for pair in pairs] + [pair.rejected.ids for pair in pairs]


def measure(reward: RewardModel, pairs: Sequence[EncodedPair], dtype: str) -> dict[str, Any]:
    """How well it ranks: accuracy, mean margin, accuracy by size of the margin, and what it owes to length."""
    precision = autocast(dtype, device_of(reward.model))
    scores = torch.tensor(score_ids(reward, answers(pairs), precision), dtype=torch.float64)
    chosen, rejected = scores.chunk(2)
    lengths = [p.chosen.trained_tokens for p in pairs] + [p.rejected.trained_tokens for p in pairs]
    margin = chosen - rejected
    raw = margin / reward.gain
    predicted = torch.sigmoid(raw.abs())  # what Bradley-Terry promises for a difference of that size
    buckets = torch.bucketize(raw.abs(), torch.tensor(CALIBRATION_EDGES, dtype=torch.float64))
    calibration = [
        {
            "pairs": int((buckets == bucket).sum()),
            "predicted": float(predicted[buckets == bucket].mean()),
            "right": float((margin[buckets == bucket] > 0).double().mean()),
        }
        for bucket in range(len(CALIBRATION_EDGES) + 1)
        if (buckets == bucket).any()
    ]
    return {
        "pairs": len(pairs),
        "accuracy": float((margin > 0).double().mean()),
        "margin": float(margin.mean()),
        "calibration": calibration,
        "length_correlation": _correlation(scores, torch.tensor(lengths, dtype=torch.float64)),
    }


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Pearson's; 0 where one of them does not vary."""
    if len(a) < 2 or not float(a.std()) or not float(b.std()):
        return 0.0
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def check(settings: RewardSettings, context: StageContext) -> CheckReport:
    """Every pair read and checked; what would be compared, where the tokenizer exists."""
    return check_pairs(settings, context)
