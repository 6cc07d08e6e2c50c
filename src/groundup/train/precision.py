"""What this processor computes fast, probed once: bfloat16, fp32 products, an allocator that keeps memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import cache
from pathlib import Path

import torch

FP32_CLASS_ERROR = 1e-5  # bfloat16 products are wrong by 3e-3, fp32 ones by 1e-6


def compute_dtype(bf16: bool | str = "auto", device: str = "cpu") -> str:
    """`bfloat16` or `float32`, from a recipe's `bf16: auto|true|false`."""
    if bf16 == "auto":
        return "bfloat16" if has_fast_bf16(device) else "float32"
    return "bfloat16" if bf16 else "float32"


@cache
def has_fast_bf16(device: str = "cpu") -> bool:
    """Whether matrix products in bfloat16 run on units of their own (AVX512-BF16, AMX, or a GPU since Ampere)."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "mps":
        return False
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return False
    words = set(flags.split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})  # the last one is Arm's


def autocast(
    dtype: str, device: torch.device | str = "cpu"
) -> torch.autocast | contextlib.AbstractContextManager[None]:
    """The context in which every forward pass of a training step runs. Objectives that score (PPO) use it too."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()


@cache
def prepare_processor() -> str:
    """Once per process: keep freed memory, use the fastest fp32 product that is still fp32. Returns the choice."""
    keep_memory_warm()
    torch.set_float32_matmul_precision("medium")  # oneDNN instead of MKL: 2.1x on AVX512 machines without AMX
    if fp32_product_error() > FP32_CLASS_ERROR:  # with AMX, "medium" rounds to bfloat16
        torch.set_float32_matmul_precision("highest")
    return torch.get_float32_matmul_precision()


def fp32_product_error() -> float:
    """Largest error of an fp32 matrix product, relative to the largest entry of the exact one."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).abs().max() / exact.abs().max())


def keep_memory_warm() -> bool:
    """Tell glibc not to hand large blocks back to the system at every step (+12 % on CPU), and Linux to lay what is
    to come on huge pages (5 % less CPU time a step). False where there is no glibc."""
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    # no mapping per block, never trim, grow in large steps
    is_kept = all(
        mallopt(option, value) == 1
        for option, value in ((m_mmap_max, 0), (m_trim_threshold, -1), (m_top_pad, 64 * 1024 * 1024))
    )
    if is_kept:
        _use_huge_pages(libc, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 4)
    return is_kept


def _use_huge_pages(libc: ctypes.CDLL, reserved_bytes: int) -> None:
    """Grow the heap by addresses, not by memory: nothing is touched, so nothing is taken until a step asks for it.

    Where huge pages are only given on request (`madvise`, most distributions' choice), torch's blocks get none.
    """
    page, advice = 2 * 1024 * 1024, 14  # MADV_HUGEPAGE
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(reserved_bytes)
    if block is None:  # a limit on address space
        return
    first = -(-block // page) * page
    libc.madvise(first, (block + reserved_bytes - first) // page * page, advice)  # refused by old kernels: as before
    libc.free(block)
