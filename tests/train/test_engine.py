"""The loop: what a step computes, what it refuses, and what it leaves on disk."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from groundup.console import Console
from groundup.errors import Stopped, UserError
from groundup.stopping import StopRequest
from groundup.train import clock
from groundup.train.checkpoint import TrainState
from groundup.train.engine import LossParts, TrainOptions, train, train_step
from groundup.train.metrics import read_metrics
from groundup.train.optim import build_optimizers, role_of, set_learning_rate, trained_parameters
from groundup.train.schedule import lr_factor

from .engine_parts import (
    StopAt,
    T,
    context_in,
    equal_weights,
    next_token,
    options,
    tiny_decoder,
    train_tiny,
    write_shards,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


# ---------------------------------------------------------------- one step


class Ragged:
    """Micro-batches with different numbers of trained tokens: where a mean of means goes wrong."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        generator = torch.Generator().manual_seed(1)
        self.x, self.y = (torch.randn(sum(sizes), n, generator=generator) for n in (6, 1))

    def micro_batches(self, step: int, model: Any) -> list[Any]:  # noqa: ARG002
        return list(zip(self.x.split(self.sizes), self.y.split(self.sizes), strict=True))

    def weight(self, micro_batch: Any) -> float:
        return float(len(micro_batch[0]))

    def loss(self, model: Any, micro_batch: Any) -> LossParts:
        error = (model(micro_batch[0]) - micro_batch[1]).square().sum()
        right = float((model(micro_batch[0]) > 0).sum())
        return LossParts(error, len(micro_batch[0]), {"positive": (right, len(micro_batch[0]))})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def gradients_of(sizes: list[int]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    captured: dict[str, torch.Tensor] = {}

    class Capture(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # noqa: ARG002
            captured.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    optimizer = Capture([{"params": list(model.parameters()), "lr_scale": 1.0}], lr=0.0)
    row = train_step(model, Ragged(sizes), [optimizer], options(max_grad_norm=1e9), TrainState(total_steps=12))
    return captured, row


@pytest.mark.parametrize("sizes", [[7, 1, 4], [1] * 12, [11, 1]])
def test_micro_batches_of_any_size_give_the_gradient_of_one_batch(sizes: list[int]) -> None:
    whole, whole_row = gradients_of([12])
    parts, parts_row = gradients_of(sizes)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-6, atol=1e-6)
    for name in ("loss", "grad_norm", "positive"):
        assert parts_row[name] == pytest.approx(whole_row[name], rel=1e-6)


class Watched(Console):
    """Keeps the notes beside the progress bar."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.notes: list[str] = []

    @contextlib.contextmanager
    def progress(self, what: str, total: float, unit: str = "", *, is_even: bool = True) -> Iterator[Any]:  # noqa: ARG002
        yield lambda done, note="": self.notes.append(note)  # noqa: ARG005


@pytest.mark.parametrize(
    ("shown", "note"), [(None, r"loss \d+\.\d{3}"), (("positive", "loss"), r"positive \S+  loss \S+")]
)
def test_the_progress_line_shows_what_the_objective_names(tmp_path: Path, shown: Any, note: str) -> None:
    objective, console = Ragged([12]), Watched()
    if shown is not None:
        objective.shown = shown  # type: ignore[attr-defined]
    train(nn.Linear(6, 1), objective, options(max_steps=2), context_in(tmp_path, console=console))
    assert len(console.notes) == 3 and all(re.fullmatch(note, one) for one in console.notes[1:])


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4])
def test_accumulation_trains_a_decoder_as_one_batch_does(tmp_path: Path, shards: Path, micro_batch_size: int) -> None:
    one, result = train_tiny(tmp_path / "one", shards, max_steps=3)
    other, parts = train_tiny(tmp_path / "parts", shards, next_token(shards, micro_batch_size), max_steps=3)
    assert parts.loss == pytest.approx(result.loss, rel=1e-6)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=3e-5)  # AdamW divides by moments near zero


def test_the_logged_loss_is_the_mean_over_tokens_of_plain_cross_entropy(shards: Path, tmp_path: Path) -> None:
    model, objective = tiny_decoder(), next_token(shards)
    batch = objective.batches.batch(0)
    ids, targets, documents = (torch.from_numpy(x) for x in (batch.input_ids, batch.targets, batch.document_ids))
    logits = model.logits(model(ids, document_ids=documents))
    expected = F.cross_entropy(logits.flatten(0, 1).double(), targets.flatten())
    train(model, objective, options(max_steps=1), context_in(tmp_path))
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_gradient_is_clipped_to_its_norm(shards: Path) -> None:
    model = tiny_decoder()
    seen: list[float] = []

    class Watch(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # noqa: ARG002
            seen.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))

    optimizer = Watch([{"params": list(model.parameters()), "lr_scale": 1.0}], lr=0.0)
    row = train_step(model, next_token(shards), [optimizer], options(max_grad_norm=0.01), TrainState(total_steps=12))
    assert row["grad_norm"] > 0.1
    assert seen[0] == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns(tmp_path: Path, shards: Path, optimizer: str) -> None:
    rate = 1e-2 if optimizer == "adamw" else 5e-3
    _, result = train_tiny(tmp_path, shards, optimizer=optimizer, max_steps=60, learning_rate=rate, save_steps=100)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(48), abs=0.1)
    assert result.loss < 2.0


# ---------------------------------------------------------------- non-finite numbers stop before the update


class Poisoned:
    """Next token, but from step 5 on a number of the given kind gets into the loss or only into one gradient."""

    def __init__(self, inner: Any, where: str) -> None:
        self.inner, self.where, self.step = inner, where, 0

    def micro_batches(self, step: int, model: Any) -> list[Any]:
        self.step = step
        return self.inner.micro_batches(step, model)

    def weight(self, micro_batch: Any) -> float:
        return self.inner.weight(micro_batch)

    def loss(self, model: Any, micro_batch: Any) -> LossParts:
        parts = self.inner.loss(model, micro_batch)
        if self.step < 5:
            return parts
        if self.where == "loss":
            return LossParts(parts.loss_sum * float("nan"), parts.weight)
        weight = model.model.layers[1].mlp.up_proj.weight
        zero = (weight[0, 0] - weight[0, 0].detach()).abs().sqrt()  # 0, with an infinite slope
        return LossParts(parts.loss_sum + zero, parts.weight)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_number_stops_before_the_update(tmp_path: Path, shards: Path, where: str) -> None:
    reference, _ = train_tiny(tmp_path / "reference", shards, max_steps=5, lr_scheduler="constant")
    model = tiny_decoder()
    objective = Poisoned(next_token(shards), where)
    with pytest.raises(UserError) as caught:
        train(model, objective, options(max_steps=9, lr_scheduler="constant"), context_in(tmp_path / "run"))
    assert "step 6:" in str(caught.value)
    assert "weights are still those of step 5" in str(caught.value)
    if where == "gradient":
        assert "model.layers.1.mlp.up_proj.weight" in str(caught.value)
    assert caught.value.exit_code == 1
    assert equal_weights(model, reference)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()].count("checkpoint-4") == 1
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_batch_with_nothing_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="step 1: nothing in this batch is trained"):
        train(nn.Linear(6, 1), Ragged([0]), options(), context_in(tmp_path))


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_stopping_and_going_on_gives_the_weights_of_an_uninterrupted_run(
    tmp_path: Path, shards: Path, optimizer: str, stop_after: int
) -> None:
    whole, result = train_tiny(tmp_path / "whole", shards, optimizer=optimizer)
    stop = StopRequest()
    objective = StopAt(next_token(shards), stop, stop_after)
    with pytest.raises(Stopped) as caught:
        train(tiny_decoder(), objective, options(optimizer=optimizer), context_in(tmp_path / "cut", stop=stop))
    assert caught.value.exit_code == 75
    assert f"saved at step {stop_after}" in str(caught.value)
    resumed, again = train_tiny(tmp_path / "cut", shards, optimizer=optimizer)
    assert equal_weights(whole, resumed)
    assert again.loss == result.loss
    assert again.tokens == result.tokens == 12 * 8 * T
    for name in ("loss", "lr", "grad_norm", "tokens"):
        rows = [[row[name] for row in read_metrics(tmp_path / f / "metrics.jsonl")] for f in ("whole", "cut")]
        assert rows[0] == rows[1]


class Sampling(Ragged):
    """An objective with state of its own: a generator and a controller, as PPO has."""

    def __init__(self) -> None:
        super().__init__([6, 6])
        self.generator = torch.Generator().manual_seed(5)
        self.kl_coefficient, self.history = 0.1, [torch.zeros(2)]

    def micro_batches(self, step: int, model: Any) -> list[Any]:
        self.kl_coefficient *= 1.1
        self.history.append(torch.randn(2, generator=self.generator))
        noise = torch.randn(12, 6, generator=self.generator) + torch.randn(6)  # the second from torch's own generator
        return [(x + n, y) for (x, y), n in zip(super().micro_batches(step, model), noise.split(6), strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "kl": {"coefficient": self.kl_coefficient}, "h": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self.kl_coefficient, self.history = state["kl"]["coefficient"], state["h"]


def test_an_objective_that_samples_goes_on_exactly(tmp_path: Path) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(6, 1)

    whole, cut = model(), model()
    first = Sampling()
    train(whole, first, options(), context_in(tmp_path / "whole"))
    stop = StopRequest()
    with pytest.raises(Stopped):
        train(cut, StopAt(Sampling(), stop, 5), options(), context_in(tmp_path / "cut", stop=stop))
    resumed, second = model(), Sampling()
    train(resumed, second, options(), context_in(tmp_path / "cut"))
    assert equal_weights(whole, resumed)
    assert first.kl_coefficient == second.kl_coefficient
    assert all(torch.equal(a, b) for a, b in zip(first.history, second.history, strict=True))


def test_a_finished_training_is_not_done_again(tmp_path: Path, shards: Path) -> None:
    model, first = train_tiny(tmp_path, shards)
    again, second = train_tiny(tmp_path, shards)
    assert equal_weights(model, again)
    assert (second.steps, second.tokens, second.loss) == (first.steps, first.tokens, first.loss)


def test_the_time_of_all_attempts_is_added_up(tmp_path: Path, shards: Path) -> None:
    stop = StopRequest()
    with pytest.raises(Stopped):
        train(tiny_decoder(), StopAt(next_token(shards), stop, 6), options(), context_in(tmp_path, stop=stop))
    train_tiny(tmp_path, shards)
    seconds = [row["seconds"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert seconds == sorted(seconds)
    assert len(seconds) == 12


# ---------------------------------------------------------------- metrics


def test_first_and_last_step_are_always_logged(tmp_path: Path, shards: Path) -> None:
    train_tiny(tmp_path, shards, logging_steps=5)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 5, 10, 12]
    names = {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds", "data_wait", "memory"}
    assert all(names <= set(row) for row in rows)
    assert rows[-1]["tokens"] == 12 * 8 * T


def test_a_held_out_loss_is_logged_when_due_and_at_the_end(tmp_path: Path, shards: Path) -> None:
    modes: list[tuple[bool, bool]] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        modes.append((model.training, torch.is_grad_enabled()))
        return {"validation_loss": 1.5}

    model = tiny_decoder()
    train(model, next_token(shards), options(eval_steps=5, logging_steps=100), context_in(tmp_path), evaluate=evaluate)
    rows = {row["step"]: row.get("validation_loss") for row in read_metrics(tmp_path / "metrics.jsonl")}
    assert rows == {1: None, 5: 1.5, 10: 1.5, 12: 1.5}
    assert modes == [(False, False)] * 3
    assert model.training


# ---------------------------------------------------------------- the learning rate and who is updated how


def factors(**arguments: Any) -> list[float]:
    total = arguments["total_steps"]
    return [lr_factor(step, **arguments) for step in range(total)]


def test_wsd_warms_up_stays_and_decays_to_just_above_zero() -> None:
    found = factors(total_steps=10, scheduler="wsd", warmup_steps=2, decay_ratio=0.4)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_cosine_linear_and_constant() -> None:
    assert factors(total_steps=4, scheduler="cosine") == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    assert factors(total_steps=5, scheduler="linear", warmup_steps=1) == pytest.approx([1, 1, 0.75, 0.5, 0.25])
    assert factors(total_steps=3, scheduler="constant", warmup_steps=2) == pytest.approx([0.5, 1, 1])


@pytest.mark.parametrize("scheduler", ["wsd", "cosine", "linear", "constant"])
@pytest.mark.parametrize("total", [1, 2, 3, 50])
@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_every_step_of_every_schedule_moves(scheduler: str, total: int, warmup: int) -> None:
    assert all(0 < factor <= 1 for factor in factors(total_steps=total, scheduler=scheduler, warmup_steps=warmup))


def test_without_a_horizon_nothing_decays() -> None:
    assert lr_factor(10**6, total_steps=None, scheduler="wsd") == 1.0


def test_parameters_are_updated_by_role() -> None:
    model = tiny_decoder(tie_word_embeddings=False, qk_norm=True, model_type="qwen3")
    roles: dict[str, set[str]] = {}
    for name, parameter in trained_parameters(model).items():
        roles.setdefault(role_of(name, parameter), set()).add(name.split(".")[-2])
    assert roles == {
        "embedding": {"embed_tokens"},
        "head": {"lm_head"},
        "matrix": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        "vector": {"input_layernorm", "post_attention_layernorm", "norm", "q_norm", "k_norm"},
    }
    names = {parameter: name for name, parameter in model.named_parameters()}
    adamw, muon = build_optimizers(model, optimizer="muon", weight_decay=0.1)
    assert {names[p].split(".")[-2] for g in muon.param_groups for p in g["params"]} == roles["matrix"]
    decayed = {
        names[p].split(".")[-2] for o in (adamw, muon) for g in o.param_groups if g["weight_decay"] for p in g["params"]
    }
    assert decayed == roles["matrix"] | roles["head"]


def test_frozen_parameters_stay_and_are_not_saved(tmp_path: Path, shards: Path) -> None:
    model = tiny_decoder()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name)
    before = copy.deepcopy(model)
    train(model, next_token(shards), options(), context_in(tmp_path))
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "checkpoints" / "checkpoint-12" / "model-00000.safetensors")
    assert saved
    assert all("mlp" in name for name in saved)
    for (name, a), (_, b) in zip(before.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(a, b) != ("mlp" in name)


def test_a_prefix_can_learn_at_a_rate_of_its_own() -> None:
    model = nn.ModuleDict({"policy": nn.Linear(2, 2), "critic": nn.Linear(2, 2)})
    optimizers = build_optimizers(model, optimizer="adamw", weight_decay=0.0, learning_rate_scales={"critic.": 5.0})
    set_learning_rate(optimizers, 0.1)
    rates = {id(p): g["lr"] for o in optimizers for g in o.param_groups for p in g["params"]}
    assert {name: rates[id(p)] for name, p in model.named_parameters()} == pytest.approx(
        {"policy.weight": 0.1, "policy.bias": 0.1, "critic.weight": 0.5, "critic.bias": 0.5}
    )


# ---------------------------------------------------------------- a time limit


def test_a_time_limit_becomes_a_number_of_steps_that_a_resume_never_passes(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()  # a clock that goes on with every look at it, on any machine at the same speed
    monkeypatch.setattr(clock.time, "monotonic", lambda: next(ticks) * 0.004)
    limited = options(max_steps=None, time_limit_seconds=1.5, save_steps=10**6, logging_steps=1)
    stop = StopRequest()
    objective = StopAt(next_token(shards), stop, 30)
    with pytest.raises(Stopped):
        train(tiny_decoder(), objective, limited, context_in(tmp_path, stop=stop))
    from groundup.artifacts import read_json

    horizon = read_json(tmp_path / "checkpoints" / "checkpoint-30" / "state.json")["total_steps"]
    assert horizon is not None
    assert horizon > 30
    result = train(tiny_decoder(), next_token(shards), limited, context_in(tmp_path))
    assert 0.85 * horizon <= result.steps <= horizon  # a resume costs some of the time
    assert 1.3 <= result.seconds <= 1.5
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, result.steps + 1))
    rates = [row["lr"] for row in rows]
    assert rates[: horizon // 3] == pytest.approx([1.5e-3, *[3e-3] * (horizon // 3 - 1)])
    assert rates[-1] < 0.05 * 3e-3 and all(a >= b for a, b in itertools.pairwise(rates[1:]))


def test_a_time_limit_needs_a_schedule_that_can_wait(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(UserError, match="time_limit does not go with lr_scheduler cosine"):
        train_tiny(tmp_path, shards, max_steps=None, time_limit_seconds=5.0, lr_scheduler="cosine")
    with pytest.raises(UserError, match="nothing says when training ends"):
        train(tiny_decoder(), next_token(shards), TrainOptions(None, 1e-3), context_in(tmp_path))
