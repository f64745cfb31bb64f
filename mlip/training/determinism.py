"""Operations of torch that give the same bits in every run, for the time of a run only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

#: What cuBLAS needs to be told before its first use.
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Torch's deterministic algorithms inside the context if `wanted`; everything is as before afterwards.

    Operations that have none raise a RuntimeError there.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling: Any = torch.utils.deterministic
    benchmark, filled = torch.backends.cudnn.benchmark, filling.fill_uninitialized_memory
    workspace = os.environ.get(WORKSPACE)
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    filling.fill_uninitialized_memory = False  # costs time, and no operator here reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
        filling.fill_uninitialized_memory = filled
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
