"""Which device is chosen, what is said where it is not there, and that a step on a GPU mixes and waits for nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.errors import UserError
from groundup.model.decoder import Decoder
from groundup.train import device
from groundup.train.device import choose_device, fetch, held, place, prepare_device, to_device, wants_compile

from .engine_parts import tiny_decoder

FOLDER = Path(__file__).parent


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_the_cpu() -> None:
    assert choose_device() == choose_device("cpu") == "cpu"


@pytest.mark.usefixtures("gpus")
def test_with_one_auto_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device() == choose_device("cuda") == "cuda"
    assert choose_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device() == "cuda:1"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 2 of this machine has no GPU of its own: 2 are visible") as raised:
        choose_device()
    assert "nproc_per_node 2" in str(raised.value)


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(UserError, match="is a build without CUDA"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(UserError, match=r"built for CUDA 12\.8, but no GPU answers") as raised:
        choose_device("cuda")
    assert "nvidia-smi" in str(raised.value)
    with pytest.raises(UserError, match="no Apple GPU"):
        choose_device("mps")


def test_a_gpus_memory_and_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    before = torch.get_float32_matmul_precision()
    try:
        for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
            monkeypatch.delenv(name, raising=False)
        prepare_device("cuda", "bfloat16")
        assert os.environ.pop("PYTORCH_ALLOC_CONF") == "expandable_segments:True"
        assert torch.get_float32_matmul_precision() == "high"
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")  # what a person set stays
        prepare_device("cuda", "float32")
        assert "PYTORCH_ALLOC_CONF" not in os.environ
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_compiling_pays_on_a_gpu_in_long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "why_no_compiler", lambda _: None)
    assert wants_compile("auto", "cuda", "pretrain", 300, None)
    assert wants_compile("auto", "cuda:1", "sft", None, 900)
    assert not wants_compile("auto", "cuda", "pretrain", 299, None)
    assert not wants_compile("auto", "cuda", "pretrain", 299, 10_000)  # the steps end it first
    assert not wants_compile("auto", "cuda", "ppo", 10_000, None)  # rows of every length
    assert not wants_compile("auto", "cpu", "pretrain", 10_000, None)
    assert wants_compile(True, "cpu", "ppo", 1, None)
    assert not wants_compile(False, "cuda", "pretrain", 10_000, None)
    monkeypatch.setattr(device, "why_no_compiler", lambda _: "Triton is not installed")
    assert not wants_compile("auto", "cuda", "pretrain", 10_000, None)


# ---------------------------------------------------------------- batches and numbers


@dataclass(frozen=True)
class Rows:
    input_ids: torch.Tensor
    document_ids: torch.Tensor
    stats: dict[str, float]


def test_what_decides_shapes_stays_and_the_rest_is_sent() -> None:
    ids = torch.zeros(2, 3)
    batch = {"input_ids": ids, "weights": ids, "rows": [Rows(ids, ids, {"x": 1.0}), (ids, "text")], "mask": ids}
    sent = to_device(batch, "meta")
    assert sent["input_ids"].device.type == "meta"
    assert sent["weights"] is ids
    assert sent["mask"] is ids
    rows, (tensor, text) = sent["rows"]
    assert rows.input_ids.device.type == tensor.device.type == "meta"
    assert rows.document_ids is ids
    assert (rows.stats, text) == ({"x": 1.0}, "text")
    assert to_device(batch, "cpu") is batch


def test_sums_stay_on_a_gpu_and_come_back_together() -> None:
    assert isinstance(held(torch.tensor(2.5)), float)
    waiting = held(torch.tensor(2.5, device="meta"))
    assert waiting.dtype == torch.float64
    assert fetch([1, torch.tensor(2.0), 3.5, torch.tensor(4, dtype=torch.int64).double()]) == [1.0, 2.0, 3.5, 4.0]
    assert fetch([]) == []


def test_a_model_without_values_is_not_moved() -> None:
    with torch.device("meta"):
        model = Decoder(tiny_decoder().config)
    place(model, "cpu")
    assert all(parameter.is_meta for parameter in model.parameters())


# ---------------------------------------------------------------- a GPU that is not there


@pytest.fixture(scope="module")
def on_a_fake_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of each scenario of fake_gpu.py, run in a process of its own."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler: torch's CPU build cannot be told that there is a GPU")
    torch_folder = Path(torch.__file__).parent
    library = tmp_path_factory.mktemp("fake-gpu") / "fake_gpu.so"
    build = [compiler, "-O1", "-shared", "-fPIC", "-std=c++20", f"-I{torch_folder / 'include'}"]
    build += [str(FOLDER / "fake_gpu.cpp"), "-o", str(library), f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu"]
    built = subprocess.run([*build, f"-Wl,-rpath,{torch_folder / 'lib'}"], capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"this torch's headers do not build here: {built.stderr[-300:]}")
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "RANK")}
    run = subprocess.run(
        [sys.executable, str(FOLDER / "fake_gpu.py"), str(library)], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return {row.pop("name"): row for row in map(json.loads, run.stdout.splitlines())}


STEPS = [
    "pretrain",
    "pretrain, tied",
    "pretrain, qk norm",
    "pretrain, rows without documents",
    "pretrain, muon",
    "pretrain, checkpointing",
    "pretrain, selective",
    "pretrain, window",
    "sft",
    "dpo",
    "reward",
    "ppo",
]


@pytest.mark.parametrize("name", STEPS)
def test_a_whole_step_runs_on_the_gpu_and_waits_for_it_twice(
    name: str, on_a_fake_gpu: dict[str, dict[str, Any]]
) -> None:
    """For the sums of all micro-batches, and for the gradient's norm: whether to update is decided with both."""
    found = on_a_fake_gpu[name]
    assert "error" not in found, found["trace"]
    assert found["waits"] == {"a copy to the CPU": 1, "a number": 1}
    assert found["devices"] == ["cuda"]
    assert {"loss", "grad_norm", "lr", "tokens"} <= set(found["numbers"])


def test_the_fake_gpu_notices_what_was_not_sent(on_a_fake_gpu: dict[str, dict[str, Any]]) -> None:
    assert "same device" in on_a_fake_gpu["forgotten"]["error"]


def test_every_scenario_is_looked_at(on_a_fake_gpu: dict[str, dict[str, Any]]) -> None:
    assert set(on_a_fake_gpu) == {*STEPS, "forgotten"}


WARM = """
import re, psutil, torch
from groundup.train.precision import keep_memory_warm
before = psutil.Process().memory_info().rss
assert keep_memory_warm()
grown = psutil.Process().memory_info().rss - before
x = torch.ones(64 * 2**18)  # 64 MiB
heap = open("/proc/self/smaps").read()
huge = sum(int(size) for size in re.findall(r"AnonHugePages: +([0-9]+) kB", heap)) * 1024
print(grown, huge)
"""


def test_tensors_lie_on_huge_pages_where_linux_gives_them_and_nothing_is_taken_before() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.is_file() or "[never]" in setting.read_text():
        pytest.skip("this system gives no huge pages")
    grown, huge = map(int, subprocess.check_output([sys.executable, "-c", WARM]).split())
    assert grown < 32 * 2**20, "addresses were reserved, not memory"
    assert huge >= 32 * 2**20
