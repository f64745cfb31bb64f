"""What the measurements ran on, and the peaks that they are compared with."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def flags_of_cpu() -> set[str]:
    """Instruction sets of the processor as Linux names them; empty elsewhere."""
    return set(_cpu_line("flags").split())


def _cpu_line(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


def best_simd() -> str:
    """The instruction set that mlip's kernels choose (mlip/csrc/isa.hpp)."""
    flags = flags_of_cpu()
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= flags else "baseline"


def memory_available() -> int:
    """Bytes; 16 GB where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 16 * 2**30
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))


def median_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peaks() -> dict[str, float]:
    """On one thread: GFLOP/s of matrix products in both precisions, the faster of torch's and ours, and torch's alone;
    GB/s of a copy, read and written."""
    from mlip import ops

    torch.set_num_threads(1)
    found = {}
    for dtype in (torch.float32, torch.float64):
        name = str(dtype)[6:]
        a, b = torch.randn(512, 256, dtype=dtype), torch.randn(256, 256, dtype=dtype)
        work = 2 * 512 * 256**2 * 1e-9
        found[f"torch_gemm_{name}"] = work / median_seconds(lambda a=a, b=b: a @ b, 50)
        ours = work / median_seconds(lambda a=a, b=b: ops.matmul(a, b), 50)
        found[f"gemm_{name}"] = max(ours, found[f"torch_gemm_{name}"])
    source, target = torch.ones(2, 2**24)
    found["copy"] = 2 * source.nbytes / median_seconds(lambda: target.copy_(source)) * 1e-9
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, instruction set, load, memory and measured peaks."""
    return {
        "processor": _cpu_line("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "simd": best_simd(),
        "memory_GB": round(memory_available() / 2**30),
        "system": platform.platform(),
        "load_before": os.getloadavg()[0],
        "peaks": peaks(),
    }
