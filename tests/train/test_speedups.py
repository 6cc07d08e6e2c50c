"""Checkpointing, compilation and float8 change memory and time, and never what is trained."""

from __future__ import annotations

import copy
import gc
import sys
import types
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from groundup.errors import UserError
from groundup.model import attention
from groundup.model.decoder import Decoder
from groundup.model.generate import Sampling, generate
from groundup.model.heads import ScalarModel
from groundup.model.loss import cross_entropy_sum
from groundup.train import speedups
from groundup.train.engine import TrainOptions
from groundup.train.speedups import blocks_of, slow_down, speed_up, steady_collection

from .engine_parts import VOCAB, tiny_decoder

WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
DOCUMENTS = (torch.arange(24) >= 9).long().expand(4, -1)


def options(**changes: Any) -> TrainOptions:
    return TrainOptions(**{"max_steps": 3, "learning_rate": 1e-3, **changes})


def tokens() -> torch.Tensor:
    return torch.randint(VOCAB, (4, 25), generator=torch.Generator().manual_seed(3))


def loss_of(model: Decoder) -> torch.Tensor:
    ids = tokens()
    return cross_entropy_sum(model(ids[:, :-1], document_ids=DOCUMENTS), model, ids[:, 1:])[0]


def gradients(model: Decoder, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = loss_of(model)
    loss.backward()
    return {"loss": loss.detach(), **{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}}


class Watched(TorchDispatchMode):
    """Counts operations by name, and the bytes of all tensors made in it that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.alive: dict[int, int] = {}
        self.storages: list[weakref.ref[Any]] = []

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self.calls[name] = self.calls.get(name, 0) + 1
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.alive:
                    self.alive[key] = storage.nbytes()
                    self.storages.append(weakref.ref(storage, lambda _, key=key: self.alive.pop(key, None)))
        return out


def bytes_kept(model: Decoder) -> int:
    """Of all that the forward pass made and something still holds when it is done."""
    with Watched() as watched:
        loss = loss_of(model)
        kept = sum(watched.alive.values())
    loss.backward()
    return kept


@pytest.fixture(params=["own kernels", "torch", "sdpa"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the C kernels where they can be built, with the hand-written functions in torch, and with SDPA."""
    if request.param != "own kernels":
        monkeypatch.setattr("groundup.model.decoder.native_rows", lambda *_: None)
    if request.param == "sdpa":
        monkeypatch.setattr(attention, "choose_attention", lambda *_, **__: "sdpa")
    return str(request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", [True, "selective"])
def test_recomputed_gradients_are_the_same(mode: bool | str, dtype: torch.dtype, kernels: str) -> None:
    model = tiny_decoder(**WIDE)
    expected = gradients(model, dtype)
    speed_up(model, options(gradient_checkpointing=mode))
    found = gradients(model, dtype)
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert torch.equal(found[name], grad), (name, kernels)


@pytest.mark.parametrize("form", ["matmul", "sdpa"])
def test_what_is_kept_shrinks_with_each_mode(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.model.decoder.native_rows", lambda *_: None)
    monkeypatch.setattr(attention, "choose_attention", lambda *_, **__: form)
    kept = {}
    for mode in (False, "selective", True):
        model = tiny_decoder(**WIDE)
        speed_up(model, options(gradient_checkpointing=mode))
        kept[mode] = bytes_kept(model)
    assert kept["selective"] < 0.8 * kept[False]
    assert kept[True] < 0.6 * kept["selective"]


def test_selective_runs_no_product_again_and_full_runs_those_that_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.model.decoder.native_rows", lambda *_: None)
    monkeypatch.setattr(attention, "choose_attention", lambda *_, **__: "sdpa")

    def count(mode: bool | str) -> dict[str, int]:
        model = tiny_decoder(**WIDE)
        speed_up(model, options(gradient_checkpointing=mode))
        with Watched() as watched:
            loss_of(model).backward()
        return watched.calls

    without, full, selective = count(False), count(True), count("selective")
    # of a block's seven products the last one is no input of anything in it
    assert full["aten::mm"] == without["aten::mm"] + 3 * 6
    assert selective["aten::mm"] == without["aten::mm"]
    attention_call = next(name for name in without if "flash" in name and "backward" not in name)
    assert full[attention_call] == 2 * without[attention_call]
    assert selective[attention_call] == without[attention_call]
    assert selective["aten::silu"] == 2 * without["aten::silu"]


def test_names_state_and_copies_are_what_they_were() -> None:
    model = tiny_decoder(**WIDE)
    names, keys = [n for n, _ in model.named_parameters()], list(model.state_dict())
    speed_up(model, options(gradient_checkpointing="selective"))
    assert [n for n, _ in model.named_parameters()] == names
    assert list(model.state_dict()) == keys
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert float(loss_of(twin).detach()) == pytest.approx(float(loss_of(tiny_decoder(**WIDE)).detach()))
    gradients(twin, torch.float32)
    assert all(parameter.grad is None for parameter in model.parameters())  # a copy trains its own weights
    slow_down(model)
    assert not any("forward" in block.__dict__ for block in blocks_of(model))


def test_twice_is_once_and_every_model_of_a_pair_is_meant() -> None:
    policy = tiny_decoder(**WIDE)
    pair = nn.ModuleDict({"policy": policy, "critic": ScalarModel.from_decoder(policy, 0)})
    speed_up(pair, options(gradient_checkpointing=True))
    before = [block.__dict__["forward"] for block in blocks_of(pair)]
    assert len(before) == 6
    speed_up(pair, options(gradient_checkpointing=True))
    assert [block.__dict__["forward"] for block in blocks_of(pair)] == before


def test_generation_and_measuring_take_blocks_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_decoder(**WIDE)
    greedy = Sampling(6, temperature=0.0)
    expected = generate(model, [[1, 2, 3]], greedy)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("recomputed without a gradient")

    monkeypatch.setattr(speedups, "checkpoint", never)
    speed_up(model, options(gradient_checkpointing=True))
    assert generate(model, [[1, 2, 3]], greedy) == expected
    with torch.no_grad():
        loss_of(model)
    with pytest.raises(AssertionError, match="recomputed"):
        loss_of(model)


# ---------------------------------------------------------------- compilation


def test_without_a_compiler_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speedups, "why_no_compiler", lambda _: "there is no C++ compiler (g++ or clang++)")
    with pytest.raises(UserError, match=r"there is no C\+\+ compiler") as raised:
        speed_up(tiny_decoder(), options(torch_compile=True))
    assert "torch_compile: false" in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", [False, True, "selective"])
def test_compiled_blocks_give_the_same_loss_and_gradients(mode: bool | str, dtype: torch.dtype) -> None:
    if speedups.why_no_compiler("cpu"):
        pytest.skip("no C++ compiler")
    model = tiny_decoder(**WIDE)
    expected = gradients(model, dtype)
    torch._dynamo.reset()
    speed_up(model, options(torch_compile=True, gradient_checkpointing=mode))
    torch._dynamo.utils.counters.clear()
    found = gradients(model, dtype)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1  # all blocks share one graph
    assert not counters["graph_break"]
    tolerance = 1e-4 if dtype == torch.float32 else 0.06
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= tolerance * grad.norm(), name
    slow_down(model)


# ---------------------------------------------------------------- float8


class FakeGpu:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA A100")


def float8_on(device: str) -> TrainOptions:
    return options(float8=True, device=device)


def test_float8_is_refused_where_it_cannot_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"NVIDIA GPUs only; this run is on `cpu`"):
        speed_up(tiny_decoder(), float8_on("cpu"))
    FakeGpu(monkeypatch, (8, 0))
    with pytest.raises(UserError, match=r"A100\) has compute capability 8.0; float8 needs 8.9"):
        speed_up(tiny_decoder(), float8_on("cuda"))
    FakeGpu(monkeypatch, (9, 0))
    with pytest.raises(UserError, match=r"hidden_size 32 trains slower in float8, not faster: it pays from 2,048 on"):
        speed_up(tiny_decoder(), float8_on("cuda"))
    monkeypatch.setattr(speedups, "FLOAT8_FROM_HIDDEN", 32)
    monkeypatch.setattr(speedups.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="needs torchao, which is not installed"):
        speed_up(tiny_decoder(), float8_on("cuda"))


def test_float8_takes_the_matrices_that_fit_and_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao stands in: what it is asked to convert, and that afterwards plain layers hold the same weights."""
    FakeGpu(monkeypatch, (9, 0))
    monkeypatch.setattr(speedups, "FLOAT8_FROM_HIDDEN", 32)
    monkeypatch.setattr(speedups.importlib.util, "find_spec", lambda _: object())

    class Float8Linear(nn.Linear):
        pass

    class Float8LinearConfig:
        @staticmethod
        def from_recipe_name(name: str) -> str:
            return name

    def convert(module: nn.Module, *, config: Any, module_filter_fn: Any) -> None:
        assert config == "rowwise"
        for name, child in list(module.named_modules()):
            if module_filter_fn(child, name):
                child.__class__ = Float8Linear

    package = types.ModuleType("torchao.float8")
    package.__dict__.update(Float8LinearConfig=Float8LinearConfig, convert_to_float8_training=convert)
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", package)
    model = tiny_decoder(intermediate_size=72, tie_word_embeddings=False)
    weights = dict(model.named_parameters())
    speed_up(model, float8_on("cuda"))
    converted = {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, Float8Linear)}
    assert converted == {"q_proj", "k_proj", "v_proj", "o_proj"}  # 72 is no multiple of 16; the head stays
    slow_down(model)
    assert all(type(m) is nn.Linear for m in model.modules() if isinstance(m, nn.Linear))
    assert all(parameter is weights[name] for name, parameter in model.named_parameters())


# ---------------------------------------------------------------- garbage collection


def test_on_a_gpu_garbage_is_collected_at_known_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[int] = []
    with steady_collection("cuda") as collect:
        assert not gc.isenabled()
        monkeypatch.setattr(speedups.gc, "collect", lambda generation=2: collected.append(generation))
        for step in range(1, 101):
            collect(step)
    assert collected == [1, 1]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_an_error_gives_the_collector_back() -> None:
    with pytest.raises(RuntimeError), steady_collection("cuda"):
        raise RuntimeError
    assert gc.isenabled()


def test_on_a_cpu_the_collector_is_left_alone() -> None:
    with steady_collection("cpu") as collect:
        collect(50)
        assert gc.isenabled()
