"""What each kind of stage will take: operations, tokens, memory, disk, and time with an interval.

Each formula stands in the function that uses it. Constants marked "measured" come from runs of this repository's demo
on two cores; the intervals are about 80 %: planned time divided and multiplied by a factor that says how sure the
formula is, wider where the machine's rate was assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from groundup.model.config import ModelConfig
from groundup.plan import flops
from groundup.plan.probe import Machine

# measured: seconds that a stage takes before it does anything (imports of torch, reading, writing the model)
START_SECONDS = {"train": 3.0, "light": 0.5}
# measured: bytes of raw text per second and core through all corpus steps
CORPUS_BYTES_PER_SECOND = 1_000_000.0
CORPUS_WORKER_BYTES = 260e6  # measured: one process with a shard; does not grow with the corpus
TOKENIZER_BYTES_PER_SECOND = 4_000_000.0
TOKENS_BYTES_PER_SECOND = 3_000_000.0
BYTES_PER_TOKEN = 2.95  # measured: the demo's corpus with a vocabulary of 4,096
ROW_TOKENS = 40  # measured: a short conversation with its chat markup (47), a task with its answer (34)
PROMPT_TOKENS = 28  # measured: a task's question with its markup
REPLY_TOKENS = 8
LAYER_SHARE = 0.92  # measured: what training achieves of the rate of a layer alone (0.92 to 1.18)
DECODE_FACTOR = 3.3  # measured: a step of decoding against its layers alone (cache, sampling, bookkeeping)
DEFAULTS = {"max_new_tokens": 48, "rows": 1000}
# factor of the interval, by kind, with a measured machine
SURENESS = {
    "corpus": 2.0, "tokenizer": 2.0, "tokens": 2.0, "pretrain": 1.35, "sft": 1.6, "reward": 1.6, "dpo": 1.6,
    "ppo": 1.7, "pairs": 1.8, "evaluate": 1.8, "gate": 3.0,
}  # fmt: skip
ASSUMED_FACTOR = 2.5  # more, where the machine was not measured


@dataclass(frozen=True)
class Estimate:
    """One stage. Seconds as an interval of about 80 %; bytes are peaks; `tokens` go through the model in training."""

    seconds_low: float
    seconds: float
    seconds_high: float
    memory_bytes: float = 0.0
    disk_bytes: float = 0.0
    passing_disk_bytes: float = 0.0  # of `disk_bytes`, what is gone when the stage is done: checkpoints
    flops: float = 0.0
    tokens: float = 0.0
    parameters: float = 0.0  # of the model that is trained; 0 where none is
    notes: tuple[str, ...] = ()  # what had to be assumed

    def as_dict(self) -> dict[str, Any]:
        rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return {**rounded, "notes": list(self.notes)}


@dataclass(frozen=True)
class Facts:
    """What is known when a stage is planned: the machine, and what the stages before it will hand over."""

    machine: Machine
    model: ModelConfig = field(default_factory=ModelConfig)  # what the stage trains or asks
    corpus_bytes: float | None = None
    raw_bytes: float | None = None
    tokens: float | None = None  # in the token shards
    rows: float | None = None  # training rows (conversations, pairs) of the stage
    trained_tokens: float | None = None
    evaluated_models: int = 1
    steps: float | None = None
    notes: tuple[str, ...] = ()


def estimate_stage(kind: str, settings: Any, facts: Facts) -> Estimate:
    """The estimate of one stage. `settings` needs only the attributes of its kind that a formula reads.

    Raises KeyError for a kind that has no formula.
    """
    return FORMULAS[kind](settings, facts)


def _spread(kind: str, seconds: float, facts: Facts, **values: Any) -> Estimate:
    factor = SURENESS[kind] * (ASSUMED_FACTOR if facts.machine.source == "assumed" else 1.0)
    return Estimate(seconds / factor, seconds, seconds * factor, notes=facts.notes, **values)


def _get(settings: Any, name: str, default: Any) -> Any:
    """An attribute that may be absent or None."""
    value = getattr(settings, name, None)
    return default if value is None else value


# ---------------------------------------------------------------- text


def _corpus(_settings: Any, facts: Facts) -> Estimate:
    """Raw bytes through extraction, language, quality and deduplication at a measured rate per core."""
    raw = facts.raw_bytes or 20e6
    seconds = START_SECONDS["light"] + raw / (CORPUS_BYTES_PER_SECOND * facts.machine.cores)
    memory = 200e6 + CORPUS_WORKER_BYTES * facts.machine.cores
    return _spread("corpus", seconds, facts, memory_bytes=memory, disk_bytes=2 * raw)


def _tokenizer(settings: Any, facts: Facts) -> Estimate:
    text = min(facts.corpus_bytes or 15e6, float(_get(settings, "max_bytes", 64_000_000)))
    seconds = START_SECONDS["light"] + text / TOKENIZER_BYTES_PER_SECOND
    return _spread("tokenizer", seconds, facts, memory_bytes=2e8 + 12 * text, disk_bytes=2e6)


def _tokens(_settings: Any, facts: Facts) -> Estimate:
    text = facts.corpus_bytes or 15e6
    tokens = facts.tokens or text / BYTES_PER_TOKEN
    seconds = START_SECONDS["light"] + text / TOKENS_BYTES_PER_SECOND
    return _spread("tokens", seconds, facts, memory_bytes=5e8, disk_bytes=2.1 * tokens, tokens=tokens)


# ---------------------------------------------------------------- training


def step_seconds(settings: Any, facts: Facts, tokens_per_step: float, *, passes: float = 1.0) -> float:
    """Seconds of one optimiser step.

    (FLOPs of training + (passes - 1) x FLOPs of a forward pass) / (measured rate of a layer x LAYER_SHARE), and
    with Muon the orthogonalisation at twice the rate that `auto` gets (square products; measured within a tenth).
    """
    model, length = facts.model, int(_get(settings, "sequence_len", 256))
    rate = facts.machine.training_rate(model.hidden_size, facts.machine.dtype(_get(settings, "bf16", "auto")))
    work = flops.training_flops(model, tokens_per_step, length)
    work += (passes - 1) * flops.forward_flops(model, tokens_per_step, length)
    fastest = facts.machine.training_rate(model.hidden_size, facts.machine.dtype())
    update = flops.muon_flops(model) / (2 * fastest) if _get(settings, "optimizer", "adamw") == "muon" else 0.0
    return work / (rate * LAYER_SHARE) + update


def planned_steps(
    settings: Any, facts: Facts, rows_per_step: float, seconds_per_step: float, tokens_per_step: float
) -> float:
    """The smallest of max_steps, num_epochs x steps of an epoch, and what fits max_tokens, time_limit and budget."""
    horizons = [float(steps) for steps in (_get(settings, "max_steps", None), facts.steps) if steps]
    epochs = _get(settings, "num_epochs", None)
    if epochs is not None and facts.rows:
        horizons.append(max(1.0, float(epochs) * facts.rows / rows_per_step))
    if (most := _get(settings, "max_tokens", None)) is not None:
        horizons.append(max(1.0, float(most) // tokens_per_step))
    limits = [_get(settings, "time_limit", None)]
    if (budget := _get(settings, "budget", None)) is not None and (price := _get(settings, "cost_per_hour", None)):
        limits.append(float(budget) / float(price) * 3600)
    horizons += [max(1.0, float(limit) / seconds_per_step) for limit in limits if limit is not None]
    return min(horizons, default=100.0)


def _training(kind: str, settings: Any, facts: Facts, *, passes: float, rows_per_row: float, packed: bool) -> Estimate:
    """Steps x seconds of a step. `passes` counts forward passes beside training (a frozen reference), `rows_per_row`
    sequences per row of data (a pair has two), `packed` whether rows are packed into full sequences."""
    length = int(_get(settings, "sequence_len", 256))
    sequences = int(_get(settings, "micro_batch_size", 16)) * int(_get(settings, "gradient_accumulation_steps", 1))
    micro_tokens = float(int(_get(settings, "micro_batch_size", 16)) * length)
    if packed:
        tokens_per_step = float(sequences * length)
        rows_per_step = tokens_per_step / ROW_TOKENS
    else:
        tokens_per_step = sequences * rows_per_row * min(float(length), ROW_TOKENS)
        rows_per_step = float(sequences)
    each = step_seconds(settings, facts, tokens_per_step, passes=passes)
    steps = planned_steps(settings, facts, rows_per_step, each, tokens_per_step)
    model, tokens = facts.model, steps * tokens_per_step
    optimizer = str(_get(settings, "optimizer", "adamw"))
    is_bf16 = facts.machine.dtype(_get(settings, "bf16", "auto")) == "bfloat16"
    work = flops.training_flops(model, tokens, length) + (passes - 1) * flops.forward_flops(model, tokens, length)
    memory = flops.training_memory_bytes(
        model,
        micro_tokens if packed else tokens_per_step,
        optimizer,
        is_bf16=is_bf16,
        checkpointing=_get(settings, "gradient_checkpointing", False),
    )
    return _spread(
        kind,
        START_SECONDS["train"] + steps * each,
        facts,
        memory_bytes=memory + (passes - 1) * flops.WEIGHT_BYTES * model.parameters(),
        **_disk_of_training(settings, model, optimizer, steps),
        flops=work,
        tokens=tokens,
        parameters=float(model.parameters()),
    )


def _disk_of_training(
    settings: Any, model: ModelConfig, optimizer: str, steps: float, *, trained_models: float = 1.0
) -> dict[str, float]:
    """The checkpoints of all trained models, and the model folder, for which they go unless `keep_checkpoints`.

    Milestones (every `milestone_steps`) stay.
    """
    limit = int(_get(settings, "save_total_limit", 2))
    checkpoints = trained_models * flops.checkpoints_bytes(model, optimizer, limit)
    every = _get(settings, "milestone_steps", None)
    milestones = steps // int(every) * trained_models * flops.checkpoint_bytes(model, optimizer) if every else 0.0
    return {
        "disk_bytes": checkpoints + milestones + flops.WEIGHT_BYTES * model.parameters(),
        "passing_disk_bytes": 0.0 if _get(settings, "keep_checkpoints", False) else checkpoints,
    }


def _pretrain(settings: Any, facts: Facts) -> Estimate:
    return _training("pretrain", settings, facts, passes=1, rows_per_row=1, packed=True)


def _sft(settings: Any, facts: Facts) -> Estimate:
    return _training("sft", settings, facts, passes=1, rows_per_row=1, packed=True)


def _reward(settings: Any, facts: Facts) -> Estimate:
    return _training("reward", settings, facts, passes=1, rows_per_row=2, packed=False)


def _dpo(settings: Any, facts: Facts) -> Estimate:
    """Chosen and rejected through the policy (trained) and the reference (forward only)."""
    return _training("dpo", settings, facts, passes=2, rows_per_row=2, packed=False)


# ---------------------------------------------------------------- generation


def generation_seconds(facts: Facts, sequences: float, prompt_tokens: float, new_tokens: float, batch: float) -> float:
    """Prefill as a forward pass, then one decoding step per new token for each batch of sequences."""
    if sequences <= 0:
        return 0.0
    machine, model = facts.machine, facts.model
    dtype = machine.dtype()
    rate = machine.training_rate(model.hidden_size, dtype)
    prefill = flops.forward_flops(model, sequences * prompt_tokens, int(prompt_tokens) or 1) / rate
    rows = min(batch, sequences)
    head = model.vocab_size * model.hidden_size / (12.0 * model.hidden_size**2)  # in layers of the probe
    step = (model.num_hidden_layers + head) * machine.decode_seconds(model.hidden_size, rows, dtype) * DECODE_FACTOR
    return prefill + (sequences / rows) * new_tokens * step


def _pairs(settings: Any, facts: Facts) -> Estimate:
    sequences = float(_get(settings, "prompts", 1500)) * float(_get(settings, "samples", 4))
    seconds = START_SECONDS["train"] + generation_seconds(facts, sequences, PROMPT_TOKENS, REPLY_TOKENS, 256)
    work = flops.forward_flops(facts.model, sequences * (PROMPT_TOKENS + REPLY_TOKENS), ROW_TOKENS)
    return _spread("pairs", seconds, facts, memory_bytes=_inference_memory(facts, 256), disk_bytes=3e6, flops=work)


def _ppo(settings: Any, facts: Facts) -> Estimate:
    """Per episode: generation, forward passes of policy, reference, critic and reward, then `num_ppo_epochs` of
    training for policy and critic."""
    episodes = float(_get(settings, "total_episodes", 8000))
    epochs = float(_get(settings, "num_ppo_epochs", 1))
    reply = min(float(_get(settings, "response_length", _get(settings, "max_new_tokens", REPLY_TOKENS))), REPLY_TOKENS)
    tokens = episodes * (PROMPT_TOKENS + reply)
    model, length = facts.model, int(PROMPT_TOKENS + reply)
    rate = facts.machine.training_rate(model.hidden_size, facts.machine.dtype(_get(settings, "bf16", "auto")))
    trained_models = 2.0
    scored_models = 3.0 + (1.0 if getattr(settings, "reward", None) else 0.0)
    work = trained_models * epochs * flops.training_flops(model, tokens, length)
    work += scored_models * flops.forward_flops(model, tokens, length)
    batch = float(_get(settings, "batch_size", _get(settings, "rollout_batch_size", 128)))
    seconds = START_SECONDS["train"] + work / (rate * LAYER_SHARE)
    seconds += generation_seconds(facts, episodes, PROMPT_TOKENS, reply, batch)
    optimizer = str(_get(settings, "optimizer", "adamw"))
    is_bf16 = facts.machine.dtype(_get(settings, "bf16", "auto")) == "bfloat16"
    memory = trained_models * flops.training_memory_bytes(model, batch * length, optimizer, is_bf16=is_bf16)
    memory += 2 * flops.WEIGHT_BYTES * model.parameters() - flops.PROCESS_BYTES
    steps = epochs * episodes / batch * float(_get(settings, "num_mini_batches", 4))
    disk = _disk_of_training(settings, model, optimizer, steps, trained_models=trained_models)
    return _spread("ppo", seconds, facts, memory_bytes=memory, **disk, flops=work, tokens=tokens)


def _inference_memory(facts: Facts, rows: float) -> float:
    cache = flops.cache_bytes(facts.model, rows * (PROMPT_TOKENS + DEFAULTS["max_new_tokens"]), 4)
    return flops.PROCESS_BYTES + 1.5 * flops.WEIGHT_BYTES * facts.model.parameters() + cache


# ---------------------------------------------------------------- evaluation


def _evaluate(settings: Any, facts: Facts) -> Estimate:
    """Per model: held-out text in overlapping windows, the verifiable tasks, HumanEval where asked."""
    tasks = list(_get(settings, "tasks", []))
    model, machine = facts.model, facts.machine
    rate = machine.training_rate(model.hidden_size, machine.dtype())
    work = seconds = 0.0
    if "bits_per_byte" in tasks:
        bits = _get(settings, "bits_per_byte", None)
        text = min(float(_get(bits, "max_bytes", 100_000)), 120_000.0) * 6  # sources; the corpus may hold fewer
        work += 2 * flops.forward_flops(model, text / BYTES_PER_TOKEN, 512)  # windows overlap by half
    if "verifiable" in tasks:
        asked = float(_get(_get(settings, "verifiable", None), "rows", 400))
        seconds += generation_seconds(facts, asked, PROMPT_TOKENS, DEFAULTS["max_new_tokens"] / 2, 100)
    if "humaneval" in tasks:
        humaneval = _get(settings, "humaneval", None)
        programs = float(_get(humaneval, "limit", 164))
        new = float(_get(humaneval, "max_new_tokens", 256))
        seconds += generation_seconds(facts, programs, 200, new, float(_get(humaneval, "batch_size", 16)))
        seconds += 0.25 * programs / machine.cores  # measured: a locked-down Python for each
    seconds = START_SECONDS["train"] + facts.evaluated_models * (seconds + work / rate)
    memory = _inference_memory(facts, 100)
    return _spread("evaluate", seconds, facts, memory_bytes=memory, disk_bytes=2e6, flops=work * facts.evaluated_models)


def _gate(_settings: Any, facts: Facts) -> Estimate:
    return _spread("gate", 0.5, facts, memory_bytes=1e8, disk_bytes=1e4)


FORMULAS = {
    "corpus": _corpus,
    "tokenizer": _tokenizer,
    "tokens": _tokens,
    "pretrain": _pretrain,
    "sft": _sft,
    "reward": _reward,
    "dpo": _dpo,
    "ppo": _ppo,
    "pairs": _pairs,
    "evaluate": _evaluate,
    "gate": _gate,
}


def disk_peak(stages: Iterable[tuple[float, float]]) -> float:
    """Most bytes on disk at once while stages run one after the other; each is (disk_bytes, passing_disk_bytes)."""
    left = peak = 0.0
    for disk, passing in stages:
        peak = max(peak, left + disk)
        left += disk - passing
    return peak


def total(estimates: Mapping[str, Estimate]) -> Estimate:
    """All stages in this order. Disk is what is needed at once, memory the largest.

    Low and high ends are added as they are: errors of a machine's rate do not cancel out.
    """
    rows = list(estimates.values())
    return Estimate(
        seconds_low=sum(row.seconds_low for row in rows),
        seconds=sum(row.seconds for row in rows),
        seconds_high=sum(row.seconds_high for row in rows),
        memory_bytes=max((row.memory_bytes for row in rows), default=0.0),
        disk_bytes=disk_peak((row.disk_bytes, row.passing_disk_bytes) for row in rows),
        flops=sum(row.flops for row in rows),
        tokens=sum(row.tokens for row in rows),
    )
