"""What only a GPU can show: its kernels against the dense reference, and a step there against one on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from groundup.model.attention import attend, choose_attention, mask_for, visibility
from groundup.model.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.generate import Sampling, generate
from groundup.model.init import init_weights
from groundup.model.loss import cross_entropy_sum, reference
from groundup.train.checkpoint import TrainState
from groundup.train.device import prepare_device
from groundup.train.optim import build_optimizers
from groundup.train.options import TrainOptions
from groundup.train.pretrain import NextToken
from groundup.train.speedups import slow_down, speed_up
from groundup.train.start import open_world
from groundup.train.step import train_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine")

B, H, KV, T, D = 2, 8, 2, 512, 64
DOCUMENTS = torch.stack([(torch.arange(T) >= 200).long() + (torch.arange(T) >= 300).long(), torch.zeros(T).long()])
DOCUMENTS[1, 400:] = -1


def decoder(**fields: Any) -> Decoder:
    shape = {"vocab_size": 1000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    model = Decoder(ModelConfig(**{**shape, "num_attention_heads": 4, "num_key_value_heads": 2, **fields}))
    init_weights(model, 0)
    return model


@pytest.mark.parametrize("window", [None, 1, 37, 300])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_kernel_is_the_dense_mask_forward_and_backward(dtype: torch.dtype, packed: bool, window: int) -> None:
    documents = DOCUMENTS if packed else None
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(B, h, T, D, generator=generator) for h in (H, KV, KV)]
    slope = torch.randn(B, H, T, D, generator=generator)
    dense = visibility(
        documents, documents, queries=T, keys=T, window=window, dtype=torch.float32, device=torch.device("cpu")
    )
    sizes = {"rows": B, "queries": T, "keys": T, "window": window, "dtype": dtype, "head_dim": D}
    mask = mask_for(documents, documents, device=torch.device("cuda"), **sizes)
    results = []
    for device, kind, given in (("cuda", dtype, mask), ("cpu", torch.float32, dense)):
        inputs = [x.to(device, kind).requires_grad_() for x in leaves]
        out = attend(*inputs, given, None if device == "cuda" else "sdpa")
        out.backward(slope.to(device, kind))
        results.append([x.detach().float().cpu() for x in (out, *(i.grad for i in inputs))])
    form = choose_attention("cuda", T, queries=T, packed=packed, window=window, dtype=dtype, head_dim=D)
    tolerance = 0.02 if dtype == torch.bfloat16 else 2e-3
    for ours, expected in zip(*results, strict=True):
        assert (ours - expected).norm() <= tolerance * expected.norm(), form


@pytest.mark.parametrize("is_compiled", [False, True])
def test_the_loss_of_a_gpu_is_the_reference(is_compiled: bool) -> None:
    model = decoder(tie_word_embeddings=False).cuda()
    model.is_compiled = is_compiled
    hidden = torch.randn(2, 100, 256, device="cuda", requires_grad=True)
    targets = torch.randint(1000, (2, 100), device="cuda")
    weights = (torch.arange(200).view(2, 100) % 3 > 0).float()
    value, _ = cross_entropy_sum(hidden, model, targets, weights)
    value.backward()
    found = hidden.grad.clone(), model.head_weight.grad.clone()
    hidden.grad = model.head_weight.grad = None
    expected = reference(hidden, model, targets, weights.cuda())
    expected.backward()
    assert torch.allclose(value, expected, rtol=1e-4)
    for ours, theirs in zip(found, (hidden.grad, model.head_weight.grad), strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


@pytest.mark.parametrize("changes", [{}, {"torch_compile": True}, {"gradient_checkpointing": "selective"}])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_on_a_gpu_lose_what_steps_on_the_cpu_lose(optimizer: str, changes: dict[str, Any]) -> None:
    ids = torch.randint(1000, (4, 129), generator=torch.Generator().manual_seed(0))
    documents = (torch.arange(128) >= 50).long().expand(4, -1)
    batch = [{"input_ids": ids[:, :-1], "targets": ids[:, 1:], "document_ids": documents}]
    traces = []
    for device, more in (("cpu", {}), ("cuda", changes)):
        values = {"max_steps": 5, "learning_rate": 1e-3, "optimizer": optimizer, "dtype": "bfloat16", "device": device}
        options = TrainOptions(**values, **more)
        prepare_device(device, options.dtype)
        world = open_world(options)
        model = world.prepare(decoder()).train()
        speed_up(model, options)
        optimizers, state = build_optimizers(model, optimizer=optimizer, weight_decay=0.1), TrainState(total_steps=5)
        objective = NextToken(None, 4)  # type: ignore[arg-type]
        rows = [
            train_step(model, objective, optimizers, options, state, world, batches=lambda *_: batch) for _ in range(5)
        ]
        traces.append([row["loss"] for row in rows])
        slow_down(model)
    assert traces[1] == pytest.approx(traces[0], rel=0.01)


def test_greedy_generation_on_a_gpu_is_the_cpus() -> None:
    model, prompts = decoder().eval(), [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    greedy = Sampling(12, temperature=0.0)
    expected = [completion.ids for completion in generate(model, prompts, greedy)]
    assert [completion.ids for completion in generate(model.cuda(), prompts, greedy)] == expected
