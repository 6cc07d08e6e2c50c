"""A machine whose rates are known, so that estimates can be worked out by hand."""

from __future__ import annotations

import pytest

from groundup.plan.probe import Machine


@pytest.fixture
def machine() -> Machine:
    return Machine(
        matmul={"float32": 1e11, "bfloat16": 2e11},
        training={"float32": (1e10, 4e10), "bfloat16": (2e10, 8e10)},
        decode={"float32": (1e-3, 1e-5), "bfloat16": (1e-3, 1e-5)},
        has_fast_bf16=False,
        cores=2,
        memory_bytes=16 * 10**9,
        processor="a processor",
        torch="2.13.0",
        source="measured",
    )
