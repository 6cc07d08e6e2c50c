"""Training on a GPU that is not there: tensors with a shape, a dtype and the device `cuda`, and no values.

    python fake_gpu.py LIBRARY

LIBRARY is fake_gpu.cpp, built; it is loaded before torch. Prints one JSON line per scenario. Tensors on the CPU are
real ones. An operation that mixes the two raises, as it does on a GPU; what waits for the GPU (a number asked for, a
copy to the CPU, a shape that depends on values) is counted.
"""

from __future__ import annotations

import ctypes
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)  # torch's own libraries then find it first

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)


class FakeGpu(TorchDispatchMode):
    """Operations on the GPU are faked, those on CPU tensors run as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        is_cuda = any(isinstance(leaf, FakeTensor) for leaf in leaves)
        is_cuda |= any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves)
        if not is_cuda:
            return func(*args, **kwargs)
        name = func._schema.name
        if name == "aten::_local_scalar_dense":
            self.waits["a number"] += 1
            return 1.0
        if name in ("aten::nonzero", "aten::masked_select", "aten::_unique2"):
            raise RuntimeError(f"{name} waits for the GPU to know how large its result is")
        args, kwargs = tree_map(self._faked, (args, kwargs))
        with self.fake:
            out = func(*args, **kwargs)
        found = [leaf for leaf in tree_leaves(out) if isinstance(leaf, FakeTensor)]
        if found and all(leaf.device.type == "cpu" for leaf in found):
            self.waits["a copy to the CPU"] += 1
            return tree_map(
                lambda leaf: torch.ones(leaf.shape, dtype=leaf.dtype) if isinstance(leaf, FakeTensor) else leaf, out
            )
        return out

    def _faked(self, leaf: Any) -> Any:
        is_real = isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor)
        return self.fake.from_tensor(leaf.detach()) if is_real else leaf


def tolist(tensor: torch.Tensor) -> Any:
    """All numbers of a tensor in one transfer; FakeTensor's own asks for them one by one."""
    return (tensor.cpu() if isinstance(tensor, FakeTensor) else tensor).numpy().tolist()


def pretend() -> None:
    """What torch.cuda would say with one Hopper GPU, and what pinned memory would do."""
    from groundup.model import device, packed

    torch.cuda.__dict__.update(
        _lazy_init=lambda: None,
        is_available=lambda: True,
        is_bf16_supported=lambda *_, **__: True,
        set_device=lambda _: None,
        device_count=lambda: 1,
    )
    FakeTensor.tolist = tolist
    device.pinned = lambda value: value
    packed.is_ampere = lambda: True


# ---------------------------------------------------------------- scenarios


def decoder(**fields: Any) -> Any:
    from engine_parts import tiny_decoder

    return tiny_decoder(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, **fields)


def packed_rows() -> Any:
    """Two micro-batches of pre-training, of 3 rows with two documents each."""
    ids = torch.randint(1, 40, (3, 17))
    documents = (torch.arange(16) >= 6).long().expand(3, -1).contiguous()
    return [{"input_ids": ids[:, :-1], "targets": ids[:, 1:], "document_ids": documents}] * 2


def chat_rows() -> tuple[list[Any], Any]:
    from groundup.chat.masks import Encoded
    from groundup.chat.packing import join
    from groundup.train.chat_data import RowOrder

    samples = [Encoded(list(range(1, 9)), [False] * 4 + [True] * 4), Encoded([5, 6, 7], [False, True, True])]
    rows = [join(samples), join(samples[:1]), join(samples[1:])]
    return rows, RowOrder(len(rows), 2, 0)


def pairs() -> list[Any]:
    from groundup.chat.masks import Encoded
    from groundup.chat.pairs_data import EncodedPair

    chosen, rejected = Encoded([1, 2, 3, 4], [False, False, True, True]), Encoded([1, 2, 5], [False, False, True])
    return [EncodedPair(chosen, rejected, 0.5), EncodedPair(rejected, chosen)]


class Fixed:
    """An objective with these micro-batches, and the loss of another."""

    def __init__(self, objective: Any, micro_batches: list[Any]) -> None:
        self.objective, self.found = objective, micro_batches
        self.weight, self.loss = objective.weight, objective.loss

    def micro_batches(self, *_: Any) -> list[Any]:
        return self.found


def step(model: Any, objective: Any, **changes: Any) -> dict[str, Any]:
    """One whole update on the GPU, as the engine makes it."""
    from groundup.train.checkpoint import TrainState
    from groundup.train.device import prepare_device
    from groundup.train.optim import build_optimizers
    from groundup.train.options import TrainOptions
    from groundup.train.speedups import speed_up
    from groundup.train.start import open_world
    from groundup.train.step import train_step

    values = {"max_steps": 4, "learning_rate": 1e-3, "device": "cuda", "dtype": "bfloat16", **changes}
    options = TrainOptions(**values)
    prepare_device(options.device, options.dtype)
    world = open_world(options)
    model = world.prepare(model)
    speed_up(model, options)
    optimizers = build_optimizers(model, optimizer=options.optimizer, weight_decay=0.1)
    gpu.waits.clear()
    row = train_step(model, objective, optimizers, options, TrainState(total_steps=4), world)
    state = [value for optimizer in optimizers for held in optimizer.state.values() for value in held.values()]
    devices = {
        tensor.device.type for tensor in [*model.parameters(), *(s for s in state if isinstance(s, torch.Tensor))]
    }
    return {"waits": dict(gpu.waits), "devices": sorted(devices), "numbers": sorted(row)}


def pretraining(**changes: Any) -> dict[str, Any]:
    from groundup.train.pretrain import NextToken

    fields = {name: changes.pop(name) for name in ("tie_word_embeddings", "qk_norm", "model_type") if name in changes}
    objective = NextToken(None, 3, document_mask=changes.pop("document_mask", True))  # type: ignore[arg-type]
    return step(decoder(**fields), Fixed(objective, packed_rows()), **changes)


def windows() -> dict[str, Any]:
    from groundup.train.pretrain import NextToken

    return step(decoder(model_type="mistral", sliding_window=5), Fixed(NextToken(None, 3), packed_rows()))  # type: ignore[arg-type]


def fine_tuning() -> dict[str, Any]:
    from groundup.train.sft import ChatTurns, mean_loss

    rows, order = chat_rows()
    model, objective = decoder(), ChatTurns(rows, order, 1, 0)
    found = step(model, objective)
    mean_loss(model, objective, rows, "bfloat16")
    return found


def preferring() -> dict[str, Any]:
    from groundup.train.chat_data import RowOrder
    from groundup.train.dpo import PreferPairs, mean_metrics, with_reference
    from groundup.train.settings import DpoSettings

    model = decoder().to("cuda")
    settings = DpoSettings(base_model="base", datasets=[{"path": "x.jsonl"}], micro_batch_size=1, rpo_alpha=1.0)
    referenced = with_reference(model, pairs(), 1, 0, "bfloat16")
    objective = PreferPairs(referenced, RowOrder(2, 2, 0), settings, 0)
    mean_metrics(model, objective, "bfloat16")
    return step(model, objective)


def ranking() -> dict[str, Any]:
    from groundup.chat.scoring import RewardModel
    from groundup.model.heads import ScalarModel
    from groundup.train.chat_data import RowOrder
    from groundup.train.reward import RankPairs, measure
    from groundup.train.settings import RewardSettings

    model = ScalarModel.from_decoder(decoder(), 0)
    settings = RewardSettings(base_model="base", datasets=[{"path": "x.jsonl"}], micro_batch_size=1)
    found = step(model, RankPairs(pairs(), RowOrder(2, 2, 0), settings))
    measure(RewardModel(model), pairs(), "bfloat16")
    return found


def policy_optimising() -> dict[str, Any]:
    from groundup.model.generate import Completion
    from groundup.model.heads import ScalarModel
    from groundup.train.ppo_objective import ActorCritic, Ppo, Rollout
    from groundup.train.rollouts import join_answers
    from groundup.train.settings import PpoSettings

    model = ActorCritic(decoder(), ScalarModel.from_decoder(decoder(), 0))
    objective = Ppo.__new__(Ppo)
    objective.settings = PpoSettings(
        base_model="base", datasets=[{"tasks": ["addition"]}], verifier=True, rollout_batch_size=4, num_mini_batches=2,
        micro_batch_size=1, critic_warmup_steps=0,
    )  # fmt: skip
    objective.seed, objective.has_warned = 0, False
    prompts = [[1, 2, 3], [4], [5, 6], [7, 8, 9]]
    answers = join_answers(prompts, [Completion([11, 12, 13], True), Completion([14], False)] * 2, 0)
    zeros = torch.zeros(answers.mask.shape)
    objective.rollout = Rollout(answers, zeros, zeros, torch.randn(zeros.shape), zeros, {"score": 0.5})
    batches = [batch for update in (1,) for batch in objective.micro_batches(update, model)]
    return step(model, Fixed(objective, batches))


def forgotten() -> dict[str, Any]:
    """That the pretence would notice: a batch that was never sent."""
    model = decoder().to("cuda")
    batch = packed_rows()[0]
    model(batch["input_ids"], document_ids=batch["document_ids"])
    return {}


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    "pretrain": pretraining,
    "pretrain, tied": lambda: pretraining(tie_word_embeddings=True),
    "pretrain, qk norm": lambda: pretraining(model_type="qwen3", qk_norm=True),
    "pretrain, rows without documents": lambda: pretraining(document_mask=False),
    "pretrain, muon": lambda: pretraining(optimizer="muon"),
    "pretrain, checkpointing": lambda: pretraining(gradient_checkpointing=True),
    "pretrain, selective": lambda: pretraining(gradient_checkpointing="selective"),
    "pretrain, window": windows,
    "sft": fine_tuning,
    "dpo": preferring,
    "reward": ranking,
    "ppo": policy_optimising,
    "forgotten": forgotten,
}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    gpu = FakeGpu()
    pretend()
    for name, scenario in SCENARIOS.items():
        try:
            with gpu:
                found = scenario()
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        print(json.dumps({"name": name, **found}), flush=True)
