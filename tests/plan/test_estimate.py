"""Seconds, tokens and bytes of each kind of stage, against values worked out by hand on a machine with known rates."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from groundup.model.config import ModelConfig
from groundup.plan import flops
from groundup.plan.estimate import (
    DECODE_FACTOR,
    FORMULAS,
    LAYER_SHARE,
    ROW_TOKENS,
    START_SECONDS,
    SURENESS,
    Facts,
    disk_peak,
    estimate_stage,
    generation_seconds,
    total,
)
from groundup.plan.probe import Machine
from groundup.recipe import KINDS

SHAPE = ModelConfig(vocab_size=4096)  # width 256: the narrow measured width
PRETRAIN = SimpleNamespace(
    stage="pretrain", sequence_len=256, micro_batch_size=8, gradient_accumulation_steps=2, max_steps=100,
    optimizer="adamw", bf16=False, save_total_limit=2,
)  # fmt: skip
KEEPING = SimpleNamespace(**vars(PRETRAIN), keep_checkpoints=True)


def test_there_is_a_formula_for_every_kind_of_stage() -> None:
    assert set(FORMULAS) == set(KINDS) == set(SURENESS)


def test_pretraining_is_steps_times_flops_over_the_measured_rate(machine: Machine) -> None:
    found = estimate_stage("pretrain", PRETRAIN, Facts(machine, model=SHAPE))
    tokens = 100 * 8 * 2 * 256
    assert found.tokens == tokens
    assert found.flops == pytest.approx(tokens * SHAPE.flops_per_token(256))
    assert found.seconds == pytest.approx(START_SECONDS["train"] + found.flops / (1e10 * LAYER_SHARE))


def test_the_interval_is_a_factor_and_wider_on_a_machine_that_was_not_measured(machine: Machine) -> None:
    sure = estimate_stage("pretrain", PRETRAIN, Facts(machine, model=SHAPE))
    unsure = estimate_stage("pretrain", PRETRAIN, Facts(replace(machine, source="assumed"), model=SHAPE))
    assert sure.seconds_high / sure.seconds == pytest.approx(SURENESS["pretrain"])
    assert sure.seconds / sure.seconds_low == pytest.approx(SURENESS["pretrain"])
    assert unsure.seconds_high > 2 * sure.seconds_high


def test_a_time_limit_bounds_the_training(machine: Machine) -> None:
    limited = SimpleNamespace(**{**vars(PRETRAIN), "max_steps": None, "time_limit": 60.0})
    found = estimate_stage("pretrain", limited, Facts(machine, model=SHAPE))
    assert found.seconds == pytest.approx(60 + START_SECONDS["train"], rel=1e-6)


def test_money_and_tokens_bound_the_training(machine: Machine) -> None:
    free = SimpleNamespace(**{**vars(PRETRAIN), "max_steps": 10_000})
    facts = Facts(machine, model=SHAPE)
    tokens = free.micro_batch_size * free.sequence_len * 100
    by_tokens = estimate_stage("pretrain", SimpleNamespace(**vars(free), max_tokens=tokens), facts)
    assert by_tokens.tokens == tokens
    paid = SimpleNamespace(**vars(free), budget=0.5, cost_per_hour=30.0)  # a minute
    timed = SimpleNamespace(**vars(free), time_limit=60.0)
    estimates = [estimate_stage("pretrain", settings, facts) for settings in (paid, timed)]
    assert estimates[0] == estimates[1]
    assert estimates[0].tokens < estimate_stage("pretrain", free, facts).tokens


def test_muon_costs_more_time_and_less_memory_than_adamw(machine: Machine) -> None:
    facts = Facts(machine, model=SHAPE)
    adamw = estimate_stage("pretrain", PRETRAIN, facts)
    muon = estimate_stage("pretrain", SimpleNamespace(**{**vars(PRETRAIN), "optimizer": "muon"}), facts)
    assert muon.seconds > adamw.seconds
    assert muon.memory_bytes < adamw.memory_bytes
    assert muon.disk_bytes < adamw.disk_bytes


def test_accumulation_costs_time_but_no_memory(machine: Machine) -> None:
    facts = Facts(machine, model=SHAPE)
    once = estimate_stage("pretrain", PRETRAIN, facts)
    twice = estimate_stage("pretrain", SimpleNamespace(**{**vars(PRETRAIN), "gradient_accumulation_steps": 4}), facts)
    assert twice.tokens == 2 * once.tokens
    assert twice.memory_bytes == once.memory_bytes


def test_memory_is_libraries_states_and_activations(machine: Machine) -> None:
    found = estimate_stage("pretrain", PRETRAIN, Facts(machine, model=SHAPE))
    states = 16 * SHAPE.parameters()  # weights, gradients, two moments
    activations = flops.activation_bytes(SHAPE, 8 * 256, is_bf16=False)
    assert found.memory_bytes == pytest.approx(flops.PROCESS_BYTES + states + activations)


def test_epochs_and_rows_give_the_steps_of_fine_tuning(machine: Machine) -> None:
    settings = SimpleNamespace(
        stage="sft",
        sequence_len=256,
        micro_batch_size=16,
        num_epochs=2.0,
        max_steps=None,
        optimizer="adamw",
        bf16=False,
    )
    few = estimate_stage("sft", settings, Facts(machine, model=SHAPE, rows=1000))
    many = estimate_stage("sft", settings, Facts(machine, model=SHAPE, rows=4000))
    assert many.tokens == pytest.approx(4 * few.tokens)
    assert few.tokens == pytest.approx(2 * 1000 * ROW_TOKENS)


def test_dpo_costs_a_reference_more_than_a_reward_model(machine: Machine) -> None:
    settings = SimpleNamespace(sequence_len=256, micro_batch_size=16, num_epochs=1.0, optimizer="adamw", bf16=False)
    facts = Facts(machine, model=SHAPE, rows=1600)
    reward, dpo = estimate_stage("reward", settings, facts), estimate_stage("dpo", settings, facts)
    assert dpo.tokens == reward.tokens
    assert dpo.flops == pytest.approx(reward.flops * 4 / 3)
    assert dpo.memory_bytes == pytest.approx(reward.memory_bytes + 4 * SHAPE.parameters())


def test_generation_is_prefill_and_one_step_per_token_and_batch(machine: Machine) -> None:
    seconds = generation_seconds(Facts(machine, model=SHAPE), sequences=200, prompt_tokens=10, new_tokens=5, batch=100)
    prefill = flops.forward_flops(SHAPE, 2000, 10) / 1e10
    head = 4096 * 256 / (12 * 256**2)
    step = (SHAPE.num_hidden_layers + head) * (1e-3 + 100 * 1e-5)
    assert seconds == pytest.approx(prefill + 2 * 5 * step * DECODE_FACTOR)


def test_ppo_takes_more_with_more_episodes_and_with_a_reward_model(machine: Machine) -> None:
    facts = Facts(machine, model=SHAPE)
    base = {"total_episodes": 1000, "num_ppo_epochs": 1, "reward": None, "bf16": False}
    small = estimate_stage("ppo", SimpleNamespace(**base), facts)
    large = estimate_stage("ppo", SimpleNamespace(**{**base, "total_episodes": 2000}), facts)
    judged = estimate_stage("ppo", SimpleNamespace(**{**base, "reward": "judge"}), facts)
    assert large.seconds - START_SECONDS["train"] == pytest.approx(2 * (small.seconds - START_SECONDS["train"]))
    assert judged.flops > small.flops


def test_an_exam_takes_as_many_times_as_it_has_models(machine: Machine) -> None:
    settings = SimpleNamespace(tasks=["verifiable", "bits_per_byte"], models=["a", "b"])
    one = estimate_stage("evaluate", settings, Facts(machine, model=SHAPE, evaluated_models=1))
    four = estimate_stage("evaluate", settings, Facts(machine, model=SHAPE, evaluated_models=4))
    assert four.seconds - START_SECONDS["train"] == pytest.approx(4 * (one.seconds - START_SECONDS["train"]))


def test_a_corpus_goes_through_at_the_measured_rate_per_core(machine: Machine) -> None:
    one = estimate_stage("corpus", SimpleNamespace(), Facts(machine, raw_bytes=20e6))
    four_cores = estimate_stage("corpus", SimpleNamespace(), Facts(replace(machine, cores=4), raw_bytes=20e6))
    assert one.seconds - START_SECONDS["light"] == pytest.approx(2 * (four_cores.seconds - START_SECONDS["light"]))


def test_totals_add_time_and_disk_and_take_the_largest_memory(machine: Machine) -> None:
    stages = {
        "base": estimate_stage("pretrain", KEEPING, Facts(machine, model=SHAPE)),
        "release": estimate_stage("gate", SimpleNamespace(), Facts(machine)),
    }
    whole = total(stages)
    assert whole.seconds == pytest.approx(stages["base"].seconds + stages["release"].seconds)
    assert whole.disk_bytes == stages["base"].disk_bytes + stages["release"].disk_bytes
    assert whole.memory_bytes == stages["base"].memory_bytes


def test_checkpoints_need_disk_only_while_their_stage_trains(machine: Machine) -> None:
    base, keeping = (estimate_stage("pretrain", one, Facts(machine, model=SHAPE)) for one in (PRETRAIN, KEEPING))
    assert base.disk_bytes == keeping.disk_bytes == 10 * (base.disk_bytes - base.passing_disk_bytes)  # 3 of 3 + 1
    model = 4.0 * SHAPE.parameters()
    assert total({"base": base, "chat": base}).disk_bytes == pytest.approx(model + base.disk_bytes)
    assert total({"base": keeping, "chat": keeping}).disk_bytes == 2 * base.disk_bytes
    assert disk_peak([(10, 8), (3, 0), (9, 9)]) == 14  # 10, 2 + 3, 5 + 9


def test_milestones_need_disk_for_good(machine: Machine) -> None:
    marked = SimpleNamespace(**vars(PRETRAIN), milestone_steps=30)
    base, found = (estimate_stage("pretrain", one, Facts(machine, model=SHAPE)) for one in (PRETRAIN, marked))
    assert found.disk_bytes - base.disk_bytes == 3 * 12.0 * SHAPE.parameters()  # of steps 30, 60 and 90
    assert found.passing_disk_bytes == base.passing_disk_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_every_estimate_is_positive_and_ordered(kind: str, machine: Machine) -> None:
    found = estimate_stage(kind, SimpleNamespace(tasks=["verifiable", "humaneval", "bits_per_byte"]), Facts(machine))
    assert 0 < found.seconds_low < found.seconds < found.seconds_high
    assert found.memory_bytes > 0 and found.disk_bytes > 0
