"""Fixtures and rules of the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.register_assert_rewrite("small_runs")


@pytest.fixture(scope="session")
def mlip_data() -> Path:
    """Folder of the outside data, from the variable MLIP_DATA; a test that needs it is skipped without it."""
    folder = os.environ.get("MLIP_DATA")
    if not folder:
        pytest.skip("MLIP_DATA is not set: the outside data are not at hand")
    if not Path(folder).is_dir():
        pytest.skip(f"MLIP_DATA is {folder}, which is no folder")
    return Path(folder)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(2024)


@pytest.fixture(autouse=True)
def _seeded_torch() -> None:
    """Weights drawn in a test do not depend on the tests before it."""
    torch.manual_seed(2024)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device, and those of instructions that the machine has not.

    There, AVX2 is what runs for AVX-512, and would be tested twice.
    """
    no_device = pytest.mark.skip(reason="needs a CUDA device")
    no_avx512 = pytest.mark.skip(reason="this processor has no AVX-512")
    has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_device)
        given = getattr(getattr(item, "callspec", None), "params", {})
        if "avx512" in (given.get("isa"), given.get("instructions")) and not has_avx512:
            item.add_marker(no_avx512)
