"""How fast this machine multiplies matrices: what MFU is measured against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groundup.environment import processor_name

# dense bfloat16 FLOPs per second, from the makers' data sheets; the first name that is part of the device's counts
DATA_SHEETS = (
    ("B200", 2.25e15),
    ("H200", 9.89e14),
    ("H100 PCIe", 7.56e14),
    ("H100 NVL", 8.35e14),
    ("H100", 9.89e14),
    ("A100", 3.12e14),
    ("L40S", 3.62e14),
    ("L4", 1.21e14),
    ("A10", 1.25e14),
    ("RTX 4090", 1.65e14),
    ("RTX 3090", 7.1e13),
)


def peak_flops(dtype: str, cache: Path, device_name: str | None = None) -> float | None:
    """FLOPs per second of one GPU (`device_name`), or of all cores of this machine as `groundup check` measured them.

    None where neither is known. A GPU's number is the data sheet's, for bfloat16 without sparsity.
    """
    if device_name is not None:
        sheet = (flops for name, flops in DATA_SHEETS if name in device_name)
        return next(sheet, None) if dtype == "bfloat16" else None
    found = [
        record
        for path in sorted((cache / "plan").glob("machine-*.json"), key=lambda path: path.stat().st_mtime)
        if (record := _record(path)).get("processor") == processor_name() and record.get("source") == "measured"
    ]
    rate = dict(found[-1].get("matmul") or {}).get(dtype) if found else None
    return float(rate) if rate else None


def use_per_token(model: Any, sequence_len: int | None, peak: float | None, devices: int) -> float | None:
    """Seconds of all devices at their peak that training one token takes: times tokens per second, it is the MFU.

    None for a model whose work nobody has counted, and where no peak is known.
    """
    count = getattr(getattr(model, "config", None), "flops_per_token", None)
    if peak is None or sequence_len is None or count is None:
        return None
    return float(count(sequence_len)) / (peak * devices)


def _record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
