"""Stage `dpo`: make chosen answers more likely than rejected ones, relative to the model it starts from.

The reference is that start model. Its log-probabilities are computed once, before the first update, by the same forward
pass in the same precision as the policy's, so that the loss of the first step is ln 2 and not nearly so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts import StageContext, StageResult
from groundup.chat.formats import Preference
from groundup.chat.packing import batch_rows, join
from groundup.chat.pairs_data import EncodedPair
from groundup.chat.row_checks import Messages
from groundup.chat.template import prompt_ids
from groundup.model.decoder import Decoder
from groundup.model.device import send
from groundup.model.files import save_model
from groundup.model.logprobs import token_logprobs
from groundup.recipe import CheckReport
from groundup.tokens.tokenizer import Tokenizer
from groundup.train.chat_data import (
    RowOrder,
    audited_pairs,
    check_pairs,
    data_fingerprint,
    open_tokenizer,
    parts,
    save_tokenizer,
    tensors_of,
    weights_fingerprint,
)
from groundup.train.device import device_of, held, to_device
from groundup.train.engine import LossParts, train, train_options
from groundup.train.losses import Completions, preference_losses
from groundup.train.precision import autocast
from groundup.train.samples import SamplePrompt, write_samples
from groundup.train.settings import DpoSettings
from groundup.train.sft import stop_ids
from groundup.train.whole import model_to_train, prepare_early, whole_model
from groundup.train.world import World

SAMPLES_SHOWN = 4
MEASURED_PAIRS = 256  # of the trained pairs, for the numbers at the end
DISPLACEMENT_NATS = 1.0  # a chosen answer that lost this much log-probability on average is worth a warning


@dataclass(frozen=True)
class ReferencedPair:
    """A pair and the log-probabilities that the reference gives its two answers."""

    pair: EncodedPair
    chosen_logp: float
    rejected_logp: float


class PreferPairs:
    """The objective. All is a function of the step: there is no state."""

    is_function_of_step = True
    shown = ("loss", "rewards/accuracies")

    def __init__(self, pairs: Sequence[ReferencedPair], order: RowOrder, settings: DpoSettings, pad_id: int) -> None:
        self.pairs, self.order, self.settings, self.pad_id = pairs, order, settings, pad_id

    def micro_batches(self, step: int, model: Any) -> list[Any]:  # noqa: ARG002 (the batch is not sampled)
        pairs = [self.pairs[index] for index in self.order.at(step)]
        return [pair_batch(part, self.pad_id) for part in parts(pairs, self.settings.micro_batch_size)]

    def weight(self, micro_batch: Any) -> float:
        return float(len(micro_batch["reference_chosen"]))

    def loss(self, model: Decoder, micro_batch: Any) -> LossParts:
        settings = self.settings
        chosen, rejected = completions(model, micro_batch)
        reference_chosen = Completions(micro_batch["reference_chosen"], chosen.lengths)
        reference_rejected = Completions(micro_batch["reference_rejected"], rejected.lengths)
        losses = preference_losses(
            chosen,
            rejected,
            reference_chosen,
            reference_rejected,
            beta=settings.beta,
            loss_type=settings.loss_type,
            label_smoothing=settings.label_smoothing,
            rpo_alpha=settings.rpo_alpha,
        )
        pairs = self.weight(micro_batch)
        with torch.no_grad():
            gained = chosen.logps.detach() - reference_chosen.logps
            lost = rejected.logps.detach() - reference_rejected.logps
            margins = settings.beta * (gained - lost)
            values = {
                "rewards/chosen": settings.beta * gained,
                "rewards/rejected": settings.beta * lost,
                "rewards/margins": margins,
                "rewards/accuracies": (margins > 0).float(),
                "logps/chosen": chosen.logps.detach(),
                "logps/rejected": rejected.logps.detach(),
                "logps/chosen_change": gained,
            }
        metrics: dict[str, tuple[Tensor | float, float]] = {name: (v.sum(), pairs) for name, v in values.items()}
        return LossParts(losses.sum(), pairs, metrics, tokens=int((micro_batch["document_ids"] >= 0).sum()))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def pair_batch(pairs: Sequence[ReferencedPair], pad_id: int) -> dict[str, Tensor]:
    """N pairs as 2N rows, the chosen answers first, with the reference's log-probabilities (N each)."""
    samples = [pair.pair.chosen for pair in pairs] + [pair.pair.rejected for pair in pairs]
    batch = tensors_of(batch_rows([join([sample]) for sample in samples], pad_id))
    batch["reference_chosen"] = torch.tensor([pair.chosen_logp for pair in pairs])
    batch["reference_rejected"] = torch.tensor([pair.rejected_logp for pair in pairs])
    return batch


def completions(model: Decoder, batch: Any) -> tuple[Completions, Completions]:
    """Log-probabilities (fp32) of the chosen and of the rejected answers of a `pair_batch`; prompts do not count."""
    hidden = model(batch["input_ids"], document_ids=batch["document_ids"])  # 2N, T, C
    weights, device = batch["weights"], hidden.device  # 2N, T, on the CPU
    kept = send(weights.flatten().nonzero().squeeze(1), device)  # the head sees answers only
    logprobs = token_logprobs(hidden.flatten(0, 1)[kept][None], model, batch["targets"].flatten()[kept][None])
    each = torch.zeros(weights.numel(), device=device).index_put((kept,), logprobs[0]).view(weights.shape)
    logps, lengths = each.sum(1), send(weights.sum(1), device)
    pairs = len(logps) // 2
    return Completions(logps[:pairs], lengths[:pairs]), Completions(logps[pairs:], lengths[pairs:])


def with_reference(
    model: Decoder,
    pairs: Sequence[EncodedPair],
    micro_batch_size: int,
    pad_id: int,
    dtype: str,
    world: World | None = None,
) -> list[ReferencedPair]:
    """Every pair with the log-probabilities that `model`, as it is now, gives its answers; each process has a share."""
    if not pairs:
        return []
    world = world or World()
    found = [0.0] * (2 * len(pairs))  # chosen and rejected, pair by pair
    batches = parts(list(range(len(pairs))), micro_batch_size)
    for batch, is_counted in world.share(batches):
        some = [ReferencedPair(pairs[index], 0.0, 0.0) for index in batch]
        device = device_of(model)
        with torch.no_grad(), autocast(dtype, device):
            chosen, rejected = completions(model, to_device(pair_batch(some, pad_id), device))
        for index, c, r in zip(batch, chosen.logps.tolist(), rejected.logps.tolist(), strict=True):
            if is_counted:
                found[2 * index : 2 * index + 2] = c, r
    found = world.sum(*found)  # of the others it is 0
    return [ReferencedPair(pair, *found[2 * index : 2 * index + 2]) for index, pair in enumerate(pairs)]


# ---------------------------------------------------------------- the stage


def run(settings: DpoSettings, context: StageContext) -> StageResult:
    """Audit the pairs, compute the reference, train, and leave the model in `model/`."""
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
            **settings.model_dump(include={"beta", "loss_type", "label_smoothing", "rpo_alpha"}),
        },
    )
    model = model_to_train(context.model_folder(settings.base_model), options, context)
    prompts = _sample_prompts(settings, tokenizer, data.held_out_rows or data.rows)
    shown_tokens = {"max_new_tokens": settings.sample_tokens}
    write_samples(whole_model(model, context), tokenizer, prompts, context, "before", **shown_tokens)
    world = prepare_early(model, options, context)  # the reference's numbers come from the model as it will be trained
    sizes = (settings.micro_batch_size, tokenizer.pad_id, options.dtype, world)
    objective = PreferPairs(with_reference(model, data.pairs, *sizes), order, settings, tokenizer.pad_id)
    held_out_objective = PreferPairs(
        with_reference(model, data.held_out_pairs, *sizes), order, settings, tokenizer.pad_id
    )

    def evaluate(model: Any) -> dict[str, float]:
        return {f"validation/{name}": v for name, v in mean_metrics(model, held_out_objective, options.dtype).items()}

    result = train(model, objective, options, context, evaluate=evaluate if data.held_out_pairs else None)
    some = PreferPairs(objective.pairs[:MEASURED_PAIRS], order, settings, tokenizer.pad_id)
    trained = mean_metrics(model, some, options.dtype)
    change = trained["logps/chosen_change"]
    is_displaced = change < -DISPLACEMENT_NATS
    if is_displaced:
        context.console.warn(
            f"{context.name}: chosen answers lost {-change:.2f} nats of log-probability while the margin grew "
            "(likelihood displacement); the loss does not show it. Try rpo_alpha: 1.0, fewer steps or a higher beta"
        )
    save_tokenizer(settings, context, tokenizer)
    ends = stop_ids(tokenizer, [pair.chosen for pair in data.encoded.pairs])
    save_model(model, context.shared_folder / "model", generation={"eos_token_id": ends})
    seen = whole_model(model, context, context.folder / "model")
    write_samples(seen, tokenizer, prompts, context, "after", **shown_tokens)
    shown = ("rewards/accuracies", "rewards/margins", "logps/chosen_change")
    metrics = {"loss": result.loss, "likelihood_displacement": is_displaced}
    metrics |= {name: trained[name] for name in shown}
    metrics |= {name: value for name, value in result.metrics.items() if name.startswith("validation/")}
    counts = {"pairs": len(data.encoded.pairs), "steps": result.steps, "left_out": sum(data.encoded.dropped.values())}
    return StageResult(counts=counts, metrics=metrics)


def mean_metrics(model: Decoder, objective: PreferPairs, dtype: str) -> dict[str, float]:
    """Loss and metrics over all pairs of an objective, without gradients."""
    sums: dict[str, float] = {}
    for part in parts(objective.pairs, objective.settings.micro_batch_size):
        device = device_of(model)
        with torch.no_grad(), autocast(dtype, device):
            found = objective.loss(model, to_device(pair_batch(part, objective.pad_id), device))
        for name, value in {"loss": found.loss_sum, **{n: v for n, (v, _) in found.metrics.items()}}.items():
            sums[name] = sums.get(name, 0.0) + held(value)
    return {name: float(value) / len(objective.pairs) for name, value in sums.items()}


def _sample_prompts(
    settings: DpoSettings, tokenizer: Tokenizer, preferences: Sequence[Preference]
) -> list[SamplePrompt]:
    asked: list[Messages] = [({"role": "user", "content": text},) for text in settings.sample_prompts]
    asked = asked or [preference.prompt for preference in preferences[:SAMPLES_SHOWN]]
    prompts = [SamplePrompt(str(messages[-1]["content"]), prompt_ids(tokenizer, messages)) for messages in asked]
    return [prompt for prompt in prompts if len(prompt.ids) < settings.sequence_len]


def check(settings: DpoSettings, context: StageContext) -> CheckReport:
    """Every pair read and checked; what would be compared, where the tokenizer exists."""
    return check_pairs(settings, context)
