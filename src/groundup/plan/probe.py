"""How fast this machine trains and generates: measured once in two to three seconds, kept in the cache, labelled.

Matrix products alone promise far too much: on a processor with AMX a product in bfloat16 is nearly free, and a small
model spends its time on norms, softmax and moving memory. So the probe runs one decoder layer, forward and backward, at
two widths, and one layer of decoding at two batch sizes. torch is imported only to measure.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.artifacts import fingerprint_of, write_json
from groundup.environment import cores, installed_version, memory_bytes, processor_name

if TYPE_CHECKING:
    import torch

PROBE_VERSION = 3
SECONDS_PER_ROUND = 0.12
NARROW, WIDE = 256, 1024  # widths of the measured layers
TOKENS = {NARROW: 1024, WIDE: 256}  # in rows of SEQUENCE
SEQUENCE = 256
ROWS = 128  # rows of the larger decoding batch
# assumed where torch is absent: two AVX2 cores
ASSUMED_TRAIN_PER_CORE = {NARROW: 1.2e10, WIDE: 2.5e10}
ASSUMED_DECODE = (6e-4, 1.5e-5)


@dataclass(frozen=True)
class Machine:
    """What a plan knows about the machine; `source` is `measured` or `assumed`. Rates are for all cores together.

    `matmul` is {dtype: FLOPs per second} of a product as in a small MLP, for the record. `training` is what one decoder
    layer achieves forward and backward, {dtype: (at width 256, at width 1024)}. `decode` is the seconds of one layer
    for one step of decoding, {dtype: (fixed, more for each row)} at width 256.
    """

    matmul: dict[str, float]
    training: dict[str, tuple[float, float]]
    decode: dict[str, tuple[float, float]]
    has_fast_bf16: bool
    cores: int
    memory_bytes: int
    processor: str
    torch: str
    source: str
    note: str = ""

    def dtype(self, bf16: bool | str = "auto") -> str:
        """What `bf16: auto|true|false` computes in: auto takes bfloat16 where the processor has units for it."""
        use_bf16 = self.has_fast_bf16 if bf16 == "auto" else bool(bf16)
        return "bfloat16" if use_bf16 else "float32"

    def training_rate(self, hidden_size: int, dtype: str) -> float:
        """FLOPs per second of training at this width: between the measured widths by the logarithm, flat beyond."""
        low, high = self.training[dtype]
        share = math.log(hidden_size / NARROW) / math.log(WIDE / NARROW)
        share = min(1.0, max(0.0, share))
        return float(low ** (1 - share) * high**share)

    def decode_seconds(self, hidden_size: int, rows: float, dtype: str) -> float:
        """Seconds of one layer for one new token in each of `rows` sequences; the part per row grows with the square
        of the width, the fixed part is overhead."""
        fixed, each = self.decode[dtype]
        return fixed + rows * each * max(1.0, (hidden_size / NARROW) ** 2)


def machine(cache: Path, *, measure: bool = True) -> Machine:
    """This machine. A measurement is kept in `cache/plan/` for this processor, core count and torch version.

    With `measure=False`, or where torch is not installed, and nothing was kept, rates are assumed. One made while the
    machine was busy is kept too, until a call finds the machine quiet. `note` says if the machine is busy now.
    """
    busy = busy_note()
    key = fingerprint_of([PROBE_VERSION, core_count(), processor_name(), torch_version()])[:16]
    path = cache / "plan" / f"machine-{key}.json"
    kept = _read(path)
    if kept is not None and (busy or not kept.note or not measure):
        return replace(kept, note=busy)
    if not measure or torch_version() == "absent":
        return assumed_machine()
    found = replace(measured_machine(), note=busy)
    write_json(path, asdict(found))
    return found


def busy_note() -> str:
    """A few words where other work takes the cores now, else nothing."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    is_busy = load > 0.7 * core_count()
    cores = f"{core_count()} core{'s' if core_count() > 1 else ''}"
    return f"this machine is busy (load {load:.1f} on {cores}): it may take longer" if is_busy else ""


def measured_machine() -> Machine:
    return Machine(
        **measure_rates(),
        has_fast_bf16=_has_bf16_units(),
        cores=core_count(),
        memory_bytes=memory_bytes(),
        processor=processor_name(),
        torch=torch_version(),
        source="measured",
        note="",
    )


def assumed_machine() -> Machine:
    training = (ASSUMED_TRAIN_PER_CORE[NARROW] * core_count(), ASSUMED_TRAIN_PER_CORE[WIDE] * core_count())
    return Machine(
        matmul={},
        training={"float32": training, "bfloat16": training},
        decode={"float32": ASSUMED_DECODE, "bfloat16": ASSUMED_DECODE},
        has_fast_bf16=_has_bf16_units(),
        cores=core_count(),
        memory_bytes=memory_bytes(),
        processor=processor_name(),
        torch=torch_version(),
        source="assumed",
        note="torch is not there to measure with" if torch_version() == "absent" else "not measured yet",
    )


# ---------------------------------------------------------------- measuring


def measure_rates() -> dict[str, dict[str, Any]]:
    """`matmul`, `training` and `decode` of `Machine`, for float32 and bfloat16."""
    import torch

    rates: dict[str, dict[str, Any]] = {"matmul": {}, "training": {}, "decode": {}}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        rates["matmul"][name] = _matmul_rate(dtype)
        rates["training"][name] = (_training_rate(NARROW, dtype), _training_rate(WIDE, dtype))
        one, many = _decode_seconds(1, dtype), _decode_seconds(ROWS, dtype)
        each = max(0.0, (many - one) / (ROWS - 1))
        rates["decode"][name] = (max(one - each, 1e-5), each)
    return rates


def best_seconds(work: Callable[[], object]) -> float:
    """The shortest of several runs: what else runs on the machine must not become part of its speed."""
    started = time.perf_counter()
    work()
    if (first := time.perf_counter() - started) > 4 * SECONDS_PER_ROUND:  # so slow that warming up hardly counts
        return first
    best, until = float("inf"), time.perf_counter() + SECONDS_PER_ROUND
    while best == float("inf") or time.perf_counter() < until:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def _matmul_rate(dtype: torch.dtype) -> float:
    import torch

    a, b = torch.randn(4096, NARROW).to(dtype), torch.randn(NARROW, 3 * NARROW).to(dtype)
    return 2.0 * 4096 * NARROW * 3 * NARROW / best_seconds(lambda: torch.mm(a, b))


def _training_rate(width: int, dtype: torch.dtype) -> float:
    """FLOPs per second of one layer, forward and backward, under autocast as the engine uses it."""
    import torch

    weights = _layer_weights(width)
    for weight in weights:
        weight.requires_grad_()
    x = torch.randn(TOKENS[width] // SEQUENCE, SEQUENCE, width, requires_grad=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = _layer(x, weights, is_causal=True)
        y.float().square().mean().backward()  # type: ignore[no-untyped-call]

    parameters = sum(weight.numel() for weight in weights)
    return TOKENS[width] * (6.0 * parameters + 6.0 * SEQUENCE * width) / best_seconds(step)


def _decode_seconds(rows: int, dtype: torch.dtype) -> float:
    import torch

    weights = [weight.to(dtype) for weight in _layer_weights(NARROW)]
    x = torch.randn(rows, 1, NARROW, dtype=dtype)
    with torch.inference_mode():
        return best_seconds(lambda: _layer(x, weights, is_causal=False))


def _layer_weights(width: int) -> list[torch.Tensor]:
    import torch

    shapes = [(3 * width, width), (width, width), (6 * width, width), (width, 3 * width)]
    return [torch.randn(shape) / shape[1] ** 0.5 for shape in shapes]


def _layer(x: torch.Tensor, weights: list[torch.Tensor], *, is_causal: bool) -> torch.Tensor:
    """A decoder layer's work: norms, q k v, attention in heads of 64, gated MLP, two residuals. B x T x C."""
    import torch
    from torch.nn import functional as F

    qkv, out, gate_up, down = weights
    B, T, C = x.shape
    h = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5).to(x.dtype)
    q, k, v = F.linear(h, qkv).view(B, T, 3, C // 64, 64).permute(2, 0, 3, 1, 4)
    q, k = q * 0.5 + q.roll(1, -1) * 0.5, k * 0.5 + k.roll(1, -1) * 0.5  # as much memory traffic as RoPE
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    x = x + F.linear(attended.transpose(1, 2).reshape(B, T, C), out)
    h = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5).to(x.dtype)
    gate, up = F.linear(h, gate_up).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, down)


# ---------------------------------------------------------------- the machine


def core_count() -> int:
    """Cores that torch will use: those this process may use, unless OMP_NUM_THREADS says fewer."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(said)) if said.isdigit() and int(said) > 0 else cores()


def _has_bf16_units() -> bool:
    """As the engine decides it: AVX512-BF16, AMX, or Arm's bf16 (x86 writes `flags`, Arm `Features`)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return bool(set(flags.split()) & {"avx512_bf16", "amx_bf16", "bf16"})


def torch_version() -> str:
    """Without importing it; `absent` where it is not installed."""
    return installed_version("torch") or "absent"


def _read(path: Path) -> Machine | None:
    """A kept measurement; None where there is none or another version wrote it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for key in ("training", "decode"):
            record[key] = {dtype: (pair[0], pair[1]) for dtype, pair in record[key].items()}
        return Machine(**record)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        return None
